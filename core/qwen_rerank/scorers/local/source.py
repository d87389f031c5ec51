"""Where a model is, and what its files say about it before and after its weights are loaded."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOENT, ENOSPC, ENOTDIR
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from qwen_rerank.errors import InvalidInputError, MissingDependencyError, QwenRerankError
from qwen_rerank.scorers.local.hardware import is_out_of_memory
from qwen_rerank.validation import check_choice

__all__ = [
    "Hub",
    "Source",
    "check_kind",
    "check_weights",
    "load_errors",
    "locate",
    "unreadable",
    "unsuitable",
]

Hub: TypeAlias = Literal["huggingface", "modelscope"]

_log = logging.getLogger(__name__)

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_CHECKED_FILES = (".safetensors", ".bin", ".json", ".txt")
_WEIGHTS = re.compile(r".*\.safetensors|pytorch_model.*\.bin")
_USUAL_REMEDY = (
    "Pass a folder that contains the model, or its id on a hub that can be reached "
    '(hub="modelscope" loads it from ModelScope).'
)
_FOLDER_REMEDY = "Compare the folder with the model as its authors published it."
_EMBEDDING_MODULE = re.compile(r"sparse_encoder|multi_vector|\.(\w*Pooling|Normalize|Dense)$")
"""In sentence-transformers' names of modules, and in none that it saves for a reranker."""

_NOT_RERANKERS = re.compile(r"Qwen/Qwen3-(Embedding-.*|[\d.]+B(-.*)?)")
"""The published models that have Qwen3-Reranker's architecture and do something else."""


class Source(NamedTuple):
    """Where to load a model from.

    Attributes:
        name: What the user passed, for errors.
        location: A folder, or an id on the Hugging Face hub.
        revision: The branch, tag or commit on the hub.
    """

    name: str
    location: str
    revision: str | None

    def file(self, name: str) -> Path | None:
        """The path of a file; None if there is none, or if the hub can't be reached.

        Raises:
            OSError: It may not be read, or the disk has no room for it.
        """
        try:
            found = cached_file(self.location, name, revision=self.revision)
        except (OSError, ValueError) as error:  # ValueError: an id that no hub has
            # Those of the system have a number, and transformers' own have none.
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and cause.errno not in (None, ENOENT, ENOTDIR):
                raise
            return None
        return found and Path(found)

    def has(self, *names: str) -> bool:
        """Whether it has any of these files."""
        return any(self.file(name) for name in names)

    def json(self, name: str) -> Any:
        """The content of a JSON file; None if there is none.

        Raises:
            InvalidInputError: It is damaged.
        """
        path = self.file(name)
        try:
            return path and _read_json(path)
        except (ValueError, RecursionError) as error:
            raise _damaged(self, path, error) from error

    def weight_files(self) -> list[Path]:
        """Its safetensors files; none if its weights are in another format.

        Raises:
            InvalidInputError: The index of its weights is damaged.
        """
        if path := self.file("model.safetensors"):
            return [path]
        index = self.json("model.safetensors.index.json")
        names = set(index["weight_map"].values()) if index else ()
        return [path for name in sorted(names) if (path := self.file(name))]

    def folder(self) -> Path | None:
        """The folder of its files, which for an id is in the hub's cache."""
        if Path(self.location).is_dir():
            return Path(self.location)
        config = self.file("config.json")
        return config and config.parent


def locate(model: str, revision: str | None, hub: Hub) -> Source:
    """Find a model.

    Raises:
        InvalidInputError: The path does not exist or is a file, or the folder has no model that
            LocalScorer can read.
        MissingDependencyError: hub="modelscope" and the modelscope package is not installed.
    """
    check_choice("hub", hub, get_args(Hub))
    if model.lower().endswith(".gguf"):
        raise _gguf(model)
    if "://" in model:
        raise unreadable(model, "it is a URL", "Pass the model's id on the hub, or a folder.")
    try:
        path = Path(model).expanduser()
        if path.is_file():
            raise unreadable(model, "it is a file", "Pass the folder that contains it.")
        if path.is_dir():
            _check_files(model, path)
            return Source(model, str(path), revision)
    except (OSError, RuntimeError) as error:  # RuntimeError: a home that is not there
        raise unreadable(
            model, _reason(error), "Pass a folder that this process may read, or an id on a hub."
        ) from error
    if _is_path(model):
        why = f"there is no folder {str(path.absolute())!r}"
        raise unreadable(model, why, "Pass a folder that contains the model, or its id on a hub.")
    if model.lower().endswith("-gguf"):
        raise _gguf(model)
    if hub == "modelscope":
        return Source(model, _from_modelscope(model, revision), None)
    return Source(model, model, revision)


