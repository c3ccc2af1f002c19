"""Throwaway methods that compose in the parameters: W ⊕ φ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.contract import Method, Where, Wrapper
from minipeft.engine import Tensor, fused
from minipeft.nn import Linear, Module, Parameter, init


@dataclass(frozen=True)
class Subspace(Method):
    """Every weight of the blocks moves along random directions, by one vector for all.

    Adds     n per model; theta = theta0 + P v, P redrawn from the seed, v = 0 at first
    """

    name: ClassVar[str] = "throwaway_subspace"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 3e-2

    n: int = 20
    seed: int = 0

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        return where.layer is not None

    def prepare(self, at: Any) -> None:
        first = next(iter(at.computed.values())).data
        at.shared["v"] = Parameter(init.zeros((self.n,), first))
        for path, p in at.computed.items():
            P = init.normal((p.size, self.n), p.data, at.where(path).rng, 0.1)
            vars(at.root)[f"P {path}"] = P

    def compute(self, at: Any) -> dict[str, Tensor]:
        v, drawn = at.shared["v"], vars(at.root)
        return {path: p + (Tensor(drawn[f"P {path}"]) @ v).reshape(p.shape)
                for path, p in at.computed.items()}  # fmt: skip


@dataclass(frozen=True)
class Masked(Method):
    """A sparse difference: after each step fewer of its elements are kept, the largest ones.

    Adds     d_in * d_out per module; y = (W0 + M * D) x, D = 0 at first
    """

    name: ClassVar[str] = "throwaway_masked"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 1e-2

    keep: float = 0.25
    strength: float = 1e-3
    targets: str | tuple[str, ...] = ("fc_in", "o_proj")

    def wrap(self, path: str, module: Module, where: Where) -> MaskedLinear:
        return MaskedLinear(module)

    def after_step(self, at: Any, step: int, total: int) -> None:
        share = 1 - (1 - self.keep) * (step + 1) / total
        for w in at.wrappers.values():
            size = abs(w.D.data * w.mask)
            k = math.ceil(share * size.size)
            w.mask = (size >= xp_of(size).sort(size.reshape(-1))[-k]) * w.mask

    def extra_loss(self, at: Any) -> Tensor:
        total: Any = 0.0
        for w in at.wrappers.values():
            total = total + (w.D * w.D).sum()
        return total * self.strength

    def state(self, at: Any) -> dict[str, np.ndarray]:
        return {path: to_numpy(w.mask) for path, w in at.wrappers.items()}

    def load_state(self, at: Any, state: dict[str, np.ndarray]) -> None:
        if any(mask.mean() < self.keep / 2 for mask in state.values()):
            raise ValueError(f"a mask keeps less than half of keep = {self.keep}")
        for path, w in at.wrappers.items():
            w.mask = xp_of(w.D.data).asarray(state[path], dtype=bool)


class MaskedLinear(Wrapper):
    """y = (W0 + M * D) x + b, D trained, M a mask.  Shapes  x (..., d_in) -> (..., d_out)"""

    def __init__(self, base: Module) -> None:
        super().__init__(base)
        self.D = Parameter(init.zeros(base.weight.shape, base.weight.data))
        self.mask = init.ones(self.D.shape, self.D.data) > 0

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + fused.linear(x, self.D * self.mask.astype(self.D.dtype))

    def merged(self) -> Linear:
        weight = Parameter(self.base.weight.data + self.D.data * self.mask)
        bias = self.base.bias
        return Linear.of(weight, None if bias is None else Parameter(bias.data.copy()))


@dataclass(frozen=True)
class FacT(Method):
    """A change of every weight that is square, with two factors for all of them.

    Adds     2 * d * r + 2 * L * r * r per model; W = W0 + s U C V, V = 0 at first
    """

    name: ClassVar[str] = "throwaway_fact"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    r: int = 3
    s: float = 1.0
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Factored:
        like, d, r = module.weight.data, where.config.width, self.r
        U = where.shared("U", lambda: init.normal((d, r), like, where.rng, 1 / math.sqrt(r)))
        V = where.shared("V", lambda: init.zeros((r, d), like))
        C = Parameter(init.normal((r, r), like, where.rng, 1 / math.sqrt(r)))
        return Factored(module, U, C, V, self.s)


class Factored(Wrapper):
    """y = W0 x + b + s U C V x.  Shapes  x (..., d) -> (..., d), U (d, r), C (r, r), V (r, d)"""

    def __init__(self, base: Module, U: Any, C: Any, V: Any, s: float) -> None:
        super().__init__(base)
        self.U, self.C, self.V, self.s = U, C, V, s

    def forward(self, x: Tensor) -> Tensor:
        branch = fused.linear(fused.linear(fused.linear(x, self.V), self.C), self.U)
        return self.base(x) + branch * self.s

    def merged(self) -> Linear:
        weight = self.base.weight.data + self.s * (self.U.data @ self.C.data @ self.V.data)
        b = self.base.bias
        return Linear.of(Parameter(weight), None if b is None else Parameter(init.copy(b.data)))
