"""Copies of models are those that `model_copy` makes."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import BaseModel

from qwen_rerank.copying import copy_with

MODELS: list[tuple[BaseModel, dict[str, Any]]] = [
    (Document("text"), {"metadata": {"a": 1}}),
    (Document("text", id="1", metadata={"b": 2}), {"metadata": {"a": 1}}),
    (NodeWithScore(node=TextNode(text="text")), {"score": 0.5}),
]


@pytest.mark.parametrize(("model", "update"), MODELS)
def test_a_copy_is_that_of_model_copy(model: BaseModel, update: dict[str, Any]) -> None:
    before = model.model_dump()
    copied, expected = copy_with(model, update), model.model_copy(update=update)
    assert copied == expected
    assert type(copied) is type(expected)
    assert copied.model_fields_set == expected.model_fields_set
    assert copied.model_dump_json() == expected.model_dump_json()
    assert copied.model_copy(deep=True) == expected
    assert model.model_dump() == before
