"""The options of the compressor: the key, the model, the scorer, and what is refused."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from pydantic import SecretStr, ValidationError

from langchain_qwen_rerank import QwenRerank, QwenRerankRetriever
from qwen_rerank import (
    AuthenticationError,
    EmbeddedScorer,
    InvalidInputError,
    QwenRerankError,
    Usage,
)
from qwen_rerank.testing import FakeScorer
from qwen_rerank.testing.faults import refuses, says
from qwen_rerank.testing.loopback import KEY, Fault, LoopbackDashScope

Compress = Callable[..., list[Document]]

QUERY = "What do penguins eat?"
FOUND = [Document(page_content="Penguins eat krill."), Document(page_content="Stocks fell.")]


def bearer(dashscope: LoopbackDashScope) -> str:
    return dashscope.received[-1].headers["Authorization"]


def test_an_unknown_option_is_refused_with_the_nearest(dashscope: LoopbackDashScope) -> None:
    with pytest.raises(ValidationError, match=r"no option 'topn'\. Did you mean 'top_n'"):
        QwenRerank(topn=3)
    with pytest.raises(ValidationError, match="Did you mean 'dashscope_api_key'") as caught:
        QwenRerank(dashscope_apikey=KEY)
    assert KEY not in str(caught.value)
    with pytest.raises(ValidationError, match="Did you mean 'min_score'"):
        QwenRerank().min_scores = 0.5


def test_a_scorer_in_the_wrong_place_is_refused_with_the_right_one() -> None:
    for value in ("embedded", EmbeddedScorer):
        with pytest.raises(ValidationError, match=r"got .*\. Pass scorer=EmbeddedScorer\(\)\."):
            QwenRerank(scorer=value)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"Pass QwenRerank\(scorer=FakeScorer\(…\)\)"):
        QwenRerankRetriever(base_retriever=RunnableLambda(len), compressor=FakeScorer())  # type: ignore[arg-type]


@pytest.mark.parametrize("top_n", [0, True, "3", 3.0])
def test_top_n_is_checked_by_the_constructor_the_assignment_and_the_call(top_n: Any) -> None:
    compressor = QwenRerank(scorer=FakeScorer())
    with pytest.raises(InvalidInputError, match=f"top_n must be .*, got {top_n!r}"):
        QwenRerank(scorer=FakeScorer(), top_n=top_n)
    with pytest.raises(ValidationError, match=f"top_n must be .*, got {top_n!r}"):
        compressor.top_n = top_n
    with pytest.raises(InvalidInputError, match=f"top_n must be .*, got {top_n!r}"):
        compressor.compress_documents(FOUND, QUERY, top_n=top_n)
    assert compressor.top_n == 3


def test_a_min_score_that_no_document_reaches_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    compressor = QwenRerank(scorer=FakeScorer(), min_score=2)
    assert compressor.compress_documents(FOUND, QUERY) == []
    (message,) = [record.getMessage() for record in caplog.records if "min_" in record.msg]
    assert message.startswith("No document reaches min_score=2.0: the best score is ")


@pytest.mark.parametrize(
    "options",
    [
        {"top_n": 0},
        {"top_n": -1},
        {"top_n": "many"},
        {"missing": "skipp"},
        {"min_score": float("nan")},
        {"rerank_field": 3},
        {"rerank_field": [3]},
        {"model": " "},
        {"timeout": 0},
        {"deadline": -1},
        {"max_retries": -1},
        {"max_concurrency": 0},
        {"base_url": "ftp://example.com"},
        {"region": "mars"},
        {"model": "gte-rerank-v2", "instruct": "Find answers."},
        {"scorer": "embedded"},
    ],
)
def test_an_option_that_cannot_be_used_is_refused_at_construction(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with pytest.raises(ValueError, match=next(reversed(options))):
        QwenRerank(**options)


@pytest.mark.parametrize("rerank_field", ["", []])
def test_an_empty_rerank_field_is_not_taken_for_the_content(
    dashscope: LoopbackDashScope, rerank_field: Any
) -> None:
    with pytest.raises(ValueError, match="rerank_field"):
        QwenRerank(rerank_field=rerank_field)


def test_without_a_key_construction_says_how_to_give_one() -> None:
    with pytest.raises(AuthenticationError, match="DASHSCOPE_API_KEY"):
        QwenRerank()


@pytest.mark.parametrize("bad", ["sk-with space", "sk-line\n", "sk-钥匙"])
def test_a_string_that_cannot_be_a_key_is_refused_without_quoting_it(bad: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        QwenRerank(api_key=bad)
    assert bad not in str(caught.value)


@pytest.mark.parametrize("name", ["api_key", "dashscope_api_key"])
@pytest.mark.parametrize("kind", [str, SecretStr])
def test_a_key_that_is_passed_wins_over_the_environment(
    dashscope: LoopbackDashScope, compress: Compress, name: str, kind: Callable[[str], Any]
) -> None:
    dashscope.key = "sk-passed"
    compress(QwenRerank(**{name: kind("sk-passed")}), FOUND, QUERY)
    assert bearer(dashscope) == "Bearer sk-passed"


def test_the_key_of_the_environment_is_used(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    compress(QwenRerank(), FOUND, QUERY)
    assert bearer(dashscope) == f"Bearer {KEY}"


@pytest.mark.parametrize("from_environment", [False, True])
@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda compressor: repr(compressor.model_dump()),
        lambda compressor: repr(compressor.model_dump(mode="json")),
        lambda compressor: compressor.model_dump_json(),
        lambda compressor: repr(compressor.__dict__),
        lambda compressor: repr(compressor.engine.scorer),
        lambda compressor: repr(vars(compressor.engine.scorer)),
        lambda compressor: pickle.dumps(compressor).decode("latin-1"),
        lambda compressor: pickle.dumps(copy.deepcopy(compressor)).decode("latin-1"),
        lambda compressor: pickle.dumps(compressor.engine.scorer).decode("latin-1"),
    ],
)
def test_the_key_does_not_show(
    monkeypatch: pytest.MonkeyPatch, show: Callable[[QwenRerank], str], from_environment: bool
) -> None:
    if from_environment:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-secret")
    compressor = QwenRerank() if from_environment else QwenRerank(api_key="sk-secret")
    assert "sk-secret" not in show(compressor)


@pytest.mark.parametrize(
    "options", [{"topn": 3}, {"max_candidates": "x"}, {"missing": "x"}, {"apikey": "sk-secret"}]
)
def test_the_key_is_not_in_a_validation_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        QwenRerank(api_key="sk-secret", **options)
    assert "sk-secret" not in str(caught.value)


def test_the_key_is_not_in_the_error_of_a_bad_assignment() -> None:
    compressor = QwenRerank(api_key="sk-secret")
    with pytest.raises(ValidationError) as caught:
        compressor.top_n = "x"  # type: ignore[assignment]
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("key", [KEY, 'sk-"quoted"', "sk-back\\slash"])
def test_a_key_that_the_service_echoes_is_not_in_the_error(
    dashscope: LoopbackDashScope, compress: Compress, key: str
) -> None:
    dashscope.faults.append(refuses(401, "InvalidApiKey", f"{key} is not a key."))
    with pytest.raises(AuthenticationError, match="is not a key") as caught:
        compress(QwenRerank(api_key=key), FOUND, QUERY)
    assert key not in str(caught.value)
    assert key not in caught.value.message


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(refuses(401, f"Invalid.{KEY}"), id="in the code"),
        pytest.param(refuses(401, "InvalidApiKey", "x" * 490 + KEY), id="where the message is cut"),
        pytest.param(says("x" * 90 + KEY), id="where the quote of an answer is cut"),
        pytest.param(says(f"<p>{KEY}</p>", 502, "text/html"), id="in a page"),
    ],
)
def test_no_part_of_a_key_that_the_service_echoes_is_in_the_error(
    dashscope: LoopbackDashScope, compress: Compress, fault: Fault
) -> None:
    dashscope.faults.append(fault)
    with pytest.raises(QwenRerankError) as caught:
        compress(QwenRerank(max_retries=0), FOUND, QUERY)
    assert KEY[:8] not in f"{caught.value} {caught.value!r} {caught.value.__dict__}"


def test_a_pickled_compressor_takes_the_key_of_where_it_is_loaded(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    dashscope.key = "sk-elsewhere"
    compressor = QwenRerank(api_key="sk-here", model="qwen3-rerank", top_n=1, rerank_field="title")
    pickled = pickle.dumps(compressor)
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setenv("DASHSCOPE_API_KEY", "sk-elsewhere")
        loaded = pickle.loads(pickled)
        compress(loaded, [Document(page_content="", metadata={"title": "Krill"})], QUERY)
    assert bearer(dashscope) == "Bearer sk-elsewhere"
    assert dashscope.received[-1].model == "qwen3-rerank"
    assert loaded.model_dump() == compressor.model_dump()


def test_a_pickled_compressor_loaded_where_no_key_is_says_how_to_give_one() -> None:
    def load_and_use() -> None:
        pickle.loads(pickled).compress_documents(FOUND, QUERY)

    pickled = pickle.dumps(QwenRerank(api_key="sk-here"))
    with pytest.raises(AuthenticationError, match="DASHSCOPE_API_KEY"):
        load_and_use()


def test_a_function_that_cannot_be_pickled_is_an_error_and_not_left_out(
    dashscope: LoopbackDashScope,
) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(QwenRerank(rerank_field=lambda document: "text"))


def test_pickling_leaves_the_compressor_its_key(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    dashscope.key = "sk-passed"
    compressor = QwenRerank(api_key="sk-passed")
    pickle.dumps(compressor)
    assert compress(compressor, FOUND, QUERY)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, QwenRerank.model_copy])
def test_a_copy_works_with_the_key_of_the_original(
    dashscope: LoopbackDashScope,
    compress: Compress,
    duplicate: Callable[[QwenRerank], QwenRerank],
) -> None:
    dashscope.key = "sk-passed"
    assert compress(duplicate(QwenRerank(api_key="sk-passed")), FOUND, QUERY)


def test_the_default_model_is_qwen3_rerank(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    compress(QwenRerank(), FOUND, QUERY)
    assert dashscope.received[-1].model == "qwen3-rerank"


def test_the_model_that_was_chosen_reaches_the_wire(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    compress(QwenRerank(model="qwen3-vl-rerank", instruct="Find answers."), FOUND, QUERY)
    assert dashscope.received[-1].model == "qwen3-vl-rerank"
    assert dashscope.received[-1].parameters["instruct"] == "Find answers."


def test_a_model_assigned_later_reaches_the_wire(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    compressor = QwenRerank()
    compress(compressor, FOUND, QUERY)
    compressor.model = "gte-rerank-v2"
    compress(compressor, FOUND, QUERY)
    assert [request.model for request in dashscope.received] == ["qwen3-rerank", "gte-rerank-v2"]


def test_a_model_in_a_copy_reaches_the_wire_and_leaves_the_original(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    compressor = QwenRerank()
    compress(compressor.model_copy(update={"model": "gte-rerank-v2"}), FOUND, QUERY)
    compress(compressor, FOUND, QUERY)
    assert [request.model for request in dashscope.received] == ["gte-rerank-v2", "qwen3-rerank"]


def test_options_assigned_later_count_at_once(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    compressor = QwenRerank()
    compressor.top_n = 1
    compressor.api_key = "sk-assigned"  # type: ignore[assignment]
    dashscope.key = "sk-assigned"
    assert len(compress(compressor, FOUND, QUERY)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_n", "many"), ("missing", "skipp"), ("scorer", "embedded"), ("rerank_field", 3)],
)
def test_a_bad_assignment_is_refused_and_changes_nothing(
    dashscope: LoopbackDashScope, name: str, value: Any
) -> None:
    compressor = QwenRerank()
    before = compressor.model_dump()
    with pytest.raises(ValidationError, match=name):
        setattr(compressor, name, value)
    assert compressor.model_dump() == before


def test_an_unknown_option_cannot_be_assigned(dashscope: LoopbackDashScope) -> None:
    with pytest.raises(ValueError, match="topn"):
        QwenRerank().topn = 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_n", 0), ("model", ""), ("max_concurrency", 0), ("min_score", float("inf"))],
)
def test_an_assignment_out_of_range_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, compress: Compress, name: str, value: Any
) -> None:
    def assign_and_use() -> None:
        compressor = QwenRerank()
        setattr(compressor, name, value)
        compress(compressor, FOUND, QUERY)

    with pytest.raises(ValueError, match=name):
        assign_and_use()
    assert not dashscope.received


def test_a_scorer_takes_the_place_of_the_service(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    ranked = compress(QwenRerank(scorer=EmbeddedScorer()), FOUND[::-1], QUERY)
    assert ranked[0].page_content == "Penguins eat krill."
    assert not dashscope.received


def test_a_scorer_needs_no_key(compress: Compress) -> None:
    assert len(compress(QwenRerank(scorer=EmbeddedScorer()), FOUND, QUERY)) == 2


@pytest.mark.parametrize(
    "option",
    [{"model": "gte-rerank-v2"}, {"api_key": KEY}, {"instruct": "Find answers."}, {"timeout": 5}],
)
def test_an_option_that_a_scorer_would_ignore_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(option))):
        QwenRerank(scorer=EmbeddedScorer(), **option)


def test_a_scorer_is_shared_by_copies_and_named_in_dumps() -> None:
    scorer = EmbeddedScorer()
    compressor = QwenRerank(scorer=scorer)
    assert copy.deepcopy(compressor).engine.scorer is scorer
    assert "embedded" in json.dumps(compressor.model_dump(mode="json"))


class Told:
    """Counts what rankings cost, for many threads, so that it can't be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.usage = Usage()

    def add(self, usage: Usage) -> None:
        with self.lock:
            self.usage += usage


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_tell_the_same_callback(
    compress: Compress, copied: Callable[[QwenRerank], QwenRerank]
) -> None:
    told = Told()
    compressor = QwenRerank(scorer=EmbeddedScorer(), usage_callback=told.add)
    compress(copied(compressor), FOUND, QUERY)
    assert told.usage.texts_sent == len(FOUND)


def test_a_function_can_be_dumped(dashscope: LoopbackDashScope) -> None:
    dumped = json.loads(QwenRerank(rerank_field=lambda document: "text").model_dump_json())
    assert dumped["rerank_field"] is not None


def test_one_compressors_key_is_not_anothers(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    first, second = QwenRerank(), QwenRerank(api_key="sk-other")
    with pytest.raises(QwenRerankError):
        compress(second, FOUND, QUERY)
    assert compress(first, FOUND, QUERY)
    assert [request.headers["Authorization"] for request in dashscope.received] == [
        "Bearer sk-other",
        f"Bearer {KEY}",
    ]


def test_the_options_have_a_json_schema() -> None:
    properties = QwenRerank.model_json_schema()["properties"]
    assert {"model", "top_n", "rerank_field"} <= properties.keys()


def test_compressors_with_the_same_options_are_equal(dashscope: LoopbackDashScope) -> None:
    assert QwenRerank() == QwenRerank()
    assert QwenRerank() != QwenRerank(model="gte-rerank-v2")
