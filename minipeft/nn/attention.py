"""Multi-head attention with separate projections, a past, and a Tap on its heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minipeft.backend import Array, Rng, xp_of
from minipeft.engine import Tensor, fused, ops, variants
from minipeft.nn.layers import Dropout, Linear, Tap
from minipeft.nn.module import Module


class Past(list):
    """What came before a text: a (k, v) pair per layer, each (B or 1, P, config.key_width).

    A prefix and the cache of generation are both a past. A plain list of pairs is one too, with
    all of its positions real.
    mask  (B, P) true where a position is real, or None where all are
    """

    def __init__(self, pairs: Iterable[tuple[Any, Any]], mask: Array | None = None) -> None:
        super().__init__(pairs)
        self.mask = mask

    def rows(self, chosen: Array) -> Past:
        """The past of some rows of the batch."""
        mask = None if self.mask is None else self.mask[chosen]
        return Past([(k[chosen], v[chosen]) for k, v in self], mask)


def seen_of(mask: Array | None, past: Any, B: int, T: int) -> Array | None:
    """Which positions are real, those of the past among them; None where all are.

    Shapes  mask (B, T), or (B, P + T) with the past's positions; past per layer (k, v) or None
            -> (B, P + T)
    """
    P = past[0][0].shape[1] if past else 0
    before = getattr(past, "mask", None)
    if mask is None and before is None:
        return None
    xp = xp_of(before if mask is None else mask)
    if mask is None:
        mask = xp.ones((B, T), dtype=bool)
    elif mask.ndim != 2 or len(mask) != B or mask.shape[1] not in (T, P + T):
        behind = f", or with all of the past (B, P + T) = {(B, P + T)}" if P else ""
        raise ValueError(f"mask must be (B, T) = {(B, T)}{behind}; got {mask.shape}")
    if mask.shape[1] == P + T:
        return mask != 0
    before = xp.ones((B, P), dtype=bool) if before is None else before
    return xp.concatenate([xp.broadcast_to(before, (B, P)), mask != 0], axis=1)


class Attention(Module):
    """Queries look at keys and gather values; H heads side by side.

    y = o_proj(head_out(softmax(q kᵀ / sqrt(D)) v))     Vaswani et al. 2017, sec. 3.2
    Shapes  x (B, T, C) -> (B, T, C); head_out sees (B, T, H D), before o_proj mixes the heads
    past    (k, v), each (B or 1, P, H D): keys and values before x
    mask    (B, P + T), true where a position is real
    With kv_heads = K < H, keys and values are (B, P + T, K D), each head for H / K of the queries'.
    With theta, queries and keys turn with their positions (B or 1, T); a past's have turned.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool,
        head_width: int | None = None,
        kv_heads: int | None = None,
        theta: float | None = None,
        bias: bool = True,
        out_bias: bool = True,
        dropout: float = 0.0,
        out_std: float = 0.02,
        rng: Rng,
        like: Array,
    ) -> None:
        D = head_width or width // heads
        inner, inner_kv = heads * D, (kv_heads or heads) * D
        self.heads, self.causal, self.theta = heads, causal, theta
        self.q_proj = Linear(width, inner, bias=bias, rng=rng, like=like)
        self.k_proj = Linear(width, inner_kv, bias=bias, rng=rng, like=like)
        self.v_proj = Linear(width, inner_kv, bias=bias, rng=rng, like=like)
        self.drop = Dropout(dropout)
        self.head_out = Tap()
        self.o_proj = Linear(inner, width, bias=out_bias, std=out_std, rng=rng, like=like)

    def forward(
        self, x: Tensor, past: Any = None, mask: Array | None = None, cache: list | None = None,
        positions: Array | None = None,
    ) -> Tensor:  # fmt: skip
        # queries, keys and values for all heads at once
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # (B, T, H D) each
        # with rotary positions, queries and keys turn by theirs
        if self.theta is not None:
            turn = {"width": q.shape[2] // self.heads, "theta": self.theta}
            q, k = (variants.rotary(t, positions, **turn) for t in (q, k))
        # keys and values go behind the past's, and are left for the next call
        if past is not None:
            k, v = _after(past[0], k), _after(past[1], v)  # (B, P + T, H D)
        if cache is not None:
            cache.append((k, v))
        # each head gathers values where its queries look
        B, T, S = x.shape[0], x.shape[1], k.shape[1]
        if mask is not None and mask.shape != (B, S):
            raise ValueError(f"mask must be (B, P + T) = {(B, S)}, got {mask.shape}")
        factors = self.drop.factors((B, self.heads, T, S), q.data)
        y = fused.attention(
            q, k, v, heads=self.heads, causal=self.causal, mask=mask, factors=factors
        )  # (B, T, H D)
        # the heads are mixed
        return self.o_proj(self.head_out(y))


def _after(past: Any, new: Tensor) -> Tensor:
    """(B or 1, P, C), (B, T, C) -> (B, P + T, C)"""
    if past.shape[0] != new.shape[0]:
        past = ops.broadcast_to(past, shape=(new.shape[0], *past.shape[1:]))
    return ops.concatenate([past, new], axis=1)
