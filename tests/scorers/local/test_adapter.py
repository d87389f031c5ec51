"""LoRA adapters in PEFT's format are merged into their base."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
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


def train(
    model: Any, folder: Path, task: str, targets: Sequence[str] = ("q_proj", "down_proj")
) -> list[float]:
    """Save an adapter of the model as PEFT does, and return the scores that it should have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = peft.LoraConfig(
            r=4, target_modules=targets, init_lora_weights=False, task_type=task
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
    reconfigure(adapter, base_model_name_or_path=str(base))


def reconfigure(adapter: Path, **changes: Any) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | changes))


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


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning")
def test_an_adapter_of_the_head_does_not_change_the_embeddings_that_share_its_weights(
    base: Path, tmp_path: Path, target: str
) -> None:
    """Nor the other way round: it equals the model whose weights were never shared."""
    tied = Qwen3ForCausalLM.from_pretrained(base)
    train(tied, tmp_path / "adapter", "CAUSAL_LM", [target])
    weights = Qwen3ForCausalLM.from_pretrained(base)
    untied = tiny_qwen.random_model(tie_word_embeddings=False)
    untied.load_state_dict(weights.state_dict())
    tiny_qwen.save(tmp_path / "untied", untied)
    rename_base(tmp_path / "adapter", base)
    expected = peft.PeftModel.from_pretrained(untied, tmp_path / "adapter").merge_and_unload()
    expected_scores = scores(tiny_qwen.save(tmp_path / "expected", expected))
    assert scores(tmp_path / "adapter") == pytest.approx(expected_scores, abs=1e-6)


@pytest.mark.parametrize("name", ["/gone", "Qwen/Qwen3-Rerankr-0.6B", ""])
def test_an_adapter_whose_base_is_gone_says_what_to_change(adapter: Path, name: str) -> None:
    rename_base(adapter, name)
    with pytest.raises(InvalidInputError, match=rf"base model of .*{name}.*adapter_config.json"):
        scores(adapter)


def test_an_adapter_for_something_else_is_refused(adapter: Path) -> None:
    reconfigure(adapter, task_type="FEATURE_EXTRACTION")
    with pytest.raises(InvalidInputError, match="is an adapter for the task 'FEATURE_EXTRACTION'"):
        scores(adapter)


def test_an_adapter_of_a_model_with_more_layers_is_refused(base: Path, tmp_path: Path) -> None:
    deeper = tiny_qwen.random_model(num_hidden_layers=4)
    train(deeper, tmp_path / "adapter", "CAUSAL_LM")
    rename_base(tmp_path / "adapter", base)
    with pytest.raises(InvalidInputError, match=r"no weights for .*layers\.3\..*trained on this"):
        scores(tmp_path / "adapter")


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
