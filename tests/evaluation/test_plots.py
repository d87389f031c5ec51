"""Plots: their alternative texts, the files they are saved to, and what they leave alone."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from qwen_rerank import InvalidInputError
from qwen_rerank.evaluation import Plot, Report, compare, drawing

JUDGEMENTS = {"q1": {"a": 3}, "q2": {"c": 1}, "q3": {"d": 2}}
BEFORE = {
    "q1": {"x": 3.0, "y": 2.0, "a": 1.0},
    "q2": {"c": 2.0, "x": 1.0},
    "q3": {"d": 1.0, "x": 0.5},
}
AFTER = {
    "q1": {"a": 0.9, "x": 0.4, "y": 0.3},
    "q2": {"x": 0.6, "c": 0.5},
    "q3": {"d": 0.8, "x": 0.1},
}


@pytest.fixture
def report() -> Report:
    return compare(
        {"before": BEFORE, "after": AFTER},
        JUDGEMENTS,
        measures=["RR"],
        queries={"q1": "What do penguins eat?", "q2": "企鹅吃什么?", "q3": ""},
    )


PLOTS: dict[str, Callable[[Report], Plot]] = {
    "gains": lambda report: report.plot_gains(),
    "ranks": lambda report: report.plot_ranks("q1", labels={"a": "Penguins", "x": "鲸"}),
    "scores": lambda report: report.plot_scores(),
}


@pytest.fixture(params=PLOTS)
def plot(request: pytest.FixtureRequest, report: Report) -> Plot:
    return PLOTS[request.param](report)


def test_the_alternative_text_of_the_gains_has_their_numbers(report: Report) -> None:
    alt = report.plot_gains().alt
    assert alt == (
        "One bar per query, 3 in all, highest first: the gain in RR from before to after. "
        "Queries: 1 better, 1 the same, 1 worse. Mean: 0.778 before, 0.833 after, a gain of "
        "+0.056 with p = 1.000. q1 gains the most: +0.667. q2 loses the most: -0.500."
    )


def test_the_alternative_text_of_the_ranks_says_where_each_relevant_document_went(
    report: Report,
) -> None:
    alt = report.plot_ranks("q1", labels={"a": "Penguins"}).alt
    assert "'What do penguins eat?'" in alt
    assert "a (Penguins), gain 3: from 3 to 1" in alt
    assert "2 others" in alt
    assert "gain 1: from 1 to 2" in report.plot_ranks("q2", top=1).alt


def test_the_alternative_text_of_the_scores_says_how_well_they_separate(report: Report) -> None:
    alt = report.plot_scores().alt
    assert "3 documents judged relevant score between 0.500 and 0.900" in alt
    assert "4 others score between 0.100 and 0.600" in alt
    assert "In 92% of all pairs" in alt


def test_a_png_carries_the_alternative_text(report: Report, tmp_path: Path) -> None:
    plot = report.plot_scores()
    plot.save(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.text["Description"] == plot.alt
        assert picture.width > 1_000
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_an_svg_carries_the_alternative_text_and_is_reproducible(
    plot: Plot, tmp_path: Path
) -> None:
    paths = tmp_path / "one.svg", tmp_path / "two.svg"
    for path in paths:
        plot.save(path)
    texts = [element.text for element in ElementTree.parse(paths[0]).iter()]
    assert plot.alt in texts
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_pdf_carries_the_alternative_text(report: Report, tmp_path: Path) -> None:
    report.plot_gains().save(tmp_path / "plot.pdf")
    assert b"/Subject (One bar per query, 3 in all" in (tmp_path / "plot.pdf").read_bytes()


def test_labels_are_drawn_literally_on_one_line_not_as_formulas(
    report: Report, tmp_path: Path
) -> None:
    plot = report.plot_ranks("q1", labels={"a": r"$\fish for $5", "x": "Krill\nand\tmore"})
    plot.save(tmp_path / "plot.png")
    labels = {label.get_text() for label in plot.figure.axes[0].get_yticklabels()}
    assert labels == {"Krill and more  1", "y  2", r"$\fish for $5 (gain 3)  3"}


def test_an_unsupported_ending_is_refused_with_the_supported_ones(
    report: Report, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=r"\.png.*\.svg"):
        report.plot_gains().save(tmp_path / "plot.docx")
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_the_plot_with_its_alternative_text(report: Report) -> None:
    plot = report.plot_gains()
    data, metadata = plot._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == plot.alt
    assert plot.alt in data["text/plain"]


def test_other_plots_keep_their_style(report: Report) -> None:
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    with matplotlib.style.context("dark_background"):
        dark = dict(matplotlib.rcParams)
        report.plot_gains()._repr_mimebundle_()
        assert dict(matplotlib.rcParams) == dark
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []  # no window, and no second plot in a notebook cell


def test_a_chinese_font_without_all_weights_causes_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from matplotlib import font_manager

    fonts = font_manager.fontManager
    latin = next(font for font in fonts.ttflist if font.name == "DejaVu Sans")
    medium = replace(latin, name=drawing._CHINESE_FONTS[0], weight=500)
    monkeypatch.setattr(fonts, "ttflist", [*fonts.ttflist, medium])
    result = compare({"before": BEFORE, "after": AFTER}, JUDGEMENTS, measures=["RR"])
    result.plot_gains()._repr_mimebundle_()
    assert caplog.messages == []


def test_a_label_that_no_font_can_draw_falls_back_to_the_id(report: Report, tmp_path: Path) -> None:
    plot = report.plot_ranks("q2", labels={"c": "\U000f0000"})
    plot.save(tmp_path / "plot.png")  # a missing glyph would be a warning, which fails the test
    assert "企鹅吃什么?" in plot.alt


@pytest.mark.parametrize("draw", PLOTS.values(), ids=list(PLOTS))
def test_names_and_ids_that_no_font_can_draw_get_question_marks(
    draw: Callable[[Report], Plot], tmp_path: Path
) -> None:
    ranking = {"q1": AFTER["q1"], "\U000f0000": AFTER["q2"]}
    judgements = {"q1": {"a": 3}, "\U000f0000": {"c": 1}}
    plot = draw(compare({"\U000f0000 1": ranking, "\U000f0000 2": ranking}, judgements))
    plot.save(tmp_path / "plot.png")  # a missing glyph would be a warning, which fails the test
    assert "\U000f0000 2" in plot.alt


def test_long_query_ids_stay_distinct_and_leave_room_for_the_bars() -> None:
    run = {f"a-data-set-with-a-long-name/query-{number}": ["x", "a"] for number in range(20)}
    report = compare({"before": run, "after": run}, {id_: {"a": 1} for id_ in run})
    figure = report.plot_gains().figure
    axes = figure.axes[0]
    assert axes.get_position().height * figure.get_figheight() > 1.8  # inches
    assert len({label.get_text() for label in axes.get_xticklabels()}) == 20


def test_the_title_of_the_gains_has_the_means_and_p(report: Report) -> None:
    assert report.plot_gains().figure.axes[0].get_title(loc="left") == (
        "after compared with before: mean 0.778 → 0.833, p = 1.000\n1 better, 1 the same, 1 worse"
    )


def test_each_other_run_has_a_panel_of_its_own() -> None:
    runs = {"before": BEFORE, "after": AFTER, "later": AFTER}
    plot = compare(runs, JUDGEMENTS, measures=["RR"]).plot_gains()
    titles = [axes.get_title(loc="left").split(":")[0] for axes in plot.figure.axes]
    assert titles == ["after compared with before", "later compared with before"]
    assert "from before to after" in plot.alt
    assert "from before to later" in plot.alt


def test_the_lines_of_ranks_go_through_all_runs() -> None:
    runs = {"before": BEFORE, "after": AFTER, "later": {"q1": {"x": 1.0, "a": 0.5}}}
    report = compare(runs, JUDGEMENTS, measures=["RR"])
    plot = report.plot_ranks("q1")
    assert "in before to their ranks in after and then in later" in plot.alt
    assert "a, gain 3: from 3 to 1 to 2" in plot.alt
    assert [len(line.get_xdata()) for line in plot.figure.axes[0].lines] == [3, 3, 3]
    assert "a, gain 3: from 3 to 2." in report.plot_ranks("q1", "later").alt


def test_fifty_queries_have_their_ids_below_the_bars_without_overlaps() -> None:
    run = {f"query-{number}": ["x", "a"] for number in range(50)}
    figure = compare({"a": run, "b": run}, {id_: {"a": 1} for id_ in run}).plot_gains().figure
    boxes = [each.get_window_extent() for each in figure.axes[0].get_xticklabels()]
    assert len(boxes) == 50
    assert all(one.x1 <= other.x0 for one, other in pairwise(boxes))


def test_a_tiny_gain_looks_tiny() -> None:
    first = [*(f"x{number}" for number in range(3_000)), "a"]
    runs = {"before": {"q1": first}, "after": {"q1": first[1:]}}
    axes = compare(runs, {"q1": {"a": 1}}, measures=["RR"]).plot_gains().figure.axes[0]
    assert axes.get_ylim() == (-0.05, 0.05)


def test_a_short_ranking_makes_a_small_plot() -> None:
    long = {"q1": list("abcdefghij")}
    heights = [
        compare({"before": run, "after": run}, JUDGEMENTS).plot_ranks("q1").figure.get_figheight()
        for run in ({"q1": ["a", "b"]}, long)
    ]
    assert heights[1] - heights[0] == pytest.approx(8 * 0.3)


@pytest.mark.parametrize("name", ["Where penguins dive for what ", "企鹅吃什么"])
def test_long_labels_are_not_cut_off_at_the_edges(
    report: Report, tmp_path: Path, name: str
) -> None:
    plot = report.plot_ranks("q1", labels=dict.fromkeys("axy", name * 9))
    plot.save(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        width, height = picture.size
        grey = picture.convert("L")
        below_the_title = [grey.crop((x, height // 5, x + 1, height)) for x in (0, width - 1)]
        assert [edge.getextrema() for edge in below_the_title] == [(255, 255)] * 2


def test_shares_are_labelled_as_positive_percentages(report: Report) -> None:
    axes = report.plot_scores().figure.axes[0]
    labels = {axes.yaxis.get_major_formatter()(share, 0) for share in (0.025, -0.05, 0.1)}
    assert labels == {"2.5%", "5%", "10%"}


def test_thousands_of_queries_are_drawn() -> None:
    queries = [f"q{number}" for number in range(2_000)]
    runs = {
        name: {query: ["x", "a"][index % skipped == 0 :] for index, query in enumerate(queries)}
        for name, skipped in (("before", 3), ("after", 4))
    }
    report = compare(runs, {query: {"a": 1} for query in queries}, measures=["RR"])
    assert "One bar per query, 2000 in all" in report.plot_gains().alt


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda report: report.plot_ranks("q9"), "q9"),
        (lambda report: report.plot_ranks("q1", top=0), "top"),
        (lambda _: compare({"a": {}, "b": {}}, JUDGEMENTS).plot_ranks("q1"), "Neither a nor b"),
        (lambda report: report.plot_gains("AP"), "AP"),
        (lambda report: report.plot_scores("later"), "later"),
        (lambda _: compare({"ids": {"q1": ["a", "x"]}}, JUDGEMENTS).plot_scores(), "scores"),
    ],
)
def test_an_invalid_argument_is_named(
    report: Report, draw: Callable[[Report], Plot], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        draw(report)
