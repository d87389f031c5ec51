"""Content: what it holds, what it shows of it, and where it comes from."""

from __future__ import annotations

import copy
import dataclasses
import pickle
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
from qwen_rerank.inputs.fields import item_reader
from tests.support.media import GIF, MP4, PNG, PNG_URI

URL = "https://images.example/penguin.png"


# --- What it holds


@pytest.mark.parametrize("uri", [URL, "http://10.0.0.1:8080/a?b=c", PNG_URI])
def test_addresses_and_data_are_held_as_they_are(uri: str) -> None:
    assert Content(image=uri).image == uri


@pytest.mark.parametrize(
    ("data", "uri"),
    [(PNG, PNG_URI), (GIF, f"data:image/gif;base64,{b64encode(GIF).decode()}")],
)
def test_bytes_and_files_are_held_as_data_of_their_type(
    tmp_path: Path, data: bytes, uri: str
) -> None:
    file = tmp_path / "misnamed.txt"
    file.write_bytes(data)
    assert Content(image=data).image == Content(image=file).image == uri


def test_a_video_is_held_as_an_image_is() -> None:
    assert Content(video=MP4).video == f"data:video/mp4;base64,{b64encode(MP4).decode()}"
    assert Content(video="https://videos.example/a.mp4").modalities == {"video"}


@pytest.mark.parametrize(
    ("content", "modalities"),
    [
        (Content(), set()),
        (Content(" \n"), set()),
        (Content("a"), {"text"}),
        (Content("", URL), {"image"}),
        (Content("a", image=URL), {"text", "image"}),
        (Content("a", video=URL), {"text", "video"}),
    ],
)
def test_it_knows_what_it_holds(content: Content, modalities: set[str]) -> None:
    assert content.modalities == modalities


def test_contents_of_equal_content_are_equal(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(PNG)
    assert len({Content("a", PNG), Content("a", file), Content("a", PNG_URI), Content("b")}) == 2


def test_it_does_not_change_and_can_be_copied_and_pickled() -> None:
    content = Content("a", PNG)
    with pytest.raises(dataclasses.FrozenInstanceError):
        content.text = "b"  # type: ignore[misc]
    for twin in (copy.deepcopy(content), pickle.loads(pickle.dumps(content))):
        assert twin == content
    assert dataclasses.replace(content, text=None) == Content(image=PNG)


def test_halves_of_surrogate_pairs_are_replaced() -> None:
    assert Content("a\ud83d").text == "a\ufffd"
    assert Content("\ud83d\udc27").text == "🐧"


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("", "must be a URL"),
        ("penguin.png", r"'penguin\.png'.*pathlib\.Path"),
        ("/photos/penguin.png", "Path"),
        ("file:///photos/penguin.png", "Path"),
        ("oss://bucket/penguin.png", "must be a URL"),
        ("https://", "must be a URL"),
        ("https://[", "must be a URL"),
        (f" {URL}", "must be a URL"),
        (f"{URL} {URL}", "must be a URL"),
        (f"{URL}\ud83d", "must be a URL"),
        ("data:image/png,abc", "in base64"),
        ("data:image/png;base64,", "in base64"),
        ("data:image/png;base64,a", "base64 is not"),
        ("data:image/png;base64,----", "base64 is not"),
        ("data:video/mp4;base64,AAAA", "of another kind: data:video/mp4"),
        ("data:application/pdf;base64,AAAA", "of another kind"),
        (b"", "of no known type"),
        (b"%PDF-1.7 ", "given as bytes is application/pdf"),
        (MP4, "video/mp4"),
        (b"<svg/>", "of no known type.*data URI"),
        (Path("gone.png"), r"'gone\.png' can't be read: No such file"),
        (Path("."), "can't be read: Is a directory"),
        (Path("a\0b"), "can't be read: embedded null byte"),
        (7, "got int"),
        (["a"], "got list"),
    ],
)
def test_what_is_no_image_is_refused_and_named(image: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        Content(image=image)


def test_an_image_is_no_video_and_no_text() -> None:
    with pytest.raises(InvalidInputError, match=r"^video .* image/png"):
        Content(video=PNG)
    with pytest.raises(InvalidInputError, match="an image or a video, not both"):
        Content(image=PNG, video=MP4)
    with pytest.raises(InvalidInputError, match="text must be a string, got bytes"):
        Content(PNG)  # type: ignore[arg-type]


# --- What it shows


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (Content(), "Content()"),
        (Content("a", URL), f"Content(text='a', image='{URL}')"),
        (Content("a" * 100), f"Content(text='{'a' * 60}…')"),
        (Content(image=PNG), f"Content(image=data:image/png;base64,… ({len(PNG_URI)} characters))"),
        (Content(video=f"{URL}?signature=secret"), f"Content(video='{URL}')"),
        (Content(image="https://me:secret@a.example/b"), "Content(image='https://a.example/b')"),
    ],
)
def test_it_shows_neither_data_nor_secrets(content: Content, shown: str) -> None:
    assert repr(content) == shown


