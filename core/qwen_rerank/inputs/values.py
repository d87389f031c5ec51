"""Values of fields as the text that a model reads."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Set
from datetime import date, time
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Any
from uuid import UUID

__all__ = ["NoTextError", "as_text"]


class NoTextError(TypeError):
    """A value that has no text."""


def as_text(value: Any) -> str:
    """The value as a text; "" where it is None, NaN, NaT or pandas.NA.

    Strings are as they are, bools `true` or `false`, dates and times in ISO 8601, members of enums
    their values. What lists, tuples and sets hold is joined by ", ", or by "; " where it is lists
    itself; sets are sorted. Mappings are `name: value` pairs, joined likewise. What is missing or
    blank in them is left out. Scalars and arrays of numpy count as what they stand for.

    Raises:
        NoTextError: It is, or holds, anything else. The message says of what type that is.
    """
    kind = type(value).__name__
    try:
        return _as_text(value)
    except NoTextError as error:
        held = error.args[0]
        what = kind if held is value else f"{kind} that holds {type(held).__name__}"
    except RecursionError:
        what = f"{kind} that holds itself"
    raise NoTextError(what)


def _as_text(value: Any) -> str:
    if isinstance(value, Enum):
        return _as_text(value.value)
    if value is None or isinstance(value, str):
        return str(value or "")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Real | Decimal):
        return _known(_digits(value))
    if isinstance(value, date | time):
        return _known(value.isoformat())
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        pairs = ((_as_text(name), each) for name, each in value.items())
        return _joined(value.values(), (f"{name}: {text}" for name, text in _texts(pairs)))
    if isinstance(value, Set):
        value = _sorted(value)
    if isinstance(value, list | tuple):
        return _joined(value, (text for _, text in _texts(enumerate(value))))
    return _as_text(_of_data_frames(value))


_MISSING = frozenset({"nan", "snan", "nat"})


def _known(text: str) -> str:
    """The text; "" where it is what a missing number or date calls itself."""
    return "" if text.lstrip("-").lower() in _MISSING else text


def _digits(number: Any) -> str:
    try:
        return str(number)
    except ValueError:  # thousands of digits
        raise NoTextError(number) from None


def _texts(values: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, str]]:
    """The values that are there as texts, each with its name."""
    for name, value in values:
        if not (text := _as_text(value)) or text.isspace():
            continue
        yield name, text


def _joined(values: Iterable[Any], texts: Iterable[str]) -> str:
    nested = any(isinstance(value, Iterable) and not isinstance(value, str) for value in values)
    return ("; " if nested else ", ").join(texts)


def _sorted(values: Set[Any]) -> list[Any]:
    """In an order that is the same in every process: numbers by size, all else as texts."""
    there = [value for value in values if _as_text(value)]
    numbers = all(isinstance(value, Real) for value in there)
    return sorted(there, key=None if numbers else _as_text)


def _of_data_frames(value: Any) -> Any:
    """What data frames hold beside Python's own values, as Python has it."""
    numpy, pandas = map(sys.modules.get, ("numpy", "pandas"))  # what nobody imported is not theirs
    if pandas is not None and value is pandas.NA:
        return None
    if numpy is not None:
        if isinstance(value, numpy.bool_):
            return bool(value)
        if isinstance(value, numpy.datetime64):
            return _known(str(value))
        if isinstance(value, numpy.ndarray):
            return list(value) if value.ndim else value[()]
    raise NoTextError(value)
