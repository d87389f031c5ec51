"""Products of activations and weights on a CPU: in the dtype of the weights, or in int8."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from qwen_rerank.errors import MissingDependencyError

__all__ = ["FloatProduct", "Int8Product", "Product", "check_int8"]

_SMALLEST = 1e-30  # instead of 0, as a scale
_ZERO = 128
_MAX_DIFFERENCE = 0.05  # relative; rounding to int8 accounts for 0.01


class Product(Protocol):
    """Multiplies rows by the transposed weights."""

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Multiply float32 (rows, inputs).

        Returns:
            (rows, outputs), and float32 (rows, 1) by which it still has to be multiplied, or None
            for 1. A norm of the result cancels the factor, and a residual connection includes it.
        """


class FloatProduct:
    """A product in the dtype of the weights.

    Args:
        weight: (outputs, inputs).
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.contiguous()

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return linear(rows.to(self._weight.dtype), self._weight), None


class Int8Product:
    """A product in int8 with one scale per output and one per row, found anew for each row.

    The operator is one that torch has for its own quantized models, and is not documented:
    `check_int8` tests it.

    Args:
        weight: (outputs, inputs).
    """

    def __init__(self, weight: Tensor) -> None:
        weight = weight.float()
        self._scales = weight.abs().amax(1).div_(127).clamp_min_(_SMALLEST)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        rounded = (weight / self._scales[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        scales = rows.abs().amax(1, keepdim=True).div_(127).clamp_min_(_SMALLEST)
        # Unsigned, as the processors multiply unsigned by signed bytes. A half more, as the
        # conversion truncates.
        quantized = (rows / scales).add_(_ZERO + 0.5).to(torch.uint8)
        products = torch.ops.onednn.qlinear_pointwise(
            *(quantized, 1.0, _ZERO),
            *(self._packed, self._scales, self._zeros, None),
            *(1.0, 0, torch.float32),
            *("none", [], ""),
        )
        return products, scales


def check_int8() -> None:
    """Check that the installed torch computes products in int8 as expected.

    Raises:
        MissingDependencyError: It does not.
    """
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(size, 64, generator=generator) for size in (5, 32))
    expected = linear(rows, weight)
    try:
        products, factor = Int8Product(weight)(rows)
        difference = ((products * factor - expected).norm() / expected.norm()).item()
    except (AttributeError, RuntimeError, TypeError) as error:
        raise _other_torch(str(error).partition("\n")[0]) from error
    if difference > _MAX_DIFFERENCE:
        raise _other_torch(f"the result differs by {difference:.0%}")


def _other_torch(why: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"The products in int8 of torch {torch.__version__} are not those that LocalScorer was "
        f"written for: {why}.",
        remedy='Omit dtype="int8", or install a version that works: pip install torch==2.13.0',
    )
