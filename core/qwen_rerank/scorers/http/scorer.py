"""HttpScorer: what the scorers of all remote services have in common."""

from __future__ import annotations

import asyncio
import itertools
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic_core import to_json

from qwen_rerank.errors import InvalidInputError, QwenRerankError
from qwen_rerank.inputs.content import (
    Item,
    check_modalities,
    checked_query,
    checked_texts,
    text_of,
    with_text,
)
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.scorers.catalog import Limits, Price
from qwen_rerank.scorers.http.batching import Plan, TokenRatio, plan
from qwen_rerank.scorers.http.dialects.base import Dialect
from qwen_rerank.scorers.http.io_loop import IOLoop, shared_io_loop
from qwen_rerank.scorers.http.payload import PIECE, json_pieces, size_of
from qwen_rerank.scorers.http.rate_limiter import RateLimits
from qwen_rerank.scorers.http.retry import CallContext, RetryPolicy
from qwen_rerank.scorers.http.route import Route
from qwen_rerank.scorers.truncation import check_truncation, name_of
from qwen_rerank.telemetry import request_span
from qwen_rerank.text.tokenizer import count_tokens, is_loaded, truncated
from qwen_rerank.threads import to_thread
from qwen_rerank.validation import check_text, check_whole

if TYPE_CHECKING:
    from qwen_rerank.scorers.http.auth import Headers
    from qwen_rerank.scorers.http.pool import Endpoint
    from qwen_rerank.scorers.http.request import RerankRequest, ScoredResponse

__all__ = ["HttpScorer"]

_log = logging.getLogger(__name__)

_MAX_QUICK_CHARACTERS = 500_000
"""The most characters that are planned on the caller's event loop, which takes a millisecond."""

_MAX_QUICK_COUNT = 10_000
"""The most characters that are counted there, which takes two milliseconds."""


