"""Load a model: its tokenizer, its weights with an adapter merged, and the decoder that runs it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)
from transformers.utils import logging as transformers_logging

from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.scorers.local.adapter import Adapter, find_adapter, merge
from qwen_rerank.scorers.local.compatibility import (
    check_modules,
    check_quantized,
    check_result,
)
from qwen_rerank.scorers.local.cpu_layer import can_run, float_network, int8_network
from qwen_rerank.scorers.local.decoder import Decoder, Network, module_network
from qwen_rerank.scorers.local.hardware import fastest_dtype
from qwen_rerank.scorers.local.images import EmbedWithImages, ImageReader, TokensWithImages
from qwen_rerank.scorers.local.norms import fuse_norms
from qwen_rerank.scorers.local.products import check_int8
from qwen_rerank.scorers.local.prompt import without_added_tokens
from qwen_rerank.scorers.local.source import (
    Hub,
    Source,
    check_kind,
    check_weights,
    load_errors,
    locate,
    unreadable,
    unsuitable,
)
from qwen_rerank.scorers.prompts import PREFIX, SUFFIX

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

__all__ = ["LoadedModel", "load", "yes_and_no"]

_CONTROL_TOKENS = {"<|im_start|>", "<|im_end|>"}
_THINK_TOKENS = {"<think>", "</think>"}
_IMAGE_TOKENS = {"<|vision_start|>", "<|vision_end|>"}
_IMAGES_REMEDY = "Download its preprocessor_config.json and config.json again, from the same model."
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer_config.json")


class LoadedModel(NamedTuple):
    """A loaded model.

    Attributes:
        tokenizer: Its tokenizer.
        decoder: What runs it.
        image_reader: Reads images for it; None if it reads only texts.
    """

    tokenizer: PreTrainedTokenizerBase
    decoder: Decoder
    image_reader: ImageReader | None


def load(
    model: str,
    *,
    revision: str | None,
    hub: Hub,
    device: torch.device,
    dtype: torch.dtype,
    progress: bool = False,
) -> LoadedModel:
    """Load a Qwen3 reranker, as published or converted to a sequence classifier with one label.

    Args:
        model: A folder, or an id on the hub, of a model or of a LoRA adapter.
        revision: The branch, tag or commit on the hub.
        hub: Where to look up an id.
        device: Where it will run.
        dtype: The dtype of its weights and of its products. With int8, the weights are also kept in
            the fastest other dtype, for the prefix that all prompts share.
        progress: Whether downloading and loading show progress bars.

    Raises:
        InvalidInputError: The model can't be found or read, or is not such a model.
        MissingDependencyError: A package that the model, its format or the hub needs is not
            installed, or the installed transformers has other modules than LocalScorer expects.
    """
    source = locate(model, revision, hub)
    with _progress_bars(shown=progress), load_errors(source):
        return _load(source, hub, device, dtype)


def _load(source: Source, hub: Hub, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    model = source.name
    adapter = find_adapter(source, hub)
    base = adapter.base if adapter else source
    with load_errors(base):
        config = AutoConfig.from_pretrained(
            base.location, revision=base.revision, trust_remote_code=False
        )
        check_kind(base)
        tokenizer = _tokenizer(source if source.has(*_TOKENIZER_FILES) else base)
        weights_dtype = fastest_dtype(device) if dtype == torch.int8 else dtype
        loaded = _load_weights(base, config, adapter, weights_dtype)
        _check_tokenizer(model, tokenizer, loaded)
        loaded = loaded.to(device).eval()
    if device.type == "cuda":
        fuse_norms(loaded)
    direction = _relevance_direction(model, loaded, tokenizer)
    if hasattr(loaded.model, "visual"):
        if dtype == torch.int8:
            raise unreadable(model, 'dtype="int8" is for models of texts', "Omit it.")
        return _with_images(loaded.model, direction, tokenizer, base)
    check_modules(loaded.model)
    if any(layer.self_attn.sliding_window is not None for layer in loaded.model.layers):
        raise unsuitable(model, "has layers with a sliding window")
    decoder = Decoder(loaded.model, direction, network=_network(loaded.model, device))
    check_result(loaded.model, decoder)
    if dtype == torch.int8:
        if not can_run(loaded.model):
            why, remedy = "its weights are quantized already", 'Omit dtype="int8" for it.'
            raise unreadable(model, why, remedy)
        decoder = _int8_decoder(loaded.model, direction, decoder.network)
    return LoadedModel(tokenizer, decoder, None)


def _with_images(
    model: Any, direction: torch.Tensor, tokenizer: PreTrainedTokenizerBase, source: Source
) -> LoadedModel:
    """A Qwen3-VL model: a decoder of texts, and an encoder of images."""
    try:
        import PIL.Image  # noqa: F401 (images are read later)
    except ImportError as error:
        raise MissingDependencyError(
            f"The model {source.name!r} needs the pillow package ({error}).",
            remedy='Install it: pip install "qwen-rerank[local]"',
        ) from error
    check_modules(model.language_model)
    texts = model.language_model
    with load_errors(source, _IMAGES_REMEDY):
        processor = AutoImageProcessor.from_pretrained(
            source.location, revision=source.revision, backend="pil", trust_remote_code=False
        )
        reader = ImageReader(processor)
        embed = EmbedWithImages(model.visual, reader)
        _read_sample(texts, embed, reader)
    decoder = Decoder(texts, direction, embed, _network(texts, direction.device))
    check_result(texts, decoder)
    return LoadedModel(tokenizer, decoder, reader)


def _read_sample(model: Any, embed: EmbedWithImages, reader: ImageReader) -> None:
    """Embed an image, so that settings that don't fit the model show when it is loaded."""
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    sample = reader.image(
        f"data:image/png;base64,{b64encode(file.getvalue()).decode()}", "a sample"
    )
    with torch.inference_mode():
        embed(model, [TokensWithImages(sample.tokens, [sample])], 0)


