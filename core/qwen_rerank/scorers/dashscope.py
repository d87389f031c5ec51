"""DashScopeScorer: Alibaba Cloud's TextReRank service."""

from __future__ import annotations

import asyncio
import os
import re
import warnings
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from qwen_rerank.checks import check_query, check_whole
from qwen_rerank.errors import InvalidInputError, MissingKeyError
from qwen_rerank.scorers.limits import Limits, published_limits, takes_instruct, takes_objects
from qwen_rerank.scorers.packing import Plan, fits_one_request, plan
from qwen_rerank.scorers.retrying import Call, Patience
from qwen_rerank.scoring import Scorer, Scores, Usage

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from qwen_rerank.scorers.dashscope_client import Answer

__all__ = ["DashScopeScorer"]

T = TypeVar("T")

SINGAPORE = "ap-southeast-1"

_GATEWAYS = {
    "cn-beijing": "https://dashscope.aliyuncs.com/api/v1",
    SINGAPORE: "https://dashscope-intl.aliyuncs.com/api/v1",
}


class DashScopeScorer(Scorer):
    """Scores by DashScope's TextReRank: any number of texts, of any length.

    Texts are packed into as few requests as the service's limits allow, and those run at the same
    time. One that fails after its retries cancels the others and raises: a result is whole or it is
    an error. Connections are shared by all scorers of the process and by its threads and event
    loops, so that a scorer costs nothing to make; one that is forgotten leaves nothing behind.

    Scores are in [0, 1].

    Args:
        model: `"gte-rerank-v2"`, `"qwen3-rerank"`, `"qwen3-vl-rerank"` or another of the service's.
        api_key: The key; DASHSCOPE_API_KEY if None. It is in no repr, pickle or message.
        base_url: The API's address up to and including `/api/v1`; DASHSCOPE_BASE_URL if None,
            then DASHSCOPE_HTTP_BASE_URL, then that of the region.
        workspace: The workspace that the requests are for, if it is not the key's default one.
        region: `"cn-beijing"` (the default) or `"ap-southeast-1"` (Singapore); with a workspace,
            any region, at that workspace's own address. A key works in its own region only.
        instruct: What relevant means, for qwen3-rerank and qwen3-vl-rerank; best in English. The
            service's default is "Given a web search query, retrieve relevant passages that answer
            the query."
        timeout: Seconds for one attempt of one request.
        deadline: Seconds for one call with all its requests, retries and waits; None for no limit.
        max_retries: Attempts of one request after the first, on 408, 409, 429, 5xx, throttling
            under 200 or 400, timeouts and dropped connections, with jittered exponential backoff.
            Retry-After is honoured, unless it would pass the deadline; then the error is raised.
        max_concurrency: Requests of one call that run at the same time.
        limits: How large a request may be; what the service publishes for the model if None.

    Raises:
        MissingKeyError: No key, or a string that can't be one.
        InvalidInputError: Another argument that can't be used.
    """

    def __init__(
        self,
        model: str = "gte-rerank-v2",
        api_key: str | SecretStr | None = None,
        *,
        base_url: str | None = None,
        workspace: str | None = None,
        region: str | None = None,
        instruct: str | None = None,
        timeout: float = 30.0,
        deadline: float | None = None,
        max_retries: int = 3,
        max_concurrency: int = 8,
        limits: Limits | None = None,
    ) -> None:
        from qwen_rerank.scorers import dashscope_client  # late: its SDK takes half a second

        check_whole("max_concurrency", max_concurrency, at_least=1)
        self._model = _checked_model(model, instruct)
        self._api_key: SecretStr | None = _checked_key(api_key)
        self._base_url = _endpoint(base_url, workspace, region)
        self._workspace = workspace
        self._instruct = instruct
        self._patience = Patience(timeout, deadline, max_retries)
        self._max_concurrency = max_concurrency
        in_singapore = _is_singapore(self._base_url, region)
        self._limits = limits or published_limits(model, singapore=in_singapore)
        self._service = dashscope_client
        self._closed = False

    @property
    def model(self) -> str:
        """The service's name of the model."""
        return self._model

    @property
    def base_url(self) -> str:
        """The address that requests go to, up to `/api/v1`."""
        return self._base_url

    @property
    def limits(self) -> Limits:
        """How large a request may be."""
        return self._limits

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts; see `Scorer.score`.

        Raises:
            AuthenticationError: The key, or what it may do, was refused.
            RateLimitError, RequestTimeoutError, ServiceError: Retries did not help.
            ContentBlockedError: The content inspection refused a text.
            BadResponseError: An answer that is not a whole ranking.
            InvalidInputError: A blank query, a text that is not UTF-8, or what the service refuses
                as invalid.
        """
        call = Call(self._patience)
        requests = self._requests(self._plan(call, query, texts), len(texts))
        return self._service.connections.run(self._send(call, query, texts, requests))

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        """The same as `score`. A cancelled call closes its requests."""
        call = Call(self._patience)
        check_query(query)
        if fits_one_request(query, texts, self._limits):
            requests = [list(range(len(texts)))] if texts else []
        else:  # it may take counting tokens
            planned = await asyncio.to_thread(self._plan, call, query, texts)
            requests = self._requests(planned, len(texts))
        return await self._service.connections.arun(self._send(call, query, texts, requests))

    def close(self) -> None:
        """Accept no more calls; the last open scorer of the process closes the connections.

        Calls that are running finish.
        """
        self._closed = True
        self._service.connections.release(self)

    def _plan(self, call: Call, query: str, texts: Sequence[str]) -> Plan:
        def count_tokens(text: str) -> int:
            call.check_deadline()
            tokens: int = self._service.count_tokens(text)
            return tokens

        check_query(query)
        return plan(query, texts, self._limits, count_tokens)

    def _requests(self, planned: Plan, count: int) -> list[list[int]]:
        if planned.oversized:
            warnings.warn(
                f"{planned.oversized} of {count + 1} items (the query and the texts) are over the "
                f"{self._limits.item_tokens} tokens that {self._model} reads of each: the service "
                "ignores the rest of them. Split long texts into passages first.",
                stacklevel=3,
            )
        return planned.requests

    async def _send(
        self, call: Call, query: str, texts: Sequence[str], requests: list[list[int]]
    ) -> Scores:
        if self._closed:
            raise InvalidInputError(f"{self!r} is closed.", remedy="Make a new one.")
        slots = asyncio.Semaphore(self._max_concurrency)

        async def answer(session: ClientSession, places: list[int]) -> tuple[Answer, int]:
            documents = [texts[place] for place in places]
            async with slots:
                return await call.attempt(lambda: self._request(session, query, documents))

        async with self._service.connections.session(self) as session, call.deadline():
            answers = await _gather(answer(session, places) for places in requests)
        usage = Usage(
            requests=len(requests),
            tokens=sum(scored.tokens for scored, _ in answers),
            texts_sent=len(texts),
            retries=sum(retries for _, retries in answers),
            seconds=call.elapsed,
        )
        return Scores(_in_order(requests, [scored.values for scored, _ in answers]), usage)

    async def _request(self, session: ClientSession, query: str, documents: list[str]) -> Answer:
        return await self._service.rerank(
            session,
            model=self._model,
            query=self._item(query),
            documents=[self._item(document) for document in documents],
            instruct=self._instruct,
            api_key=(self._api_key or _checked_key(None)).get_secret_value(),
            workspace=self._workspace,
            base_url=self._base_url,
        )

    def _item(self, text: str) -> str | dict[str, str]:
        return {"text": text} if takes_objects(self._model) else text

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, base_url={self._base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the key: where it is unpickled, DASHSCOPE_API_KEY gives it, at the first call.
        return {**self.__dict__, "_api_key": None, "_service": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from qwen_rerank.scorers import dashscope_client

        self.__dict__.update(state)
        self._service = dashscope_client


async def _gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What they return, all run at the same time; the first failure cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]


def _in_order(requests: list[list[int]], answers: list[list[float]]) -> list[float]:
    """The scores of all requests' texts, in the order of the texts."""
    scores = {
        place: score
        for places, values in zip(requests, answers, strict=True)
        for place, score in zip(places, values, strict=True)
    }
    return [scores[place] for place in range(len(scores))]


