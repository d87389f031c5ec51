"""The options that commands share, and the scorer that they describe."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import typer
from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.options import DashScopeOptions, RequestOptions, descriptions
from qwen_rerank.scorers.base import Scorer
from qwen_rerank.scorers.dashscope import DashScopeScorer
from qwen_rerank.scorers.embedded import EmbeddedScorer
from qwen_rerank.scorers.http.environment import environment_key
from qwen_rerank.scorers.local import LocalScorer
from qwen_rerank.scorers.server import ServerScorer
from qwen_rerank.scorers.wrappers.passages import PassageScorer

__all__ = [
    "SERVER_KEY",
    "AsJson",
    "Fields",
    "Overwrite",
    "ScorerKind",
    "ScorerMaker",
    "TopN",
    "takes_scorer_options",
]

SERVER_KEY = "QWEN_RERANK_SERVER_KEY"
"""The environment variable with the key of your own server."""

_PLACEHOLDER = SecretStr("never-sent")
"""Stands in for the key of a scorer that sends nothing."""


class ScorerKind(StrEnum):
    """The scorers that a command can use."""

    DASHSCOPE = "dashscope"
    EMBEDDED = "embedded"
    LOCAL = "local"
    SERVER = "server"


_Kind: TypeAlias = Annotated[
    ScorerKind,
    typer.Option(
        "--scorer",
        "-s",
        help="dashscope, with its key in DASHSCOPE_API_KEY; embedded, offline; local, an open "
        f"model in this process; server, your own at --url, with its key, if any, in {SERVER_KEY}.",
    ),
]
_Model: TypeAlias = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The model; for local, a folder or an id on the hub."),
]
_Url: TypeAlias = Annotated[
    str | None,
    typer.Option(help="The server's address; for dashscope, the address up to /api/v1."),
]
_Dialect: TypeAlias = Annotated[
    str | None, typer.Option(help="The kind of server, such as vllm, llama.cpp or tei.")
]
_Prompt: TypeAlias = Annotated[
    str | None,
    typer.Option(help="qwen3 if the server has no prompt template for Qwen3-Reranker."),
]
_EncoderName: TypeAlias = Annotated[
    str | None,
    typer.Option(help="For embedded: wordllama, or use, which needs the extra multilingual."),
]
_Prior: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="For embedded: how much the order of the documents counts, from 0 to 1. Pass 0 if "
        "they are in no order."
    ),
]
_Passages: TypeAlias = Annotated[
    bool,
    typer.Option("--passages", help="Score long texts by their best passage, uncut."),
]
TopN: TypeAlias = Annotated[
    int | None,
    typer.Option("--top-n", "-n", min=1, help="How many to return; all by default."),
]
Fields: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--field", "-f", help="The JSON field to rank by; repeatable."),
]
Overwrite: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace a result that exists.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


ScorerMaker: TypeAlias = Callable[..., Scorer]
"""Creates the scorer that a command's options describe.

It takes a function, which can put another scorer in the place of the one that has the model, and
`sends=False` if nothing will be sent, so that no key is needed.
"""


def takes_scorer_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that describe a scorer to a command.

    The command gets them as one argument, `make_scorer`, a `ScorerMaker`.
    """
    own = inspect.signature(command, eval_str=True)
    parameters = [each for each in own.parameters.values() if each.name != "make_scorer"]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        options = {name: values.pop(name) for name in _PARAMETERS}
        command(**values, make_scorer=functools.partial(_make_scorer, **options))

    parameters += _PARAMETERS.values()
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def _parameter(name: str, annotation: object, default: object = None) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def _declared(name: str) -> inspect.Parameter:
    """The parameter of an option that `DashScopeOptions` declares; None keeps the default."""
    field = DashScopeOptions.model_fields[name]
    annotation: Any = field.annotation
    sentence = re.split(r"\.\s", f"{_DESCRIPTIONS[name]} ")[0]
    summary = f"{sentence.partition('; None for')[0]}."
    return _parameter(name, Annotated[annotation | None, typer.Option(help=summary)])


_DESCRIPTIONS = descriptions(DashScopeOptions)
_NOT_IN_SHELL = ("rates_store", "headers", "proxy", "ca_bundle", "ssl_context")
"""Secrets, what environment variables are for, and what is not text."""

_REQUESTS = tuple(name for name in RequestOptions.model_fields if name not in _NOT_IN_SHELL)
_SERVICE = frozenset({*_REQUESTS, "model", "url", "instruct"})

_PARAMETERS = {
    each.name: each
    for each in (
        _parameter("scorer", _Kind, ScorerKind.DASHSCOPE),
        _parameter("model", _Model),
        _parameter("url", _Url),
        _parameter("dialect", _Dialect),
        _parameter("prompt", _Prompt),
        _parameter("encoder", _EncoderName),
        _parameter("prior", _Prior),
        _parameter("passages", _Passages, False),
        *map(_declared, ("instruct", "region", "workspace", *_REQUESTS)),
    )
}
"""The options that describe a scorer."""


def _make_scorer(
    replaced: Callable[[Scorer], Scorer] = lambda created: created,
    *,
    scorer: ScorerKind,
    passages: bool = False,
    sends: bool = True,
    **options: Any,
) -> Scorer:
    """Create the scorer that the options describe.

    Args:
        replaced: Returns what to use in place of the scorer.
        scorer: Which scorer.
        passages: Whether to score long texts by their passages.
        sends: Whether anything will be sent. If not, no key is needed.
        options: The scorer's own options, as `_SCORERS` has them; None keeps its default.

    Raises:
        InvalidInputError: The scorer does not take an option, or its value is invalid.
        MissingKeyError: The environment has no key.
        MissingDependencyError: The scorer's extra is not installed.
    """
    values = {name: value for name, value in options.items() if value is not None}
    create, accepted = _SCORERS[scorer]
    if unsupported := values.keys() - accepted:
        takes = f"takes {_option_names(accepted)}" if accepted else "takes no options"
        raise InvalidInputError(
            f"--scorer {scorer} does not take {_option_names(unsupported)}; it {takes}."
        )
    if scorer is ScorerKind.DASHSCOPE and not sends and environment_key() is None:
        values["api_key"] = _PLACEHOLDER
    created = replaced(create(**values))
    return PassageScorer(created) if passages else created


def _option_names(options: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(options))


def _dashscope(url: str | None = None, **options: Any) -> Scorer:
    return DashScopeScorer(base_url=url, **options)


def _server(url: str | None = None, **options: Any) -> Scorer:
    if url is None:
        raise InvalidInputError("--scorer server needs the server's address.", remedy="Pass --url.")
    return ServerScorer(url, api_key=os.environ.get(SERVER_KEY) or None, **options)


_SCORERS: dict[ScorerKind, tuple[Callable[..., Scorer], frozenset[str]]] = {
    ScorerKind.DASHSCOPE: (_dashscope, _SERVICE | {"region", "workspace"}),
    ScorerKind.EMBEDDED: (EmbeddedScorer, frozenset({"encoder", "prior"})),
    ScorerKind.LOCAL: (LocalScorer, frozenset({"model", "instruct", "truncate"})),
    ScorerKind.SERVER: (_server, _SERVICE | {"dialect", "prompt"}),
}
"""How to create each scorer, and which options it takes."""
