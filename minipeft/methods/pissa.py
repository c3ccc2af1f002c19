"""PiSSA: LoRA's A and B start as the largest singular parts of W, the rest of W stands still.

Paper    Meng et al. 2024, eq. 2-5: W = U S V^T, A = sqrt(S_r) V_r^T, B = U_r sqrt(S_r),
         h = W_res x + B A x, W_res = W - B A at the start
Kind     parameter composition
Unified  (B A - B0 A0) x; parallel; queries and values; h + s Δh, s = alpha / r
Touches  Linear modules matching `targets` (default q_proj, v_proj)
Adds     r * (d_in + d_out) per module; A and B as above, so it starts as the identity
Merges   W0 + s (B A - B0 A0), s = alpha / r
Saves    A, B, and what they started from, A0 and B0, as state
Differs  W is not written and W_res not formed: h = W0 x + s (B A x - B0 A0 x), which is the same
         function with its gradients and needs no copy of W. The paper has s = 1; as in PEFT A and B
         are divided by sqrt(s). `as_lora` gives the LoRA of rank 2r that computes the same
Lecture  08_lora                        Homework none yet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import xp_of
from minipeft.checks import real, setting, whole
from minipeft.contract.attached import Attached, attach
from minipeft.contract.method import Method, Where
from minipeft.engine import Tensor, fused
from minipeft.methods.lora import (
    LoRA,
    LoRALinear,
    principal,
    weight_of,
)
from minipeft.nn import Module, Parameter, init


@dataclass(frozen=True)
class PiSSA(Method):
    """LoRA on the principal part of each weight.

    r        how many singular values
    alpha    the update is scaled by alpha / r
    targets  which Linear parts
    dropout  of the trained branch's input
    """

    name: ClassVar[str] = "pissa"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    r: int = setting(8, whole(1))
    alpha: float = setting(8.0, real(above=0, hint="its root is taken"))
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    dropout: float = setting(0.0, real(0, below=1))

    def wrap(self, path: str, module: Module, where: Where) -> PiSSALinear:
        weight, s = weight_of(self, path, module, self.r, plain=True), self.alpha / self.r
        d_out, d_in = weight.shape
        if init.is_shape_only(weight):
            A, B = init.zeros((self.r, d_in), weight), init.zeros((d_out, self.r), weight)
        else:
            A, B = principal(weight, self.r, s)
        return PiSSALinear(module, Parameter(A), Parameter(B), s, self.dropout, path)


class PiSSALinear(LoRALinear):
    """y = W0 x + b + s (B A x - B0 A0 x).

    Shapes  x (..., d_in) -> (..., d_out), A, A0 (r, d_in), B, B0 (d_out, r)
    """

    saved = ("A0", "B0")  # another machine's singular vectors are not the same to the bit

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.A0 = Parameter(init.copy(self.A.data), requires_grad=False)
        self.B0 = Parameter(init.copy(self.B.data), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        now = fused.linear(fused.linear(self.dropped(x), self.A), self.B)
        then = fused.linear(fused.linear(x, self.A0), self.B0)
        return self.base(x) + (now - then) * self.scale  # at the start a difference of equal bits

    def dense(self) -> Any:
        return super().dense() - self.scale * (self.B0.data @ self.A0.data)


def as_lora(at: Attached) -> Attached:
    """Detach a PiSSA adapter and attach the LoRA that computes the same, of twice its rank.

    B A - B0 A0 = [B, -B0] [A; A0]
    Raises  ValueError if the handle is of another method, or 2r is above the rank of a weight
    """
    method = at.method
    if not isinstance(method, PiSSA):
        raise ValueError(f"as_lora takes a PiSSA adapter, got one of {method.name!r}")
    values = {path: p.data for path, p in at.clones.items()}
    for path, w in at.wrappers.items():
        xp = xp_of(w.A.data)
        values[f"{path}.A"] = xp.concatenate([w.A.data, w.A0.data])
        values[f"{path}.B"] = xp.concatenate([w.B.data, -w.B0.data], axis=1)
        weight_of(LoRA(r=2 * method.r), path, w.base, 2 * method.r)
    at.detach()
    twin = LoRA(r=2 * method.r, alpha=2 * method.alpha, targets=method.targets,
                dropout=method.dropout)  # fmt: skip
    handle = attach(at.model, twin)
    for path, p in handle.trainable():
        p.data = values[path]
    return handle
