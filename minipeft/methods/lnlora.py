"""LNLoRA: LoRA behind a norm of its own.

Paper    Yuan et al. 2024, FullLoRA-AT: h = W0 x + (alpha/r) B A LN(x)
Kind     function composition
Unified  B A LN(x); parallel; all Linears of attention and MLP; h + s Δh, s = alpha / r
Touches  Linear modules matching `targets` (default q, k, v, o, fc_in, fc_out of every block)
Adds     r * (d_in + d_out) + 2 * d_in per module; B = 0, so it starts as the identity
Merges   never: LN divides by the deviation of x, which each input has anew
Saves    A, B, and the norm's weight and bias
Differs  the paper trains it against adversarial pictures; here it is a method like the others. The
         authors' code was not at hand: A is U(±1/sqrt(d_in)), Kaiming's as PEFT draws it, and of
         "all key components" the Linears of attention and MLP are taken
Lecture  14_vision                      Homework none yet
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from minipeft.checks import real, setting, whole
from minipeft.contract.method import Method, NotMergeable, Where, Wrapper
from minipeft.engine import Tensor, fused
from minipeft.methods.lora import weight_of
from minipeft.nn import LayerNorm, Linear, Module, Parameter, init


@dataclass(frozen=True)
class LNLoRA(Method):
    """A low-rank branch that reads its input centred and scaled.

    r        rank
    alpha    the branch is scaled by alpha / r
    targets  which Linear parts
    """

    name: ClassVar[str] = "lnlora"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 3e-3

    r: int = setting(8, whole(1))
    alpha: float = setting(16.0, real())
    targets: str | tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "fc_in", "fc_out")
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> LNLoRALinear:
        like = weight_of(self, path, module, self.r)
        d_out, d_in = like.shape
        A = Parameter(init.uniform((self.r, d_in), like, where.rng, 1 / math.sqrt(d_in)))
        B = Parameter(init.zeros((d_out, self.r), like))
        return LNLoRALinear(module, LayerNorm(d_in, like=like), A, B, self.alpha / self.r)


class LNLoRALinear(Wrapper):
    """y = W0 x + b + s B A LN(x).  Shapes  x (..., d_in) -> (..., d_out), A (r, d_in), B (d_out, r)

    ln  its weight and bias have d_in numbers each
    """

    def __init__(
        self, base: Module, ln: LayerNorm, A: Parameter, B: Parameter, scale: float
    ) -> None:
        super().__init__(base)
        self.ln, self.A, self.B, self.scale = ln, A, B, scale

    def forward(self, x: Tensor) -> Tensor:
        return fused.add_low_rank(self.base(x), self.ln(x), self.A, self.B, scale=self.scale)

    def merged(self) -> Linear:
        raise NotMergeable(
            "LNLoRA's norm divides by the deviation of each input, so no one matrix does the same: "
            "keep the adapter, or train LoRA, which merges"
        )
