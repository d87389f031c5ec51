"""LocalScorer refuses a transformers whose Qwen3 modules are others than it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from qwen_rerank import LocalScorer, MissingDependencyError
from tests.scorers.local import WHY_SKIPPED

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)

import transformers
from transformers.models.qwen3 import modeling_qwen3

from qwen_rerank.scorers.local.compatibility import check_modules, check_result
from qwen_rerank.scorers.local.decoder import Decoder
from tests.support import tiny_qwen

REMEDY = 'Install a version that works: pip install "transformers>='


@pytest.fixture
def model() -> Any:
    return tiny_qwen.random_model(modeling_qwen3.Qwen3Model)


def test_the_installed_transformers_is_compatible(model: Any) -> None:
    layers = list(model.layers)
    check_modules(model)
    check_result(model, Decoder(model, torch.zeros(64)))
    assert list(model.layers) == layers


def rename(owner: Any, name: str) -> None:
    module = getattr(owner, name)
    delattr(owner, name)
    setattr(owner, f"{name}_renamed", module)


def fuse_projections(attention: Any) -> None:
    attention.qkv_proj = torch.nn.Linear(64, 128)
    del attention.q_proj, attention.k_proj, attention.v_proj


def widen_keys(attention: Any) -> None:
    attention.k_proj = torch.nn.Linear(64, 64, bias=False)


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "a module of the model": (lambda model: rename(model, "rotary_emb"), "model has no rotary_emb"),
    "a norm of a layer": (
        lambda model: rename(model.layers[1], "post_attention_layernorm"),
        "layer 1 has no post_attention_layernorm",
    ),
    "fused projections": (
        lambda model: fuse_projections(model.layers[2].self_attn),
        "the attention of layer 2 has no q_proj, k_proj, v_proj",
    ),
    "another shape": (
        lambda model: widen_keys(model.layers[0].self_attn),
        "k_proj of layer 0 has the shape (64, 64) instead of (32, 64)",
    ),
}


@pytest.mark.parametrize(("change", "difference"), CHANGES.values(), ids=list(CHANGES))
def test_what_has_changed_is_named(
    model: Any, change: Callable[[Any], None], difference: str
) -> None:
    change(model)
    message = f"transformers {transformers.__version__}: .*{re.escape(difference)}.*{REMEDY}"
    with pytest.raises(MissingDependencyError, match=message):
        check_modules(model)


def test_a_model_that_computes_something_else_is_refused_when_it_is_loaded(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = modeling_qwen3.Qwen3DecoderLayer.forward

    def gated(self: Any, *args: Any, **options: Any) -> Any:
        return compute(self, *args, **options).sigmoid()

    monkeypatch.setattr(modeling_qwen3.Qwen3DecoderLayer, "forward", gated)
    with pytest.raises(MissingDependencyError, match=f"their result differs by .*{REMEDY}"):
        LocalScorer(folder, device="cpu", dtype="float32")