def _checked_model(model: str, instruct: str | None) -> str:
    if not isinstance(model, str) or not model.strip():
        raise InvalidInputError(
            f"model must be the service's name of a model, got {model!r}.",
            remedy='Pass for example model="gte-rerank-v2" or model="qwen3-rerank".',
        )
    for name, text in (("model", model), ("instruct", instruct)):
        if text is not None and not (isinstance(text, str) and _is_utf8(text)):
            raise InvalidInputError(f"{name} must be a string that UTF-8 can encode, got {text!r}.")
    if instruct is not None and not takes_instruct(model):
        raise InvalidInputError(
            f"{model} takes no instruct, got {instruct!r}.",
            remedy='Pass model="qwen3-rerank", which does, or leave instruct out.',
        )
    return model


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_key(api_key: str | SecretStr | None) -> SecretStr:
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    key = key or os.environ.get("DASHSCOPE_API_KEY")
    if not key:
        raise MissingKeyError(
            "There is no DashScope API key.",
            remedy="Make one in the Alibaba Cloud Model Studio console, then pass api_key= or set "
            "the environment variable DASHSCOPE_API_KEY.",
        )
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or " " in key:
        raise MissingKeyError(
            "The DashScope API key holds white space or characters that no key has.",
            remedy="Copy it again, without quotes or a line break.",
        )
    return SecretStr(key)


