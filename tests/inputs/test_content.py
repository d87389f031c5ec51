"""Content: what it holds, what it shows, how it is read, and which scorers accept it."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import re
import sys
import threading
from base64 import b64encode, encodebytes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages.content import create_image_block, create_text_block

from qwen_rerank import (
    Content,
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    Modality,
    Record,
    RerankEngine,
    Scorer,
    Scores,
)
from tests.support.media import GIF, MP4, PNG, PNG_URI
from tests.support.records import read_item

URL = "https://images.example/penguin.png"


# --- What it holds


@pytest.mark.parametrize("uri", ["http://10.0.0.1:8080/a?b=c", PNG_URI])
def test_urls_and_data_uris_are_kept_as_they_are(uri: str) -> None:
    assert Content(image=uri).image == uri


@pytest.mark.parametrize(("data", "media_type"), [(PNG, "png"), (GIF, "gif")])
def test_bytes_and_files_become_data_uris_of_their_type(
    tmp_path: Path, data: bytes, media_type: str
) -> None:
    file = tmp_path / "misnamed.txt"
    file.write_bytes(data)
    uri = f"data:image/{media_type};base64,{b64encode(data).decode()}"
    assert Content(image=data).image == Content(image=file).image == uri


def test_frames_are_kept_like_images() -> None:
    content = Content("a", frames=[PNG, URL])
    assert content.frames == (PNG_URI, URL)
    assert content.modalities == {"text", "frames"}
    assert repr(content).endswith("…; 2 in all))")
    assert read(content) == content
    assert read([content, "b"]) == Content("a\nb", frames=[PNG, URL])


def test_videos_are_kept_like_images() -> None:
    assert Content(video=MP4).video == f"data:video/mp4;base64,{b64encode(MP4).decode()}"
    assert Content(video="https://videos.example/a.mp4").modalities == {"video"}


@pytest.mark.parametrize(
    ("content", "modalities"),
    [
        (Content(" \n"), set()),
        (Content("", URL), {"image"}),
        (Content("a", video=URL), {"text", "video"}),
    ],
)
def test_modalities_name_what_is_not_blank(content: Content, modalities: set[str]) -> None:
    assert content.modalities == modalities


def test_contents_that_hold_the_same_are_equal(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(PNG)
    assert len({Content("a", PNG), Content("a", file), Content("a", PNG_URI), Content("b")}) == 2


def test_a_content_is_immutable_and_can_be_copied_and_pickled() -> None:
    content = Content("a", PNG)
    with pytest.raises(dataclasses.FrozenInstanceError):
        content.text = "b"  # type: ignore[misc]
    for twin in (copy.deepcopy(content), pickle.loads(pickle.dumps(content))):
        assert twin == content
    assert dataclasses.replace(content, text=None) == Content(image=PNG)


def test_lone_surrogates_are_replaced() -> None:
    assert Content("a\ud83d").text == "a\ufffd"
    assert Content("\ud83d\udc27").text == "🐧"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("/photos/penguin.png", r"URL.*got '/photos/penguin\.png'.*pathlib\.Path"),
        ("file:///photos/penguin.png", "URL"),
        ("https://[", "URL"),
        (f"{URL} {URL}", "URL"),
        (f"{URL}\ud83d", "URL"),
        ("data:image/png,abc", "base64 data URI"),
        ("data:image/png;base64,----", "base64 data is invalid"),
        ("data:video/mp4;base64,AAAA", "must be a data URI of type image/…, got data:video/mp4"),
        (b"", "the bytes are of an unknown type"),
        (MP4, "the bytes are video/mp4"),
        (b"<svg/>", "of an unknown type.*data URI"),
        (Path("a\0b"), "Could not read the image .*: embedded null byte"),
        (7, "got int"),
    ],
)
def test_what_is_not_an_image_is_refused_by_name(image: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Content(image=image)


# --- Files


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"image '.*gone\.png': No such file"):
        Content(image=tmp_path / "gone.png")


@pytest.fixture(params=["folder", "pipe", "device", "link to a device"])
def irregular(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path that leads to something other than a file."""
    path = tmp_path / "penguin.png"
    match request.param:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            return Path("/dev/zero")
        case _:
            path.symlink_to("/dev/zero")
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_only_regular_files_are_read(irregular: Path) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"read the image '{irregular}': ")):
        Content(image=irregular)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes with a path")
def test_a_pipe_that_is_written_to_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDWR), "wb", buffering=0) as writer:
        writer.write(PNG)
        with pytest.raises(InvalidInputError, match="not a regular file"):
            Content(image=pipe)


