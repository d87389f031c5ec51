"""The documentation pages, and the code in them."""

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
    """A fenced block: its language, its text, and how many lines come before the text."""

    language: str
    text: str
    line: int

    @property
    def end(self) -> int:
        return self.line + self.text.count("\n")


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\S*).*\n((?:.*\n)*?)```$", text, re.MULTILINE):
        yield Fence(match[1], match[2], text.count("\n", 0, match.start(2)))


def examples(page: Path) -> list[tuple[Fence, str | None]]:
    """The Python blocks of a page, each with its expected output if the page has one."""
    blocks = [*fences(page), Fence("", "", 0)]
    return [
        (block, after.text if (after.language, after.line - block.end) == ("text", 3) else None)
        for block, after in pairwise(blocks)
        if block.language == "python"
    ]


def side(change: Fence, sign: str) -> str:
    """One side of a diff: "-" for the old code, "+" for the new code."""
    return "\n".join(line[1:] for line in change.text.splitlines() if line[:1] in (sign, " ", ""))


def module_of(page: Path, name: str) -> ModuleType:
    """The first Python block of the page as a module with this name."""
    block, _ = examples(page)[0]
    module = sys.modules[name] = ModuleType(name)
    exec(compile("\n" * block.line + block.text, page, "exec", dont_inherit=True), vars(module))
    return module
