"""DoRA: LoRA gives a weight its direction, a vector of their own gives its rows their lengths.

Paper    Liu et al. 2024, eq. 5: W' = m (W0 + s B A) / ||W0 + s B A||, s = alpha / r
Kind     parameter composition
Unified  B A x; parallel; queries and values; m (h + s Δh) / ||W0 + s B A||
Touches  Linear modules matching `targets` (default q_proj, v_proj)
Adds     r * (d_in + d_out) + by_input * d_in + (1 - by_input) * d_out per module;
         A and B as LoRA's, m = ||W0||, so it starts as the identity
Merges   m (W0 + s B A) / ||W0 + s B A||
Saves    A, B, m
Differs  by the paper's letters ||.|| is that of columns, one per input; in its code and in PEFT
         of rows, one per output, as here unless `by_input`. Backward takes the norm for a constant
         (sec. 4.3), so the gradient is not that of the forward pass; `exact` is eq. 6.
         Dropout is of A's input alone; in PEFT W0 sees the dropped input too, where m has moved
Lecture  08_lora                        Homework hw3.5, hw3.6
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.contract.method import Where
from minipeft.engine import Tensor, fused, no_grad, ops
from minipeft.methods.lora import LoRA, LoRALinear, root, weight_of
from minipeft.nn import Module, Parameter, init


@dataclass(frozen=True)
class DoRA(LoRA):
    """A low-rank update of directions, and trained magnitudes.

    r, alpha, targets, fused, rslora, dropout, init are LoRA's:
    r         rank
    alpha     the update is scaled by alpha / r
    targets   which Linear parts
    fused     leaf names of parts of one module that share one A (and its dropout mask)
    rslora    scale by alpha / sqrt(r) instead
    dropout   of the branch's input
    init      of A: "normal", "peft" or "gaussian"
    by_input  one magnitude for each input (a column of W) in place of each output (a row)
    exact     let the gradient through the norm too
    """

    name: ClassVar[str] = "dora"
    gradient: ClassVar[str] = "surrogate"
    lr: ClassVar[float] = 1e-2

    by_input: bool = False
    exact: bool = False

    def wrap(self, path: str, module: Module, where: Where) -> DoRALinear:
        weight_of(self, path, module, self.r, plain=True)
        made = DoRALinear(super().wrap(path, module, where), int(not self.by_input), self.exact)
        least = 1.0 if init.is_shape_only(made.m.data) else float(made.m.data.min())
        if least == 0:
            one = "column" if self.by_input else "row"
            raise ValueError(f"DoRA: a {one} of {path}.weight is all zeros, so it has no direction")
        return made


class DoRALinear(LoRALinear):
    """y = m/n (W0 x + s B A x) + b, n = ||W0 + s B A|| along `axis` (1: of rows, 0: of columns).

    Shapes  x (..., d_in) -> (..., d_out), m (d_out,) or, for columns, (d_in,)
    """

    def __init__(self, lora: LoRALinear, axis: int, exact: bool) -> None:
        super().__init__(lora.base, lora.A, lora.B, lora.scale, lora.dropout, lora.group)
        self.axis, self.exact = axis, exact
        weight = self.base.weight.data
        if init.is_shape_only(weight):
            self.m = Parameter(init.zeros((weight.shape[1 - axis],), weight))
        else:
            with no_grad():
                self.m = Parameter(self.norm().data)

    def norm(self) -> Tensor:
        """n, as long as m"""
        weight = self.base.weight + self.scale * (self.B @ self.A)
        return root(ops.sum(weight * weight, axis=self.axis))

    def ratio(self) -> Tensor:
        """m/n; but for `exact` nothing flows back into n. What has no length is left as it is."""
        if self.exact:
            n = self.norm()
        else:
            with no_grad():
                n = self.norm()
        return self.m / (n + (n.data == 0))

    def forward(self, x: Tensor) -> Tensor:
        ratio, inner = self.ratio(), self.dropped(x)
        if self.axis == 0:
            x, inner = x * ratio, inner * ratio
        y = fused.linear(x, self.base.weight)
        y = fused.add_low_rank(y, inner, self.A, self.B, scale=self.scale)
        if self.axis == 1:
            y = y * ratio
        return y if self.base.bias is None else y + self.base.bias

    def dense(self) -> Any:
        with no_grad():
            ratio = self.ratio().data
        return super().dense() * (ratio[:, None] if self.axis == 1 else ratio)
