"""Products with random matrices that are too large to store: Fastfood's, and a sparse one.

A point z of a small space becomes a point y = P z of the space of all parameters. `fastfood`
builds P from sums and differences (the Walsh-Hadamard transform), `scatter_signs` from a few
signs in each column. The slow twin of each is in projection_slow.py.
"""

from __future__ import annotations

import functools
from typing import Any

from minipeft.backend import Array, xp_of
from minipeft.engine.op import op

FACTOR = 16  # the transform goes by products with H_16: measured faster than H_2, H_4 or H_64


@functools.cache
def _matrix(n: int, dtype: Any, xp: Any) -> Array:
    """H_n, n a power of two: H_1 = 1, H_2n = [[H_n, H_n], [H_n, -H_n]].  (n, n)"""
    h = xp.ones((1, 1), dtype)
    while len(h) < n:
        h = xp.concatenate([xp.concatenate([h, h], axis=1), xp.concatenate([h, -h], axis=1)])
    return h


def transform(x: Array) -> Array:
    """H_n x along the last axis, n a power of two, in n log n operations.  (..., n) -> the same"""
    xp, shape, dtype = xp_of(x), x.shape, x.dtype
    n = shape[-1]
    done = min(FACTOR, n)
    x = x.reshape(-1, done) @ _matrix(done, dtype, xp)
    while done < n:  # factor by factor: H_ab = H_a ⊗ H_b
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
    return transform(x), (transform,)


@op
def fastfood(z, signs, order, scales, *, size):
    """The first `size` rows of a structured random matrix times z.

    y = (H G Π H B [z; 0])[:size]                        Le et al. 2013, eq. 7
    B the signs, Π the order, (Π v)_i = v_order[i], G the scales, and [z; 0] is z with zeros up to
    n. H [z; 0] repeats what a short transform makes of z, which ends within the first m entries:
    H_n = H_n/m ⊗ H_m.
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
    y = transform(short)[order & (m - 1)]
    y *= scales

    def vjp(g: Array) -> Array:
        long = xp.zeros(n, g.dtype)
        long[:size] = g
        moved = xp.empty(n, g.dtype)
        moved[order] = transform(long) * scales
        return transform(moved.reshape(-1, m).sum(axis=0))[:d] * signs

    return transform(y)[:size], (vjp, None, None, None)


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
