"""The commands, and what they have in common."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qwen_rerank import __version__
from qwen_rerank.cli.calibrate import calibrate
from qwen_rerank.cli.check import check
from qwen_rerank.cli.evaluate import evaluate
from qwen_rerank.cli.exit_codes import Exit, error_text, exit_code
from qwen_rerank.cli.models import models
from qwen_rerank.cli.output import Output, print_error
from qwen_rerank.cli.rank import rank
from qwen_rerank.cli.run import run as rerank_run
from qwen_rerank.cli.serve import serve
from qwen_rerank.validation import nearest

__all__ = ["app", "run"]

_GLOBAL_OPTIONS = ("--quiet", "-q", "--debug")
"""Options of all commands, which may come before or after the name of the command."""

_UsageError: Any = typer.BadParameter.__base__
"""A bad command line. Typer does not export the class."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    help="Rerank documents with Qwen models.",
    epilog="Exit codes: 0 done; 1 failed; 2 bad command line or input; 3 API key missing or "
    "refused; 4 the service failed or can't be reached, try later; 5 a package is missing; 130 "
    "interrupted; 143 terminated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("rank")(rank)
app.command("run")(rerank_run)
app.command("serve")(serve)
app.command("eval")(evaluate)
app.command("calibrate")(calibrate)
app.command("check")(check)
app.command("models")(models)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"qwen-rerank {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def _set_up(
    ctx: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results and errors.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show logs and tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    ctx.obj = Output(quiet=quiet)
    ctx.obj.show_logs(debug=debug)


def run(arguments: Sequence[str]) -> None:
    """Run the command line and exit. Errors are sentences; --debug shows tracebacks."""
    global_options, others = _split_arguments(arguments)
    try:
        code = app([*global_options, *others], prog_name="qwen-rerank", standalone_mode=False)
    except _UsageError as error:
        message = io.StringIO()
        error.show(message)
        print_error(_with_nearest(message.getvalue().rstrip().replace(": Value error, ", ": ")))
        sys.exit(error.exit_code)
    except Exception as error:
        if "--debug" in global_options:
            raise
        print_error(f"qwen-rerank: {error_text(error)}")
        sys.exit(exit_code(error))
    sys.exit(code or Exit.DONE)


def _with_nearest(message: str) -> str:
    """Return the message, with a suggestion if it says that a value is not one of several."""
    if refused := re.search(r"'([^']*)' is not one of (.*)\.", message):
        near = nearest(refused[1], re.findall(r"'([^']*)'", refused[2]))
        return f"{message} Did you mean {near!r}?" if near else message
    return message


def _split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the global options, and all other arguments; nothing after "--" is an option."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    global_options = [argument for argument in arguments[:end] if argument in _GLOBAL_OPTIONS]
    others = [argument for argument in arguments[:end] if argument not in _GLOBAL_OPTIONS]
    return global_options, [*others, *arguments[end:]]