def test_a_file_over_the_size_limit_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "long.mp4"
    with video.open("wb") as file:
        file.write(MP4)
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(InvalidInputError, match=r"'.*long\.mp4' is larger than 64 MiB.*URL"):
        Content(video=video)


def test_media_of_one_kind_is_not_taken_for_another() -> None:
    with pytest.raises(InvalidInputError, match=r"^video .* image/png"):
        Content(video=PNG)
    for two in ({"image": PNG, "video": MP4}, {"image": PNG, "frames": [PNG]}):
        with pytest.raises(InvalidInputError, match="only one of image, video and frames"):
            Content(**two)
    for frames in ([], PNG, 3):
        with pytest.raises(InvalidInputError, match="frames must be a list"):
            Content(frames=frames)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="text must be a string, got bytes"):
        Content(PNG)  # type: ignore[arg-type]


# --- What it shows


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (Content("a", URL), f"Content(text='a', image='{URL}')"),
        (Content("a" * 100), f"Content(text='{'a' * 60}…')"),
        (Content(image=PNG), f"Content(image=data:image/png;base64,… ({len(PNG_URI)} characters))"),
        (Content(video=f"{URL}?signature=secret"), f"Content(video='{URL}')"),
        (Content(image="https://me:secret@a.example/b"), "Content(image='https://a.example/b')"),
    ],
)
def test_the_repr_shows_neither_data_nor_secrets(content: Content, shown: str) -> None:
    assert repr(content) == shown


@pytest.mark.parametrize(
    "image",
    [
        "ftp://me:secret@a.example/b?key=secret",
        "data:image/png;base64,secret!",
        f"{'x' * 100}secret",
        "http://a.example:99999/?key=secret",
        "http://a.example:0/?key=secret",
    ],
)
def test_errors_show_neither_data_nor_secrets(image: str) -> None:
    with pytest.raises(InvalidInputError) as failure:
        Content(image=image)
    assert "secret" not in str(failure.value)


# --- Where it comes from


def read(value: Any, rerank_field: Any = "x", **others: Any) -> Any:
    """What is read of a record with this value."""
    return read_item(rerank_field, Record("a", {"x": value, **others}))


@pytest.mark.parametrize(
    ("value", "item"),
    [
        (Content("a"), "a"),
        (Content(), None),
        ({"type": "image", "base64": PNG_URI[22:], "mime_type": "image/png"}, Content(image=PNG)),
        ({"type": "image", "base64": encodebytes(PNG).decode()}, Content(image=PNG)),
        ({"type": "image_url", "image_url": {"url": URL, "detail": "low"}}, Content(image=URL)),
        ({"type": "video_url", "video_url": {"url": URL}}, Content(video=URL)),
        ([create_text_block("a"), create_image_block(url=URL)], Content("a", URL)),
        (["a", {"type": "image", "url": URL}, "b"], Content("a\nb", URL)),
        ([Content("a"), {"type": "text", "text": ""}, "b"], "a\nb"),
        ({"type": "ticket", "text": "a"}, "type: ticket, text: a"),
    ],
)
def test_contents_and_blocks_are_read_from_fields_and_functions(value: Any, item: Any) -> None:
    assert read(value) == item
    assert read(None, rerank_field=lambda record: value) == item


@pytest.mark.parametrize(
    ("rerank_field", "item"),
    [
        (["title", "x"], Content("title: A title", URL)),
        (["gone", "x"], Content(image=URL)),
        ("{title}: {x}", Content("A title: ", URL)),
    ],
)
def test_an_image_in_one_of_several_fields_is_kept(rerank_field: Any, item: Content) -> None:
    assert read({"type": "image", "url": URL}, rerank_field, title="A title") == item


def test_the_text_of_an_image_stands_where_its_field_is_named() -> None:
    caption = Content("A penguin", URL)
    assert read(caption, ["title", "x"], title="A") == Content("title: A\nx: A penguin", URL)
    assert read(caption, "{title} ({x})", title="A") == Content("A (A penguin)", URL)


IMAGE = {"type": "image", "url": URL}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "audio", "base64": "AAAA"}, "type 'audio' with the keys type, base64"),
        ({"type": "image", "file_id": "7"}, "type 'image' with the keys type, file_id"),
        ({"type": "image_url", "image_url": {}}, "type 'image_url'"),
        ({"type": "image", "url": 7}, "The url of a content block must be a string, got int"),
        ({"type": "image", "base64": "?"}, "base64 data is invalid"),
        ([IMAGE, {"type": "video", "url": URL}], "2 images or videos"),
        ([IMAGE, {"type": "reasoning"}], "can't hold a value of type dict"),
        (Path("a"), "x of record 'a' is of type PosixPath"),
    ],
)
def test_what_can_not_be_ranked_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^x of record 'a'.*{message}|^{message}"):
        read(value)


