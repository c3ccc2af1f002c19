"""The parts of LLaMA's block: a norm that does not centre, a gated MLP, attention that rotates."""

from __future__ import annotations

from typing import Any

from minipeft.backend import Array, Rng
from minipeft.engine import Tensor, variants
from minipeft.nn import init
from minipeft.nn.attention import Attention
from minipeft.nn.layers import Dropout, Linear
from minipeft.nn.module import Module, Parameter
from minipeft.nn.transformer import Block


class RMSNorm(Module):
    """Scale the last axis by its root mean square, then w. Shapes  x (..., width) -> the same"""

    def __init__(self, width: int, *, eps: float = 1e-5, like: Array) -> None:
        self.weight = Parameter(init.ones((width,), like))
        self.eps = eps

    def forward(self, x: Any) -> Tensor:
        return variants.rms_norm(x, self.weight, eps=self.eps)


class GatedMLP(Module):
    """y = fc_out(silu(gate(x)) fc_in(x)), elementwise inside; no biases.

    Shapes  x (B, T, C) -> (B, T, C), inside (B, T, F)
    """

    def __init__(self, width: int, inner: int, *, rng: Rng, like: Array) -> None:
        self.gate = Linear(width, inner, bias=False, rng=rng, like=like)
        self.fc_in = Linear(width, inner, bias=False, rng=rng, like=like)
        self.fc_out = Linear(inner, width, bias=False, rng=rng, like=like)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_out(variants.swiglu(self.gate(x), self.fc_in(x)))


class GatedBlock(Block):
    """The pre-norm block, made of other parts: it runs as any Block does.

    x = x + attn(ln_1(x)); x = x + mlp(ln_2(x)); its caller gives `positions` (B or 1, T)
    kv_heads  how many heads keys and values have, each for heads / kv_heads of the queries'
    theta     base of the rotary positions' wavelengths
    """

    def __init__(
        self, width: int, heads: int, mlp: int, *, kv_heads: int, theta: float, eps: float,
        head_width: int | None = None, dropout: float = 0.0, rng: Rng, like: Array,
    ) -> None:  # fmt: skip
        self.norm = "pre"
        self.ln_1 = RMSNorm(width, eps=eps, like=like)
        self.attn = Attention(
            width, heads, causal=True, head_width=head_width, kv_heads=kv_heads, theta=theta,
            bias=False, out_bias=False, dropout=dropout, rng=rng, like=like,
        )  # fmt: skip
        self.ln_2 = RMSNorm(width, eps=eps, like=like)
        self.mlp = GatedMLP(width, mlp, rng=rng, like=like)
        self.drop = Dropout(dropout)
