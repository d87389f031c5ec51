"""Adapters that give every client one interface: texts in, the best of them out.

Each imports its packages when it is made, because no environment has them all.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rig.workload import KEY, PATH, QUERY, TOP_N

__all__ = [
    "CLIENTS",
    "FAN_OUTS",
    "FLOORS",
    "LANGCHAIN",
    "LLAMAINDEX",
    "OURS",
    "PEERS",
    "SCORER",
    "SDK",
    "Client",
]

MODEL = "gte-rerank-v2"
MAX_CONCURRENCY = 16
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


class Client:
    """A client of the service. Converting texts to its inputs is not measured."""

    top_n = TOP_N

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def set_top_n(self, top_n: int) -> None:
        """Set how many documents calls return from now on."""
        self.top_n = top_n

    def inputs(self, texts: Sequence[str]) -> Any:
        return list(texts)

    def call(self, inputs: Any) -> Any:
        raise NotImplementedError

    async def acall(self, inputs: Any) -> Any:
        raise NotImplementedError

    def texts(self, inputs: Any, result: Any) -> list[str]:
        """The texts of a result, best first."""
        return [inputs[each["index"]] for each in result]

    async def aclose(self) -> None:
        """Release what belongs to the running event loop."""


class HttpClient(Client):
    """http.client on one connection: the floor of sync calls."""

    def __init__(self, base_url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(base_url).netloc)

    def call(self, inputs: list[str]) -> Any:
        self._connection.request("POST", PATH, _body(inputs), HEADERS)
        return _results(json.loads(self._connection.getresponse().read()))[: self.top_n]


class Aiohttp(Client):
    """aiohttp with one session per event loop: the floor of async calls."""

    def __init__(self, base_url: str) -> None:
        import aiohttp

        self._open = aiohttp.ClientSession
        self._session: aiohttp.ClientSession | None = None
        self._url = base_url.removesuffix("/api/v1") + PATH

    async def acall(self, inputs: list[str]) -> Any:
        return (await self._post(inputs))[: self.top_n]

    async def _post(self, texts: list[str]) -> list[dict[str, Any]]:
        if self._session is None:
            self._session = self._open()
        async with self._session.post(self._url, data=_body(texts), headers=HEADERS) as response:
            return _results(json.loads(await response.read()))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class FanOut(Aiohttp):
    """Hand-written: splits the texts evenly into a known number of requests."""

    def __init__(self, base_url: str, requests: int) -> None:
        super().__init__(base_url)
        self._requests = requests

    async def acall(self, inputs: list[str]) -> Any:
        slots, step = asyncio.Semaphore(MAX_CONCURRENCY), self._requests

        async def share(first: int) -> list[dict[str, Any]]:
            async with slots:
                results = await self._post(inputs[first::step])
            return [{**each, "index": first + step * each["index"]} for each in results]

        shares = await asyncio.gather(*map(share, range(step)))
        results = [result for results in shares for result in results]
        return sorted(results, key=lambda result: -result["relevance_score"])[: self.top_n]


def _body(texts: list[str]) -> bytes:
    contents = {"query": QUERY, "documents": texts}
    parameters = {"return_documents": False}
    return json.dumps({"model": MODEL, "input": contents, "parameters": parameters}).encode()


def _results(response: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = response["output"]["results"]
    return results


class LangChain(Client):
    """A compressor for LangChain: documents in, documents out."""

    compressor: Any

    def set_top_n(self, top_n: int) -> None:
        self.compressor.top_n = top_n

    def inputs(self, texts: Sequence[str]) -> Any:
        from langchain_core.documents import Document

        return [
            Document(text, id=f"document-{index}", metadata={"source": "handbook", "page": index})
            for index, text in enumerate(texts)
        ]

    def call(self, inputs: Any) -> Any:
        return self.compressor.compress_documents(inputs, QUERY)

    async def acall(self, inputs: Any) -> Any:
        return await self.compressor.acompress_documents(inputs, QUERY)

    def texts(self, inputs: Any, result: Any) -> list[str]:
        return [document.page_content for document in result]


class OurLangChain(LangChain):
    """QwenRerank for LangChain."""

    def __init__(self, base_url: str) -> None:
        from langchain_qwen_rerank import QwenRerank

        self.compressor = QwenRerank(
            model=MODEL,
            api_key=KEY,
            base_url=base_url,
            top_n=TOP_N,
            max_concurrency=MAX_CONCURRENCY,
        )


class CommunityLangChain(LangChain):
    """DashScopeRerank from langchain-community."""

    def __init__(self, base_url: str) -> None:
        from langchain_community.document_compressors.dashscope_rerank import DashScopeRerank

        self.compressor = DashScopeRerank(dashscope_api_key=KEY, top_n=TOP_N)


class LlamaIndex(Client):
    """A postprocessor for LlamaIndex: nodes in, nodes out."""

    postprocessor: Any

    def set_top_n(self, top_n: int) -> None:
        self.postprocessor.top_n = top_n

    def inputs(self, texts: Sequence[str]) -> Any:
        from llama_index.core.schema import NodeWithScore, TextNode

        return [
            NodeWithScore(node=TextNode(text=text, id_=f"node-{index}"), score=0.5)
            for index, text in enumerate(texts)
        ]

    def call(self, inputs: Any) -> Any:
        return self.postprocessor.postprocess_nodes(inputs, query_str=QUERY)

    async def acall(self, inputs: Any) -> Any:
        return await self.postprocessor.apostprocess_nodes(inputs, query_str=QUERY)

    def texts(self, inputs: Any, result: Any) -> list[str]:
        return [scored.node.text for scored in result]


class OurLlamaIndex(LlamaIndex):
    """QwenRerank for LlamaIndex."""

    def __init__(self, base_url: str) -> None:
        from llamaindex_qwen_rerank import QwenRerank

        self.postprocessor = QwenRerank(
            model=MODEL,
            api_key=KEY,
            base_url=base_url,
            top_n=TOP_N,
            max_concurrency=MAX_CONCURRENCY,
        )


class PeerLlamaIndex(LlamaIndex):
    """DashScopeRerank from llama-index-postprocessor-dashscope-rerank."""

    def __init__(self, base_url: str) -> None:
        from llama_index.postprocessor.dashscope_rerank import DashScopeRerank

        self.postprocessor = DashScopeRerank(api_key=KEY, top_n=TOP_N, model=MODEL)


class Zvec(Client):
    """A reranker with zvec's interface: lists of Doc in, Docs out."""

    reranker: Any

    def inputs(self, texts: Sequence[str]) -> Any:
        import zvec

        docs = [
            zvec.Doc(id=f"doc-{index}", score=0.5, fields={"content": text})
            for index, text in enumerate(texts)
        ]
        return [docs]

    def call(self, inputs: Any) -> Any:
        return self.reranker.rerank(inputs, topn=self.top_n)

    def texts(self, inputs: Any, result: Any) -> list[str]:
        return [doc.field("content") for doc in result]


