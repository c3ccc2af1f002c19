"""The transformer block that all models share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minipeft.backend import Array, Rng
from minipeft.engine import Tensor, context, fused, ops, recompute, variants
from minipeft.nn.attention import Attention
from minipeft.nn.layers import Dropout, LayerNorm, Linear
from minipeft.nn.module import Module

ACTIVATIONS = {"gelu": fused.gelu, "gelu_erf": variants.gelu_erf, "relu": ops.relu}


class MLP(Module):
    """y = fc_out(act(fc_in(x))).  Shapes  x (B, T, C) -> (B, T, C), inside (B, T, F)"""

    def __init__(
        self, width: int, inner: int, *, activation: str, out_std: float, rng: Rng, like: Array
    ) -> None:
        self.fc_in = Linear(width, inner, rng=rng, like=like)
        self.activation = activation
        self.fc_out = Linear(inner, width, std=out_std, rng=rng, like=like)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_out(ACTIVATIONS[self.activation](self.fc_in(x)))


class Block(Module):
    """Attention and an MLP, each with a residual and a layer norm.

    pre-norm   x = x + attn(ln_1(x));   x = x + mlp(ln_2(x))          GPT-2, ViT
    post-norm  x = ln_1(x + attn(x));   x = ln_2(x + mlp(x))          BERT
    Shapes  x (B, T, C) -> (B, T, C); `more` is for the attention alone
    """

    ln_1: Module
    ln_2: Module
    mlp: Module

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        *,
        layers: int,
        causal: bool,
        norm: str = "pre",
        activation: str = "gelu",
        eps: float = 1e-5,
        dropout: float = 0.0,
        scale_residual: bool = False,
        head_width: int | None = None,
        bias: bool = True,
        rng: Rng,
        like: Array,
    ) -> None:
        out_std = 0.02 / math.sqrt(2 * layers) if scale_residual else 0.02
        self.norm = norm
        self.ln_1 = LayerNorm(width, eps=eps, like=like)
        self.attn = Attention(
            width, heads, causal=causal, head_width=head_width, bias=bias, dropout=dropout,
            out_std=out_std, rng=rng, like=like,
        )  # fmt: skip
        self.ln_2 = LayerNorm(width, eps=eps, like=like)
        self.mlp: Module = MLP(
            width, mlp, activation=activation, out_std=out_std, rng=rng, like=like
        )
        self.drop = Dropout(dropout)

    def forward(
        self, x: Tensor, past: Any = None, mask: Array | None = None, cache: list | None = None,
        **more: Any,
    ) -> Tensor:  # fmt: skip
        if context().recompute and cache is None:
            return recompute(self._compute, x, past, mask, None, **more)
        return self._compute(x, past, mask, cache, **more)

    def _compute(self, x: Tensor, past: Any, mask: Any, cache: Any, **more: Any) -> Tensor:
        if self.norm == "pre":
            x = x + self.drop(self.attn(self.ln_1(x), past=past, mask=mask, cache=cache, **more))
            return x + self.drop(self.mlp(self.ln_2(x)))
        x = self.ln_1(x + self.drop(self.attn(x, past=past, mask=mask, cache=cache, **more)))
        return self.ln_2(x + self.drop(self.mlp(x)))


def run_blocks(
    blocks: Any, embed: Callable[[], Tensor], past: Any, mask: Array | None,
    cache: list | None = None, **more: Any,
) -> Tensor:  # fmt: skip
    """x = embed(), then block after block; stored hidden states replace the lower ones.

    more    what else each block's attention needs: rotary positions
    Shapes  past per block (k, v) or None, mask (B, T), cache takes each block's (k, v) -> (B, T, C)
    """

    def run(x: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            x = blocks[i](x, past=past[i] if past else None, mask=mask, cache=cache, **more)
        return x

    stored = context().hidden
    if stored is None:
        return run(embed(), 0, len(blocks))
    x = stored.read(lambda: run(embed(), 0, stored.below))
    return run(x, stored.below, len(blocks))
