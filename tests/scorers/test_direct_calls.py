"""Calling a scorer's own methods: every one of ours reads any iterable of texts, or refuses it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwen_rerank import (
    CascadeScorer,
    EmbeddedScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    PassageScorer,
    Scorer,
)
from qwen_rerank.testing import FakeScorer

SCORERS = [
    FakeScorer(),
    EmbeddedScorer(),
    KeepOrder(),
    PassageScorer(FakeScorer()),
    FallbackScorer(FakeScorer(), KeepOrder()),
    CascadeScorer(EmbeddedScorer(), FakeScorer(), keep=2),
]
READ_THE_QUERY = [scorer for scorer in SCORERS if not isinstance(scorer, KeepOrder)]
TEXTS = ["penguins eat krill", "markets fell", "penguins fly"]


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: type(scorer).__name__)
def test_a_scorer_reads_an_iterator_to_its_end_and_refuses_what_holds_no_texts(
    scorer: Scorer,
) -> None:
    wrong: Any
    assert scorer.score("penguins", iter(TEXTS)).values == scorer.score("penguins", TEXTS).values  # type: ignore[arg-type]
    for wrong in ("penguins", b"penguins", None, 5, {"penguins": 1}, [None], ["a", b"b"]):
        with pytest.raises(InvalidInputError, match=r"texts must be a list|Text \d must be a str"):
            scorer.score("penguins", wrong)
        with pytest.raises(InvalidInputError, match=r"texts must be a list|Text \d must be a str"):
            asyncio.run(scorer.ascore("penguins", wrong))


@pytest.mark.parametrize("scorer", READ_THE_QUERY, ids=lambda scorer: type(scorer).__name__)
@pytest.mark.parametrize("query", [None, 5, b"penguins", ["penguins"], "", " \n"])
def test_a_scorer_refuses_a_query_that_is_not_a_text(scorer: Scorer, query: Any) -> None:
    with pytest.raises(InvalidInputError, match="The query must be a string"):
        scorer.score(query, TEXTS)
    with pytest.raises(InvalidInputError, match="The query must be a string"):
        asyncio.run(scorer.ascore(query, TEXTS))
