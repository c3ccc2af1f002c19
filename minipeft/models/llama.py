"""LLaMA: a pre-norm decoder with rotary positions, shared key heads, a gated MLP and no biases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng
from minipeft.engine import Tensor
from minipeft.models.config import Config, check_at
from minipeft.models.layout import last_real, lay_out, text_only
from minipeft.nn import Dropout, Embedding, Linear, Module, ModuleList, Past, Start, run_blocks
from minipeft.nn.gated import GatedBlock, RMSNorm
from minipeft.nn.init import prototypes


@dataclass(frozen=True)
class LLaMAConfig(Config):
    """Sizes of a LLaMA. Unknown and inconsistent fields are refused.

    mlp         width inside the MLP, which has three matrices
    kv_heads    how many heads keys and values have, each shared by several of the `heads` of
                queries; as many by default
    head_width  of each head, even; width / heads by default
    theta       base of the rotary positions' wavelengths
    tied        whether the head is the embedding
    head        "lm": logits over the vocabulary; "linear": `classes` logits from the last real
                token, a new layer without bias
    """

    head_kinds = ("lm", "linear")

    vocab: int
    context: int
    width: int
    layers: int
    heads: int
    mlp: int
    kv_heads: int | None = None
    head_width: int | None = None
    theta: float = 10_000.0
    tied: bool = False
    head: str = "lm"
    classes: int | None = None
    dropout: float = 0.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        shared = self.kv_heads
        if shared is not None and (type(shared) is not int or shared < 1 or self.heads % shared):
            raise ValueError(f"LLaMAConfig: kv_heads must divide the {self.heads} heads, "
                             f"got {shared!r:.80}")  # fmt: skip
        if (self.head_width or self.width // self.heads) % 2:
            raise ValueError("LLaMAConfig: a head's width must be even, for rotary positions, "
                             f"got {self.head_width or self.width // self.heads}")  # fmt: skip
        number = isinstance(self.theta, (int, float)) and not isinstance(self.theta, bool)
        if not number or not 0 < self.theta < math.inf:
            raise ValueError(f"LLaMAConfig: theta must be a number > 0, got {self.theta!r:.80}")
        if not isinstance(self.tied, bool):
            raise ValueError(f"LLaMAConfig: tied must be True or False, got {self.tied!r:.80}")


class LLaMA(Module):
    """A decoder-only language model (Touvron et al. 2023).

    x = emb.tok[ids]; x = block(x) for each; logits = head(ln_f(x))
    Positions enter in attention alone, where queries and keys turn with them.
    Shapes  ids (B, T) integers -> (B, T, V), or (B, classes) with head="linear"
    Init    N(0, 0.02²), norms 1; init="shape" has shapes and no values
    """

    causal = True
    head_parts = ("head",)

    def __init__(
        self, config: LLaMAConfig, seed: int = 0, init: str = "normal", dtype: Any = np.float32
    ) -> None:
        like, new = prototypes(dtype, init)
        rng = Rng(seed, "llama")
        c = self.config = config
        self.start = Start()
        self.emb = Embeddings(c, rng, like)
        self.blocks = ModuleList(
            [
                GatedBlock(
                    c.width, c.heads, c.mlp, kv_heads=c.kv_heads or c.heads, theta=c.theta,
                    eps=c.eps, head_width=c.head_width, dropout=c.dropout, rng=rng, like=like,
                )
                for _ in range(c.layers)
            ]
        )  # fmt: skip
        self.ln_f = RMSNorm(c.width, eps=c.eps, like=like)
        if c.head == "linear":
            self.head = Linear(c.width, c.classes or 0, bias=False, rng=rng, like=new)
            self.head.new = True  # trained whole beside whatever a method trains
        else:
            tok = self.emb.tok.weight if c.tied else None
            self.head = Linear(c.width, c.vocab, bias=False, rng=rng, like=like, weight=tok)

    def forward(
        self,
        ids: Array,
        past: Any = None,
        mask: Array | None = None,
        at: Any = None,
        keep_virtual: bool = False,
        return_past: bool = False,
    ) -> Any:
        """Logits, and with return_past=True also the past that a next call can go on from.

        The arguments are GPT's. The keys of a past have turned with their own positions.
        """
        check_at(self.config, at)
        # lay out the sequence: a past or prefix, virtual tokens, the text, and their positions
        ids, past, seen, positions, text = lay_out(self, ids, mask, past)
        # run the blocks; each leaves its keys and values in the cache
        cache: list | None = [] if return_past else None
        x = run_blocks(
            self.blocks, lambda: self.emb(ids), past, seen, cache, positions=positions
        )  # (B, T, C)
        # keep the positions that the head reads
        if self.config.head == "linear":
            x = x[last_real(ids, seen)]  # (B, C)
        else:
            if text is not None and not keep_virtual:
                x = text_only(x, text, causal=True)
            if at is not None:
                x = x[at]  # (N, C)
        # the last norm and the head
        logits = self.head(self.ln_f(x))
        return (logits, Past(cache, seen)) if cache is not None else logits


class Embeddings(Module):
    """What a token is.  Shapes  ids (B, T) -> (B, T, C)"""

    def __init__(self, c: LLaMAConfig, rng: Rng, like: Array) -> None:
        self.tok = Embedding(c.vocab, c.width, rng=rng, like=like)
        self.drop = Dropout(c.dropout)

    def forward(self, ids: Array) -> Tensor:
        return self.drop(self.tok(ids))
