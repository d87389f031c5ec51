"""OpenTelemetry spans: one per ranking, and one per request within it.

Spans are recorded only if your program has set up OpenTelemetry; this package never imports it.
Attributes follow its semantic conventions (generative AI and HTTP, release 0.66b2) where they
exist; the others begin with "qwen_rerank.". A span contains no query, document or key, and no error
message, which may quote one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qwen_rerank.handover import hand_over

if TYPE_CHECKING:
    import opentelemetry.trace

    from qwen_rerank.ranking.result import Outcome
    from qwen_rerank.scorers.base import Usage

__all__ = ["Span", "ranking_span", "request_span"]

OPERATION = "rerank"
"""The conventions do not have this operation yet, but allow others."""


class Span:
    """A span that is not recorded."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def ranked(self, outcome: Outcome, returned: int) -> None:
        """Record the outcome of a ranking and how many documents it returned."""

    def answered(self, status: int, tokens: int) -> None:
        """Record that the response had scores, its status, and how many tokens were billed."""


class _RecordedRanking(Span):
    """The span of a ranking, which is the current one meanwhile."""

    __slots__ = ("_manager", "_span")

    def __init__(self, trace: ModuleType, name: str, attributes: Mapping[str, Any]) -> None:
        self._manager: AbstractContextManager[opentelemetry.trace.Span]
        self._manager = _tracer(trace).start_as_current_span(
            name,
            kind=trace.SpanKind.INTERNAL,
            attributes=_without_none(attributes),
            record_exception=False,  # they would record its message
            set_status_on_exception=False,
        )

    def __enter__(self) -> Span:
        self._span = self._manager.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._fail(error)
        self._manager.__exit__(kind, error, traceback)

    def _fail(self, error: BaseException) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR)
        self._set(_attributes_of_error(error))
        usage: Usage | None = getattr(error, "usage", None)
        if usage is not None:
            self._set(_attributes_of_usage(usage))

    def ranked(self, outcome: Outcome, returned: int) -> None:
        own = {
            "returned": returned,
            "skipped": outcome.skipped,
            "duplicates": outcome.duplicates,
            "over_budget": outcome.over_budget,
            "unranked": outcome.unranked,
        }
        self._set(
            {
                "gen_ai.response.model": outcome.model,
                **{f"qwen_rerank.{name}": value for name, value in own.items()},
                **_attributes_of_usage(outcome.usage),
            }
        )

    def _set(self, attributes: Mapping[str, Any]) -> None:
        self._span.set_attributes(_without_none(attributes))


class _RecordedRequest(Span):
    """The span of a request. It is created when it has ended, where its exporter may take its time.

    So it is never the current one.
    """

    __slots__ = ("_attributes", "_parent", "_start", "_trace")

    def __init__(self, trace: ModuleType, attributes: Mapping[str, Any]) -> None:
        self._trace = trace
        self._attributes = dict(attributes)

    def __enter__(self) -> Span:
        from opentelemetry.context import get_current

        self._parent = get_current()
        self._start = time.time_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._attributes |= _attributes_of_error(error)
        hand_over(partial(self._record, time.time_ns(), has_failed=error is not None))

    def answered(self, status: int, tokens: int) -> None:
        own = {"http.response.status_code": status, "gen_ai.usage.input_tokens": tokens or None}
        self._attributes |= own

    def _record(self, end: int, *, has_failed: bool) -> None:
        span = _tracer(self._trace).start_span(
            "POST",
            context=self._parent,
            kind=self._trace.SpanKind.CLIENT,
            attributes=_without_none(self._attributes),
            start_time=self._start,
        )
        if has_failed:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end)


def _tracer(trace: ModuleType) -> opentelemetry.trace.Tracer:
    from qwen_rerank import __version__

    tracer: opentelemetry.trace.Tracer = trace.get_tracer("qwen_rerank", __version__)
    return tracer


def _attributes_of_error(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    return {
        "error.type": f"{kind.__module__}.{kind.__qualname__}",
        "http.response.status_code": getattr(error, "status", None),
    }


_NOBODY = Span()


def _configured() -> ModuleType | None:
    """Return OpenTelemetry's API if the program has imported it and set it up."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace


def ranking_span(model: str, documents: int, top_n: int | None) -> Span:
    """Return a span for one ranking."""
    trace = _configured()
    if trace is None:
        return _NOBODY
    attributes = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.request.model": model,
        "qwen_rerank.documents": documents,
        "qwen_rerank.top_n": top_n,
    }
    return _RecordedRanking(trace, f"{OPERATION} {model}", attributes)


def request_span(provider: str | None, model: str, url: str, documents: int, resends: int) -> Span:
    """Return a span for one attempt of a request.

    Args:
        provider: The name of the service; None if it is not known.
        model: The service's name of the model.
        url: Where the request goes.
        documents: How many documents are in it.
        resends: How many attempts failed before this one.
    """
    trace = _configured()
    if trace is None:
        return _NOBODY
    address = urlsplit(url)
    attributes = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "http.request.method": "POST",
        "http.request.resend_count": resends or None,
        "server.address": address.hostname,
        "server.port": address.port or {"http": 80, "https": 443}[address.scheme],
        "url.full": url,
        "qwen_rerank.documents": documents,
    }
    return _RecordedRequest(trace, attributes)


def _attributes_of_usage(usage: Usage) -> dict[str, Any]:
    counts = asdict(usage)
    tokens = counts.pop("tokens")
    own = {f"qwen_rerank.{name}": value for name, value in counts.items()}
    return {"gen_ai.usage.input_tokens": tokens or None, **own}


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
