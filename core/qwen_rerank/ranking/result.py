"""What a ranking returns: indices with scores inside, records outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, overload

from qwen_rerank.ranking.records import Record
from qwen_rerank.scorers.base import Passage, Usage
from qwen_rerank.validation import finite_float

__all__ = ["Outcome", "RankedIndices", "Ranking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Facts about a ranking, besides its documents.

    Attributes:
        usage: What the ranking cost.
        skipped: How many documents were left out because their text is missing or blank.
        duplicates: How many were left out because they are copies: same id, same text.
        over_budget: How many were left out because of max_candidates.
        model: The name of the model that gave the scores.
        unranked: Whether no model did, and the documents are in retrieval order.
    """

    usage: Usage
    skipped: int = 0
    duplicates: int = 0
    over_budget: int = 0
    model: str = ""
    unranked: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What a trace reports besides the documents, as plain values."""
        return {
            "model": self.model,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "over_budget": self.over_budget,
            "usage": asdict(self.usage),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedIndices(Outcome):
    """Indices of documents, best first, with what is known about each.

    Attributes:
        indices: The documents' indices in the input.
        scores: The relevance score per index; None if no model scored the document.
        passages: The passage that each score belongs to, or None for the whole text; None if no
            text was chunked.
        lists: Each document's rank, from 1, in every named list that has it; None for a single list
            without a name.
        blank: How many documents at the end do not have a text.
    """

    indices: list[int]
    scores: list[float | None]
    passages: list[Passage | None] | None = None
    lists: list[Mapping[str, int]] | None = None
    blank: int = 0

    def scores_or(self, retrieval_scores: Iterable[object]) -> list[float | None]:
        """Return the scores, or `retrieval_scores` if no model scored the documents.

        Args:
            retrieval_scores: The first stage's score per index. What is not a number becomes None.
        """
        if not self.unranked:
            return self.scores
        ranked = len(self.indices) - self.blank
        return [*map(finite_float, islice(retrieval_scores, ranked)), *[None] * self.blank]

    @property
    def outcome(self) -> dict[str, Any]:
        """The fields of `Outcome`, by name."""
        return {name: getattr(self, name) for name in Outcome.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Outcome, Sequence[Record]):
    """A sequence of records, best first, with the attributes of `Outcome`.

    Attributes:
        records: The records, each with its relevance score; None for those that were kept without
            text, and for those that the second scorer of a CascadeScorer did not see.
    """

    records: tuple[Record, ...]

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
