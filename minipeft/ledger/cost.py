"""What each operation makes, keeps until backward, and costs, by the shapes of its inputs.

A rule takes the Meter that counts (meter.py) and the op's arguments, and returns what the op
returns: its value, here a Blank, and one VJP per input. It is written from the operation's
mathematics, its `Keeps` line, not from its code: an operation whose code keeps one array more
than it has to disagrees with its rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.backend import ERF_PART, Array, is_array
from minipeft.engine import fused, ops
from minipeft.methods import projection

Meter = Any  # the Meter of meter.py, which reads these rules

ERF = 15  # arrays that backend.erf holds at once, each of a part of x

Rule = Callable[..., tuple[Any, Any]]  # (meter, *arrays, **settings) -> (y, VJPs), as an @op does


def _bytes(*arrays: Any) -> int:
    return sum(a.size * a.dtype.itemsize for a in arrays)


def _elementwise(*keeps: str, work: float = 0, back: float = 0) -> Rule:
    """An output of the broadcast shape.

    keeps       per input the arrays that its VJP needs: a, b, c the inputs, y the output
    work, back  arrays of y's size held while the operation and each VJP run
    """

    def rule(m: Meter, *arrays: Any, **_: Any) -> tuple[Any, Any]:
        y = m.new(np.broadcast_shapes(*(getattr(a, "shape", ()) for a in arrays)), *arrays)
        m.spike(int(work * y.nbytes))
        named = dict(zip("abc", arrays, strict=False)) | {"y": y}
        return y, tuple(
            m.gradient(x, *(named[k] for k in kept), work=int(back * y.nbytes))
            for x, kept in zip(arrays, keeps, strict=True)
        )

    return rule


def _sum_of_two(m: Meter, a: Any, b: Any) -> tuple[Any, Any]:
    """The gradient is g itself, not a copy, where nothing was broadcast."""
    y = m.new(np.broadcast_shapes(*(getattr(x, "shape", ()) for x in (a, b))), a, b)
    whole = y.shape

    def vjp(x: Any) -> Any:
        return (lambda g: g) if getattr(x, "shape", ()) == whole else m.gradient(x)

    return y, (vjp(a), vjp(b))


def _reduced(keeps: str, work: int = 0, back: int = 0) -> Rule:
    """keeps: x, y, or c for a copy of x, centred or scaled; work, back: arrays of x's size"""

    def rule(m: Meter, x: Any, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
        axes = ops.axes_of(x.shape, axis)
        sizes = [1 if i in axes else n for i, n in enumerate(x.shape)]
        kept = {"x": x, "c": m.new(x.shape, x) if "c" in keeps else None}
        y = m.new(
            tuple(sizes) if keepdims else tuple(n for i, n in enumerate(x.shape) if i not in axes),
            x,
        )
        m.spike(work * _bytes(x))
        return y, (m.gradient(x, *(kept.get(k, y) for k in keeps), work=back * _bytes(x)),)

    return rule


def _sum(m: Meter, x: Any, **settings: Any) -> tuple[Any, Any]:
    """The gradient repeats g without a copy."""
    y, _ = _reduced("")(m, x, **settings)
    shape = x.shape

    def vjp(g: Array) -> Array:
        return np.broadcast_to(g.reshape(-1)[:1], math.prod(shape), subok=True).reshape(shape)

    return y, (vjp,)


def _cast(m: Meter, x: Any, *, dtype: Any) -> tuple[Any, Any]:
    if x.dtype == dtype:
        return x, (lambda g: g,)
    return m.new(x.shape, dtype=dtype), (m.gradient(x),)


def _cumsum(m: Meter, x: Any, *, axis: Any = None) -> tuple[Any, Any]:
    y = m.new((x.size,) if axis is None or not x.shape else x.shape, x)
    return y, (m.gradient(x, work=y.nbytes),)


def _pad(m: Meter, x: Any, *, widths: Any, value: float = 0.0) -> tuple[Any, Any]:
    inner = tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))
    y = m.new(tuple(n + a + b for n, (a, b) in zip(x.shape, widths, strict=True)), x)
    return y, (lambda g: g[inner],)


