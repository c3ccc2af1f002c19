"""LoRA: a low-rank product beside a frozen weight.

Paper    Hu et al. 2021, eq. 3: h = W0 x + (alpha/r) B A x
Kind     parameter composition
Touches  Linear modules matching `targets` (default q_proj, v_proj)
Adds     r * (d_in + d_out) per module; A ~ N(0, 1/d_in), B = 0, so it starts as the identity
Merges   W0 + (alpha/r) B A
Saves    A, B
Differs  the paper leaves A's variance open; init="peft" and "gaussian" are those of PEFT.
         `fused` parts share one A, as an adapter on a joint q, k, v matrix does
Lecture  08_lora                        Homework none yet
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import Rng, dropout_factors, xp_of
from minipeft.engine import Tensor, context, fused
from minipeft.methods.base import Method, NotMergeable, Where, Wrapper
from minipeft.methods.targets import is_linear
from minipeft.nn import Linear, Module, Parameter, init


@dataclass(frozen=True)
class LoRA(Method):
    """A low-rank update of Linear parts.

    r        rank
    alpha    the update is scaled by alpha / r
    targets  which Linear parts
    fused    leaf names of parts of one module that share one A (and its dropout mask)
    rslora   scale by alpha / sqrt(r) instead (Kalajdzievski 2023)
    dropout  of the branch's input
    init     of A: "normal" N(0, 1/d_in), "peft" U(±1/sqrt(d_in)), "gaussian" N(0, 1/r²)
    """

    name: ClassVar[str] = "lora"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    r: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    fused: tuple[str, ...] = ()
    rslora: bool = False
    dropout: float = 0.0
    init: str = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ValueError(f"LoRA: r must be a whole number >= 1, got {self.r!r}")
        if not math.isfinite(self.alpha):
            raise ValueError(f"LoRA: alpha must be finite, got {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA: dropout must be in [0, 1), got {self.dropout}")
        if self.init not in ("normal", "peft", "gaussian"):
            raise ValueError(
                f"LoRA: init must be 'normal', 'peft' or 'gaussian', got {self.init!r}"
            )
        if not isinstance(self.fused, tuple):
            raise ValueError(f"LoRA: fused must be a tuple of leaf names, got {self.fused!r}")

    @property
    def scale(self) -> float:
        """s, by which B A is multiplied."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    def wrap(self, path: str, module: Module, where: Where) -> LoRALinear:
        weight = getattr(module, "weight", None)
        if weight is None or not is_linear(module):
            raise ValueError(f"LoRA: {path} is a {type(module).__name__}; it must be a Linear")
        d_out, d_in = weight.shape
        if self.r > min(d_in, d_out):
            raise ValueError(f"LoRA: r = {self.r} is above the rank of {path}, whose weight is "
                             f"{d_out} x {d_in}: at most {min(d_in, d_out)}")  # fmt: skip
        parent, _, leaf = path.rpartition(".")
        group = parent if leaf in self.fused else path
        A = where.shared(group.replace(".", "_"), lambda: self._draw(d_in, weight.data, where.rng))
        if A.shape[1] != d_in:
            raise ValueError(f"LoRA: {path} has d_in = {d_in} and cannot share the A of {parent}, "
                             f"{A.shape}: fused parts read the same input")  # fmt: skip
        B = Parameter(init.zeros((d_out, self.r), weight.data))
        return LoRALinear(module, A, B, self.scale, self.dropout, group)

    def _draw(self, d_in: int, like: Any, rng: Rng) -> Any:
        """A at its start.  (r, d_in)"""
        if self.init == "peft":
            return init.uniform((self.r, d_in), like, rng, 1 / math.sqrt(d_in))
        std = 1 / math.sqrt(d_in) if self.init == "normal" else 1 / self.r
        return init.normal((self.r, d_in), like, rng, std)


class LoRALinear(Wrapper):
    """y = W0 x + b + s B A x.  Shapes  x (..., d_in) -> (..., d_out), A (r, d_in), B (d_out, r)"""

    def __init__(
        self, base: Module, A: Parameter, B: Parameter, scale: float, dropout: float, group: str
    ) -> None:
        super().__init__(base)
        self.A, self.B, self.scale = A, B, scale
        self.dropout, self.group = dropout, group

    def forward(self, x: Tensor) -> Tensor:
        rng, inner = context().rng, x
        if rng is not None and self.dropout:  # parts that share A draw the same mask
            mask = dropout_factors(rng.spawn(self.group), x.shape, self.dropout, x.data)
            inner = x * mask
        return fused.add_low_rank(self.base(x), inner, self.A, self.B, scale=self.scale)

    def merged(self) -> Linear:
        weight = self.base.weight.data
        if weight.dtype.itemsize < 4:
            raise NotMergeable(f"a weight stored as {weight.dtype} would round B A away")
        whole = weight + self.scale * (self.B.data @ self.A.data)
        bias = None if self.base.bias is None else Parameter(init.copy(self.base.bias.data))
        return Linear.of(Parameter(xp_of(whole).asarray(whole, dtype=weight.dtype)), bias)
