"""Exit codes of the command line, and the texts of errors."""

from __future__ import annotations

import re
from enum import IntEnum

from qwen_rerank.cli.output import one_line
from qwen_rerank.errors import (
    AuthenticationError,
    InvalidInputError,
    MissingDependencyError,
    MissingKeyError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)

__all__ = ["Exit", "error_text", "exit_code"]


class Exit(IntEnum):
    """Exit codes. Typer itself exits with 2 for a bad command line."""

    DONE = 0
    FAILED = 1
    """A bad response, a refused text, a full disk, or a bug."""
    INPUT = 2
    """An argument or a file is invalid."""
    KEY = 3
    """The API key is missing or was refused."""
    LATER = 4
    """The service failed, could not be reached, or limits the rate."""
    PACKAGE = 5
    """A package is missing."""
    INTERRUPTED = 130
    """Ctrl-C."""


def exit_code(error: Exception) -> Exit:
    """Return the exit code for an error."""
    codes: tuple[tuple[Exit, tuple[type[Exception], ...]], ...] = (
        (Exit.PACKAGE, (MissingDependencyError,)),
        (Exit.KEY, (AuthenticationError,)),
        (Exit.LATER, (RateLimitError, RequestTimeoutError, ServiceError)),
        (Exit.INPUT, (InvalidInputError, *_UNUSABLE_PATH)),
    )
    return next((code for code, types in codes if isinstance(error, types)), Exit.FAILED)


def error_text(error: Exception) -> str:
    """Return what went wrong in one line and, on a second line, what to do about it."""
    what, remedy = _what_and_remedy(error)
    lines = (one_line(what), one_line(remedy or ""))
    return "\n".join(line for line in lines if line)


def _what_and_remedy(error: Exception) -> tuple[str, str | None]:
    if isinstance(error, MissingKeyError) and error.remedy and "DASHSCOPE_API_KEY" in error.remedy:
        return error.message, _NO_KEY
    if isinstance(error, QwenRerankError):
        what = _with_option_names(str(error).removesuffix(error.remedy or ""))
        if error.remedy:
            return what, _as_options(error.remedy)
        return what, "Try again later." if exit_code(error) is Exit.LATER else None
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.",
            "",
        )
    return f"{type(error).__name__}: {error}", "Run it again with --debug for the traceback."


_UNUSABLE_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors about a path rather than a disk."""

_NO_KEY = (
    "Create a key in the Alibaba Cloud Model Studio console and set the environment variable "
    "DASHSCOPE_API_KEY, or rank offline without one: --scorer embedded."
)

_OPTIONS = {
    "base_url": "--url",
    "corpus": "--corpus",
    "dialect": "--dialect",
    "instruct": "--instruct",
    "keep_refused": "--keep-refused",
    "max_concurrency": "--concurrency",
    "model": "--model",
    "overwrite": "--overwrite",
    "prompt": "--prompt",
    "queries": "--queries",
    "region": "--region",
    "requests_per_minute": "--requests-per-minute",
    "rerank_field": "--field",
    "restart": "--restart",
    "timeout": "--timeout",
    "tokens_per_minute": "--tokens-per-minute",
    "top_n": "--top-n",
}
"""The options for arguments in Python. Arguments without an option are left as they are."""

_ASSIGNMENT = re.compile(rf'\b({"|".join(_OPTIONS)})=(?:"([^"]+)"|True|…)?')
_NAME = re.compile(rf"\b({'|'.join(name for name in _OPTIONS if '_' in name)})\b(?!=)")


def _as_options(remedy: str) -> str:
    """Replace arguments to pass with options, such as --model qwen3-rerank."""

    def option(match: re.Match[str]) -> str:
        return f"{_OPTIONS[match[1]]} {match[2] or ''}".rstrip()

    return _with_option_names(_ASSIGNMENT.sub(option, remedy))


def _with_option_names(text: str) -> str:
    return _NAME.sub(lambda match: _OPTIONS[match[1]], text)
