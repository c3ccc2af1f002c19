"""Elementwise functions, reductions, shapes, indexing and matmul: a page of derivatives.

Every function takes arrays or Tensors by position and settings by keyword; broadcasting is
NumPy's. Each returns its value and, per input, the VJP g -> gradient. A VJP that needs no more
than an input's shape takes the shape by itself: naming the array would keep it until backward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft import backend
from minipeft.backend import Array, xp_of
from minipeft.engine.op import op, unbroadcast
from minipeft.engine.tensor import Tensor

# -- arithmetic ---------------------------------------------------------------------------------


def _shape(x: Any) -> tuple[int, ...]:
    return getattr(x, "shape", ())


@op
def add(a, b):
    sa, sb = _shape(a), _shape(b)
    return a + b, (lambda g: unbroadcast(g, sa), lambda g: unbroadcast(g, sb))


@op
def sub(a, b):
    sa, sb = _shape(a), _shape(b)
    return a - b, (lambda g: unbroadcast(g, sa), lambda g: unbroadcast(-g, sb))


@op
def mul(a, b):
    sa, sb = _shape(a), _shape(b)
    return a * b, (lambda g: unbroadcast(g * b, sa), lambda g: unbroadcast(g * a, sb))


@op
def div(a, b):
    y, sa, sb = a / b, _shape(a), _shape(b)
    return y, (lambda g: unbroadcast(g / b, sa), lambda g: unbroadcast(-g * y / b, sb))


@op
def neg(x):
    return -x, (lambda g: -g,)


@op
def pow(a, p):
    """a to the power p. Small whole powers are products: x**3 is 300 times slower than x*x*x."""
    y, sa, sp = _power(a, p), _shape(a), _shape(p)
    return y, (
        lambda g: unbroadcast(g * p * _power(a, p - 1 if sp or p else 0), sa),  # no 1/0 for p = 0
        lambda g: unbroadcast(g * y * _log_or_zero(a), sp),
    )


def _power(a: Any, p: Any) -> Any:
    if isinstance(p, (int, float)) and p in (0, 1, 2, 3, 4):
        if p == 0:
            return xp_of(a).ones_like(a)
        return a if p == 1 else a * a if p == 2 else a * a * a if p == 3 else (a * a) * (a * a)
    return a**p


def _log_or_zero(a: Any) -> Any:
    """log a, and 0 where a is 0 (there a^p log a tends to 0)."""
    if not _shape(a):
        return math.log(a) if a > 0 else 0.0
    xp = xp_of(a)
    return xp.log(xp.where(a == 0, 1, a))


# -- elementwise ---------------------------------------------------------------------------------


@op
def exp(x):
    y = xp_of(x).exp(x)
    return y, (lambda g: g * y,)


@op
def log(x):
    return xp_of(x).log(x), (lambda g: g / x,)


@op
def sqrt(x):
    y = xp_of(x).sqrt(x)
    return y, (lambda g: g * 0.5 / y,)


@op
def tanh(x):
    y = xp_of(x).tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@op
def sigmoid(x):
    y = 0.5 * (1 + xp_of(x).tanh(0.5 * x))  # no overflow for large |x|
    return y, (lambda g: g * y * (1 - y),)


@op
def relu(x):
    return xp_of(x).maximum(x, 0), (lambda g: g * (x > 0),)


@op
def erf(x):
    xp = xp_of(x)
    return backend.erf(x), (lambda g: g * (2 / math.sqrt(math.pi)) * xp.exp(-x * x),)


@op
def abs(x):
    xp = xp_of(x)
    return xp.abs(x), (lambda g: g * xp.sign(x),)


@op
def maximum(a, b):
    """The larger of the two; where they are equal the gradient goes to a."""
    y = xp_of(a, b).maximum(a, b)
    return y, (
        lambda g: unbroadcast(g * (a >= b), _shape(a)),
        lambda g: unbroadcast(g * (a < b), _shape(b)),
    )


@op
def minimum(a, b):
    """The smaller of the two; where they are equal the gradient goes to a."""
    y = xp_of(a, b).minimum(a, b)
    return y, (
        lambda g: unbroadcast(g * (a <= b), _shape(a)),
        lambda g: unbroadcast(g * (a > b), _shape(b)),
    )


@op
def where(condition, a, b):
    """a where condition (an array of booleans) holds, else b."""
    xp, sa, sb = xp_of(condition, a, b), _shape(a), _shape(b)
    return xp.where(condition, a, b), (
        None,
        lambda g: unbroadcast(xp.where(condition, g, 0), sa),
        lambda g: unbroadcast(xp.where(condition, 0, g), sb),
    )


@op
def clip(x, *, low=None, high=None):
    """x kept within [low, high]; no gradient where it was cut."""
    if low is None and high is None:
        raise ValueError("clip needs low, high or both")
    y = xp_of(x).clip(x, low, high)
    return y, (lambda g: g * (y == x),)


# -- reductions ----------------------------------------------------------------------------------


def _axes(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The reduced axes as non-negative numbers."""
    n = len(shape)
    axes = range(n) if axis is None else (axis,) if isinstance(axis, int) else axis
    for a in axes:
        if not -n <= a < n:
            raise ValueError(f"axis {a} is out of range for shape {shape}")
    return tuple(a % n for a in axes)


