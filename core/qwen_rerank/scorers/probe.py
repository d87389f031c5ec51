"""Does a scorer rank? Probes that any reranker must get right, and what it means if it doesn't.

Each of six queries, three in English and three in Chinese, is scored with the same eight texts of
its language. Three of them answer one query each, so that a scorer that ignores the query can't
pass. A query is right if its answer scores above all other texts; equal scores are wrong. Random
scores get one query right in 8 attempts, so they pass a language once in 8³ = 512 attempts, and
both once in 262,144.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from qwen_rerank.errors import BadResponseError, QwenRerankError
from qwen_rerank.usage import Usage

if TYPE_CHECKING:
    from qwen_rerank.scorers.base import Scorer, Scores

__all__ = [
    "PROBES",
    "REMEDIES",
    "CheckReport",
    "Probe",
    "ProbeResult",
    "Problem",
    "acheck",
    "check",
]

Problem: TypeAlias = Literal[
    "no template",
    "double template",
    "constant",
    "wrong head",
    "reversed",
    "one language",
    "random",
    "instruction ignored",
]
"""What can be wrong with a scorer that returns scores."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A query, and texts of which one answers it.

    Attributes:
        query: The query.
        texts: The texts.
        answer: The index of the text that answers the query.
        language: `"English"` or `"Chinese"`.
    """

    query: str
    texts: tuple[str, ...]
    answer: int
    language: str


_ENGLISH = (
    "The capital of France is Paris.",
    "Penguins eat fish, squid and krill.",
    "The invoice is due within thirty days.",
    "Add the flour, then knead the dough for ten minutes.",
    "A guitar has six strings.",
    "The patch fixes a memory leak in the parser.",
    "Rain is expected on Tuesday afternoon.",
    "Photosynthesis turns light into chemical energy.",
)
_CHINESE = (
    "法国的首都是巴黎。",
    "企鹅吃鱼、乌贼和磷虾。",
    "发票应在三十天内付款。",
    "加入面粉，然后揉面十分钟。",
    "吉他有六根弦。",
    "这个补丁修复了解析器中的内存泄漏。",
    "预计星期二下午有雨。",
    "光合作用把光转化为化学能。",
)

PROBES = (
    Probe("What is the capital of France?", _ENGLISH, 0, "English"),
    Probe("What do penguins eat?", _ENGLISH, 1, "English"),
    Probe("How many strings does a guitar have?", _ENGLISH, 4, "English"),
    Probe("法国的首都是哪里？", _CHINESE, 0, "Chinese"),
    Probe("企鹅吃什么？", _CHINESE, 1, "Chinese"),
    Probe("吉他有几根弦？", _CHINESE, 4, "Chinese"),
)
"""The queries and texts of `check`."""

REMEDIES: Mapping[Problem, str] = {
    "no template": "The model runs without its prompt.",
    "double template": "The model gets its prompt twice.",
    "constant": "All texts score the same: the model does not read them, or is not a reranker.",
    "wrong head": "All texts score almost the same: the model is not a reranker, or the weights of "
    "its classifier are missing.",
    "reversed": 'The best texts score lowest: the model\'s "yes" and "no" are probably swapped.',
    "one language": "Use this scorer for the language that it ranks, or choose another model.",
    "random": "The model is probably not a reranker, or runs without its prompt.",
    "instruction ignored": "Leave out instruct, or choose a model that takes one.",
}
"""What each problem means, and what to do if the scorer knows no better."""

_OTHER_INSTRUCT = "Given a text, find texts that were written in the same century"
_NEARLY_EQUAL = 1e-3


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The scores of one probe.

    Attributes:
        probe: The query and the texts.
        scores: One score per text.
        is_right: Whether the answer ranks above all other texts.
        is_last: Whether it ranks below all others.
    """

    probe: Probe
    scores: tuple[float, ...]
    is_right: bool
    is_last: bool

    @property
    def answer(self) -> float:
        """The score of the text that answers the query."""
        return self.scores[self.probe.answer]

    @property
    def best_other(self) -> float:
        """The highest score of the texts that don't."""
        return max(self._others())

    @property
    def spread(self) -> float:
        """The difference between the highest and the lowest score."""
        return max(self.scores) - min(self.scores)

    def _others(self) -> list[float]:
        return [score for at, score in enumerate(self.scores) if at != self.probe.answer]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        scorer: The scorer, as its repr shows it.
        results: The scores of each probe, in the order of `PROBES`.
        problem: What is wrong; None if nothing is.
        remedy: What to do about it; None if nothing is wrong.
        follows_instruct: Whether another instruction changes scores; None if the scorer has none,
            or can't be asked with another one.
        usage: What the probes cost.
    """

    scorer: str
    results: tuple[ProbeResult, ...]
    problem: Problem | None = None
    remedy: str | None = None
    follows_instruct: bool | None = None
    usage: Usage = field(default_factory=Usage)

    def raise_for_problem(self) -> None:
        """Raise BadResponseError if something is wrong, with a remedy."""
        if self.problem is not None:
            raise BadResponseError(
                f"{self.scorer} failed the check: {self._finding(self.problem)}",
                remedy=self.remedy,
                usage=self.usage,
            )

    def _finding(self, problem: Problem) -> str:
        right = sum(result.is_right for result in self.results)
        if problem == "instruction ignored":
            return "its scores don't depend on the instruction."
        wrong = next(result for result in self.results if not result.is_right)
        return (
            f"{right} of {len(self.results)} queries found their answer ({problem}). For "
            f"{wrong.probe.query!r}, the answer scores {wrong.answer:.4g}, and another text "
            f"{wrong.best_other:.4g}."
        )


_Request: TypeAlias = "tuple[Scorer, Probe]"


def check(scorer: Scorer) -> CheckReport:
    """Score the probes, and tell what is wrong."""
    course = _Course(scorer)
    while course.request is not None:
        asked, probe = course.request
        with course.catching():
            course.answer(asked.score(probe.query, probe.texts))
    return course.report


async def acheck(scorer: Scorer) -> CheckReport:
    """The same as `check`, without blocking the event loop."""
    course = _Course(scorer)
    while course.request is not None:
        asked, probe = course.request
        with course.catching():
            course.answer(await asked.ascore(probe.query, probe.texts))
    return course.report


class _Course:
    """The course of a check: what to score next, and the report at the end.

    Attributes:
        request: The scorer to ask and the probe; None at the end.
        report: The report, at the end.
    """

    request: _Request | None
    report: CheckReport

    def __init__(self, scorer: Scorer) -> None:
        self._steps = _steps(scorer)
        self._advance(partial(next, self._steps))

    def answer(self, scores: Scores) -> None:
        """Go on with the scores of the request."""
        self._advance(partial(self._steps.send, scores))

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Go on with the error of the request, if it fails."""
        try:
            yield
        except QwenRerankError as error:
            self._advance(partial(self._steps.throw, error))

    def _advance(self, step: Callable[[], _Request]) -> None:
        try:
            self.request = step()
        except StopIteration as done:
            self.request, self.report = None, done.value


