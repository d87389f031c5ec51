"""The options that all rerankers share, and the scorer and engine that they make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.content import Item
from qwen_rerank.inputs.fields import FieldAccess, ItemReader
from qwen_rerank.options import (
    NOT_SAVED,
    CallArguments,
    DashScopeOptions,
    DocumentField,
    RankingOptions,
    check_kind,
    check_options,
    new_by_name,
    with_secrets,
    without_user,
)
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.ranking.result import RankedIndices
from qwen_rerank.scorers.base import Scorer
from qwen_rerank.scorers.dashscope import DashScopeScorer
from qwen_rerank.validation import check_top_n

_log = logging.getLogger(__name__)

__all__ = ["PluginSettings", "RerankSettings", "option_names"]

_NOT_SAVED = "not_saved"


class RerankSettings(DashScopeOptions, RankingOptions):
    """The options of a reranker: `DashScopeOptions`, `RankingOptions`, and these.

    Unknown options are refused. You can assign to an option later: it applies from the next call.

    Attributes:
        scorer: The scorer to use instead of DashScope. You can't combine it with
            `DashScopeOptions`.
        top_n: The maximum number of documents to return, at least 1; None for all.
        rerank_field: Where a document's text is: None for its content; the key of a metadata field;
            several keys, for a text of `key: value` lines; a format string of keys, such as
            ``"{title}\\n{content}"``; or a function from document to text. A `Content` or content
            blocks can stand in for text.

    Raises:
        pydantic.ValidationError: An option is unknown or has the wrong type.
        InvalidInputError: An option cannot be used.
        MissingKeyError: There is neither a key nor a scorer.
    """

    model_config = ConfigDict(
        extra="forbid",
        arbitrary_types_allowed=True,
        validate_assignment=True,
        hide_input_in_errors=True,  # the input may be the key
        protected_namespaces=(),
    )

    scorer: SkipJsonSchema[Scorer | None] = None
    top_n: int | None = 3
    rerank_field: DocumentField | None = None

    content_field: ClassVar[str] = "content"
    """The field of a record that holds the content when rerank_field is None."""

    _built: _Built | None = PrivateAttr(default=None)

    if not TYPE_CHECKING:  # type checkers take the signature from the fields
        __new__ = new_by_name

        def __init__(self, **options: Any) -> None:
            options = with_secrets(options)
            check_top_n(options.get("top_n"))
            super().__init__(**options)
            _ = self.engine  # bad options are errors here, not at the first query

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_options(cls, data: Any) -> Any:
        if isinstance(data, dict):
            check_options(data, option_names(cls))
        return data

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        check_kind(name, value, cls.model_fields[name])
        return value

    @field_validator("top_n", mode="before")
    @classmethod
    def _check_top_n(cls, value: Any) -> Any:
        check_top_n(value)
        return value

    @field_validator("scorer", mode="before")
    @classmethod
    def _refuse_other_scorers(cls, value: Any) -> Any:
        if value is None or isinstance(value, Scorer | dict):
            return value
        is_class = isinstance(value, type) and issubclass(value, Scorer)
        got = f"the class {value.__name__}" if is_class else type(value).__name__
        example = value.__name__ if is_class else "EmbeddedScorer"
        raise ValueError(f"A scorer must be a Scorer, got {got}. Pass scorer={example}().")

    @property
    def engine(self) -> RerankEngine:
        """The engine for the current options."""
        return self._current.engine

    @property
    def reader(self) -> ItemReader[Any]:
        """Reads the text of the documents that this component ranks."""
        return self._current.reader

    def _for_call(self, options: CallArguments) -> tuple[RerankEngine, int | None]:
        """Return the engine and `top_n` for a call with these options."""
        check_options(options, CallArguments.__annotations__)
        engine, top_n = self.engine, options.get("top_n", self.top_n)
        check_top_n(top_n)
        if "min_score" in options:
            engine = engine.with_min_score(options["min_score"])
        return engine, top_n

    @property
    def _current(self) -> _Built:
        """The engine and the reader for the current options."""
        options = tuple(getattr(self, name) for name in RerankSettings.model_fields)
        if self._built is None or self._built.options != options:
            self._built = self._build(options)
        return self._built

    def _build(self, options: tuple[Any, ...]) -> _Built:
        check_top_n(self.top_n)
        field = self.content_field if self.rerank_field is None else self.rerank_field
        engine = RerankEngine(
            self._scorer(),
            rerank_field=_of_source(field) if callable(field) else field,
            **{name: getattr(self, name) for name in RankingOptions.model_fields},
        )
        allowed = AllowedMedia.of(self.allowed_media)
        return _Built(options, engine, ItemReader(field, self._field_access(), allowed))

    def _field_access(self) -> FieldAccess[Any]:
        """Return how to read the fields of the documents that this component ranks."""
        return FieldAccess(
            getter=lambda name: lambda document: (document.fields or {}).get(name),
            names=lambda document: document.fields or {},
        )

    def _scorer(self) -> Scorer:
        if self.scorer is None:
            names = DashScopeOptions.model_fields
            return DashScopeScorer(**{name: getattr(self, name) for name in names})
        unused = [name for name in DashScopeOptions.model_fields if self._is_chosen(name)]
        if unused:
            raise InvalidInputError(
                f"{', '.join(unused)} would have no effect together with scorer={self.scorer!r}.",
                remedy="Pass these options to the scorer, or leave the scorer out.",
            )
        return self.scorer

    def _is_chosen(self, name: str) -> bool:
        default = RerankSettings.model_fields[name].default
        return name in self.model_fields_set and getattr(self, name) not in (default, None)

    @field_serializer("scorer", "rerank_field", "usage_callback", "ssl_context")
    def _serialize(self, value: Any) -> Any:
        if isinstance(value, Scorer):
            return {_NOT_SAVED: value.model}
        if callable(value):
            return {_NOT_SAVED: getattr(value, "__name__", "function")}
        is_plain = value is None or isinstance(value, str | Sequence)
        return value if is_plain else {_NOT_SAVED: type(value).__name__}

    @field_validator(
        "scorer", "rerank_field", "usage_callback", "ssl_context", "rates_store", mode="before"
    )
    @classmethod
    def _refuse_not_saved(cls, value: Any) -> Any:
        if isinstance(value, dict) and _NOT_SAVED in value:
            raise ValueError(
                f"{value[_NOT_SAVED]!r} is code and was not saved with the other options. Pass it "
                "again when you load them."
            )
        return value

    def __getstate__(self) -> dict[Any, Any]:
        # Without the key and the engine that holds it: it is read from DASHSCOPE_API_KEY again.
        if self.ssl_context is not None:
            raise InvalidInputError("ssl_context cannot be pickled.", remedy="Pass ca_bundle=.")
        if not isinstance(self.rates_store, str | PathLike | SecretStr | None):
            raise InvalidInputError("A client cannot be pickled.", remedy="Pass a redis:// URL.")
        hidden: dict[str, Any] = {"api_key": None}
        if self.headers is not None:
            hidden["headers"] = dict.fromkeys(self.headers, SecretStr(NOT_SAVED))
        if isinstance(self.rates_store, SecretStr):
            hidden["rates_store"] = SecretStr(without_user(self.rates_store))
        if self.proxy is not None:
            hidden["proxy"] = SecretStr(without_user(self.proxy))
        keyless = self.model_copy(update=hidden)
        keyless._built = None
        state = super(RerankSettings, keyless).__getstate__()
        missing = RerankSettings.model_fields.keys() - state["__dict__"].keys()
        if missing:  # LlamaIndex drops what cannot be pickled: another model would rank then
            raise InvalidInputError(
                f"{', '.join(sorted(missing))} cannot be pickled.",
                remedy="Use a function or a class at the top level of a module.",
            )
        return state

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # Functions are shared, as scorers are: a bound method may store something in its object.
        # A TLS context and a Redis client cannot be copied.
        memo = {} if memo is None else memo
        functions = (own for own in (self.rerank_field, self.usage_callback) if callable(own))
        for own in (*functions, self.ssl_context, self.rates_store):
            memo[id(own)] = own
        return super().__deepcopy__(memo)

    def __eq__(self, other: object) -> bool:
        # pydantic would also compare the engines, which are never equal.
        return type(self) is type(other) and dict(self) == dict(other)


class PluginSettings(RerankSettings):
    """The options of `RerankSettings`, and what to store in the metadata of a document or node.

    Attributes:
        keep_retrieval_score: Whether to store the first stage's score in
            `metadata["retrieval_score"]`: a float, or None if there is none.
        keep_passage: Whether to store the best passage, if a PassageScorer found one, in
            `metadata["passage"]`: a list of its start and end offsets, or None for the whole text.
        keep_model: Whether to store the name of the model that scored in
            `metadata["rerank_model"]`; with a FallbackScorer, the one that answered.
    """

    keep_retrieval_score: bool = False
    keep_passage: bool = False
    keep_model: bool = False

    def _warn_of_few(self, candidates: int, top_n: int | None, remedy: str) -> None:
        """Warn, once per process, if all candidates are returned, so that none can move up."""
        if top_n is None or not 1 < candidates <= top_n or type(self) in _warned_of_few:
            return
        _warned_of_few.add(type(self))
        _log.warning(
            "All %d candidates are returned, as top_n is %d: reranking can only change their "
            "order. %s This is logged once.",
            candidates,
            top_n,
            remedy,
        )

    def _kept(self, documents: Sequence[Any], ranking: RankedIndices) -> Iterable[dict[str, Any]]:
        """Return what to add to the metadata of each document of the ranking."""
        count = len(ranking.indices)
        columns: dict[str, Iterable[Any]] = {}
        if self.keep_retrieval_score:
            chosen = map(documents.__getitem__, ranking.indices)
            columns["retrieval_score"] = map(self._retrieval_score, chosen)
        if self.keep_passage:
            passages = ranking.passages or [None] * count
            columns["passage"] = [passage and list(passage) for passage in passages]
        if self.keep_model:
            columns["rerank_model"] = repeat(ranking.model, count)
        columns |= self._kept_columns(ranking)
        if not columns:
            return repeat({}, count)
        return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def _kept_columns(self, ranking: RankedIndices) -> dict[str, Iterable[Any]]:
        """Return what a plugin's own options add for each document, by metadata key."""
        return {}

    def _retrieval_score(self, document: Any) -> float | None:
        """Return the score that the first stage gave the document."""
        raise NotImplementedError


_warned_of_few: set[type[PluginSettings]] = set()


class _Built(NamedTuple):
    """The engine and the reader made from a set of options.

    Attributes:
        options: The values of the options.
        engine: The engine for them.
        reader: Reads the text of documents.
    """

    options: tuple[Any, ...]
    engine: RerankEngine
    reader: ItemReader[Any]


def option_names(settings: type[BaseModel]) -> list[str]:
    """Return the names of the options, and the other names that some of them have."""
    names: list[str] = []
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names += map(str, alias.choices) if isinstance(alias, AliasChoices) else [name]
    return names


def _of_source(function: Callable[[Any], Item | None]) -> Callable[[Record], Item | None]:
    return lambda record: function(record.source)