class HttpScorer(Scorer):
    """Score any number of texts with requests to a service.

    Texts are batched into requests within the service's limits, and the requests run concurrently.
    If one still fails after its retries, the others are cancelled and the error is raised: you get
    every score or an error. All scorers, threads and event loops of the process share connections,
    so a scorer is cheap to create, and you don't have to close it.

    Args:
        model: The service's name of the model.
        url: The URL that requests are sent to.
        dialect: Writes requests and reads responses.
        instruct: The task instruction; None for the model's default.
        retry_policy: Timeouts and retries.
        max_concurrency: The number of requests that one call sends at the same time, at least 1.
        limits: The size limits of a request.
        rate_limits: The most that may be sent in any minute.
        route: The proxy, further headers and trusted authorities.
        truncate: Whether to truncate items that exceed the limit per item, or refuse them.
        price: The price of tokens; None if it is not known.

    Raises:
        InvalidInputError: An argument is invalid.
    """

    _io_loop: ClassVar[IOLoop] = shared_io_loop

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
        route: Route | None = None,
        truncate: bool = True,
        price: Price | None = None,
    ) -> None:
        check_text("model", model)
        if instruct is not None:
            check_text("instruct", instruct)
        check_whole("max_concurrency", max_concurrency, at_least=1)
        self._model = model
        self._url = url
        self._endpoint = _endpoint_of(url)
        self._dialect = dialect
        self._instruct = instruct
        self._retry_policy = retry_policy
        self._max_concurrency = max_concurrency
        self._limits = limits
        self._set_rate_limits(rate_limits)
        self._route = Route() if route is None else route
        self._truncate = truncate
        self._price = price
        self._token_ratio = TokenRatio()
        self._is_closed = False

    @abstractmethod
    def _headers(self) -> Headers:
        """The headers of a request, with the key as a SecretStr."""

    @property
    def model(self) -> str:
        """The service's name of the model."""
        return self._model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The class, the model, the instruction, and how many tokens of a text are read."""
        return (*super().fingerprint, self._instruct, self._limits.item_tokens)

    @property
    def limits(self) -> Limits:
        """The size limits of a request."""
        return self._limits

    @property
    def price(self) -> Price | None:
        """The list price that costs are estimated with; None if it is not known."""
        return self._price

    def share_rates(self, processes: int) -> None:
        """Divide `requests_per_minute` and `tokens_per_minute`; see `Scorer.share_rates`."""
        check_whole("processes", processes, at_least=1)
        self._set_rate_limits(self._rate_limits.share(processes))

    def _set_rate_limits(self, rate_limits: RateLimits) -> None:
        """Set the most that may be sent in any minute. A request never holds more."""
        if rate_limits.tokens is not None:
            tokens = min(self._limits.request_tokens, rate_limits.tokens)
            self._limits = replace(self._limits, request_tokens=tokens)
        self._rate_limits = rate_limits

    def score(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Score the texts; see `Scorer.score`.

        Raises:
            AuthenticationError: The key is invalid, or not allowed to do this.
            RateLimitError: The service still throttles the request after all retries; or your own
                rate limits leave no room before the deadline.
            RequestTimeoutError: There was no response in time, or the deadline passed.
            ServiceError: The service failed or could not be reached, after all retries.
            ContentBlockedError: The service's content inspection refused a text.
            BadResponseError: The response is not a complete ranking.
            InvalidInputError: The query is blank; a text is not valid Unicode, holds an image or a
                video that the model does not take, or has more tokens than `tokens_per_minute`; or,
                with `truncate=False`, than the model reads; or the service says that the request is
                invalid.
        """
        return self._score(query, texts)

    async def ascore(self, query: Item, texts: Sequence[Item]) -> Scores:
        """The same as `score`. If the call is cancelled, its connections are closed."""
        return await self._ascore(query, texts)

    def score_top(self, query: Item, texts: Sequence[Item], top_n: int) -> Scores:
        """Score the texts; if one request holds them all, ask the service for the best `top_n`.

        Raises the same errors as `score`.
        """
        return self._score(query, texts, top_n)

    async def ascore_top(self, query: Item, texts: Sequence[Item], top_n: int) -> Scores:
        """The same as `score_top`, without blocking the event loop."""
        return await self._ascore(query, texts, top_n)

    def estimate(self, query: str, texts: Sequence[str]) -> Usage:
        """Return what scoring these texts would cost, without sending anything.

        Tokens are counted with the tokenizer of Qwen models, without the instruction. If no request
        has to be sent again, DashScope bills the query's tokens once per text and those of the
        texts.

        Args:
            query: The query; not blank.
            texts: The texts, without images.

        Raises:
            InvalidInputError: As for `score`.
        """
        inputs, planned = self._plan(_Inputs.of(query, texts), count_tokens)
        of_texts = [count_tokens(text_of(item)) for item in inputs.texts]
        tokens = count_tokens(text_of(inputs.query)) * len(of_texts) + sum(of_texts)
        return Usage(
            requests=len(planned.requests),
            tokens=tokens,
            texts_sent=len(of_texts),
            truncated=inputs.truncated,
            cost=None if self._price is None else self._price.of(tokens),
        )

    def close(self) -> None:
        """Refuse further calls. The last open scorer of the process closes the idle connections.

        Calls that are running finish.
        """
        self._is_closed = True
        self._io_loop.let_go(self)

    def _with_instruct(self, instruct: str) -> Self | None:
        return None if self._instruct is None else self._copy_with(_instruct=instruct)

    def _copy_with(self, **attributes: Any) -> Self:
        """The same scorer with other attributes."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **attributes)
        return other

    def _score(self, query: Item, texts: Sequence[Item], top_n: int | None = None) -> Scores:
        context, inputs = CallContext(self._retry_policy), _Inputs.of(query, texts)
        inputs, planned = self._plan(inputs, _counter(context))
        return self._io_loop.run(self._send(context, inputs, planned, top_n))

    async def _ascore(self, query: Item, texts: Sequence[Item], top_n: int | None = None) -> Scores:
        context, inputs = CallContext(self._retry_policy), _Inputs.of(query, texts)
        inputs, planned = await self._aplan(inputs, _counter(context))
        return await self._io_loop.arun(self._send(context, inputs, planned, top_n))

    def _plan(self, inputs: _Inputs, count: Callable[[str], int]) -> tuple[_Inputs, Plan]:
        """Return what to send, truncated if need be, and how to batch it."""
        if self._is_closed:
            raise InvalidInputError(f"{self!r} is closed.", remedy="Create a new one.")
        checked_query(inputs.query)
        if not inputs.are_texts:
            check_modalities(
                self.modalities, self._model, inputs.query, inputs.texts, "Text {}".format
            )
        planned = self._batched(inputs, count)
        if planned.oversized:
            inputs = self._truncated(inputs, planned.oversized, count)
            planned = self._batched(inputs, count)
        _log.debug(
            "plan for %s: texts=%d requests=%d estimated=%s",
            self._model,
            len(inputs.texts),
            len(planned.requests),
            planned.is_estimated,
        )
        return inputs, planned

    def _batched(self, inputs: _Inputs, count: Callable[[str], int]) -> Plan:
        ratio, concurrency = self._token_ratio.estimate, self._max_concurrency
        return plan(inputs.query, inputs.texts, self._limits, concurrency, count, ratio=ratio)

    def _truncated(
        self, inputs: _Inputs, numbers: Sequence[int], count: Callable[[str], int]
    ) -> _Inputs:
        """Return the inputs with these items truncated: 0 is the query, 1 the first text."""
        items, limit = [inputs.query, *inputs.texts], self._limits.item_tokens
        names = (
            name_of(items[number], number - 1) if number else "the query" for number in numbers
        )
        check_truncation(
            self._truncate,
            f"{len(numbers)} of {len(items)} items (the query and the texts) exceed the {limit} "
            f"tokens that {self._model} reads per item",
            names,
            len(numbers),
            has_query=0 in numbers,
        )
        for number in numbers:
            text = truncated(text_of(items[number]), limit, count)
            items[number] = with_text(items[number], text)
        return _Inputs(items[0], items[1:], inputs.are_texts, truncated=len(numbers))

    async def _aplan(self, inputs: _Inputs, count: Callable[[str], int]) -> tuple[_Inputs, Plan]:
        """Plan in a worker thread if that takes long: many or long texts, or tokens to count."""
        is_quick = inputs.size(inputs.texts) <= _MAX_QUICK_CHARACTERS
        if is_quick and len(inputs.texts) <= self._limits.documents:
            with suppress(_TooMuchToCountError):
                return self._plan(inputs, _limited_counter())
        return await to_thread(self._plan, inputs, count)

    async def _send(
        self,
        context: CallContext,
        inputs: _Inputs,
        planned: Plan,
        top_n: int | None,
    ) -> Scores:
        """Send the planned requests, on the I/O loop."""
        self._io_loop.pool.hold(self)
        call = _Call(self, context, inputs)
        if len(planned.requests) != 1 or (top_n is not None and top_n >= len(inputs.texts)):
            top_n = None
        try:
            sending = call.send(planned.requests, top_n, is_estimated=planned.is_estimated)
            await context.within_deadline(sending, call.progress)
        except QwenRerankError as error:
            error.usage = call.usage() if call.parts or call.wasted_tokens else None
            raise
        scores = call.scores()
        if planned.is_estimated and inputs.are_texts:
            self._token_ratio.learn(scores.usage.tokens, planned.estimated_bytes)
        return scores


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a call scores.

    Attributes:
        query: The query.
        texts: The texts, or other items.
        are_texts: Whether all of them and the query are strings.
        truncated: How many of them, the query included, were truncated.
    """

    query: Item
    texts: Sequence[Item]
    are_texts: bool
    truncated: int = 0

    @classmethod
    def of(cls, query: Item, texts: Sequence[Item]) -> _Inputs:
        """Return the inputs of a call.

        Raises:
            InvalidInputError: See `checked_texts`.
        """
        texts = checked_texts(texts)
        return cls(query, texts, {type(query), *map(type, texts)} <= {str})

    def size(self, items: Sequence[Item]) -> int:
        """The number of characters in some of the items, data URIs included."""
        return sum(map(len, cast(Sequence[str], items))) if self.are_texts else size_of(items)


