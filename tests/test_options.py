"""Options: one declaration for the faces, the scorers and the command line."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

import langchain_qwen_rerank
import llamaindex_qwen_rerank
import qwen_rerank
from qwen_rerank import (
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    LocalScorer,
    PassageScorer,
    QwenReRanker,
    RerankEngine,
    RerankSettings,
    ServerScorer,
)
from qwen_rerank.batch import rerank_many
from qwen_rerank.options import (
    _OWNERS,
    DashScopeArguments,
    DashScopeOptions,
    RankingArguments,
    RankingOptions,
    RequestArguments,
    RequestOptions,
    descriptions,
)
from qwen_rerank.testing import FakeScorer

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


PLUGINS = (langchain_qwen_rerank.QwenRerank, llamaindex_qwen_rerank.QwenRerank)


def test_an_option_of_another_class_is_refused_with_that_class() -> None:
    compressor, postprocessor = PLUGINS
    with pytest.raises(ValueError, match="is an option of QwenRerank of llamaindex_qwen_rerank"):
        compressor(scorer=FakeScorer(), metadata_mode="all")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="is an option of QwenRerank of langchain_qwen_rerank"):
        postprocessor(scorer=FakeScorer(), keep_lists=True)  # type: ignore[call-arg]
    with pytest.raises(InvalidInputError, match=r"'top_n' here\. It is an option of QwenRerank"):
        DashScopeScorer(api_key="sk-key", top_n=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidInputError, match="Did you mean 'topn'"):
        QwenReRanker("q", scorer=FakeScorer(), top_n=3)


def test_the_classes_that_messages_name_take_the_options() -> None:
    modules = (qwen_rerank, langchain_qwen_rerank, llamaindex_qwen_rerank)
    for option, owner in _OWNERS.items():
        names = owner.partition(" of ")[0].split(" and ")
        classes = [getattr(module, name, None) for name in names for module in modules]
        if " of " in owner:
            classes = [each for each in classes if each and each.__module__ in owner] or classes
        assert any(
            option in signature(each).parameters
            or option in getattr(each, "model_fields", ())
            or (each is QwenReRanker and option in RerankSettings.model_fields)
            or (each is DashScopeScorer and option in DashScopeOptions.model_fields)
            for each in classes
            if each
        ), (option, owner)


def test_options_by_position_are_refused_with_the_class_and_the_remedy() -> None:
    for plugin in (*PLUGINS, RerankSettings):
        make: Callable[..., Any] = plugin
        with pytest.raises(InvalidInputError, match=r"QwenRerank|RerankS.*Pass scorer=FakeScorer"):
            make(FakeScorer())
        with pytest.raises(InvalidInputError, match="got str by position") as failure:
            make("sk-secret")
        frame = failure.value.__traceback__
        while frame := frame and frame.tb_next:
            assert "sk-secret" not in repr(frame.tb_frame.f_locals)
    retriever: Callable[..., Any] = langchain_qwen_rerank.QwenRerankRetriever
    with pytest.raises(InvalidInputError, match="QwenRerankRetriever takes its options by name"):
        retriever(RunnableLambda(len), PLUGINS[0](scorer=FakeScorer()))


def _many(**options: Any) -> None:
    rerank_many(RerankEngine(FakeScorer(), rerank_field="text"), [], **options)


def _with_key(make: Callable[..., object]) -> Callable[..., object]:
    return lambda **options: make(api_key="sk-key", **options)


SWITCHES: list[tuple[Callable[..., object], str]] = [
    *((_with_key(make), "truncate") for make in (DashScopeScorer, *PLUGINS)),
    *((make, "keep_model") for make in PLUGINS),
    *(
        (lambda **o: ServerScorer("http://a/rerank", **o), name)
        for name in ("logits", "multimodal")
    ),
    *((LocalScorer, name) for name in ("truncate", "progress")),
    (_many, "ordered"),
]
CHOICES: list[tuple[Callable[..., object], str, str, str]] = [
    *((make, "missing", "skipp", "skip") for make in PLUGINS),
    (PLUGINS[1], "metadata_mode", "EMBED", "embed"),
    (lambda **o: RerankEngine(FakeScorer(), rerank_field="a", **o), "missing", "Error", "error"),
    (lambda **o: ServerScorer("http://a/", **o), "dialect", "vLLM", "vllm"),
    (lambda **o: ServerScorer("http://a/", dialect="vllm", **o), "prompt", "qwen", "qwen3"),
    (EmbeddedScorer, "encoder", "wordlama", "wordllama"),
    (lambda **o: PassageScorer(FakeScorer(), **o), "aggregate", "maxi", "max"),
    (_many, "on_error", "raises", "raise"),
]


def test_switches_choices_and_numbers_are_not_converted() -> None:
    for make, name in SWITCHES:
        with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
            make(**{name: "no"})
    for choose, name, value, meant in CHOICES:
        with pytest.raises(ValueError, match=rf"{name} must .*, got '{value}'\. Did .*'{meant}'"):
            choose(**{name: value})
    for value in (True, "3"):
        for make in map(_with_key, (DashScopeScorer, *PLUGINS)):
            with pytest.raises(ValueError, match=f"timeout must be a number, got {value!r}"):
                make(timeout=value)
            with pytest.raises(ValueError, match=f"max_retries must be .*, got {value!r}"):
                make(max_retries=value)
