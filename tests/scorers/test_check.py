"""`check`: what it finds wrong with servers that behave as real ones do when set up wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest

from qwen_rerank import (
    BadResponseError,
    FallbackScorer,
    KeepOrder,
    Scorer,
    Scores,
    ServerScorer,
    ServiceError,
    Usage,
)
from qwen_rerank.scorers import probe
from qwen_rerank.scorers.probe import PROBES, CheckReport
from qwen_rerank.testing import FakeScorer
from tests.support.prompted import Completions, PromptedVLLM

Check = Callable[[Scorer], CheckReport]


@pytest.fixture(params=["check", "acheck"])
def check(request: pytest.FixtureRequest) -> Check:
    """Check, or await a check."""
    if request.param == "check":
        return Scorer.check
    return lambda scorer: asyncio.run(scorer.acheck())


def scorer_of(server: Any, **options: Any) -> ServerScorer:
    return ServerScorer(server.root, **{"dialect": "vllm", "max_retries": 0, **options})


def reversed_(score: float, query: str) -> float:
    return 1 - score


def constant(score: float, query: str) -> float:
    return 0.5


def headless(score: float, query: str) -> float:
    return 1e-9 * random(score, query)


def random(score: float, query: str) -> float:
    return crc32(str(score).encode()) / 2**32


def only_english(score: float, query: str) -> float:
    return score if query.isascii() else random(score, query)


class OnlyEqual(Scorer):
    """Gives the answer and one more text the same score."""

    model = "equal"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        (answer,) = (probe.answer for probe in PROBES if probe.query == query)
        return Scores([0.9 if at in (answer, 7) else 0.1 for at in range(len(texts))])


def test_a_server_passes_that_is_set_up_correctly(check: Check) -> None:
    with PromptedVLLM(has_template=True) as server:
        report = check(scorer_of(server, instruct="Find the answer."))
    assert report.problem is None
    assert report.follows_instruct is True
    assert [result.is_right for result in report.results] == [True] * 6
    assert (report.usage.requests, report.usage.texts_sent) == (7, 56)


@pytest.mark.parametrize("server", [PromptedVLLM(), Completions()], ids=["vllm", "completions"])
def test_a_server_passes_that_gets_the_prompt_from_us(server: Any) -> None:
    options = {"dialect": "completions"} if isinstance(server, Completions) else {"prompt": "qwen3"}
    with server:
        report = scorer_of(server, **options).check()
    assert report.follows_instruct is None


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        (constant, "constant", "--hf_overrides"),
        (headless, "wrong head", "weights of its classifier"),
        (reversed_, "reversed", "swapped"),
        (random, "random", "--hf_overrides"),
        (only_english, "one language", "Use this scorer for the language that it ranks"),
    ],
)
def test_a_server_that_ranks_wrongly_fails_with_its_diagnosis(
    check: Check, change: Any, problem: str, remedy: str
) -> None:
    with (
        PromptedVLLM(has_template=True, change=change) as server,
        pytest.raises(BadResponseError, match=rf"\({problem}\).*{remedy}") as failure,
    ):
        check(scorer_of(server))
    assert failure.value.usage is not None
    assert failure.value.usage.texts_sent >= 48


def test_a_server_without_a_template_is_told_apart(check: Check) -> None:
    match = r"\(no template\).*Pass prompt=\"qwen3\""
    with PromptedVLLM() as server, pytest.raises(BadResponseError, match=match):
        check(scorer_of(server))


def test_a_double_template_is_told_apart(check: Check) -> None:
    match = r"\(double template\).*Leave out prompt"
    with (
        PromptedVLLM(has_template=True) as server,
        pytest.raises(BadResponseError, match=match),
    ):
        check(scorer_of(server, prompt="qwen3"))


def test_a_server_that_ignores_the_instruction_fails(check: Check) -> None:
    match = "don't depend on the instruction.*prompt="
    with (
        PromptedVLLM(has_template=True, reads_instruct=False) as server,
        pytest.raises(BadResponseError, match=match),
    ):
        check(scorer_of(server, instruct="Find the answer."))


def test_equal_scores_are_not_right() -> None:
    with pytest.raises(BadResponseError, match="0 of 6"):
        OnlyEqual().check()


def test_random_scores_pass_less_than_once_in_500_attempts() -> None:
    """The texts are enough, and each answer is a wrong text for other queries of its language."""
    luck: dict[str, float] = {}
    for each in PROBES:
        luck[each.language] = luck.get(each.language, 1.0) / len({*each.texts})
    assert len(luck) == 2
    assert max(luck.values()) < 1 / 500
    assert len({(each.language, each.answer) for each in PROBES}) == len(PROBES)


def test_a_fallback_that_keeps_the_order_is_not_a_model_that_ranks_wrongly(check: Check) -> None:
    down = ServerScorer("http://127.0.0.1:9/rerank", max_retries=0)
    with pytest.raises(BadResponseError, match=r"no model scored the texts.*The log says"):
        check(FallbackScorer(down, KeepOrder()))


def test_a_check_that_fails_on_the_way_says_what_it_cost() -> None:
    class FailsLater(FakeScorer):
        asked = 0

        def score(self, query: str, texts: Sequence[str]) -> Scores:
            self.asked += 1
            if self.asked == 3:
                raise ServiceError("Down.", usage=Usage(tokens=5))
            return replace(super().score(query, texts), usage=Usage(requests=1, tokens=10))

    with pytest.raises(ServiceError) as failure:
        FailsLater().check()
    assert failure.value.usage == Usage(requests=2, tokens=25)


def test_a_check_that_cannot_be_made_raises_the_servers_error() -> None:
    with PromptedVLLM() as server, pytest.raises(Exception, match="does not exist"):
        probe.check(scorer_of(server, model="another"))
