"""DashScopeScorer: Alibaba Cloud's TextReRank service.

It speaks the documented HTTP protocol itself. The SDK's clients turn an answer without output into
an empty result, hide an error code that comes under HTTP 200, log documents, or belong to one event
loop; and each costs several times the time of the request (`benchmarks/client.py`).
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError, MissingKeyError
from qwen_rerank.inputs.content import MULTIMODAL, TEXT_ONLY, Modality
from qwen_rerank.scorers.catalog import published_price
from qwen_rerank.scorers.http.addresses import checked_url, warn_if_unencrypted
from qwen_rerank.scorers.http.auth import checked_key
from qwen_rerank.scorers.http.dialects.dashscope import PATH, DashScopeDialect
from qwen_rerank.scorers.http.rate_limiter import RateLimits
from qwen_rerank.scorers.http.retry import RetryPolicy
from qwen_rerank.scorers.http.scorer import ServiceScorer
from qwen_rerank.scorers.limits import Limits, published_limits, takes_instruct, takes_objects
from qwen_rerank.validation import check_text

__all__ = ["DashScopeScorer"]

SINGAPORE = "ap-southeast-1"

_GATEWAYS = {
    "cn-beijing": "https://dashscope.aliyuncs.com/api/v1",
    SINGAPORE: "https://dashscope-intl.aliyuncs.com/api/v1",
}


class DashScopeScorer(ServiceScorer):
    """Scores by DashScope's TextReRank: any number of texts, of any length.

    With qwen3-vl-rerank the query and each text may be a `Content` too, which holds an image, a
    video, or a text with one of them.

    Texts are packed into as few requests as the service's limits allow, and those run at the same
    time. One that fails after its retries cancels the others and raises: a result is whole or it is
    an error. Connections are shared by all scorers of the process and by its threads and event
    loops, so that a scorer costs nothing to make; one that is forgotten leaves nothing behind.

    Scores are in [0, 1]. The usage has the cost, by `published_prices`, where the price is known.

    Args:
        model: `"gte-rerank-v2"`, `"qwen3-rerank"`, `"qwen3-vl-rerank"` or another of the service's.
        api_key: The key; DASHSCOPE_API_KEY if None. It is in no repr, pickle or message.
        base_url: The API's address up to and including `/api/v1`; DASHSCOPE_BASE_URL if None,
            then DASHSCOPE_HTTP_BASE_URL, then that of the region.
        workspace: The workspace that the requests are for, if it is not the key's default one.
        region: `"cn-beijing"` (the default) or `"ap-southeast-1"` (Singapore); with a workspace,
            any region, at that workspace's own address. A key works in its own region only. Beside
            an address that is not the service's own, such as a proxy's, it says what is behind it.
        instruct: What relevant means, for qwen3-rerank and qwen3-vl-rerank; best in English. The
            service's default is "Given a web search query, retrieve relevant passages that answer
            the query."
        timeout: Seconds for one attempt of one request.
        deadline: Seconds for one call with all its requests, retries and waits; None for no limit.
        max_retries: Attempts of one request after the first, on 408, 409, 429, 5xx but 501,
            throttling under 200 or 400, timeouts and dropped connections, with jittered
            exponential backoff.
            Retry-After is honoured, unless it would pass the deadline or, where there is none, is
            more than a minute; then the error is raised at once.
        max_concurrency: Requests of one call that run at the same time.
        requests_per_minute: How many requests may go out in any minute, each attempt counted; None
            for no limit. One that would go out too early waits for its turn, and RateLimitError is
            raised at once where that is after the deadline. It is shared by all scorers of the
            process that have the same key, address and limit; others have one of their own.
        tokens_per_minute: The same for tokens, which the Qwen tokenizer then counts. Requests are
            made no larger than that.
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
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        _check_model(model, instruct)
        self._api_key: SecretStr | None = _checked_key(api_key)
        self._base_url = _endpoint(base_url, workspace, region)
        warn_if_unencrypted(self._base_url, stacklevel=3)
        self._workspace = workspace
        served_in = _region(self._base_url, region)
        super().__init__(
            model,
            url=f"{self._base_url}{PATH}",
            dialect=DashScopeDialect(),
            instruct=instruct,
            retry_policy=RetryPolicy(timeout, deadline, max_retries),
            max_concurrency=max_concurrency,
            limits=limits or published_limits(model, singapore=served_in == SINGAPORE),
            rate_limits=RateLimits(requests_per_minute, tokens_per_minute),
            price=published_price(model, served_in),
        )

    @property
    def modalities(self) -> frozenset[Modality]:
        """Texts, images and videos with qwen3-vl-rerank, else texts only."""
        return MULTIMODAL if takes_objects(self._model) else TEXT_ONLY

    @property
    def base_url(self) -> str:
        """The address that requests go to, up to `/api/v1`."""
        return self._base_url

    def _headers(self) -> dict[str, str]:
        key = self._api_key or _checked_key(None)
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
        if self._workspace is not None:
            headers["X-DashScope-WorkSpace"] = self._workspace
        return headers

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, base_url={self._base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the key: where it is unpickled, DASHSCOPE_API_KEY gives it, at the first call.
        return {**self.__dict__, "_api_key": None}


def _check_model(model: str, instruct: str | None) -> None:
    check_text("model", model)
    if instruct is not None and not takes_instruct(model):
        raise InvalidInputError(
            f"{model} takes no instruct, got {instruct!r}.",
            remedy='Pass model="qwen3-rerank", which does, or leave instruct out.',
        )


def _checked_key(api_key: str | SecretStr | None) -> SecretStr:
    key = api_key or os.environ.get("DASHSCOPE_API_KEY")
    if not key:
        raise MissingKeyError(
            "There is no DashScope API key.",
            remedy="Make one in the Alibaba Cloud Model Studio console, then pass api_key= or set "
            "the environment variable DASHSCOPE_API_KEY.",
        )
    return checked_key("DashScope API key", key)


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
    return _native(given) if given else _regional(workspace, region)


def _native(url: str) -> str:
    url = checked_url("base_url", url, example=_GATEWAYS["cn-beijing"])
    if "/compatible-" in url:
        raise InvalidInputError(
            f"base_url {url!r} belongs to the OpenAI-compatible API, which is not supported here.",
            remedy=f"Pass the native one, such as {_GATEWAYS['cn-beijing']!r}, or unset "
            "DASHSCOPE_BASE_URL.",
        )
    return url


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


_REGIONAL = re.compile(r"[^.]+\.([^.]+)\.maas\.aliyuncs\.com")
"""The hosts that workspaces have, each with its region in it."""


def _region(base_url: str, given: str | None) -> str | None:
    """By the address, where it is the service's own; a proxy's says nothing, so as it is given."""
    own = _own_region(urlsplit(base_url).hostname or "")
    if own and given and own != given:
        raise InvalidInputError(
            f"region is {given!r}, but the address {base_url!r} is of {own!r}.",
            remedy="Pass one of them; the address may come from DASHSCOPE_BASE_URL or "
            "DASHSCOPE_HTTP_BASE_URL.",
        )
    return own or given


def _own_region(host: str) -> str | None:
    for region, gateway in _GATEWAYS.items():
        if host == urlsplit(gateway).hostname:
            return region
    regional = _REGIONAL.fullmatch(host)
    return regional[1] if regional else None