def _network(model: Any, device: torch.device) -> Network:
    """Layers of our own in bfloat16 on a CPU. In float32, transformers' modules are as fast."""
    if device.type == "cpu" and model.dtype == torch.bfloat16 and can_run(model):
        return float_network(model)
    return module_network(model)


def _int8_decoder(model: Qwen3Model, direction: torch.Tensor, plain: Network) -> Decoder:
    check_int8()
    # The prefix stays precise: every sequence depends on it, and it is short.
    decoder = Decoder(model, direction, network=int8_network(model), prefix_network=plain)
    check_quantized(model, decoder)
    return decoder


def _tokenizer(source: Source) -> PreTrainedTokenizerBase:
    if not source.has(*_TOKENIZER_FILES):
        raise unreadable(
            source.name,
            "it has no tokenizer",
            "Copy tokenizer.json and tokenizer_config.json of the model it was made from beside "
            "its weights.",
        )
    return AutoTokenizer.from_pretrained(
        source.location, revision=source.revision, trust_remote_code=False
    )


def _check_tokenizer(
    model: str, tokenizer: PreTrainedTokenizerBase, loaded: PreTrainedModel
) -> None:
    """Refuse a tokenizer of another model, which would make other tokens of the prompt.

    Raises:
        InvalidInputError: It is one, or the model has too few positions for the prompt.
    """
    reads_images = hasattr(loaded.model, "visual")
    known = tokenizer.get_vocab()
    expected = _CONTROL_TOKENS | (_IMAGE_TOKENS if reads_images else _THINK_TOKENS)
    if missing := expected - known.keys():
        raise _tokenizer_of_another_model(model, f"has no {_listed(missing)}")
    vocabulary = without_added_tokens(tokenizer).get_vocab()
    if not vocabulary:
        raise _tokenizer_of_another_model(model, "has no words")
    prompt: list[int] = tokenizer(PREFIX + SUFFIX, add_special_tokens=False)["input_ids"]
    rows, highest = loaded.get_input_embeddings().num_embeddings, max(*vocabulary.values(), *prompt)
    if highest >= rows:
        raise _tokenizer_of_another_model(
            model, f"has token ids up to {highest:,}, and the model {rows:,} embeddings"
        )
    positions = loaded.config.get_text_config().max_position_embeddings
    if positions <= len(prompt):
        raise unsuitable(
            model, f"has {positions} positions, and its prompt {len(prompt)} tokens without a text"
        )


def _tokenizer_of_another_model(model: str, why: str) -> InvalidInputError:
    return unreadable(
        model,
        f"its tokenizer is that of another model: it {why}",
        "Copy tokenizer.json and tokenizer_config.json of the model it was made from beside its "
        "weights.",
    )


def _load_weights(
    base: Source, config: PretrainedConfig, adapter: Adapter | None, dtype: torch.dtype
) -> PreTrainedModel:
    classifies = adapter is not None and adapter.classifies
    model_class = _model_class(base.name, config, classifies=classifies)
    location: str | None = base.location
    options: dict[str, Any] = {"num_labels": 1} if classifies else {}
    with load_errors(base, _quantization_remedy(config)):
        _check_headers(base, config)
        if adapter is not None and adapter.source == base:
            # From a folder, transformers would apply the adapter, and 4.56 would also load the
            # base that the adapter names instead of the one in the folder.
            config.update(options)
            location, options = None, {"config": config, "state_dict": _state_dict(base)}
        loaded, report = model_class.from_pretrained(
            location,
            revision=base.revision,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that the report names them
            **options,
        )
    _check_zeros(base, loaded)
    missing = set(report["missing_keys"]) - ({"score.weight"} if classifies else set())
    if missing:
        raise unsuitable(base.name, f"has no weights for {_listed(missing)}")
    _check_config_fits(base, report)
    check_weights(base)
    return loaded if adapter is None else merge(loaded, adapter)