@pytest.mark.parametrize(
    "image",
    [
        "ftp://me:secret@a.example/b",
        "ftp://a.example/b?key=secret",
        "data:image/png;base64,secret!",
        f"{'x' * 100}secret",
        "data:audio/wav;base64,secret==",
    ],
)
def test_an_error_shows_neither_data_nor_secrets(image: str) -> None:
    with pytest.raises(InvalidInputError) as failure:
        Content(image=image)
    assert "secret" not in str(failure.value)


# --- Where it comes from


def read(value: Any, rerank_field: Any = "x", **others: Any) -> Any:
    """What is read of a record with this value."""
    return item_reader(rerank_field)(Record("a", {"x": value, **others}))


@pytest.mark.parametrize(
    ("value", "item"),
    [
        (Content("a", PNG), Content("a", PNG)),
        (Content("a"), "a"),
        (Content(), None),
        ({"type": "image", "url": URL}, Content(image=URL)),
        ({"type": "image", "base64": PNG_URI[22:], "mime_type": "image/png"}, Content(image=PNG)),
        ({"type": "image", "base64": encodebytes(PNG).decode()}, Content(image=PNG)),
        (create_image_block(url=URL), Content(image=URL)),
        ({"type": "image_url", "image_url": {"url": URL, "detail": "low"}}, Content(image=URL)),
        ({"type": "image_url", "image_url": PNG_URI}, Content(image=PNG)),
        ({"type": "video", "url": URL}, Content(video=URL)),
        ({"type": "video_url", "video_url": {"url": URL}}, Content(video=URL)),
        ({"type": "text", "text": "a"}, "a"),
        ([create_text_block("a"), create_image_block(url=URL)], Content("a", URL)),
        (["a", {"type": "image", "url": URL}, "b"], Content("a\nb", URL)),
        ([Content("a"), {"type": "text", "text": ""}, "b"], "a\nb"),
        ([{"type": "text", "text": " "}], None),
        ({"type": "image", "alt": "a penguin"}, "type: image, alt: a penguin"),
        ({"type": "ticket", "text": "a"}, "type: ticket, text: a"),
        (["a", "b"], "a, b"),
    ],
)
def test_content_and_content_blocks_are_read_wherever_a_text_is(value: Any, item: Any) -> None:
    assert read(value) == item
    assert read(None, rerank_field=lambda record: value) == item


@pytest.mark.parametrize(
    ("rerank_field", "item"),
    [
        (["title", "x"], Content("title: A title", URL)),
        (["x", "title", "gone"], Content("title: A title", URL)),
        (["gone", "x"], Content(image=URL)),
        ("{title}: {x}", Content("A title: ", URL)),
        ("{gone}: {x}", Content(image=URL)),
    ],
)
def test_an_image_among_several_fields_comes_along(rerank_field: Any, item: Content) -> None:
    assert read({"type": "image", "url": URL}, rerank_field, title="A title") == item


def test_the_text_with_an_image_has_its_place_among_several_fields() -> None:
    caption = Content("A penguin", URL)
    assert read(caption, ["title", "x"], title="A") == Content("title: A\nx: A penguin", URL)
    assert read(caption, "{title} ({x})", title="A") == Content("A (A penguin)", URL)


