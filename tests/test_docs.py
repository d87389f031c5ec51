"""The README's and the pages' examples run as printed, and what they name is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from qwen_rerank.settings import PluginSettings
from tests.core.local import WHY_SKIPPED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = sorted((ROOT / "docs" / "guide").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


LANGCHAIN, LLAMAINDEX, OPEN_MODEL = blocks("python", README)


@pytest.mark.parametrize(
    ("code", "printed"),
    list(zip([LANGCHAIN, LLAMAINDEX], blocks("text", README), strict=True)),
    ids=["LangChain", "LlamaIndex"],
)
def test_an_example_of_the_readme_prints_what_it_says(
    code: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_the_readmes_example_of_the_open_model_runs_with_a_small_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason=WHY_SKIPPED)
    from tests.support import tiny_qwen

    tiny_qwen.save(tmp_path / "Qwen" / "Qwen3-Reranker-0.6B")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(OPEN_MODEL, "README.md", "exec"), names)
    documents = [Document(page_content=text) for text in "abcde"]
    assert len(names["compressor"].compress_documents(documents, "which?")) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_is_python(page: Path) -> None:
    for code in blocks("python", page.read_text(encoding="utf-8")):
        compile(code, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_table_of_options_has_them_all_with_their_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", README, re.MULTILINE))
    for name, field in PluginSettings.model_fields.items():
        assert name in rows
        if rows[name].startswith("`") and not rows[name].startswith("`DASHSCOPE"):
            assert rows[name].strip('`"') in (str(field.default), "cn-beijing")


def test_the_guides_complete_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (
        block
        for block in blocks("python", (ROOT / "docs/guide.md").read_text(encoding="utf-8"))
        if "print" in block
    )
    exec(compile(code, "guide.md", "exec"), {})
    assert capsys.readouterr().out == "a 2\n"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_the_examples_of_a_guides_page_print_what_it_says(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in blocks("python", text):
        exec(compile(code, page.name, "exec"), names)
    assert capsys.readouterr().out == "".join(blocks("text", text))
