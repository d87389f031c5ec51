"""The one way through: records in, the same records out, best first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, get_args, overload

from qwen_rerank.checks import check_query, check_top_n, is_finite
from qwen_rerank.errors import BadResponseError, InvalidInputError
from qwen_rerank.records import Record, RerankField, text_reader, unique_by_id, well_formed
from qwen_rerank.scoring import Scorer, Scores, Usage

__all__ = ["Missing", "Ranking", "RerankEngine", "offloaded"]

P = ParamSpec("P")
T = TypeVar("T")

Missing: TypeAlias = Literal["skip", "keep", "error"]
"""What happens to a record without text: left out, kept behind the ranked ones, or refused."""


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Record]):
    """Records, best first: a sequence.

    Attributes:
        records: The records, each with its relevance score; those kept without text have None.
        usage: What the ranking cost.
        skipped: How many records were left out because their text is missing or blank.
        duplicates: How many were left out because another one with their id came before.
    """

    records: tuple[Record, ...]
    usage: Usage
    skipped: int
    duplicates: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What a trace reports of the ranking beside its records, as plain values."""
        return {
            "skipped": self.skipped,
            "duplicates": self.duplicates,
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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query and its records, ready to be scored.

    Attributes:
        query: The query, checked and well-formed.
        texts: The different texts to score, all of them well-formed.
        records: The records that have a text, in input order.
        places: The place in `texts` of the text of each of those records.
        textless: The records without text, in input order.
        duplicates: How many records came after one with the same id.
        top_n: How many records to return; None for all.
    """

    query: str
    texts: list[str]
    records: list[Record]
    places: list[int]
    textless: list[Record]
    duplicates: int
    top_n: int | None


class RerankEngine:
    """Ranks records by a scorer's relevance scores.

    Records are deduplicated by id, the first one wins. Equal texts are scored once. Equal scores
    keep the order in which the records came. The records passed in are never changed.

    Args:
        scorer: Gives the scores.
        rerank_field: Where a record's text is: the name of a field, several names (joined by line
            breaks), or a function from record to text.
        missing: What to do with a record whose text is missing or blank: `"skip"` leaves it out
            and counts it, `"keep"` puts it behind the ranked ones with no score, `"error"` raises.
        min_score: Records that score less are left out; None for no threshold.

    Raises:
        InvalidInputError: An argument that can't be used.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        rerank_field: RerankField,
        missing: Missing = "skip",
        min_score: float | None = None,
    ) -> None:
        if missing not in get_args(Missing):
            raise InvalidInputError(
                f"missing must be one of {', '.join(get_args(Missing))}, got {missing!r}."
            )
        if min_score is not None and not is_finite(min_score):
            raise InvalidInputError(
                f"min_score must be a finite number or None, got {min_score!r}."
            )
        self.scorer = scorer
        self._text = text_reader(rerank_field)
        self._missing = missing
        self._min_score = min_score

    def rerank(self, query: str, records: Iterable[Record], top_n: int | None = None) -> Ranking:
        """Rank the records for the query.

        Args:
            query: What the records should be relevant to; not blank.
            records: The records, in the first stage's order.
            top_n: How many to return at most, at least 1; None for all.

        Raises:
            InvalidInputError: Blank query, bad top_n, or a missing text under `missing="error"`.
                Nothing has been sent then.
            QwenRerankError: Whatever the scorer raises, and BadResponseError where it returns
                anything but one finite score a text.
        """
        prepared = self.prepare(query, records, top_n)
        scores = self.scorer.score(prepared.query, prepared.texts) if prepared.texts else Scores([])
        return self.finish(prepared, scores)

    async def arerank(
        self, query: str, records: Iterable[Record], top_n: int | None = None
    ) -> Ranking:
        """The same as `rerank`, without blocking the event loop."""
        given = list(records)
        prepared = await offloaded(len(given), self.prepare, query, given, top_n)
        scores = (
            await self.scorer.ascore(prepared.query, prepared.texts)
            if prepared.texts
            else Scores([])
        )
        return self.finish(prepared, scores)

    def prepare(self, query: str, records: Iterable[Record], top_n: int | None) -> Prepared:
        """Check the input and find the different texts in it."""
        check_query(query)
        check_top_n(top_n)
        given = list(records)
        unique = unique_by_id(given)
        texts: dict[str, int] = {}
        with_text: list[Record] = []
        places: list[int] = []
        textless: list[Record] = []
        for record in unique:
            text = self._text(record)
            if text is None:
                textless.append(record)
            else:
                with_text.append(record)
                places.append(texts.setdefault(text, len(texts)))
        if textless and self._missing == "error":
            raise InvalidInputError(
                f"{len(textless)} records have no text to rank, the first is {textless[0].id!r}.",
                remedy='Check rerank_field, or pass missing="skip" or missing="keep".',
            )
        duplicates = len(given) - len(unique)
        return Prepared(
            well_formed(query), list(texts), with_text, places, textless, duplicates, top_n
        )

    def finish(self, prepared: Prepared, scores: Scores) -> Ranking:
        """Give every record its score and put them in order."""
        values = _checked(scores.values, len(prepared.texts), self.scorer.model)
        scored = [values[place] for place in prepared.places]
        order = sorted(range(len(scored)), key=scored.__getitem__, reverse=True)  # ties stay
        if self._min_score is not None:
            order = [place for place in order if scored[place] >= self._min_score]
        kept = prepared.textless if self._missing == "keep" else []
        best = order[: prepared.top_n]
        room = None if prepared.top_n is None else prepared.top_n - len(best)
        return Ranking(
            records=(
                *(prepared.records[place].scored(scored[place]) for place in best),
                *(record.scored(None) for record in kept[:room]),
            ),
            usage=scores.usage + Usage(texts_saved=len(scored) - len(values)),
            skipped=len(prepared.textless) - len(kept),
            duplicates=prepared.duplicates,
        )


_MANY = 500
"""How many records take some milliseconds, for which an event loop should not have to wait."""


async def offloaded(count: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the work returns, done in a worker thread where it is on many records."""
    if count <= _MANY:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _checked(values: Sequence[float], expected: int, model: str) -> list[float]:
    if not isinstance(values, Sequence) or len(values) != expected:
        got = len(values) if isinstance(values, Sequence) else type(values).__name__
        raise BadResponseError(f"{model} gave {got} scores for {expected} texts.")
    for place, value in enumerate(values):
        if not is_finite(value):
            raise BadResponseError(f"{model} gave text {place} the score {value!r}.")
    return list(map(float, values))