IMAGE = {"type": "image", "url": URL}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"type": "audio", "base64": "AAAA"}, "type 'audio', with type, base64"),
        ({"type": "image", "file_id": "7"}, "type 'image', with type, file_id"),
        ({"type": "image_url", "image_url": {}}, "type 'image_url'"),
        ({"type": "image", "url": 7}, "holds int instead of a string"),
        ({"type": "image", "base64": "?"}, "base64 is not"),
        ({"type": "image", "url": "penguin.png"}, "must be a URL"),
        ([IMAGE, IMAGE], "2 images or videos"),
        ([IMAGE, {"type": "video", "url": URL}], "2 images or videos"),
        ([IMAGE, 7], "a int among"),
        ([IMAGE, {"type": "reasoning"}], "a dict among"),
        (PNG, "x of record 'a' is bytes"),
        (Path("a"), "x of record 'a' is PosixPath"),
    ],
)
def test_what_cannot_be_ranked_is_refused_and_named(value: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^x of record 'a'.*{named}|^{named}"):
        read(value)


def test_images_of_several_fields_are_one_too_many() -> None:
    with pytest.raises(InvalidInputError, match="of record 'a': There are 2 images"):
        read(IMAGE, ["x", "y"], y=IMAGE)


# --- Who takes it


class Taking(Scorer):
    """Takes what it is told to, and remembers what it was sent."""

    model = "taking"

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


def test_a_scorer_that_takes_images_gets_them() -> None:
    scorer = Taking("text", "image")
    engine(scorer).rerank(Content(image=PNG), records("a", IMAGE, Content("b", PNG)))
    assert scorer.sent == [(Content(image=PNG), ["a", Content(image=URL), Content("b", PNG)])]


async def test_files_are_not_read_on_the_event_loop() -> None:
    threads = []

    def read_file(record: Record) -> Content:
        threads.append(threading.current_thread())
        return Content(image=PNG)

    reading = RerankEngine(Taking("text", "image"), rerank_field=read_file)
    await reading.arerank("q", records("a"))
    assert threads
    assert threading.current_thread() not in threads


def test_equal_contents_are_sent_once_and_share_the_score() -> None:
    scorer = Taking("text", "image")
    ranking = engine(scorer).rerank("q", records(IMAGE, Content("a"), Content(image=URL), "a"))
    assert scorer.sent == [("q", [Content(image=URL), "a"])]
    assert (len(ranking), ranking.usage.duplicate_texts) == (4, 2)


def test_a_content_of_text_alone_is_a_text_to_every_scorer() -> None:
    ranking = engine(EmbeddedScorer()).rerank(Content("penguins"), records(Content("penguins")))
    assert len(ranking) == 1


@pytest.mark.parametrize(
    ("taken", "query", "value", "named"),
    [
        (["text"], "q", IMAGE, "Record 'r1' holds an image, which taking"),
        (["text"], "q", Content("b", video=URL), "Record 'r1' holds a video"),
        (["text", "video"], "q", Content("b", URL), "Record 'r1' holds an image"),
        (["text"], Content("q", URL), "b", "The query holds an image"),
        (["image"], Content(image=URL), IMAGE, "Record 'r0' holds a text"),
    ],
)
def test_what_a_scorer_does_not_take_is_refused_before_anything_is_sent(
    taken: list[Modality], query: Any, value: Any, named: str
) -> None:
    scorer = Taking(*taken)
    with pytest.raises(InvalidInputError, match=f"^{named}.*qwen3-vl-rerank"):
        engine(scorer).rerank(query, records("a", value))
    assert scorer.sent == []


def test_scorers_take_texts_alone_unless_they_say_more() -> None:
    assert EmbeddedScorer().modalities == {"text"}
    assert DashScopeScorer("qwen3-rerank", "key").modalities == {"text"}
    assert DashScopeScorer("qwen3-vl-rerank", "key").modalities == {"text", "image", "video"}


@pytest.mark.parametrize("query", [Content(), Content(" ")])
def test_a_blank_query_is_refused(query: Content) -> None:
    with pytest.raises(InvalidInputError, match=r"query .* got Content"):
        engine(Taking("text", "image")).rerank(query, [])


def test_contents_without_text_have_nothing_in_common_to_diversity() -> None:
    scorer = Taking("text", "image")
    diverse = RerankEngine(scorer, rerank_field="x", diversity=0.5)
    found = records("penguins swim", "penguins swim well", IMAGE, Content("penguins", PNG))
    assert [record.id for record in diverse.rerank("q", found, 2)] == ["r0", "r2"]


contents = st.builds(Content, st.none() | st.text(), st.sampled_from([None, URL, PNG_URI, PNG]))


@given(contents)
def test_a_content_is_read_as_itself_or_as_the_text_that_is_all_it_holds(content: Content) -> None:
    assert read(content) == (content.text if content.image is None else content)
    assert all(part.encode() for part in (content.text, content.image) if part is not None)


@given(contents)
def test_a_content_made_of_its_own_parts_is_equal(content: Content) -> None:
    assert Content(content.text, content.image, content.video) == content
    assert hash(dataclasses.replace(content)) == hash(content)
