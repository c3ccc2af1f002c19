"""Multi-head attention with separate projections, a past and a place to read its heads."""

from __future__ import annotations

from typing import Any

from minipeft.backend import Array, Rng, xp_of
from minipeft.engine import Tensor, fused, ops
from minipeft.nn.layers import Dropout, Linear, Tap
from minipeft.nn.module import Module


class Attention(Module):
    """Queries look at keys and gather values; H heads side by side.

    y = o_proj(head_out(softmax(q kᵀ / sqrt(D)) v))     Vaswani et al. 2017, sec. 3.2
    Shapes  x (B, T, C) -> (B, T, C); head_out sees (B, T, H D), before o_proj mixes the heads
    past    (k, v), each (B or 1, P, H D): keys and values before x; a prefix and the cache of
            generation are both a past
    mask    (B, T) to (B, P + T), true where a position is real, as what it leaves out of a past
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool,
        head_width: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        out_std: float = 0.02,
        rng: Rng,
        like: Array,
    ) -> None:
        inner = heads * (head_width or width // heads)
        self.heads, self.causal = heads, causal
        self.q_proj = Linear(width, inner, bias=bias, rng=rng, like=like)
        self.k_proj = Linear(width, inner, bias=bias, rng=rng, like=like)
        self.v_proj = Linear(width, inner, bias=bias, rng=rng, like=like)
        self.drop = Dropout(dropout)
        self.head_out = Tap()
        self.o_proj = Linear(inner, width, std=out_std, rng=rng, like=like)

    def forward(
        self, x: Tensor, past: Any = None, mask: Array | None = None, cache: list | None = None
    ) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # (B, T, H D) each
        if past is not None:
            k, v = _after(past[0], k), _after(past[1], v)  # (B, P + T, H D)
        if cache is not None:
            cache.append((k, v))
        B, T, S = x.shape[0], x.shape[1], k.shape[1]
        if mask is not None:
            if mask.ndim != 2 or len(mask) != B or not T <= mask.shape[1] <= S:
                behind = "" if S == T else f", or with all of the past (B, P + T) = {(B, S)}"
                raise ValueError(f"mask must be (B, T) = {(B, T)}{behind}; got {mask.shape}")
            if mask.shape[1] < S:
                seen = xp_of(mask).ones((B, S - mask.shape[1]), dtype=bool)
                mask = xp_of(mask).concatenate([seen, mask != 0], axis=1)
        keep = self.drop.factors((B, self.heads, T, S), q.data)
        y = fused.attention(
            q, k, v, heads=self.heads, causal=self.causal, mask=mask, keep=keep
        )  # (B, T, H D)
        return self.o_proj(self.head_out(y))


def _after(past: Any, new: Tensor) -> Tensor:
    """(B or 1, P, C), (B, T, C) -> (B, P + T, C)"""
    if past.shape[0] != new.shape[0]:
        past = ops.broadcast_to(past, shape=(new.shape[0], *past.shape[1:]))
    return ops.concatenate([past, new], axis=1)
