"""The command line, `qwen-rerank`. Needs the extra `cli`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line with the process's arguments, and exit."""
    try:
        from qwen_rerank.cli.app import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("typer", "rich"):
            raise
        print(
            f"qwen-rerank: the command line needs the package {package}.\n"
            'Install it: pip install "qwen-rerank[cli]"',
            file=sys.stderr,
        )
        sys.exit(5)  # as exits.Exit.PACKAGE, which is not imported in case that needs it too
    run(sys.argv[1:])
