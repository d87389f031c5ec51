"""The commands together, and what they have in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qwen_rerank import __version__
from qwen_rerank.cli.check import check
from qwen_rerank.cli.evaluate import evaluate
from qwen_rerank.cli.exit_codes import Exit, exit_code, sentences
from qwen_rerank.cli.models import models
from qwen_rerank.cli.output import Output, print_error
from qwen_rerank.cli.rank import rank
from qwen_rerank.cli.run import run as run_command

__all__ = ["app", "run"]

_ANYWHERE = ("--quiet", "-q", "--debug")
"""Options of all commands, which may stand before the command's name or behind it."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    help="Rerank documents with Qwen rerankers.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad arguments or input, 3 no key or a refused one, "
    "4 the service fails or can't be reached: try later, 5 a package is missing, 130 interrupted, "
    "143 terminated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("rank")(rank)
app.command("run")(run_command)
app.command("eval")(evaluate)
app.command("check")(check)
app.command("models")(models)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"qwen-rerank {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def _common(
    ctx: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show what is done, and tracebacks.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    ctx.obj = Output(quiet=quiet)
    ctx.obj.listen(debug=debug)


def run(arguments: Sequence[str]) -> None:
    """Run the command line and exit; errors are sentences, unless --debug asks for tracebacks."""
    ours, theirs = _parted(arguments)
    try:
        app([*ours, *theirs], prog_name="qwen-rerank")
    except Exception as error:
        if "--debug" in ours:
            raise
        print_error(sentences(error))
        sys.exit(exit_code(error))


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options that may stand anywhere, and the others; what follows "--" is no option."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    ours = [argument for argument in arguments[:end] if argument in _ANYWHERE]
    others = [argument for argument in arguments[:end] if argument not in _ANYWHERE]
    return ours, [*others, *arguments[end:]]
