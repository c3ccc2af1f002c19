"""Infix tuning: a prefix inside the text, as trained keys and values at virtual tokens.

Paper    Li and Liang 2021, sec. 7.2: [x; INFIX; y]; with a Prefix beside it [PREFIX; x; PREFIX'; y]
Kind     input composition
Unified  softmax(q P_k^T) P_v; inside the text; what each head gives out; (1 - g) h + g Δh, g the
         softmax's share of the infix
Touches  the start and the embedding, as prompt tuning does; k_proj and v_proj of every layer
Adds     2 * L * d * n per model; N(0, std^2), so it takes a share of every softmax at once
Merges   nothing: it changes the input
Saves    P (n, d) of each k_proj and v_proj
Differs  what stands where the target begins is told by words of the text (`template`), so that it
         is known in generation too. Where keys turn with their positions, as LLaMA's, these turn
Lecture  06_prefix                      Homework hw4.1, hw4.3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import Array
from minipeft.checks import real, setting
from minipeft.contract.method import Where, Wrapper
from minipeft.engine import Tensor, context
from minipeft.methods.virtual import Rows, VirtualTokens, rows_of
from minipeft.nn import Module, Parameter, init


@dataclass(frozen=True)
class Infix(VirtualTokens):
    """Keys and values at virtual tokens, which a decoder sees from there on.

    n         how many virtual tokens
    template  where they stand: "{}" is before the text, where they are a prefix; "...{} Answer:"
              are all before the words " Answer:". Words should follow: behind the last of a prompt
              it is an untrained token that would say the answer
    std       of the random start
    """

    name: ClassVar[str] = "infix"
    identity: ClassVar[str] = "the infix takes a share of every softmax"
    lr: ClassVar[float] = 1e-1

    std: float = setting(0.02, real(0))

    def others(self) -> str:
        return r"|blocks\.\d+\.attn\.[kv]_proj"

    def rows(self, module: Any, where: Where) -> Array:
        """What stands in the embedding: no other position reads what is made of it."""
        return init.zeros((self.n, where.config.width), where.like)

    def wrap(self, path: str, module: Any, where: Where) -> Wrapper | None:
        if where.layer is None:
            return super().wrap(path, module, where)
        shape = (self.n, where.config.key_width)
        return Placed(module, Parameter(init.normal(shape, where.like, where.rng, self.std)))

    def prepare(self, at: Any) -> None:
        super().prepare(at)
        table = at.wrappers["emb.tok"]
        table.P.requires_grad = False
        for wrapper in at.wrappers.values():
            if isinstance(wrapper, Placed):
                wrapper.table = (table,)


class Placed(Wrapper):
    """Keys or values that are rows of P at virtual tokens.  Shapes  (B, T, d_in) -> (B, T, d)"""

    table: tuple[Rows]  # in a tuple, as it is no part of this one

    def __init__(self, base: Module, P: Parameter) -> None:
        super().__init__(base)
        self.P = P

    def forward(self, x: Tensor) -> Tensor:
        table = self.table[0]
        return rows_of((context().values or {})[table], table.first, self.P, self.base(x))
