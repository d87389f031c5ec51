"""ServerScorer: rerankers on your own servers."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, Unpack, cast, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError, MissingKeyError
from qwen_rerank.inputs.content import MULTIMODAL, TEXT_ONLY, Item, Modality
from qwen_rerank.options import (
    RequestArguments,
    RequestOptions,
    as_secret,
    with_defaults,
    with_secrets,
)
from qwen_rerank.scorers.base import Scorer, Scores, probabilities
from qwen_rerank.scorers.catalog import Limits, published_limits
from qwen_rerank.scorers.http.addresses import (
    checked_url,
    dashscope_region,
    is_dashscope,
    warn_if_unencrypted,
)
from qwen_rerank.scorers.http.auth import Headers, bearer, checked_key
from qwen_rerank.scorers.http.dialects.servers import ANY_SCORE, COMMON, SERVERS, ServerDialect
from qwen_rerank.scorers.http.rate_limiter import RateLimits
from qwen_rerank.scorers.http.retry import RetryPolicy
from qwen_rerank.scorers.http.route import Route
from qwen_rerank.scorers.http.scorer import HttpScorer
from qwen_rerank.scorers.probe import Problem
from qwen_rerank.validation import check_choice, check_flag, check_text, check_whole

__all__ = ["PromptName", "ServerName", "ServerScorer"]

_log = logging.getLogger(__name__)

ServerName: TypeAlias = Literal[
    "vllm",
    "llama.cpp",
    "sglang",
    "infinity",
    "tei",
    "localai",
    "xinference",
    "dashscope",
    "completions",
    "ollama",
    "deepinfra",
    "generic",
]
"""The servers and services that ServerScorer knows."""

PromptName: TypeAlias = Literal["qwen3"]
"""The prompts that ServerScorer can write."""

_EXAMPLE = "http://localhost:8000/v1/rerank"

_TIMEOUT = 60.0
"""Seconds: your own server often runs on slower hardware than the service."""

_KEY = "QWEN_RERANK_SERVER_KEY"
"""The environment variable with the key of a scorer that was unpickled."""


class ServerScorer(HttpScorer):
    """Scores with your own server: vLLM, SGLang, llama.cpp, Infinity, TEI, Ollama and others.

    It sends, retries, checks and cancels like DashScopeScorer. Each request has at most
    `batch_size` texts. With `max_item_tokens`, only the beginning of a longer text is sent. Without
    it, texts of any length are: some servers truncate them, others refuse them.

    Scores are what the server returns: in [0, 1] or, with some servers and models, logits;
    docs/scorers.md says which. `logits=True` turns logits into probabilities in the same order.

    Args:
        url: The address of the rerank endpoint, such as `"http://localhost:8000/v1/rerank"`; or the
            server's root or a part of the path, which the dialect completes.
        model: The server's name of the model. Xinference, Ollama and services need it; others only
            if they serve several models.
        api_key: The key, if the server requires one. It is sent as a bearer token; reprs, pickles
            and messages never contain it. If None, no key is sent, even if the environment has one.
        instruct: What relevant means; None for the model's default. vLLM, SGLang and DashScope take
            it, and so does any server if we write the prompt.
        dialect: Which server it is, as in `ServerName`. Not needed if the path ends in `rerank`,
            `reranking` or `reranks` and there is no instruct, except for TEI. `"completions"` is
            any LLM server that returns log-probabilities, and `"generic"` a service that hosts the
            model behind a common rerank endpoint.
        prompt: `"qwen3"` if the server has no prompt template for Qwen3-Reranker, so that we write
            the prompt; None if it has one, or if the model needs none.
        multimodal: Whether the server's model reads images and videos, like Qwen3-VL-Reranker; for
            vLLM, SGLang and Xinference.
        batch_size: Texts per request, at least 1. If None, 128; for TEI and `"completions"` 32, for
            Ollama 1, and for DashScope its published limits.
        max_item_tokens: The most tokens of the query, and of each text, that the model can read
            together with its prompt; at least 1. Longer ones are truncated, or refused with
            `truncate=False`. Qwen's tokens are counted; vLLM also counts its model's own. None for
            no limit; for DashScope, its published one.
        logits: Whether the server returns logits. A score is then the sigmoid of its logit.
        options: See `RequestOptions`; TEI is also told whether to truncate. The default timeout is
            60 s here, and retries also wait for a server that is still loading its model and
            answers with 503.

    Raises:
        InvalidInputError: An argument cannot be used, the address does not show which server it is,
            or the server joins the query and the text so that it can't get the right prompt.
        MissingKeyError: The string cannot be a key.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | SecretStr | None = None,
        instruct: str | None = None,
        dialect: ServerName | None = None,
        prompt: PromptName | None = None,
        multimodal: bool = False,
        batch_size: int | None = None,
        max_item_tokens: int | None = None,
        logits: bool = False,
        **options: Unpack[RequestArguments],
    ) -> None:
        options, api_key = with_secrets(options), as_secret(api_key)
        defaults = with_defaults(RequestOptions, {"timeout": _TIMEOUT, **options})
        chosen = cast(RequestArguments, defaults)
        url = checked_url("url", url, example=_EXAMPLE)
        if model is not None:
            check_text("model", model)
        server = _dialect(url, dialect)
        _check_fit(server, model, instruct, prompt)
        check_flag("multimodal", multimodal)
        check_flag("logits", logits)
        if multimodal:
            _check_multimodal(server, prompt)
        if logits and server.always_prompts:
            raise InvalidInputError(
                f"logits=True has no effect with {server.service}, whose log-probabilities we turn "
                "into probabilities.",
                remedy="Leave it out.",
            )
        is_prompted = prompt is not None or server.always_prompts
        if model is not None:
            server = replace(server, path=server.path.replace("{model}", model))
        url = _completed(url, server)
        parts = urlsplit(url)
        self._api_key = None if api_key is None else checked_key("server's API key", api_key)
        self._is_keyed = api_key is not None
        self._logits = logits
        if self._is_keyed:
            warn_if_unencrypted(url, stacklevel=3)
        super().__init__(
            parts.netloc if model is None else model,
            url=url,
            dialect=replace(
                server,
                path=parts.path,
                names_model=model is not None,
                extra=_extra(server, chosen["truncate"], None if is_prompted else max_item_tokens),
                writes_prompt=is_prompted,
                is_multimodal=multimodal,
                score_range=ANY_SCORE if logits else server.score_range,
            ),
            instruct=instruct,
            retry_policy=RetryPolicy(
                chosen["timeout"], chosen["deadline"], chosen["max_retries"], chosen["backoff"]
            ),
            max_concurrency=chosen["max_concurrency"],
            limits=_limits(server, model, url, batch_size, max_item_tokens),
            rate_limits=RateLimits.of(chosen),
            route=Route.of(chosen, self._headers()),
            truncate=chosen["truncate"],
        )

    @property
    def url(self) -> str:
        """The address of the rerank endpoint."""
        return self._url

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """Also the address, as each server names its own models, and what else changes scores."""
        return (*super().fingerprint, self._url, self._logits, self._server.writes_prompt)

    @property
    def modalities(self) -> frozenset[Modality]:
        """Text; with `multimodal=True` also images and videos."""
        return MULTIMODAL if self._server.is_multimodal else TEXT_ONLY

    @property
    def _server(self) -> ServerDialect:
        return cast(ServerDialect, self._dialect)

    def _variants_to_check(self) -> Mapping[Problem, Scorer]:
        server = self._server
        if server.always_prompts or server.prompt_obstacle or server.is_multimodal:
            return {}
        cause: Problem = "double template" if server.writes_prompt else "no template"
        dialect = replace(server, writes_prompt=not server.writes_prompt)
        return {cause: self._copy_with(_dialect=dialect)}

    def _remedy_for(self, problem: Problem) -> str:
        server, remedies = self._server, [super()._remedy_for(problem)]
        if problem == "no template":
            remedies.append('Pass prompt="qwen3", or start the server with the template.')
        elif problem == "double template":
            remedies.append('Leave out prompt="qwen3", or start the server without a template.')
        elif problem == "instruction ignored" and server.is_own and not server.prompt_obstacle:
            remedies = ['Update the server and its template, or pass prompt="qwen3".']
        elif problem not in ("one language", "instruction ignored") and server.setup:
            remedies.append(server.setup)
        return f"{' '.join(remedies)} See docs/scorers.md."

    def _score(self, query: Item, texts: Sequence[Item], top_n: int | None = None) -> Scores:
        scores = super()._score(query, texts, top_n)
        return probabilities(scores) if self._logits else scores

    async def _ascore(self, query: Item, texts: Sequence[Item], top_n: int | None = None) -> Scores:
        scores = await super()._ascore(query, texts, top_n)
        return probabilities(scores) if self._logits else scores

    def _headers(self) -> Headers:
        if not self._is_keyed:
            return {}
        key = self._api_key or _key_of_unpickled(self)
        return {"Authorization": bearer(key)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, model={self._model!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the key, but marked as needing one: see _key_of_unpickled.
        return {**self.__dict__, "_api_key": None}


def _dialect(url: str, name: str | None) -> ServerDialect:
    """Return the dialect with this name; if None, the one that the address shows."""
    if name is not None:
        check_choice("dialect", name, SERVERS)
        return SERVERS[name]
    path = urlsplit(url).path
    if is_dashscope(url) or path.endswith("/reranks"):
        return SERVERS["dashscope"]
    if _is_complete(path):
        return COMMON
    raise InvalidInputError(
        f"The address {url!r} does not show which server it is.",
        remedy=f"Pass dialect= as {_choices()}, or the address of the rerank endpoint, such as "
        f"{_EXAMPLE!r}.",
    )


def _choices() -> str:
    *others, last = (repr(name) for name in SERVERS)
    return f"{', '.join(others)} or {last}"


def _is_complete(path: str) -> bool:
    return path.endswith(("/rerank", "/reranking", "/reranks"))


_OTHER_ENDPOINT = re.compile(r"(?<=/v\d)/((chat/)?completions|embeddings|models|score)$")
_OTHER_API = re.compile(
    r"(/v\d|/api)(/((chat/)?completions|chat|generate|embed|embeddings|models|openai|tags))?$|/rerank$"
)
"""The ends of other addresses of a server, which show where the one that is needed is."""


def _completed(url: str, dialect: ServerDialect) -> str:
    """Return the address, its path completed to the dialect's path."""
    parts = urlsplit(url)
    reranks = _is_complete(dialect.path)
    if (reranks and _is_complete(parts.path)) or parts.path.endswith(dialect.path):
        return url
    if dialect.service == "DashScope" and is_dashscope(url):  # such as /compatible-mode/v1
        return parts._replace(path=dialect.path).geturl()
    steps = dialect.path.split("/")
    beginnings = ("/".join(steps[:count]) for count in range(len(steps), 1, -1))
    path = (_OTHER_ENDPOINT if reranks else _OTHER_API).sub("", parts.path)
    base = path.removesuffix(next(filter(path.endswith, beginnings), ""))
    return parts._replace(path=base + dialect.path).geturl()


def _check_fit(
    dialect: ServerDialect, model: str | None, instruct: str | None, prompt: str | None
) -> None:
    if dialect.needs_model and model is None:
        raise InvalidInputError(
            f"{dialect.service} needs the name of a model.", remedy="Pass model=."
        )
    if prompt is not None:
        _check_prompt(dialect, prompt)
    elif instruct is not None and not dialect.always_prompts:
        _check_instruct(dialect, instruct)


def _check_prompt(dialect: ServerDialect, prompt: str) -> None:
    check_choice("prompt", prompt, get_args(PromptName))
    if dialect.prompt_obstacle is None:
        return
    if dialect is COMMON:
        remedy = f"Pass dialect= too, as {_choices()}."
    elif dialect.is_own:
        remedy = (
            "Serve the model for text generation and pass dialect='completions', or use vLLM or "
            "LocalScorer."
        )
    else:
        remedy = "Leave out prompt=."
    raise InvalidInputError(
        f"{dialect.service} can't get the prompt from us: {dialect.prompt_obstacle}.", remedy=remedy
    )


def _check_instruct(dialect: ServerDialect, instruct: str) -> None:
    if dialect is COMMON:
        raise InvalidInputError(
            "Servers take instruct under different names, or not at all.",
            remedy=f"Pass dialect= too, as {_choices()}.",
        )
    if dialect.instruct is None:
        raise InvalidInputError(
            f"{dialect.service} does not take instruct, got {instruct!r}.",
            remedy="Leave it out."
            if dialect.prompt_obstacle
            else 'Leave it out, or pass prompt="qwen3".',
        )
    if dialect is SERVERS["generic"]:
        _log.warning(
            "dialect='generic' sends instruct as 'instruction'. A service that does not know this "
            "field may ignore it without an error; check() finds out."
        )


def _check_multimodal(dialect: ServerDialect, prompt: str | None) -> None:
    if dialect.media is None:
        known = [repr(name) for name, each in SERVERS.items() if each.media is not None]
        raise InvalidInputError(
            f"How {dialect.service} takes images is not known.",
            remedy=f"Pass dialect= as {', '.join(known[:-1])} or {known[-1]}, or leave out "
            "multimodal=True.",
        )
    if prompt is not None:
        raise InvalidInputError(
            "prompt='qwen3' is for text, and Qwen3-VL-Reranker has another prompt.",
            remedy="Start the server with the model's own template, and leave out prompt=.",
        )


def _extra(
    dialect: ServerDialect, truncate: bool, max_item_tokens: int | None
) -> Mapping[str, Any]:
    """Return what else is in every request. Without a prompt of ours, the server cuts its parts."""
    extra = dict(dialect.extra)
    if dialect.truncate is not None:
        extra[dialect.truncate] = truncate
    if max_item_tokens is not None:
        extra |= dict.fromkeys(dialect.item_limits, max_item_tokens)
    return extra


def _limits(
    dialect: ServerDialect,
    model: str | None,
    url: str,
    batch_size: int | None,
    max_item_tokens: int | None,
) -> Limits:
    limits = dialect.limits
    if dialect.service == "DashScope" and model is not None:
        limits = published_limits(model, dashscope_region(url, None))
    if batch_size is not None:
        check_whole("batch_size", batch_size, at_least=1)
        limits = replace(limits, documents=batch_size)
    if max_item_tokens is not None:
        check_whole("max_item_tokens", max_item_tokens, at_least=1)
        limits = replace(limits, item_tokens=max_item_tokens)
    return limits


def _key_of_unpickled(scorer: ServerScorer) -> SecretStr:
    key = as_secret(os.environ.get(_KEY, ""))
    if not key:
        raise MissingKeyError(
            f"{scorer!r} was unpickled, and pickles do not hold the key.",
            remedy=f"Set the environment variable {_KEY}, or make a new scorer.",
        )
    return checked_key(f"key in {_KEY}", key)
