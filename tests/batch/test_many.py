"""`rerank_many`: each query is ranked and paid for once, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import (
    AuthenticationError,
    ContentBlockedError,
    DashScopeScorer,
    InvalidInputError,
    QwenRerankError,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    Usage,
)
from qwen_rerank.batch import Progress, arerank_many, rerank_many
from qwen_rerank.testing import FakeScorer
from qwen_rerank.testing.faults import edits, hangs, refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.cli.process import environment
from tests.support.scorers import ByLength

ANSWERS = edits(lambda _: None)
TEXTS = ["score=0.1", "score=0.9", "score=0.5"]


def tasks(count: int) -> Iterator[Any]:
    for number in range(count):
        yield f"q{number}", f"query {number}", [Record(text, {"text": text}) for text in TEXTS]


def engine(**options: Any) -> RerankEngine:
    return RerankEngine(DashScopeScorer(model="qwen3-rerank"), rerank_field="text", **options)


def ids(rankings: Any) -> list[str]:
    return [query_id for query_id, _ in rankings]


class Gated(Scorer):
    """Scores a query once it may, and counts the queries that are running."""

    model = "gated"

    def __init__(self, *, is_open: bool = False) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.is_open = is_open
        self.started: list[str] = []
        self.arrivals = asyncio.Semaphore(0)
        self.running = self.most_running = 0

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        raise AssertionError("blocks the event loop")

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        self.started.append(query)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        gate = self.gates.setdefault(query, asyncio.Event())
        self.arrivals.release()
        try:
            if not self.is_open:
                await gate.wait()
            await asyncio.sleep(0)
            return Scores([float(len(text)) for text in texts], Usage(requests=1, tokens=5))
        finally:
            self.running -= 1


def test_rankings_equal_those_of_one_query_and_come_in_order(dashscope: LoopbackDashScope) -> None:
    one = engine()
    rankings = rerank_many(one, tasks(20), top_n=2, max_concurrency=4)
    results = list(rankings)
    assert [(id_, list(ranking)) for id_, ranking in results] == [
        (id_, list(one.rerank(query, records, 2))) for id_, query, records in tasks(20)
    ]
    assert rankings.usage.requests == 20
    assert rankings.usage.tokens == sum(ranking.usage.tokens for _, ranking in results) > 0


async def test_async_rankings_are_the_same_also_from_an_async_iterable(
    dashscope: LoopbackDashScope,
) -> None:
    async def source() -> AsyncIterator[Any]:
        for task in tasks(6):
            await asyncio.sleep(0)
            yield task

    expected = [(id_, list(ranking)) for id_, ranking in rerank_many(engine(), tasks(6))]
    for given in (tasks(6), source()):
        async with arerank_many(engine(), given) as rankings:
            assert [(id_, list(ranking)) async for id_, ranking in rankings] == expected
        assert rankings.usage.requests == 6


def test_queries_run_concurrently_up_to_the_limit(dashscope: LoopbackDashScope) -> None:
    dashscope.answer_only_when(in_flight=3)
    assert ids(rerank_many(engine(), tasks(9), max_concurrency=3)) == [f"q{n}" for n in range(9)]
    assert dashscope.most_in_flight == 3


async def test_tasks_are_read_as_needed() -> None:
    scorer = Gated(is_open=True)
    read: list[str] = []

    def source() -> Iterator[Any]:
        for task in tasks(1_000):
            read.append(task[0])
            yield task

    many = RerankEngine(scorer, rerank_field="text")
    async with arerank_many(many, source(), max_concurrency=2) as rankings:
        await anext(rankings)
        assert len(read) <= 8
    assert scorer.running == 0
    assert scorer.most_running <= 2


async def stream(count: int) -> AsyncIterator[Any]:
    """Tasks, and then none for ever."""
    async with asyncio.timeout(600):  # must be left in the coroutine where it was entered
        for task in tasks(count):
            yield task
        await asyncio.Event().wait()


@pytest.mark.timeout(60)
async def test_results_and_failures_do_not_wait_for_the_next_task_of_a_stream() -> None:
    many = RerankEngine(ByLength(), rerank_field="text")
    async with arerank_many(many, stream(2)) as rankings:
        assert [(await anext(rankings))[0] for _ in range(2)] == ["q0", "q1"]
    refusing = RerankEngine(ByLength(refused="query 0"), rerank_field="text")
    with pytest.raises(InvalidInputError, match="query 0 is refused"):
        async with arerank_many(refusing, stream(1)) as rankings:
            await anext(rankings)


async def test_unordered_results_come_as_soon_as_they_are_ready() -> None:
    scorer = Gated()
    many = RerankEngine(scorer, rerank_field="text")
    async with arerank_many(many, tasks(2), ordered=False) as rankings:
        first = asyncio.ensure_future(anext(rankings))
        await scorer.arrivals.acquire()
        await scorer.arrivals.acquire()
        scorer.gates["query 1"].set()
        assert (await first)[0] == "q1"
        scorer.gates["query 0"].set()
        assert [id_ async for id_, _ in rankings] == ["q0"]


def test_a_failure_lets_started_queries_finish_and_starts_no_other(
    dashscope: LoopbackDashScope, tmp_path: Path
) -> None:
    dashscope.answer_only_when(in_flight=3)
    dashscope.faults.append(refuses(400, "DataInspectionFailed"))
    options: Any = {"max_concurrency": 3, "journal": tmp_path / "j", "ordered": False}
    with pytest.raises(ContentBlockedError):
        list(rerank_many(engine(), tasks(12), **options))
    assert len(dashscope.received) == 3
    again = rerank_many(engine(), tasks(12), **options)
    assert sorted(ids(again)) == sorted(f"q{n}" for n in range(12))
    assert again.usage.requests == 10
    assert again.earlier_usage.requests == 2
    assert len(dashscope.received) == 13


def test_kept_errors_take_the_place_of_their_rankings_and_are_not_in_the_journal(
    dashscope: LoopbackDashScope, tmp_path: Path
) -> None:
    dashscope.faults.extend([ANSWERS, refuses(400, "DataInspectionFailed"), ANSWERS])
    options: Any = {"on_error": "keep", "max_concurrency": 1, "journal": tmp_path / "j"}
    rankings = rerank_many(engine(), tasks(4), **options)
    results = dict(rankings)
    assert list(results) == ["q0", "q1", "q2", "q3"]
    assert isinstance(results["q1"], ContentBlockedError)
    assert sum(isinstance(result, QwenRerankError) for result in results.values()) == 1
    again = rerank_many(engine(), tasks(4), journal=tmp_path / "j")
    assert all(len(ranking) == 3 for _, ranking in again)
    assert again.usage.requests == 1


def test_a_refused_key_is_raised_even_if_errors_are_kept(dashscope: LoopbackDashScope) -> None:
    dashscope.faults.extend([refuses(401, "InvalidApiKey")] * 4)
    with pytest.raises(AuthenticationError):
        list(rerank_many(engine(), tasks(9), on_error="keep", max_concurrency=1))
    assert len(dashscope.received) == 1


def test_an_error_in_the_tasks_is_raised_after_the_results_before_it(
    dashscope: LoopbackDashScope, tmp_path: Path
) -> None:
    def source() -> Iterator[Any]:
        yield from tasks(3)
        raise LookupError("the database is gone")

    rankings = rerank_many(engine(), source(), journal=tmp_path / "j")
    assert ids(next(rankings) for _ in range(3)) == ["q0", "q1", "q2"]
    with pytest.raises(LookupError, match="gone"):
        next(rankings)
    assert ids(rerank_many(engine(), tasks(3), journal=tmp_path / "j")) == ["q0", "q1", "q2"]
    assert len(dashscope.received) == 3


def test_a_bug_in_rerank_field_is_raised(dashscope: LoopbackDashScope) -> None:
    broken = RerankEngine(DashScopeScorer(), rerank_field=lambda record: record.nothing)  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="nothing"):
        list(rerank_many(broken, tasks(3), on_error="keep"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("bug", "message"),
    [
        (StopIteration(), "raised StopIteration"),
        (asyncio.CancelledError(), "cancelled its own call for query 'q1'"),
    ],
)
def test_what_only_event_loops_may_raise_is_a_failure_of_the_scorer(
    bug: BaseException, message: str
) -> None:
    class Buggy(ByLength):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            if query == "query 1":
                raise bug
            return super().score(query, texts)

    rankings = rerank_many(RerankEngine(Buggy(), rerank_field="text"), tasks(2), on_error="keep")
    assert next(rankings)[0] == "q0"
    with pytest.raises(RuntimeError, match=message):
        next(rankings)


@pytest.mark.parametrize("stop", [lambda rankings: rankings.close(), lambda rankings: None])
def test_stopping_early_cancels_what_runs_and_keeps_the_journal_whole(
    dashscope: LoopbackDashScope, tmp_path: Path, stop: Callable[[Any], object]
) -> None:
    dashscope.faults.extend([ANSWERS] * 3 + [hangs] * 2)
    dashscope.disconnects_awaited = 2
    threads = threading.active_count()
    with rerank_many(
        engine(), tasks(20), max_concurrency=2, ordered=False, journal=tmp_path / "j"
    ) as rankings:
        finished = ids(next(rankings) for _ in range(3))
        while len(dashscope.received) < 5:
            time.sleep(0.001)
        stop(rankings)
    assert dashscope.disconnected.wait(25)
    assert "qwen-rerank-many" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= threads + 1  # the scorers' I/O thread
    with pytest.raises(StopIteration):
        next(rankings)
    again = rerank_many(engine(), tasks(20), journal=tmp_path / "j")
    assert len(ids(again)) == 20
    assert again.usage.requests == 20 - len(finished)


async def test_cancelling_cancels_what_runs() -> None:
    scorer = Gated()
    many = RerankEngine(scorer, rerank_field="text")

    async def consume() -> None:
        async for _ in arerank_many(many, tasks(9), max_concurrency=3):
            raise AssertionError

    consumer = asyncio.ensure_future(consume())
    for _ in range(3):
        await scorer.arrivals.acquire()
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert scorer.running == 0
    assert len(scorer.started) == 3


SCRIPT = """
import sys
from qwen_rerank import DashScopeScorer, Record, RerankEngine
from qwen_rerank.batch import rerank_many

