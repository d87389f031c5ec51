"""Forks while another thread holds a lock: the child never waits for it."""

from __future__ import annotations

import os

import pytest

from tests.support.interpreter import python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

NO_FORK_WARNING = ("-W", "ignore::DeprecationWarning")  # Python's own, of fork beside threads

LOADERS = {
    "the tokenizer": ("qwen_rerank.text.tokenizer", "count_tokens('a penguin') == 3"),
    "the word vectors": ("qwen_rerank.text.word_vectors", "offline_vectors().cosines('a', ['a'])"),
}


@pytest.mark.parametrize(("module", "loads"), LOADERS.values(), ids=list(LOADERS))
def test_a_child_made_while_a_thread_is_loading_can_load(module: str, loads: str) -> None:
    code = (
        "import os, sys, threading\n"
        f"from {module} import *\n"
        f"def load(): assert {loads}\n"
        "is_importing = threading.Event()\n"
        "class Finder:\n"
        "    def find_spec(self, *args):\n"
        "        if threading.current_thread() is thread: is_importing.set()\n"
        "sys.meta_path.insert(0, Finder())\n"
        "thread = threading.Thread(target=load)\n"
        "thread.start()\n"
        "assert is_importing.wait(100)\n"
        "child = os.fork()\n"
        "load()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert python(code, *NO_FORK_WARNING) == ("", "")


HOLDERS = {
    "a lock": (
        "from qwen_rerank.locks import ForkSafeLock\nlock = ForkSafeLock()\n",
        "with lock.hold(): reached()",
        "with lock.hold(): pass",
    ),
    "the lock of a cache's store": (
        "from qwen_rerank import CachedScorer\n"
        "from tests.support.wrapped import Pointwise\n"
        "class Store(dict):\n"
        "    def get(self, key):\n"
        "        if threading.current_thread() is thread: reached()\n"
        "scorer = CachedScorer(Pointwise(), Store())\n",
        "scorer.score('q', ['a'])",
        "scorer.score('q', ['a'])",
    ),
    "the lock of LocalScorer's worker": (
        "from qwen_rerank.scorers.local.worker import Worker, result_of\nworker = Worker()\n",
        "with worker._lock.hold(): reached()",
        "assert result_of(worker.submit(lambda: 7)) == 7",
    ),
}


@pytest.mark.parametrize(("setup", "holding", "using"), HOLDERS.values(), ids=list(HOLDERS))
def test_a_child_made_while_a_thread_holds_a_lock_finds_it_free(
    setup: str, holding: str, using: str
) -> None:
    code = (
        "import os, threading\n"
        "is_held, done = threading.Event(), threading.Event()\n"
        "def reached():\n    is_held.set()\n    assert done.wait(100)\n"
        f"{setup}"
        f"def hold():\n    {holding}\n"
        "thread = threading.Thread(target=hold)\n"
        "thread.start()\n"
        "assert is_held.wait(100)\n"
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    done.set()\n"
        "    thread.join()\n"
        f"{using}\n"
    )
    assert python(code, *NO_FORK_WARNING) == ("", "")