class OurReRanker(Zvec):
    """QwenReRanker from qwen_rerank, with the input that zvec passes."""

    def __init__(self, base_url: str) -> None:
        from qwen_rerank import QwenReRanker

        self.reranker = QwenReRanker(
            QUERY, api_key=KEY, base_url=base_url, max_concurrency=MAX_CONCURRENCY
        )

    async def acall(self, inputs: Any) -> Any:
        return await self.reranker.arerank(inputs, topn=self.top_n)


class ZvecReRanker(Zvec):
    """QwenReRanker from zvec."""

    def __init__(self, base_url: str) -> None:
        from zvec.extension import QwenReRanker

        self.reranker = QwenReRanker(QUERY, rerank_field="content", api_key=KEY)

    async def acall(self, inputs: Any) -> Any:
        return await asyncio.to_thread(self.call, inputs)  # it has no async method


class OurScorer(Client):
    """DashScopeScorer, which our three classes build on."""

    def __init__(self, base_url: str) -> None:
        from qwen_rerank import DashScopeScorer

        self._scorer = DashScopeScorer(
            MODEL, KEY, base_url=base_url, max_concurrency=MAX_CONCURRENCY
        )

    def call(self, inputs: list[str]) -> Any:
        return self._scorer.score(QUERY, inputs)

    async def acall(self, inputs: list[str]) -> Any:
        return await self._scorer.ascore(QUERY, inputs)

    def texts(self, inputs: list[str], result: Any) -> list[str]:
        ranked = sorted(zip(result.values, inputs, strict=True), reverse=True)
        return [text for _, text in ranked[: self.top_n]]


