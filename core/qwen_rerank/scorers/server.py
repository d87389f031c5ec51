"""ServerScorer: rerankers on servers of one's own."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError, MissingKeyError
from qwen_rerank.scorers.base import Scores
from qwen_rerank.scorers.http.addresses import checked_url, warn_if_unencrypted
from qwen_rerank.scorers.http.auth import checked_key
from qwen_rerank.scorers.http.dialects.servers import ANY_SCORE, COMMON, SERVERS, ServerDialect
from qwen_rerank.scorers.http.rate_limiter import RateLimits
from qwen_rerank.scorers.http.retry import RetryPolicy
from qwen_rerank.scorers.http.scorer import ServiceScorer
from qwen_rerank.scorers.limits import Limits
from qwen_rerank.scorers.probe import QUERY, TEXTS, check_probe
from qwen_rerank.validation import check_whole

__all__ = ["ServerName", "ServerScorer"]

ServerName: TypeAlias = Literal[
    "vllm", "llama.cpp", "sglang", "infinity", "tei", "localai", "xinference", "dashscope"
]
"""The servers that ServerScorer knows."""

_EXAMPLE = "http://localhost:8000/v1/rerank"

_KEY = "QWEN_RERANK_SERVER_KEY"
"""Where a scorer that was unpickled finds the key that it had."""


class ServerScorer(ServiceScorer):
    """Scores by a server of your own: vLLM, SGLang, llama.cpp, Infinity, TEI and others.

    Sends, retries, checks and cancels as DashScopeScorer does; texts go out `batch_size` a request
    at most, whatever their length: the server knows what its model can read.

    Scores are what the server gives: in [0, 1] or, with some servers and models, logits; docs/
    scorers.md says which. `logits=True` makes probabilities of them, in the same order.

    Args:
        url: Where the server ranks, such as `"http://localhost:8000/v1/rerank"`; or its root or a
            part of the path, to which the dialect adds what is missing.
        model: The server's name of the model; needed by Xinference and DashScope, and by others
            only where they serve several.
        api_key: The key, if the server asks for one; it is sent as a bearer token, and is in no
            repr, pickle or message. None sends none, whatever the environment holds.
        instruct: What relevant means, for vLLM, SGLang and DashScope; None for the model's default.
        dialect: Which server it is, as in `ServerName`. Not needed where the path ends in `rerank`,
            `reranking` or `reranks` and there is no instruct, except for TEI.
        batch_size: Texts a request, at least 1. None for 128, in TEI's case for the 32 that it
            takes by default, and in DashScope's for its published limits.
        logits: Whether the server gives logits: their sigmoid is then the score.
        timeout: Seconds for one attempt of one request.
        deadline: Seconds for one call with all its requests, retries and waits; None for no limit.
        max_retries: Attempts of one request after the first, as DashScopeScorer makes them; a
            server that is still loading its model, with 503, is waited for by these.
        max_concurrency: Requests of one call that run at the same time.
        requests_per_minute: How many requests may go out in any minute, as with DashScopeScorer;
            None for no limit.
        tokens_per_minute: The same for tokens, as the Qwen tokenizer counts them.

    Raises:
        InvalidInputError: An argument that can't be used, or an address that does not tell which
            server it is.
        MissingKeyError: A string that can't be a key.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | SecretStr | None = None,
        instruct: str | None = None,
        dialect: ServerName | None = None,
        batch_size: int | None = None,
        logits: bool = False,
        timeout: float = 60.0,
        deadline: float | None = None,
        max_retries: int = 3,
        max_concurrency: int = 8,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        url = checked_url("url", url, example=_EXAMPLE)
        spoken = _dialect(url, dialect)
        _check_fit(spoken, model, instruct)
        place = urlsplit(url)
        path = _completed(place.path, spoken)
        url = place._replace(path=path).geturl()
        self._api_key = None if api_key is None else checked_key("server's API key", api_key)
        self._is_keyed = api_key is not None
        self._logits = logits
        if self._is_keyed:
            warn_if_unencrypted(url, stacklevel=3)
        super().__init__(
            place.netloc if model is None else model,
            url=url,
            dialect=replace(
                spoken,
                path=path,
                names_model=model is not None,
                logits=logits,
                score_range=ANY_SCORE if logits else spoken.score_range,
            ),
            instruct=instruct,
            retry_policy=RetryPolicy(timeout, deadline, max_retries),
            max_concurrency=max_concurrency,
            limits=_limits(spoken, batch_size),
            rate_limits=RateLimits(requests_per_minute, tokens_per_minute),
        )

    @property
    def url(self) -> str:
        """The address that requests go to."""
        return self._url

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The address too, as models' names are a server's own, and whether scores were logits."""
        return (*super().fingerprint, self._url, self._logits)

    def check(self) -> Scores:
        """See that the server tells a text that answers a query from others that do not.

        A model that runs without its prompt template, or that is no reranker, answers as if all
        were well, with scores that mean nothing. Worth a call wherever a server is set up.

        Returns:
            The scores of what was sent, that of the relevant text first.

        Raises:
            BadResponseError: The relevant text does not score above each of the others.
            QwenRerankError: What `score` raises.
        """
        return check_probe(self, self.score(QUERY, TEXTS))

    async def acheck(self) -> Scores:
        """The same as `check`."""
        return check_probe(self, await self.ascore(QUERY, TEXTS))

    def _headers(self) -> dict[str, str]:
        if not self._is_keyed:
            return {}
        key = self._api_key or _key_where_loaded(self)
        return {"Authorization": f"Bearer {key.get_secret_value()}"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, model={self._model!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the key, but not without the need for one: see _key_where_loaded.
        return {**self.__dict__, "_api_key": None}


def _dialect(url: str, name: str | None) -> ServerDialect:
    if name is not None:
        if isinstance(name, str) and name in SERVERS:
            return SERVERS[name]
        raise InvalidInputError(f"dialect {name!r} is not known.", remedy=f"Pass {_choices()}.")
    path = urlsplit(url).path
    if _is_whole(path):
        return SERVERS["dashscope"] if path.endswith("/reranks") else COMMON
    raise InvalidInputError(
        f"The address {url!r} does not tell which server is there.",
        remedy=f"Pass dialect=, as {_choices()}, or where it ranks, such as {_EXAMPLE!r}.",
    )


def _choices() -> str:
    *others, last = (repr(name) for name in SERVERS)
    return f"{', '.join(others)} or {last}"


def _is_whole(path: str) -> bool:
    return path.endswith(("/rerank", "/reranking", "/reranks"))


def _completed(path: str, dialect: ServerDialect) -> str:
    """The path with as much of the dialect's own as it lacks."""
    if _is_whole(path):
        return path
    steps = dialect.path.split("/")
    starts = ("/".join(steps[:count]) for count in range(len(steps), 1, -1))
    return path.removesuffix(next(filter(path.endswith, starts), "")) + dialect.path


def _check_fit(dialect: ServerDialect, model: str | None, instruct: str | None) -> None:
    if dialect.needs_model and model is None:
        raise InvalidInputError(
            f"{dialect.service} needs the name of a model.", remedy="Pass model=."
        )
    if instruct is not None and dialect is COMMON:
        raise InvalidInputError(
            "Servers take instruct under different names, or not at all.",
            remedy=f"Pass dialect= beside it, as {_choices()}.",
        )
    if instruct is not None and dialect.instruct is None:
        raise InvalidInputError(
            f"{dialect.service} takes no instruct, got {instruct!r}.", remedy="Leave it out."
        )


def _limits(dialect: ServerDialect, batch_size: int | None) -> Limits:
    if batch_size is None:
        return dialect.limits
    check_whole("batch_size", batch_size, at_least=1)
    return replace(dialect.limits, documents=batch_size)


def _key_where_loaded(scorer: ServerScorer) -> SecretStr:
    key = os.environ.get(_KEY)
    if not key:
        raise MissingKeyError(
            f"{scorer!r} was pickled, and its key was left behind.",
            remedy=f"Set the environment variable {_KEY} where it is loaded, or make a new one.",
        )
    return checked_key(f"key in {_KEY}", key)
