"""Rotations that spread outliers over all channels, so that int8 has digits left for the others.

Trained models have a few channels with values a hundred times those of the others. Rounded to 8
bits in one scale, the others are lost. An orthogonal matrix whose entries all have about the same
size spreads the outliers, and multiplied into the weights it changes nothing else. The method, and
where to rotate, are those of QuaRot (Ashkboos et al., 2024, arXiv 2404.00456). It needs no data.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hadamard", "rotate_blocks", "rotation"]


def hadamard(size: int) -> Tensor:
    """float64 (size, size): Sylvester's matrix, orthonormal. The size is a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / size**0.5


def rotation(size: int) -> Tensor:
    """float32 (size, size): a random orthogonal matrix that is always the same.

    It is a Hadamard matrix with random signs, and for a size that is no power of two its Kronecker
    product with a small orthogonal matrix.
    """
    generator = torch.Generator().manual_seed(0)
    power = size & -size
    odd = torch.randn(size // power, size // power, generator=generator, dtype=torch.float64)
    matrix = torch.kron(torch.linalg.qr(odd).Q.contiguous(), hadamard(power))
    signs = torch.randint(0, 2, (size, 1), generator=generator) * 2 - 1
    return (matrix * signs).float()


def rotate_blocks(values: Tensor, block: Tensor) -> Tensor:
    """Rotate each block of the last dimension."""
    return (values.unflatten(-1, (-1, len(block))) @ block).flatten(-2)
