"""Throwaway methods that compose in the function: f ∘ φ, around parts and places between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.contract import Method, NotMergeable, Where, Wrapper
from minipeft.engine import Tensor, fused
from minipeft.nn import Linear, Module, Parameter, Tap, init


@dataclass(frozen=True)
class Steering(Method):
    """What the heads give out, before o_proj mixes it, moves by a trained vector.

    At o_proj, whose bias takes it; or at the place itself, head_out, which has no bias.
    Adds     d * L per model; v = 0 at first
    """

    name: ClassVar[str] = "throwaway_steering"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    targets: str | tuple[str, ...] = "o_proj"

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        return Shifted(module, Parameter(init.zeros((where.config.width,), where.like)))


class Shifted(Wrapper):
    """y = base(x + v).  Shapes  x (..., d_in), v (d_in,)"""

    def __init__(self, base: Module, v: Parameter) -> None:
        super().__init__(base)
        self.v = v

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x + self.v)

    def merged(self) -> Linear:
        if isinstance(self.base, Tap):
            raise NotMergeable("a Tap holds no bias: shift what o_proj reads instead")
        W, b = self.base.weight.data, self.base.bias
        shift = W @ self.v.data
        return Linear.of(Parameter(init.copy(W)), Parameter(shift if b is None else b.data + shift))


@dataclass(frozen=True)
class Offsets(Method):
    """What the MLP's activation reads moves by a trained vector.

    Adds     4 * d * L per model; v = 0 at first
    """

    name: ClassVar[str] = "throwaway_offsets"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    targets: str | tuple[str, ...] = "fc_in"

    def wrap(self, path: str, module: Module, where: Where) -> Offset:
        return Offset(module, Parameter(init.zeros((module.d_out,), where.like)))


class Offset(Wrapper):
    """y = W x + b + v.  Shapes  x (..., d_in) -> (..., d_out), v (d_out,)"""

    def __init__(self, base: Module, v: Parameter) -> None:
        super().__init__(base)
        self.v = v

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.v

    def merged(self) -> Linear:
        b = self.base.bias
        bias = Parameter(self.v.data if b is None else b.data + self.v.data)
        return Linear.of(Parameter(init.copy(self.base.weight.data)), bias)


@dataclass(frozen=True)
class Produced(Offsets):
    """As Offsets, where one network makes the vectors of all blocks, from an embedding.

    Adds     L * k + k * h + h + 4 * d * (h + 1) per model; v = W2 tanh(W1 E + b1) + b2, W2 = b2 = 0
    """

    name: ClassVar[str] = "throwaway_produced"

    k: int = 4
    h: int = 6
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Offset:
        made = super().wrap(path, module, where)
        made.v.requires_grad = False
        return made

    def prepare(self, at: Any) -> None:
        where, n = at.where("network"), len(at.wrappers)
        like, d = where.like, next(iter(at.wrappers.values())).d_out
        made = {
            "E": init.normal((n, self.k), like, where.rng, 1.0),
            "W1": init.normal((self.h, self.k), like, where.rng, 1 / math.sqrt(self.k)),
            "b1": init.zeros((self.h,), like),
            "W2": init.zeros((d, self.h), like),
            "b2": init.zeros((d,), like),
        }
        at.shared |= {name: Parameter(array) for name, array in made.items()}
        at.computed |= {f"{path}.v": w.v for path, w in at.wrappers.items()}

    def compute(self, at: Any) -> dict[str, Tensor]:
        E, W1, b1, W2, b2 = (at.shared[name] for name in ("E", "W1", "b1", "W2", "b2"))
        v = fused.linear(fused.linear(E, W1, b1).tanh(), W2, b2)  # (n, d)
        return {path: v[i] for i, path in enumerate(at.computed)}
