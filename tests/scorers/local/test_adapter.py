"""LoRA adapters in PEFT's format are merged into their base."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, LocalScorer, MissingDependencyError
from tests.scorers.local import WHY_SKIPPED

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)
peft = pytest.importorskip("peft", reason="needs peft")

from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

from tests.support import tiny_qwen

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUERY, TEXTS = "how much krill", ["penguins eat krill", "markets fell on monday"]


def scores(folder: Path | str) -> list[float]:
    with LocalScorer(str(folder), device="cpu", dtype="float32") as scorer:
        return scorer.score(QUERY, TEXTS).values


def train(model: Any, folder: Path, task: str) -> list[float]:
    """Save an adapter of the model as PEFT does, and return the scores that it should have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = peft.LoraConfig(
            r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type=task
        )
        adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(folder)
    merged = tiny_qwen.save(folder.with_name("merged"), adapted.merge_and_unload())
    return scores(merged)


@pytest.fixture
def base(folder: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    train(Qwen3ForCausalLM.from_pretrained(base), tmp_path / "adapter", "CAUSAL_LM")
    return tmp_path / "adapter"


def rename_base(adapter: Path, base: Path | str) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapter_is_merged_into_the_base_that_it_names_or_that_is_beside_it(
    base: Path, adapter: Path
) -> None:
    expected = scores(adapter.with_name("merged"))
    assert expected != scores(base)
    assert scores(adapter) == expected
    rename_base(adapter, "/gone")
    shutil.copytree(adapter, base, dirs_exist_ok=True)
    assert scores(base) == expected


def test_an_adapter_that_classifies_brings_its_head(base: Path, tmp_path: Path) -> None:
    model = Qwen3ForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0)
    expected = train(model, tmp_path / "adapter", "SEQ_CLS")
    assert scores(tmp_path / "adapter") == expected


def test_an_adapter_whose_base_is_gone_says_what_to_change(adapter: Path) -> None:
    rename_base(adapter, "/gone")
    with pytest.raises(InvalidInputError, match=r"base model of .*/gone.*adapter_config.json"):
        scores(adapter)


def test_an_adapter_without_weights_or_with_those_of_another_model_is_refused(
    adapter: Path,
) -> None:
    weights = adapter / "adapter_model.safetensors"
    changed = {name.replace("layers", "h"): value for name, value in load_file(weights).items()}
    save_file(changed, weights)
    with pytest.raises(InvalidInputError, match=r"missing adapter keys.*trained on this base"):
        scores(adapter)
    weights.unlink()
    with pytest.raises(InvalidInputError, match=r"no adapter_model\.safetensors"):
        scores(adapter)


def test_a_missing_peft_is_named(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"LoRA adapter.*pip install peft"):
        scores(adapter)
