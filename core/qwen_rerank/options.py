"""Every option once: its name, type, default and meaning.

Scorers and engines take options as keyword arguments, typed by a TypedDict. The model next to it
has their defaults and descriptions; the plugins inherit it, and the command line reads it. So a new
option is two lines here, and the code that uses it.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeAlias,
    TypedDict,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Secret,
    SecretStr,
    field_serializer,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.base import Scorer, Usage
from qwen_rerank.validation import check_choice, check_flag, nearest

__all__ = [
    "NOT_SAVED",
    "CallArguments",
    "DashScopeArguments",
    "DashScopeOptions",
    "DocumentField",
    "Missing",
    "RankingArguments",
    "RankingOptions",
    "RequestArguments",
    "RequestOptions",
    "UsageCallback",
    "as_secret",
    "check_kind",
    "check_options",
    "descriptions",
    "new_by_name",
    "with_defaults",
    "with_secrets",
    "without_user",
]

DocumentField: TypeAlias = str | Sequence[str] | SkipJsonSchema[Callable[[Any], Item | None]]
"""Where a document's text is: a field, several, a format string, or a function of the document."""

Missing: TypeAlias = Literal["skip", "keep", "error"]
"""What to do with a document without text: leave it out, keep it after the others, or raise."""

C = TypeVar("C")
T = TypeVar("T", bound=Mapping[str, Any])

UsageCallback: TypeAlias = Callable[[Usage], object]
"""Called with what each ranking cost."""

if TYPE_CHECKING:
    from ssl import SSLContext

    _Key: TypeAlias = SecretStr | str  # either can be passed; it is a SecretStr from then on
    _SSLContext: TypeAlias = SSLContext
    _RatesStore: TypeAlias = Any
else:
    _Key = SecretStr
    _SSLContext = _RatesStore = Any  # the scorer checks them


NOT_SAVED = "***"
"""What pickles and dumps hold in the place of a secret."""

_PASSWORD_IN_QUERY = re.compile(r"(?<=[?&]password=)[^&#]*")
"""Where a redis:// URL can have its password, too."""

_NUMBERS: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
}
"""What is accepted for a number, and how an error calls it, by the annotation of the option."""


class RequestOptions(BaseModel):
    """How requests to a service are sent. All scorers of remote services take these."""

    model_config = ConfigDict(defer_build=True)  # most programs never create one
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
    truncate: bool = True
    """Whether to score only the beginning of a text that is longer than the model reads; false to
    raise an error that names the documents, before anything is sent. The part is cut off after a
    token, counted in `Usage.truncated`, and logged.
    """
    rates_store: SkipJsonSchema[_RatesStore] = None
    """Where several processes share both limits: the path of a file, for those of one machine; a
    redis:// URL or a redis.Redis, for those of many machines, with the extra rates. If it fails,
    a warning is logged, and each process has limits of its own for a while.
    """
    headers: dict[str, _Key] | None = None
    """Headers for every request, such as those that a gateway asks for. Reprs, dumps, pickles and
    messages never contain their values. The key and what describes the body can't be set here.
    """
    proxy: _Key | None = None
    """The proxy for every request, as http://user:password@host:port; None for the one that the
    environment names. The user and the password are never shown.
    """
    ca_bundle: str | Path | None = None
    """A PEM file or a folder with the certificate authorities to trust, instead of the usual
    ones.
    """
    ssl_context: SkipJsonSchema[_SSLContext | None] = None
    """An ssl.SSLContext of your own, such as one with a client certificate."""

    @field_validator("rates_store", mode="before")
    @classmethod
    def _hide_url(cls, value: Any) -> Any:
        return as_secret(value) if isinstance(value, str) and "://" in value else value

    @field_serializer("rates_store")
    def _serialize_rates_store(self, value: Any) -> Any:
        if isinstance(value, SecretStr):
            return without_user(value)
        is_plain = value is None or isinstance(value, str | os.PathLike)
        return value and os.fspath(value) if is_plain else {"not_saved": type(value).__name__}

    @field_serializer("headers")
    def _serialize_headers(self, value: dict[str, Any] | None) -> dict[str, str] | None:
        return None if value is None else dict.fromkeys(value, NOT_SAVED)

    @field_serializer("proxy")
    def _serialize_proxy(self, value: SecretStr | None) -> str | None:
        return None if value is None else without_user(value)


