"""Elementwise functions, reductions, shapes, indexing and matmul: a page of derivatives.

Every function takes arrays or Tensors by position and settings by keyword; broadcasting is
NumPy's. Each returns its value and, per input, the VJP g -> gradient. A VJP that needs no more
than an input's shape takes the shape by itself: naming the array would keep it until backward.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minipeft import backend
from minipeft.backend import Array, is_array, is_whole, xp_of
from minipeft.engine import operators
from minipeft.engine.op import op, plain, unbroadcast, wide
from minipeft.engine.tensor import Tensor

# -- dtypes --------------------------------------------------------------------------------------


@op
def _cast(x, *, dtype):
    before = x.dtype
    return x.astype(dtype, copy=False), (lambda g: g.astype(before),)


def astype(x: Any, *, dtype: Any) -> Tensor:
    """x in another dtype. Integers and booleans have no gradient, as comparisons have none."""
    y = _cast(x, dtype=np.dtype(dtype))
    return y if y.dtype.kind == "f" else y.detach()


def in_float32(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let f compute in float32 what it is given in float16, and round what it returns.

    Half precision is for storing: squares overflow from 256 on, sums stick at 2048.
    """

    @functools.wraps(f)
    def apply(*xs: Any, **settings: Any) -> Tensor:
        if not any(map(_is_half, xs)):
            return f(*xs, **settings)
        y = f(*(astype(x, dtype=np.float32) if _is_half(x) else x for x in xs), **settings)
        floats = [x for x in xs if getattr(x, "dtype", np.dtype(int)).kind == "f"]
        return astype(y, dtype=np.float16) if all(map(_is_half, floats)) else y

    return apply


HALF = np.dtype(np.float16)


def _is_half(x: Any) -> bool:
    return getattr(x, "dtype", None) == HALF


# -- arithmetic ---------------------------------------------------------------------------------


def shape_of(x: Any) -> tuple[int, ...]:
    return getattr(x, "shape", ())


@op
def add(a, b):
    sa, sb = shape_of(a), shape_of(b)
    return a + b, (lambda g: unbroadcast(g, sa), lambda g: unbroadcast(g, sb))


@op
def sub(a, b):
    sa, sb = shape_of(a), shape_of(b)
    return a - b, (lambda g: unbroadcast(g, sa), lambda g: unbroadcast(-g, sb))


@op
def mul(a, b):
    sa, sb = shape_of(a), shape_of(b)
    return a * b, (lambda g: unbroadcast(g * b, sa), lambda g: unbroadcast(g * a, sb))


@op
def div(a, b):
    y, sa, sb = a / b, shape_of(a), shape_of(b)
    return y, (lambda g: unbroadcast(g / b, sa), lambda g: unbroadcast(-g * y / b, sb))


@op
def neg(x):
    return -x, (lambda g: -g,)


@op
def pow(a, p):
    """a to the power p. Small whole powers are products: x**3 is 300 times slower than x*x*x."""
    y, sa, sp = _power(a, p), shape_of(a), shape_of(p)
    return y, (
        lambda g: unbroadcast(g * p * _power(a, _lowered(p)), sa),
        lambda g: unbroadcast(g * _times_log(y, a, p), sp),
    )


def _power(a: Any, p: Any) -> Any:
    if isinstance(p, (int, float)) and p in (0, 1, 2, 3, 4):
        if p == 0:
            return xp_of(a).ones_like(a)
        return a if p == 1 else a * a if p == 2 else a * a * a if p == 3 else (a * a) * (a * a)
    return a**p


def _lowered(p: Any) -> Any:
    """p - 1, and 0 for p = 0: the derivative is p times this power, and 0 times 0^-1 is nan."""
    return xp_of(p).where(p == 0, 0, p - 1) if is_array(p) else p - 1 if p else 0


