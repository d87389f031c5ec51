"""The one way through: records in, the same records out, best first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import iscoroutinefunction
from itertools import chain
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, get_args, overload

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import TEXT_ONLY, Item, check_modalities, checked_query
from qwen_rerank.inputs.fields import RerankField, item_reader
from qwen_rerank.ranking.ordering import Ordering, Prepared
from qwen_rerank.ranking.records import Lists, Record, as_lists, fair_order, identity, ranks
from qwen_rerank.scorers.base import Scorer, Scores, Usage, check_scorer, checked
from qwen_rerank.telemetry import ranking_span
from qwen_rerank.validation import check_top_n

__all__ = ["MANY", "Missing", "Ranking", "RerankEngine", "UsageCallback", "offloaded"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Missing: TypeAlias = Literal["skip", "keep", "error"]
"""What happens to a record without text: left out, kept behind the ranked ones, or refused."""

UsageCallback: TypeAlias = Callable[[Usage], object]
"""Is told what each ranking cost."""


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Record]):
    """Records, best first: a sequence.

    Attributes:
        records: The records, each with its relevance score; None for those that were kept without
            text, and for those that a CascadeScorer's second scorer did not see.
        usage: What the ranking cost.
        skipped: How many records were left out because their text is missing or blank.
        duplicates: How many were left out because another one with their id came before.
        over_budget: How many were left out because of max_candidates.
        model: The name of the model that gave the scores.
        unranked: Whether none did, and the records are in retrieval order with retrieval scores.
    """

    records: tuple[Record, ...]
    usage: Usage
    skipped: int
    duplicates: int = 0
    over_budget: int = 0
    model: str = ""
    unranked: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What a trace reports of the ranking beside its records, as plain values."""
        return {
            "model": self.model,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "over_budget": self.over_budget,
            "usage": asdict(self.usage),
        }

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


