"""ServiceScorer: what the scorers of all remote services have in common."""

from __future__ import annotations

import asyncio
import itertools
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_core import to_json

from qwen_rerank.errors import InvalidInputError, QwenRerankError
from qwen_rerank.inputs.content import Item, check_modalities, checked_query, text_of
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.scorers.catalog import Limits, Price
from qwen_rerank.scorers.http.batching import Plan, plan
from qwen_rerank.scorers.http.dialects.base import Dialect
from qwen_rerank.scorers.http.rate_limiter import RateLimits
from qwen_rerank.scorers.http.retry import CallContext, RetryPolicy
from qwen_rerank.telemetry import request_span
from qwen_rerank.text.tokenizer import count_tokens
from qwen_rerank.validation import check_text, check_whole

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from qwen_rerank.scorers.http.io_loop import Connections
    from qwen_rerank.scorers.http.request import ScoredResponse

__all__ = ["ServiceScorer"]

_log = logging.getLogger(__name__)

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
        retry_policy: How long and how often to try.
        max_concurrency: Requests of one call that run at the same time.
        limits: How large a request may be.
        rate_limits: The most that may be sent in any minute.
        price: What tokens cost; None where that is not known.

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
        retry_policy: RetryPolicy,
        max_concurrency: int,
        limits: Limits,
        rate_limits: RateLimits,
        price: Price | None = None,
    ) -> None:
        check_text("model", model)
        if instruct is not None:
            check_text("instruct", instruct)
        check_whole("max_concurrency", max_concurrency, at_least=1)
        self._model = model
        self._url = url
        self._dialect = dialect
        self._instruct = instruct
        self._retry_policy = retry_policy
        self._max_concurrency = max_concurrency
        self._limits = limits
        if rate_limits.tokens is not None:
            tokens = min(limits.request_tokens, rate_limits.tokens)
            self._limits = replace(limits, request_tokens=tokens)
        self._rate_limits = rate_limits
        self._price = price
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
    def fingerprint(self) -> tuple[Any, ...]:
        """The class, the model and the instruction."""
        return (*super().fingerprint, self._instruct)

    @property
    def limits(self) -> Limits:
        """How large a request may be."""
        return self._limits

    @property
    def price(self) -> Price | None:
        """The list price by which costs are estimated; None where it is not known."""
        return self._price

    def score(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Score the texts; see `Scorer.score`.

        Raises:
            AuthenticationError: The key, or what it may do, was refused.
            RateLimitError, RequestTimeoutError, ServiceError: Retries did not help.
            RateLimitError: One's own rates leave no room before the deadline.
            ContentBlockedError: The content inspection refused a text.
            BadResponseError: An answer that is not a whole ranking.
            InvalidInputError: A blank query, a text that is not UTF-8 or with the query more tokens
                than may go out in a minute, an image or a video that the model does not take, or
                what the service refuses as invalid.
        """
        return self._run(query, texts)

    async def ascore(self, query: Item, texts: Sequence[Item]) -> Scores:
        """The same as `score`. A cancelled call closes its requests."""
        return await self._arun(query, texts)

    def score_top(self, query: Item, texts: Sequence[Item], top_n: int) -> Scores:
        """Score the texts, and ask the service for the best `top_n` where one request holds them.

        Raises the same errors as `score`.
        """
        return self._run(query, texts, top_n)

    async def ascore_top(self, query: Item, texts: Sequence[Item], top_n: int) -> Scores:
        """The same as `score_top`, without blocking the event loop."""
        return await self._arun(query, texts, top_n)

    def _run(self, query: Item, texts: Sequence[Item], top_n: int | None = None) -> Scores:
        call = CallContext(self._retry_policy)
        planned = self._plan(query, texts, self._counter(call))
        self._log_plan(planned, len(texts))
        return self._connections.run(self._send(call, query, texts, planned, top_n))

    async def _arun(self, query: Item, texts: Sequence[Item], top_n: int | None = None) -> Scores:
        call = CallContext(self._retry_policy)
        planned = await self._planned(call, query, texts)
        self._log_plan(planned, len(texts))
        return await self._connections.arun(self._send(call, query, texts, planned, top_n))

    def close(self) -> None:
        """Accept no more calls; the last open scorer of the process closes the connections.

        Calls that are running finish.
        """
        self._closed = True
        self._connections.release(self)

    @property
    def _connections(self) -> Connections:
        from qwen_rerank.scorers.http.request import connections  # late: aiohttp takes its time

        return connections

    def _plan(
        self, query: Item, texts: Sequence[Item], count: Callable[[str], int], exact: bool = False
    ) -> Plan:
        checked_query(query)
        check_modalities(self.modalities, self._model, query, texts, "Text {}".format)
        return plan(query, texts, self._limits, self._max_concurrency, count, exact=exact)

    async def _planned(self, call: CallContext, query: Item, texts: Sequence[Item]) -> Plan:
        """A plan, made in a worker thread where texts are many or long, or must be counted."""
        if len(texts) <= self._limits.documents and _length(texts) <= _LONG:
            with suppress(_UncountedError):
                return self._plan(query, texts, _refuse_to_count)
        return await asyncio.to_thread(self._plan, query, texts, self._counter(call))

    def _counter(self, call: CallContext) -> Callable[[str], int]:
        """Counts tokens until the call's deadline."""

        def count(text: str) -> int:
            call.check_deadline()
            return count_tokens(text)

        return count

    def _log_plan(self, planned: Plan, count: int) -> None:
        _log.debug(
            "plan for %s: texts=%d requests=%d estimated=%s",
            self._model,
            count,
            len(planned.requests),
            planned.estimated,
        )
        if planned.oversized:
            _log.warning(
                "%d of %d items (the query and the texts) are over the %d tokens that %s reads of "
                "each: the service ignores the rest of them. Wrap the scorer in PassageScorer, "
                "which scores long texts in parts.",
                planned.oversized,
                count + 1,
                self._limits.item_tokens,
                self._model,
            )

    async def _send(
        self,
        call: CallContext,
        query: Item,
        texts: Sequence[Item],
        planned: Plan,
        top_n: int | None,
    ) -> Scores:
        if self._closed:
            raise InvalidInputError(f"{self!r} is closed.", remedy="Make a new one.")
        if len(planned.requests) != 1 or (top_n is not None and top_n >= len(texts)):
            top_n = None
        slots = asyncio.Semaphore(self._max_concurrency)

        async def answers(
            places: list[int], top_n: int | None, *, estimated: bool
        ) -> list[_Answered]:
            documents = [texts[place] for place in places]
            try:
                async with slots:
                    turn = await self._turn(call, query, documents) if self._rate_limits else None
                    send = self._request(call, session, query, documents, top_n)
                    answer, retries = await call.attempt(send, turn)
                return [_Answered(places, answer, retries)]
            except InvalidInputError as error:
                if self._dialect.is_too_long(error.message):
                    _name_longest(error, documents, places)
                    raise
                if not estimated:
                    raise
                exact = await asyncio.to_thread(
                    self._plan, query, documents, self._counter(call), exact=True
                )
                if len(exact.requests) == 1:  # its size was not why it was refused
                    raise
            parts = ([places[place] for place in part] for part in exact.requests)
            return await _gather(answers(part, None, estimated=False) for part in parts)

        async with self._connections.session(self) as session, call.deadline():
            answered = await _gather(
                answers(places, top_n, estimated=planned.estimated) for places in planned.requests
            )
        is_text = {type(query), *map(type, texts)} <= {str}
        return _scores(answered, call, self._price if is_text else None)

    async def _turn(
        self, call: CallContext, query: Item, documents: list[Item]
    ) -> Callable[[], Awaitable[None]]:
        """A function that waits until the rate limits allow a request with these documents."""
        tokens, limits = 0, self._rate_limits
        if limits.tokens is not None:
            tokens = await asyncio.to_thread(self._tokens, call, query, documents)
            if tokens > limits.tokens:
                raise InvalidInputError(
                    f"A request of {tokens} tokens can never be sent with tokens_per_minute="
                    f"{limits.tokens}.",
                    remedy="Raise tokens_per_minute=, or send shorter texts.",
                )
        key = SecretStr(self._headers().get("Authorization", ""))
        account = (urlsplit(self._url).netloc, key)
        limiters = self._connections.rate_limiters
        return lambda: limiters.limiter(account, limits).wait_for_turn(tokens, call.until)

    def _tokens(self, call: CallContext, query: Item, documents: list[Item]) -> int:
        """The tokens of one request, but for those of images and videos, which nobody can tell."""
        count = self._counter(call)
        return count(text_of(query)) * len(documents) + sum(map(count, map(text_of, documents)))

    def _request(
        self,
        call: CallContext,
        session: ClientSession,
        query: Item,
        documents: list[Item],
        top_n: int | None,
    ) -> Callable[[], Coroutine[Any, Any, ScoredResponse]]:
        """What makes one attempt of a request, as often as it is called."""
        from qwen_rerank.scorers.http.request import send

        body = self._dialect.request_body(self._model, query, documents, self._instruct, top_n)
        payload = to_json(body)
        headers, count, attempts = self._headers(), len(documents), itertools.count()

        async def attempt() -> ScoredResponse:
            provider, resends = self._dialect.provider, next(attempts)
            with request_span(provider, self._model, self._url, count, resends) as span:
                sending = send(session, self._url, headers, payload, self._dialect, count, top_n)
                answer = await call.in_time(sending)
                span.answered(answer.tokens)
                return answer

        return attempt


_LONG = 1_000_000
"""Characters of all texts that take some milliseconds, for which an event loop need not wait."""


def _length(texts: Sequence[Item]) -> int:
    return sum(len(text) for text in texts if isinstance(text, str))


class _UncountedError(Exception):
    """Tokens must be counted, for which an event loop has no time."""


def _refuse_to_count(text: str) -> int:
    raise _UncountedError


@dataclass(frozen=True, slots=True)
class _Answered:
    """A request that was answered: the places of its texts, and how many attempts failed before."""

    places: list[int]
    answer: ScoredResponse
    retries: int


async def _gather(works: Iterable[Coroutine[Any, Any, list[T]]]) -> list[T]:
    """All that they return, run at the same time; the first failure cancels the others."""
    waiting = list(works)
    if len(waiting) == 1:
        return await waiting[0]
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in waiting]
    except BaseExceptionGroup as failures:
        failure = failures.exceptions[0]
    if failure is not None:  # raised out here, it does not point back to the group that holds it
        try:
            raise failure
        finally:
            del failure
    return [result for task in tasks for result in task.result()]