def _times_log(y: Array, a: Any, p: Array) -> Array:
    """y log a for y = a^p, and 0 where a is 0 and p is not below it, the limit for small a."""
    xp = xp_of(y, p)
    limit = (a == 0) & (p >= 0)
    return xp.where(limit, 0, y * xp.log(xp.where(limit, 1, xp.asarray(a, dtype=y.dtype))))


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
    """1 / (1 + exp(-x)). Its logarithm is -softplus(-x)."""
    y = sigmoid_of(x)
    return y, (lambda g: g * y * (1 - y),)


def sigmoid_of(x: Array) -> Array:
    """exp sees no positive number: nothing overflows, and the lower tail is not rounded off."""
    xp = xp_of(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, e) / (1 + e)


@op
def relu(x):
    return xp_of(x).maximum(x, 0), (lambda g: g * (x > 0),)


@in_float32
@op
def erf(x):
    xp = xp_of(x)
    return backend.erf(x), (lambda g: g * (2 / math.sqrt(math.pi)) * xp.exp(-x * x),)


@op
def abs(x):
    xp = xp_of(x)
    return xp.abs(x), (lambda g: g * xp.sign(x),)


@op
def where(condition, a, b):
    """a where condition (an array of booleans) holds, else b."""
    xp, sa, sb = xp_of(condition, a, b), shape_of(a), shape_of(b)
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


def axes_of(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """One axis, several, or for None all of them, as non-negative numbers. A scalar has no axes,
    but takes 0 and -1, as NumPy's scalars do."""
    n = len(shape)
    if axis is None:
        return tuple(range(n))
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    for a in axes:
        if not is_whole(a):
            raise TypeError(f"an axis is an integer, got {a!r}")
        if not (-n <= a < n or (n == 0 and a in (0, -1))):
            raise ValueError(f"axis {a} is out of range for shape {shape}")
    found = tuple(int(a) % n for a in axes if n)
    if len(set(found)) < len(found):
        raise ValueError(f"axis {axis} of shape {shape} names an axis twice")
    return found


def one_axis(shape: tuple[int, ...], axis: Any) -> int:
    """One axis as a non-negative number."""
    if isinstance(axis, (tuple, list)) or not shape:
        raise ValueError(f"one axis is needed, got {axis} of shape {shape}")
    return axes_of(shape, (axis,))[0]


def spread(g: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Put the reduced axes back as size 1, so that g broadcasts against `shape`."""
    return g.reshape([1 if i in axes else n for i, n in enumerate(shape)])


def kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the reduced axes."""
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def need_elements(name: str, x: Array, axis: Any) -> tuple[tuple[int, ...], int]:
    """The reduced axes, and how many elements one result is made of; an error if there are none."""
    axes = axes_of(x.shape, axis)
    n = math.prod(x.shape[a] for a in axes)
    if n == 0:
        raise ValueError(f"{name} over axis {axis} of shape {x.shape}: there is nothing to reduce")
    return axes, n


@in_float32
@op
def sum(x, *, axis=None, keepdims=False):
    xp, shape, axes = xp_of(x), x.shape, axes_of(x.shape, axis)
    y = xp.sum(x, axis=axes, keepdims=keepdims)
    return y, (lambda g: xp.broadcast_to(spread(g, shape, axes), shape),)


@in_float32
@op
def mean(x, *, axis=None, keepdims=False):
    xp, shape, (axes, n) = xp_of(x), x.shape, need_elements("mean", x, axis)
    y = xp.mean(x, axis=axes, keepdims=keepdims)
    return y, (lambda g: xp.broadcast_to(spread(g, shape, axes), shape) / n,)


@in_float32
@op
def var(x, *, axis=None, keepdims=False, ddof=0):
    """Variance: squares of the centred values, summed and divided by n - ddof."""
    xp, (axes, n) = xp_of(x), need_elements("var", x, axis)
    if n <= ddof:
        raise ValueError(f"var with ddof={ddof} needs more than {ddof} elements, got {n}")
    centred = x - xp.mean(x, axis=axes, keepdims=True)
    y = xp.sum(centred * centred, axis=axes, keepdims=keepdims) / (n - ddof)
    return y, (lambda g: spread(g * (2 / (n - ddof)), centred.shape, axes) * centred,)


@op
def max(x, *, axis=None, keepdims=False):
    """The largest value; equal ones share the gradient."""
    return _extreme("max", x, axis, keepdims)


@op
def min(x, *, axis=None, keepdims=False):
    """The smallest value; equal ones share the gradient."""
    return _extreme("min", x, axis, keepdims)


def _extreme(name: str, x: Array, axis: Any, keepdims: bool) -> Any:
    xp, (axes, _) = xp_of(x), need_elements(name, x, axis)
    y = xp.asarray(getattr(xp, name)(x, axis=axes, keepdims=keepdims))

    def vjp(g: Array) -> Array:
        hit = x == spread(y, x.shape, axes)
        share = hit.sum(axis=axes, keepdims=True)
        return spread(g, x.shape, axes) * hit / share.astype(x.dtype)

    return y, (vjp,)


# -- shapes --------------------------------------------------------------------------------------


@op
def reshape(x, *, shape):
    before = x.shape
    return x.reshape(shape), (lambda g: g.reshape(before),)


@op
def transpose(x, *, axes=None):
    order = axes_of(x.shape, axes)
    if axes is None:
        order = order[::-1]
    y = x.transpose(order)
    back = sorted(range(x.ndim), key=order.__getitem__)
    return y, (lambda g: g.transpose(back),)


@op
def swapaxes(x, *, a, b):
    a, b = one_axis(x.shape, a), one_axis(x.shape, b)
    return x.swapaxes(a, b), (lambda g: g.swapaxes(a, b),)


@op
def expand_dims(x, *, axis):
    before = x.shape
    new = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    axes = axes_of((1,) * (x.ndim + len(new)), new)
    return xp_of(x).expand_dims(x, axes), (lambda g: g.reshape(before),)


@op
def broadcast_to(x, *, shape):
    before = x.shape
    return xp_of(x).broadcast_to(x, shape), (lambda g: unbroadcast(g, before),)


@op
def pad(x, *, widths, value=0.0):
    """Put `value` around x. widths: one (before, after) pair per axis."""
    widths = tuple(tuple(map(operator.index, pair)) for pair in widths)
    inner = tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))
    y = xp_of(x).pad(x, widths, mode="constant", constant_values=value)
    return y, (lambda g: g[inner],)


