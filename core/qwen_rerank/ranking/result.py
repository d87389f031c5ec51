"""What a ranking returns: indices with scores inside, records outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, overload

from qwen_rerank.ranking.records import Record
from qwen_rerank.scorers.base import Passage, Usage

__all__ = ["Outcome", "RankedIndices", "Ranking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of a ranking beside its documents.

    Attributes:
        usage: What the ranking cost.
        skipped: How many documents were left out because their text is missing or blank.
        duplicates: How many were left out because they are copies of another: one id, one text.
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
        """What a trace reports beside the documents, as plain values."""
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
        scores: Per index the relevance score; None where no model scored the document.
        passages: Per index the part of the text that its score is of, or None for the whole text;
            None if no text was chunked.
        lists: Per index the document's rank, from 1, in each named list that has it; None for one
            list without a name.
        blank: How many of the last documents do not have a text.
    """

    indices: list[int]
    scores: list[float | None]
    passages: list[Passage | None] | None = None
    lists: list[Mapping[str, int]] | None = None
    blank: int = 0

    def scores_or(self, retrieval_scores: Iterable[float | None]) -> list[float | None]:
        """The scores; if no model scored the documents, these retrieval scores in their place.

        Args:
            retrieval_scores: Per index the score of the first stage.
        """
        if not self.unranked:
            return self.scores
        ranked = len(self.indices) - self.blank
        return [*islice(retrieval_scores, ranked), *[None] * self.blank]

    @property
    def outcome(self) -> dict[str, Any]:
        """The fields of `Outcome`, by name."""
        return {name: getattr(self, name) for name in Outcome.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Outcome, Sequence[Record]):
    """Records, best first: a sequence. It also has the attributes of `Outcome`.

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
