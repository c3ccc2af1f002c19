"""Operations that one expects of arrays, though no model here needs them; the next one may.

Each is a name of `ops` and, where NumPy's arrays have it, a method of Tensor too.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.backend import Array, is_whole, xp_of
from minipeft.engine import ops
from minipeft.engine.op import op, unbroadcast
from minipeft.engine.ops import (
    axes_of,
    broadcast_to,
    div,
    getitem,
    in_float32,
    kept,
    matmul,
    mean,
    mul,
    need_elements,
    one_axis,
    reshape,
    shape_of,
    sigmoid,
    sigmoid_of,
    spread,
    sub,
    where,
)
from minipeft.engine.tensor import Tensor

# -- elementwise -----------------------------------------------------------------------------------


@op
def log1p(x):
    """log(1 + x), also where 1 + x would round x off."""
    return xp_of(x).log1p(x), (lambda g: g / (1 + x),)


@op
def expm1(x):
    """exp(x) - 1, also where exp(x) is all but 1."""
    xp = xp_of(x)
    return xp.expm1(x), (lambda g: g * xp.exp(x),)


@op
def sin(x):
    xp = xp_of(x)
    return xp.sin(x), (lambda g: g * xp.cos(x),)


@op
def cos(x):
    xp = xp_of(x)
    return xp.cos(x), (lambda g: -g * xp.sin(x),)


@op
def softplus(x):
    """log(1 + exp(x)), a smooth relu."""
    return xp_of(x).logaddexp(x, 0), (lambda g: g * sigmoid_of(x),)


def silu(x: Any) -> Tensor:
    """x sigmoid(x), also called swish."""
    return mul(x, sigmoid(x))


@op
def maximum(a, b):
    """The larger of the two; where they are equal the gradient goes to a."""
    y = xp_of(a, b).maximum(a, b)
    return y, (
        lambda g: unbroadcast(g * (a >= b), shape_of(a)),
        lambda g: unbroadcast(g * (a < b), shape_of(b)),
    )


@op
def minimum(a, b):
    """The smaller of the two; where they are equal the gradient goes to a."""
    y = xp_of(a, b).minimum(a, b)
    return y, (
        lambda g: unbroadcast(g * (a <= b), shape_of(a)),
        lambda g: unbroadcast(g * (a > b), shape_of(b)),
    )


# -- reductions ------------------------------------------------------------------------------------


@in_float32
def std(x: Any, *, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """Standard deviation; where all values are the same it is 0, and so is its gradient."""
    n = need_elements("std", x, axis)[1]
    if n <= ddof:
        raise ValueError(f"std with ddof={ddof} needs more than {ddof} elements, got {n}")
    centred = sub(x, mean(x, axis=axis, keepdims=True))
    return div(norm(centred, axis=axis, keepdims=keepdims), math.sqrt(n - ddof))


@in_float32
@op
def norm(x, *, axis=None, keepdims=False):
    """Euclidean length, sqrt(Σ x²); where it is 0, so is the gradient. x is divided by its
    largest size before it is squared, so that no square overflows."""
    xp, shape, (axes, _) = xp_of(x), x.shape, need_elements("norm", x, axis)
    top = xp.abs(x).max(axis=axes, keepdims=True)
    top = xp.where((top > 0) & xp.isfinite(top), top, 1)
    share = x / top
    length = xp.sqrt(xp.sum(share * share, axis=axes, keepdims=True))
    direction = share / xp.where(length > 0, length, 1)
    y = length * top
    return (y if keepdims else y.reshape(kept(shape, axes))), (
        lambda g: spread(g, shape, axes) * direction,
    )


@in_float32
@op
def logsumexp(x, *, axis=None, keepdims=False):
    """log Σ exp(x), without overflow."""
    xp, (axes, _) = xp_of(x), need_elements("logsumexp", x, axis)
    top = x.max(axis=axes, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)
    y = xp.log(xp.exp(x - top).sum(axis=axes, keepdims=True)) + top
    return (y if keepdims else y.reshape(kept(x.shape, axes))), (
        lambda g: spread(g, x.shape, axes) * xp.exp(x - xp.where(y == -math.inf, 0, y)),
    )


@in_float32
@op
def prod(x, *, axis=None, keepdims=False):
    """The product. A factor's gradient is the product of the others, which may hold zeros."""
    xp, axes = xp_of(x), axes_of(x.shape, axis)
    lead = tuple(i for i in range(x.ndim) if i not in axes)
    back = sorted(range(x.ndim), key=(*lead, *axes).__getitem__)

    def vjp(g: Array) -> Array:
        moved = x.transpose(*lead, *axes)
        n = math.prod(moved.shape[len(lead) :])
        rows = moved.reshape(*moved.shape[: len(lead)], n)
        one = xp.ones((*rows.shape[:-1], 1), x.dtype)

        def before(rows: Array) -> Array:  # the product of the factors before each
            return xp.cumprod(xp.concatenate([one, rows], axis=-1), axis=-1)[..., :n]

        others = before(rows) * xp.flip(before(xp.flip(rows, -1)), -1)
        return spread(g, x.shape, axes) * others.reshape(moved.shape).transpose(back)

    return xp.prod(x, axis=axes, keepdims=keepdims), (vjp,)


@in_float32
@op
def cumsum(x, *, axis=None):
    """Running sums along an axis; with None, and of a scalar, over all elements in C order."""
    xp, before = xp_of(x), x.shape
    if axis is None or not before:
        x, axis = x.reshape(-1), axis or 0
    axis = one_axis(x.shape, axis)

    def vjp(g: Array) -> Array:
        return xp.flip(xp.cumsum(xp.flip(g, axis), axis=axis), axis).reshape(before)

    return xp.cumsum(x, axis=axis), (vjp,)