def _spread(g: Array, shape: tuple[int, ...], axis: Any) -> Array:
    """Put the reduced axes back as size 1, so that g broadcasts against `shape`."""
    axes = _axes(shape, axis)
    return g.reshape([1 if i in axes else n for i, n in enumerate(shape)])


def _need_elements(name: str, x: Array, axis: Any) -> int:
    """How many elements one result is made of; an error where there are none."""
    n = math.prod(x.shape[a] for a in _axes(x.shape, axis))
    if n == 0:
        raise ValueError(f"{name} over axis {axis} of shape {x.shape}: there is nothing to reduce")
    return n


@op
def sum(x, *, axis=None, keepdims=False):
    xp, shape = xp_of(x), x.shape
    y = xp.sum(x, axis=axis, keepdims=keepdims)
    return y, (lambda g: xp.broadcast_to(_spread(g, shape, axis), shape),)


@op
def mean(x, *, axis=None, keepdims=False):
    xp, shape, n = xp_of(x), x.shape, _need_elements("mean", x, axis)
    y = xp.mean(x, axis=axis, keepdims=keepdims)
    return y, (lambda g: xp.broadcast_to(_spread(g, shape, axis), shape) / n,)


@op
def var(x, *, axis=None, keepdims=False, ddof=0):
    """Variance: squares of the centred values, summed and divided by n - ddof."""
    xp, n = xp_of(x), _need_elements("var", x, axis)
    if n <= ddof:
        raise ValueError(f"var with ddof={ddof} needs more than {ddof} elements, got {n}")
    centred = x - xp.mean(x, axis=axis, keepdims=True)
    y = xp.sum(centred * centred, axis=axis, keepdims=keepdims) / (n - ddof)
    return y, (lambda g: _spread(g * (2 / (n - ddof)), centred.shape, axis) * centred,)


@op
def max(x, *, axis=None, keepdims=False):
    """The largest value; equal ones share the gradient."""
    _need_elements("max", x, axis)
    return _extreme(xp_of(x).max, x, axis, keepdims)


@op
def min(x, *, axis=None, keepdims=False):
    """The smallest value; equal ones share the gradient."""
    _need_elements("min", x, axis)
    return _extreme(xp_of(x).min, x, axis, keepdims)


def _extreme(reduce: Any, x: Array, axis: Any, keepdims: bool) -> Any:
    y = xp_of(x).asarray(reduce(x, axis=axis, keepdims=keepdims))

    def vjp(g: Array) -> Array:
        hit = x == _spread(y, x.shape, axis)
        share = hit.sum(axis=axis, keepdims=True)
        return _spread(g, x.shape, axis) * hit / share.astype(x.dtype)

    return y, (vjp,)


@op
def cumsum(x, *, axis):
    xp = xp_of(x)
    return xp.cumsum(x, axis=axis), (
        lambda g: xp.flip(xp.cumsum(xp.flip(g, axis), axis=axis), axis),
    )


# -- shapes --------------------------------------------------------------------------------------


@op
def reshape(x, *, shape):
    before = x.shape
    return x.reshape(shape), (lambda g: g.reshape(before),)


@op
def transpose(x, *, axes=None):
    order = tuple(range(x.ndim))[::-1] if axes is None else tuple(a % x.ndim for a in axes)
    back = sorted(range(x.ndim), key=order.__getitem__)
    return x.transpose(order), (lambda g: g.transpose(back),)