@dataclass(frozen=True, slots=True)
class _Part:
    """The response to a request: the indices of its texts, its scores, and its retries."""

    indices: list[int]
    response: ScoredResponse
    retries: int


class _Call:
    """The requests of one call, on the I/O loop."""

    def __init__(self, scorer: HttpScorer, context: CallContext, inputs: _Inputs) -> None:
        self._scorer = scorer
        self._context = context
        self._inputs = inputs
        self._slots = asyncio.Semaphore(scorer._max_concurrency)
        self._has_failed = False
        self._attempts = 0
        self.parts: list[_Part] = []
        self.wasted_tokens = 0  # of responses that could not be used

    async def send(
        self, requests: Sequence[list[int]], top_n: int | None = None, *, is_estimated: bool = False
    ) -> None:
        """Send requests concurrently, each with the texts of these indices."""
        await _gather(
            [self._send_one(indices, top_n, is_estimated=is_estimated) for indices in requests]
        )

    def progress(self) -> str:
        """Return which server has not answered which part of the call, for a message."""
        if not self._attempts:
            return " before a request was sent"
        attempts = "1 attempt" if self._attempts == 1 else f"{self._attempts} attempts"
        return f", waiting for {self._scorer._endpoint.authority} ({attempts})"

    async def _send_one(self, indices: list[int], top_n: int | None, *, is_estimated: bool) -> None:
        """Send one request; if its estimated size was wrong, send smaller ones instead."""
        scorer, texts = self._scorer, self._inputs.texts
        is_whole = len(indices) == len(texts)
        documents = texts if is_whole else [texts[index] for index in indices]
        try:
            async with self._slots:
                if self._has_failed:  # not cancelled yet, but its result would be paid for nothing
                    return
                try:
                    response, retries = await self._send_with_retries(documents, top_n)
                except QwenRerankError as error:
                    self._has_failed = not (is_estimated and isinstance(error, InvalidInputError))
                    self.wasted_tokens += error.usage.tokens if error.usage else 0
                    raise
            self.parts.append(_Part(indices, response, retries))
            return
        except InvalidInputError as error:
            if scorer._dialect.is_too_long(error.message):
                _name_longest(error, self._inputs.query, documents, indices)
                raise
            if not is_estimated:
                raise
            exact = await to_thread(self._plan_exactly, documents)
            if len(exact) == 1:  # its size was not the reason
                raise
        await self.send([[indices[index] for index in part] for part in exact])

    def _plan_exactly(self, documents: Sequence[Item]) -> list[list[int]]:
        scorer, count = self._scorer, _counter(self._context)
        limits, concurrency = scorer._limits, scorer._max_concurrency
        return plan(self._inputs.query, documents, limits, concurrency, count, exact=True).requests

    async def _send_with_retries(
        self, documents: Sequence[Item], top_n: int | None
    ) -> tuple[ScoredResponse, int]:
        scorer = self._scorer
        wait_for_turn = await self._turn_waiter(documents) if scorer._rate_limits else None
        attempts = itertools.count()

        async def send(in_other_form: bool) -> ScoredResponse:
            request = await self._request(documents, top_n, in_other_form=in_other_form)

            async def attempt() -> ScoredResponse:
                if wait_for_turn is not None:
                    await wait_for_turn()
                return await self._attempt(request, next(attempts))

            return await self._context.attempt(attempt)

        form = scorer._io_loop.body_forms[scorer._url, scorer._model]
        response = await form.send(send, scorer._dialect.is_malformed)
        return response, next(attempts) - 1

    async def _attempt(self, request: RerankRequest, resends: int) -> ScoredResponse:
        scorer, pool = self._scorer, self._scorer._io_loop.pool
        provider, endpoint = scorer._dialect.provider, request.endpoint
        async with pool.slot(endpoint):
            self._attempts += 1
            with request_span(provider, scorer._model, scorer._url, request.count, resends) as span:
                sending = request.send(pool)
                response = await self._context.with_timeout(sending, endpoint.authority)
                scored = await request.read(response)
                span.answered(response.status, scored.tokens)
                return scored

    async def _request(
        self, documents: Sequence[Item], top_n: int | None, *, in_other_form: bool
    ) -> RerankRequest:
        from qwen_rerank.scorers.http.request import RerankRequest

        scorer, query = self._scorer, self._inputs.query
        write = scorer._dialect.other_body if in_other_form else scorer._dialect.request_body
        body = write(scorer._model, query, documents, scorer._instruct, top_n)
        if self._inputs.size([query]) + self._inputs.size(documents) <= PIECE:
            payload = [to_json(body)]
        else:
            payload = await to_thread(json_pieces, body)
        return RerankRequest(
            scorer._endpoint,
            scorer._route.all_headers(scorer._headers()),
            payload,
            scorer._dialect,
            len(documents),
            top_n,
            scorer._route,
        )

    async def _turn_waiter(self, documents: Sequence[Item]) -> Callable[[], Awaitable[None]]:
        """Return a function that waits until a request with these documents may be sent."""
        scorer, tokens = self._scorer, 0
        limits = scorer._rate_limits
        if limits.tokens is not None:
            tokens = await to_thread(self._count_tokens, documents)
            if tokens > limits.tokens:
                raise InvalidInputError(
                    f"A request of {tokens} tokens can never be sent with tokens_per_minute="
                    f"{limits.tokens}.",
                    remedy="Raise tokens_per_minute=, or send shorter texts.",
                )
        account = (scorer._endpoint.authority, scorer._headers().get("Authorization"))
        limiters, ends_at = scorer._io_loop.rate_limiters, self._context.ends_at
        return lambda: limiters.limiter(account, limits).wait_for_turn(tokens, ends_at)

    def _count_tokens(self, documents: Sequence[Item]) -> int:
        """Return the tokens of a request's texts: those of images and videos are not known."""
        count = _counter(self._context)
        of_query = count(text_of(self._inputs.query))
        return of_query * len(documents) + sum(map(count, map(text_of, documents)))

    def scores(self) -> Scores:
        """Return the scores of all texts, and what they cost."""
        if len(self.parts) == 1:
            response = self.parts[0].response
            return Scores(response.values, self.usage(), indices=response.indices)
        values = [0.0] * len(self._inputs.texts)
        for part in self.parts:
            for index, value in zip(part.indices, part.response.values, strict=True):
                values[index] = value
        return Scores(values, self.usage())

    def usage(self) -> Usage:
        """Return what the requests that were billed cost."""
        tokens = [part.response.tokens for part in self.parts]
        total = sum(tokens) + self.wasted_tokens
        # A service that does not report tokens says 0; images have another price.
        price = self._scorer._price if self._inputs.are_texts and all(tokens) else None
        return Usage(
            requests=len(self.parts),
            tokens=total,
            texts_sent=sum(len(part.indices) for part in self.parts),
            retries=sum(part.retries for part in self.parts),
            seconds=self._context.elapsed,
            truncated=self._inputs.truncated,
            cost=None if price is None else price.of(total),
        )


