"""Checks of arguments that several modules share."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from numbers import Real
from typing import TypeGuard, TypeVar, cast

from qwen_rerank.errors import InvalidInputError

__all__ = [
    "check_choice",
    "check_flag",
    "check_query",
    "check_seconds",
    "check_share",
    "check_text",
    "check_top_n",
    "check_whole",
    "finite_float",
    "is_finite",
    "is_utf8",
    "list_of",
    "nearest",
    "not_utf8",
]

T = TypeVar("T")


def is_finite(value: object) -> TypeGuard[float]:
    """Whether the value is a number, but not a bool, infinity or NaN."""
    if type(value) is float:
        return math.isfinite(value)
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def finite_float(value: object) -> float | None:
    """Return a number, such as a NumPy scalar, as a float; None for NaN, infinity and the rest."""
    return float(value) if is_finite(value) else None


def list_of(name: str, things: Iterable[object], kind: type[T], remedy: str) -> list[T]:
    """Return the values as a list; raise InvalidInputError if one has another type."""
    if not isinstance(things, Iterable):
        got = type(things).__name__
        raise InvalidInputError(f"{name} must be a list of {kind.__name__}s, got {got}.")
    listed = list(things)
    for other in {*map(type, listed)}:
        if not issubclass(other, kind):
            raise InvalidInputError(
                f"{name} must be {kind.__name__}s, got {other.__name__}.", remedy=remedy
            )
    return cast(list[T], listed)


def check_query(query: str) -> None:
    """Raise InvalidInputError unless the query is a string that is not blank."""
    if not isinstance(query, str) or not query.strip():
        got = repr(query) if isinstance(query, str) else type(query).__name__
        raise InvalidInputError(
            f"The query must be a string that is not blank, got {got}.",
            remedy="Pass the text that the documents should be relevant to.",
        )


def check_text(name: str, text: str) -> None:
    """Raise InvalidInputError unless the text is a non-blank string that UTF-8 can encode."""
    if not isinstance(text, str) or not text.strip() or not is_utf8(text):
        raise InvalidInputError(
            f"{name} must be a non-blank string that UTF-8 can encode, got {text!r}."
        )


def not_utf8(name: str) -> InvalidInputError:
    """Return the error for a text that UTF-8 cannot encode."""
    return InvalidInputError(
        f"{name} contains half of a surrogate pair, which UTF-8 cannot encode.",
        remedy='Clean it, for example with text.encode("utf-8", "replace").decode().',
    )


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode the text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_top_n(top_n: int | None, name: str = "top_n") -> None:
    """Raise InvalidInputError unless the value is None or a whole number of at least 1."""
    if top_n is not None:
        check_whole(name, top_n, at_least=1)


def check_whole(name: str, value: int, *, at_least: int) -> None:
    """Raise InvalidInputError unless the value is a whole number not below `at_least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise InvalidInputError(
            f"{name} must be a whole number of at least {at_least}, got {value!r}."
        )


def check_seconds(name: str, value: float) -> None:
    """Raise InvalidInputError unless the value is a finite number of seconds above 0."""
    if not is_finite(value) or value <= 0:
        raise InvalidInputError(f"{name} must be a number of seconds above 0, got {value!r}.")


def check_share(name: str, value: float | None) -> None:
    """Raise InvalidInputError unless the value is None or a number from 0 to 1."""
    if value is not None and not (is_finite(value) and 0 <= value <= 1):
        raise InvalidInputError(f"{name} must be a number from 0 to 1 or None, got {value!r}.")


def check_flag(name: str, value: bool) -> None:
    """Raise InvalidInputError unless the value is True or False: "no" would count as True."""
    if not isinstance(value, bool):
        raise InvalidInputError(
            f"{name} must be True or False, got {value!r:.60}.",
            remedy=f"Pass {name}=True or {name}=False.",
        )


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise InvalidInputError unless the value is one of the choices."""
    if not (isinstance(value, str) and value in choices):
        near = nearest(value, choices)
        raise InvalidInputError(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r:.60}.",
            remedy=None if near is None else f"Did you mean {near!r}?",
        )


def nearest(name: object, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the name that is meant by a misspelled one, in any case; None if none is similar."""
    by_lower = {known.lower(): known for known in names}
    near = get_close_matches(name.lower(), by_lower, 1, cutoff) if isinstance(name, str) else []
    return by_lower[near[0]] if near else None
