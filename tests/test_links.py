"""Links in the pages and notebooks point to existing files and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]


@cache
def tokens(page: Path) -> list[Token]:
    """The Markdown tokens of a page, or of the Markdown cells of a notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return MarkdownIt("gfm-like", {"linkify": False}).parse(text)


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        for part in token.children or ():
            if target := part.attrGet("href") or part.attrGet("src"):
                yield str(target)


def anchors(page: Path) -> Iterator[str]:
    """The anchors that GitHub generates for the headings of a page."""
    seen: dict[str, int] = {}
    for heading, inline in zip(tokens(page), tokens(page)[1:], strict=False):
        if heading.type == "heading_open":
            words = "".join(part.content for part in inline.children or ())
            name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            seen[name] = seen.get(name, -1) + 1
            yield f"{name}-{seen[name]}" if seen[name] else name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_to_existing_files_and_headings(page: Path) -> None:
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert parts.netloc, link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


def test_the_readme_links_all_notebooks() -> None:
    linked = {(ROOT / urlsplit(link).path).resolve() for link in links(ROOT / "README.md")}
    assert linked >= set(ROOT.glob("notebooks/*.ipynb"))
