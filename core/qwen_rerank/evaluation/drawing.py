"""What pictures are drawn with: a style, fonts, texts that fit; and a picture with its words.

They are drawn on a light ground of their own, so that they can be read on a dark page too. Colours
are Okabe and Ito's, which the colour-blind can tell apart ("Color Universal Design", 2008); what a
colour says, a place, a line style or a hatching says too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.packages import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "INK", "ORANGE", "Plot", "axes_of", "drawable"]

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#767676", "#1A1A1A"
_STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10,
    "text.parse_math": False,  # a price in a title is no formula
    "svg.fonttype": "path",
    "svg.hashsalt": "qwen-rerank",
}

_CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # all that matplotlib before 3.11 sees of the same file
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
)
"""Fonts with Chinese characters, of which the first that is installed is used too."""


@dataclass(frozen=True, repr=False)
class Plot:
    """A picture, and what it shows in words. A notebook's cell shows it, with the words for alt.

    Attributes:
        figure: The picture, to change or to draw elsewhere.
        alt: The alternative text: what the picture shows, with its figures.
    """

    figure: Figure
    alt: str

    def save(self, path: str | Path) -> None:
        """Write it to a file, of PNG, SVG or PDF with the alternative text as its description.

        Args:
            path: Where to. It ends in `.png`, `.svg` or another ending that matplotlib knows.

        Raises:
            InvalidInputError: matplotlib writes no such files.
            OSError: The file can't be written.
        """
        kind = Path(path).suffix[1:].lower()
        known = self.figure.canvas.get_supported_filetypes()
        if kind not in known:
            raise InvalidInputError(
                f"A picture can't be written to {str(path)!r}.",
                remedy=f"End its name in one of .{', .'.join(sorted(known))}.",
            )
        Path(path).write_bytes(self._drawn(kind))

    def _drawn(self, kind: str) -> bytes:
        described = {
            "svg": {"Description": self.alt, "Date": None},
            "png": {"Description": self.alt},
            "pdf": {"Subject": self.alt, "CreationDate": None},
        }
        file = io.BytesIO()
        with _style():
            self.figure.savefig(file, format=kind, dpi=144, metadata=described.get(kind))
        return file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        picture = base64.b64encode(self._drawn("png")).decode()
        # Twice the dots of a notebook's, so that it is sharp on dense screens.
        width = round(self.figure.get_figwidth() * 72)
        return (
            {"image/png": picture, "text/plain": repr(self)},
            {"image/png": {"width": width, "alt": self.alt}},
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.alt}"


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's own defaults and ours, whatever style the user has chosen for other pictures."""
    style = needed("matplotlib.style", "A plot")
    with style.context(["default", {**_STYLE, "font.family": _fonts()}]):
        yield


def _fonts() -> list[str]:
    manager = needed("matplotlib.font_manager", "A plot").fontManager
    installed = {font.name for font in manager.ttflist}
    return ["DejaVu Sans", *[name for name in _CHINESE if name in installed][:1]]


def drawable(text: str, width: int, otherwise: str | None = None) -> str:
    """The text on one line, cut to so many letters, of which a Chinese one is two.

    Where no font has all of its characters, the other text, or question marks for them.
    """
    known = frozenset[int]().union(*map(_characters, _fonts()))
    line = " ".join(text.split())
    if otherwise is not None and not all(ord(character) in known for character in line):
        return drawable(otherwise, width)
    return _cut("".join(each if ord(each) in known else "?" for each in line), width)


@cache
def _characters(family: str) -> frozenset[int]:
    fonts = needed("matplotlib.font_manager", "A plot")
    return frozenset(fonts.get_font(fonts.findfont(family)).get_charmap())


def _cut(text: str, width: int) -> str:
    """The text, without its middle if it is wider: names tend to differ at their ends."""
    cells = needed("rich.cells", "A plot")
    if cells.cell_len(text) <= width:
        return text
    end = text[-(width // 3) :]
    while cells.cell_len(end) > width // 3:
        end = end[1:]
    start = cells.set_cell_size(text, width - 1 - cells.cell_len(end))
    return f"{start.rstrip()}…{end.lstrip()}"


@contextmanager
def axes_of(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A picture of this size in inches. It belongs to no window and no notebook's cell."""
    figures = needed("matplotlib.figure", "A plot")
    with _style():
        figure = figures.Figure(figsize=(width, height))
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
        yield figure, figure.add_subplot()
        # Laid out once: again would move things by a hair, and the same picture is the same file.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
