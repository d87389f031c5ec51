"""Choose the device and the dtype that a model runs in, and tell when its memory runs out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch

from qwen_rerank.errors import InvalidInputError

__all__ = [
    "DType",
    "choose_device",
    "choose_devices",
    "choose_dtype",
    "fastest_dtype",
    "is_out_of_memory",
]

DType: TypeAlias = Literal["auto", "bfloat16", "float16", "float32", "int8"]

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "int8": torch.int8,
}


def choose_devices(
    device: str | Sequence[str] | None, dtype: DType
) -> list[tuple[torch.device, torch.dtype]]:
    """Choose one or several devices, each with its dtype.

    Raises:
        InvalidInputError: There is none, one can't be used, or they would compute in different
            dtypes, so that a score would depend on the device.
    """
    names: list[Any] = list(device) if isinstance(device, (list, tuple)) else [device]
    if not names:
        raise InvalidInputError("device is an empty list.", remedy="Omit it, or name a device.")
    devices = list(map(choose_device, names))
    dtypes = [choose_dtype(dtype, chosen) for chosen in devices]
    if len(set(dtypes)) > 1:
        raise InvalidInputError(
            f"The devices {', '.join(map(str, names))} would compute in different dtypes: "
            f"{', '.join(map(str, dtypes))}.",
            remedy='Pass one for all, such as dtype="float32".',
        )
    return list(zip(devices, dtypes, strict=True))


def choose_device(device: str | None) -> torch.device:
    """Return the device with this name; by default CUDA, else Apple's mps, else the CPU.

    Raises:
        InvalidInputError: The device does not exist or can't be used.
    """
    if device is not None and not isinstance(device, str):
        raise InvalidInputError(
            f'device must be a name such as "cuda:0", or a list of names, got {device!r}.'
        )
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    # AssertionError: torch without CUDA. ImportError: a device of a package that is not there.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = re.split(r"\n|\. |\.$", str(error))[0]
        raise InvalidInputError(
            f"device={device!r} can't be used here: {_why_unusable(device) or reason}.",
            remedy=f"Omit it, or pass one that torch has here: {', '.join(_devices())}.",
        ) from error
    return chosen


def _devices() -> list[str]:
    """The names of the devices of this machine, quoted."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [f'"{name}"' for name in (*names, "cpu")]


def _why_unusable(device: object) -> str | None:
    """The usual reasons, which torch does not name so that one knows what to do."""
    kind = str(device).partition(":")[0]
    if kind == "cuda" and not torch.backends.cuda.is_built():
        return "the installed torch was built without CUDA"
    if kind == "cuda" and not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU or no working driver for one"
    if kind == "meta":
        return "it computes nothing"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "torch finds no Apple GPU"
    return None


def choose_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The dtype with this name; "auto" is the fastest one that is precise enough on the device.

    "auto" is bfloat16 if the hardware computes in it, like all Apple devices and all CUDA devices
    since Ampere. Otherwise it is float16 on CUDA and float32 on a CPU. It is never int8.

    Raises:
        InvalidInputError: The name is unknown, float16 on a CPU, or int8 on anything but a CPU that
            multiplies int8 in hardware.
    """
    if dtype == "auto":
        return fastest_dtype(device)
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InvalidInputError(
            f"dtype must be one of {', '.join(map(repr, ('auto', *_DTYPES)))}, got {dtype!r}."
        )
    if device.type == "cpu" and dtype == "float16":
        raise InvalidInputError(
            'dtype="float16" is 10 times slower than "float32" on a CPU.',
            remedy='Omit it, or pass "bfloat16" or "float32".',
        )
    if dtype == "int8":
        _check_computes_in_int8(device)
    return _DTYPES[dtype]


def fastest_dtype(device: torch.device) -> torch.dtype:
    """The dtype that "auto" stands for."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and not _computes_in_bfloat16():
        return torch.float32
    return torch.bfloat16


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. CPUs and Apple's mps have no error type (pytorch issue 141909)."""
    messages = ("MPS backend out of memory", "Invalid buffer size")
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or str(error).startswith(messages)
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def _computes_in_bfloat16() -> bool:
    """Whether an x86 CPU multiplies bfloat16 in hardware, 3 times as fast as float32."""
    return _cpu_has("avx512_bf16", "amx_bf16")


def _check_computes_in_int8(device: torch.device) -> None:
    if device.type != "cpu":
        raise InvalidInputError(
            f'dtype="int8" is for CPUs, and the device is "{device}".',
            remedy='Omit dtype=, or pass device="cpu".',
        )
    if not _cpu_has("avx512_vnni", "amx_int8"):
        raise InvalidInputError(
            'dtype="int8" needs a CPU with AVX512-VNNI or AMX, and torch 2.11 or newer to see it.',
            remedy='Omit dtype=: "auto" chooses the fastest of the others. To run quantized '
            "weights on this CPU, serve a GGUF file with llama.cpp and use ServerScorer.",
        )


def _cpu_has(*names: str) -> bool:
    """Whether the CPU has any of these instruction sets; torch tells since 2.11."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in names)
