"""The style and fonts of plots, texts cut to fit, and a plot with its alternative text.

Plots have a light background of their own, so that you can read them on a dark page too. The
colours are Okabe and Ito's, which colour-blind readers can tell apart ("Color Universal Design",
2008), or darker. Position, line style or hatching always repeats what a colour says.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.packages import import_optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "ORANGE",
    "PURPLE",
    "Plot",
    "cell_width",
    "fit_text",
    "new_axes",
    "new_panels",
]

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#007A59", "#767676", "#1A1A1A"
PURPLE = "#A64D79"
"""Each colour has one meaning in all plots: blue is a gain, orange a loss, green is relevant, grey
is not relevant or not judged, and purple is recall."""

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
    "text.parse_math": False,  # a price in a title is not a formula
    "svg.fonttype": "path",
    "svg.hashsalt": "qwen-rerank",
}

_CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # the only name that matplotlib before 3.11 sees in the same file
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
)
"""Fonts with Chinese characters. The first one that is installed is used."""


@dataclass(frozen=True, repr=False)
class Plot:
    """A plot and its alternative text. A notebook cell shows both.

    Attributes:
        figure: The matplotlib figure, which you can change or draw elsewhere.
        alt: The alternative text: what the plot shows, with its numbers.
    """

    figure: Figure
    alt: str

    def save(self, path: str | Path) -> None:
        """Write the plot to a file. PNG, SVG and PDF files carry the alternative text.

        Args:
            path: The file, whose name ends in `.png`, `.svg` or another ending that matplotlib
                supports.

        Raises:
            InvalidInputError: matplotlib does not support the ending.
            OSError: The file can't be written.
        """
        file_format = Path(path).suffix[1:].lower()
        supported = self.figure.canvas.get_supported_filetypes()
        if file_format not in supported:
            raise InvalidInputError(
                f"A plot can't be written to {str(path)!r}.",
                remedy=f"Use a name that ends in one of .{', .'.join(sorted(supported))}.",
            )
        Path(path).write_bytes(self._rendered(file_format))

    def _rendered(self, file_format: str) -> bytes:
        metadata = {
            "svg": {"Description": self.alt, "Date": None},
            "png": {"Description": self.alt},
            "pdf": {"Subject": self.alt, "CreationDate": None},
        }
        file = io.BytesIO()
        with _style():
            self.figure.savefig(
                file, format=file_format, dpi=144, metadata=metadata.get(file_format)
            )
        return file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        png = base64.b64encode(self._rendered("png")).decode()
        # The image has twice as many pixels, so that it is sharp on high-resolution screens.
        width = round(self.figure.get_figwidth() * 72)
        return (
            {"image/png": png, "text/plain": repr(self)},
            {"image/png": {"width": width, "alt": self.alt}},
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.alt}"


@contextmanager
def _style() -> Iterator[None]:
    """Apply matplotlib's defaults and our style, whatever style the user chose for other plots."""
    style = import_optional("matplotlib.style", "A plot")
    with (
        _any_font_weight(),
        style.context(["default", {**_STYLE, "font.family": _font_families()}]),
    ):
        yield


@contextmanager
def _any_font_weight() -> Iterator[None]:
    """Don't warn that a font lacks a weight: many Chinese fonts have only one."""
    log = logging.getLogger("matplotlib.font_manager")
    log.addFilter(_is_about_no_weight)
    try:
        yield
    finally:
        log.removeFilter(_is_about_no_weight)


def _is_about_no_weight(record: logging.LogRecord) -> bool:
    return "font weight" not in record.getMessage()


def _font_families() -> list[str]:
    manager = import_optional("matplotlib.font_manager", "A plot").fontManager
    installed = {font.name for font in manager.ttflist}
    return ["DejaVu Sans", *[name for name in _CHINESE_FONTS if name in installed][:1]]


def fit_text(text: str, width: int, fallback: str | None = None) -> str:
    """Return the text on one line, cut to a width that the installed fonts can draw.

    Args:
        text: The text.
        width: The width in letters; a Chinese character counts as two.
        fallback: The text to use instead if no font has all characters of `text`. Without it,
            question marks stand in for the missing ones.
    """
    drawable = frozenset[int]().union(*map(_code_points, _font_families()))
    line = " ".join(text.split())
    if fallback is not None and not all(ord(character) in drawable for character in line):
        return fit_text(fallback, width)
    return _cut_middle("".join(each if ord(each) in drawable else "?" for each in line), width)


@cache
def _code_points(family: str) -> frozenset[int]:
    fonts = import_optional("matplotlib.font_manager", "A plot")
    with _any_font_weight():
        return frozenset(fonts.get_font(fonts.findfont(family)).get_charmap())


def _cut_middle(text: str, width: int) -> str:
    """Cut the middle out of a text that is too wide: names tend to differ at their ends."""
    cells = import_optional("rich.cells", "A plot")
    if cells.cell_len(text) <= width:
        return text
    end = text[-(width // 3) :]
    while cells.cell_len(end) > width // 3:
        end = end[1:]
    start = cells.set_cell_size(text, width - 1 - cells.cell_len(end))
    return f"{start.rstrip()}…{end.lstrip()}"


def cell_width(text: str) -> int:
    """Return the width of a text in letters; a Chinese character counts as two."""
    width: int = import_optional("rich.cells", "A plot").cell_len(text)
    return width


@contextmanager
def new_axes(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure of this size, in inches, that no window and no notebook cell shows."""
    with new_panels(1, width, height) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def new_panels(count: int, width: float, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """Open a figure with this many panels, one below the other, with one scale upwards."""
    figures = import_optional("matplotlib.figure", "A plot")
    with _style():
        figure = figures.Figure(figsize=(width, height))
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
        yield figure, [*figure.subplots(count, sharey=True, squeeze=False)[:, 0]]
        # A second layout would move things slightly; with one, the same plot is the same file.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
