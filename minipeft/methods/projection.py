"""Products with random matrices that are too large to store: Fastfood's, and a sparse one.

A point z of a small space becomes a point y = P z of the space of all parameters. `fastfood`
builds P from sums and differences (the Walsh-Hadamard transform), `scatter_signs` from a few
signs in each column. Each stands beside a slow twin.
"""

from __future__ import annotations

import functools
from typing import Any

from minipeft.backend import Array, xp_of
from minipeft.engine import ops
from minipeft.engine.op import op
from minipeft.engine.tensor import Tensor

FACTOR = 16  # the transform goes by products with H_16: measured faster than H_2, H_4 or H_64


@functools.cache
def _matrix(n: int, dtype: Any, xp: Any) -> Array:
    """H_n, n a power of two: H_1 = 1, H_2n = [[H_n, H_n], [H_n, -H_n]].  (n, n)"""
    h = xp.ones((1, 1), dtype)
    while len(h) < n:
        h = xp.concatenate([xp.concatenate([h, h], axis=1), xp.concatenate([h, -h], axis=1)])
    return h


def _transformed(x: Array) -> Array:
    """H x along the last axis, which is cut into factors: H_ab = H_a ⊗ H_b.  (..., n)"""
    shape, n = x.shape, x.shape[-1]
    done = min(FACTOR, n)
    xp, dtype = xp_of(x), x.dtype
    x = x.reshape(-1, done) @ _matrix(done, dtype, xp)
    while done < n:
        m = min(FACTOR, n // done)
        x = _matrix(m, dtype, xp) @ x.reshape(-1, m, done)
        done *= m
    return x.reshape(shape)


def _check_power_of_two(name: str, n: int) -> None:
    if n < 1 or n & (n - 1):
        raise ValueError(f"{name}: the length must be a power of two, got {n}; the next is "
                         f"{1 << max(n - 1, 0).bit_length()}")  # fmt: skip


@op
def hadamard(x):
    """The Walsh-Hadamard transform of the last axis, in n log n sums and differences.

    y = H_n x, H_2n = [[H_n, H_n], [H_n, -H_n]]; H H = n, and nothing is divided by sqrt(n)
    Shapes  x (..., n), n a power of two -> the same
    VJP     gx = H g, as H is symmetric
    Keeps   nothing
    Raises  ValueError if n is no power of two
    """
    _check_power_of_two("hadamard", x.shape[-1] if x.ndim else 0)
    return _transformed(x), (_transformed,)


def hadamard_slow(x: Any) -> Tensor:
    """The twin of `hadamard`: the butterfly, halves that are added and subtracted."""
    shape, half = x.shape, x.shape[-1] // 2
    while half:
        x = ops.reshape(x, shape=(-1, 2, half))
        x = ops.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], axis=1)
        half //= 2
    return ops.reshape(x, shape=shape)


@op
def fastfood(z, signs, order, scales, *, size):
    """The first `size` rows of a structured random matrix times z.

    y = (H G Π H B [z; 0])[:size]                        Le et al. 2013, eq. 7
    B the signs, Π the order, G the scales, and [z; 0] is z with zeros up to n. H [z; 0] repeats
    what a short transform makes of z: H_n = H_n/m ⊗ H_m, and z ends within the first m.
    Shapes  z (d,), signs (d,), order (n,) integers, scales (n,), n a power of two -> (size,)
    VJP     gz = (B H Πᵀ G H [g; 0])[:d]
    Keeps   signs, order, scales
    Raises  ValueError if the shapes do not fit
    """
    d, n = len(z), len(order)
    _check_power_of_two("fastfood", n)
    if signs.shape != z.shape or scales.shape != (n,) or not (0 < d <= n and size <= n):
        raise ValueError(f"fastfood: z {z.shape} needs as many signs, and order and scales of "
                         f"one length >= {d} and {size}; got {signs.shape}, {order.shape} and "
                         f"{scales.shape}")  # fmt: skip
    xp, m = xp_of(z), 1 << (d - 1).bit_length()
    short = xp.zeros(m, z.dtype)
    short[:d] = z * signs
    y = _transformed(short)[order & (m - 1)]
    y *= scales

    def vjp(g: Array) -> Array:
        long = xp.zeros(n, g.dtype)
        long[:size] = g
        moved = xp.empty(n, g.dtype)
        moved[order] = _transformed(long) * scales
        return _transformed(moved.reshape(-1, m).sum(axis=0))[:d] * signs

    return _transformed(y)[:size], (vjp, None, None, None)


def fastfood_slow(z: Any, signs: Any, order: Any, scales: Any, *, size: int) -> Tensor:
    """The twin of `fastfood`: its five factors, one after the other."""
    long = ops.pad(z * signs, widths=((0, len(order) - len(z)),))
    return hadamard_slow(hadamard_slow(long)[order] * scales)[:size]


@op
def scatter_signs(z, rows, signs, *, size):
    """A sparse random matrix times z: each column holds m signs.

    y_i = Σ of signs[j, k] z_j over the places (j, k) where rows[j, k] = i
    Shapes  z (d,), rows (d, m) integers in [0, size), signs (d, m) -> (size,)
    VJP     gz_j = Σ_k signs[j, k] g[rows[j, k]]
    Keeps   rows, signs
    Raises  ValueError if the shapes do not fit
    """
    if rows.shape != signs.shape or rows.shape[:1] != z.shape:
        raise ValueError(f"scatter_signs: z {z.shape} needs rows and signs (d, m), got "
                         f"{rows.shape} and {signs.shape}")  # fmt: skip
    xp, values = xp_of(z), signs * z[:, None]
    y = xp.bincount(rows.reshape(-1), weights=values.reshape(-1), minlength=size)
    return y.astype(z.dtype), (lambda g: (signs * g[rows]).sum(axis=1), None, None)


def scatter_signs_slow(z: Any, rows: Any, signs: Any, *, size: int) -> Tensor:
    """The twin of `scatter_signs`: the matrix, written out."""
    xp = xp_of(rows)
    hit = rows[:, :, None] == xp.arange(size)  # (d, m, size)
    return ops.matmul((hit * signs[:, :, None]).sum(axis=1).T, z)
