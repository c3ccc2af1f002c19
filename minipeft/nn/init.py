"""Where every Parameter's array comes from, shape-only models included.

`like` is an array whose library, dtype and kind the new one follows. A shape-only array has
a shape and no memory (zero strides), so GPT-3's parameters can be counted on a laptop; what
is made like it is shape-only too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng, xp_of


def prototype(dtype: Any = np.float32, shape_only: bool = False) -> Array:
    """An array to be `like`, for a model that starts from nothing."""
    return np.broadcast_to(np.zeros((), dtype), (2,)) if shape_only else np.zeros(2, dtype)


def prototypes(dtype: Any, init: str) -> tuple[Array, Array]:
    """What a model's body and its head are to be `like`.

    init  "normal" draws both, "shape" none. "head" draws the head alone, with the values that
          "normal" gives it, for a model whose body is read from a file
    """
    if init not in ("normal", "shape", "head"):
        raise ValueError(f"init must be 'normal' or 'shape', got {init!r}")
    return prototype(dtype, init != "normal"), prototype(dtype, init == "shape")


def is_shape_only(array: Array) -> bool:
    """True for an array that has a shape but no memory."""
    return array.size > 1 and not any(
        s for s, n in zip(array.strides, array.shape, strict=False) if n > 1
    )


def _make(shape: tuple[int, ...], like: Array, draw: Any) -> Array:
    if is_shape_only(like):
        return np.broadcast_to(np.zeros((), like.dtype), shape)
    return xp_of(like).asarray(draw(like.dtype))


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros in the dtype and on the device of `like`."""
    return _make(shape, like, lambda dtype: np.zeros(shape, dtype))


def ones(shape: tuple[int, ...], like: Array) -> Array:
    """Ones in the dtype and on the device of `like`."""
    return _make(shape, like, lambda dtype: np.ones(shape, dtype))


def full(shape: tuple[int, ...], like: Array, value: float) -> Array:
    """One value everywhere, in the dtype and on the device of `like`."""
    return _make(shape, like, lambda dtype: np.full(shape, value, dtype))


def normal(shape: tuple[int, ...], like: Array, rng: Rng, std: float) -> Array:
    """N(0, std²). For a shape-only `like` the stream goes on as far as if it were drawn."""
    if is_shape_only(like):
        rng.skip_normal(shape)
    return _make(shape, like, lambda dtype: rng.normal(shape, std, dtype))


def uniform(shape: tuple[int, ...], like: Array, rng: Rng, bound: float) -> Array:
    """U(-bound, bound). For a shape-only `like` the stream goes on as far as if it were drawn."""
    if is_shape_only(like):
        rng.skip(math.prod(shape))
    return _make(shape, like, lambda dtype: rng.uniform(shape, -bound, bound, dtype))


def copy(array: Array) -> Array:
    """A copy that shares no memory; a shape-only array is its own copy."""
    return array if is_shape_only(array) else array.copy()
