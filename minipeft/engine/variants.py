"""Variants of GPT-2's operations, which other models and methods compute with in their place.

LLaMA has RMS norm, rotary positions and SwiGLU, BERT and ViT the exact GELU; log-softmax is for
losses, and a product with a weight stored as codes for quantized models. As in fused.py, each
stands beside its slow twin.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minipeft import backend
from minipeft.backend import Array, xp_of
from minipeft.engine import array_ops, fused, ops
from minipeft.engine.fused import (
    as_rows,
    inverse_deviation,
    linear_slow,
    row_dots,
    softmax_axis,
    sum_rows,
)
from minipeft.engine.op import op
from minipeft.engine.ops import in_float32
from minipeft.engine.tensor import Tensor

# -- RMS norm -----------------------------------------------------------------------------------


@in_float32
@op
def rms_norm(x, w, *, eps=1e-5):
    """Scale the last axis by its root mean square: a layer norm that does not centre.

    y = x / sqrt(mean x² + eps) * w                     Zhang & Sennrich 2019, eq. 4
    Shapes  x (..., C), w (C,) -> (..., C)
    Units   eps is in units of x squared
    VJP     gx = s (h̄ - h mean(h̄ h)), h̄ = g w, h = x s, s = 1 / sqrt(mean x² + eps)
    Keeps   x, s until backward
    Raises  ValueError if w is not (C,), or C is 0
    """
    shape, n = x.shape, x.shape[-1]
    if n == 0 or w.shape != (n,):
        raise ValueError(f"rms_norm: x {shape} needs w ({n},), got {w.shape}")
    x = x.reshape(-1, n)
    s = inverse_deviation(x, eps)  # (N, 1)
    y = x * s
    y *= w

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g, h, gx = g.reshape(-1, n), x * s, None
        gw = xp_of(g).einsum("ij,ij->j", g, h) if needs[1] else None
        if needs[0]:
            gx = g * w  # h̄
            h *= row_dots(gx, h) / n
            gx -= h
            gx *= s
            gx = gx.reshape(shape)
        return gx, gw

    return y.reshape(shape), vjp


@in_float32
def rms_norm_slow(x: Any, w: Any, *, eps: float = 1e-5) -> Tensor:
    """The twin of `rms_norm`."""
    return x / ops.sqrt(ops.mean(x * x, axis=-1, keepdims=True) + eps) * w


# -- rotary positions ---------------------------------------------------------------------------


@in_float32
@op
def rotary(x, positions, *, width, theta=10_000.0):
    """Turn each head by angles that grow with the position, so that products of queries and keys
    depend on how far apart they are.

    y_i = x_i cos t_i - x_j sin t_i,  y_j = x_j cos t_i + x_i sin t_i,  per head,
    j = i + D/2, t_i = position / theta^(2i/D)          Su et al. 2021, eq. 34, in halves
    Shapes  x (B, T, H D), D = width; positions (B or 1, T) integers -> (B, T, H D)
    VJP     gx is g turned back, by -t; positions get none
    Keeps   positions; the angles are computed again
    Raises  ValueError if shapes disagree or D is odd, TypeError for positions that are not integers
    """
    B, T, C = x.shape
    if width % 2 or C % width:
        raise ValueError(f"rotary: x {x.shape} does not divide into heads of {width}, or these "
                         "into two halves")  # fmt: skip
    if positions.dtype.kind not in "iu":
        raise TypeError(f"rotary: positions must be integers, got {positions.dtype}")
    if positions.shape not in ((B, T), (1, T)):
        raise ValueError(f"rotary: x {x.shape} needs positions {(B, T)} or {(1, T)}, "
                         f"got {positions.shape}")  # fmt: skip

    def turned(x: Array, way: int) -> Array:
        pairs = x.reshape(B, T, C // width, 2, width // 2)
        t = way * angles(positions, width, theta)[:, :, None]  # (B or 1, T, 1, D/2)
        cos, sin = xp.cos(t).astype(x.dtype), xp.sin(t).astype(x.dtype)
        y = pairs * cos[:, :, :, None]
        y[:, :, :, 0] -= pairs[:, :, :, 1] * sin
        y[:, :, :, 1] += pairs[:, :, :, 0] * sin
        return y.reshape(x.shape)

    xp = xp_of(x)
    return turned(x, 1), (lambda g: turned(g, -1), None)


def angles(positions: Array, width: int, theta: float) -> Array:
    """t_i = position / theta^(2i/D), in float64.  positions (B, T) -> (B, T, D/2)"""
    half = width // 2
    return positions[:, :, None] * theta ** (xp_of(positions).arange(half) / -half)


@in_float32
def rotary_slow(x: Any, positions: Any, *, width: int, theta: float = 10_000.0) -> Tensor:
    """The twin of `rotary`."""
    B, T, C = x.shape
    pairs = ops.reshape(x, shape=(B, T, C // width, 2, width // 2))
    a, b = pairs[:, :, :, 0], pairs[:, :, :, 1]
    t = ops.astype(angles(positions, width, theta)[:, :, None], dtype=x.dtype)
    c, d = array_ops.cos(t), array_ops.sin(t)
    y = ops.concatenate([a * c - b * d, b * c + a * d], axis=3)
    return ops.reshape(y, shape=x.shape)


# -- SwiGLU -------------------------------------------------------------------------------------


@in_float32
@op
def swiglu(a, b):
    """SiLU of a gate, times what it lets through.

    y = a σ(a) b, σ(a) = 1 / (1 + exp(-a))              Shazeer 2020, eq. 6
    Shapes  a, b any, the same -> the same
    VJP     ga = g b (σ + a σ (1 - σ)), gb = g a σ
    Keeps   a, b; σ is computed again, which is cheaper than keeping it
    Raises  ValueError if the shapes differ
    """
    if a.shape != b.shape:
        raise ValueError(f"swiglu: a {a.shape} and b {b.shape} must have one shape")
    y = a / _one_and_exp(a)
    y *= b

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        share = 1 / _one_and_exp(a)  # σ
        gate = a * share
        gb = g * gate if needs[1] else None
        if needs[0]:
            gate *= 1 - share
            gate += share
            gate *= b
            gate *= g
        return (gate if needs[0] else None), gb

    return y, vjp


def _one_and_exp(a: Array) -> Array:
    """1 + exp(-a), infinite where it overflows, so that its inverse is 0."""
    xp = xp_of(a)
    with np.errstate(over="ignore"):
        y = xp.asarray(xp.exp(-a))
    y += 1
    return y


@in_float32
def swiglu_slow(a: Any, b: Any) -> Tensor:
    """The twin of `swiglu`."""
    return array_ops.silu(a) * b


# -- a weight stored as codes -------------------------------------------------------------------


@op
def linear_decoded(x, b=None, *, decode, shape):
    """An affine map whose frozen weight is made when it is needed, and let go.

    y = x wᵀ + b, w = decode(x), in the dtype and on the device of x
    Shapes  x (..., I), b (O,) or None, shape is (O, I), that of w -> (..., O)
    VJP     gx = g w, where w is decoded once more; gb = sum of g over rows; w gets none
    Keeps   nothing
    Raises  ValueError if the last axis of x is not I
    """
    n_out, n_in = shape
    if x.shape[-1:] != (n_in,):
        raise ValueError(f"linear_decoded: x has shape {x.shape}, w (out, in) = {shape}: "
                         "in must match")  # fmt: skip
    lead, y = x.shape[:-1], as_rows(x, n_in) @ decode(x).T
    if b is not None:
        y += b

    def vjp_x(g):
        return (as_rows(g, n_out) @ decode(g)).reshape(*lead, n_in)

    def vjp_b(g):
        return sum_rows(as_rows(g, n_out))

    return y.reshape(*lead, n_out), (vjp_x, vjp_b)


def linear_decoded_slow(x: Any, b: Any = None, *, decode: Any, shape: Any) -> Tensor:
    """The twin of `linear_decoded`, which keeps the weight."""
    return linear_slow(x, Tensor(decode(x.data).reshape(shape)), b)


# -- GELU, exact ----------------------------------------------------------------------------------


@in_float32
@op
def gelu_erf(x):
    """GELU in its exact form, BERT's and ViT's.

    y = x Φ(x), Φ(x) = (1 + erf(x/√2))/2                Hendrycks & Gimpel 2016
    Shapes  any -> the same
    VJP     gx = g (Φ(x) + x φ(x)), φ the normal density
    Keeps   x, Φ
    """
    xp = xp_of(x)
    cdf = 0.5 * (1 + backend.erf(x * (1 / math.sqrt(2))))
    return x * cdf, (lambda g: g * (cdf + x * xp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))),)


@in_float32
def gelu_erf_slow(x: Any) -> Tensor:
    """The twin of `gelu_erf`."""
    return x * (0.5 * (1 + ops.erf(x / math.sqrt(2))))


# -- log-softmax ----------------------------------------------------------------------------------


@in_float32
@op
def log_softmax(x, *, axis=-1):
    """The logarithm of softmax, without its underflow.

    y_i = x_i - log Σ_j exp(x_j)
    Shapes  any -> the same
    VJP     gx = g - softmax(x) Σ_j g_j
    Keeps   y
    Raises  ValueError if the axis is empty
    """
    xp, axis = xp_of(x), softmax_axis("log_softmax", x, axis)
    y = x - x.max(axis=axis, keepdims=True)
    y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
    return y, (lambda g: g - xp.exp(y) * g.sum(axis=axis, keepdims=True),)


@in_float32
def log_softmax_slow(x: Any, *, axis: int = -1) -> Tensor:
    """The twin of `log_softmax`."""
    z = x - ops.max(x, axis=axis, keepdims=True)
    return z - ops.log(ops.sum(ops.exp(z), axis=axis, keepdims=True))


for _f in (gelu_erf, gelu_erf_slow, log_softmax, log_softmax_slow):  # fused had them in 0.1
    setattr(fused, _f.__name__, _f)
del _f
