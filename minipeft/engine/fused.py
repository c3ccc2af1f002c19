"""The operations that a transformer spends its time in, fast, each beside its slow twin.

A fused op does in a few passes over memory what its twin composes from ops.py. The twin is
its oracle: values and gradients must agree. Where inputs share work in the derivative, an op
returns one `vjp(g, needs)` for all of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minipeft import backend
from minipeft.backend import Array, xp_of
from minipeft.engine import ops
from minipeft.engine.op import op, wide
from minipeft.engine.ops import in_float32
from minipeft.engine.tensor import Tensor

SCORES = 1 << 18  # attention weights computed at a time on the CPU, so that they stay in cache
MASKED = -1e30  # exp gives exactly 0; finite, so that a row with nothing to see is not NaN

# -- linear -------------------------------------------------------------------------------------


def as_rows(x: Array, n: int) -> Array:
    """(..., n) -> (N, n): all axes but the last as one; reshape(-1, n) would fail for n = 0."""
    return x.reshape(math.prod(x.shape[:-1]), n)


@op
def linear(x, w, b=None):
    """An affine map of the last axis.

    y = x wᵀ + b
    Shapes  x (..., I), w (O, I), b (O,) or None -> (..., O)
    VJP     gx = g w, gw = gᵀ x, gb = sum of g over rows
    Keeps   x only if w trains
    Raises  ValueError if the last axis of x is not I
    """
    if x.shape[-1:] != w.shape[1:]:
        raise ValueError(f"linear: x has shape {x.shape}, w (out, in) = {w.shape}: in must match")
    n_out, n_in = w.shape
    rows = as_rows(x, n_in)  # (N, I)
    y = rows @ w.T
    if b is not None:
        y += b
    return y.reshape(*x.shape[:-1], n_out), (
        lambda g: (as_rows(g, n_out) @ w).reshape(*g.shape[:-1], n_in),
        lambda g: as_rows(g, n_out).T @ rows,
        lambda g: sum_rows(as_rows(g, n_out)),
    )


def linear_slow(x: Any, w: Any, b: Any = None) -> Tensor:
    """The twin of `linear`."""
    y = ops.matmul(x, ops.transpose(w))
    return y if b is None else y + b


@op
def add_low_rank(y, x, a, b, *, scale):
    """A low-rank map of x, added to what another path made of x.

    out = y + s (x aᵀ) bᵀ                               Hu et al. 2021, eq. 3
    Shapes  y (..., O), x (..., I), a (r, I), b (O, r) -> (..., O)
    VJP     gy = g, gx = d a, ga = dᵀ x, gb = s gᵀ (x aᵀ), d = s g b
    Keeps   x, s x aᵀ (N, r)
    Raises  ValueError if the shapes do not chain
    """
    r, n_in = a.shape
    n_out = b.shape[0]
    if x.shape[-1] != n_in or b.shape[1] != r or y.shape != (*x.shape[:-1], n_out):
        raise ValueError(f"add_low_rank: y {y.shape} and x {x.shape} do not chain with "
                         f"a {a.shape} and b {b.shape}")  # fmt: skip
    rows, shape = as_rows(x, n_in), x.shape
    down = rows @ a.T  # (N, r)
    down *= scale
    out = down @ b.T
    out += as_rows(y, n_out)

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        flat, gx, ga = as_rows(g, n_out), None, None
        if needs[1] or needs[2]:
            d = flat @ b  # (N, r)
            d *= scale
            gx = (d @ a).reshape(shape) if needs[1] else None
            ga = d.T @ rows if needs[2] else None
        return (g if needs[0] else None), gx, ga, (flat.T @ down if needs[3] else None)

    return out.reshape(y.shape), vjp


def add_low_rank_slow(y: Any, x: Any, a: Any, b: Any, *, scale: float) -> Tensor:
    """The twin of `add_low_rank`."""
    return y + linear_slow(linear_slow(x, a) * scale, b)


def sum_rows(g: Array) -> Array:
    """Sum over axis 0 as a product, which is faster than .sum(0).  (N, O) -> (O,)"""
    return xp_of(g).ones(len(g), g.dtype) @ g


def row_dots(a: Array, b: Array) -> Array:
    """Σ_j a_ij b_ij.  (N, C), (N, C) -> (N, 1)"""
    return xp_of(a).einsum("ij,ij->i", a, b)[:, None]


# -- layer norm ---------------------------------------------------------------------------------


@in_float32
@op
def layer_norm(x, w, b, *, eps=1e-5):
    """Centre and scale the last axis.

    y = (x - mean) / sqrt(var + eps) * w + b            Ba et al. 2016, eq. 4
    Shapes  x (..., C), w (C,), b (C,) -> (..., C)
    Units   eps is in units of x squared; var divides by C, not C-1
    VJP     gx = s (h̄ - mean h̄ - h mean(h̄ h)), h̄ = g w, h = (x - mean) s
    Keeps   h, s until backward
    Raises  ValueError if w or b is not (C,), or C is 0
    """
    xp, n = xp_of(x), x.shape[-1]
    if n == 0 or w.shape != (n,) or b.shape != (n,):
        raise ValueError(f"layer_norm: x {x.shape} needs w, b ({n},); got {w.shape}, {b.shape}")
    average = xp.full((n, 1), 1 / n, x.dtype)
    h = x.reshape(-1, n)
    h = h - h @ average  # (N, C)
    s = inverse_deviation(h, eps)  # (N, 1)
    h *= s
    y = h * w
    y += b

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = g.reshape(-1, n)
        gx = None
        if needs[0]:
            gx = g * w  # h̄
            dots = row_dots(gx, h) / n
            gx -= gx @ average
            gx -= h * dots
            gx *= s
            gx = gx.reshape(x_shape)
        gw = xp.einsum("ij,ij->j", g, h) if needs[1] else None
        return gx, gw, sum_rows(g) if needs[2] else None

    x_shape = x.shape
    return y.reshape(x_shape), vjp


def inverse_deviation(h: Array, eps: float) -> Array:
    """1 / sqrt(mean of h² + eps) of centred rows, on the CPU also where h² overflows: there h is
    divided by its largest size before it is squared.  (N, C) -> (N, 1)"""
    xp, n = xp_of(h), h.shape[1]
    s = 1 / xp.sqrt(row_dots(h, h) / n + eps)
    if xp is np and not s.all():
        rows = s[:, 0] == 0
        top = abs(h[rows]).max(axis=1, keepdims=True)
        share = h[rows] / top
        s[rows] = 1 / (top * np.sqrt(row_dots(share, share) / n))
    return s


@in_float32
def layer_norm_slow(x: Any, w: Any, b: Any, *, eps: float = 1e-5) -> Tensor:
    """The twin of `layer_norm`."""
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    return centred / ops.sqrt(ops.var(x, axis=-1, keepdims=True) + eps) * w + b


# -- GELU ---------------------------------------------------------------------------------------

_C = math.sqrt(2 / math.pi)
FAR = 1e24  # an x² far beyond the part of tanh that is not flat


@in_float32
@op
def gelu(x):
    """GELU in its tanh form, GPT-2's.

    y = x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))     Hendrycks & Gimpel 2016
    Shapes  any -> the same
    VJP     gx = g ((1 + t)/2 + x/2 (1 - t²) sqrt(2/π) (1 + 3 · 0.044715 x²))
    Keeps   x; tanh is computed again, which is cheaper than keeping it
    """
    xp = xp_of(x)

    def tanh_of(t: Array) -> Array:  # t from 0.044715 sqrt(2/π) x²
        t += _C
        t *= x
        return xp.tanh(t, out=t)

    def vjp(g: Array) -> Array:
        slope = xp.asarray(x * x)  # a product of 0-d arrays is a scalar, which has no out=
        overflows = xp is not np or slope.max(initial=0) > FAR
        t = tanh_of(xp.asarray(slope * (0.044715 * _C)))
        slope *= 3 * 0.044715 * _C
        slope += _C
        slope *= x
        if overflows:  # out there 1 - t² is 0, and 0 times infinity would be nan
            xp.clip(slope, -FAR, FAR, out=slope)
        slope *= 1 - t * t
        slope += t
        slope += 1
        slope *= 0.5
        slope *= g
        return slope

    y = xp.asarray(x * x)
    y *= 0.044715 * _C
    y = tanh_of(y)
    y += 1
    y *= 0.5  # before x, or the largest numbers would overflow
    y *= x
    return y, (vjp,)


@in_float32
def gelu_slow(x: Any) -> Tensor:
    """The twin of `gelu`."""
    near = ops.clip(x, low=-30, high=30)  # tanh is 1 from 8 on, and a cube may overflow
    return 0.5 * x * (1 + ops.tanh(_C * (near + 0.044715 * near**3)))


# -- softmax ------------------------------------------------------------------------------------


def softmax_axis(name: str, x: Array, axis: int) -> int:
    """The axis as a non-negative number; an error where it is empty."""
    found = ops.one_axis(x.shape, axis) if x.ndim else None
    if found is None or x.shape[found] == 0:
        raise ValueError(f"{name} over axis {axis} of shape {x.shape}: there is nothing to weigh")
    return found


@in_float32
@op
def softmax(x, *, axis=-1):
    """exp(x) over its sum along an axis.

    y_i = exp(x_i) / Σ_j exp(x_j)
    Shapes  any -> the same
    VJP     gx = y (g - Σ_j g_j y_j)
    Keeps   y
    Raises  ValueError if the axis is empty
    """
    xp, axis = xp_of(x), softmax_axis("softmax", x, axis)
    y = x - x.max(axis=axis, keepdims=True)
    xp.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y, (lambda g: y * (g - (g * y).sum(axis=axis, keepdims=True)),)


@in_float32
def softmax_slow(x: Any, *, axis: int = -1) -> Tensor:
    """The twin of `softmax`."""
    e = ops.exp(x - ops.max(x, axis=axis, keepdims=True))
    return e / ops.sum(e, axis=axis, keepdims=True)


# -- attention ----------------------------------------------------------------------------------


def _mask_bias(q: Array, S: int, causal: bool, mask: Array | None) -> Array | None:
    """0 where a query may look, MASKED elsewhere.  -> (B, 1, T or 1, S), or None"""
    xp, (B, T) = xp_of(q), q.shape[:2]
    bias = None
    if causal and T > 1:  # the last query sees all S keys, the one before it S - 1, …
        bias = xp.triu(xp.full((T, S), MASKED, q.dtype), S - T + 1)[None, None]
    if mask is not None:
        if mask.shape != (B, S):
            raise ValueError(f"attention: mask must be (B, S) = {(B, S)}, got {mask.shape}")
        padding = xp.where(xp.asarray(mask, dtype=bool), 0, MASKED).astype(q.dtype)
        bias = padding[:, None, None, :] if bias is None else bias + padding[:, None, None, :]
    return bias if bias is None else xp.broadcast_to(bias, (B, *bias.shape[1:]))


def check_attention(q: Array, k: Array, v: Array, heads: int, causal: bool) -> None:
    """Raise ValueError if attention cannot take these shapes."""
    B, T, C = q.shape
    if C % heads:
        raise ValueError(f"attention: width {C} does not divide into {heads} heads")
    even = k.shape[2] and C % k.shape[2] == 0 and k.shape[2] % (C // heads) == 0
    if k.shape != v.shape or k.shape[0] != B or not even:
        raise ValueError(f"attention: q {q.shape} needs k, v ({B}, S, {C}), or fewer heads than "
                         f"{heads}, each for as many of q; got {k.shape}, {v.shape}")  # fmt: skip
    if k.shape[1] == 0 or (causal and k.shape[1] < T):
        raise ValueError(f"attention: {T} queries need at least {T if causal else 1} keys; "
                         f"got {k.shape[1]}")  # fmt: skip


@in_float32
@op
def attention(q, k, v, *, heads, causal, mask=None, factors=None):
    """Scaled dot-product attention of H heads that lie side by side in the last axis.

    y = softmax(q kᵀ / sqrt(D) + mask) v, per head       Vaswani et al. 2017, eq. 1
    Shapes  q (B, T, C), k, v (B, S, C), C = H D; mask (B, S), true where a key is real;
            factors (B, H, T, S), dropout's factors on the weights, or None -> (B, T, C)
    Groups  k, v (B, S, K D) have K heads, each for H / K of the queries' heads that follow each
            other                                        Ainslie et al. 2023, sec. 2.2
    Masks   a query that sees no key gives 0. Causal is aligned right: keys before the first
            query (a `past`) are seen by all
    VJP     with weights p: gv = pᵀ g, ds = p (g vᵀ - Σ_s g vᵀ p), gq = ds k, gk = dsᵀ q
    Keeps   q, k, v and p (B, H, T, S)
    Raises  ValueError if shapes disagree or C does not divide into H
    """
    check_attention(q, k, v, heads, causal)
    xp, (B, T, C), S = xp_of(q), q.shape, k.shape[1]
    D = C // heads
    K, scale = k.shape[2] // D, 1 / math.sqrt(D)

    def split(x: Array) -> Array:  # (B, T, C) -> (B, K, H / K, T, D), of k and v (B, K, 1, S, D)
        return x.reshape(*x.shape[:2], K, x.shape[2] // (K * D), D).transpose(0, 2, 3, 1, 4)

    def stacked(x: Array) -> Array:  # (…, H / K, T, D) -> (…, 1, H / K T, D), a view if H = K
        return x.reshape(*x.shape[:2], 1, -1, x.shape[4])

    qh, kh, vh = split(q), split(k), split(v)
    n = max(1, SCORES // max(1, heads * T * S) if xp is np else B)
    parts = [slice(i, i + n) for i in range(0, B, n)]
    bias = _mask_bias(q, S, causal, mask)
    p = xp.empty((B, K, heads // K, T, S), q.dtype)
    factors = None if factors is None else factors.reshape(p.shape)
    y = xp.empty((B, T, C), q.dtype)
    for part in parts:
        w = p[part]  # (n, K, H / K, T, S)
        # scores of queries and keys, hidden ones far below the others
        xp.matmul(qh[part], kh[part].swapaxes(3, 4), out=w)
        w *= scale
        if bias is not None:
            w += bias[part][:, :, None]
        # softmax over the keys
        w -= w.max(axis=-1, keepdims=True)
        xp.exp(w, out=w)
        w /= w.sum(axis=-1, keepdims=True)
        if bias is not None and mask is not None:
            # a query that sees nothing gets 0, not a mean of what is hidden
            w *= bias[part][:, :, None] == 0
        # the mean of the values by these weights
        xp.matmul(w if factors is None else w * factors[part], vh[part], out=split(y)[part])

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        gh = split(g)
        gq, gk, gv = (
            xp.empty(x, p.dtype) if need else None
            for x, need in zip(((B, T, C), (B, S, K * D), (B, S, K * D)), needs, strict=True)
        )
        for part in parts:
            w = p[part]
            if gv is not None:
                used = stacked(w if factors is None else w * factors[part])
                xp.matmul(used.swapaxes(3, 4), stacked(gh[part]), out=split(gv)[part])
            if gq is None and gk is None:
                continue
            ds = gh[part] @ vh[part].swapaxes(3, 4)
            if factors is not None:
                ds *= factors[part]
            ds -= row_dots(ds.reshape(-1, S), w.reshape(-1, S)).reshape(*ds.shape[:4], 1)
            ds *= w
            ds *= scale
            if gq is not None:
                xp.matmul(ds, kh[part], out=split(gq)[part])
            if gk is not None:
                xp.matmul(stacked(ds).swapaxes(3, 4), stacked(qh[part]), out=split(gk)[part])
        return gq, gk, gv

    return y, vjp


@in_float32
def attention_slow(
    q: Any, k: Any, v: Any, *, heads: int, causal: bool, mask: Any = None, factors: Any = None
) -> Tensor:
    """The twin of `attention`."""
    B, T, C = q.shape
    D = C // heads

    def split(x: Any) -> Tensor:  # a head of k or v once for each of the queries' that share it
        alone = ops.swapaxes(ops.reshape(x, shape=(B, -1, x.shape[2] // D, D)), a=1, b=2)
        return alone[:, [h * alone.shape[1] // heads for h in range(heads)]]

    scores = split(q) @ ops.swapaxes(split(k), a=2, b=3) / math.sqrt(D)
    seen = xp_of(q.data).ones((B, 1, T, k.shape[1]), dtype=bool)
    if causal:
        seen = xp_of(q.data).tril(seen, k.shape[1] - T)
    if mask is not None:
        seen = seen & (mask[:, None, None, :] != 0)
    p = softmax_slow(ops.where(seen, scores, MASKED)) * seen
    p = p if factors is None else p * factors
    return ops.reshape(ops.swapaxes(p @ split(v), a=1, b=2), shape=(B, T, C))


# -- embedding ----------------------------------------------------------------------------------


@op
def embedding(w, ids):
    """Rows of a table.

    y = w[ids]
    Shapes  w (V, C), ids (...) integers in [0, V) -> (..., C)
    VJP     gw[i] = sum of g over the positions where ids = i
    Keeps   ids
    Raises  ValueError for an id outside [0, V), TypeError for ids that are not integers
    """
    xp, shape = xp_of(w), w.shape
    ids = xp.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids must be integers, got {ids.dtype}")
    if xp is backend.np and ids.size:
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= len(w):
            bad = low if low < 0 else high
            raise ValueError(f"embedding: id {bad} is outside the table of {len(w)} rows")

    def vjp(g: Array) -> Array:
        gw = xp.zeros(shape, wide(g.dtype))
        backend.scatter_add(gw, ids.reshape(-1), as_rows(g, shape[1]))
        return gw

    return w[ids], (vjp, None)


def embedding_slow(w: Any, ids: Any) -> Tensor:
    """The twin of `embedding`."""
    return ops.getitem(w, index=ids)


# -- cross-entropy ------------------------------------------------------------------------------


def _check_labels(logits: Array, labels: Array, ignore: int) -> tuple[Array, Array, int]:
    """The rows that count, their labels, and how many there are."""
    xp, V = xp_of(logits), logits.shape[-1]
    labels = xp.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: labels must be integers, got {labels.dtype}")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"cross_entropy: logits {logits.shape} need labels {logits.shape[:-1]}, "
                         f"got {labels.shape}")  # fmt: skip
    flat = labels.reshape(-1)
    rows = xp.flatnonzero(flat != ignore)
    kept = flat[rows]
    if len(rows) == 0:
        raise ValueError(f"cross_entropy: all {flat.size} labels are {ignore}, so no mean exists")
    if isinstance(kept, np.ndarray) and (int(kept.min()) < 0 or int(kept.max()) >= V):
        bad = int(kept.min()) if int(kept.min()) < 0 else int(kept.max())
        raise ValueError(f"cross_entropy: label {bad} is outside the {V} classes")
    return rows, kept, len(rows)


@in_float32
@op
def cross_entropy(logits, labels, *, ignore=-100, smoothing=0.0):
    """Mean negative log-likelihood of the labels.

    loss = mean over n of Σ_v t_v (-log softmax(logits)_v),
    t = (1 - smoothing) onehot(label) + smoothing / V    Szegedy et al. 2016, sec. 7
    Shapes  logits (..., V), labels (...) integers; where label = ignore nothing counts -> ()
    Units   nats
    VJP     g (softmax - t) / N, 0 where the label is ignored
    Keeps   softmax of the rows that count
    Raises  ValueError if no label counts, or one is outside [0, V), TypeError for labels that
            are not integers
    """
    rows, labels, n = _check_labels(logits, labels, ignore)
    xp, V, shape = xp_of(logits), logits.shape[-1], logits.shape
    flat = logits.reshape(-1, V)
    every = n == len(flat)
    p = flat if every else flat[rows]  # (N, V)
    p = p - p.max(axis=1, keepdims=True)
    own = xp.arange(n), labels
    loss = -p[own].sum() * (1 - smoothing)
    if smoothing:
        loss -= p.sum() * (smoothing / V)
    xp.exp(p, out=p)
    total = p.sum(axis=1, keepdims=True)
    loss += xp.log(total).sum()
    p /= total

    def vjp(g: Array) -> Array:
        gx = p * (g / n)
        gx[own] -= g * ((1 - smoothing) / n)
        if smoothing:
            gx -= g * (smoothing / V / n)
        if every:
            return gx.reshape(shape)
        full = xp.zeros((math.prod(shape[:-1]), V), gx.dtype)
        full[rows] = gx
        return full.reshape(shape)

    return loss / n, (vjp, None)


@in_float32
def cross_entropy_slow(
    logits: Any, labels: Any, *, ignore: int = -100, smoothing: float = 0.0
) -> Tensor:
    """The twin of `cross_entropy`."""
    V = logits.shape[-1]
    rows, kept, n = _check_labels(logits.data, labels, ignore)
    z = ops.reshape(logits, shape=(-1, V))[rows]
    z = z - ops.max(z, axis=-1, keepdims=True)
    logp = z - ops.log(ops.sum(ops.exp(z), axis=-1, keepdims=True))
    picked = logp[xp_of(logits.data).arange(n), kept]
    return -(ops.mean(picked) * (1 - smoothing) + ops.mean(logp) * smoothing)
