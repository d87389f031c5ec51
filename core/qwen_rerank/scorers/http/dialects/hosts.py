"""Services that host the open model, where more than the address differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.http.dialects.base import InvalidRankingError, RankingResponse
from qwen_rerank.scorers.http.dialects.common import ServerDialect
from qwen_rerank.scorers.http.dialects.responses import read_json
from qwen_rerank.validation import is_finite

__all__ = ["DeepInfraDialect"]


@dataclass(frozen=True)
class DeepInfraDialect(ServerDialect):
    """DeepInfra: the model is part of the path, and scores come without indices.

    Source: docs.deepinfra.com, "Reranker", and the models' API pages.
    """

    def request_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        return {"queries": [query] * len(documents), "documents": documents}

    def parse_ranking(self, body: bytes) -> RankingResponse:
        response = read_json(body)
        scores = response.get("scores") if isinstance(response, dict) else None
        if not isinstance(scores, list):
            raise InvalidRankingError("scores: expected a list")
        lowest, highest = self.score_range
        for at, score in enumerate(scores):
            if not is_finite(score) or not lowest <= score <= highest:
                raise InvalidRankingError(f"scores.{at}: expected a number from 0 to 1")
        tokens = response.get("input_tokens")
        return RankingResponse(
            list(range(len(scores))),
            [float(score) for score in scores],
            tokens if type(tokens) is int else 0,
        )