def check_kind(source: Source) -> None:
    """Refuse models that have Qwen3-Reranker's architecture and, by their files, are others.

    Raises:
        InvalidInputError: It is an embedding model, or a published chat or base model.
    """
    modules = source.json("modules.json") or []
    settings = source.json("config_sentence_transformers.json") or {}
    if (
        any(_EMBEDDING_MODULE.search(str(module.get("type"))) for module in modules)
        or settings.get("similarity_fn_name")
        or settings.get("model_type", "CrossEncoder") != "CrossEncoder"
        or source.has("1_Pooling/config.json")
    ):
        raise unsuitable(
            source.name, "is an embedding model, by the files of sentence-transformers beside it"
        )
    if _NOT_RERANKERS.fullmatch(source.name):
        raise unsuitable(source.name, "is an embedding, chat or base model")
    if (source.json("generation_config.json") or {}).get("do_sample"):
        _log.warning(
            "The model %r has settings for writing texts, like a chat model. Unless it was "
            "trained to rerank, its scores mean nothing: call check() to find out.",
            source.name,
        )


def check_weights(source: Source) -> None:
    """Refuse the weights of a decoder without its head, such as those of Qwen3-Embedding.

    transformers loads them into a model whose head is tied to the embeddings without a word.

    Raises:
        InvalidInputError: They are.
    """
    names = list(_weight_names(source))
    if names and not any(name.startswith(("model.", "score.")) for name in names):
        raise unsuitable(
            source.name,
            "has the weights of a decoder without a head, like an embedding model",
        )


@contextmanager
def load_errors(source: Source, remedy: str | None = None) -> Iterator[None]:
    """Convert what transformers and its helpers raise while they load a model.

    Args:
        source: The model.
        remedy: What to do if its files are not damaged; None for what usually helps.
    """
    try:
        yield
    except QwenRerankError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"The model {source.name!r} needs a package that is not installed: {_reason(error)}.",
            remedy=remedy or "Install it.",
        ) from error
    except Exception as error:  # tokenizers raises nothing more specific
        if is_out_of_memory(error):
            raise InvalidInputError(
                f"The device does not have enough memory for the model {source.name!r}.",
                remedy="Choose a smaller model, or a device with more memory.",
            ) from error
        if "trust_remote_code" in str(error):
            raise unsuitable(
                source.name, "needs code of its own, which LocalScorer does not run"
            ) from error
        if isinstance(error, pickle.UnpicklingError):
            raise unreadable(
                source.name,
                "its weights are damaged, or could run code when they are read",
                "Choose weights in safetensors format.",
            ) from error
        if damaged := _damaged_file(source):
            raise _damaged(source, damaged, error) from error
        raise unreadable(
            source.name, _reason(error), remedy or _usual_remedy(source, error)
        ) from error


