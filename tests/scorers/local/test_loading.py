"""Which models LocalScorer loads, from where, and how it refuses others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import BadResponseError, InvalidInputError, LocalScorer, MissingDependencyError
from tests.scorers.local import WHY_SKIPPED

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)

import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3Model,
)

from qwen_rerank.scorers.local.hardware import choose_device, choose_dtype
from qwen_rerank.scorers.local.source import Source, check_kind
from tests.support import tiny_qwen

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def test_an_untied_head_is_used(tmp_path: Path) -> None:
    model = tiny_qwen.random_model(tie_word_embeddings=False)
    tied = tiny_qwen.save(tmp_path / "tied")
    untied = tiny_qwen.save(tmp_path / "untied", model)
    values = [LocalScorer(str(path)).score("q", ["a"]).values for path in (tied, untied)]
    assert values[0] != values[1]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("~nobody-is-called-so/model", r"home directory\. Pass a folder"),
        ("x" * 5_000, r"too long.*Pass a folder"),
        ("https://huggingface.co/Qwen/Qwen3-Reranker-0.6B", r"it is a URL\. Pass the model's id"),
    ],
    ids=["another's home", "too long", "a URL"],
)
def test_a_name_that_is_neither_a_folder_nor_an_id_is_refused(model: str, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        LocalScorer(model)


def test_a_folder_that_can_not_be_listed_is_named(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:  # root may list any folder
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InvalidInputError, match=r": Permission denied: .*that this process may"):
        LocalScorer(folder)


@pytest.mark.parametrize("model", ["./nope", "~/nope", "some/where/nope"])
def test_a_folder_that_does_not_exist_is_named(model: str) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no folder '/.*nope'.*Pass a folder"):
        LocalScorer(model)


def damage(content: bytes, name: str = "model.safetensors") -> Any:
    return lambda folder: (folder / name).write_bytes(content)


def remove(pattern: str) -> Any:
    return lambda folder: [path.unlink() for path in folder.glob(pattern)]


def rewrite_config(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def quantize(method: str) -> Any:
    details = {"quant_method": method, "bits": 4, "group_size": 128, "quant_config": {}}
    return rewrite_config(quantization_config=details)


def lose_a_shard(folder: Path) -> None:
    remove("model*")(folder)
    tiny_qwen.random_model().save_pretrained(folder, max_shard_size="200KB")
    sorted(folder.glob("model-*"))[-1].unlink()


def break_the_index(folder: Path) -> None:
    remove("model*")(folder)
    tiny_qwen.random_model().save_pretrained(folder, max_shard_size="200KB")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": 1}}')


def need_code(folder: Path) -> None:
    (folder / "code.py").write_text("raise AssertionError('this code must not run')")
    rewrite_config(model_type="other", auto_map={"AutoConfig": "code.Config"})(folder)


def rewrite_weights(name: str, value: Any) -> Any:
    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file(weights | {name: value}, folder / "model.safetensors", {"format": "pt"})

    return change


def rewrite_tokenizer(old: str, new: str) -> Any:
    def change(folder: Path) -> None:
        assert old in (folder / "tokenizer.json").read_text()
        for path in folder.glob("*token*.json"):  # older versions of transformers write several
            path.write_text(path.read_text().replace(old, new))

    return change


def store_code_in_weights(folder: Path) -> None:
    remove("model*")(folder)
    torch.save({"lm_head.weight": print}, folder / "pytorch_model.bin")


def convert_to_onnx(folder: Path) -> None:
    remove("model*")(folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()


def truncate_other_weights(folder: Path) -> None:
    remove("model*")(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(500))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
UNUSABLE: dict[str, tuple[Any, type[Exception], str]] = {
    "damaged weights": (
        damage(bytes(5_000)),
        InvalidInputError,
        r"model\.safetensors is missing, damaged or incomplete.*Download it again",
    ),
    "a damaged config": (
        damage(b"{", "config.json"),
        InvalidInputError,
        r"config\.json is missing, damaged or incomplete.*Download it again",
    ),
    "a pointer for weights": (
        damage(POINTER),
        InvalidInputError,
        r"model\.safetensors is a Git LFS pointer.*git lfs pull",
    ),
    "a pointer for a tokenizer": (
        damage(POINTER, "tokenizer.json"),
        InvalidInputError,
        r"tokenizer\.json is a Git LFS pointer.*git lfs pull",
    ),
    "a config that is not an object": (
        damage(b"null", "config.json"),
        InvalidInputError,
        r"config\.json is missing, damaged or incomplete.*Download it again",
    ),
    "a config of another type": (
        rewrite_config(architectures=3),
        InvalidInputError,
        r"Could not load the model.*Compare the folder with the model as its authors",
    ),
    "a config that names its reason below": (
        rewrite_config(vocab_size="many"),
        InvalidInputError,
        r"many|config\.json does not fit its weights",  # transformers 5 checks its type
    ),
    "a config with a few positions": (
        rewrite_config(max_position_embeddings=20),
        InvalidInputError,
        "has 20 positions, and its prompt 57 tokens without a text",
    ),
    "code": (need_code, InvalidInputError, r"needs code of its own.*does not run\. Choose"),
    "code in weights": (
        store_code_in_weights,
        InvalidInputError,
        # transformers 4 says less of them.
        r"could run code when they are read\. Choose weights in safetensors|missing, damaged",
    ),
    "a broken index": (
        break_the_index,
        InvalidInputError,
        r"index\.json is missing, damaged or incomplete.*Download it again",
    ),
    "whole numbers": (
        rewrite_weights("model.norm.weight", torch.ones(64, dtype=torch.int8)),
        InvalidInputError,
        r"model\.norm\.weight holds whole numbers.*does not say how it is quantized",
    ),
    "zeros": (
        rewrite_weights("model.norm.weight", torch.zeros(64)),
        InvalidInputError,
        r"only zeros in model\.norm\.weight, as after an interrupted download\. Download them",
    ),
    "a tokenizer without a control token": (
        rewrite_tokenizer("</think>", "</thought>"),
        InvalidInputError,
        r"tokenizer is that of another model: it has no </think>\. Copy tokenizer\.json",
    ),
    "a tokenizer with more words than the model": (
        rewrite_tokenizer('"!": 0,', '"!": 1024,'),
        InvalidInputError,
        "it has token ids up to 1,024, and the model 1,024 embeddings",
    ),
    "a sparse encoder": (
        damage(b'[{"type": "sentence_transformers.models.SpladePooling"}]', "modules.json"),
        InvalidInputError,
        "is an embedding model",
    ),
    "no config": (remove("config.json"), InvalidInputError, "the folder has no config.json"),
    "a lost shard": (
        lose_a_shard,
        InvalidInputError,
        r"/model-0.*safetensors is missing.*Download it again",
    ),
    "incomplete weights in torch's format": (
        truncate_other_weights,
        InvalidInputError,
        r"pytorch_model\.bin is missing, damaged or incomplete.*Download it again",
    ),
    "weights for ONNX": (
        convert_to_onnx,
        InvalidInputError,
        r"the folder has no weights in safetensors format.*does not read conversions to ONNX",
    ),
    "a config of another size": (
        rewrite_config(hidden_size=128),
        InvalidInputError,
        r"does not fit its weights: model\.embed_tokens\.weight\. Download both",
    ),
    "a config with fewer layers": (
        rewrite_config(num_hidden_layers=2, layer_types=["full_attention"] * 2),
        InvalidInputError,
        r"config\.json does not fit its weights: model\.layers\.2.* and \d+ more\. Download both",
    ),
    "an adapter's config that is not an object": (
        damage(b"[]", "adapter_config.json"),
        InvalidInputError,
        "Could not load the model",
    ),
    "no tokenizer": (
        remove("tokenizer*"),
        InvalidInputError,
        r"no tokenizer.*Copy tokenizer\.json",
    ),
    "AWQ": (quantize("awq"), MissingDependencyError, r"AWQ.*pip install.*weights in bfloat16"),
    "GPTQ": (quantize("gptq"), MissingDependencyError, r"GPTQ.*pip install.*weights in bfloat16"),
    "HQQ": (quantize("hqq"), MissingDependencyError, r"HQQ.*install.*weights in bfloat16"),
    "MLX": (
        rewrite_config(quantization_config={"bits": 4, "group_size": 64}),
        InvalidInputError,
        "quantized for other software: choose those in bfloat16",
    ),
}


@pytest.mark.parametrize(("change", "kind", "message"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_files_that_can_not_be_used_are_named_with_what_to_do(
    folder: str, tmp_path: Path, change: Any, kind: type[Exception], message: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    with pytest.raises(kind, match=message):
        LocalScorer(str(tmp_path))


def test_gguf_files_and_folders_and_ids_of_them_point_to_llama_cpp(tmp_path: Path) -> None:
    file = tmp_path / "Qwen3-Reranker-0.6B-Q8_0.gguf"
    file.write_bytes(b"GGUF")
    for model in (file, tmp_path, "Qwen/a-model-GGUF"):
        with pytest.raises(InvalidInputError, match=r"GGUF format.*llama-server.*ServerScorer"):
            LocalScorer(str(model))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "No space left on device"),
            r"No space left on device\. Free space on the disk",
        ),
        (RuntimeError("the download broke off"), r"the download broke off\. Pass a folder"),
    ],
)
def test_a_download_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """Of any file: it is not taken for one that the model does not have."""

    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", fail)
    with pytest.raises(InvalidInputError, match=message):
        LocalScorer("Qwen/a-model")


def test_a_file_is_not_a_folder(folder: str) -> None:
    with pytest.raises(InvalidInputError, match=r"it is a file\. Pass the folder that contains it"):
        LocalScorer(f"{folder}/model.safetensors")


def test_an_id_that_can_not_be_found_says_what_to_do() -> None:
    with pytest.raises(InvalidInputError, match=r"(?s)not/there.*hub=.modelscope."):
        LocalScorer("not/there")


def other_architecture() -> Any:
    small = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(**small, num_attention_heads=2, num_key_value_heads=1))


def sliding() -> Any:
    return tiny_qwen.random_model(use_sliding_window=True, sliding_window=8, max_window_layers=1)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (other_architecture, "has the architecture Qwen2ForCausalLM"),
        (
            lambda: tiny_qwen.random_model(Qwen3ForSequenceClassification, num_labels=2),
            "is a classifier with 2 labels",
        ),
        (sliding, "has layers with a sliding window"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, make: Any, why: str) -> None:
    folder = tiny_qwen.save(tmp_path, make())
    with pytest.raises(InvalidInputError, match=f"{why}.*Choose a Qwen3-Reranker"):
        LocalScorer(str(folder))


@pytest.fixture
def embedding(folder: str, tmp_path: Path) -> Path:
    """A folder like that of Qwen3-Embedding: saved by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    pooling = Pooling(64, pooling_mode="lasttoken")
    SentenceTransformer(modules=[Transformer(folder), pooling, Normalize()]).save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["Qwen3ForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_an_embedding_model_is_refused(embedding: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"is an embedding model.*Choose a Qwen3-Reranker"):
        LocalScorer(str(embedding))


def test_an_embedding_model_on_the_hub_is_refused_before_its_weights_are_loaded(
    embedding: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, commit = tmp_path_factory.mktemp("cache"), "0" * 40
    repository = cache / "models--Qwen--an-embedding"
    without_weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(embedding, repository / "snapshots" / commit, ignore=without_weights)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(cache), raising=False)
    with pytest.raises(InvalidInputError, match="'Qwen/an-embedding' is an embedding model"):
        LocalScorer("Qwen/an-embedding")


def test_a_reranker_saved_by_sentence_transformers_is_accepted(folder: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    CrossEncoder(folder).save_pretrained(str(tmp_path))
    assert "LogitScore" in (tmp_path / "modules.json").read_text()
    values = [LocalScorer(path).score("q", ["a"]).values for path in (folder, str(tmp_path))]
    assert values[0] == values[1]


def test_an_embedding_model_without_its_pooling_folder_is_refused(
    embedding: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By modules.json, or without that by the names of the weights of a model without a head."""
    shutil.rmtree(embedding / "1_Pooling")
    with pytest.raises(InvalidInputError, match="is an embedding model"):
        LocalScorer(str(embedding))
    bare = tiny_qwen.save(tmp_path_factory.mktemp("bare"), tiny_qwen.random_model(Qwen3Model))
    shutil.copy(embedding / "config.json", bare)
    index, weights = bare / "model.safetensors.index.json", bare / "model.safetensors"
    index.write_text('{"weight_map": {"a": "gone"}}')  # stale
    with pytest.raises(InvalidInputError, match="the weights of a decoder without a head"):
        LocalScorer(str(bare))
    index.unlink()
    torch.save(load_file(weights), bare / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(InvalidInputError, match="the weights of a decoder without a head"):
        LocalScorer(str(bare))


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B-Base", "Qwen/Qwen3-4B-FP8"])
def test_chat_and_base_models_are_refused_by_their_ids(model: str) -> None:
    source = Source(model, str(Path(__file__).parent), None)
    with pytest.raises(InvalidInputError, match=r"embedding, chat or base model.*Qwen3-Reranker"):
        check_kind(source)


def test_a_model_with_settings_for_chat_is_loaded_with_a_warning(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    LocalScorer(str(tmp_path)).close()
    assert "like a chat model" in caplog.text
    assert "check()" in caplog.text


def test_a_model_that_ranks_at_random_fails_its_check(shared: LocalScorer) -> None:
    with pytest.raises(BadResponseError, match=r"LocalScorer.*not a reranker"):
        shared.check()


def test_by_default_the_length_is_bound_by_the_positions_of_the_model(
    folder: str, tmp_path: Path
) -> None:
    small = tiny_qwen.save(tmp_path, tiny_qwen.random_model(max_position_embeddings=4_096))
    lengths = []
    for path in (str(small), folder):
        with LocalScorer(path) as scorer:
            assert scorer._loaded is not None
            lengths.append(scorer._loaded.prompt.max_length)
    assert lengths == [4_096, 8_192]


@pytest.mark.parametrize("progress", [True, False])
def test_loading_shows_progress_only_if_asked(
    folder: str, progress: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    LocalScorer(folder, progress=progress).close()
    shown = "%" in capfd.readouterr().err
    assert shown is (progress and transformers.__version__ >= "5")  # 4 has none for a single file


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    tiny_qwen.save(tmp_path, tiny_qwen.random_model(Qwen3Model))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "relevant"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match=r"has no weights for score\.weight"):
        LocalScorer(str(tmp_path))


def test_a_tokenizer_in_which_yes_is_several_tokens_is_refused(tmp_path: Path) -> None:
    tiny_qwen.random_model(Qwen3ForCausalLM).save_pretrained(tmp_path)
    tiny_qwen.tokenizer(["nothing of the kind"]).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match='"yes" or "no" is not a single token'):
        LocalScorer(str(tmp_path))


def test_float16_on_a_cpu_is_refused_with_the_reason(folder: str) -> None:
    with pytest.raises(InvalidInputError, match="10 times slower"):
        LocalScorer(folder, device="cpu", dtype="float16")


def test_scores_that_are_not_numbers_are_an_error(folder: str, tmp_path: Path) -> None:
    model: Any = Qwen3ForCausalLM.from_pretrained(folder)
    model.model.layers[2].mlp.down_proj.weight.data[3, 3] = float("nan")
    scorer = LocalScorer(str(tiny_qwen.save(tmp_path, model)), device="cpu")
    with pytest.raises(BadResponseError, match=r'2 of 2 scores that are not numbers.*"float32"'):
        scorer.score("q", ["a", "b"])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (…"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"
        ),
    ],
    ids=["cuda", "mps", "cpu"],
)
def test_a_model_that_the_device_has_no_room_for_is_named(
    folder: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(transformers.PreTrainedModel, "to", fail)
    with pytest.raises(InvalidInputError, match=r"not have enough memory for the model.*smaller"):
        LocalScorer(folder, device="cpu")


def test_a_device_that_is_not_a_name_is_refused(folder: str) -> None:
    for device in (0, CPU, ["cpu", 1]):
        with pytest.raises(InvalidInputError, match=r"device must be a name such as \"cuda:0\""):
            LocalScorer(folder, device=device)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["dtype", "device", "hub"])
def test_an_unknown_choice_is_refused_by_name(folder: str, option: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{option}.*nonsense"):
        LocalScorer(folder, **{option: "nonsense"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_tokens", 0), ("max_length", 20), ("max_length", 20_000), ("revision", 3)],
)
def test_a_number_out_of_range_is_refused_by_name(folder: str, option: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{option} must be"):
        LocalScorer(folder, **{option: value})


@pytest.mark.parametrize("model", ["", None])
def test_a_model_must_be_a_name(model: Any) -> None:
    with pytest.raises(InvalidInputError, match="model"):
        LocalScorer(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"device='cuda' can't be used here.*Omit it"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("device", "why"), [("hpu", "torch.hpu'"), ("meta", "it computes nothing")]
)
def test_a_device_that_can_not_compute_is_refused(device: str, why: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"can't be used here: .*{why}\. Omit it"):
        choose_device(device)


def test_by_default_the_fastest_device_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device(None).type == expected


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_computes_in_bfloat16_if_its_hardware_does(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("native", [True, False])
def test_cuda_computes_in_bfloat16_if_its_hardware_does_or_in_float16(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert choose_dtype("auto", CUDA) == (torch.bfloat16 if native else torch.float16)
    assert choose_dtype("float16", CUDA) == torch.float16


def test_a_missing_modelscope_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingDependencyError, match="pip install modelscope"):
        LocalScorer(hub="modelscope")


def test_modelscope_downloads_the_revision(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package would ask its hub; this one has the function with the same arguments."""
    (tmp_path / "modelscope.py").write_text(
        "asked = []\n"
        "def snapshot_download(model_id, revision=None):\n"
        "    asked.append((model_id, revision))\n"
        f"    return {folder!r}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with LocalScorer("Qwen/a-model", hub="modelscope", revision="v1") as scorer:
        assert scorer.model == "Qwen/a-model"
        assert scorer.score("q", ["a"]).values
    import modelscope

    def refuse(model_id: str, revision: str | None = None) -> str:
        raise RuntimeError("The request model: Qwen/a-model does not exist!")

    monkeypatch.setattr(modelscope, "snapshot_download", refuse)
    with pytest.raises(InvalidInputError, match=r"ModelScope did not provide it .*does not exist"):
        LocalScorer("Qwen/a-model", hub="modelscope")
    assert modelscope.asked == [("Qwen/a-model", "v1")]


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_names_the_extra_to_install(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from qwen_rerank import LocalScorer\n"
        "try: LocalScorer()\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("MissingDependencyError")
    assert 'pip install "qwen-rerank[local]"' in run.stdout


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, qwen_rerank; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "set()\n"
