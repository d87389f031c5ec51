"""Without threads, certificates or an interpreter that goes on: a typed error, and never a hang."""

from __future__ import annotations

import pytest

from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.interpreter import python

LARGE = "['score=0.5 ' + 'x' * 600_000]"  # is planned in a worker thread

CASES = {
    "async, in a thread that outlives the main thread": (
        f"""
def late():
    threading.main_thread().join()
    said(lambda: asyncio.run(scorer.ascore('q', {LARGE})))
scorer.score('q', ['a'])
threading.Thread(target=late).start()
""",
        "ServiceError: A worker thread could not be started: cannot schedule new futures",
    ),
    "tokens to count, in a thread that outlives the main thread": (
        """
def late():
    threading.main_thread().join()
    said(lambda: counting.score('q', ['score=0.5']))
scorer.score('q', ['a'])
threading.Thread(target=late).start()
""",
        "ServiceError: A worker thread could not be started: cannot schedule new futures",
    ),
    "async, and no thread can be started, not even to close the loop": (
        f"""
def start(thread): raise RuntimeError("can't start new thread")
scorer.score('q', ['a'])
threading.Thread.start = start
said(lambda: asyncio.run(scorer.ascore('q', {LARGE})))
""",
        "ServiceError: A worker thread could not be started: can't start new thread",
    ),
    "many queries, and no thread can be started": (
        """
from qwen_rerank.batch import rerank_many
engine = qwen_rerank.RerankEngine(scorer, rerank_field='text')
def start(thread): raise RuntimeError("can't start new thread")
threading.Thread.start = start
said(lambda: list(rerank_many(engine, [('a', 'q', [qwen_rerank.Record('a', {'text': 'a'})])])))
""",
        "ServiceError: A worker thread could not be started: can't start new thread",
    ),
    "no thread can be started": (
        """
def start(thread): raise RuntimeError("can't start new thread")
scorer.score('q', ['a'])
threading.Thread.start = start
said(lambda: counting.score('q', ['score=0.5']))
""",
        "ServiceError: A worker thread could not be started: can't start new thread",
    ),
    "certificates that are missing": (
        """
import certifi
certifi.where = lambda: '/nowhere/cacert.pem'
said(lambda: scorer_of(base_url='https://127.0.0.1:9/api/v1').score('q', ['a']))
""",
        "ServiceError: Could not connect to 127.0.0.1:9: could not read the certificates in "
        "'/nowhere/cacert.pem' of the package certifi: No such file or directory",
    ),
}
START = """
import asyncio, functools, threading, qwen_rerank
scorer_of = functools.partial(qwen_rerank.DashScopeScorer, max_retries=0)
scorer, counting = scorer_of(), scorer_of(tokens_per_minute=100_000)
def said(call):
    try: print(call().values)
    except Exception as error: print(type(error).__name__, error, sep=': ')
"""


@pytest.mark.parametrize(("code", "expected"), CASES.values(), ids=CASES)
def test_what_is_missing_is_said_in_an_error_of_ours(
    dashscope: LoopbackDashScope, code: str, expected: str
) -> None:
    out, _ = python(START + code)
    assert expected in out