@op
def getitem(x, *, index):
    """x[index] with numbers, slices, None, ..., integer arrays (repeats add up) and masks."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(plain(p.data if isinstance(p, Tensor) else p) for p in parts)
    basic = all(p is None or p is ... or isinstance(p, (int, slice)) for p in parts)
    xp, shape = xp_of(x), x.shape
    if xp is not np:  # lists and host arrays do not index a device array
        parts = tuple(
            xp.asarray(p) if isinstance(p, (list, range, np.ndarray)) else p for p in parts
        )

    def vjp(g: Array) -> Array:
        full = xp.zeros(shape, wide(g.dtype))
        if basic:
            full[parts] = g
        else:
            xp.add.at(full, parts, g)
        return full

    return x[parts], (vjp,)


@op
def _concatenate(*xs, axis):
    xp, axis = xp_of(*xs), one_axis(shape_of(xs[0]), axis)
    y = xp.concatenate(xs, axis=axis)
    starts, offset = [], 0
    for x in xs:
        starts.append(offset)
        offset += x.shape[axis]

    def part(start: int, n: int) -> Any:
        cut = (slice(None),) * axis + (slice(start, start + n),)
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


# -- matmul --------------------------------------------------------------------------------------


@op
def matmul(a, b):
    """a @ b as NumPy defines it: 1-D operands are a row and a column, leading axes broadcast.

    VJP     ga = g bᵀ, gb = aᵀ g, summed over broadcast axes
    """
    if not shape_of(a) or not shape_of(b):
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


operators.ops = sys.modules[__name__]  # a Tensor's operators are these functions
