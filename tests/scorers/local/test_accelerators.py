"""What an accelerator runs, as far as a CPU can: with the same results as the plain way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from qwen_rerank import LocalScorer
from tests.scorers.local import WHY_SKIPPED
from tests.scorers.local.conftest import During

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)

from torch.nn.functional import scaled_dot_product_attention

from qwen_rerank.scorers.local import decoder
from qwen_rerank.scorers.local.attention import (
    PackedAttention,
    PaddedAttention,
    PerSequenceAttention,
    attention_on,
    can_attend_packed,
)
from qwen_rerank.scorers.local.norms import fuse_norms
from tests.support import tiny_qwen

CPU = torch.device("cpu")
QUERY = "how much krill"
TEXTS = ["penguins eat krill", "markets fell", "企鹅吃磷虾", "penguins lay eggs " * 30]


def plain_varlen_attn(
    q: Any,
    k: Any,
    v: Any,
    starts: Any,
    key_starts: Any,
    longest: int,
    longest_keys: int,
    **options: Any,
) -> Any:
    """torch's function in plain torch: causal, where the last query sees the last key."""
    assert options == {"window_size": (-1, 0), "enable_gqa": True}
    assert starts.dtype == key_starts.dtype == torch.int32
    assert max(starts.diff()) == longest
    assert max(key_starts.diff()) == longest_keys
    parts = []
    spans = zip(pairwise(starts.tolist()), pairwise(key_starts.tolist()), strict=True)
    for (first, last), (first_key, last_key) in spans:
        queries, keys = last - first, last_key - first_key
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        heads = (q[first:last], k[first_key:last_key], v[first_key:last_key])
        attended = scaled_dot_product_attention(
            *(part.transpose(0, 1) for part in heads), attn_mask=mask, enable_gqa=True
        )
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def varlen() -> Any:
    """torch's module, which takes seconds to import."""
    return pytest.importorskip("torch.nn.attention.varlen", reason="this torch is too old")


@pytest.fixture(autouse=True)
def forget_devices() -> Iterator[None]:
    can_attend_packed.cache_clear()
    yield
    can_attend_packed.cache_clear()


def test_packed_attention_has_the_same_scores(
    shared: LocalScorer, varlen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shared.score(QUERY, TEXTS).values
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen_attn)
    monkeypatch.setattr(decoder, "make_attention", PackedAttention)
    assert shared.score(QUERY.upper(), TEXTS).values != pytest.approx(expected, abs=1e-6)
    assert shared.score(QUERY, TEXTS).values == pytest.approx(expected, abs=1e-6)


def test_packed_attention_is_used_where_it_works(
    varlen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen_attn)
    assert can_attend_packed(CPU, torch.float32)
    assert can_attend_packed(CPU, torch.bfloat16)


def with_other_values(q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
    return plain_varlen_attn(q, k, v.flip(0), *args, **options)


@pytest.mark.parametrize("other", [None, with_other_values], ids=["missing", "wrong"])
def test_packed_attention_is_not_used_where_it_is_missing_or_wrong(
    varlen: Any, monkeypatch: pytest.MonkeyPatch, other: Any
) -> None:
    if other is not None:
        monkeypatch.setattr(varlen, "varlen_attn", other)
    assert not can_attend_packed(CPU, torch.float32)  # torch's own has no kernel for a CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_devices_without_packed_attention_pad() -> None:
    assert attention_on(torch.device("cuda"), torch.bfloat16) is PaddedAttention
    assert attention_on(CPU, torch.bfloat16) is PerSequenceAttention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_norms_compute_the_same(dtype: Any) -> None:
    model: Any = tiny_qwen.random_model().to(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
        tokens = torch.arange(1, 60)[None]
        expected = model.model(tokens).last_hidden_state
        fuse_norms(model)
        fused = model.model(tokens).last_hidden_state
    assert sum(isinstance(module, torch.nn.RMSNorm) for module in model.modules()) == 3 * 4 + 1
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert ((fused - expected).norm() / expected.norm()).item() < tolerance


def test_a_prefix_is_computed_once_for_calls_with_the_same_query(
    scorer: LocalScorer, during: During
) -> None:
    passes: list[int] = []
    with during(scorer, passes.append):
        first = scorer.score(QUERY, TEXTS[:2])
        assert len(passes) == 1 + 2
        assert scorer.score(QUERY, TEXTS[:2]).values == first.values
        assert len(passes) == 1 + 2 + 2
        scorer.score("another query", TEXTS[:2])
        assert len(passes) == 1 + 2 + 2 + 3