class RequestArguments(TypedDict, total=False):
    """`RequestOptions` as keyword arguments."""

    timeout: float
    deadline: float | None
    max_retries: int
    backoff: float
    max_concurrency: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    truncate: bool
    rates_store: Any
    headers: Mapping[str, _Key] | None
    proxy: _Key | None
    ca_bundle: str | Path | None
    ssl_context: _SSLContext | None


def without_user(address: SecretStr | str) -> str:
    """Return an address with a mark in the place of its user and password."""
    plain = address if isinstance(address, str) else address.get_secret_value()
    plain = _PASSWORD_IN_QUERY.sub(NOT_SAVED, plain)
    user, at, rest = plain.rpartition("@")
    scheme, separator, _ = user.partition("://")
    return f"{scheme}{separator}{NOT_SAVED}@{rest}" if at else rest


def _key_from_environment() -> SecretStr | None:
    key = os.environ.get("DASHSCOPE_API_KEY")
    return SecretStr(key) if key else None


if TYPE_CHECKING:

    class _KeyAlias(RequestOptions):
        dashscope_api_key: _Key | None = None  # for type checkers, which don't know AliasChoices
else:
    _KeyAlias = RequestOptions


class DashScopeOptions(_KeyAlias):
    """Which DashScope model to ask, where, and how."""

    model: str = "qwen3-rerank"
    """The DashScope model: "qwen3-rerank", "qwen3.7-text-rerank", "qwen3-vl-rerank" or another."""
    api_key: _Key | None = Field(
        default_factory=_key_from_environment,
        validation_alias=AliasChoices("api_key", "dashscope_api_key"),
        exclude=True,
    )
    """The DashScope key; by default that of the environment, as the SDK finds it. Reprs, dumps,
    pickles and messages never contain it.

    Also accepted as `dashscope_api_key`.
    """
    base_url: str | None = None
    """The API's address up to and including /api/v1; by default that of the environment, such as
    DASHSCOPE_BASE_URL, then the address of the region. The OpenAI-compatible address of the
    service's own hosts is turned into the native one.
    """
    workspace: str | None = None
    """The workspace of the requests, if it is not the key's default one; by default that in
    DASHSCOPE_WORKSPACE.
    """
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

    model_config = ConfigDict(defer_build=True)
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
    allowed_media: list[str | Path] | None = None
    """What documents may name as their images and videos, besides data and public addresses:
    folders, whose files are read; and addresses of servers in the local network, such as
    "http://images.internal:8080".
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
    allowed_media: Sequence[str | Path] | None
    usage_callback: UsageCallback | None


class CallArguments(TypedDict, total=False):
    """The options that can also be given to a single call, as keyword arguments."""

    top_n: int | None
    min_score: float | None


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


_OWNERS = {
    **dict.fromkeys(DashScopeOptions.model_fields, "DashScopeScorer"),
    **dict.fromkeys(RequestOptions.model_fields, "DashScopeScorer and ServerScorer"),
    **dict.fromkeys(RankingOptions.model_fields, "QwenRerank and QwenReRanker"),
    **dict.fromkeys(("scorer", "rerank_field"), "QwenRerank and QwenReRanker"),
    **dict.fromkeys(("url", "dialect", "prompt", "multimodal", "batch_size"), "ServerScorer"),
    **dict.fromkeys(("max_item_tokens", "logits"), "ServerScorer"),
    **dict.fromkeys(("device", "dtype", "max_length", "batch_tokens", "hub"), "LocalScorer"),
    **dict.fromkeys(("encoder", "prior"), "EmbeddedScorer"),
    **dict.fromkeys(("max_tokens", "overlap", "aggregate"), "PassageScorer"),
    **dict.fromkeys(("fetch_k", "base_retriever", "compressor"), "QwenRerankRetriever"),
    **dict.fromkeys(("keep_retrieval_score", "keep_passage", "keep_model"), "QwenRerank"),
    "top_n": "QwenRerank",
    "topn": "QwenReRanker",
    "keep_lists": "QwenRerank of langchain_qwen_rerank",
    "metadata_mode": "QwenRerank of llamaindex_qwen_rerank",
}
"""The class that takes an option, for whoever passes it to another one."""

_SURE = 0.85
"""How similar an option must be to be meant instead of another class's option of that name."""


