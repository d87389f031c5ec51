"""What is scored: a text, or a Content with an image, a video, or frames of a video."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar, get_args

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.media import Media, as_uri, redacted_uri
from qwen_rerank.validation import check_query

__all__ = [
    "MULTIMODAL",
    "TEXT_ONLY",
    "Content",
    "Item",
    "Modality",
    "check_modalities",
    "checked_query",
    "checked_texts",
    "combined",
    "simplest",
    "text_of",
    "well_formed",
    "with_text",
]

Modality: TypeAlias = Literal["text", "image", "video", "frames"]
"""What a query or a document can hold."""

TEXT_ONLY: Final[frozenset[Modality]] = frozenset({"text"})

MULTIMODAL: Final[frozenset[Modality]] = frozenset({"text", "image", "video"})
"""What services and servers take for a multimodal model."""

_REPR_CHARACTERS = 60


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Content:
    """A query or a document for a multimodal model: a text; an image, a video or frames; or both.

    Bytes and files are read and encoded when you create it. Contents with equal values are equal.

    Args:
        text: The text. A blank text counts as none; a lone surrogate becomes U+FFFD.
        image: The image as a URL (`https://…`), a data URI (`data:image/png;base64,…`), bytes, or a
            `pathlib.Path` to a regular file of up to 64 MiB. A string is never treated as a path.
        video: The video, in the same forms. Pass only one of image, video and frames.
        frames: Frames of a video in their order, each in the forms of an image. Only `LocalScorer`
            with a Qwen3-VL-Reranker takes them.

    Attributes:
        text: The text, or None.
        image: The URL or data URI of the image, or None.
        video: The URL or data URI of the video, or None.
        frames: The URLs or data URIs of the frames, or None.

    Raises:
        InvalidInputError: A file can't be read, the data is not of a known image or video type, a
            string is neither a URL nor a data URI, there are no frames, or you pass more than one
            of image, video and frames.
    """

    text: str | None
    image: str | None
    video: str | None
    frames: tuple[str, ...] | None

    def __init__(
        self,
        text: str | None = None,
        image: Media | None = None,
        video: Media | None = None,
        frames: Sequence[Media] | None = None,
    ) -> None:
        if text is not None and not isinstance(text, str):
            raise InvalidInputError(f"text must be a string, got {type(text).__name__}.")
        if sum(media is not None for media in (image, video, frames)) > 1:
            raise InvalidInputError(
                "A Content holds only one of image, video and frames.",
                remedy="Create a Content for each.",
            )
        set_ = object.__setattr__
        set_(self, "text", well_formed(text) if text and not text.isspace() else None)
        set_(self, "image", None if image is None else as_uri("image", image))
        set_(self, "video", None if video is None else as_uri("video", video))
        set_(self, "frames", None if frames is None else _frames(frames))

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that it holds."""
        return frozenset(name for name in get_args(Modality) if getattr(self, name) is not None)

    def __repr__(self) -> str:
        parts = [] if self.text is None else [f"text={_shortened_text(self.text)!r}"]
        parts += [
            f"{name}={redacted_uri(uri)}"
            for name, uri in (("image", self.image), ("video", self.video))
            if uri is not None
        ]
        if self.frames is not None:
            parts.append(f"frames=({redacted_uri(self.frames[0])}, …; {len(self.frames)} in all)")
        return f"{type(self).__name__}({', '.join(parts)})"


Item: TypeAlias = str | Content
"""A query or a document, as scorers receive it."""

T = TypeVar("T", bound=Item)


def text_of(item: Item) -> str:
    """Return the text of an item, or "" if it does not have one."""
    return item if isinstance(item, str) else item.text or ""


def with_text(item: Item, text: str) -> Item:
    """Return the item with another text, and the same image, video or frames."""
    if isinstance(item, str):
        return text
    changed = copy.copy(item)
    object.__setattr__(changed, "text", text)
    return changed


def simplest(item: Item) -> Item | None:
    """Return the well-formed item: a plain str if it holds only text, None if it is blank."""
    if isinstance(item, str):
        if not item or item.isspace():
            return None
        return item if item.isascii() else well_formed(item)
    return item if item.modalities - TEXT_ONLY else item.text


