"""API keys: which strings can be one, and how a key is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from pydantic import SecretStr

from qwen_rerank.errors import MissingKeyError
from qwen_rerank.options import as_secret

__all__ = ["Headers", "bearer", "checked_key"]

Headers: TypeAlias = Mapping[str, SecretStr | str]
"""Headers of a request, in which keys are SecretStr."""


def bearer(key: SecretStr) -> SecretStr:
    """The value of the Authorization header for a key."""
    return SecretStr(f"Bearer {key.get_secret_value()}")


def checked_key(name: str, key: str | SecretStr) -> SecretStr:
    """Return the key in a form that does not show it.

    Args:
        name: The key's name in messages.
        key: The key.

    Raises:
        MissingKeyError: The string cannot be a key. It is not quoted.
    """
    secret = as_secret(key)
    del key
    if not _is_usable(secret):
        raise MissingKeyError(
            f"The {name} is empty, or has spaces or other characters that a key cannot have.",
            remedy="Copy it again, without quotes or a line break.",
        )
    return cast(SecretStr, secret)


def _is_usable(key: object) -> bool:
    plain = key.get_secret_value() if isinstance(key, SecretStr) else ""
    return bool(plain) and plain.isascii() and plain.isprintable() and " " not in plain
