"""The small parts: Linear, Embedding, LayerNorm, Dropout, and Tap, a named identity."""

from __future__ import annotations

from typing import Any

from minipeft.backend import Array, Rng, dropout_factors
from minipeft.engine import Tensor, context, fused
from minipeft.nn import init
from minipeft.nn.module import Module, Parameter


class Linear(Module):
    """y = x wᵀ + b, with w (d_out, d_in).

    Shapes  x (..., d_in) -> (..., d_out)
    Init    w ~ N(0, std²), b = 0
    """

    new = False  # True for a freshly made head, which every method trains whole

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        bias: bool = True,
        std: float = 0.02,
        rng: Rng | None = None,
        like: Array | None = None,
        weight: Parameter | None = None,
    ) -> None:
        like = init.prototype() if like is None else like
        if weight is None:
            weight = Parameter(init.normal((d_out, d_in), like, rng or Rng(0), std))
        self.weight = weight  # a given one is tied to another place
        self.bias = Parameter(init.zeros((d_out,), like)) if bias else None

    @classmethod
    def of(cls, weight: Parameter, bias: Parameter | None) -> Linear:
        """A Linear on given Parameters."""
        made = cls.__new__(cls)
        made.weight, made.bias = weight, bias
        return made

    @property
    def d_in(self) -> int:
        return self.weight.shape[1]

    @property
    def d_out(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Any) -> Tensor:
        return fused.linear(x, self.weight, self.bias)


class Embedding(Module):
    """Rows of a table by id. `virtual`: how many ids past the table a wrapper has rows for.

    Shapes  ids (...) -> (..., width)
    """

    virtual = 0

    def __init__(self, rows: int, width: int, *, std: float = 0.02, rng: Rng, like: Array) -> None:
        self.weight = Parameter(init.normal((rows, width), like, rng, std))

    def forward(self, ids: Array) -> Tensor:
        return fused.embedding(self.weight, ids)


class LayerNorm(Module):
    """Centre and scale the last axis, then w and b. Shapes  x (..., width) -> the same"""

    def __init__(self, width: int, *, eps: float = 1e-5, like: Array) -> None:
        self.weight = Parameter(init.ones((width,), like))
        self.bias = Parameter(init.zeros((width,), like))
        self.eps = eps

    def forward(self, x: Any) -> Tensor:
        return fused.layer_norm(x, self.weight, self.bias, eps=self.eps)


class Dropout(Module):
    """Zero a share p of the elements and scale the rest by 1/(1-p), inside `running(rng=…)`.

    Without a generator it is the identity: there is no train/eval switch.
    """

    def __init__(self, p: float) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropout p must be in [0, 1), got {p}")
        self.p = p

    def factors(self, shape: tuple[int, ...], like: Array) -> Array | None:
        """0 or 1/(1-p) for each element, or None where nothing is dropped."""
        rng = context().rng
        return dropout_factors(rng, shape, self.p, like) if rng is not None and self.p else None

    def forward(self, x: Tensor) -> Tensor:
        factors = self.factors(x.shape, x.data)
        return x if factors is None else x * factors


class Tap(Module):
    """The identity, with a name: where activations are read or steered."""

    def forward(self, x: Any) -> Any:
        return x
