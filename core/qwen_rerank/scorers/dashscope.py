"""DashScopeScorer: Alibaba Cloud's TextReRank service.

It implements the documented HTTP protocol itself. The SDK's clients turn a response without output
into an empty result, hide an error code under HTTP 200, log documents, or are bound to one event
loop; and each takes several times as long as the request (`benchmarks/client.py`).
"""

from __future__ import annotations

from typing import Any, Unpack, cast

from pydantic import SecretStr

from qwen_rerank.errors import MissingKeyError
from qwen_rerank.inputs.content import Modality
from qwen_rerank.options import (
    DashScopeArguments,
    DashScopeOptions,
    as_secret,
    with_defaults,
    with_secrets,
)
from qwen_rerank.scorers.catalog import (
    Limits,
    catalog_entry,
    check_model,
    published_limits,
    published_price,
)
from qwen_rerank.scorers.http.addresses import (
    dashscope_region,
    dashscope_url,
    dashscope_workspace,
    warn_if_unencrypted,
)
from qwen_rerank.scorers.http.auth import Headers, bearer, checked_key
from qwen_rerank.scorers.http.dialects.dashscope import PATH, DashScopeDialect
from qwen_rerank.scorers.http.environment import environment_key
from qwen_rerank.scorers.http.rate_limiter import RateLimits
from qwen_rerank.scorers.http.retry import RetryPolicy
from qwen_rerank.scorers.http.route import Route
from qwen_rerank.scorers.http.scorer import HttpScorer
from qwen_rerank.scorers.probe import Problem
from qwen_rerank.validation import check_text

__all__ = ["DashScopeScorer"]


class DashScopeScorer(HttpScorer):
    """Scores with DashScope's TextReRank: any number of texts, of any length.

    Only the beginning of a text is sent if it exceeds the model's limit, unless `truncate=False`.

    With qwen3-vl-rerank, the query and each text can also be a `Content` with an image, a video, or
    text and one of them.

    Texts are sent in as few requests as the service's limits allow, and these run concurrently. If
    one fails after its retries, the others are cancelled and the error is raised: a result is
    complete or an error. Connections are shared by all scorers, threads and event loops of the
    process, so a scorer is cheap to make, and you don't have to close it.

    Scores are in [0, 1]. The usage has the cost by `published_prices`, if the price is known.

    Args:
        model: `"qwen3-rerank"`, `"qwen3.7-text-rerank"`, `"qwen3-vl-rerank"` or another of the
            service's models.
        api_key: The key; if None, that of the environment (see docs/options.md). Reprs, pickles and
            messages never contain it.
        limits: How much a request may hold; if None, what the service publishes for the model.
        options: See `DashScopeOptions`.

    Raises:
        MissingKeyError: There is no key, or it is not a valid one.
        InvalidInputError: Another argument cannot be used, or the region does not serve the model.
    """

    def __init__(
        self,
        model: str = "qwen3-rerank",
        api_key: str | SecretStr | None = None,
        *,
        limits: Limits | None = None,
        **options: Unpack[DashScopeArguments],
    ) -> None:
        options, api_key = with_secrets(options), as_secret(api_key)
        chosen = cast(DashScopeArguments, with_defaults(DashScopeOptions, options))
        region, instruct = chosen["region"], chosen["instruct"]
        check_text("model", model)
        self._api_key: SecretStr | None = _checked_key(api_key)
        self._workspace = dashscope_workspace(chosen["workspace"])
        self._base_url = dashscope_url(chosen["base_url"], self._workspace, region)
        served_in = dashscope_region(self._base_url, region)
        check_model(model, served_in, instruct, stacklevel=3)
        warn_if_unencrypted(self._base_url, stacklevel=3)
        super().__init__(
            model,
            url=f"{self._base_url}{PATH}",
            dialect=DashScopeDialect(),
            instruct=instruct,
            retry_policy=RetryPolicy(
                chosen["timeout"], chosen["deadline"], chosen["max_retries"], chosen["backoff"]
            ),
            max_concurrency=chosen["max_concurrency"],
            limits=limits or published_limits(model, served_in),
            rate_limits=RateLimits.of(chosen),
            route=Route.of(chosen, self._headers()),
            truncate=chosen["truncate"],
            price=published_price(model, served_in),
        )

    @property
    def modalities(self) -> frozenset[Modality]:
        """Text, images and videos with qwen3-vl-rerank, else text only."""
        return catalog_entry(self._model).modalities

    @property
    def base_url(self) -> str:
        """The address of the API, up to and including `/api/v1`."""
        return self._base_url

    def _headers(self) -> Headers:
        if self._api_key is None:  # it was unpickled
            self._api_key = _checked_key(None)
        headers: dict[str, SecretStr | str] = {"Authorization": bearer(self._api_key)}
        if self._workspace is not None:
            headers["X-DashScope-WorkSpace"] = self._workspace
        return headers

    def _remedy_for(self, problem: Problem) -> str:
        return f"{super()._remedy_for(problem)} Check model=, and base_url=: a gateway may answer."

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, base_url={self._base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the key: the environment provides it at the first call after unpickling.
        return {**self.__dict__, "_api_key": None}


def _checked_key(api_key: str | SecretStr | None) -> SecretStr:
    """Return the key, or the environment's key. An empty key is never replaced by another."""
    key = environment_key() if api_key is None else checked_key("DashScope API key", api_key)
    if key is None:
        raise MissingKeyError(
            "No DashScope API key.",
            remedy="Create one in the Alibaba Cloud Model Studio console, then pass api_key= or "
            "set the environment variable DASHSCOPE_API_KEY. Without a key, you can pass "
            "scorer=EmbeddedScorer() to a plugin.",
        )
    return key