def _steps(scorer: Scorer) -> Generator[_Request, Scores, CheckReport]:
    """The whole check: yields what to score, and is sent the scores."""
    usage = [Usage()]
    try:
        return (yield from _diagnosed(scorer, usage))
    except QwenRerankError as error:
        total = usage[0] + (error.usage or Usage())
        error.usage = None if total == Usage() else total
        raise


def _diagnosed(scorer: Scorer, usage: list[Usage]) -> Generator[_Request, Scores, CheckReport]:
    results = yield from _results(scorer, PROBES, usage)
    problem, follows = _diagnosis(results), None
    if problem is None:
        follows = yield from _follows_instruct(scorer, results[0], usage)
        problem = "instruction ignored" if follows is False else None
    else:
        for cause, variant in scorer._variants_to_check().items():
            if (yield from _passes(variant, usage)):
                problem = cause
    remedy = None if problem is None else scorer._remedy_for(problem)
    return CheckReport(repr(scorer), results, problem, remedy, follows, usage[0])


def _results(
    scorer: Scorer, probes: Sequence[Probe], usage: list[Usage]
) -> Generator[_Request, Scores, tuple[ProbeResult, ...]]:
    from qwen_rerank.scorers.base import checked

    results = []
    for probe in probes:
        scores = checked((yield scorer, probe), len(probe.texts), scorer.model)
        usage[0] += scores.usage
        if scores.unranked:
            raise BadResponseError(
                f"{scorer!r} failed the check: no model scored the texts, which kept their order.",
                remedy="The log says which scorer failed. Check each scorer on its own.",
            )
        results.append(_result(probe, scores))
    return tuple(results)


def _result(probe: Probe, scores: Scores) -> ProbeResult:
    count = len(probe.texts)
    tiers, ties = scores.tiers or [0] * count, scores.tie_breakers or [0.0] * count
    keys = [(-tier, *rest) for tier, *rest in zip(tiers, scores.values, ties, strict=True)]
    answer = keys.pop(probe.answer)
    is_right, is_last = answer > max(keys), answer < min(keys)
    return ProbeResult(probe, tuple(scores.values), is_right=is_right, is_last=is_last)


def _passes(scorer: Scorer, usage: list[Usage]) -> Generator[_Request, Scores, bool]:
    """Whether all answers rank first. A variant that the server refuses does not pass."""
    try:
        results = yield from _results(scorer, PROBES, usage)
    except QwenRerankError as error:
        usage[0] += error.usage or Usage()
        return False
    return all(result.is_right for result in results)


def _follows_instruct(
    scorer: Scorer, result: ProbeResult, usage: list[Usage]
) -> Generator[_Request, Scores, bool | None]:
    """Whether another instruction changes the scores of a probe."""
    other = scorer._with_instruct(_OTHER_INSTRUCT)
    if other is None:
        return None
    (changed,) = yield from _results(other, [result.probe], usage)
    return changed.scores != result.scores


def _diagnosis(results: Sequence[ProbeResult]) -> Problem | None:
    """What the scores alone tell."""
    if all(result.is_right for result in results):
        return None
    spread = max(result.spread for result in results)
    if spread == 0:
        return "constant"
    if spread < _NEARLY_EQUAL:
        return "wrong head"
    if sum(result.is_last for result in results) >= len(results) - 1:
        return "reversed"
    languages = {result.probe.language for result in results}
    wrong = {result.probe.language for result in results if not result.is_right}
    return "one language" if wrong != languages else "random"
