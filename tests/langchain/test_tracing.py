"""The compressor's step as callback handlers see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

from langchain_qwen_rerank import QwenRerank, QwenRerankRetriever
from qwen_rerank import EmbeddedScorer, ServiceError
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope

Compress = Callable[..., list[Document]]

QUERY = "What do penguins eat?"
FOUND = [
    Document(page_content="score=0.2 "),
    Document(page_content="score=0.9 "),
    Document(page_content="score=0.9 "),
    Document(page_content=""),
]


@dataclass
class Run:
    """One run, from its start to its end."""

    name: str | None
    parent: UUID | None
    inputs: Any
    serialized: Any
    outputs: Any = None
    error: BaseException | None = None


@dataclass
class Runs(BaseCallbackHandler):
    """Keeps every run of a chain or a retriever by its id."""

    by_id: dict[UUID, Run] = field(default_factory=dict)

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        run = Run(kwargs.get("name"), kwargs["parent_run_id"], inputs, serialized)
        self.by_id[kwargs["run_id"]] = run

    on_retriever_start = on_chain_start

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        self.by_id[run_id].outputs = outputs

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:
        self.by_id[run_id].outputs = documents

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.by_id[run_id].error = error

    on_retriever_error = on_chain_error

    def named(self, name: str) -> Run:
        """The only run of this name."""
        (run,) = [run for run in self.by_id.values() if run.name == name]
        return run

    def parent_of(self, name: str) -> Run:
        parent = self.named(name).parent
        assert parent is not None
        return self.by_id[parent]


@pytest.fixture(params=["sync", "async"])
def trace(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Invoke a Runnable, or await it, and return what the handler saw and what came out."""

    async def call(runnable: Any, runs: Runs) -> Any:
        config = {"callbacks": [runs]}
        if request.param == "sync":
            return runnable.invoke(QUERY, config)
        return await runnable.ainvoke(QUERY, config)

    return call


class Fixed(BaseRetriever):
    """Finds the same documents always."""

    documents: list[Document] = FOUND

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return self.documents


def contextual(compressor: QwenRerank) -> BaseRetriever:
    return ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Fixed())


def own(compressor: QwenRerank) -> BaseRetriever:
    return QwenRerankRetriever(compressor=compressor, base_retriever=Fixed())


retrievers = pytest.mark.parametrize("retriever", [contextual, own])
Retriever = Callable[[QwenRerank], BaseRetriever]


@retrievers
async def test_reranking_is_a_run_under_the_retrievers(
    dashscope: LoopbackDashScope, trace: Callable[..., Any], retriever: Retriever
) -> None:
    runs = Runs()
    found = await trace(retriever(QwenRerank()), runs)
    assert runs.parent_of("QwenRerank").parent is None
    assert runs.parent_of("QwenRerank") is runs.parent_of("Fixed")
    assert runs.parent_of("QwenRerank").outputs == found


@retrievers
async def test_the_run_shows_what_went_in_and_what_came_out(
    dashscope: LoopbackDashScope, trace: Callable[..., Any], retriever: Retriever
) -> None:
    runs = Runs()
    found = await trace(retriever(QwenRerank(model="qwen3-rerank")), runs)
    run = runs.named("QwenRerank")
    assert run.inputs == {"query": QUERY, "documents": FOUND}
    assert run.outputs["documents"] == found
    assert (run.outputs["model"], run.outputs["skipped"]) == ("qwen3-rerank", 1)


@retrievers
async def test_the_run_shows_what_it_cost(
    dashscope: LoopbackDashScope, trace: Callable[..., Any], retriever: Retriever
) -> None:
    runs = Runs()
    await trace(retriever(QwenRerank(region="cn-beijing")), runs)
    usage = runs.named("QwenRerank").outputs["usage"]
    assert usage["tokens"] > 0
    assert usage["cost"] == pytest.approx(0.069e-6 * usage["tokens"])
    assert usage["seconds"] > 0
    assert (usage["requests"], usage["texts_sent"], usage["duplicate_texts"]) == (1, 2, 1)


@retrievers
async def test_a_failure_is_an_error_of_the_run(
    dashscope: LoopbackDashScope, trace: Callable[..., Any], retriever: Retriever
) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    runs = Runs()
    with pytest.raises(ServiceError) as caught:
        await trace(retriever(QwenRerank(max_retries=0)), runs)
    assert runs.named("QwenRerank").error is caught.value
    assert runs.parent_of("QwenRerank").error is caught.value


@retrievers
async def test_the_key_is_in_no_trace(
    dashscope: LoopbackDashScope, trace: Callable[..., Any], retriever: Retriever
) -> None:
    runs = Runs()
    await trace(retriever(QwenRerank(api_key=KEY)), runs)
    assert runs.named("QwenRerank").outputs
    assert KEY not in repr(runs.by_id)


async def test_a_subclass_shows_under_its_own_name(trace: Callable[..., Any]) -> None:
    class HouseRerank(QwenRerank):
        pass

    runs = Runs()
    await trace(own(HouseRerank(scorer=EmbeddedScorer())), runs)
    assert runs.named("HouseRerank").outputs["model"] == "embedded"


def test_handlers_can_be_passed_directly(compress: Compress) -> None:
    runs = Runs()
    compress(QwenRerank(scorer=EmbeddedScorer()), FOUND, QUERY, callbacks=[runs])
    assert runs.named("QwenRerank").parent is None


async def test_without_callbacks_the_run_is_a_child_of_the_one_around_it(
    trace: Callable[..., Any],
) -> None:
    compressor = QwenRerank(scorer=EmbeddedScorer())

    def step(query: str) -> list[Document]:
        return compressor.compress_documents(FOUND, query)

    async def astep(query: str) -> list[Document]:
        return await compressor.acompress_documents(FOUND, query)

    runs = Runs()
    await trace(RunnableLambda(step, astep, name="step"), runs)
    assert runs.parent_of("QwenRerank") is runs.named("step")
