"""Content: what a multimodal model reads of a document or a query that is more than a text."""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.validation import check_query

__all__ = [
    "MULTIMODAL",
    "TEXT_ONLY",
    "Content",
    "Item",
    "Media",
    "Modality",
    "check_modalities",
    "checked_query",
    "combined",
    "from_base64",
    "simplest",
    "text_of",
    "well_formed",
]

Modality: TypeAlias = Literal["text", "image", "video"]
"""What an item can hold."""

TEXT_ONLY: Final[frozenset[Modality]] = frozenset({"text"})

MULTIMODAL: Final[frozenset[Modality]] = frozenset(get_args(Modality))

Media: TypeAlias = str | bytes | PathLike[str]
"""An image or a video: its URL, its data URI, its bytes, or the path of a file."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Content:
    """A text, an image, a video, or a text with one of the two, to be ranked or to rank by.

    It holds what is sent: bytes and files are encoded when it is made. Two of equal content are
    equal.

    Args:
        text: The text. A blank one counts as none, and half of a surrogate pair as U+FFFD.
        image: The image, as a URL (`https://…`), a data URI (`data:image/png;base64,…`), bytes, or
            a `pathlib.Path`, which is read at once. A string is never taken for a path.
        video: The video, likewise. There is either an image or a video.

    Attributes:
        text: The text, or None.
        image: The URL or data URI of the image, or None.
        video: The URL or data URI of the video, or None.

    Raises:
        InvalidInputError: A file that can't be read, bytes of another kind or of one that is not
            known, a string that is neither URL nor data URI, or an image with a video.
    """

    text: str | None
    image: str | None
    video: str | None

    def __init__(
        self, text: str | None = None, image: Media | None = None, video: Media | None = None
    ) -> None:
        if text is not None and not isinstance(text, str):
            raise InvalidInputError(f"text must be a string, got {type(text).__name__}.")
        if image is not None and video is not None:
            raise InvalidInputError(
                "A content holds an image or a video, not both.", remedy="Make two of it."
            )
        set_ = object.__setattr__
        set_(self, "text", well_formed(text) if text and not text.isspace() else None)
        set_(self, "image", None if image is None else _as_uri("image", image))
        set_(self, "video", None if video is None else _as_uri("video", video))

    @property
    def modalities(self) -> frozenset[Modality]:
        """What it holds."""
        return frozenset(name for name in get_args(Modality) if getattr(self, name) is not None)

    def __repr__(self) -> str:
        media = (
            f"{name}={_shown(uri)}"
            for name, uri in (("image", self.image), ("video", self.video))
            if uri is not None
        )
        text = () if self.text is None else (f"text={_shortened(self.text)!r}",)
        return f"{type(self).__name__}({', '.join((*text, *media))})"


Item: TypeAlias = str | Content
"""What is scored, or what it is scored against."""


def text_of(item: Item) -> str:
    """The text in it, or ""."""
    return item if isinstance(item, str) else item.text or ""


def simplest(item: Item) -> Item | None:
    """The item, well-formed, and as a str where it is only a text; None where it is blank."""
    if isinstance(item, str):
        if not item or item.isspace():
            return None
        return item if item.isascii() else well_formed(item)
    return item if item.image or item.video else item.text


def checked_query(query: Item) -> Item:
    """The query, well-formed, and as a str where it is only a text.

    Raises:
        InvalidInputError: It is blank, or neither a string nor a Content.
    """
    if isinstance(query, Content) and (found := simplest(query)) is not None:
        return found
    check_query(query)  # type: ignore[arg-type]
    return well_formed(query)  # type: ignore[arg-type]


def combined(items: Sequence[Item]) -> Content:
    """All of them as one: the texts on lines of their own.

    Raises:
        InvalidInputError: There is more than one image or video.
    """
    images = [item.image for item in items if isinstance(item, Content) and item.image]
    videos = [item.video for item in items if isinstance(item, Content) and item.video]
    if len(images) + len(videos) > 1:
        raise InvalidInputError(
            f"There are {len(images) + len(videos)} images or videos where one can be ranked.",
            remedy="Make a document of each, or pass rerank_field a function that picks one.",
        )
    text = "\n".join(filter(None, map(text_of, items)))
    return Content(text, *images) if images else Content(text, None, *videos)


def check_modalities(
    taken: frozenset[Modality],
    model: str,
    query: Item,
    items: Sequence[Item],
    name: Callable[[int], str],
) -> None:
    """Raise InvalidInputError unless a model takes what the query and all items hold.

    Args:
        taken: What the model takes.
        model: The model's name.
        query: The query.
        items: What is to be scored.
        name: What to call the item at a place.
    """
    if taken >= TEXT_ONLY and {type(query), *map(type, items)} <= {str}:
        return
    for place, item in enumerate((query, *items), -1):
        lacking = (item.modalities if isinstance(item, Content) else TEXT_ONLY) - taken
        if lacking:
            raise InvalidInputError(
                f"{name(place) if place >= 0 else 'The query'} holds {_listed(lacking)}, which "
                f"{model} does not take.",
                remedy='Pass model="qwen3-vl-rerank", or only texts: rerank_field may be a '
                "function that makes them.",
            )


def _listed(modalities: frozenset[Modality]) -> str:
    names = {"text": "a text", "image": "an image", "video": "a video"}
    return " and ".join(names[modality] for modality in sorted(modalities))


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no encoding of Unicode has.

    Two halves that belong together become the character that they stand for.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def from_base64(data: str | bytes, media_type: str | None) -> Media:
    """What is given in base64, white space or not: a data URI, or bytes if the type is not known.

    Raises:
        InvalidInputError: It is not base64.
    """
    text = "".join((data if isinstance(data, str) else data.decode("latin-1")).split())
    return f"data:{media_type};base64,{text}" if media_type else _decoded(text)


def _decoded(base64: str) -> bytes:
    try:
        return binascii.a2b_base64(base64, strict_mode=True)
    except ValueError as error:  # binascii.Error is one
        raise InvalidInputError(f"What should be base64 is not: {error}.") from None


def _as_uri(kind: Modality, media: Media) -> str:
    if isinstance(media, str):
        _check_uri(kind, media)
        return str(media)
    if isinstance(media, PathLike):
        return _encoded(kind, _read(kind, media), f"the file {fspath(media)!r}")
    if isinstance(media, bytes):
        return _encoded(kind, media, "what was given as bytes")
    raise InvalidInputError(
        f"{kind} must be a URL, a data URI, a path or bytes, got {type(media).__name__}."
    )


_DATA_URI = re.compile(r"data:(?P<kind>\w+)/[\w.+-]+(;[\w=.+-]+)*;base64", re.IGNORECASE)


def _check_uri(kind: Modality, uri: str) -> None:
    head, comma, data = uri.partition(",")
    if (found := _DATA_URI.fullmatch(head)) and comma and data:
        if found["kind"].lower() != kind:
            raise InvalidInputError(f"{kind} is a data URI of another kind: {_shown(uri)}.")
        _decoded(data)
    elif not _is_url(uri):
        raise InvalidInputError(
            f"{kind} must be a URL (http or https) or a data URI in base64, got {_shown(uri)}.",
            remedy="Pass a file as pathlib.Path(…), and raw data as bytes.",
        )


def _is_url(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        uri.encode()
    except ValueError:  # such as half of a surrogate pair
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and uri.split() == [uri]


def _read(kind: Modality, path: PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # a path with a NUL in it is a ValueError
        said = getattr(error, "strerror", None) or error
        raise InvalidInputError(f"The {kind} {fspath(path)!r} can't be read: {said}.") from error


def _encoded(kind: Modality, data: bytes, what: str) -> str:
    import filetype  # late: few need it

    media_type = filetype.guess_mime(data) or "of no known type"
    if not media_type.startswith(f"{kind}/"):
        raise InvalidInputError(
            f"{kind} must be of a known type of {kind}, but {what} is {media_type}.",
            remedy=f"Pass a data URI, such as data:{kind}/…;base64,…, if it is one all the same.",
        )
    return f"data:{media_type};base64,{b64encode(data).decode()}"


_SHOWN = 60
"""How many characters of a text or an address are shown."""


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _shown(uri: str) -> str:
    """The URI for people: no data, and nothing in which a password or a signature may stand."""
    if uri[:5].lower() == "data:":
        return f"{_shortened(uri.partition(',')[0])},… ({len(uri):,} characters)"
    if "://" not in uri:
        return repr(_shortened(uri))
    scheme, _, rest = uri.partition("://")
    place = rest.partition("?")[0].partition("#")[0]
    host, slash, path = place.partition("/")
    return repr(_shortened(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"))
