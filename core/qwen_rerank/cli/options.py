"""The options that commands share, and the scorer that they describe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import typer

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.base import Scorer
from qwen_rerank.scorers.dashscope import DashScopeScorer
from qwen_rerank.scorers.embedded import EmbeddedScorer
from qwen_rerank.scorers.local import LocalScorer
from qwen_rerank.scorers.server import ServerScorer
from qwen_rerank.scorers.wrappers.passages import PassageScorer

__all__ = [
    "SERVER_KEY",
    "AsJson",
    "Dialect",
    "Fields",
    "Instruct",
    "Kind",
    "Model",
    "Passages",
    "Region",
    "RequestsPerMinute",
    "ScorerKind",
    "Timeout",
    "TokensPerMinute",
    "TopN",
    "Url",
    "make_scorer",
]

SERVER_KEY = "QWEN_RERANK_SERVER_KEY"
"""The environment variable with the key of your own server."""


class ScorerKind(StrEnum):
    """The scorers that a command can use."""

    DASHSCOPE = "dashscope"
    EMBEDDED = "embedded"
    LOCAL = "local"
    SERVER = "server"


Kind: TypeAlias = Annotated[
    ScorerKind,
    typer.Option(
        "--scorer",
        "-s",
        help="dashscope, with its key in DASHSCOPE_API_KEY; embedded, offline; local, an open "
        f"model in this process; server, your own at --url, with its key, if any, in {SERVER_KEY}.",
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The model; for local, a folder or an id on the hub."),
]
Instruct: TypeAlias = Annotated[
    str | None,
    typer.Option(help="What relevant means, for models that take an instruction."),
]
Region: TypeAlias = Annotated[
    str | None, typer.Option(help="DashScope's region: cn-beijing or ap-southeast-1.")
]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(help="The server's address; for dashscope, the address up to /api/v1."),
]
Dialect: TypeAlias = Annotated[
    str | None, typer.Option(help="The kind of server, such as vllm, llama.cpp or tei.")
]
Timeout: TypeAlias = Annotated[
    float | None, typer.Option(help="The timeout of one attempt of a request, in seconds.")
]
Passages: TypeAlias = Annotated[
    bool,
    typer.Option("--passages", help="Score long texts by their best passage, uncut."),
]
RequestsPerMinute: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="The maximum number of requests in any minute.")
]
TokensPerMinute: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="The maximum number of tokens in any minute.")
]
TopN: TypeAlias = Annotated[
    int | None,
    typer.Option("--top-n", "-n", min=1, help="How many to return; all by default."),
]
Fields: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--field", "-f", help="The JSON field to rank by; repeatable."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def make_scorer(
    kind: ScorerKind, *, passages: bool = False, **options: str | float | None
) -> Scorer:
    """Create the scorer that the options describe.

    Args:
        kind: Which scorer.
        passages: Whether to score long texts by their passages.
        options: The scorer's own options, as `_SCORERS` has them; None keeps its default.

    Raises:
        InvalidInputError: The scorer does not take an option, or its value is invalid.
        MissingKeyError: The environment has no key.
        MissingDependencyError: The scorer's extra is not installed.
    """
    values = {name: value for name, value in options.items() if value is not None}
    create, accepted = _SCORERS[kind]
    if unsupported := values.keys() - accepted:
        takes = f"takes {_option_names(accepted)}" if accepted else "takes no options"
        raise InvalidInputError(
            f"--scorer {kind} does not take {_option_names(unsupported)}; it {takes}."
        )
    scorer = create(**values)
    return PassageScorer(scorer) if passages else scorer


def _option_names(options: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(options))


def _dashscope(url: str | None = None, **options: Any) -> Scorer:
    return DashScopeScorer(base_url=url, **options)


def _server(url: str | None = None, **options: Any) -> Scorer:
    if url is None:
        raise InvalidInputError("--scorer server needs the server's address.", remedy="Pass --url.")
    return ServerScorer(url, api_key=os.environ.get(SERVER_KEY) or None, **options)


_SERVICE = frozenset({"model", "instruct", "url", "timeout"})
_RATES = frozenset({"requests_per_minute", "tokens_per_minute"})

_SCORERS: dict[ScorerKind, tuple[Callable[..., Scorer], frozenset[str]]] = {
    ScorerKind.DASHSCOPE: (_dashscope, _SERVICE | _RATES | {"region"}),
    ScorerKind.EMBEDDED: (EmbeddedScorer, frozenset()),
    ScorerKind.LOCAL: (LocalScorer, frozenset({"model", "instruct"})),
    ScorerKind.SERVER: (_server, _SERVICE | _RATES | {"dialect"}),
}
"""How to create each scorer, and which options it takes."""
