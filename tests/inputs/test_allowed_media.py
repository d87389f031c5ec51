"""Files and local addresses that documents name: read only with the program's word."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_qwen_rerank import QwenRerank
from qwen_rerank import Content, InvalidInputError, Record, RerankEngine
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.testing import FakeScorer, LoopbackDashScope
from tests.support.media import PNG, PNG_URI

LOCAL = [
    "http://localhost/a",
    "http://LOCALHOST.:8080/a",
    "http://me.localhost/a",
    "http://127.0.0.1/a",
    "http://127.1/a",
    "http://2130706433/a",
    "http://0x7f.0.0.1/a",
    "http://0177.0.0.1/a",
    "http://\uff11\uff12\uff17.0.0.1/a",
    "http://127\u30020\u30020\u30021/a",
    "http://10.0.0\u30021/a",
    "http://me\u3002localhost/a",
    "http://127.0.0.1\u00ad/a",
    "http://me.local\u200bhost/a",
    "http://10.0.0.%31/a",
    "http://127.0.0.1%2f/a",
    "http://localhost:80x/a",
    "http://0.0.0.0/a",
    "http://10.1.2.3/a",
    "http://172.16.0.1/a",
    "https://192.168.1.1/a",
    "http://100.64.0.1/a",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]/a",
    "http://[::]/a",
    "http://[::ffff:127.0.0.1]/a",
    "http://[2002:7f00:1::]/a",
    "http://[::127.0.0.1]/a",
    "http://[::ffff:0:127.0.0.1]/a",
    "http://[64:ff9b::7f00:1]/a",
    "http://[fe80::1%25eth0]/a",
    "http://[fd00::1]/a",
    "http://224.0.0.1/a",
    "http://public.example@127.0.0.1/a",
    "http://127.0.0.1\\.public.example/a",
    "http://minio:9000/a",
    "http://metadata.google.internal/a",
    "http://printer.local/a",
    "http://minio.storage.svc/a",
]
PUBLIC = [
    "https://images.example.com/a.png",
    "https://8.8.8.8/a.png",
    "https://[2606:4700::1111]/a.png",
    "https://[64:ff9b::808:808]/a.png",
    "https://127.0.0.1.example.com/a.png",
    "https://m\u00fcnchen.example.com/a.png",
    "https://example.com/?next=http://127.0.0.1",
    PNG_URI,
]


def test_addresses_of_the_local_network_are_recognized_in_any_form() -> None:
    nothing = AllowedMedia()
    for url in LOCAL:
        with pytest.raises(InvalidInputError, match="local network"):
            nothing.checked("image", url)
    for url in PUBLIC:
        assert nothing.checked("image", url) == url


def test_an_allowed_server_is_its_scheme_host_and_port() -> None:
    allowed = AllowedMedia.of(["http://minio:9000/", "https://10.0.0.7"])
    for url in ("http://minio:9000/a", "http://MINIO:9000/b?c", "https://10.0.0.7:443/a"):
        assert allowed.checked("image", url) == url
    for url in (
        "https://minio:9000/a",
        "http://minio/a",
        "http://10.0.0.7/a",
        "http://minio:9001",
    ):
        with pytest.raises(InvalidInputError, match="local network"):
            allowed.checked("image", url)


def test_files_are_read_below_the_folders_and_not_through_links_out_of_them(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "in-between"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    for folder in (inside, inside / "deep", outside):
        (folder / "a.png").write_bytes(PNG)
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (tmp_path / "alias").symlink_to(inside)
    allowed = AllowedMedia.of([tmp_path / "alias"])
    for path in (inside / "a.png", inside / "deep" / ".." / "a.png", tmp_path / "alias/deep/a.png"):
        assert Content(image=allowed.checked("image", path)).image == PNG_URI
    ways_out = ["link.png", "folder/a.png", "../in-between/a.png", "deep/../../in-between/a.png"]
    for way in ways_out:
        with pytest.raises(InvalidInputError, match="local file"):
            allowed.checked("image", inside / way)
    with pytest.raises(InvalidInputError, match="local file"):
        AllowedMedia().checked("video", Path("/etc/passwd"))
    with pytest.raises(InvalidInputError):
        allowed.checked("image", Path("a\0b"))


@pytest.mark.parametrize(
    "field",
    ["photo", ["title", "photo"], "{title}{photo}", lambda found: found.metadata["photo"]],
    ids=["one", "several", "template", "function"],
)
def test_blocks_in_metadata_are_checked_and_contents_of_the_program_are_not(
    dashscope: LoopbackDashScope, field: Any
) -> None:
    url = "http://10.0.0.7/a.png"
    block = {"type": "image", "url": url}
    document = Document(page_content="x", id="d1", metadata={"title": "T", "photo": block})
    options: dict[str, Any] = {"model": "qwen3-vl-rerank", "rerank_field": field}
    for held in (block, [block], {"type": "image_url", "image_url": {"url": url}}):
        document.metadata["photo"] = held
        with pytest.raises(InvalidInputError, match=r"'d1'.*local network.*allowed_media="):
            QwenRerank(**options).compress_documents([document], "q")
    assert dashscope.received == []
    QwenRerank(**options, allowed_media=["http://10.0.0.7"]).compress_documents([document], "q")
    document.metadata["photo"] = Content(image=url)
    QwenRerank(**options).compress_documents([document], "q")
    assert [request.documents[0]["image"] for request in dashscope.received] == [url, url]


def test_records_are_checked_too() -> None:
    block = {"type": "image", "url": "http://localhost/a.png"}
    engine = RerankEngine(FakeScorer(), rerank_field="text")
    with pytest.raises(InvalidInputError, match=r"record 'r'.*local network"):
        engine.rerank("q", [Record("r", {"text": block})])


def test_what_cannot_be_allowed_is_refused_at_construction(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    makers: list[Callable[..., object]] = [
        lambda **options: QwenRerank(scorer=FakeScorer(), **options),
        lambda **options: RerankEngine(FakeScorer(), rerank_field="text", **options),
    ]
    for wrong in (
        tmp_path / "missing",
        file,
        os.fspath(file),
        "ftp://host",
        "http://",
        "http://[x",
        "",
    ):
        for make in makers:
            with pytest.raises(InvalidInputError, match="folders or http addresses"):
                make(allowed_media=[wrong])
    with pytest.raises(InvalidInputError, match="folders or http addresses, got 5"):
        RerankEngine(FakeScorer(), rerank_field="text", allowed_media=5)  # type: ignore[arg-type]