def _usual_remedy(source: Source, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return "Free space on the disk, or let HF_HOME name a folder on another one."
    return _FOLDER_REMEDY if Path(source.location).is_dir() else _USUAL_REMEDY


def unreadable(model: str, why: str, remedy: str) -> InvalidInputError:
    """The error for a model that can't be loaded."""
    return InvalidInputError(f"Could not load the model {model!r}: {why}.", remedy=remedy)


def unsuitable(model: str, why: str) -> InvalidInputError:
    """The error for a model that can be read and does not rerank."""
    return InvalidInputError(
        f"The model {model!r} {why}.",
        remedy="Choose a Qwen3-Reranker, or one converted to a sequence classifier with one label.",
    )


def _damaged(source: Source, path: object, error: Exception) -> InvalidInputError:
    return unreadable(
        source.name,
        f"{path} is missing, damaged or incomplete ({_reason(error)})",
        "Download it again.",
    )


_UNCLEAR_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError)


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    lines = re.sub(r"^\[Errno \d+\] ", "", str(error).strip()).splitlines()
    says_more = bool(lines) and lines[0].rstrip().endswith(":")
    text = " ".join(map(str.strip, lines if says_more else lines[:1]))
    if not text or isinstance(error, _UNCLEAR_ERRORS):
        text = f"{type(error).__name__} {text}"
    return shorten(text, 400, placeholder=" …").rstrip(". :")


def _is_path(model: str) -> bool:
    return model.startswith((".", "~", "/")) or "\\" in model or model.count("/") > 1


def _check_files(model: str, folder: Path) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    for path in files:
        if path.suffix in _CHECKED_FILES and _is_lfs_pointer(path):
            raise unreadable(
                model,
                f"{path.name} is a Git LFS pointer, which stands for a file that was not "
                "downloaded",
                "Run git lfs pull in the folder.",
            )
    names = {path.name for path in files}
    is_complete = "config.json" in names and any(map(_WEIGHTS.fullmatch, names))
    if is_complete or "adapter_config.json" in names:
        return
    if any(name.lower().endswith(".gguf") for name in names):
        raise _gguf(model)
    missing = "weights in safetensors format" if "config.json" in names else "config.json"
    raise unreadable(
        model,
        f"the folder has no {missing}",
        "Pass a folder that contains the model as it was published; LocalScorer does not read "
        "conversions to ONNX or OpenVINO.",
    )


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _gguf(model: str) -> InvalidInputError:
    return InvalidInputError(
        f"The model {model!r} is in llama.cpp's GGUF format, which LocalScorer can't read.",
        remedy="Serve it with llama-server and use ServerScorer, or pass a folder with the "
        "original weights in safetensors format.",
    )


def _from_modelscope(model: str, revision: str | None) -> str:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f'hub="modelscope" needs the modelscope package ({error}).',
            remedy="Install it: pip install modelscope",
        ) from error
    try:
        folder: str = snapshot_download(model, revision=revision)
    except Exception as error:  # its own errors, and those of the HTTP client
        raise unreadable(
            model,
            f"ModelScope did not provide it ({_reason(error)})",
            "Check its id and revision on ModelScope, and the connection.",
        ) from error
    return folder


def _weight_names(source: Source) -> Iterator[str]:
    files = source.weight_files()
    for path in files:
        with safe_open(path, framework="pt") as weights:
            yield from weights.keys()
    if not files and (pickled := source.file("pytorch_model.bin")):
        yield from torch.load(pickled, map_location="meta", weights_only=True)


def _read_json(path: Path) -> Any:
    """Read a JSON file of a model.

    Raises:
        ValueError: It does not hold what such a file holds.
    """
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    objects = content if path.name == "modules.json" else [content]
    if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
        raise ValueError(f"it holds {_short(content)}")
    if path.name.endswith(".index.json"):
        shards = content.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(x, str) for x in shards.values()):
            raise ValueError("it does not say which file has which weights")
    return content


def _short(content: Any) -> str:
    return shorten(repr(content), 60, placeholder=" …")


def _damaged_file(source: Source) -> Path | None:
    """The path of a file that can't be read; None if all can."""
    try:
        folder = source.folder()
    except Exception:  # what the hub's client raises, once more
        return None
    if folder is None:
        return None
    try:
        files = {path.name for path in folder.iterdir()}
    except OSError:
        return folder
    for path in (folder / name for name in sorted(files)):
        try:
            if path.name.endswith(".index.json"):
                if missing := {*_read_json(path)["weight_map"].values()} - files:
                    return folder / str(min(missing))
            elif path.suffix == ".json":
                _read_json(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif _WEIGHTS.fullmatch(path.name):
                torch.load(path, map_location="meta", weights_only=True)
        except Exception:  # torch raises nothing more specific
            return path
    return None
