"""Every option once: its name, type, default and meaning.

Scorers and engines take options as keyword arguments, typed by a TypedDict. The model next to it
has their defaults and descriptions; the plugins inherit it, and the command line reads it. So a new
option is two lines here, and the code that uses it.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from pydantic import AliasChoices, BaseModel, Field, SecretStr
from pydantic.json_schema import SkipJsonSchema

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.base import Usage

__all__ = [
    "DashScopeArguments",
    "DashScopeOptions",
    "DocumentField",
    "Missing",
    "RankingArguments",
    "RankingOptions",
    "RequestArguments",
    "RequestOptions",
    "UsageCallback",
    "descriptions",
    "with_defaults",
]

DocumentField: TypeAlias = str | Sequence[str] | SkipJsonSchema[Callable[[Any], Item | None]]
"""Where a document's text is: a field, several, a format string, or a function of the document."""

Missing: TypeAlias = Literal["skip", "keep", "error"]
"""What to do with a document without text: leave it out, keep it after the others, or raise."""

UsageCallback: TypeAlias = Callable[[Usage], object]
"""Called with what each ranking cost."""

if TYPE_CHECKING:
    _Key: TypeAlias = SecretStr | str  # either can be passed; it is a SecretStr from then on
else:
    _Key = SecretStr


class RequestOptions(BaseModel):
    """How requests to a service are sent. All scorers of remote services take these."""

    timeout: float = 30.0
    """Seconds for one attempt of one request."""
    deadline: float | None = None
    """Seconds for one call with all its requests, retries and waits; None for no limit."""
    max_retries: int = 3
    """Attempts of one request after the first, with exponential backoff and jitter, on 408, 409,
    429, 5xx except 501, throttling, timeouts and lost connections. Retry-After is honored unless it
    would pass the deadline or, without one, is more than a minute.
    """
    backoff: float = 0.5
    """Seconds before the first retry, at least 0. Each further retry waits twice as long, up to
    30 s, and up to this many seconds of random jitter are added.
    """
    max_concurrency: int = 8
    """Requests of one call that run at the same time."""
    requests_per_minute: int | None = None
    """Requests that may go out in any minute, counting each attempt; None for no limit. A request
    waits for its turn, or fails with RateLimitError if its turn comes after the deadline. All
    scorers of the process with the same key, address and limit share it.
    """
    tokens_per_minute: int | None = None
    """Tokens that may go out in any minute, as the Qwen tokenizer counts them; None for no limit.
    It is also the largest size of a request.
    """


class RequestArguments(TypedDict, total=False):
    """`RequestOptions` as keyword arguments."""

    timeout: float
    deadline: float | None
    max_retries: int
    backoff: float
    max_concurrency: int
    requests_per_minute: int | None
    tokens_per_minute: int | None


def _key_from_environment() -> SecretStr | None:
    key = os.environ.get("DASHSCOPE_API_KEY")
    return SecretStr(key) if key else None


class DashScopeOptions(RequestOptions):
    """Which DashScope model to ask, where, and how."""

    model: str = "gte-rerank-v2"
    """The DashScope model: "qwen3-rerank", "qwen3-vl-rerank", "gte-rerank-v2" or another."""
    api_key: _Key | None = Field(
        default_factory=_key_from_environment,
        validation_alias=AliasChoices("api_key", "dashscope_api_key"),
        exclude=True,
    )
    """The DashScope key; DASHSCOPE_API_KEY by default. Reprs, dumps, pickles and messages never
    contain it.

    Also accepted as `dashscope_api_key`.
    """
    base_url: str | None = None
    """The API's address up to and including /api/v1; by default DASHSCOPE_BASE_URL, then
    DASHSCOPE_HTTP_BASE_URL, then the address of the region. The OpenAI-compatible address of the
    service's own hosts is turned into the native one.
    """
    workspace: str | None = None
    """The workspace of the requests, if it is not the key's default one."""
    region: str | None = None
    """The region: "cn-beijing" (the default) or "ap-southeast-1" (Singapore); with a workspace, any
    region. A key works only in its own region. If the address is not the service's own, such as a
    proxy's, set the region behind it.
    """
    instruct: str | None = None
    """What relevant means, for models that take an instruction; best in English. The service's
    default is "Given a web search query, retrieve relevant passages that answer the query."
    """


class DashScopeArguments(RequestArguments, total=False):
    """`DashScopeOptions` as keyword arguments, except the model and the key."""

    base_url: str | None
    workspace: str | None
    region: str | None
    instruct: str | None


class RankingOptions(BaseModel):
    """Which documents are scored, and how scores become an order."""

    missing: Missing = "skip"
    """What to do with a document whose text is missing or blank: "skip" leaves it out and counts
    it, "keep" puts it after the ranked ones without a score, "error" raises.
    """
    min_score: float | None = None
    """Documents with a lower relevance score are left out; None for no threshold."""
    max_candidates: int | None = None
    """The maximum number of documents to score, at least 1: the first ones, or an equal share of
    each of several lists; None for all.
    """
    blend: float | None = None
    """The weight, in [0, 1], of the retrieval order in a document's score, which is then (1 -
    blend) * relevance + blend / rank, with rank from 1. min_score is compared with the relevance.
    None or 0 for relevance alone.
    """
    diversity: float | None = None
    """The weight, in [0, 1], of differences between the returned documents over relevance: maximal
    marginal relevance over offline word vectors. Needs the extra embedded. Documents are then in
    the order in which they were chosen. None or 0 for relevance alone.
    """
    usage_callback: SkipJsonSchema[UsageCallback | None] = None
    """Called, not awaited, with the Usage of each ranking. Errors that it raises are logged."""


class RankingArguments(TypedDict, total=False):
    """`RankingOptions` as keyword arguments."""

    missing: Missing
    min_score: float | None
    max_candidates: int | None
    blend: float | None
    diversity: float | None
    usage_callback: UsageCallback | None


def descriptions(options: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each option of this module, by the option's name."""
    found: dict[str, str] = {}
    own = [kind for kind in options.__mro__ if kind.__module__ == __name__]
    for kind in reversed(own):  # pydantic could do so too, at the cost of every import
        (definition,) = ast.parse(inspect.getsource(kind)).body
        for option, text in pairwise(ast.iter_child_nodes(definition)):
            match option, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(docstring))),
                ):
                    found[name] = inspect.cleandoc(docstring)
    return found


def with_defaults(options: type[BaseModel], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments, and the default of each option that they leave out.

    Raises:
        InvalidInputError: An argument is not an option. The remedy suggests the nearest one.
    """
    fields = options.model_fields
    for name in arguments:
        if name not in fields:
            raise unknown_option(name, fields)
    return {name: field.get_default() for name, field in fields.items()} | dict(arguments)


def unknown_option(name: str, names: Sequence[str] | Mapping[str, Any]) -> InvalidInputError:
    """Return the error for an option that does not exist."""
    near = get_close_matches(name, names, 1)
    return InvalidInputError(
        f"There is no option {name!r}.",
        remedy=f"Did you mean {near[0]!r}?" if near else f"The options are {', '.join(names)}.",
    )
