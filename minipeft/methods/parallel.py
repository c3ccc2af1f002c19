"""Parallel adapters: a bottleneck beside the MLP, whose output is scaled and added.

Paper    He et al. 2022, table 1 and sec. 3.3: h <- h + f + s W_up phi(W_down h)
Kind     function composition
Unified  W_up phi(W_down x + b_down) + b_up; parallel; MLP or attention; h + s Δh
Touches  the MLP of each block, or its attention (`sublayer`), and in a pre-norm model the norm
         before it, where the residual stream h is read
Adds     L * (2 * d * r + r + d) per model; W_up = 0, so it starts as the identity
Merges   never: phi stands between the two matrices
Saves    down and up of each adapter
Differs  the paper's model is post-norm, where h is what the sublayer reads. In a pre-norm model
         reads="residual" is h, as in the library of adapters, and reads="ln" its norm, which the
         sublayer reads. There are biases. The base's dropout acts on the sum
Lecture  05_adapters                    Homework none yet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.checks import one_of, real, setting, whole
from minipeft.contract.method import Method, Where, Wrapper
from minipeft.engine import Tensor, context
from minipeft.methods.adapter import ACTS, AdapterWrapper, Bottleneck, bottleneck
from minipeft.nn import Module

NORMS = {"mlp": "ln_2", "attn": "ln_1"}  # sublayer -> the norm that a pre-norm block has before it


@dataclass(frozen=True)
class Parallel(Method):
    """Bottlenecks beside a sublayer.

    r         width of the bottleneck
    s         its output is scaled by s; 1 is the plain parallel adapter
    sublayer  "mlp" or "attn"
    reads     "residual": the residual stream; "ln": what the sublayer reads. In a post-norm model
              both are the same
    act       "gelu", "relu" or "swish"
    """

    name: ClassVar[str] = "parallel"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 3e-3

    r: int = setting(8, whole(1))
    s: float = setting(4.0, real())
    sublayer: str = setting("mlp", one_of(*NORMS))
    reads: str = setting("residual", one_of("residual", "ln"))
    act: str = setting("relu", one_of(*ACTS))
    seed: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """The sublayer, and the norm before it."""
        return NORMS[self.sublayer], self.sublayer

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper | None:
        layer, norm = where.layer or 0, not path.endswith(self.sublayer)
        apart = self.reads == "residual" and getattr(where.config, "norm", "pre") == "pre"
        if norm and not apart:
            return None
        if not norm and apart:
            return Added(module, layer)
        adapter = bottleneck(self.r, self.act, "zero", where)
        return (Before if norm else Beside)(module, layer, adapter, self.s)


class Beside(AdapterWrapper):
    """y = f(x) + s A(x).  Shapes  x (B, T, d) -> (B, T, d)"""

    def __init__(self, base: Module, layer: int, adapter: Bottleneck, s: float) -> None:
        super().__init__(base)
        self.layer, self.adapter, self.s = layer, adapter, s

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.base(x, **kwargs) + self.adapter(x) * self.s


class Before(Beside):
    """At the norm: its input goes through the adapter, and what comes out waits for `Added`."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        values = context().values
        if values is not None:
            values[self.handle, self.layer] = self.adapter(x) * self.s
        return self.base(x, **kwargs)


class Added(AdapterWrapper):
    """y = f(x) + what waits; nothing does where the norm's wrapper is off."""

    def __init__(self, base: Module, layer: int) -> None:
        super().__init__(base)
        self.layer = layer

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        waits = (context().values or {}).pop((self.handle, self.layer), None)
        y = self.base(x, **kwargs)
        return y if waits is None else y + waits
