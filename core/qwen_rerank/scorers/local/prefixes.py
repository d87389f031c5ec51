"""The prefix of the last call, kept for the next one: often it has the same query."""

from __future__ import annotations

from collections.abc import Callable

from qwen_rerank.scorers.local.decoder import PrefixCache
from qwen_rerank.scorers.local.prompt import Tokens

__all__ = ["KeptPrefix"]

_MAX_KEPT_TOKENS = 1_024
"""In bfloat16, a token of the 8B model takes 144 KiB, so these take 144 MiB."""


class KeptPrefix:
    """Computes prefixes, but not the same one twice in a row. Not thread-safe.

    Args:
        compute: Computes a prefix.
    """

    def __init__(self, compute: Callable[[Tokens], PrefixCache]) -> None:
        self._compute = compute
        self._kept: tuple[Tokens, PrefixCache] | None = None

    def __call__(self, prefix: Tokens) -> PrefixCache:
        """The keys and values of a prefix."""
        if self._kept is not None and self._kept[0] == prefix:
            return self._kept[1]
        self._kept = None
        cache = self._compute(prefix)
        if len(prefix) <= _MAX_KEPT_TOKENS:
            self._kept = prefix, cache
        return cache
