"""The page of a report: what it contains, and what a browser makes of it."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, PassageScorer
from qwen_rerank.evaluation import Report, compare, evaluate
from qwen_rerank.testing import FakeScorer

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<!-- $data ${style} \u2028\u2029 & \" ' \\ </style>"
)

BEFORE = {
    "q1": {"x": 3.0, "y": 2.0, "a": 1.0},
    "q2": {"c": 2.0, "x": 1.0},
    "q3": {"d": 1.0, "x": 0.5},
}
AFTER = {
    "q1": {"a": 0.9, "x": 0.4, "y": 0.3},
    "q2": {"x": 0.6, "c": 0.5},
    "q3": {"d": 0.8, "x": None},
}
QUERIES = {"q1": "What do penguins eat?", "q2": "企鹅吃什么?", "q3": HOSTILE}
DOCUMENTS = {
    "a": "Penguins eat krill.",
    "c": "企鹅吃磷虾。",
    "d": HOSTILE,
    "x": "Whales.",
    "y": "Y.",
}


@pytest.fixture
def report() -> Report:
    judgements = {"q1": {"a": 3}, "q2": {"c": 1}, "q3": {"d": 2, "missing": 1}}
    runs = {"before": BEFORE, "<b>after</b>": AFTER}
    return compare(runs, judgements, measures=["RR", "nDCG@10"], queries=QUERIES)


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    data: dict[str, Any] = json.loads(text)
    return data


def test_texts_stay_data_whatever_they_contain(report: Report) -> None:
    page = report.to_html(documents=DOCUMENTS, title="A <b>title</b>")
    assert "\u2028" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "owned" not in page.replace(page[page.index('id="data">') : page.rindex("<script>")], "")
    assert "<b>" not in page
    data = data_of(page)
    assert data["texts"][data["ids"].index("d")] == HOSTILE
    assert data["queries"][2]["text"] == HOSTILE
    half = report.to_html(documents={"a": "half a character: \ud800"}).encode()
    assert b"half a character: \\ud800" in half
    named = compare({"\ud800": {"q": ["a"]}}, {"q": {"a": 1}}, measures=["RR"]).to_html(
        title="\ud800"
    )
    assert "\ufffd" in named.encode().decode()
    for wrong in ({"documents": {"a": None}}, {"languages": {"q1": 5}}):
        with pytest.raises(InvalidInputError, match="must be strings by id"):
            report.to_html(**wrong)
    with pytest.raises(InvalidInputError, match="title must be a string, got None"):
        report.to_html(title=None)  # type: ignore[arg-type]


def test_nothing_is_loaded_from_elsewhere(report: Report) -> None:
    page = report.only(["q1"]).to_html().replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|@import|url\(| src=", page)


def test_the_passage_that_won_is_in_the_page(report: Report) -> None:
    filler = "Gulls follow boats. " * 40
    long = f"{filler}Penguins eat krill. {filler}"
    scorer = PassageScorer(FakeScorer(), max_tokens=16, overlap=0)
    queries = {"q": "penguins eat krill."}
    measured = evaluate({"q": ["d"]}, scorer, queries, {"q": {"d": 1}}, documents={"d": long})
    data = data_of(measured.to_html(documents={"d": long}))
    (_, score, (before, passage, after)) = data["queries"][0]["rankings"][1][0]
    assert score == 1.0
    assert "Penguins eat krill." in passage
    assert before.startswith("…")
    assert after.endswith("…")
    assert f"{before[1:]}{passage}{after[:-1]}" in long
    assert measured.only(["q"]).passages == measured.passages


def test_depth_and_long_texts_are_cut() -> None:
    ids = [f"d{at}" for at in range(9)]
    report = compare({"run": {"q": ids}}, {"q": {"d8": 1}})
    page = data_of(report.to_html(depth=2, documents=dict.fromkeys(ids, "long " * 1_000)))
    assert page["ids"] == ids[:2]
    assert all(len(text) == 601 for text in page["texts"])
    assert page["queries"][0]["relevant"] == 1
    with pytest.raises(InvalidInputError, match="depth"):
        report.to_html(depth=0)


# --- In a browser


Open = Callable[[str], Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=paths[1])
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page from a file. The console must stay empty."""

    def open_page(page: str) -> Any:
        path = tmp_path / "report.html"
        path.write_text(page, encoding="utf-8")
        chromium.get(path.as_uri())
        return chromium

    yield open_page
    assert chromium.get_log("browser") == []