def with_defaults(options: type[BaseModel], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments, and the default of each option that they leave out.

    Raises:
        InvalidInputError: An argument is not an option, or is of the wrong type.
    """
    fields = options.model_fields
    check_options(arguments, fields)
    for name, value in arguments.items():
        check_kind(name, value, fields[name])
    return {name: field.get_default() for name, field in fields.items()} | dict(arguments)


def check_kind(name: str, value: Any, field: FieldInfo) -> None:
    """Raise InvalidInputError unless the value fits an option that is a switch, choice or number.

    It is not converted: any text would be true. Other options are checked where they are used.

    Args:
        name: The option's name.
        value: Its value.
        field: Its declaration.
    """
    kind, *others = get_args(field.annotation) or [field.annotation]
    if get_origin(field.annotation) is Literal:
        check_choice(name, value, get_args(field.annotation))
    elif isinstance(kind, type) and issubclass(kind, Enum):
        check_choice(name, value, [each.value for each in kind])
    elif kind is bool:
        check_flag(name, value)
    elif kind in _NUMBERS and not (value is None and NoneType in others):
        number, called = _NUMBERS[kind]
        if not isinstance(value, number) or isinstance(value, bool):
            raise InvalidInputError(f"{name} must be {called}, got {value!r:.60}.")


def with_secrets(options: T) -> T:
    """Return the options, with those that are secret as SecretStr, or Secret if they are no text.

    Do this first: the local variables of a frame that an error passes through can be recorded.
    """
    hidden = dict(options)
    for name in ("api_key", "dashscope_api_key", "proxy"):
        if name in hidden:
            hidden[name] = as_secret(hidden[name])
    if "://" in str(hidden.get("rates_store")):
        hidden["rates_store"] = as_secret(hidden["rates_store"])
    if isinstance(headers := hidden.get("headers"), Mapping):
        hidden["headers"] = {name: as_secret(value) for name, value in headers.items()}
    elif headers is not None:
        hidden["headers"] = as_secret(headers)
    return cast(T, hidden)


def as_secret(value: Any) -> Any:
    """Return a value that shows in no repr: a string as SecretStr, anything but None as Secret."""
    if value is None or isinstance(value, SecretStr | Secret):
        return value
    return SecretStr(value) if isinstance(value, str) else Secret(value)


def check_options(arguments: Iterable[str], names: Collection[str]) -> None:
    """Raise InvalidInputError if an argument is not an option. Its value may be a key: not shown.

    Args:
        arguments: The names of the arguments.
        names: The names of the options, of which the remedy suggests the nearest.
    """
    for name in arguments:
        if name not in names:
            raise _no_option(name, names)


def _no_option(name: str, names: Collection[str]) -> InvalidInputError:
    owner = _OWNERS.get(name)
    if near := nearest(name, names, _SURE if owner else 0.6):
        return InvalidInputError(f"There is no option {name!r}.", remedy=f"Did you mean {near!r}?")
    if owner:
        return InvalidInputError(
            f"There is no option {name!r} here.", remedy=f"It is an option of {owner}."
        )
    return InvalidInputError(
        f"There is no option {name!r}.", remedy=f"The options are {', '.join(names)}."
    )


def new_by_name(cls: type[C], *by_position: Any, **options: Any) -> C:
    """Create an instance of a class that takes its options by name only; use it as `__new__`.

    Raises:
        InvalidInputError: Something was passed by position.
    """
    kinds = tuple(map(type, by_position))
    del by_position, options  # one may be the key
    if not kinds:
        return object.__new__(cls)
    kind = "a class" if issubclass(kinds[0], type) else kinds[0].__name__
    is_scorer = issubclass(kinds[0], Scorer) and "scorer" in getattr(cls, "model_fields", ())
    raise InvalidInputError(
        f"{cls.__name__} takes its options by name, got {kind} by position.",
        remedy=f"Pass scorer={kind}(…)." if is_scorer else "Write name=value for each option.",
    )
