"""LocalScorer in int8 keeps the order, also with outliers like those of trained models."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, LocalScorer, MissingDependencyError
from tests.scorers.local import WHY_SKIPPED

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)

from qwen_rerank.scorers.local import cpu_layer, loading, products
from qwen_rerank.scorers.local.hardware import choose_dtype
from tests.support import tiny_qwen

CAPABILITIES = getattr(torch.cpu, "get_capabilities", dict)()
needs_int8 = pytest.mark.skipif(
    not (CAPABILITIES.get("avx512_vnni") or CAPABILITIES.get("amx_int8")),
    reason="needs a CPU with AVX512-VNNI or AMX",
)

QUERY = "how much krill does a penguin eat"
WORDS = ["penguins", "eat", "krill", "markets", "fell", "on", "monday", "企鹅", "周一", "1,5"]
CHANCE = random.Random(0)
TEXTS = [" ".join(CHANCE.choices(WORDS, k=CHANCE.randint(10, 60))) for _ in range(60)]


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with large values in a few channels."""
    model: Any = tiny_qwen.random_model(
        hidden_size=512, intermediate_size=1_024, num_hidden_layers=4, initializer_range=0.06
    )
    tiny_qwen.plant_outliers(model, [3, 77, 200, 401], [5, 100, 300, 411, 800])
    return str(tiny_qwen.save(tmp_path_factory.mktemp("outliers"), model))


def scores(folder: str, dtype: Any) -> list[float]:
    with LocalScorer(folder, device="cpu", dtype=dtype) as scorer:
        return scorer.score(QUERY, TEXTS).tie_breakers or []


def kendall(left: list[float], right: list[float]) -> float:
    signs = [
        (left[a] < left[b]) == (right[a] < right[b]) for a, b in combinations(range(len(left)), 2)
    ]
    return 2 * sum(signs) / len(signs) - 1


@needs_int8
def test_int8_keeps_the_order_despite_outliers_because_it_rotates(
    outliers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scores(outliers, "float32")
    assert kendall(scores(outliers, "int8"), expected) >= 0.85
    monkeypatch.setattr(cpu_layer, "rotation", torch.eye)
    with pytest.raises(InvalidInputError, match=r"loses too much.*Omit dtype=\"int8\""):
        scores(outliers, "int8")
    monkeypatch.setattr(loading, "check_quantized", lambda *_: None)
    assert kendall(scores(outliers, "int8"), expected) < 0.8


@needs_int8
def test_int8_scores_are_close_to_those_of_float32(folder: str, shared: LocalScorer) -> None:
    expected = shared.score(QUERY, TEXTS).values
    with LocalScorer(folder, device="cpu", dtype="int8") as scorer:
        assert scorer.score(QUERY, TEXTS).values == pytest.approx(expected, abs=0.06)


@needs_int8
def test_a_torch_whose_int8_products_are_others_is_refused_when_the_model_is_loaded(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_ZERO", 100)
    with pytest.raises(MissingDependencyError, match=r"result differs.*Omit dtype=\"int8\""):
        LocalScorer(folder, device="cpu", dtype="int8")


@pytest.mark.parametrize(
    ("device", "message"),
    [("cpu", r"needs a CPU with AVX512-VNNI or AMX.*llama\.cpp"), ("cuda", "is for CPUs")],
)
def test_int8_without_the_hardware_says_what_else_to_use(
    device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    with pytest.raises(InvalidInputError, match=message):
        choose_dtype("int8", torch.device(device))


def test_quantized_weights_are_not_quantized_again(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = {"avx512_vnni": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(cpu_layer, "Linear", type("OfAnotherPackage", (), {}))
    with pytest.raises(InvalidInputError, match="quantized already"):
        LocalScorer(folder, device="cpu", dtype="int8")
    with LocalScorer(folder, device="cpu", dtype="float32") as scorer:
        assert len(scorer.score(QUERY, TEXTS[:2]).values) == 2


def test_a_rotation_is_orthogonal_and_spreads_a_single_channel() -> None:
    for size in (64, 80, 1):
        matrix = cpu_layer.rotation(size)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), atol=1e-5, rtol=0)
    assert cpu_layer.rotation(80).abs().max() < 0.3
