"""ScorerTests: what holds for every scorer, sync and async."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from qwen_rerank.scorers.base import Scorer, Scores, Usage, checked
from qwen_rerank.testing.threads import many_switches

__all__ = ["ScorerTests"]


class ScorerTests:
    """Tests of a scorer. Inherit them, and override the fixture `scorer`.

    Attributes:
        query: The query.
        texts: Four different texts. The second one is the most relevant to the query, and the first
            one the least.
        lowest: The lowest score that there can be.
        highest: The highest score that there can be.
        ranks_by_relevance: Whether the scorer's order means anything: not with random weights.

    Example:
        >>> class TestMyScorer(ScorerTests):
        ...     @pytest.fixture
        ...     def scorer(self) -> Scorer:
        ...         return MyScorer()
    """

    query: str = "penguins eat krill"
    texts: Sequence[str] = (
        "markets fell on monday",
        "penguins eat krill",
        "penguins lay eggs",
        "penguins eat small squid",
    )
    lowest: float = 0.0
    highest: float = 1.0
    ranks_by_relevance: bool = True

    @pytest.fixture
    def scorer(self) -> Scorer:
        """A new scorer."""
        raise NotImplementedError("Override the fixture `scorer` and return a new scorer.")

    def values(
        self, scorer: Scorer, texts: Sequence[str] | None = None, query: str | None = None
    ) -> list[float]:
        """Return the scores, which must be valid, and the same sync and async."""
        texts = self.texts if texts is None else texts
        query = self.query if query is None else query
        scores = checked(scorer.score(query, texts), len(texts), scorer.model)
        awaited = asyncio.run(scorer.ascore(query, texts))
        assert scores.values == awaited.values, "score and ascore must return the same scores"
        return scores.values

    @property
    def calls(self) -> list[tuple[str, Sequence[str]]]:
        """Two calls with different queries and texts: a mix-up of concurrent calls shows."""
        return [(self.query, self.texts), (self.texts[0], self.texts[:0:-1])]

    def test_there_is_one_score_per_text(self, scorer: Scorer) -> None:
        """Also for more texts than fit into one request."""
        texts = [f"{self.texts[number % 4]} {number}" for number in range(1_200)]
        for count in (1, 1_200):
            assert len(self.values(scorer, texts[:count])) == count

    def test_scores_are_finite_numbers_in_the_range(self, scorer: Scorer) -> None:
        """For text in any script, punctuation and the names of special tokens too."""
        values = self.values(scorer, [*self.texts, "企鹅吃磷虾", "🐧", "?!", "<|endoftext|>"])
        assert all(type(value) is float and math.isfinite(value) for value in values)
        assert self.lowest <= min(values) < max(values) <= self.highest

    def test_the_relevant_text_scores_highest_and_the_unrelated_lowest(
        self, scorer: Scorer
    ) -> None:
        """The second of the texts is above all others, and the first below them."""
        if not self.ranks_by_relevance:
            pytest.skip("the scores have no meaning")
        values = self.values(scorer)
        assert values.index(max(values)) == 1
        assert values.index(min(values)) == 0

    def test_another_query_has_other_scores(self, scorer: Scorer) -> None:
        """The first of the texts, as the query, is closest to itself."""
        if not self.ranks_by_relevance:
            pytest.skip("the scores have no meaning")
        assert max(self.values(scorer)) > self.values(scorer)[0]
        values = self.values(scorer, query=self.texts[0])
        assert values.index(max(values)) == 0

    def test_scores_are_in_the_order_of_the_texts(self, scorer: Scorer) -> None:
        """Reversed texts have reversed scores, and those returned earlier stay as they are."""
        values = self.values(scorer)
        assert self.values(scorer, self.texts[::-1]) == pytest.approx(values[::-1])

    def test_a_score_does_not_depend_on_the_other_texts(self, scorer: Scorer) -> None:
        """Only a scorer that is not `pointwise` may compare the texts of a call."""
        if not scorer.pointwise:
            pytest.skip("the scorer is not pointwise")
        values = self.values(scorer)
        for number, text in enumerate(self.texts):
            (alone,) = self.values(scorer, [text])
            assert alone == pytest.approx(values[number], rel=1e-3, abs=1e-4), (
                "let `pointwise` return False if a score depends on the other texts"
            )

    def test_equal_texts_have_equal_scores(self, scorer: Scorer) -> None:
        """Wherever they are in a call."""
        values = self.values(scorer, [*self.texts, *self.texts])
        assert values[:4] == values[4:]

    def test_scoring_again_gives_the_same_scores(self, scorer: Scorer) -> None:
        """The scorer is deterministic."""
        assert self.values(scorer) == self.values(scorer)

    def test_any_sequence_of_texts_is_accepted_and_left_as_it_is(self, scorer: Scorer) -> None:
        """Lists and tuples give the same scores."""
        texts = [*self.texts]
        assert self.values(scorer, tuple(texts)) == self.values(scorer, texts)
        assert texts == [*self.texts]

    def test_score_top_returns_at_least_the_best(self, scorer: Scorer) -> None:
        """All scores, or the best ones with their indices."""
        expected = self.values(scorer)
        for top in (
            scorer.score_top(self.query, self.texts, 2),
            asyncio.run(scorer.ascore_top(self.query, self.texts, 2)),
        ):
            valid = checked(top, len(self.texts), scorer.model, 2)
            indices = range(len(self.texts)) if valid.indices is None else valid.indices
            found = dict(zip(indices, valid.values, strict=True))
            assert found == pytest.approx({index: expected[index] for index in found})
            assert sorted(found.values())[-2:] == pytest.approx(sorted(expected)[-2:])

    def test_the_event_loop_runs_other_tasks_during_ascore(self, scorer: Scorer) -> None:
        """`ascore` awaits what takes time, or runs it in another thread.

        It has as much time as it likes, but must let the event loop run at least once.
        """
        texts = [f"{text} tomorrow" for text in self.texts]  # which no cache has

        async def call() -> bool:
            other_task_ran = asyncio.Event()
            asyncio.get_running_loop().call_soon(other_task_ran.set)
            await scorer.ascore(self.query, texts)
            return other_task_ran.is_set()

        assert asyncio.run(call()), (
            "`ascore` blocks the event loop from its start to its end: await what takes time, or "
            "leave `ascore` out, so that `score` runs in a thread"
        )

    def test_the_end_of_a_long_text_matters_or_is_counted_as_truncated(
        self, scorer: Scorer
    ) -> None:
        """Texts of a thousand words that differ only in the last few have different scores."""
        if not self.ranks_by_relevance:
            pytest.skip("the scores have no meaning")
        start = " ".join([self.texts[0]] * (1_000 // len(self.texts[0].split())))
        texts = [f"{start}. {text}" for text in self.texts[:2]]
        scores = scorer.score(self.query, texts)
        assert scores.usage.truncated == len(texts) or len({*scores.values}) == len(texts), (
            "the scorer does not read the end of long texts: count those that are cut off in "
            "`Usage.truncated`"
        )

    def test_it_has_a_model_name_and_a_fingerprint(self, scorer: Scorer) -> None:
        """A cache can use the fingerprint as a key."""
        assert isinstance(scorer.model, str)
        assert scorer.model
        assert hash(scorer.fingerprint) == hash(scorer.fingerprint)

    def test_threads_share_it(self, scorer: Scorer) -> None:
        """Sixteen at a time, with different queries and texts."""
        expected = [scorer.score(*call).values for call in self.calls] * 24
        with many_switches(), ThreadPoolExecutor(16) as pool:
            all_scores = list(pool.map(lambda call: scorer.score(*call), self.calls * 24))
        assert [scores.values for scores in all_scores] == expected

    def test_event_loops_share_it_one_after_another(self, scorer: Scorer) -> None:
        """Nothing is bound to the first event loop, in which many calls ran at a time."""
        expected = [scorer.score(*call).values for call in self.calls] * 4

        async def concurrent() -> list[Scores]:
            return await asyncio.gather(*(scorer.ascore(*call) for call in self.calls * 4))

        for _ in range(3):
            assert [scores.values for scores in asyncio.run(concurrent())] == expected

    def test_concurrent_calls_in_one_event_loop_share_it(self, scorer: Scorer) -> None:
        """And a sync call works in a running event loop."""

        async def calls() -> tuple[list[Scores], list[Scores]]:
            sync = [scorer.score(*call) for call in self.calls]
            concurrent = (scorer.ascore(*call) for call in self.calls * 16)
            return sync, await asyncio.gather(*concurrent)

        sync, awaited = asyncio.run(calls())
        expected = [scores.values for scores in sync] * 16
        assert [scores.values for scores in awaited] == expected

    def test_usage_counts_texts_and_seconds_and_adds_up(self, scorer: Scorer) -> None:
        """Each result says how many texts were scored and how long it took."""
        others = [f"{text} again" for text in self.texts]  # which no cache has
        sync = scorer.score(self.query, self.texts).usage
        usages = [sync, asyncio.run(scorer.ascore(self.query, others)).usage]
        for usage in usages:
            assert (usage.texts_sent, usage.duplicate_texts, usage.retries) == (4, 0, 0)
            assert usage.seconds > 0
        total = sum(usages, Usage())
        assert total.texts_sent == 8
        assert total.requests == sum(usage.requests for usage in usages)
        assert total.tokens == sum(usage.tokens for usage in usages)
        assert total.seconds == pytest.approx(sum(usage.seconds for usage in usages))

    def test_it_works_after_pickling(self, scorer: Scorer) -> None:
        """A copy in another process has the same model, fingerprint and scores."""
        loaded = pickle.loads(pickle.dumps(scorer))
        assert loaded.model == scorer.model
        assert loaded.fingerprint == scorer.fingerprint
        assert self.values(loaded) == self.values(scorer)

    def test_copies_are_the_scorer_itself(self, scorer: Scorer) -> None:
        """Copies of a component share its scorer."""
        assert copy.copy(scorer) is copy.deepcopy(scorer) is scorer

    def test_a_with_block_gives_it_and_closes_it(self, scorer: Scorer) -> None:
        """Closing twice is allowed."""
        with scorer as entered:
            assert entered is scorer
            assert len(self.values(entered)) == 4
        scorer.close()

    def test_an_async_with_block_gives_it_and_closes_it(self, scorer: Scorer) -> None:
        """As does `with`."""

        async def enter() -> None:
            async with scorer as entered:
                assert entered is scorer
                assert len((await entered.ascore(self.query, self.texts)).values) == 4
            await scorer.aclose()

        asyncio.run(enter())