def _check_headers(source: Source, config: PretrainedConfig) -> None:
    """Refuse weights that are not those of config.json, by what their files say at the beginning.

    A config.json of a larger model would first take the memory of that model.
    """
    if getattr(config, "quantization_config", None):
        return
    text = config.get_text_config()
    size = [text.vocab_size, text.hidden_size]
    for path in source.weight_files():
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is not a dict)
                header = weights.get_slice(name)
                if header.get_dtype().startswith(("I", "U")):
                    raise unreadable(
                        source.name,
                        f"{name} holds whole numbers, as in a quantized model, and its config.json "
                        "does not say how it is quantized",
                        "Download both again, from the same model.",
                    )
                if name.endswith("embed_tokens.weight") and header.get_shape() != size:
                    raise _unfit_config(source, [name])


def _unfit_config(source: Source, names: Collection[str]) -> InvalidInputError:
    return unreadable(
        source.name,
        f"its config.json does not fit its weights: {_listed(names)}",
        "Download both again, from the same model.",
    )


def _check_config_fits(source: Source, report: Mapping[str, Any]) -> None:
    """Refuse weights of another size, or of more layers, than config.json says."""
    sizes = {name for name, *_ in report["mismatched_keys"]}
    parts = (".layers.", ".visual.")
    layers = {name for name in report["unexpected_keys"] if any(part in name for part in parts)}
    if names := sizes or layers:
        raise _unfit_config(source, names)


def _check_zeros(source: Source, loaded: PreTrainedModel) -> None:
    """Refuse norms of zeros, which an interrupted download leaves and which give equal scores."""
    zeros = [
        name
        for name, weight in loaded.named_parameters()
        if name.endswith("norm.weight") and not weight.any()
    ]
    if zeros:
        raise unreadable(
            source.name,
            f"its weights hold only zeros in {_listed(zeros)}, as after an interrupted download",
            "Download them again.",
        )


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _model_class(model: str, config: PretrainedConfig, *, classifies: bool) -> Any:
    """The class to load it with. An adapter that classifies makes a classifier of its base."""
    architecture = next(iter(config.architectures or ()), "unknown")
    if architecture == "Qwen3ForCausalLM":
        return Qwen3ForSequenceClassification if classifies else Qwen3ForCausalLM
    if architecture == "Qwen3VLForConditionalGeneration" and not classifies:
        return AutoModelForImageTextToText
    if architecture != "Qwen3ForSequenceClassification":
        raise unsuitable(model, f"has the architecture {architecture}")
    if config.num_labels != 1:
        raise unsuitable(model, f"is a classifier with {config.num_labels} labels")
    return Qwen3ForSequenceClassification


def _state_dict(source: Source) -> dict[str, torch.Tensor]:
    return {
        name: weight for path in source.weight_files() for name, weight in load_file(path).items()
    }


def _quantization_remedy(config: PretrainedConfig) -> str | None:
    """What helps if a quantized model can't be loaded; None for one that is not quantized."""
    details: dict[str, Any] | None = getattr(config, "quantization_config", None)
    if not details:
        return None
    if "quant_method" not in details:
        return "Its weights are quantized for other software: choose those in bfloat16."
    return (
        f"Its weights are quantized with {details['quant_method']}: install the package for that, "
        "or choose the model with weights in bfloat16."
    )


def _relevance_direction(
    model: str, loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> torch.Tensor:
    """float32 (hidden size): the logit is its product with the last hidden state."""
    if hasattr(loaded, "score"):
        return loaded.score.weight.detach()[0].float()
    yes, no = yes_and_no(model, tokenizer)
    weights = loaded.lm_head.weight.detach()
    return weights[yes].float() - weights[no].float()


def yes_and_no(model: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the token ids of "yes" and "no": 9693 and 2152 in Qwen's vocabulary.

    Raises:
        InvalidInputError: One of the words is not a single token.
    """
    plain = without_added_tokens(tokenizer)
    ids = [plain.encode(word, add_special_tokens=False).ids for word in ("yes", "no")]
    if any(len(tokens) != 1 for tokens in ids):
        raise unsuitable(model, 'has a tokenizer in which "yes" or "no" is not a single token')
    return ids[0][0], ids[1][0]


@contextmanager
def _progress_bars(*, shown: bool) -> Iterator[None]:
    """Hide the progress bars of transformers and huggingface_hub, unless they shall be shown."""
    if shown or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
