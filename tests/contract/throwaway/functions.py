"""Throwaway methods that compose in the function: f ∘ φ, around parts and places between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.contract import Method, NotMergeable, Where, Wrapper
from minipeft.engine import Tensor, context, fused
from minipeft.nn import Linear, Module, Parameter, Tap, init


@dataclass(frozen=True)
class Houlsby(Method):
    """A bottleneck behind attention and MLP, before the residual.

    Adds     2 * L * (2 * d * r + r + d) per model; f + up(gelu(down(f))), up = 0 at first
    """

    name: ClassVar[str] = "throwaway_houlsby"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    r: int = 4
    targets: str | tuple[str, ...] = ("attn", "mlp")
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        return Behind(module, *bottleneck(self.r, where))


def bottleneck(r: int, where: Where) -> tuple[Linear, Linear]:
    """Down to r, with random weights, and up again, with none yet."""
    d, like = where.config.width, where.like
    down = Linear(d, r, std=1 / math.sqrt(d), rng=where.rng, like=like)
    return down, Linear.of(Parameter(init.zeros((d, r), like)), Parameter(init.zeros((d,), like)))


class Behind(Wrapper):
    """y = f + up(gelu(down(f))), f what the part gives out, whatever it takes."""

    def __init__(self, base: Module, down: Linear, up: Linear) -> None:
        super().__init__(base)
        self.down, self.up = down, up

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        f = self.base(*args, **kwargs)
        return f + self.up(fused.gelu(self.down(f)))


@dataclass(frozen=True)
class Pfeiffer(Houlsby):
    """One bottleneck in a block, where the residual has been added.

    Behind a pre-norm block; in a post-norm one inside its last norm, targets="ln_2".
    Adds     L * (2 * d * r + r + d) per model; up = 0 at first
    """

    name: ClassVar[str] = "throwaway_pfeiffer"

    targets: str | tuple[str, ...] = "blocks.*"

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        kind = Within if path.rpartition(".")[2].startswith("ln_") else Behind
        return kind(module, *bottleneck(self.r, where))


class Within(Behind):
    """y = ln(x + up(gelu(down(ln(x))))), x with its residual: the one norm, twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x + self.up(fused.gelu(self.down(self.base(x)))))


@dataclass(frozen=True)
class Parallel(Houlsby):
    """A bottleneck beside the MLP, which reads what the MLP reads.

    Adds     L * (2 * d * r + r + d) per model; mlp(x) + s up(gelu(down(x))), up = 0 at first
    """

    name: ClassVar[str] = "throwaway_parallel"

    s: float = 4.0
    targets: str | tuple[str, ...] = "mlp"

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        return Beside(module, *bottleneck(self.r, where), self.s)


class Beside(Wrapper):
    """y = base(x) + s up(gelu(down(x))).  Shapes  x (..., d) -> (..., d)"""

    def __init__(self, base: Module, down: Linear, up: Linear, s: float) -> None:
        super().__init__(base)
        self.down, self.up, self.s = down, up, s

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(fused.gelu(self.down(x))) * self.s


@dataclass(frozen=True)
class AdapterDrop(Houlsby):
    """Houlsby's bottlenecks, of which the first n blocks go without.

    n is drawn from 0 … most for each pass of training; `drop` is that of all others.
    Adds     2 * L * (2 * d * r + r + d) per model; as Houlsby's
    """

    name: ClassVar[str] = "throwaway_drop"
    skips: ClassVar[bool] = True

    most: int = 1
    drop: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        layer = where.layer or 0
        return Dropped(module, *bottleneck(self.r, where), layer, self.most, self.drop)


class Dropped(Behind):
    """As Behind, in the blocks from the n-th on."""

    def __init__(
        self, base: Module, down: Linear, up: Linear, layer: int, most: int, drop: int
    ) -> None:
        super().__init__(base, down, up)
        self.layer, self.most, self.drop = layer, most, drop

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        n, values = self.drop, context().values or {}
        if self.owner in values:  # the pass's generator: the same stream for all that spawn it
            n = values[self.owner].spawn("n").integers(0, self.most + 1)
        if self.layer < n:
            return self.base(*args, **kwargs)
        return super().forward(*args, **kwargs)


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