_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
"""What may stand between two dots of a host name: nothing that could lead elsewhere."""


def _endpoint(base_url: str | None, workspace: str | None, region: str | None) -> str:
    for name, label in (("workspace", workspace), ("region", region)):
        if label is not None and not (isinstance(label, str) and _LABEL.fullmatch(label)):
            raise InvalidInputError(f"{name} must be letters, digits and hyphens, got {label!r}.")
    given = (
        base_url
        or os.environ.get("DASHSCOPE_BASE_URL")
        or os.environ.get("DASHSCOPE_HTTP_BASE_URL")
    )
    return _checked_url(given.strip()) if given else _regional(workspace, region)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    # The address is quoted nowhere: what does not belong in it may be a key or a password.
    if not usable or "@" in parts.netloc or parts.query or parts.fragment or "{" in url:
        raise InvalidInputError(
            "base_url must be an http or https address, with no user, query, fragment or braces.",
            remedy=f"Pass for example {_GATEWAYS['cn-beijing']!r}.",
        )
    if "/compatible-" in parts.path:
        raise InvalidInputError(
            f"base_url {url!r} belongs to the OpenAI-compatible API, which is not supported here.",
            remedy=f"Pass the native one, such as {_GATEWAYS['cn-beijing']!r}, or unset "
            "DASHSCOPE_BASE_URL.",
        )
    return url.rstrip("/")


def _regional(workspace: str | None, region: str | None) -> str:
    if workspace and region:
        return f"https://{workspace}.{region}.maas.aliyuncs.com/api/v1"
    try:
        return _GATEWAYS[region or "cn-beijing"]
    except KeyError:
        raise InvalidInputError(
            f"region {region!r} has no address that all workspaces share.",
            remedy=f"Pass workspace= too, or one of {', '.join(_GATEWAYS)}.",
        ) from None


def _is_singapore(base_url: str, region: str | None) -> bool:
    """By the address, where it is the service's own; a proxy's says nothing, so by the region."""
    host = urlsplit(base_url).hostname or ""
    if host.endswith(".aliyuncs.com"):
        return host.startswith("dashscope-intl.") or f".{SINGAPORE}." in host
    return region == SINGAPORE
