"""OpenTelemetry spans: one per ranking, and one per request within it.

Spans are recorded only if your program has set up OpenTelemetry; this package never imports it.
Attributes follow its semantic conventions (generative AI and HTTP, release 0.66b2) where they
exist; the others begin with "qwen_rerank.". A span contains no query, document or key, and no error
message, which may quote one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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

    def answered(self, tokens: int) -> None:
        """Record that the response had scores, and how many tokens were billed."""


class _Recorded(Span):
    """A span that OpenTelemetry records."""

    __slots__ = ("_is_ranking", "_manager", "_span")

    def __init__(
        self, trace: ModuleType, name: str, kind: str, attributes: Mapping[str, Any]
    ) -> None:
        from qwen_rerank import __version__

        self._is_ranking = kind == "INTERNAL"
        tracer: opentelemetry.trace.Tracer = trace.get_tracer("qwen_rerank", __version__)
        self._manager: AbstractContextManager[opentelemetry.trace.Span]
        self._manager = tracer.start_as_current_span(
            name,
            kind=trace.SpanKind[kind],
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

        kind = type(error)
        self._span.set_status(StatusCode.ERROR)
        self._set(
            {
                "error.type": f"{kind.__module__}.{kind.__qualname__}",
                "http.response.status_code": getattr(error, "status", None),
            }
        )
        usage: Usage | None = getattr(error, "usage", None)
        if usage is not None and self._is_ranking:
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

    def answered(self, tokens: int) -> None:
        self._set({"http.response.status_code": 200, "gen_ai.usage.input_tokens": tokens or None})

    def _set(self, attributes: Mapping[str, Any]) -> None:
        self._span.set_attributes(_without_none(attributes))


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
    return _Recorded(trace, f"{OPERATION} {model}", "INTERNAL", attributes)


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
    return _Recorded(trace, "POST", "CLIENT", attributes)


def _attributes_of_usage(usage: Usage) -> dict[str, Any]:
    counts = asdict(usage)
    tokens = counts.pop("tokens")
    own = {f"qwen_rerank.{name}": value for name, value in counts.items()}
    return {"gen_ai.usage.input_tokens": tokens or None, **own}


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
