"""Import the packages that only evaluation needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qwen_rerank.errors import MissingDependencyError

__all__ = ["import_optional"]


def import_optional(module: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: The module's name, such as `"ir_measures"`.
        purpose: What needs it, as the start of a sentence, such as `"A plot"`.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the package {module.partition('.')[0]} ({error}).",
            remedy='Install it: pip install "qwen-rerank[evaluation]"',
        ) from error
