"""Packages that only evaluation needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qwen_rerank.errors import MissingDependencyError

__all__ = ["needed"]


def needed(module: str, why: str) -> Any:
    """The module, imported.

    Args:
        module: Its name, such as `"ir_measures"`.
        why: What needs it, as the beginning of a sentence.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{why} needs the package {module.partition('.')[0]} ({error}).",
            remedy='Install it: pip install "qwen-rerank[evaluation]"',
        ) from error