engine = RerankEngine(DashScopeScorer(model="qwen3-rerank"), rerank_field="text")
records = [Record(text, {"text": text}) for text in ("score=0.1", "score=0.9", "score=0.5")]
tasks = ((f"q{number}", f"query {number}", records) for number in range(20))
for query_id, _ in rerank_many(engine, tasks, max_concurrency=2, journal=sys.argv[1]):
    print(query_id, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_only_running_queries_are_paid_for_again(
    dashscope: LoopbackDashScope, tmp_path: Path, sent: signal.Signals
) -> None:
    dashscope.faults.extend([ANSWERS] * 4 + [hangs] * 2)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "j")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        while len(dashscope.received) < 6:
            time.sleep(0.001)
        process.send_signal(sent)
        _, err = process.communicate()
    assert process.returncode == -sent, err
    again = rerank_many(engine(), tasks(20), journal=tmp_path / "j")
    assert len(ids(again)) == 20
    assert again.usage.requests == 16
    assert len(dashscope.received) == 22


def test_what_the_journal_has_is_returned_as_it_was(
    dashscope: LoopbackDashScope, tmp_path: Path
) -> None:
    blank = Record("blank", {"text": " "})
    given = [(id_, query, [*records, blank]) for id_, query, records in tasks(3)]
    options: Any = {"journal": str(tmp_path / "j"), "top_n": 2}
    first = list(rerank_many(engine(), given, **options))
    again = rerank_many(engine(), given, **options)
    assert list(again) == first
    assert first[0][1].skipped == 1
    assert again.usage == Usage()
    assert again.earlier_usage.requests == len(dashscope.received) == 3


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        (lambda task: (task[0], "another query", task[2]), {}, "'q0' or its records differ"),
        (lambda task: (*task[:2], task[2][:2]), {}, "'q0' or its records differ"),
        (lambda task: task, {"top_n": 1}, "top_n was None and is 1"),
    ],
)
def test_the_journal_of_other_tasks_or_options_is_refused(
    dashscope: LoopbackDashScope,
    tmp_path: Path,
    changed: Callable[[Any], Any],
    options: dict[str, Any],
    message: str,
) -> None:
    journal = tmp_path / "j"
    list(rerank_many(engine(), tasks(2), journal=journal))
    with pytest.raises(InvalidInputError, match=message):
        list(rerank_many(engine(), map(changed, tasks(2)), journal=journal, **options))
    assert len(dashscope.received) == 2
    assert len(list(rerank_many(engine(), tasks(2), journal=journal))) == 2


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([("q", "query")], {}, "triples"),
        (5, {}, "triples"),
        ([(1, "query", [])], {}, r"must be a string, got 1.*str\(id\)"),
        ([("q", "query", ["text"])], {}, "records must be Records"),
        ([], {"max_concurrency": 0}, "max_concurrency"),
        ([], {"top_n": 0}, "top_n"),
        ([], {"on_error": "skip"}, "on_error"),
        ([], {"progress": 5}, "progress must be a boolean or a function, got 5"),
        ([], {"progress": print, "total": -1}, "total"),
    ],
)
def test_invalid_arguments_are_named(
    dashscope: LoopbackDashScope, given: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        list(rerank_many(engine(), given, **options))
    assert dashscope.received == []


def test_the_journal_tells_lists_and_the_min_score_of_a_copy_apart(tmp_path: Path) -> None:
    scored = RerankEngine(FakeScorer(), rerank_field="text")
    given = [Record(text, {"text": text}) for text in TEXTS]
    lists = ({"a": given[:1], "b": given[1:]}, {"a": given[:2], "b": given[2:]})
    list(rerank_many(scored, [("q", "?", lists[0])], journal=tmp_path / "j"))
    with pytest.raises(InvalidInputError, match="differ"):
        list(rerank_many(scored, [("q", "?", lists[1])], journal=tmp_path / "j"))
    with pytest.raises(InvalidInputError, match=r"min_score was None and is 0\.4"):
        rerank_many(scored.with_min_score(0.4), [("q", "?", lists[0])], journal=tmp_path / "j")


async def test_what_was_scored_is_in_the_journal_also_if_it_is_cancelled(tmp_path: Path) -> None:
    scored = 0

    class Counting(FakeScorer):
        async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
            nonlocal scored
            await asyncio.sleep(0.01)
            scored += 1
            return self.score(query, texts)

    counted = RerankEngine(Counting(), rerank_field="text")
    options: Any = {"journal": tmp_path / "j", "ordered": False}
    async with arerank_many(counted, tasks(20), **options) as rankings:
        await anext(rankings)
    assert len((tmp_path / "j").read_text().splitlines()) == 1 + scored


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda line: line["ranking"].pop(), "its 3 documents are not the expected 4"),
        (lambda line: line["ranking"][0].__setitem__(0, "foreign"), "no document 'foreign'"),
    ],
)
def test_an_edited_journal_gives_no_other_ranking(
    edit: Callable[[Any], object], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    engine = RerankEngine(FakeScorer(), rerank_field="content")
    work = [("q", "krill", [Record(id_, {"content": id_}) for id_ in "abcd"])]
    list(rerank_many(engine, work, journal=path))
    head, written = path.read_text().splitlines()
    line = json.loads(written)
    edit(line)
    path.write_text(f"{head}\n{json.dumps(line)}\n")
    with pytest.raises(InvalidInputError, match=problem):
        list(rerank_many(engine, work, journal=path))


def test_a_journal_must_be_a_path(tmp_path: Path) -> None:
    scored = RerankEngine(FakeScorer(), rerank_field="text")
    for wrong in (5, True, b"j", ""):
        with pytest.raises(InvalidInputError, match="journal must be the path"):
            rerank_many(scored, [], journal=wrong)  # type: ignore[call-overload]
    with (
        rerank_many(scored, [], journal=tmp_path / "j"),
        pytest.raises(InvalidInputError, match="in use, by another process or by a call"),
    ):
        rerank_many(scored, [], journal=tmp_path / "j")


def test_ids_that_a_journal_could_not_tell_apart_are_refused(
    dashscope: LoopbackDashScope, tmp_path: Path
) -> None:
    record, other = Record("a", {"text": "one"}), Record("a", {"text": "two"})
    for given, message in (
        ([("q", "?", [record, other])], "have one id: 'a'"),
        ([("q", "?", [Record("", {"text": "one"})])], "have no id"),
        ([("q", "?", [record]), ("q", "?", [record])], "two tasks with the id 'q'"),
        ([("q", "?", [Record("\udce9.txt", {"text": "one"})])], "of one of its records"),
        ([("\udce9", "?", [record])], "surrogate"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            list(rerank_many(engine(), given, journal=tmp_path / message[:4]))
    assert len(dashscope.received) == 1


def test_progress_has_the_time_left_and_the_cost(
    dashscope: LoopbackDashScope, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = tmp_path / "j"
    list(rerank_many(engine(), tasks(2), journal=journal))
    seen: list[Progress] = []
    dashscope.faults.extend([ANSWERS, refuses(400, "DataInspectionFailed")])
    list(
        rerank_many(
            engine(), tasks(5), journal=journal, progress=seen.append, total=5, on_error="keep"
        )
    )
    last = seen[-1]
    assert [each.finished for each in seen] == [1, 2, 3, 4, 5]
    assert (last.earlier, last.failed, last.usage.requests) == (2, 1, 4)
    assert last.remaining_seconds == 0
    assert last.total_cost is None  # the price at this address is not known
    half = replace(last, finished=2, total=10, seconds=3.0, earlier=1, usage=Usage(cost=0.5))
    assert half.remaining_seconds == 24.0
    assert half.total_cost == 2.5
    list(rerank_many(engine(), list(tasks(3)), progress=True))
    assert "3/3" in capsys.readouterr().err
