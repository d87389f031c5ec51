"""The options that the commands share, and the scorer that they make."""

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
"""The environment variable with the key of a server of one's own."""


class ScorerKind(StrEnum):
    """What gives the scores."""

    DASHSCOPE = "dashscope"
    EMBEDDED = "embedded"
    LOCAL = "local"
    SERVER = "server"


Kind: TypeAlias = Annotated[
    ScorerKind,
    typer.Option(
        "--scorer",
        "-s",
        help="dashscope, with the key in DASHSCOPE_API_KEY; embedded, offline; local, the open "
        f"model in this process; server, at --url, with its key in {SERVER_KEY} if it has one.",
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The model's name, or for local a folder or id on the hub."),
]
Instruct: TypeAlias = Annotated[
    str | None, typer.Option(help="What relevant means, for models that take an instruction.")
]
Region: TypeAlias = Annotated[
    str | None, typer.Option(help="DashScope's region: cn-beijing or ap-southeast-1.")
]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Where the server ranks; for dashscope the address up to /api/v1."),
]
Dialect: TypeAlias = Annotated[
    str | None, typer.Option(help="Which server it is, such as vllm, llama.cpp or tei.")
]
Timeout: TypeAlias = Annotated[
    float | None, typer.Option(help="Seconds for one attempt of one request.")
]
Passages: TypeAlias = Annotated[
    bool, typer.Option("--passages", help="Score long texts by their best passage, not cut off.")
]
RequestsPerMinute: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="How many requests may go out in any minute.")
]
TokensPerMinute: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="How many tokens may go out in any minute.")
]
TopN: TypeAlias = Annotated[
    int | None, typer.Option("--top-n", "-n", min=1, help="How many to return; all by default.")
]
Fields: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--field", "-f", help="The JSON field with a document's text; again for several."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def make_scorer(
    kind: ScorerKind, *, passages: bool = False, **options: str | float | None
) -> Scorer:
    """The scorer of these options.

    Args:
        kind: Which scorer.
        passages: Whether it scores long texts by their passages.
        options: The scorer's own options, as `_SCORERS` has them; None keeps its default.

    Raises:
        InvalidInputError: An option that the scorer has no use for, or can't use.
        MissingKeyError: There is no key in the environment.
        MissingDependencyError: The scorer's extra is not installed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    make, taken = _SCORERS[kind]
    if lost := given.keys() - taken:
        raise InvalidInputError(
            f"--scorer {kind} has no use for {_named(lost)}.",
            remedy=f"Leave it out; it takes {_named(taken)}." if taken else "Leave it out.",
        )
    scorer = make(**given)
    return PassageScorer(scorer) if passages else scorer


def _named(options: Iterable[str]) -> str:
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
"""How each is made, and the options that it takes."""
