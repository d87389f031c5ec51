"""Other processes, pickles and copies: what they share with the original, and what not."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from qwen_rerank import DashScopeScorer, Limits, MissingKeyError
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.clients import CLIENTS, PLUGINS, rank
from tests.support.interpreter import python, running_python

RANKED = [("score=0.9", 0.9), ("score=0.2", 0.2)]
TEXTS = ["score=0.2", "score=0.9"]

each_client = pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
NO_FORK_WARNING = ("-W", "ignore::DeprecationWarning")  # Python's, about fork with threads


# --- Other processes


@pytest.mark.parametrize(
    ("start", "processes"),
    [pytest.param("fork", 2, marks=can_fork), ("spawn", 1)],  # a new one imports the frameworks
)
def test_clients_work_in_a_process_pool_and_in_its_parent(
    dashscope: LoopbackDashScope, start: str, processes: int
) -> None:
    code = (
        "import multiprocessing\n"
        "from tests.support.clients import CLIENTS, rank\n"
        "calls = [(make(), ['score=0.2', 'score=0.9']) for make in CLIENTS.values()]\n"
        f"expected = [{RANKED}] * len(calls)\n"
        "assert [rank(*call) for call in calls] == expected\n"
        f"with multiprocessing.get_context({start!r}).Pool({processes}) as pool:\n"
        "    assert pool.starmap(rank, calls * 5, chunksize=1) == expected * 5\n"
        "    pool.close()\n"
        "    pool.join()\n"
        "assert [rank(*call) for call in calls] == expected\n"
    )
    out, err = python(code, *NO_FORK_WARNING)
    assert (out, err) == ("", "")
    assert len(dashscope.received) == 7 * len(CLIENTS)


@can_fork
def test_a_forked_child_has_its_own_connections(dashscope: LoopbackDashScope) -> None:
    code = (
        "import os, qwen_rerank\n"
        "scorer = qwen_rerank.DashScopeScorer()\n"
        "scorer.score('q', ['a'])\n"
        "child = os.fork()\n"
        "values = scorer.score('q', ['score=0.5']).values\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
        "assert scorer.score('q', ['a']).values and values == [0.5]\n"
    )
    out, err = python(code, *NO_FORK_WARNING)
    assert (out, err) == ("", "")
    assert dashscope.connections == 2


@can_fork
def test_a_fork_during_a_call_works_and_does_not_disturb_the_call(
    dashscope: LoopbackDashScope,
) -> None:
    dashscope.answer_only_when(in_flight=2)  # the parent's call and its child's
    code = (
        "import os, sys, threading, qwen_rerank\n"
        "def call(): os.write(1, b'%r\\n' % scorer.score('q', ['score=0.5']).values)\n"
        "scorer = qwen_rerank.DashScopeScorer(deadline=20)\n"
        "thread = threading.Thread(target=call)\n"
        "thread.start()\n"
        "sys.stdin.readline()\n"
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    thread.join()\n"
        "call()\n"
    )
    with running_python(code, *NO_FORK_WARNING) as process:
        assert dashscope.arrived.wait(100)
        out, err = process.communicate("\n")
    assert (out, err) == ("[0.5]\n" * 3, "")
    assert dashscope.connections == 2


# --- Pickles


@each_client
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_has_no_key_and_takes_one_from_the_environment_where_it_is_loaded(
    dashscope: LoopbackDashScope, make: Callable[..., Any], protocol: int
) -> None:
    client = make(api_key="sk-here", base_url=dashscope.base_url)
    pickled = pickle.dumps(client, protocol)
    assert b"sk-here" not in pickled
    assert rank(pickle.loads(pickled), TEXTS) == RANKED  # with the key from the environment
    dashscope.key = "sk-here"
    assert rank(client, TEXTS) == RANKED
    keys = [request.headers["Authorization"] for request in dashscope.received]
    assert keys == ["Bearer sk-loopback", "Bearer sk-here"]


@each_client
def test_a_pickle_loads_without_a_key_and_a_call_says_how_to_set_one(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]
) -> None:
    pickled = pickle.dumps(make())
    monkeypatch.delenv("DASHSCOPE_API_KEY")
    loaded = pickle.loads(pickled)  # an error here would break a process pool
    with pytest.raises(MissingKeyError, match="DASHSCOPE_API_KEY"):
        rank(loaded, TEXTS)


@each_client
def test_a_pickle_keeps_the_other_options(
    dashscope: LoopbackDashScope, make: Callable[..., Any]
) -> None:
    client = make(model="qwen3-rerank", instruct="Find.", base_url=f"{dashscope.base_url}/")
    rank(pickle.loads(pickle.dumps(client)), TEXTS)
    (request,) = dashscope.received
    assert (request.model, request.parameters["instruct"]) == ("qwen3-rerank", "Find.")


def test_a_pickled_scorer_keeps_its_limits(dashscope: LoopbackDashScope) -> None:
    scorer = DashScopeScorer(limits=Limits(documents=1))
    pickle.loads(pickle.dumps(scorer)).score("q", ["a", "b"])
    assert len(dashscope.received) == 2


@each_client
def test_a_client_with_connections_can_be_pickled(
    dashscope: LoopbackDashScope, make: Callable[..., Any]
) -> None:
    client = make()
    rank(client, TEXTS)
    assert rank(pickle.loads(pickle.dumps(client)), TEXTS) == RANKED


# --- Copies


def model_copy(client: Any) -> Any:
    return client.model_copy()


def deep_model_copy(client: Any) -> Any:
    return client.model_copy(deep=True)


MODELS = ["LangChain", "LlamaIndex"]
"""The clients that are pydantic models."""

COPIES = [(name, duplicate) for name in CLIENTS for duplicate in (copy.copy, copy.deepcopy)]
MODEL_COPIES = [(name, duplicate) for name in MODELS for duplicate in (model_copy, deep_model_copy)]


@pytest.mark.parametrize(("name", "duplicate"), COPIES + MODEL_COPIES)
def test_a_copy_has_the_key_of_the_original(
    dashscope: LoopbackDashScope, name: str, duplicate: Callable[[Any], Any]
) -> None:
    dashscope.key = "sk-passed"
    client = CLIENTS[name](api_key="sk-passed")
    for _ in range(2):  # before the client is used, and after
        assert rank(duplicate(client), TEXTS) == RANKED
        assert rank(client, TEXTS) == RANKED


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copied_scorer_is_the_same_scorer(
    dashscope: LoopbackDashScope, duplicate: Callable[[Any], Any]
) -> None:
    scorer = DashScopeScorer()
    assert duplicate(scorer) is scorer


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, model_copy, deep_model_copy])
def test_a_key_assigned_to_a_copy_does_not_change_the_original(
    dashscope: LoopbackDashScope, name: str, duplicate: Callable[[Any], Any]
) -> None:
    client = PLUGINS[name]()
    copied = duplicate(client)
    copied.api_key = "sk-other"
    assert rank(client, TEXTS) == RANKED
    dashscope.key = "sk-other"
    assert rank(copied, TEXTS) == RANKED