class SdkText(Client):
    """The SDK's TextReRank, with one thread per concurrent call."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self._threads = ThreadPoolExecutor(64)

    def call(self, inputs: list[str]) -> Any:
        from dashscope import TextReRank

        return TextReRank.call(api_key=KEY, **self._options(inputs)).output

    async def acall(self, inputs: list[str]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.call, inputs)

    def texts(self, inputs: list[str], result: Any) -> list[str]:
        return [inputs[each.index] for each in result.results]

    def _options(self, documents: list[str]) -> dict[str, Any]:
        return {"model": MODEL, "query": QUERY, "documents": documents, "top_n": self.top_n}


class SdkAioText(SdkText):
    """The SDK's AioTextReRank."""

    async def acall(self, inputs: list[str]) -> Any:
        from dashscope import AioTextReRank

        return (await AioTextReRank.call(api_key=KEY, **self._options(inputs))).output

    async def aclose(self) -> None:
        from dashscope import close_shared_aio_session

        await close_shared_aio_session()


class SdkClient(SdkText):
    """The SDK's Client, with one thread per concurrent call."""

    def __init__(self, base_url: str) -> None:
        from dashscope import Client as Sdk

        super().__init__(base_url)
        self._sdk = Sdk(api_key=KEY, base_url=base_url)

    def call(self, inputs: list[str]) -> Any:
        return self._sdk.rerank.create(**self._options(inputs))


class SdkAsyncClient(SdkText):
    """The SDK's AsyncClient, one per event loop."""

    _sdk: Any = None

    async def acall(self, inputs: list[str]) -> Any:
        from dashscope import AsyncClient

        if self._sdk is None:
            self._sdk = AsyncClient(api_key=KEY, base_url=self.base_url)
        return await self._sdk.rerank.create(**self._options(inputs))

    async def aclose(self) -> None:
        await self._sdk.aclose()
        self._sdk = None


FLOORS = {"sync": "http.client", "async": "aiohttp"}
"""The least that a client can do, sync and async."""

FAN_OUTS = {
    f"aiohttp, {requests} requests": partial(FanOut, requests=requests)
    for requests in (11, 12, 13, 14, 15, 16, 32)
}
"""5,000 documents need at least 11 requests."""

LANGCHAIN, LLAMAINDEX = "QwenRerank (LangChain)", "QwenRerank (LlamaIndex)"

OURS = {LANGCHAIN: OurLangChain, LLAMAINDEX: OurLlamaIndex, "QwenReRanker": OurReRanker}

SCORER = "DashScopeScorer"

PEERS = {
    "langchain-community": CommunityLangChain,
    "llama-index": PeerLlamaIndex,
    "zvec": ZvecReRanker,
}
"""In the order of `OURS`: each is compared with the one that it replaces."""

SDK = {
    "SDK TextReRank, threads": SdkText,
    "SDK Client, threads": SdkClient,
    "SDK AioTextReRank": SdkAioText,
    "SDK AsyncClient": SdkAsyncClient,
}

CLIENTS: dict[str, Callable[[str], Client]] = {
    FLOORS["sync"]: HttpClient,
    FLOORS["async"]: Aiohttp,
    **FAN_OUTS,
    SCORER: OurScorer,
    **OURS,
    **PEERS,
    **SDK,
}