# -- shapes ----------------------------------------------------------------------------------------


@op
def squeeze(x, *, axis=None):
    before = x.shape
    axes = None if axis is None else axes_of(before, axis)
    return xp_of(x).squeeze(x, axis=axes), (lambda g: g.reshape(before),)


@op
def roll(x, *, shift, axis=None):
    """Move elements along an axis, or with None along all of them in C order; what is pushed out
    at the end comes in at the start."""
    xp, axes = xp_of(x), None if axis is None else axes_of(x.shape, axis)
    several = isinstance(shift, (tuple, list))
    shift, back = (tuple(shift), tuple(-s for s in shift)) if several else (shift, -shift)
    return xp.roll(x, shift, axes), (lambda g: xp.roll(g, back, axes),)


def flip(x: Any, *, axis: Any = None) -> Tensor:
    """Reverse the order along an axis, along several, or with None along all."""
    axes = axes_of(x.shape, axis)
    turned = slice(None, None, -1)
    return getitem(x, index=tuple(turned if i in axes else slice(None) for i in range(x.ndim)))


def repeat(x: Any, *, repeats: Any, axis: int | None = None) -> Tensor:
    """Repeat each element along an axis, or with None each of all elements in C order.

    repeats  how often: one number for all, or one for each
    """
    if axis is None:
        x, axis = reshape(x, shape=-1), 0
    axis = one_axis(x.shape, axis)
    return getitem(x, index=(slice(None),) * axis + (np.arange(x.shape[axis]).repeat(repeats),))


def tile(x: Any, *, reps: Any) -> Tensor:
    """Lay copies of the whole side by side, reps of them along each of the last axes."""
    reps = (reps,) if is_whole(reps) else tuple(reps)
    reps = (1,) * (x.ndim - len(reps)) + reps
    sizes = (1,) * (len(reps) - x.ndim) + x.shape
    rows = reshape(x, shape=[m for n in sizes for m in (1, n)])
    laid = broadcast_to(rows, shape=[m for pair in zip(reps, sizes, strict=True) for m in pair])
    return reshape(laid, shape=[r * n for r, n in zip(reps, sizes, strict=True)])


def tril(x: Any, *, k: int = 0) -> Tensor:
    """0 above the k-th diagonal of the last two axes."""
    return where(_below(x, k), x, 0)


def triu(x: Any, *, k: int = 0) -> Tensor:
    """0 below the k-th diagonal of the last two axes."""
    return where(_below(x, k - 1), 0, x)


def _below(x: Any, k: int) -> Array:
    """True on and below the k-th diagonal.  (..., n, m) -> (n, m)"""
    if x.ndim < 2:
        raise ValueError(f"tril and triu need two axes or more, got shape {x.shape}")
    xp = xp_of(getattr(x, "data", x))
    return xp.tril(xp.ones(x.shape[-2:], bool), k)


def split(x: Tensor, *, sections: Any, axis: int = 0) -> list[Tensor]:
    """Cut x into equal `sections`, or before the indices of a list, along an axis."""
    axis = one_axis(x.shape, axis)
    n = x.shape[axis]
    if is_whole(sections):
        if sections < 1 or n % sections:
            raise ValueError(f"split: axis {axis} of size {n} does not divide into {sections}")
        cuts = [n // sections * i for i in range(1, sections)]
    else:
        cuts = [operator.index(c) for c in sections]
    lead = (slice(None),) * axis
    return [
        getitem(x, index=(*lead, slice(a, b))) for a, b in zip([0, *cuts], [*cuts, n], strict=True)
    ]


# -- products --------------------------------------------------------------------------------------


def dot(a: Any, b: Any) -> Tensor:
    """np.dot of scalars, vectors and matrices: a product, or a sum of products."""
    if not shape_of(a) or not shape_of(b):
        return mul(a, b)
    if len(shape_of(b)) > 2:
        raise ValueError(f"dot of {shape_of(a)} and {shape_of(b)}: b has more than two axes; say "
                         "which to sum over with einsum, or use @")  # fmt: skip
    return matmul(a, b)


# -- as methods ------------------------------------------------------------------------------------

AXIS = ("axis", "keepdims")
METHODS: dict[Callable[..., Any], tuple[str, ...]] = {  # settings that may come by position
    log1p: (), expm1: (), sin: (), cos: (), softplus: (), silu: (), dot: ("b",),
    std: (*AXIS, "ddof"), norm: AXIS, logsumexp: AXIS, prod: AXIS, cumsum: ("axis",),
    squeeze: ("axis",), roll: ("shift", "axis"), flip: ("axis",), repeat: ("repeats", "axis"),
    tile: ("reps",), tril: ("k",), triu: ("k",),
}  # fmt: skip


def _method(f: Callable[..., Any], settings: tuple[str, ...]) -> Callable[..., Tensor]:
    @functools.wraps(f)
    def method(self: Tensor, *given: Any, **named: Any) -> Tensor:
        if len(given) > len(settings):
            raise TypeError(f"{f.__name__}() takes {len(settings)} settings, got {len(given)}")
        return f(self, **dict(zip(settings, given, strict=False)), **named)

    return method


for _f, _settings in METHODS.items():
    setattr(Tensor, _f.__name__, _method(_f, _settings))
for _name in (*(f.__name__ for f in METHODS), "maximum", "minimum", "split"):
    setattr(ops, _name, globals()[_name])
