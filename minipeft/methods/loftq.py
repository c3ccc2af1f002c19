"""LoftQ: codes and LoRA's A and B are found together, so that they begin near the weight.

Paper    Li et al. 2023, algorithm 1: Q = codes of W - B A, then A, B from the SVD of W - Q, T times
Kind     parameter composition
Unified  B A x; parallel; every Linear but the head, stored as codes; h + s Δh, s = alpha / r
Touches  Linear modules matching `targets` (default all but the head)
Adds     r * (d_in + d_out) per module; A = sqrt(S_r) V_r^T, B = U_r sqrt(S_r) of W - Q
Merges   Q + s B A as floats, or rounded to the codes' values again, once told which; s = alpha / r
Saves    A, B; as state the A and B that were taken from W before the codes were made
Differs  the paper has s = 1; here A and B are divided by sqrt(s), so that s B A is what the paper's
         B A is. PEFT leaves that out and so needs alpha = r; its T is 1 by default
Lecture  10_quantization                Homework none yet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import xp_of
from minipeft.checks import real, setting, whole
from minipeft.contract.method import Method, Where
from minipeft.methods.lora import (
    LoRALinear,
    principal,
    weight_of,
)
from minipeft.methods.quant import (
    BLOCKS,
    CODE,
    QuantLinear,
    merged_over_codes,
    quantized,
    refuse_trained,
)
from minipeft.nn import Linear, Module, Parameter, init

NAMES = ("A0", "B0")


@dataclass(frozen=True)
class LoftQ(Method):
    """QLoRA with a start that makes up for some of what the codes lose.

    r        rank
    alpha    the update is scaled by alpha / r
    T        how often codes and low rank take turns
    targets  which Linear parts
    dropout  of the branch's input
    code     codebook of the weights, as in Quantize: "nf4", "fp4", "fp4-bnb", "int4", …
    block    how many weights share one constant; 0 for the whole weight
    double   quantize the constants too
    bf16     round the decoded weights to bfloat16
    """

    name: ClassVar[str] = "loftq"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    identity: ClassVar[str] = "codes and a low rank are near the weights that they stand for"
    lr: ClassVar[float] = 1e-2

    r: int = setting(8, whole(1))
    alpha: float = setting(8.0, real(above=0, hint="its root is taken"))
    T: int = setting(5, whole(1, 100))
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = setting(0.0, real(0, below=1))
    code: str = setting("nf4", CODE)
    block: int = setting(64, BLOCKS)
    double: bool = True
    bf16: bool = False

    def wrap(self, path: str, module: Module, where: Where) -> LoftQLinear:
        weight, s = weight_of(self, path, module, self.r), self.alpha / self.r
        (d_out, d_in), base = weight.shape, quantized(self, path, module)
        A, B = init.zeros((self.r, d_in), weight), init.zeros((d_out, self.r), weight)
        A0, B0 = A, B
        for t in range(0 if init.is_shape_only(weight) else self.T):
            if t:
                A0, B0 = A, B
                base = self.codes(module, s * (B @ A))
            A, B = principal(weight - base.weight.data, self.r, s)
        made = LoftQLinear(base, Parameter(A), Parameter(B), s, self.dropout, path)
        made.A0, made.B0 = (Parameter(init.copy(x), requires_grad=False) for x in (A0, B0))
        return made

    def codes(self, module: Any, product: Any) -> QuantLinear:
        """Codes of W - product around a Linear, whose own weight stays what it is."""
        left = Linear.of(Parameter(module.weight.data - product), module.bias)
        made = QuantLinear(left, self.code, self.block, self.double, self.bf16)
        made.base = module
        return made

    def prepare(self, at: Any) -> None:
        refuse_trained(at)

    def load_state(self, at: Any, state: dict[str, np.ndarray]) -> None:
        """The codes are made anew."""
        made = {}
        for path, w in at.wrappers.items():
            A0, B0 = (xp_of(w.A.data).array(state[f"{path}.{x}"], dtype=w.A.dtype) for x in NAMES)
            made[path] = self.codes(w.base.base, w.scale * (B0 @ A0))
        super().load_state(at, state)  # nothing is refused from here on
        for path, w in at.wrappers.items():
            w.base, made[path].handle = made[path], at


class LoftQLinear(LoRALinear):
    """LoRA around a QuantLinear.  Shapes  x (..., d_in) -> (..., d_out)

    A0, B0  what was taken from the weight before its codes were made
    """

    saved = NAMES  # another machine's singular vectors, and so its codes, may be others
    A0: Parameter
    B0: Parameter

    def merged(self) -> Linear:
        return merged_over_codes(self, super().merged)
