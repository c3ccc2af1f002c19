"""The slow twins of projection.py: each product as its equation has it, in steps of ops.py.

They are its oracle: values and gradients must agree.
"""

from __future__ import annotations

from typing import Any

from minipeft.backend import xp_of
from minipeft.engine import Tensor, ops


def hadamard_slow(x: Any) -> Tensor:
    """The twin of `hadamard`: the butterfly, halves that are added and subtracted."""
    shape, half = x.shape, x.shape[-1] // 2
    while half:
        x = ops.reshape(x, shape=(-1, 2, half))
        x = ops.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], axis=1)
        half //= 2
    return ops.reshape(x, shape=shape)


def fastfood_slow(z: Any, signs: Any, order: Any, scales: Any, *, size: int) -> Tensor:
    """The twin of `fastfood`: its five factors, one after the other."""
    long = ops.pad(z * signs, widths=((0, len(order) - len(z)),))
    return hadamard_slow(hadamard_slow(long)[order] * scales)[:size]


def scatter_signs_slow(z: Any, rows: Any, signs: Any, *, size: int) -> Tensor:
    """The twin of `scatter_signs`: the matrix, written out."""
    xp = xp_of(rows)
    hit = rows[:, :, None] == xp.arange(size)  # (d, m, size)
    return ops.matmul((hit * signs[:, :, None]).sum(axis=1).T, z)
