"""LoRA adapters in PEFT's format: found, and merged into the weights of their base model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.scorers.local.source import (
    Hub,
    Source,
    load_errors,
    locate,
    unreadable,
    unsuitable,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["Adapter", "find_adapter", "merge"]

_CONFIG = "adapter_config.json"
_TASKS = (None, "CAUSAL_LM", "SEQ_CLS")
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
        InvalidInputError: Its base model can't be found, or it was trained for something else, such
            as embeddings.
    """
    with load_errors(source):
        config: dict[str, Any] | None = source.json(_CONFIG)
        if config is None:
            return None
        task = config.get("task_type")
    if task not in _TASKS:
        raise unsuitable(source.name, f"is an adapter for the task {task!r}")
    classifies = task == "SEQ_CLS"
    if not source.has("adapter_model.safetensors", "adapter_model.bin"):
        raise unreadable(
            source.name,
            f"it has {_CONFIG}, but no adapter_model.safetensors",
            f"Add the adapter's weights, or remove {_CONFIG} if the model has no adapter.",
        )
    if source.has("config.json") and source.weight_files():
        return Adapter(source, source, classifies)
    return Adapter(source, _base(source, config, hub), classifies)


def _base(adapter: Source, config: Mapping[str, Any], hub: Hub) -> Source:
    name = config.get("base_model_name_or_path")
    why = f"{_CONFIG} names {name!r}."
    try:
        if isinstance(name, str) and name.strip():
            found = locate(name, config.get("revision"), hub)
            if found.has("config.json"):
                return found
            why = f"Neither the files here nor a hub that can be reached have {name!r}."
    except InvalidInputError as error:
        why = error.message
    raise InvalidInputError(
        f"The base model of the adapter {adapter.name!r} can't be found. {why}",
        remedy=f"Correct base_model_name_or_path in its {_CONFIG}, or copy the adapter's "
        "files into the folder of its base.",
    )


def merge(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """Return the model with the adapter's changes merged into its weights.

    Raises:
        InvalidInputError: The adapter can't be read, or does not fit the model.
        MissingDependencyError: The peft package is not installed.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise MissingDependencyError(
            f"The model {adapter.source.name!r} is a LoRA adapter, which needs the peft package "
            f"({error}).",
            remedy="Install it: pip install peft",
        ) from error
    with load_errors(adapter.source, _UNFIT), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        warnings.filterwarnings("ignore", ".*tie_word_embeddings")  # see _untie
        location, revision = adapter.source.location, adapter.source.revision
        embeddings = model.get_input_embeddings().weight
        adapted = PeftModel.from_pretrained(model, location, revision=revision)
        if not hasattr(adapted, "merge_and_unload"):
            raise unsuitable(adapter.source.name, "is an adapter that has no weights to merge")
        names = load_peft_weights(location, device="cpu", revision=revision).keys()
        used = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if unused := [name for name in names - used if ".layers." in name]:
            raise unreadable(
                adapter.source.name, f"its base has no weights for {min(unused)}", _UNFIT
            )
        _untie(adapted, embeddings)
        loaded: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return loaded


def _untie(adapted: PeftModel, embeddings: nn.Parameter) -> None:
    """Give an adapted layer its own weights if it shares them with the embeddings.

    Merging changes them in place, for the head as well as for the embeddings; the adapter was
    trained to change one of them.
    """
    for module in adapted.modules():
        if hasattr(module, "base_layer") and module.base_layer.weight is embeddings:
            module.base_layer.weight = nn.Parameter(embeddings.detach().clone())
