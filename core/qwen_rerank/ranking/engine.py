"""The engine: orders candidates by a scorer's relevance scores."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import iscoroutinefunction
from itertools import repeat
from typing import ParamSpec, Self, TypeVar, Unpack, cast

from qwen_rerank.errors import InvalidInputError, QwenRerankError
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.content import TEXT_ONLY, Item, check_modalities, checked_query
from qwen_rerank.inputs.fields import FieldAccess, ItemReader, RerankField
from qwen_rerank.options import (
    RankingArguments,
    RankingOptions,
    UsageCallback,
    with_defaults,
)
from qwen_rerank.ranking.candidates import (
    Candidates,
    Lists,
    UniqueDocuments,
    unique_documents,
    usable_ids,
)
from qwen_rerank.ranking.fusion import fair_order, fused_order
from qwen_rerank.ranking.ordering import Ordering, Prepared, reordered
from qwen_rerank.ranking.records import Record, RecordLists, flattened_records
from qwen_rerank.ranking.result import RankedIndices, Ranking
from qwen_rerank.scorers.base import Scorer, Scores, Usage, can_score_top, check_scorer, checked
from qwen_rerank.scorers.truncation import naming_documents
from qwen_rerank.telemetry import ranking_span
from qwen_rerank.threads import to_thread
from qwen_rerank.validation import check_top_n

__all__ = ["MANY", "RerankEngine", "offloaded", "ranking_of_records"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class RerankEngine:
    """Ranks documents by a scorer's relevance scores.

    Copies of a document (same id, same text) are ranked once. Equal texts are scored once.
    Documents with equal scores keep the order in which they came. Inputs are never changed.

    `rerank` takes and returns records. `rank`, on which it is built, works with indices alone: use
    it if you have document objects of your own.

    Args:
        scorer: Scores the texts.
        rerank_field: Where a record's text is: the name of a field; several names, for a text of
            `name: value` lines; a format string of names, such as ``"{title}\\n{content}"``; or a
            function from record to text. A `Content` or content blocks can stand in for text.
        options: See `RankingOptions`.

    Attributes:
        scorer: The scorer.
        options: What the order depends on besides the scores: the options by name, with defaults.

    Raises:
        InvalidInputError: An argument cannot be used.
        MissingDependencyError: `diversity` is set, but the extra `embedded` is not installed.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        rerank_field: RerankField,
        **options: Unpack[RankingArguments],
    ) -> None:
        chosen = cast(RankingArguments, with_defaults(RankingOptions, options))
        check_top_n(chosen["max_candidates"], "max_candidates")
        check_scorer(scorer, "scorer must be a Scorer")
        _check_callback(chosen["usage_callback"])
        self.scorer = scorer
        others = ("usage_callback", "allowed_media")
        self.options = {name: value for name, value in chosen.items() if name not in others}
        allowed = AllowedMedia.of(chosen["allowed_media"])
        self._reader = ItemReader(rerank_field, _RECORD_FIELDS, allowed)
        self._missing = chosen["missing"]
        self._ordering = Ordering(chosen["min_score"], chosen["blend"], chosen["diversity"])
        self._can_score_top = can_score_top(scorer) and not self._ordering.needs_all_scores
        self._max_candidates = chosen["max_candidates"]
        self._usage_callback = chosen["usage_callback"]

    def with_min_score(self, min_score: float | None) -> Self:
        """Return an engine that differs only in its `min_score`.

        Raises:
            InvalidInputError: It is not a finite number or None.
        """
        engine = copy.copy(self)
        engine.options = {**self.options, "min_score": min_score}
        engine._ordering = self._ordering.with_min_score(min_score)
        return engine

    def rerank(self, query: Item, records: RecordLists, top_n: int | None = None) -> Ranking:
        """Rank records for the query.

        Args:
            query: What the records should be relevant to: a text that is not blank, or a `Content`.
            records: The records, in the first stage's order; or the lists of several first stages
                by name: each returned record then has its ranks in them. Among several lists, a
                record without an id is identified by its text.
            top_n: How many to return at most, at least 1; None for all.

        Raises:
            InvalidInputError: The query is blank, top_n is invalid, a value is not a Record, no
                record has the `rerank_field`, a text is missing and `missing="error"`, or the
                scorer does not accept an image or a video. Nothing was sent.
            QwenRerankError: The scorer failed; BadResponseError if it does not return exactly one
                finite score per text.
        """
        flat, lists = flattened_records(records)
        ranking = self.rank(query, self.candidates(flat, lists), top_n)
        return ranking_of_records(flat, ranking)

    async def arerank(self, query: Item, records: RecordLists, top_n: int | None = None) -> Ranking:
        """The same as `rerank`, without blocking the event loop."""
        flat, lists = flattened_records(records)
        is_long = self.takes_long(len(flat))
        candidates = await offloaded(is_long, self.candidates, flat, lists)
        ranking = await self.arank(query, candidates, top_n)
        is_long = len(ranking.indices) > MANY
        return await offloaded(is_long, ranking_of_records, flat, ranking)

    def takes_long(self, documents: int) -> bool:
        """Whether reading this many documents would block an event loop for too long."""
        may_read_files = self.scorer.modalities != TEXT_ONLY
        return documents > MANY or may_read_files or len(self._reader.names) > 1

    def candidates(self, records: Sequence[Record], lists: Lists | None = None) -> Candidates:
        """Read the candidates for `rank` from records.

        Args:
            records: The records.
            lists: The indices in `records` of each named list; None for a single list without a
                name.

        Raises:
            InvalidInputError: See `rerank`.
        """
        ids = usable_ids([record.id for record in records])
        return Candidates(self._reader.read(records, ids), ids, lists)

    def rank(self, query: Item, candidates: Candidates, top_n: int | None = None) -> RankedIndices:
        """Rank documents that are known by their indices.

        Args:
            query: See `rerank`, also for the errors.
            candidates: What to score of each document, and what identifies it.
            top_n: How many to return at most, at least 1; None for all.
        """
        with ranking_span(self.scorer.model, len(candidates.items), top_n) as span:
            prepared = self._prepare(query, candidates, top_n)
            scores = Scores([])
            with self._reported_failure(), naming_documents(_document_namer(candidates)):
                if top := self._scores_needed(prepared):
                    scores = self.scorer.score_top(*prepared.arguments, top)
                elif prepared.items:
                    scores = self.scorer.score(*prepared.arguments)
                ranking = self._finish(prepared, scores)
            self._report(ranking.usage)
            span.ranked(ranking, len(ranking.indices))
            return ranking

    async def arank(
        self, query: Item, candidates: Candidates, top_n: int | None = None
    ) -> RankedIndices:
        """The same as `rank`, without blocking the event loop."""
        may_hold_files = self.scorer.modalities != TEXT_ONLY
        is_long = may_hold_files or _is_long(query, candidates.items)
        with ranking_span(self.scorer.model, len(candidates.items), top_n) as span:
            prepared = await offloaded(is_long, self._prepare, query, candidates, top_n)
            scores = Scores([])
            with self._reported_failure(), naming_documents(_document_namer(candidates)):
                if top := self._scores_needed(prepared):
                    scores = await self.scorer.ascore_top(*prepared.arguments, top)
                elif prepared.items:
                    scores = await self.scorer.ascore(*prepared.arguments)
                is_long = is_long or self._ordering.is_slow
                ranking = await offloaded(is_long, self._finish, prepared, scores)
            self._report(ranking.usage)
            span.ranked(ranking, len(ranking.indices))
            return ranking

    def _prepare(self, query: Item, candidates: Candidates, top_n: int | None) -> Prepared:
        """Check the input, and find the distinct documents and items in it."""
        query = checked_query(query)
        check_top_n(top_n)
        unique = unique_documents(candidates)
        self._check_blank(unique, candidates)
        indices = unique.indices
        if self._max_candidates is not None and len(indices) > self._max_candidates:
            ranks = unique.ranks(indices)
            order = fair_order(ranks) if ranks else range(len(indices))
            indices = [indices[i] for i in sorted(order[: self._max_candidates])]
        items = cast(Sequence[Item], candidates.items)  # None only at other indices
        if len(indices) < len(items):
            items = [items[index] for index in indices]
        distinct = list(dict.fromkeys(self._in_scoring_order(items, indices, unique)))
        check_modalities(
            self.scorer.modalities,
            self.scorer.model,
            query,
            items,
            lambda i: f"Document {_document_name(candidates, indices[i])}",
        )
        return Prepared(
            query=query,
            items=distinct,
            indices=indices,
            item_indices=_distinct_indices(items, distinct),
            unique=unique,
            over_budget=len(unique.indices) - len(indices),
            top_n=top_n,
        )

    def _in_scoring_order(
        self, items: Sequence[Item], indices: Sequence[int], unique: UniqueDocuments
    ) -> Iterable[Item]:
        """Return the items in the order in which the scorer gets them.

        Several lists are fused only for a scorer that uses the order.
        """
        if not unique.has_several_lists or not self.scorer.uses_order:
            return items
        return map(items.__getitem__, fused_order(unique.ranks(indices)))

    def _check_blank(self, unique: UniqueDocuments, candidates: Candidates) -> None:
        """Apply `missing="error"`, and warn if no document has anything to score."""
        if not unique.blank:
            return
        if self._missing == "error":
            first = _document_name(candidates, unique.blank[0])
            raise InvalidInputError(
                f"{len(unique.blank)} documents have no text to rank, the first is {first}.",
                remedy='Check rerank_field, or pass missing="skip" or missing="keep".',
            )
        if not unique.indices:
            _log.warning(
                "None of %d documents has a text to rank: check rerank_field.", len(unique.blank)
            )

    def _scores_needed(self, prepared: Prepared) -> int | None:
        """Return how many of the best scores are needed; None for all."""
        top_n = prepared.top_n
        if top_n is None or top_n >= len(prepared.items) or not self._can_score_top:
            return None
        return top_n

    def _finish(self, prepared: Prepared, scores: Scores) -> RankedIndices:
        """Return the documents in the order of their scores."""
        needed = self._scores_needed(prepared)
        scores = checked(scores, len(prepared.items), self.scorer.model, needed)
        positions, values, entries = self._ordering.best(prepared, scores)
        self._log_if_none_is_good_enough(positions, scores)
        indices = list(reordered(prepared.indices, positions))
        passages = scores.passages and list(map(scores.passages.__getitem__, entries))
        blank = prepared.unique.blank if self._missing == "keep" else []
        room = None if prepared.top_n is None else prepared.top_n - len(indices)
        kept = blank[:room]
        if kept:
            indices += kept
            values += [None] * len(kept)
            passages = passages and passages + [None] * len(kept)
        duplicates = len(prepared.indices) - len(prepared.items)
        usage = scores.usage
        return RankedIndices(
            indices=indices,
            scores=values,
            passages=passages,
            lists=prepared.unique.ranks(indices) or None,
            blank=len(kept),
            usage=usage + Usage(duplicate_texts=duplicates) if duplicates else usage,
            skipped=len(prepared.unique.blank) - len(blank),
            duplicates=prepared.unique.duplicates,
            over_budget=prepared.over_budget,
            model=scores.model or self.scorer.model,
            unranked=scores.unranked,
        )

    def _log_if_none_is_good_enough(self, positions: Sequence[int], scores: Scores) -> None:
        min_score = self.options["min_score"]
        if min_score is not None and len(scores.values) and not len(positions):
            # Not a warning: a threshold is there to say that nothing answers the query.
            _log.info(
                "No document reaches min_score=%s: the best score is %.4g.",
                min_score,
                max(scores.values),
            )

    @contextmanager
    def _reported_failure(self) -> Iterator[None]:
        """Report what a failed call cost."""
        try:
            yield
        except QwenRerankError as error:
            if error.usage is not None:
                self._report(error.usage)
            raise

    def _report(self, usage: Usage) -> None:
        if self._usage_callback is None:
            return
        try:
            self._usage_callback(usage)
        except Exception:  # the ranking exists, and is paid for
            _log.warning("usage_callback failed", exc_info=True)


