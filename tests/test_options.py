"""Options: one declaration for the faces, the scorers and the command line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from qwen_rerank import EmbeddedScorer, InvalidInputError, RerankEngine
from qwen_rerank.options import (
    DashScopeArguments,
    DashScopeOptions,
    RankingArguments,
    RankingOptions,
    RequestArguments,
    RequestOptions,
    descriptions,
)

NOT_BY_KEYWORD = {"model", "api_key"}
"""The options of DashScope that its scorer takes by position too."""


@pytest.mark.parametrize(
    ("arguments", "options", "others"),
    [
        (RequestArguments, RequestOptions, set()),
        (DashScopeArguments, DashScopeOptions, NOT_BY_KEYWORD),
        (RankingArguments, RankingOptions, set()),
    ],
)
def test_keyword_arguments_are_the_options(
    arguments: Any, options: type[BaseModel], others: set[str]
) -> None:
    assert set(arguments.__annotations__) | others == set(options.model_fields)


@pytest.mark.parametrize("options", [DashScopeOptions, RankingOptions])
def test_every_option_says_what_it_means(options: type[BaseModel]) -> None:
    assert descriptions(options).keys() == options.model_fields.keys()
    assert all(descriptions(options).values())


@pytest.mark.parametrize(
    ("name", "hint"), [("min_scores", "Did you mean 'min_score'"), ("xyz", "options are missing, ")]
)
def test_an_unknown_option_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(InvalidInputError, match=f"no option {name!r}.*{hint}"):
        RerankEngine(EmbeddedScorer(), rerank_field="text", **{name: 1})  # type: ignore[arg-type]
