"""The optimizers by name, and Muon, with which whole models are trained."""

from __future__ import annotations

import math
from collections.abc import Iterable

from minipeft.backend import Array, xp_of
from minipeft.checks import real, takes
from minipeft.nn.module import Parameter
from minipeft.training.optim import SGD, AdamW, Optimizer


class Muon(AdamW):
    """Momentum whose update is made orthogonal, for the matrices inside blocks (Jordan 2024).

    u ← μ u + (1-μ) g;  w ← w - lr sqrt(max(1, d_out/d_in)) orthogonal(μ u + (1-μ) g)
    Every direction of a matrix moves by the same amount, so what is seen rarely, as a fact of
    one entity is, is learnt several times sooner. Embeddings and vectors are AdamW's, at
    0.15 lr.
    """

    slots = ("m", "v")  # of a matrix, m is u and v stays 0

    @takes(momentum=real(0, below=1))
    def __init__(
        self,
        params: Iterable[tuple[str, Parameter]],
        lr: float = 0.02,
        momentum: float = 0.95,
        decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas=(0.9, 0.99), decay=decay)
        self.momentum = momentum

    def step(self, lr: float | None = None) -> None:
        lr = self.lr if lr is None else lr
        for (path, p), state in zip(self.params, self.state, strict=True):
            if p.grad is None or p.ndim != 2 or not path.startswith("blocks.") or not p.size:
                continue
            u, w = state["m"], p.data
            u *= self.momentum
            u += (1 - self.momentum) * p.grad
            ahead = self.momentum * u + (1 - self.momentum) * p.grad
            w *= 1 - lr * self.decay
            w -= lr * math.sqrt(max(1.0, w.shape[0] / w.shape[1])) * orthogonal(ahead)
            p.data, p.grad = w, None
            self._touched(u)
        super().step(0.15 * lr)  # what still has a gradient


def orthogonal(x: Array) -> Array:
    """About U Vᵀ of x = U S Vᵀ: five Newton-Schulz steps, singular values end in 0.7 … 1.2."""
    wide = x if x.shape[0] <= x.shape[1] else x.T
    y = wide / (xp_of(x).linalg.norm(wide) + 1e-7)
    for _ in range(5):
        a = y @ y.T
        y = 3.4445 * y + (-4.7750 * a + 2.0315 * (a @ a)) @ y
    return y if x.shape[0] <= x.shape[1] else y.T


OPTIMIZERS: dict[str, type[Optimizer]] = {"adamw": AdamW, "sgd": SGD, "muon": Muon}


def get_optimizer(name: str) -> type[Optimizer]:
    """The class of an optimizer's name."""
    if name not in OPTIMIZERS:
        *most, last = map(repr, OPTIMIZERS)
        raise ValueError(f"optimizer must be {', '.join(most)} or {last}, got {name!r}")
    return OPTIMIZERS[name]