def _check_callback(callback: UsageCallback | None) -> None:
    if callback is None:
        return
    is_async = iscoroutinefunction(callback) or iscoroutinefunction(type(callback).__call__)
    if not callable(callback) or is_async:
        raise InvalidInputError(
            f"usage_callback must be a synchronous function, got {callback!r}.",
            remedy="It is called, not awaited. For a task to process the usage, put it in a queue.",
        )


MANY = 500
"""Handling more documents than this takes milliseconds, too long for an event loop."""

_MANY_CHARACTERS = 1_000_000
"""Hashing and encoding more characters than this takes milliseconds, too."""


def _is_long(query: Item, items: Sequence[Item | None]) -> bool:
    """Whether preparing these would block an event loop for too long."""
    if len(items) > MANY:
        return True
    texts = (item for item in (query, *items) if type(item) is str)
    return sum(map(len, texts)) > _MANY_CHARACTERS


async def offloaded(is_long: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the work's result. Long work runs in a worker thread."""
    if is_long:
        return await to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


_RECORD_FIELDS: FieldAccess[Record] = FieldAccess(
    getter=lambda name: lambda record: record.fields.get(name),
    names=lambda record: record.fields,
    noun="record",
)


def _distinct_indices(items: Sequence[Item], distinct: Sequence[Item]) -> Sequence[int]:
    """Return the index of each item among the distinct ones."""
    if distinct == items:
        return range(len(items))
    numbers = {item: number for number, item in enumerate(distinct)}
    return [numbers[item] for item in items]


def _document_name(candidates: Candidates, index: int) -> str:
    """Return a document's name for messages: its id, if it has one."""
    id_ = candidates.ids[index]
    return f"at index {index}" if id_ in (None, "") else repr(id_)


def _document_namer(candidates: Candidates) -> Callable[[Item], str | None]:
    """Return a function that names the first document with an item, in messages of a scorer."""

    def name(item: Item) -> str | None:
        if item not in candidates.items:
            return None
        return f"document {_document_name(candidates, candidates.items.index(item))}"

    return name


def ranking_of_records(records: Sequence[Record], ranking: RankedIndices) -> Ranking:
    """Return the records of a ranking, each with its score."""
    chosen = list(map(records.__getitem__, ranking.indices))
    scores = ranking.scores_or(record.score for record in chosen)
    chosen = list(map(Record.scored, chosen, scores, ranking.passages or repeat(None)))
    if ranking.lists:
        chosen = list(map(Record.in_lists, chosen, ranking.lists))
    return Ranking(records=tuple(chosen), **ranking.outcome)