def _getitem(m: Meter, x: Any, *, index: Any) -> tuple[Any, Any]:
    """A view for numbers and slices, which keeps nothing; else a copy, which keeps the index."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(getattr(p, "data", p) if not is_array(p) else p for p in parts)
    if not any(is_array(p) or isinstance(p, list) for p in parts):
        return x[parts], (m.gradient(x),)
    shape = np.broadcast_to(np.zeros((), bool), x.shape)[parts].shape
    return m.new(shape, x), (m.gradient(x, *(p for p in parts if is_array(p))),)


def _concatenate(m: Meter, *xs: Any, axis: int) -> tuple[Any, Any]:
    axis %= xs[0].ndim
    ends = np.cumsum([x.shape[axis] for x in xs]).tolist()
    shape = (*xs[0].shape[:axis], ends[-1], *xs[0].shape[axis + 1 :])

    def vjp(start: int, end: int) -> Any:
        return lambda g: g[(slice(None),) * axis + (slice(start, end),)]

    return m.new(shape, *xs), tuple(map(vjp, [0, *ends[:-1]], ends))


def _broadcast_to(m: Meter, x: Any, *, shape: Any) -> tuple[Any, Any]:
    return np.broadcast_to(x, shape, subok=True), (m.gradient(x),)


def _matmul(m: Meter, a: Any, b: Any) -> tuple[Any, Any]:
    flat_a, flat_b = a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None]
    lead = np.broadcast_shapes(flat_a.shape[:-2], flat_b.shape[:-2])
    ends = (flat_a.shape[-2],) * (a.ndim > 1) + (flat_b.shape[-1],) * (b.ndim > 1)
    y = m.new((*lead, *ends), a, b)
    n = 2 * y.size * a.shape[-1]
    m.flops(n)
    return y, (m.gradient(a, b, flops=n), m.gradient(b, a, flops=n))


def _linear(m: Meter, x: Any, w: Any, b: Any = None) -> tuple[Any, Any]:
    y = m.new((*x.shape[:-1], len(w)), x)
    n = 2 * x.size * len(w)
    m.flops(n)
    return y, (m.gradient(x, w, flops=n), m.gradient(w, x, flops=n), m.gradient(b))


def _linear_decoded(m: Meter, x: Any, b: Any = None, *, decode: Any, shape: Any) -> Any:
    n_out, n_in = shape
    y = m.new((*x.shape[:-1], n_out), x)
    n, weight = 2 * x.size * n_out, n_out * n_in * x.dtype.itemsize
    m.flops(n)
    m.spike(weight)
    return y, (m.gradient(x, flops=n, work=weight), m.gradient(b))


def _add_low_rank(m: Meter, y: Any, x: Any, a: Any, b: Any, *, scale: float) -> tuple[Any, Any]:
    r = len(a)
    down = m.new((x.size // x.shape[-1], r), x)
    into, out = 2 * x.size * r, 2 * y.size * r  # FLOPs of a product with a, and with b
    m.flops(into + out)

    def flops(needs: tuple[bool, ...]) -> int:
        _, x, a, b = needs
        return out * (x or a) + into * (x + a) + out * b

    made = m.new(y.shape, y)
    whole = m.together((x, a, b), (x, a, b, down), lambda n: flops((False, *n)), work=_bytes(down))
    return made, lambda g, needs: [g if needs[0] else None, *whole(g, needs[1:])]


def _layer_norm(m: Meter, x: Any, w: Any, b: Any, *, eps: float = 1e-5) -> tuple[Any, Any]:
    h, s = m.new(x.shape, x), m.new((x.size // x.shape[-1], 1), x)
    y = m.new(x.shape, x)
    return y, m.together((x, w, b), (h, s, w), work=_bytes(h))


def _rms_norm(m: Meter, x: Any, w: Any, *, eps: float = 1e-5) -> tuple[Any, Any]:
    s, y = m.new((x.size // x.shape[-1], 1), x), m.new(x.shape, x)
    return y, m.together((x, w), (x, s, w), work=_bytes(x))


def _rotary(m: Meter, x: Any, positions: Any, *, width: int, theta: float = 1e4) -> Any:
    y = m.new(x.shape, x)
    angles = positions.size * (width // 2)
    work = angles * (8 + 2 * x.dtype.itemsize) + y.nbytes // 2  # their cos and sin, half a turn
    m.spike(work)
    return y, (m.gradient(x, positions, work=work), None)


def _swiglu(m: Meter, a: Any, b: Any) -> tuple[Any, Any]:
    y = m.new(a.shape, a, b)
    m.spike(y.nbytes)
    return y, m.together((a, b), (a, b), work=2 * y.nbytes)


def _erf_work(x: Any) -> int:
    """Bytes that backend.erf holds while it runs."""
    return ERF * min(x.size, ERF_PART) * x.dtype.itemsize


def _erf(m: Meter, x: Any) -> tuple[Any, Any]:
    y = m.new(x.shape, x)
    m.spike(_erf_work(x))
    return y, (m.gradient(x, x, work=2 * y.nbytes),)


def _gelu_erf(m: Meter, x: Any) -> tuple[Any, Any]:
    cdf = m.new(x.shape, x)
    m.spike(cdf.nbytes + _erf_work(x))  # and x/√2
    return m.new(x.shape, x), (m.gradient(x, x, cdf, work=cdf.nbytes),)


def _attention(
    m: Meter,
    q: Any,
    k: Any,
    v: Any,
    *,
    heads: int,
    causal: bool,
    mask: Any = None,
    factors: Any = None,
) -> tuple[Any, Any]:
    fused.check_attention(q, k, v, heads, causal)
    (B, T), S, item = q.shape[:2], k.shape[1], q.dtype.itemsize
    p = m.new((B, heads, T, S), q)
    y = m.new(q.shape, q)
    product = 2 * q.size * S  # FLOPs of q kᵀ, of p v, and of each product of the VJP
    m.flops(2 * product)
    rows = max(1, fused.SCORES // max(1, heads * T * S))  # of the batch, done at a time
    part = min(B, rows) * heads * T * S * item
    hidden = (B if mask is not None and causal and T > 1 else 1) * T * S * item
    m.spike((hidden if causal or mask is not None else 0) + (part if factors is not None else 0))

    def flops(needs: tuple[bool, ...]) -> int:
        for_q, for_k, for_v = needs
        return product * ((for_q or for_k) + for_q + for_k + for_v)

    kept = (q, k, v, p) if factors is None else (q, k, v, p, factors)
    work = part * ((1 if rows >= B else 2) + (factors is not None))
    if k.shape[2] < q.shape[2]:  # queries of the heads that share a key head, put together
        work += min(B, rows) * _bytes(q) // B
    return y, m.together((q, k, v), kept, flops, work)


def _embedding(m: Meter, w: Any, ids: Any) -> tuple[Any, Any]:
    return m.new((*ids.shape, w.shape[1]), w), (m.gradient(w, ids), None)


def _cross_entropy(
    m: Meter, logits: Any, labels: Any, *, ignore: int = -100, smoothing: float = 0.0
) -> tuple[Any, Any]:
    n, V = int((labels != ignore).sum()), logits.shape[-1]
    p = m.new((n, V), logits)
    if n < labels.size:
        m.spike(p.nbytes)  # the rows that count, cut out
    places = m.new((3, n), dtype=np.int64)  # which rows, their labels, and 0 … n-1
    work = 0 if n == labels.size else _bytes(p)
    return m.new((), logits), (m.gradient(logits, p, places, work=work), None)


def _hadamard(m: Meter, x: Any) -> tuple[Any, Any]:
    n = x.size * (x.shape[-1].bit_length() - 1)  # sums and differences
    m.flops(n)
    y = m.new(x.shape, x)
    work = y.nbytes if x.shape[-1] > projection.FACTOR else 0  # each product makes a new one
    m.spike(work)
    return y, (m.gradient(x, flops=n, work=work),)


def _fastfood(
    m: Meter, z: Any, signs: Any, order: Any, scales: Any, *, size: int
) -> tuple[Any, Any]:
    """Two transforms, the first of them short."""
    long, short = len(order), 1 << (len(z) - 1).bit_length()
    n = sum(k * (k.bit_length() - 1) for k in (long, short))
    m.flops(n)
    work = long * z.dtype.itemsize
    whole = m.new((long,), z)  # y is its first part
    m.spike(2 * work)
    vjp = m.gradient(z, signs, order, scales, flops=n, work=4 * work)
    return whole[:size], (vjp, None, None, None)


def _scatter_signs(m: Meter, z: Any, rows: Any, signs: Any, *, size: int) -> tuple[Any, Any]:
    n = 2 * rows.size
    m.flops(n)
    y, double = m.new((size,), z), np.dtype(np.float64).itemsize
    cast = double * rows.size if z.dtype.itemsize < double else 0
    m.spike(_bytes(signs) + cast + double * size)  # bincount adds up in float64
    vjp = m.gradient(z, rows, signs, flops=n, work=_bytes(signs))
    return y, (vjp, None, None)


RULES: dict[str, Rule | None] = {  # None: a view, which the operation itself makes
    "_cast": _cast,
    "add": _sum_of_two,
    "sub": _elementwise("", ""),
    "mul": _elementwise("b", "a"),
    "div": _elementwise("b", "by"),
    "neg": _elementwise(""),
    "pow": _elementwise("ab", "aby", back=1),
    "exp": _elementwise("y"),
    "log": _elementwise("a"),
    "log1p": _elementwise("a", back=1),
    "expm1": _elementwise("a", back=1),
    "sqrt": _elementwise("y"),
    "sin": _elementwise("a"),
    "cos": _elementwise("a", back=1),
    "tanh": _elementwise("y", back=1),
    "sigmoid": _elementwise("y", work=2, back=1),
    "softplus": _elementwise("a", back=2),
    "relu": _elementwise("a"),
    "erf": _erf,
    "abs": _elementwise("a"),
    "maximum": _elementwise("ab", "ab"),
    "minimum": _elementwise("ab", "ab"),
    "where": _elementwise("", "a", "a"),
    "clip": _elementwise("ay"),
    "roll": _elementwise(""),
    "softmax": _elementwise("y"),
    "log_softmax": _elementwise("y", work=1, back=1),
    "gelu": _elementwise("a", back=3),
    "gelu_erf": _gelu_erf,
    "sum": _sum,
    "mean": _reduced(""),
    "var": _reduced("c", work=1),
    "norm": _reduced("c"),
    "prod": _reduced("x"),
    "logsumexp": _reduced("xy", work=2, back=1),
    "cumsum": _cumsum,
    "max": _reduced("xy", back=1),
    "min": _reduced("xy", back=1),
    "reshape": None,
    "transpose": None,
    "swapaxes": None,
    "squeeze": None,
    "expand_dims": None,
    "broadcast_to": _broadcast_to,
    "pad": _pad,
    "getitem": _getitem,
    "_concatenate": _concatenate,
    "matmul": _matmul,
    "linear": _linear,
    "linear_decoded": _linear_decoded,
    "add_low_rank": _add_low_rank,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rotary": _rotary,
    "swiglu": _swiglu,
    "attention": _attention,
    "embedding": _embedding,
    "cross_entropy": _cross_entropy,
    "hadamard": _hadamard,
    "fastfood": _fastfood,
    "scatter_signs": _scatter_signs,
}
