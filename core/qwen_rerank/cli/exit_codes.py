"""How the command line ends: exit codes, and errors as sentences with a remedy."""

from __future__ import annotations

import re
from enum import IntEnum

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

__all__ = ["Exit", "exit_code", "sentences"]


class Exit(IntEnum):
    """Exit codes. Those of typer itself are 2, for a bad command line, and these."""

    DONE = 0
    FAILED = 1
    """An answer that is no ranking, a refused text, a full disk, or a bug."""
    INPUT = 2
    """An argument or a file that can't be used."""
    KEY = 3
    """No key, or one that was refused."""
    LATER = 4
    """The service failed, or could not be reached, or has had enough for now."""
    PACKAGE = 5
    """A package is missing."""
    INTERRUPTED = 130
    """Ctrl-C."""


def exit_code(error: Exception) -> Exit:
    """The exit code for an error."""
    kinds: tuple[tuple[Exit, tuple[type[Exception], ...]], ...] = (
        (Exit.PACKAGE, (MissingDependencyError,)),
        (Exit.KEY, (AuthenticationError,)),
        (Exit.LATER, (RateLimitError, RequestTimeoutError, ServiceError)),
        (Exit.INPUT, (InvalidInputError, *_UNUSABLE)),
    )
    return next((code for code, types in kinds if isinstance(error, types)), Exit.FAILED)


def sentences(error: Exception) -> str:
    """What went wrong and, on a line of its own, what to do about it."""
    if isinstance(error, MissingKeyError) and error.remedy and "DASHSCOPE_API_KEY" in error.remedy:
        return f"{error.message}\n{_NO_KEY}"
    if isinstance(error, QwenRerankError):
        what = _named_as_options(str(error).removesuffix(error.remedy or "").rstrip())
        remedy = error.remedy or ("Try again later." if exit_code(error) is Exit.LATER else None)
        return f"{what}\n{_as_options(remedy)}" if remedy else what
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return f"{type(error).__name__}: {error}\nRun it again with --debug for the traceback."


_UNUSABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""What is wrong with a path, other than with a disk."""

_NO_KEY = (
    "Make one in the Alibaba Cloud Model Studio console and set the environment variable "
    "DASHSCOPE_API_KEY; or rank offline, without one: --scorer embedded."
)

_OPTIONS = {
    "base_url": "--url",
    "dialect": "--dialect",
    "instruct": "--instruct",
    "max_concurrency": "--concurrency",
    "model": "--model",
    "region": "--region",
    "requests_per_minute": "--requests-per-minute",
    "timeout": "--timeout",
    "tokens_per_minute": "--tokens-per-minute",
    "top_n": "--top-n",
}
"""The options here for Python's arguments. What is none is left as Python has it."""

_PASSED = re.compile(rf'\b({"|".join(_OPTIONS)})=(?:"([^"]+)")?')
_NAMED = re.compile(rf"\b({'|'.join(name for name in _OPTIONS if '_' in name)})\b(?!=)")


def _as_options(remedy: str) -> str:
    """The remedy with options for what it says to pass, such as --model qwen3-rerank."""

    def option(found: re.Match[str]) -> str:
        return f"{_OPTIONS[found[1]]} {found[2] or ''}".rstrip()

    return _named_as_options(_PASSED.sub(option, remedy))


def _named_as_options(text: str) -> str:
    return _NAMED.sub(lambda found: _OPTIONS[found[1]], text)