@op
def swapaxes(x, *, a, b):
    return x.swapaxes(a, b), (lambda g: g.swapaxes(a, b),)


@op
def squeeze(x, *, axis=None):
    before = x.shape
    return xp_of(x).squeeze(x, axis=axis), (lambda g: g.reshape(before),)


@op
def expand_dims(x, *, axis):
    before = x.shape
    return xp_of(x).expand_dims(x, axis), (lambda g: g.reshape(before),)


@op
def broadcast_to(x, *, shape):
    before = x.shape
    return xp_of(x).broadcast_to(x, shape), (lambda g: unbroadcast(g, before),)


@op
def pad(x, *, widths, value=0.0):
    """Put `value` around x. widths: one (before, after) pair per axis."""
    inner = tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))
    y = xp_of(x).pad(x, widths, mode="constant", constant_values=value)
    return y, (lambda g: g[inner],)


@op
def getitem(x, *, index):
    """x[index] with numbers, slices, None, ..., integer arrays (repeats add up) and masks."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(p.data if isinstance(p, Tensor) else p for p in parts)
    basic = all(p is None or p is ... or isinstance(p, (int, slice)) for p in parts)
    xp, shape = xp_of(x), x.shape
    if xp is not np:  # lists and host arrays do not index a device array
        parts = tuple(xp.asarray(p) if isinstance(p, (list, np.ndarray)) else p for p in parts)

    def vjp(g: Array) -> Array:
        full = xp.zeros(shape, g.dtype)
        if basic:
            full[parts] = g
        else:
            xp.add.at(full, parts, g)
        return full

    return x[parts], (vjp,)


@op
def _concatenate(*xs, axis):
    xp = xp_of(*xs)
    y = xp.concatenate(xs, axis=axis)
    starts, at = [], 0
    for x in xs:
        starts.append(at)
        at += x.shape[axis]

    def part(start: int, n: int) -> Any:
        cut = (slice(None),) * (axis % y.ndim) + (slice(start, start + n),)
        return lambda g: g[cut]

    return y, tuple(part(s, x.shape[axis]) for s, x in zip(starts, xs, strict=True))


def concatenate(xs: Sequence[Any], *, axis: int = 0) -> Tensor:
    """Join tensors along an axis that they have."""
    if not xs:
        raise ValueError("concatenate needs at least one tensor")
    return _concatenate(*xs, axis=axis)


def stack(xs: Sequence[Any], *, axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    if not xs:
        raise ValueError("stack needs at least one tensor")
    return _concatenate(*[expand_dims(x, axis=axis) for x in xs], axis=axis)


def split(x: Tensor, *, sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Cut x into equal `sections`, or before the indices of a list, along an axis."""
    n = x.shape[axis]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ValueError(f"split: axis {axis} of size {n} does not divide into {sections}")
        cuts = [n // sections * i for i in range(1, sections)]
    else:
        cuts = list(sections)
    lead = (slice(None),) * (axis % x.ndim)
    return [
        getitem(x, index=(*lead, slice(a, b))) for a, b in zip([0, *cuts], [*cuts, n], strict=True)
    ]


# -- matmul --------------------------------------------------------------------------------------


@op
def matmul(a, b):
    """a @ b as NumPy has it: 1-D operands are a row and a column, leading axes broadcast.

    VJP     ga = g bᵀ, gb = aᵀ g, summed over broadcast axes
    """
    if not _shape(a) or not _shape(b):
        raise ValueError("matmul needs arrays; use * for scalars")
    row = a[None, :] if a.ndim == 1 else a  # (..., n, k)
    col = b[:, None] if b.ndim == 1 else b  # (..., k, m)
    y = a @ b
    full = (*y.shape[: y.ndim - (a.ndim > 1) - (b.ndim > 1)], row.shape[-2], col.shape[-1])
    sa, sb, s_row, s_col = a.shape, b.shape, row.shape, col.shape
    return y, (
        lambda g: unbroadcast(g.reshape(full) @ col.swapaxes(-1, -2), s_row).reshape(sa),
        lambda g: unbroadcast(row.swapaxes(-1, -2) @ g.reshape(full), s_col).reshape(sb),
    )