def checked_query(query: Item) -> Item:
    """Return the well-formed query: a plain str if it holds only text.

    Raises:
        InvalidInputError: The query is blank, or neither a string nor a Content.
    """
    if isinstance(query, Content) and (simplified := simplest(query)) is not None:
        return simplified
    check_query(query)  # type: ignore[arg-type]
    return well_formed(query)  # type: ignore[arg-type]


def checked_texts(texts: Sequence[T]) -> Sequence[T]:
    """Return the texts of a call as a list or a tuple.

    Raises:
        InvalidInputError: They are not strings or Contents in an iterable. A string is not one.
    """
    if not isinstance(texts, list | tuple):
        texts = _listed(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str | Content):
            raise InvalidInputError(
                f"Text {index} must be a string or a Content, got {type(text).__name__}."
            )
    return texts


def _listed(texts: Iterable[T]) -> list[T]:
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise InvalidInputError(f"texts must be a list of texts, got {type(texts).__name__}.")
    return list(texts)


def combined(items: Sequence[Item]) -> Content:
    """Return one Content with all the items, their texts joined by newlines.

    Raises:
        InvalidInputError: There is more than one image or video.
    """
    media = [item for item in items if isinstance(item, Content) and item.modalities - TEXT_ONLY]
    if len(media) > 1:
        raise InvalidInputError(
            f"There are {len(media)} images or videos, but a document can hold only one.",
            remedy="Make a document for each, or pass rerank_field a function that chooses one.",
        )
    text = "\n".join(filter(None, map(text_of, items)))
    if not media:
        return Content(text)
    return Content(text, media[0].image, media[0].video, media[0].frames)


def check_modalities(
    accepted: frozenset[Modality],
    model: str,
    query: Item,
    items: Sequence[Item],
    name: Callable[[int], str],
) -> None:
    """Raise InvalidInputError unless the model accepts the query and all items.

    Args:
        accepted: The modalities that the model accepts.
        model: The model's name.
        query: The query.
        items: The items to score.
        name: Returns the name of the item at an index, for the error.
    """
    if accepted >= TEXT_ONLY and {type(query), *map(type, items)} <= {str}:
        return
    for index, item in enumerate((query, *items), -1):
        refused = (item.modalities if isinstance(item, Content) else TEXT_ONLY) - accepted
        if refused:
            raise InvalidInputError(
                f"{name(index) if index >= 0 else 'The query'} holds {_in_words(refused)}, which "
                f"{model} does not accept.",
                remedy=_remedy(refused, accepted),
            )


def well_formed(text: str) -> str:
    """Return the text with U+FFFD in place of each lone surrogate, which UTF-8 can't encode.

    Two surrogates that form a pair become the character they stand for.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _frames(frames: Sequence[Media]) -> tuple[str, ...]:
    if isinstance(frames, (str, bytes)) or not isinstance(frames, Sequence) or not frames:
        raise InvalidInputError("frames must be a list of at least one image.")
    return tuple(as_uri("image", frame) for frame in frames)


def _remedy(refused: frozenset[Modality], accepted: frozenset[Modality]) -> str:
    if "video" in refused and "frames" in accepted:
        return "Pass some of its frames: Content(frames=[…])."
    if "frames" in refused and "video" in accepted:
        return "Pass the video itself, or one of its frames as an image."
    return (
        'Choose a model that does, such as "qwen3-vl-rerank" on DashScope or '
        '"Qwen/Qwen3-VL-Reranker-2B" on your own machine. To rank by text alone, pass '
        "rerank_field a function that returns the text."
    )


def _in_words(modalities: frozenset[Modality]) -> str:
    names = {"text": "text", "image": "an image", "video": "a video", "frames": "frames"}
    return " and ".join(names[modality] for modality in sorted(modalities))


def _shortened_text(text: str) -> str:
    return text if len(text) <= _REPR_CHARACTERS else f"{text[:_REPR_CHARACTERS]}…"
