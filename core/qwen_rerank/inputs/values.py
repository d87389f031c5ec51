"""Values of fields, written as text for a model to read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import date, time
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Any
from uuid import UUID

__all__ = ["NoTextError", "as_text"]

# A small value can hold itself or repeat a list many times, so its text can be endless or huge.
_MAX_DEPTH = 100
_MAX_VALUES = 100_000
_MAX_CHARACTERS = 100_000_000


class NoTextError(TypeError):
    """A value can't be written as text. The message names its type."""


def as_text(value: Any) -> str:
    """Write a value as text; "" if it is None, NaN, NaT or pandas.NA.

    Strings are kept as they are. Bools become `true` or `false`, dates and times ISO 8601, enum
    members their values. The items of lists, tuples and sets are joined by ", ", or by "; " if they
    are collections themselves; sets are sorted. Mappings become `name: value` pairs, joined in the
    same way. Missing and blank values in collections are left out. NumPy scalars and arrays are
    written like the Python values they stand for.

    Raises:
        NoTextError: The value is, or holds, a value of another type, is nested more than 100 levels
            deep, or holds more than 100,000 values or 100,000,000 characters, counting repeated
            values each time.
    """
    kind = type(value).__name__
    try:
        return _Writer().text_of(value)
    except _UnwritableError as error:
        held = error.args[0]
        also = "" if held is value else f" and holds a value of type {type(held).__name__}"
        raise NoTextError(f"of type {kind}{also}") from None
    except _TooLargeError as error:
        raise NoTextError(f"of type {kind} and {error}") from None
    except RecursionError:
        raise NoTextError(f"of type {kind} and {_TOO_DEEP}") from None


class _UnwritableError(Exception):
    """The value in `args` can't be written as text."""


class _TooLargeError(Exception):
    """The value is too deep, or holds too much."""


_TOO_DEEP = f"nested more than {_MAX_DEPTH} levels deep"

_MISSING = frozenset({"nan", "snan", "nat"})


class _Writer:
    """Writes one value, and keeps count of what it holds."""

    def __init__(self) -> None:
        self._depth = 0
        self._values = 0
        self._characters = 0

    def text_of(self, value: Any) -> str:
        if isinstance(value, str) and not isinstance(value, Enum):
            self._count_held(characters=len(value))
            return str(value)
        if value is None:
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, Enum):
            return self.text_of(value.value)
        if isinstance(value, Real | Decimal):
            return _unless_missing(_digits(value))
        if isinstance(value, date | time):
            return _unless_missing(value.isoformat())
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, Mapping | Set | list | tuple):
            return self._text_of_collection(value)
        return self.text_of(_python_value(value))

    def _text_of_collection(self, values: Mapping[Any, Any] | Iterable[Any]) -> str:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _TooLargeError(_TOO_DEEP)
        if isinstance(values, Mapping):
            pairs = [
                (value, f"{self.text_of(name)}: {text}")
                for name, value in values.items()
                if (text := self._text_unless_blank(value))
            ]
        else:
            pairs = list(self._pairs(values))
            if isinstance(values, Set):
                _sort(pairs)
        self._depth -= 1
        return ("; " if _hold_collections(values) else ", ").join(text for _, text in pairs)

    def _pairs(self, values: Iterable[Any]) -> Iterator[tuple[Any, str]]:
        """Yield the values that are not blank, each with its text."""
        for value in values:
            if text := self._text_unless_blank(value):
                yield value, text

    def _text_unless_blank(self, value: Any) -> str:
        self._count_held(values=1)
        text = self.text_of(value)
        return "" if text.isspace() else text

    def _count_held(self, values: int = 0, characters: int = 0) -> None:
        self._values += values
        self._characters += characters
        if self._values > _MAX_VALUES:
            raise _TooLargeError(f"holds more than {_MAX_VALUES:,} values")
        if self._characters > _MAX_CHARACTERS:
            raise _TooLargeError(f"holds more than {_MAX_CHARACTERS:,} characters")


def _hold_collections(values: Mapping[Any, Any] | Iterable[Any]) -> bool:
    held = values.values() if isinstance(values, Mapping) else values
    return any(isinstance(value, Iterable) and not isinstance(value, str) for value in held)


def _sort(pairs: list[tuple[Any, str]]) -> None:
    """Sort a set the same way in every process: numbers by size, everything else by its text."""
    if all(isinstance(value, Real) for value, _ in pairs):
        pairs.sort(key=lambda pair: pair[0])
    else:
        pairs.sort(key=lambda pair: pair[1])


def _unless_missing(text: str) -> str:
    """Return the text, or "" if it stands for a missing number or date."""
    return "" if text.lstrip("-").lower() in _MISSING else text


def _digits(number: Any) -> str:
    try:
        return str(number)
    except ValueError:  # an int of more than 4,300 digits
        raise _UnwritableError(number) from None


def _python_value(value: Any) -> Any:
    """Return the Python value that a NumPy or pandas value stands for."""
    numpy, pandas = map(sys.modules.get, ("numpy", "pandas"))  # its values need the import
    if pandas is not None and value is pandas.NA:
        return None
    if numpy is not None:
        if isinstance(value, numpy.bool_):
            return bool(value)
        if isinstance(value, numpy.datetime64):
            return _unless_missing(str(value))
        if isinstance(value, numpy.ndarray):
            return list(value) if value.ndim else value[()]
    raise _UnwritableError(value)
