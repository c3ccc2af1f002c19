"""Prompt tuning: trained embeddings before the text, or in it.

Paper    Lester et al. 2021, sec. 2: the model reads [P; E(x)]
Kind     input composition
Unified  softmax(q P_k^T) P_v, P_k and P_v what the frozen model makes of P; before the text; what
         each head gives out; (1 - g) h + g Δh, g the softmax's share of P
Touches  the start of a sequence, which gets ids from V on; the embedding, where these are rows
Adds     n * d * (1 + deep * (L - 1)) per model; what P starts from is a setting
Merges   nothing: it changes the input
Saves    P (n, d)
Differs  PEFT's random start is N(0, 1), the paper's U(-0.5, 0.5) is `init="uniform"`. The most
         frequent tokens are the first of a byte-pair vocabulary. With an infix this is PrefixEmbed
         of Hu et al. 2021, and with `deep` their PrefixLayer, but that no row stands for what the
         last block gives
Lecture  07_prompt                      Homework hw4.1-hw4.3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import Array, xp_of
from minipeft.checks import one_of, setting
from minipeft.contract.method import Where, Wrapper
from minipeft.engine import Tensor, context
from minipeft.methods.virtual import Rows, VirtualTokens, rows_of
from minipeft.nn import Module, Parameter, init

FREQUENT = 5000  # tokens, of which init="vocab" draws


@dataclass(frozen=True)
class Prompt(VirtualTokens):
    """Virtual tokens whose embeddings train.

    n         how many
    template  where they stand: "{}" is before the text; "{}...{3} Answer:{2}" are 3 before the
              words " Answer:", 2 behind them, and the others before the text
    init      where no text is given: "uniform" U(-0.5, 0.5), or "vocab", the embeddings of
              frequent tokens
    labels    words to start from: each the mean of its tokens; the rest is from the vocabulary
    text      a text to start from, repeated or cut to n tokens
    deep      in every layer they are trained rows, in place of what the block before gave
    """

    name: ClassVar[str] = "prompt"
    lr: ClassVar[float] = 1e-1

    init: str = setting("uniform", one_of("uniform", "vocab"))
    labels: tuple[str, ...] = ()
    text: str = ""
    deep: bool = False

    def others(self) -> str:
        return r"|blocks\.\d+" if self.deep else ""

    def wrap(self, path: str, module: Any, where: Where) -> Wrapper | None:
        if where.layer is None:
            return super().wrap(path, module, where)
        return None if where.layer == 0 else Deep(module, where.like)

    def prepare(self, at: Any) -> None:
        super().prepare(at)
        table = at.wrappers["emb.tok"]
        if (self.labels or self.text) and not init.is_shape_only(table.P.data):
            table.P.data = self._of_words(at, table)
        for path, block in at.wrappers.items():
            if isinstance(block, Deep):
                block.table = (table,)
                block.P = Parameter(init.copy(table.P.data))
                if not (self.labels or self.text):
                    block.P.data = self.rows(table.base, at.where(path))

    def rows(self, module: Any, where: Where) -> Array:
        table = module.weight.data
        if self.init == "uniform" or init.is_shape_only(table):
            return init.uniform((self.n, table.shape[1]), where.like, where.rng, 0.5)
        return table[self._frequent(where)]

    def _frequent(self, where: Where) -> Array:
        """Ids of frequent tokens, none twice while there are enough.  -> (n,)"""
        xp, most = xp_of(where.like), min(where.config.vocab, FREQUENT)
        order = where.rng.permutation(most)
        return xp.asarray([order[i % most] for i in range(self.n)])

    def _of_words(self, at: Any, table: Any) -> Array:
        tokenizer, E = getattr(at.model, "tokenizer", None), table.weight.data
        if tokenizer is None or (self.labels and self.text):
            raise ValueError("Prompt: it starts from labels or from a text, not from both, and "
                             "needs a model with a tokenizer")  # fmt: skip
        labels, others = map(tokenizer.encode, self.labels), self._frequent(at.where("emb.tok"))
        return start_rows(E, [*labels], tokenizer.encode(self.text), others, self.n)


def start_rows(E: Array, labels: list[list[int]], text: list[int], others: Array, n: int) -> Array:
    """n rows from those of a vocabulary: what P starts from.

    labels  the ids of each label, which has one row: the mean of its tokens. Behind them stand
            the rows of `others`; what is too much is left out
    text    where there are no labels: the ids of a text, from its start again where it is short
    Shapes  E (V, d), others (n,) -> (n, d)
    """
    xp = xp_of(E)
    if not labels:
        return E[xp.asarray((text * n)[:n])]
    means = [E[xp.asarray(label)].mean(0) for label in labels]
    return xp.concatenate([xp.stack(means), E[others]])[:n]


class Deep(Wrapper):
    """A block that reads rows of its own P where virtual tokens stand.  Shapes  P (n, d)"""

    P: Parameter
    table: tuple[Rows]  # in a tuple, as it is no part of this one

    def __init__(self, base: Module, like: Array) -> None:
        super().__init__(base)

    def forward(self, x: Tensor, **more: Any) -> Tensor:
        table = self.table[0]
        ids = (context().values or {})[table]
        return self.base(rows_of(ids, table.first, self.P, x), **more)
