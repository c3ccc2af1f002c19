"""BERT: a post-norm encoder with segment embeddings, as bert-base is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng, xp_of
from minipeft.engine import Tensor, variants
from minipeft.models.config import Config, check_at, check_ids
from minipeft.models.layout import first_real, lay_out, mean_real, positions_of, text_only
from minipeft.nn import (
    Block,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    Past,
    Start,
    run_blocks,
)
from minipeft.nn.init import prototypes


@dataclass(frozen=True)
class BERTConfig(Config):
    """Sizes of a BERT. Unknown and inconsistent fields are refused.

    head      "mlm": logits over the vocabulary at every position, tied to the embedding;
              "linear": `classes` logits from the pooled first position, or from what `pool` says
    pool      what a linear head reads: "first" through the pooler, or the "mean" of the last
              hidden states over the real positions of the text, and no pooler
    segments  how many kinds of text a row may hold
    """

    head_kinds = ("mlm", "linear")
    norm = "post"

    vocab: int
    context: int
    width: int
    layers: int
    heads: int
    mlp: int | None = None
    segments: int = 2
    head: str = "mlm"
    classes: int | None = None
    dropout: float = 0.0
    eps: float = 1e-12
    pool: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in ("first", "mean"):
            raise ValueError(f"BERTConfig: pool must be 'first' or 'mean', got {self.pool!r:.80}")


class BERT(Module):
    """An encoder that fills in masked words (Devlin et al. 2019).

    x = ln(emb.tok[ids] + emb.pos[0…T-1] + emb.seg[segments]); x = block(x) for each
    mlm: ln(gelu(W x)) emb.tokᵀ + b; linear: head(tanh(pooler(x[0]))), or head(mean x)
    Shapes  ids (B, T) integers -> (B, T, V), or (B, classes) with head="linear"
    Init    N(0, 0.02²), biases 0, norms (1, 0); init="shape" has shapes and no values
    """

    causal = False
    head_parts = ("mlm", "pooler", "head")  # what is made anew for another kind of head

    def __init__(
        self, config: BERTConfig, seed: int = 0, init: str = "normal", dtype: Any = np.float32
    ) -> None:
        like, new = prototypes(dtype, init)
        rng = Rng(seed, "bert")
        c = self.config = config
        self.start = Start()
        self.emb = Embeddings(c, rng, like)
        self.blocks = ModuleList(
            [
                Block(
                    c.width, c.heads, c.mlp or 4 * c.width, layers=c.layers, causal=False,
                    norm=c.norm, activation="gelu_erf", eps=c.eps, dropout=c.dropout, rng=rng,
                    like=like,
                )
                for _ in range(c.layers)
            ]
        )  # fmt: skip
        if c.head == "mlm":
            self.mlm = Transform(c, rng, new)
            self.head = Linear(c.width, c.vocab, like=new, weight=self.emb.tok.weight)
        else:
            if c.pool == "first":
                self.pooler = Linear(c.width, c.width, rng=rng, like=new)
            self.drop = Dropout(c.dropout)
            self.head = Linear(c.width, c.classes or 0, rng=rng, like=new)
            self.head.new = True  # trained whole beside whatever a method trains

    def forward(
        self,
        ids: Array,
        segments: Array | None = None,
        mask: Array | None = None,
        at: Any = None,
        past: Any = None,
        keep_virtual: bool = False,
        return_past: bool = False,
    ) -> Any:
        """Logits, and with return_past=True also the keys and values of every layer, as a Past.

        segments  (B, T) which kind of text an id belongs to, 0 by default
        mask      (B, T) true where an id is real; padding may be on the left or the right
        at        (rows, columns) of the positions whose logits are wanted -> (N, V)
        past      a Past, or a (k, v) pair per layer, in front of everything
        Positions are numbered over what is real, the past's included. Ids >= V are virtual
        tokens, whose outputs are left out unless keep_virtual=True.
        """
        check_ids(ids)
        check_at(self.config, at)
        xp = xp_of(ids)
        if segments is None:
            segments = xp.zeros_like(ids)
        self._check_segments(ids, segments)
        # lay out the sequence, as GPT does; what a method adds is of the first segment
        ids, past, seen, positions, text = lay_out(self, ids, mask, past)
        if ids.shape != segments.shape:
            given, segments = segments, xp.zeros(ids.shape, segments.dtype)
            segments[positions_of(text)] = given
        cache: list | None = [] if return_past else None
        x = run_blocks(self.blocks, lambda: self.emb(ids, positions, segments), past, seen, cache)
        # keep what the head reads
        if self.config.head == "linear":
            if self.config.pool == "mean":
                x = self.drop(mean_real(x, ids, seen, text))  # (B, C)
            else:
                x = self.drop(self.pooler(x[first_real(ids, seen, text)]).tanh())
        else:
            if text is not None and not keep_virtual:
                x = text_only(x, text)
            x = self.mlm(x if at is None else x[at])
        logits = self.head(x)
        return (logits, Past(cache, seen)) if cache is not None else logits

    def _check_segments(self, ids: Array, segments: Array) -> None:
        if segments.shape != ids.shape or segments.dtype.kind not in "iu":
            raise ValueError(f"segments must be integers of the ids' shape {ids.shape}, got "
                             f"{segments.dtype} of shape {segments.shape}")  # fmt: skip
        if (
            xp_of(segments) is np
            and not 0 <= segments.min() <= segments.max() < self.config.segments
        ):
            raise ValueError(f"segments must be 0 to {self.config.segments - 1}, got "
                             f"{segments.min()} to {segments.max()}")  # fmt: skip


class Embeddings(Module):
    """Token, position and segment, summed and normed.  ids (B, T) -> (B, T, C)"""

    def __init__(self, c: BERTConfig, rng: Rng, like: Array) -> None:
        self.tok = Embedding(c.vocab, c.width, rng=rng, like=like)
        self.pos = Embedding(c.context, c.width, rng=rng, like=like)
        self.seg = Embedding(c.segments, c.width, rng=rng, like=like)
        self.ln = LayerNorm(c.width, eps=c.eps, like=like)
        self.drop = Dropout(c.dropout)

    def forward(self, ids: Array, positions: Array, segments: Array) -> Tensor:
        return self.drop(self.ln(self.tok(ids) + self.pos(positions) + self.seg(segments)))


class Transform(Module):
    """The layer between the last block and the masked-word head.  (..., C) -> (..., C)"""

    def __init__(self, c: BERTConfig, rng: Rng, like: Array) -> None:
        self.fc = Linear(c.width, c.width, rng=rng, like=like)
        self.ln = LayerNorm(c.width, eps=c.eps, like=like)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(variants.gelu_erf(self.fc(x)))
