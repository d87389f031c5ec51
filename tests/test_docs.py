"""The README's and the pages' examples run as printed, and what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwen_rerank.settings import RerankSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("code", "printed"),
    list(zip(blocks("python", README), blocks("text", README), strict=True)),
    ids=["LangChain", "LlamaIndex"],
)
def test_an_example_of_the_readme_prints_what_it_says(
    code: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == printed


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
    for name, field in RerankSettings.model_fields.items():
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
