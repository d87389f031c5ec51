"""The options that the commands share, and the scorer that they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import typer

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.dashscope import DashScopeScorer
from qwen_rerank.scorers.embedded import EmbeddedScorer
from qwen_rerank.scorers.local import LocalScorer
from qwen_rerank.scorers.server import ServerScorer
from qwen_rerank.scoring import Scorer

__all__ = [
    "SERVER_KEY",
    "AsJson",
    "Dialect",
    "Fields",
    "Instruct",
    "Kind",
    "Model",
    "Region",
    "ScorerKind",
    "Timeout",
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
TopN: TypeAlias = Annotated[
    int | None, typer.Option("--top-n", "-n", min=1, help="How many to return; all by default.")
]
Fields: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--field", "-f", help="The JSON field with a document's text; several are joined."
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def make_scorer(
    kind: ScorerKind,
    *,
    model: str | None = None,
    instruct: str | None = None,
    region: str | None = None,
    url: str | None = None,
    dialect: str | None = None,
    timeout: float | None = None,
) -> Scorer:
    """The scorer of these options; those that are None keep its own defaults.

    Raises:
        InvalidInputError: An option that the scorer has no use for, or can't use.
        MissingKeyError: There is no key in the environment.
        MissingDependencyError: The scorer's extra is not installed.
    """
    given = {
        name: value
        for name, value in {
            "model": model,
            "instruct": instruct,
            "region": region,
            "url": url,
            "dialect": dialect,
            "timeout": timeout,
        }.items()
        if value is not None
    }
    make, taken = _SCORERS[kind]
    if lost := given.keys() - taken:
        raise InvalidInputError(
            f"--scorer {kind} has no use for {', '.join(f'--{name}' for name in sorted(lost))}.",
            remedy=f"Leave it out; it takes {', '.join(f'--{name}' for name in sorted(taken))}."
            if taken
            else "Leave it out.",
        )
    return make(**given)


def _dashscope(url: str | None = None, **options: Any) -> Scorer:
    return DashScopeScorer(base_url=url, **options)


def _server(url: str | None = None, **options: Any) -> Scorer:
    if url is None:
        raise InvalidInputError("--scorer server needs the server's address.", remedy="Pass --url.")
    return ServerScorer(url, api_key=os.environ.get(SERVER_KEY) or None, **options)


_SCORERS: dict[ScorerKind, tuple[Callable[..., Scorer], frozenset[str]]] = {
    ScorerKind.DASHSCOPE: (
        _dashscope,
        frozenset({"model", "instruct", "region", "url", "timeout"}),
    ),
    ScorerKind.EMBEDDED: (EmbeddedScorer, frozenset()),
    ScorerKind.LOCAL: (LocalScorer, frozenset({"model", "instruct"})),
    ScorerKind.SERVER: (
        _server,
        frozenset({"model", "instruct", "url", "dialect", "timeout"}),
    ),
}
"""How each is made, and the options that it takes."""
