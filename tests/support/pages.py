"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

__all__ = ["PAGES", "READMES", "ROOT", "Fence", "examples", "fences", "module_of", "side"]

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Fence(NamedTuple):
    """A fenced block: its language, its text, and the lines of the page before that."""

    language: str
    text: str
    line: int

    @property
    def end(self) -> int:
        return self.line + self.text.count("\n")


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\S*).*\n((?:.*\n)*?)```$", text, re.MULTILINE):
        yield Fence(found[1], found[2], text.count("\n", 0, found.start(2)))


def examples(page: Path) -> list[tuple[Fence, str | None]]:
    """The blocks of Python, each with what the page says that it prints."""
    blocks = [*fences(page), Fence("", "", 0)]
    return [
        (block, after.text if (after.language, after.line - block.end) == ("text", 3) else None)
        for block, after in pairwise(blocks)
        if block.language == "python"
    ]


def side(change: Fence, sign: str) -> str:
    """One side of a block of changes: of the signed lines those with "-", or those with "+"."""
    return "\n".join(line[1:] for line in change.text.splitlines() if line[:1] in (sign, " ", ""))


def module_of(page: Path, name: str) -> ModuleType:
    """The first block of Python in the page, as the module of this name: what it is to be."""
    block, _ = examples(page)[0]
    module = sys.modules[name] = ModuleType(name)
    exec(compile("\n" * block.line + block.text, page, "exec", dont_inherit=True), vars(module))
    return module