def _endpoint_of(url: str) -> Endpoint:
    from qwen_rerank.scorers.http.pool import Endpoint  # lazy, but not on an event loop: aiohttp

    try:
        return Endpoint.of(url)
    except ValueError:
        raise InvalidInputError(
            f"The host of {url!r} is not a valid host name.", remedy="Check the address."
        ) from None


def _counter(context: CallContext) -> Callable[[str], int]:
    """Return a function that counts tokens until the deadline of the call."""

    def count(text: str) -> int:
        context.check_deadline()
        return count_tokens(text)

    return count


class _TooMuchToCountError(Exception):
    """Counting tokens takes too long for an event loop."""


def _limited_counter() -> Callable[[str], int]:
    """A function that counts the tokens of some thousand characters; more take too long."""
    left = _MAX_QUICK_COUNT

    def count(text: str) -> int:
        nonlocal left
        left -= len(text)
        if left < 0 or not is_loaded():
            raise _TooMuchToCountError
        return count_tokens(text)

    return count


async def _gather(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently. The first failure cancels the others."""
    if len(works) == 1:
        await works[0]
        return
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        failure = failures.exceptions[0]
    if failure is not None:  # raised out here, it has no reference to the group that holds it
        try:
            raise failure
        finally:
            del failure


def _name_longest(
    error: QwenRerankError, query: Item, documents: Sequence[Item], indices: Sequence[int]
) -> None:
    """Add to the error which text is the longest: the service does not say which one it refused."""
    lengths = map(len, map(text_of, documents))
    length, index = max(zip(lengths, indices, strict=True))
    message = error.message.rstrip(".")
    error.message = f"{message}. The longest text is text {index}, with {length:,} characters."
    if (of_query := len(text_of(query))) > length:
        error.message += f" The query is longer, with {of_query:,}."
    error.args = (error.message,)