def test_images_in_several_fields_are_too_many() -> None:
    with pytest.raises(InvalidInputError, match="of record 'a': There are 2 images"):
        read(IMAGE, ["x", "y"], y=IMAGE)


# --- Which scorers accept it


class Accepting(Scorer):
    """Accepts these modalities, and records what it is sent."""

    model = "accepting"

    def __init__(self, *modalities: Modality) -> None:
        self._modalities = frozenset(modalities)
        self.sent: list[Any] = []

    @property
    def modalities(self) -> frozenset[Modality]:
        return self._modalities

    def score(self, query: Any, texts: Sequence[Any]) -> Scores:
        self.sent.append((query, list(texts)))
        return Scores([float(len(self.sent))] * len(texts))


def engine(scorer: Scorer) -> RerankEngine:
    return RerankEngine(scorer, rerank_field="x")


def records(*values: Any) -> list[Record]:
    return [Record(f"r{place}", {"x": value}) for place, value in enumerate(values)]


def test_a_scorer_that_accepts_images_gets_them() -> None:
    scorer = Accepting("text", "image")
    engine(scorer).rerank(Content(image=PNG), records("a", IMAGE, Content("b", PNG)))
    assert scorer.sent == [(Content(image=PNG), ["a", Content(image=URL), Content("b", PNG)])]


async def test_files_are_not_read_on_the_event_loop() -> None:
    threads = []

    def read_file(record: Record) -> Content:
        threads.append(threading.current_thread())
        return Content(image=PNG)

    reading = RerankEngine(Accepting("text", "image"), rerank_field=read_file)
    await reading.arerank("q", records("a"))
    assert threads
    assert threading.current_thread() not in threads


def test_equal_contents_are_sent_once_and_share_the_score() -> None:
    scorer = Accepting("text", "image")
    ranking = engine(scorer).rerank("q", records(IMAGE, Content("a"), Content(image=URL), "a"))
    assert scorer.sent == [("q", [Content(image=URL), "a"])]
    assert (len(ranking), ranking.usage.duplicate_texts) == (4, 2)


def test_a_content_with_only_text_works_with_every_scorer() -> None:
    ranking = engine(EmbeddedScorer()).rerank(Content("penguins"), records(Content("penguins")))
    assert len(ranking) == 1


@pytest.mark.parametrize(
    ("accepted", "query", "value", "message"),
    [
        (["text"], "q", IMAGE, "Document 'r1' holds an image, which accepting"),
        (["text", "image"], "q", Content("b", video=URL), "Document 'r1' holds a video"),
        (["text"], "q", Content("b", frames=[URL]), "Document 'r1' holds frames"),
        (["text"], Content("q", URL), "b", "The query holds an image"),
        (["image"], Content(image=URL), IMAGE, "Document 'r0' holds text"),
    ],
)
def test_what_a_scorer_does_not_accept_is_refused_before_anything_is_sent(
    accepted: list[Modality], query: Any, value: Any, message: str
) -> None:
    scorer = Accepting(*accepted)
    with pytest.raises(InvalidInputError, match=f"^{message}.*qwen3-vl-rerank"):
        engine(scorer).rerank(query, records("a", value))
    assert scorer.sent == []


def test_scorers_accept_only_text_unless_they_say_so() -> None:
    assert EmbeddedScorer().modalities == {"text"}
    assert DashScopeScorer("qwen3-rerank", "key").modalities == {"text"}
    assert DashScopeScorer("qwen3-vl-rerank", "key").modalities == {"text", "image", "video"}


def test_a_blank_query_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"query .* got Content"):
        engine(Accepting("text", "image")).rerank(Content(" "), [])


def test_diversity_treats_contents_without_text_as_unlike_all_others() -> None:
    scorer = Accepting("text", "image")
    diverse = RerankEngine(scorer, rerank_field="x", diversity=0.5)
    found = records("penguins swim", "penguins swim well", IMAGE, Content("penguins", PNG))
    assert [record.id for record in diverse.rerank("q", found, 2)] == ["r0", "r2"]


contents = st.builds(Content, st.none() | st.text(), st.sampled_from([None, URL, PNG_URI, PNG]))


@given(contents)
def test_a_content_is_read_as_a_string_if_it_holds_only_text(content: Content) -> None:
    assert read(content) == (content.text if content.image is None else content)
    assert all(part.encode() for part in (content.text, content.image) if part is not None)


@given(contents)
def test_a_content_built_from_the_parts_of_another_is_equal(content: Content) -> None:
    assert Content(content.text, content.image, content.video) == content
    assert hash(dataclasses.replace(content)) == hash(content)