def _name_longest(error: QwenRerankError, documents: list[Item], indices: list[int]) -> None:
    """Add to the error which document is the longest: the service does not say which it refused."""
    length, index = max(zip(map(len, map(text_of, documents)), indices, strict=True))
    said = error.message.rstrip(".")
    error.message = f"{said}. The longest text is text {index}, with {length:,} characters."
    error.args = (error.message,)


def _scores(answered: list[_Answered], call: CallContext, price: Price | None) -> Scores:
    """The scores of all requests' texts, in the order of the texts, and what they cost."""
    values, indices = _values(answered)
    tokens = [part.answer.tokens for part in answered]
    usage = Usage(
        requests=len(answered),
        tokens=sum(tokens),
        texts_sent=sum(len(part.places) for part in answered),
        retries=sum(part.retries for part in answered),
        seconds=call.elapsed,
        cost=price.of(sum(tokens)) if price and all(tokens) else None,  # 0 is not said
    )
    return Scores(values, usage, indices=indices)


def _values(answered: list[_Answered]) -> tuple[list[float], list[int] | None]:
    """All scores in the order of the texts; or the best ones, and the indices of their texts."""
    if len(answered) == 1:
        return answered[0].answer.values, answered[0].answer.indices
    scores = {
        place: score
        for part in answered
        for place, score in zip(part.places, part.answer.values, strict=True)
    }
    return [scores[place] for place in range(len(scores))], None
