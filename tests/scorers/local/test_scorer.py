"""LocalScorer as a scorer: usage, threads, event loops, interruption, memory."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, LocalScorer
from tests.contract.faces import FACES, Face, Item
from tests.scorers.local import WHY_SKIPPED
from tests.scorers.local.conftest import During

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)

from qwen_rerank.scorers.local import batching
from qwen_rerank.scorers.local.batching import batch_size
from qwen_rerank.scorers.local.threads import gain_of_threads, worth_splitting

QUERY = "how much krill"
TEXTS = ["penguins eat krill", "markets fell", "企鹅吃磷虾", "penguins lay eggs on bare rock"]
WAIT = 30  # seconds until a test counts as hanging


def test_the_usage_counts_computed_tokens(shared: LocalScorer) -> None:
    one = shared.score(QUERY, TEXTS[:1]).usage
    two = shared.score(QUERY, TEXTS[:2]).usage
    assert (one.requests, one.texts_sent, two.texts_sent) == (0, 1, 2)
    second = two.tokens - one.tokens
    assert 9 < second < one.tokens / 2  # the text and the suffix, without the shared tokens


def test_equal_texts_are_computed_once(shared: LocalScorer) -> None:
    twice = shared.score(QUERY, [*TEXTS, *TEXTS])
    once = shared.score(QUERY, TEXTS)
    assert twice.values == once.values * 2
    assert twice.usage.tokens == once.usage.tokens
    assert twice.usage.texts_sent == 8


def test_no_texts_have_no_scores(shared: LocalScorer) -> None:
    assert shared.score(QUERY, []).values == []


@pytest.mark.parametrize("query", ["", None])
def test_a_blank_query_is_refused(shared: LocalScorer, query: Any) -> None:
    with pytest.raises(InvalidInputError, match="query"):
        shared.score(query, TEXTS)


def test_a_lone_surrogate_is_refused(shared: LocalScorer) -> None:
    with pytest.raises(InvalidInputError, match="Text 1 contains half of a surrogate pair"):
        shared.score(QUERY, ["fine", "not \ud83d"])
    with pytest.raises(InvalidInputError, match="The query contains half of a surrogate pair"):
        shared.score("not \ud83d", TEXTS)


@pytest.mark.parametrize("text", [None, b"bytes"])
def test_a_text_must_be_a_string(shared: LocalScorer, text: Any) -> None:
    with pytest.raises(InvalidInputError, match="Text 0 must be a string"):
        shared.score(QUERY, [text])


def test_closing_releases_the_model(folder: str) -> None:
    scorer = LocalScorer(folder)
    assert scorer._loaded is not None
    model = weakref.ref(scorer._loaded.runner._decoder._model)
    scorer.score(QUERY, TEXTS)
    scorer.close()
    gc.collect()
    assert model() is None
    with pytest.raises(InvalidInputError, match="closed"):
        scorer.score(QUERY, TEXTS)


def test_closing_refuses_new_calls_before_it_ends_the_thread(
    scorer: LocalScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = scorer._worker.close

    def score_and_close() -> None:
        with pytest.raises(InvalidInputError, match="closed"):
            scorer.score(QUERY, TEXTS)
        close()

    monkeypatch.setattr(scorer._worker, "close", score_and_close)
    scorer.close()
    assert scorer._worker._pool is None


def test_a_pickle_has_the_options_but_not_the_weights(folder: str) -> None:
    scorer = LocalScorer(folder, instruct="Find what is alike", dtype="float32", max_length=200)
    pickled = pickle.dumps(scorer)
    assert len(pickled) < 1_000
    assert pickle.loads(pickled).score(QUERY, TEXTS).values == scorer.score(QUERY, TEXTS).values


def test_calls_from_many_threads_are_computed_one_after_another(
    scorer: LocalScorer, during: During
) -> None:
    threads: set[int] = set()
    noted = during(scorer, lambda tokens: threads.add(threading.get_ident()))
    with noted, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: scorer.score(QUERY, TEXTS).values, range(16)))
    assert results == [results[0]] * 16
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_the_event_loop_is_not_blocked(scorer: LocalScorer, during: During) -> None:
    running, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(tokens: int) -> None:
        loop.call_soon_threadsafe(running.set)
        assert go_on.wait(WAIT)

    with during(scorer, wait):
        scoring = asyncio.create_task(scorer.ascore(QUERY, TEXTS))
        await running.wait()
        go_on.set()
        assert len((await scoring).values) == 4


async def test_a_cancelled_call_ends_before_the_next_batch(
    scorer: LocalScorer, during: During
) -> None:
    running, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    batches = []

    def wait(tokens: int) -> None:
        batches.append(tokens)
        loop.call_soon_threadsafe(running.set)
        assert go_on.wait(WAIT)

    with during(scorer, wait):
        scoring = asyncio.create_task(scorer.ascore(QUERY, TEXTS))
        await running.wait()
        scoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scoring
        go_on.set()
        await scorer.aclose()  # waits for the batch
    assert len(batches) == 1


async def test_a_call_that_is_cancelled_while_it_waits_is_not_computed(
    scorer: LocalScorer, during: During
) -> None:
    running, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    passes = []

    def wait(tokens: int) -> None:
        passes.append(tokens)
        loop.call_soon_threadsafe(running.set)
        assert go_on.wait(WAIT)

    with during(scorer, wait):
        first = asyncio.create_task(scorer.ascore(QUERY, TEXTS[:1]))
        await running.wait()
        second = asyncio.create_task(scorer.ascore(QUERY, TEXTS[1:]))
        await asyncio.sleep(0)
        second.cancel()
        go_on.set()
        assert len((await first).values) == 1
        await scorer.aclose()
    assert len(passes) == 2  # the shared tokens and the text of the first call


def test_an_interrupted_call_leaves_the_scorer_usable(scorer: LocalScorer, during: During) -> None:
    main = threading.main_thread().ident
    assert main is not None
    passes = []

    def interrupt(tokens: int) -> None:
        passes.append(tokens)
        if len(passes) == 1:
            signal.pthread_kill(main, signal.SIGINT)
            assert interrupted.wait(WAIT)

    interrupted = threading.Event()
    with during(scorer, interrupt):
        with pytest.raises(KeyboardInterrupt):
            scorer.score(QUERY, TEXTS)
        interrupted.set()
        assert len(scorer.score(QUERY, TEXTS).values) == 4
    assert len(passes) - 4 in (1, 2)  # each text by itself, and the prefix, which may be kept


def _score_in_child(scorer: LocalScorer, pipe: Connection) -> None:
    pipe.send(scorer.score(QUERY, TEXTS).values)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_can_score(scorer: LocalScorer) -> None:
    expected = scorer.score(QUERY, TEXTS).values
    ours, theirs = get_context("fork").Pipe()
    child = get_context("fork").Process(target=_score_in_child, args=(scorer, theirs))
    child.start()
    try:
        assert ours.poll(WAIT)
        assert ours.recv() == expected
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_every_face_ranks_by_the_scores(shared: LocalScorer, face: type[Face]) -> None:
    made = face(QUERY, scorer=shared)
    items = [made.make(Item(text, {"text": text})) for text in TEXTS]
    scores = dict(zip(TEXTS, shared.score(QUERY, TEXTS).values, strict=True))
    for ranked in (made.rank(items), asyncio.run(made.arank(items))):
        pairs = [(item.id, item.score) for item in map(made.read, ranked)]
        assert pairs == sorted(scores.items(), key=lambda pair: -pair[1])


def out_of_memory_above(most: int, error: Exception) -> Any:
    def act(tokens: int) -> None:
        if tokens > most:
            raise error

    return act


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
MPS = RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB, max allowed: 6.80 GB).")
MPS_BUFFER = RuntimeError("Invalid buffer size: 19.45 GB")


@pytest.mark.parametrize("error", [CUDA, MPS, MPS_BUFFER], ids=["cuda", "mps", "mps buffer"])
def test_batches_are_halved_until_they_fit_also_for_later_calls(
    folder: str, during: During, error: Exception
) -> None:
    texts = [f"{text} {number}" for text in TEXTS for number in range(10)]
    with LocalScorer(folder, device="cpu", dtype="float32") as scorer:
        expected = scorer.score(QUERY, texts).values
        tried: list[int] = []
        with during(scorer, tried.append), during(scorer, out_of_memory_above(100, error)):
            assert scorer.score(QUERY, texts).values == pytest.approx(expected, abs=1e-6)
            assert tried[1] <= 100
            retried = len(tried)
            scorer.score(QUERY, texts)
        assert max(tried) <= 100
        assert len(tried) == 2 * retried  # the second call had no failed attempts


def test_other_errors_of_the_device_are_raised(scorer: LocalScorer, during: During) -> None:
    failing = out_of_memory_above(0, RuntimeError("device-side assert triggered"))
    with during(scorer, failing), pytest.raises(RuntimeError, match="device-side assert"):
        scorer.score(QUERY, TEXTS)
    assert len(scorer.score(QUERY, TEXTS).values) == 4


def test_a_single_text_that_does_not_fit_is_an_error(scorer: LocalScorer, during: During) -> None:
    with during(scorer, out_of_memory_above(100, MPS)):
        with pytest.raises(InvalidInputError, match=r"Not enough device memory.*max_length"):
            scorer.score(QUERY, ["krill " * 200, *TEXTS])
        with pytest.raises(InvalidInputError, match="Not enough device memory"):
            scorer.score(QUERY * 100, TEXTS)
        assert len(scorer.score(QUERY, TEXTS).values) == 4


@pytest.mark.parametrize(("batch_tokens", "size"), [(1, 1), (5, 1), (8, 2), (100, 3)])
def test_a_batch_has_as_many_sequences_as_fit_or_one(batch_tokens: int, size: int) -> None:
    assert batch_size([(0,) * 5, (0,) * 3, (0,)], batch_tokens) == size


def test_threads_give_the_same_scores_and_leave_the_defaults_of_torch(
    folder: str, shared: LocalScorer
) -> None:
    texts = [f"{text} {number}" for text in TEXTS for number in range(10)]
    expected = shared.score(QUERY, texts).values
    with LocalScorer(folder, device="cpu", dtype="float32", batch_tokens=100) as scorer:
        assert scorer._loaded is not None
        runner = scorer._loaded.runner
        runner._threads, runner._gain = 3, 2.0
        users: set[str] = set()
        decoder: Any = runner._decoder
        logits = decoder.logits

        def noted(*args: Any) -> Any:
            users.add(threading.current_thread().name)
            return logits(*args)

        decoder.logits = noted
        assert scorer.score(QUERY, texts).values == pytest.approx(expected, abs=1e-6)
    assert len(users) > 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads()


@pytest.mark.parametrize(
    ("batches", "gain", "worth"),
    [
        ([9, 9], 1.1, True),
        ([9, 9], 0.9, False),
        ([9], 1.9, False),
        ([9, 3], 1.4, False),
        ([], 2, 0),
    ],
)
def test_batches_are_computed_in_threads_if_that_is_sooner(
    batches: list[int], gain: float, worth: bool
) -> None:
    assert worth_splitting(batches, 2, gain) == worth


def test_the_gain_of_threads_is_measured(shared: LocalScorer) -> None:
    assert shared._loaded is not None
    gain = gain_of_threads(shared._loaded.runner._decoder, 2)
    assert gain == 1.0 or gain >= 1.05


@pytest.mark.parametrize("progress", [True, False])
def test_long_calls_show_their_progress_if_asked(
    folder: str, progress: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batching, "_PROGRESS_DELAY", 0.0)
    with LocalScorer(folder, progress=progress, batch_tokens=1) as scorer:
        capfd.readouterr()
        scorer.score(QUERY, TEXTS)
    assert ("100%" in capfd.readouterr().err) is progress


def test_short_calls_show_no_progress(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    with LocalScorer(folder, progress=True) as scorer:
        capfd.readouterr()
        scorer.score(QUERY, TEXTS)
    assert capfd.readouterr().err == ""


def test_the_repr_names_the_model(shared: LocalScorer, folder: str) -> None:
    assert shared.model == folder
    assert repr(shared) == f"LocalScorer(model={folder!r})"
