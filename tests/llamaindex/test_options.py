"""The options of the postprocessor: how they are saved, loaded and refused, and the key."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from pydantic import SecretStr, ValidationError

from llamaindex_qwen_rerank import QwenRerank
from qwen_rerank import (
    AuthenticationError,
    EmbeddedScorer,
    InvalidInputError,
    Scorer,
    Scores,
    settings,
)
from qwen_rerank.testing import FakeScorer
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope

Postprocess = Callable[..., list[NodeWithScore]]

QUERY = "What do penguins eat?"
NODES = [
    NodeWithScore(node=TextNode(text=text)) for text in ("Penguins eat krill.", "Stocks fell.")
]
CHOSEN: dict[str, Any] = {
    "model": "qwen3-rerank",
    "top_n": 7,
    "rerank_field": ["title", "content"],
    "instruct": "Find answers.",
    "timeout": 5.0,
    "deadline": 60.0,
    "max_retries": 1,
    "max_concurrency": 2,
    "min_score": 0.25,
    "missing": "keep",
    "metadata_mode": MetadataMode.LLM,
    "keep_retrieval_score": True,
}


def to_dict_and_back(rerank: QwenRerank, **options: Any) -> QwenRerank:
    return QwenRerank.from_dict(rerank.to_dict(), **options)


def to_json_and_back(rerank: QwenRerank, **options: Any) -> QwenRerank:
    return QwenRerank.from_json(rerank.to_json(), **options)


def to_pickle_and_back(rerank: QwenRerank) -> QwenRerank:
    loaded = pickle.loads(pickle.dumps(rerank))
    assert isinstance(loaded, QwenRerank)
    return loaded


saved = pytest.mark.parametrize("and_back", [to_dict_and_back, to_json_and_back])
saved_or_pickled = pytest.mark.parametrize(
    "and_back", [to_dict_and_back, to_json_and_back, to_pickle_and_back]
)
AndBack = Callable[..., QwenRerank]


def test_its_class_name_is_that_of_the_class() -> None:
    rerank = QwenRerank(scorer=EmbeddedScorer())
    assert QwenRerank.class_name() == rerank.to_dict()["class_name"] == "QwenRerank"


@saved_or_pickled
@pytest.mark.parametrize("options", [{}, CHOSEN], ids=["defaults", "chosen"])
def test_options_come_back_as_they_were_saved(
    dashscope: LoopbackDashScope, and_back: AndBack, options: dict[str, Any]
) -> None:
    rerank = QwenRerank(**options)
    loaded = and_back(rerank)
    assert loaded.to_dict() == rerank.to_dict()
    assert {name: getattr(loaded, name) for name in options} == options


@saved_or_pickled
def test_a_loaded_one_ranks_as_the_saved_one(
    dashscope: LoopbackDashScope, postprocess: Postprocess, and_back: AndBack
) -> None:
    rerank = QwenRerank(model="qwen3-rerank")
    ranked = postprocess(rerank, NODES, query_str=QUERY)
    assert postprocess(and_back(rerank), NODES, query_str=QUERY) == ranked
    assert [request.model for request in dashscope.received] == ["qwen3-rerank"] * 2


@saved_or_pickled
def test_a_loaded_one_takes_the_key_of_where_it_is_loaded(
    dashscope: LoopbackDashScope,
    postprocess: Postprocess,
    monkeypatch: pytest.MonkeyPatch,
    and_back: AndBack,
) -> None:
    rerank = QwenRerank(api_key="sk-here")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-elsewhere")
    dashscope.key = "sk-elsewhere"
    assert postprocess(and_back(rerank), NODES, query_str=QUERY)
    assert dashscope.received[-1].headers["Authorization"] == "Bearer sk-elsewhere"


@saved_or_pickled
def test_one_loaded_where_no_key_is_says_how_to_give_one(and_back: AndBack) -> None:
    def load_and_use() -> None:
        and_back(QwenRerank(api_key="sk-here")).postprocess_nodes(NODES, query_str=QUERY)

    with pytest.raises(AuthenticationError, match="DASHSCOPE_API_KEY"):
        load_and_use()


@saved
def test_a_key_can_be_passed_when_loading(
    dashscope: LoopbackDashScope, postprocess: Postprocess, and_back: AndBack
) -> None:
    dashscope.key = "sk-passed"
    loaded = and_back(QwenRerank(), api_key="sk-passed")
    assert postprocess(loaded, NODES, query_str=QUERY)


@saved
@pytest.mark.parametrize(
    "code",
    [{"scorer": EmbeddedScorer()}, {"rerank_field": lambda scored: scored.text}],
    ids=["scorer", "function"],
)
def test_code_is_not_saved_and_loading_says_so(
    monkeypatch: pytest.MonkeyPatch, and_back: AndBack, code: dict[str, Any]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    with pytest.raises(ValueError, match="was not saved"):
        and_back(QwenRerank(**code))


@saved
@pytest.mark.parametrize(
    "code",
    [{"scorer": EmbeddedScorer()}, {"rerank_field": lambda scored: scored.text}],
    ids=["scorer", "function"],
)
def test_code_can_be_passed_again_when_loading(
    monkeypatch: pytest.MonkeyPatch, and_back: AndBack, code: dict[str, Any]
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    loaded = and_back(QwenRerank(**code, top_n=1), **code)
    assert {name: getattr(loaded, name) for name in code} == code
    assert loaded.top_n == 1


def test_a_scorer_that_can_be_pickled_is(postprocess: Postprocess) -> None:
    rerank = QwenRerank(scorer=EmbeddedScorer())
    ranked = postprocess(rerank, NODES, query_str=QUERY)
    assert postprocess(to_pickle_and_back(rerank), NODES, query_str=QUERY) == ranked


class Unpicklable(Scorer):
    """Scores at home only."""

    @property
    def model(self) -> str:
        return "unpicklable"

    def score(self, query: str, texts: Any) -> Scores:
        return Scores([1.0] * len(texts))

    def __reduce__(self) -> Any:
        raise TypeError("stays where it is")


@pytest.mark.parametrize(
    "code",
    [{"scorer": Unpicklable()}, {"rerank_field": lambda scored: scored.text}],
    ids=["scorer", "function"],
)
def test_code_that_cannot_be_pickled_is_an_error_and_not_left_out(
    dashscope: LoopbackDashScope, code: dict[str, Any]
) -> None:
    rerank = QwenRerank(**code)
    with pytest.raises((TypeError, AttributeError, ValueError, pickle.PicklingError)):
        to_pickle_and_back(rerank)


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda rerank: repr(rerank.model_dump()),
        lambda rerank: rerank.model_dump_json(),
        lambda rerank: repr(rerank.to_dict()),
        lambda rerank: rerank.to_json(),
        lambda rerank: repr(rerank.__dict__),
        lambda rerank: pickle.dumps(rerank).decode("latin-1"),
    ],
)
def test_the_key_does_not_show(show: Callable[[QwenRerank], str]) -> None:
    assert "sk-secret" not in show(QwenRerank(api_key="sk-secret"))


def test_the_key_is_not_in_a_validation_error() -> None:
    with pytest.raises(ValidationError) as caught:
        QwenRerank(api_key="sk-secret", topn=3)
    assert "sk-secret" not in str(caught.value)


def test_a_key_that_the_service_echoes_is_not_in_the_error(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    dashscope.faults.append(refuses(401, "InvalidApiKey", f"{KEY} is not a key."))
    with pytest.raises(AuthenticationError, match="is not a key") as caught:
        postprocess(QwenRerank(), NODES, query_str=QUERY)
    assert KEY not in f"{caught.value} {caught.value!r} {caught.value.__dict__}"


@pytest.mark.parametrize("name", ["api_key", "dashscope_api_key"])
@pytest.mark.parametrize("kind", [str, SecretStr])
def test_a_key_that_is_passed_wins_over_the_environment(
    dashscope: LoopbackDashScope, postprocess: Postprocess, name: str, kind: Callable[[str], Any]
) -> None:
    dashscope.key = "sk-passed"
    assert postprocess(QwenRerank(**{name: kind("sk-passed")}), NODES, query_str=QUERY)


def test_without_a_key_construction_says_how_to_give_one() -> None:
    with pytest.raises(AuthenticationError, match="DASHSCOPE_API_KEY"):
        QwenRerank()


def test_a_saved_option_that_is_unknown_is_refused_by_name(dashscope: LoopbackDashScope) -> None:
    with pytest.raises(ValidationError, match=r"no option 'topn'\. Did you mean 'top_n'"):
        QwenRerank.from_dict({**QwenRerank().to_dict(), "topn": 3})


@pytest.mark.parametrize(
    "options",
    [{"top_n": 0}, {"missing": "skipp"}, {"metadata_mode": "some"}, {"keep_retrieval_score": "?"}],
)
def test_an_option_that_cannot_be_used_is_refused_at_construction(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        QwenRerank(scorer=EmbeddedScorer(), **options)


@pytest.mark.parametrize("option", [{"model": "gte-rerank-v2"}, {"api_key": KEY}, {"timeout": 5}])
def test_an_option_that_a_scorer_would_ignore_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(option))):
        QwenRerank(scorer=EmbeddedScorer(), **option)


def test_a_scorer_takes_the_place_of_the_service(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    ranked = postprocess(QwenRerank(scorer=EmbeddedScorer()), NODES[::-1], query_str=QUERY)
    assert [scored.text for scored in ranked] == ["Penguins eat krill.", "Stocks fell."]
    assert not dashscope.received


def test_options_assigned_later_count_at_once(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    rerank = QwenRerank()
    postprocess(rerank, NODES, query_str=QUERY)
    rerank.model, rerank.top_n = "gte-rerank-v2", 1
    assert len(postprocess(rerank, NODES, query_str=QUERY)) == 1
    assert [request.model for request in dashscope.received] == ["qwen3-rerank", "gte-rerank-v2"]


@pytest.mark.parametrize(
    ("name", "value"), [("top_n", "many"), ("missing", "skipp"), ("metadata_mode", "some")]
)
def test_a_bad_assignment_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    rerank = QwenRerank(scorer=EmbeddedScorer())
    before = getattr(rerank, name)
    with pytest.raises(ValidationError, match=name):
        setattr(rerank, name, value)
    assert getattr(rerank, name) is before


def test_callbacks_are_not_saved() -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = QwenRerank(scorer=EmbeddedScorer(), callback_manager=CallbackManager([debug]))
    assert "callback_manager" not in json.loads(rerank.to_json())


def test_a_call_can_have_its_own_top_n_and_min_score(
    postprocess: Postprocess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "_warned_of_few", set())
    rerank = QwenRerank(scorer=FakeScorer(), top_n=1, min_score=0.9)
    nodes = [NodeWithScore(node=TextNode(text=f"score=0.{digit}")) for digit in (3, 9, 5)]

    def ranked(**options: Any) -> list[str]:
        return [each.text for each in postprocess(rerank, nodes, query_str=QUERY, **options)]

    assert ranked() == ranked(top_n=2) == ["score=0.9"]
    assert ranked(top_n=2, min_score=None) == ["score=0.9", "score=0.5"]
    for options, message in (
        ({"top_n": 0}, "top_n must be a whole number"),
        ({"min_score": "0.5"}, "min_score must be a finite number"),
        ({"topn": 3}, "Did you mean 'top_n'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            ranked(**options)
    assert caplog.messages == []
    assert ranked(top_n=3) == ranked(top_n=4) == ["score=0.9"]
    (warning,) = caplog.messages
    assert "All 3 candidates are returned, as top_n is 3" in warning
    assert "similarity_top_k=" in warning
