"""API keys: what can be one."""

from __future__ import annotations

from pydantic import SecretStr

from qwen_rerank.errors import MissingKeyError

__all__ = ["checked_key"]


def checked_key(name: str, key: str | SecretStr) -> SecretStr:
    """The key, kept from being shown.

    Args:
        name: What the key is called in messages.
        key: The key.

    Raises:
        MissingKeyError: It can't be one. It is not quoted.
    """
    plain = key.get_secret_value() if isinstance(key, SecretStr) else key
    usable = isinstance(plain, str) and plain and plain.isascii() and plain.isprintable()
    if not usable or " " in plain:
        raise MissingKeyError(
            f"The {name} is empty, or holds white space or characters that no key has.",
            remedy="Copy it again, without quotes or a line break.",
        )
    return SecretStr(plain)
