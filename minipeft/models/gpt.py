"""GPT: a pre-norm decoder with a tied head, as GPT-2 is.

Lecture  02_transformer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng
from minipeft.checks import moved
from minipeft.engine import Tensor
from minipeft.models.config import Config, check_at
from minipeft.models.layout import last_real, lay_out, text_only
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
class GPTConfig(Config):
    """Sizes of a GPT. Unknown and inconsistent fields are refused.

    head    "lm": logits over the vocabulary, tied to the embedding;
            "linear": `classes` logits from the last real token, a new layer without bias
    mlp     width inside the MLP; 4 * width by default
    """

    head_kinds = ("lm", "linear")

    vocab: int
    context: int
    width: int
    layers: int
    heads: int
    mlp: int | None = None
    head: str = "lm"
    classes: int | None = None
    dropout: float = 0.0
    eps: float = 1e-5


class GPT(Module):
    """A decoder-only language model (Radford et al. 2019).

    x = emb.tok[ids] + emb.pos[0…T-1]; x = block(x) for each; logits = ln_f(x) emb.tokᵀ
    Shapes  ids (B, T) integers -> (B, T, V), or (B, classes) with head="linear"
    Init    N(0, 0.02²); o_proj and fc_out 0.02 / sqrt(2 layers); biases 0, norms (1, 0);
            init="shape" has shapes and no values: it can be counted, not run
    """

    causal = True  # padding on the right needs no mask
    head_parts = ("head",)  # what is made anew for another kind of head

    def __init__(
        self, config: GPTConfig, seed: int = 0, init: str = "normal", dtype: Any = np.float32
    ) -> None:
        like, new = prototypes(dtype, init)
        rng = Rng(seed, "gpt")
        c = self.config = config
        self.start = Start()
        self.emb = Embeddings(c, rng, like)
        self.blocks = ModuleList(
            [
                Block(
                    c.width, c.heads, c.mlp or 4 * c.width, layers=c.layers, causal=True,
                    eps=c.eps, dropout=c.dropout, scale_residual=True, rng=rng, like=like,
                )
                for _ in range(c.layers)
            ]
        )  # fmt: skip
        self.ln_f = LayerNorm(c.width, eps=c.eps, like=like)
        if c.head == "lm":
            self.head = Linear(c.width, c.vocab, bias=False, like=like, weight=self.emb.tok.weight)
        else:
            self.head = Linear(c.width, c.classes or 0, bias=False, rng=rng, like=new)
            self.head.new = True  # trained whole beside whatever a method trains

    @moved(positions="the model counts them over mask= and past=, for padding on the left too")
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

        past       a Past, or a plain list: a (k, v) pair per layer, each (B or 1, P, C)
        mask       (B, T) true where an id is real; padding may be on the left or the right. (B,
                   P + T) says the same of the past's positions too
        at         (rows, columns) of the positions whose logits are wanted -> (N, V)
        Positions are numbered over what is real, the past's included. Ids >= V are virtual
        tokens: a prompt method maps them to trained rows. Unless keep_virtual=True, they are left
        out and `at` does not count them: the last one behind a token says what follows it.
        """
        check_at(self.config, at)
        # lay out the sequence: a past or prefix, virtual tokens, the text, and their positions
        ids, past, seen, positions, text = lay_out(self, ids, mask, past)
        # run the blocks; each leaves its keys and values in the cache
        cache: list | None = [] if return_past else None
        x = run_blocks(
            self.blocks, lambda: self.emb(ids, positions), past, seen, cache
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
    """What a token is, plus its position.  Shapes  ids, positions (B, T) -> (B, T, C)"""

    def __init__(self, c: GPTConfig, rng: Rng, like: Array) -> None:
        self.tok = Embedding(c.vocab, c.width, rng=rng, like=like)
        self.pos = Embedding(c.context, c.width, rng=rng, like=like)
        self.drop = Dropout(c.dropout)

    def forward(self, ids: Array, positions: Array) -> Tensor:
        return self.drop(self.tok(ids) + self.pos(positions))
