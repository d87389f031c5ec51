"""ServiceScorer: what the scorers of all remote services have in common."""

from __future__ import annotations

import asyncio
import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from qwen_rerank.checks import check_query, check_text, check_whole
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.dialect import Dialect
from qwen_rerank.scorers.limits import Limits
from qwen_rerank.scorers.packing import Plan, fits_one_request, plan
from qwen_rerank.scorers.retrying import Call, Patience
from qwen_rerank.scorers.tokens import count_tokens
from qwen_rerank.scoring import Scorer, Scores, Usage

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from qwen_rerank.scorers.connections import Connections
    from qwen_rerank.scorers.exchange import Answer

__all__ = ["ServiceScorer"]

T = TypeVar("T")


class ServiceScorer(Scorer):
    """Scores by requests to a service: any number of texts, of any length.

    Texts are packed into requests within the service's limits, and those run at the same time. One
    that fails after its retries cancels the others and raises: a result is whole or it is an error.
    Connections are shared by all scorers of the process and by its threads and event loops, so that
    a scorer costs nothing to make; one that is forgotten leaves nothing behind.

    Args:
        model: The service's name of the model.
        url: Where requests go.
        dialect: How the service writes requests and answers.
        instruct: What relevant means; None for the model's own default.
        patience: How long and how often to try.
        max_concurrency: Requests of one call that run at the same time.
        limits: How large a request may be.

    Raises:
        InvalidInputError: An argument that can't be used.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str,
        dialect: Dialect,
        instruct: str | None,
        patience: Patience,
        max_concurrency: int,
        limits: Limits,
    ) -> None:
        check_text("model", model)
        if instruct is not None:
            check_text("instruct", instruct)
        check_whole("max_concurrency", max_concurrency, at_least=1)
        self._model = model
        self._url = url
        self._dialect = dialect
        self._instruct = instruct
        self._patience = patience
        self._max_concurrency = max_concurrency
        self._limits = limits
        self._closed = False
        _ = self._connections  # what takes a while to import is imported here, on no event loop

    @abstractmethod
    def _headers(self) -> dict[str, str]:
        """The headers of a request, the key among them."""

    @property
    def model(self) -> str:
        """The service's name of the model."""
        return self._model

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
        return self._connections.run(self._send(call, query, texts, requests))

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        """The same as `score`. A cancelled call closes its requests."""
        call = Call(self._patience)
        check_query(query)
        if fits_one_request(query, texts, self._limits):
            planned = self._plan(call, query, texts)
        else:  # it may take counting tokens
            planned = await asyncio.to_thread(self._plan, call, query, texts)
        requests = self._requests(planned, len(texts))
        return await self._connections.arun(self._send(call, query, texts, requests))

    def close(self) -> None:
        """Accept no more calls; the last open scorer of the process closes the connections.

        Calls that are running finish.
        """
        self._closed = True
        self._connections.release(self)

    @property
    def _connections(self) -> Connections:
        from qwen_rerank.scorers.exchange import connections  # late: aiohttp takes its time

        return connections

    def _plan(self, call: Call, query: str, texts: Sequence[str]) -> Plan:
        def count(text: str) -> int:
            call.check_deadline()
            return count_tokens(text)

        check_query(query)
        return plan(query, texts, self._limits, self._max_concurrency, count)

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
            async with slots:
                documents = [texts[place] for place in places]
                return await call.attempt(self._request(session, query, documents))

        async with self._connections.session(self) as session, call.deadline():
            answers = await _gather(answer(session, places) for places in requests)
        usage = Usage(
            requests=len(requests),
            tokens=sum(scored.tokens for scored, _ in answers),
            texts_sent=len(texts),
            retries=sum(retries for _, retries in answers),
            seconds=call.elapsed,
        )
        return Scores(_in_order(requests, [scored.values for scored, _ in answers]), usage)

    def _request(
        self, session: ClientSession, query: str, documents: list[str]
    ) -> Callable[[], Coroutine[Any, Any, Answer]]:
        """What sends one request, as often as it is called."""
        from qwen_rerank.scorers.exchange import send

        body = self._dialect.payload(self._model, query, documents, self._instruct)
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers, count = self._headers(), len(documents)
        return lambda: send(session, self._url, headers, payload, self._dialect, count)


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
    if len(answers) == 1:
        return answers[0]
    scores = {
        place: score
        for places, values in zip(requests, answers, strict=True)
        for place, score in zip(places, values, strict=True)
    }
    return [scores[place] for place in range(len(scores))]
