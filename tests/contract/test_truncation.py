"""One long text costs no ranking: its beginning is scored, or an error names its document."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwen_rerank import DashScopeScorer, InvalidInputError, Usage
from qwen_rerank.testing.loopback import LoopbackDashScope, token_count
from tests.contract.faces import USER_FACES, Engine, Face, Item, Retriever


class OverDashScope(Engine):
    """RerankEngine over a DashScopeScorer."""

    def __init__(self, query: Any, *, truncate: bool = True, **options: Any) -> None:
        super().__init__(query, scorer=DashScopeScorer(truncate=truncate), **options)


LONG = "word " * 5_000
ITEMS = [
    Item("low", {"text": "score=0.2"}),
    Item("long", {"text": f"score=0.9 {LONG}"}),
    Item("middle", {"text": "score=0.5"}),
    Item("long too", {"text": f"score=0.4 {LONG}"}),
]


@pytest.mark.parametrize("face", [OverDashScope, *USER_FACES, Retriever])
def test_texts_of_any_length_are_ranked_whether_the_service_refuses_or_cuts(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture, face: type[Face]
) -> None:
    usages: list[Usage] = []
    built = face(f"which one? {LONG}", usage_callback=usages.append)
    made = list(map(built.make, ITEMS))
    for dashscope.refuses_long in (True, False):
        for ranked in (built.rank(made), asyncio.run(built.arank(made))):
            items = list(map(built.read, ranked))
            assert [item.id for item in items] == ["long", "middle", "long too", "low"]
            assert items[0].fields == ITEMS[1].fields
    (warning, *others) = [each for each in caplog.messages if "exceed" in each]
    assert "3 of 5 items (the query and the texts) exceed the 4000 tokens that" in warning
    assert "reads per item: the query, document 'long', document 'long too'. " in warning
    assert warning.endswith(
        "To avoid that, shorten the query and wrap the scorer in a "
        "PassageScorer to score long texts in passages."
    )
    assert others == [warning] * 3  # once per call
    assert [usage.truncated for usage in usages] == [3] * 4
    for request in dashscope.received:
        assert max(map(token_count, (request.query, *request.documents))) == 4_000


@pytest.mark.parametrize("face", [OverDashScope, *USER_FACES, Retriever])
def test_texts_that_are_too_long_can_be_an_error_before_anything_is_sent(
    dashscope: LoopbackDashScope, face: type[Face]
) -> None:
    built = face("q", truncate=False)
    made = list(map(built.make, ITEMS))
    message = "2 of 5 items .*: document 'long', document 'long too'. Pass truncate=True"
    with pytest.raises(InvalidInputError, match=message):
        built.rank(made)
    with pytest.raises(InvalidInputError, match=message):
        asyncio.run(built.arank(made))
    query_only = face(f"which one? {LONG}", truncate=False)
    with pytest.raises(InvalidInputError, match=r"of each, or shorten the query\.$"):
        query_only.rank(list(map(query_only.make, ITEMS[:1])))
    assert dashscope.received == []
