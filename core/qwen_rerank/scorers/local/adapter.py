"""LoRA adapters in PEFT's format: found, and merged into the weights of their base model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.scorers.local.source import Hub, Source, load_errors, locate, unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Adapter", "find_adapter", "merge"]

_CONFIG = "adapter_config.json"
_UNFIT = "Check that the adapter was trained on this base model."


class Adapter(NamedTuple):
    """An adapter and its base.

    Attributes:
        source: The adapter.
        base: The model that it changes: the one in the same folder, or else the one that its
            configuration names.
        classifies: Whether it was trained as a sequence classifier, and brings the head.
    """

    source: Source
    base: Source
    classifies: bool


def find_adapter(source: Source, hub: Hub) -> Adapter | None:
    """Return the adapter of a folder or repository; None if it has none.

    Raises:
        InvalidInputError: Its base model can't be found.
    """
    with load_errors(source):
        config: dict[str, Any] | None = source.json(_CONFIG)
        if config is None:
            return None
        classifies = config.get("task_type") == "SEQ_CLS"
    if not source.has("adapter_model.safetensors", "adapter_model.bin"):
        raise unreadable(
            source.name,
            f"it has {_CONFIG}, but no adapter_model.safetensors",
            f"Add the adapter's weights, or remove {_CONFIG} if the model has no adapter.",
        )
    if source.has("config.json") and source.weight_files():
        return Adapter(source, source, classifies)
    base = config.get("base_model_name_or_path")
    try:
        found = locate(str(base), config.get("revision"), hub)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"The base model of the adapter {source.name!r} can't be found. {error.message}",
            remedy=f"Correct base_model_name_or_path in its {_CONFIG}, or copy the adapter's "
            "files into the folder of its base.",
        ) from error
    return Adapter(source, found, classifies)


def merge(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """Return the model with the adapter's changes merged into its weights.

    Raises:
        InvalidInputError: The adapter can't be read, or does not fit the model.
        MissingDependencyError: The peft package is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingDependencyError(
            f"The model {adapter.source.name!r} is a LoRA adapter, which needs the peft package "
            f"({error}).",
            remedy="Install it: pip install peft",
        ) from error
    with load_errors(adapter.source, _UNFIT), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        location, revision = adapter.source.location, adapter.source.revision
        merged = PeftModel.from_pretrained(model, location, revision=revision)
        loaded: PreTrainedModel = merged.merge_and_unload(safe_merge=True)
    return loaded