def shown(driver: Any) -> list[str]:
    """The ids of the queries in the table, in order."""
    return [each.text for each in driver.find_elements("css selector", "#rows td:first-child")]


def details(driver: Any) -> str:
    text: str = driver.find_element("id", "details").text
    return text


def test_losses_come_first_and_every_column_sorts(report: Report, open_page: Open) -> None:
    driver = open_page(report.to_html(documents=DOCUMENTS))
    assert shown(driver) == ["q2", "q3", "q1"]
    for heading, expected in (
        ("id", ["q1", "q2", "q3"]),
        ("id", ["q3", "q2", "q1"]),
        ("gain", ["q2", "q3", "q1"]),
        ("gain", ["q1", "q3", "q2"]),
        ("after", ["q1", "q3", "q2"]),
    ):
        driver.find_element("css selector", f'[data-key="{heading}"]').click()
        assert shown(driver) == expected
        assert driver.switch_to.active_element.get_attribute("data-key") == heading


def test_filters_by_change_script_and_text(report: Report, open_page: Open) -> None:
    driver = open_page(report.to_html(documents=DOCUMENTS))
    set_value = """
        const control = document.getElementById(arguments[0]);
        control.value = [...control.options].find((each) => each.text === arguments[1]).value;
        control.dispatchEvent(new Event("change"));
    """
    for control, choice, expected in (
        ("change", "losses", ["q2"]),
        ("change", "unchanged", ["q3"]),
        ("change", "all queries", ["q2", "q3", "q1"]),
        ("language", "Chinese characters", ["q2"]),
        ("language", "all", ["q2", "q3", "q1"]),
    ):
        driver.execute_script(set_value, control, choice)
        assert shown(driver) == expected
    driver.find_element("id", "text").send_keys("PENGUINS")
    assert shown(driver) == ["q1"]
    driver.find_element("id", "text").send_keys(" nowhere")
    assert shown(driver) == []
    assert details(driver) == "No query matches the filters."


def test_keys_move_between_queries_and_their_rankings_are_shown(
    report: Report, open_page: Open
) -> None:
    driver = open_page(report.to_html(documents=DOCUMENTS))
    driver.find_element("css selector", '#rows [aria-selected="true"]').send_keys("\ue010")  # End
    text = details(driver)
    assert "What do penguins eat?" in text
    assert "RR 0.333 → 1.000" in text
    assert "▲ up 2" in text
    assert "→ 1" in text
    assert "✓ relevant, gain 3" in text
    assert "Penguins eat krill." in text
    driver.switch_to.active_element.send_keys("\ue013")  # arrow up
    assert "after</b>: 1 of 2 relevant" in details(driver)
    assert "no score" in details(driver)
    driver.switch_to.active_element.send_keys("\ue011")  # Home
    assert "▼ down 1" in details(driver)


def test_hostile_text_is_shown_as_text(report: Report, open_page: Open) -> None:
    driver = open_page(report.to_html(documents=DOCUMENTS, title="safe"))
    driver.find_element("xpath", "//td[.='q3']").click()
    assert "</script><script>document.title='owned'</script><img" in details(driver)
    assert driver.title == "safe"
    assert driver.find_elements("tag name", "img") == []


def test_a_thousand_queries_with_fifty_documents_open_quickly(
    chromium: Any, open_page: Open
) -> None:
    draw = random.Random(0)
    ids = [f"document-{at}" for at in range(5_000)]
    queries = {f"q{at}": f"What is question number {at}?" for at in range(1_000)}
    runs = {
        name: {query: {id_: draw.random() for id_ in draw.sample(ids, 50)} for query in queries}
        for name in ("before", "after")
    }
    judgements = {query: dict.fromkeys(draw.sample(ids, 200), 1) for query in queries}
    report = compare(runs, judgements, measures=["RR"], queries=queries)
    page = report.to_html(documents={id_: f"The text of {id_}. " * 30 for id_ in ids})
    chromium.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    driver = open_page(page)
    assert driver.find_element("id", "count").text == "1000 of 1000 queries"
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    seconds = {metric["name"]: metric["value"] for metric in metrics}
    assert 0 < seconds["TaskDuration"] < 3  # of CPU time