class RerankEngine:
    """Ranks records by a scorer's relevance scores.

    Records are deduplicated by id, the first one with a text wins. Equal texts are scored once.
    Equal scores keep the order in which the records came. The records passed in are never changed.

    Args:
        scorer: Gives the scores.
        rerank_field: Where a record's text is: the name of a field; several names, for a text of
            `name: value` lines; a format string of names, such as `"{title}\\n{content}"`; or a
            function from record to text. A `Content` or content blocks can stand in place of text.
        missing: What to do with a record whose text is missing or blank: `"skip"` leaves it out
            and counts it, `"keep"` puts it behind the ranked ones with no score, `"error"` raises.
            That none has a text, as where `rerank_field` has a typo, is logged as a warning.
        min_score: Records that score less are left out; None for no threshold.
        max_candidates: How many records to score at most, at least 1: the first ones, of several
            lists an equal share of each; None for all.
        blend: The weight, in [0, 1], of the retrieval order in the score of a record, which is then
            (1 - blend) · relevance + blend / rank, with rank from 1; None or 0 for relevance alone.
            `min_score` is compared with the relevance.
        diversity: How much, in [0, 1], what is returned should differ in content rather than be
            relevant: maximal marginal relevance over offline vectors; None or 0 for not at all.
            Records are then in the order in which they were chosen, not in that of their scores.
        usage_callback: Is called, not awaited, with the usage of each ranking. What it raises is
            logged.

    Raises:
        InvalidInputError: An argument that can't be used.
        MissingDependencyError: `diversity` without the extra `embedded`.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        rerank_field: RerankField,
        missing: Missing = "skip",
        min_score: float | None = None,
        max_candidates: int | None = None,
        blend: float | None = None,
        diversity: float | None = None,
        usage_callback: UsageCallback | None = None,
    ) -> None:
        if missing not in get_args(Missing):
            raise InvalidInputError(
                f"missing must be one of {', '.join(get_args(Missing))}, got {missing!r}."
            )
        check_top_n(max_candidates, "max_candidates")
        check_scorer(scorer, "scorer must be a Scorer")
        _check_callback(usage_callback)
        self.scorer = scorer
        self._item = item_reader(rerank_field)
        self._missing = missing
        self._ordering = Ordering(min_score, blend, diversity)
        self._max_candidates = max_candidates
        self._usage_callback = usage_callback

    def rerank(
        self,
        query: Item,
        records: Iterable[Record] | Mapping[str, Iterable[Record]],
        top_n: int | None = None,
    ) -> Ranking:
        """Rank the records for the query.

        Args:
            query: What the records should be relevant to, a text that is not blank or a `Content`.
            records: The records, in the first stage's order; or the lists of several first stages
                by name. A record is told apart by its id, and knows the lists that it was in.
            top_n: How many to return at most, at least 1; None for all.

        Raises:
            InvalidInputError: Blank query, bad top_n, a missing text under `missing="error"`, or an
                image or a video that the scorer does not take. Nothing has been sent then.
            QwenRerankError: Whatever the scorer raises, and BadResponseError where it returns
                anything but one finite score a text.
        """
        lists = as_lists(records)
        with ranking_span(self.scorer.model, lists, top_n) as span:
            prepared = self.prepare(query, lists, top_n)
            scores = self.scorer.score(*prepared.arguments) if prepared.items else Scores([])
            return span.ranked(self.finish(prepared, scores))

    async def arerank(
        self,
        query: Item,
        records: Iterable[Record] | Mapping[str, Iterable[Record]],
        top_n: int | None = None,
    ) -> Ranking:
        """The same as `rerank`, without blocking the event loop."""
        lists = as_lists(records)
        with ranking_span(self.scorer.model, lists, top_n) as span:
            reads_files = self.scorer.modalities != TEXT_ONLY
            is_long = reads_files or sum(map(len, lists.values())) > MANY
            prepared = await offloaded(is_long, self.prepare, query, lists, top_n)
            scores = Scores([])
            if prepared.items:
                scores = await self.scorer.ascore(*prepared.arguments)
            is_long = self._ordering.takes_long
            return span.ranked(await offloaded(is_long, self.finish, prepared, scores))

    def prepare(self, query: Item, lists: Lists, top_n: int | None) -> Prepared:
        """Check the input and find the different items in it."""
        query = checked_query(query)
        check_top_n(top_n)
        given = list(chain.from_iterable(lists.values()))
        found, read, textless = self._read(given)
        records = found
        if self._max_candidates is not None:
            candidates = sorted(fair_order(found, lists)[: self._max_candidates])
            records = [found[place] for place in candidates]
            read = [read[place] for place in candidates]
        taken, model = self.scorer.modalities, self.scorer.model
        check_modalities(taken, model, query, read, lambda place: f"Record {records[place].id!r}")
        items: dict[Item, int] = {}
        return Prepared(
            query=query,
            places=[items.setdefault(item, len(items)) for item in read],
            items=list(items),
            records=records,
            textless=textless,
            lists=lists,
            duplicates=len(given) - len(found) - len(textless),
            over_budget=len(found) - len(records),
            top_n=top_n,
        )

    def _read(self, given: list[Record]) -> tuple[list[Record], list[Item], list[Record]]:
        """The records that have something to score, what that is, and the records without.

        Of those with one id the first that has something.
        """
        found: dict[object, Record] = {}
        items: list[Item] = []
        without: dict[object, Record] = {}
        for record in given:
            key = identity(record)
            if key in found:
                continue
            item = self._item(record)
            if item is None:
                without.setdefault(key, record)
            else:
                found[key] = record
                items.append(item)
        textless = [record for key, record in without.items() if key not in found]
        if textless and self._missing == "error":
            raise InvalidInputError(
                f"{len(textless)} records have no text to rank, the first is {textless[0].id!r}.",
                remedy='Check rerank_field, or pass missing="skip" or missing="keep".',
            )
        if textless and not found:
            _log.warning(
                "None of %d records has a text to rank: check rerank_field.", len(textless)
            )
        return list(found.values()), items, textless

    def finish(self, prepared: Prepared, scores: Scores) -> Ranking:
        """Give every record its score and put them in order."""
        scores = checked(scores, len(prepared.items), self.scorer.model)
        best = self._ordering.best(prepared, scores)
        kept = prepared.textless if self._missing == "keep" else []
        room = None if prepared.top_n is None else prepared.top_n - len(best)
        saved = len(prepared.places) - len(prepared.items)
        ranking = Ranking(
            records=_located([*best, *(record.scored(None) for record in kept[:room])], prepared),
            usage=scores.usage + Usage(duplicate_texts=saved) if saved else scores.usage,
            skipped=len(prepared.textless) - len(kept),
            duplicates=prepared.duplicates,
            over_budget=prepared.over_budget,
            model=scores.model or self.scorer.model,
            unranked=scores.unranked,
        )
        self._report(ranking.usage)
        return ranking

    def _report(self, usage: Usage) -> None:
        if self._usage_callback is None:
            return
        try:
            self._usage_callback(usage)
        except Exception:  # the ranking is there, and paid for
            _log.warning("usage_callback failed", exc_info=True)


def _check_callback(callback: UsageCallback | None) -> None:
    if callback is not None and (not callable(callback) or iscoroutinefunction(callback)):
        raise InvalidInputError(
            f"usage_callback must be a function that is not async, got {callback!r}.",
            remedy="It is called, not awaited: let it put the usage where a task finds it.",
        )


MANY = 500
"""How many records take some milliseconds, for which an event loop should not have to wait."""


async def offloaded(is_long: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the work returns, done in a worker thread if it is long."""
    if is_long:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


def _located(records: list[Record], prepared: Prepared) -> tuple[Record, ...]:
    """The records, each with its ranks in the lists that it came from, where those have names."""
    if "" in prepared.lists:
        return tuple(records)
    found = ranks(prepared.lists, records)
    return tuple(
        record.found_in(each) if each else record
        for record, each in zip(records, found, strict=True)
    )
