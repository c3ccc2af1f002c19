"""Optimizers, gradient clipping and learning-rate schedules.

An optimizer is built from (path, Parameter) pairs and updates their arrays in place. Weight
decay touches matrices only: biases and norms, which have one axis, are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.backend import Array, to_numpy, xp_of
from minipeft.checks import Checked, one_of, real, setting, takes
from minipeft.nn.module import Parameter
from minipeft.storage.paged import Scratch, in_scratch

CHUNK = 1 << 16  # elements updated at a time on the CPU: the five passes stay in its cache


class Optimizer:
    """What SGD and AdamW share: the parameters, their state arrays, and the step count.

    Raises  ValueError if there is nothing to train, a frozen parameter is among them, or a
            setting is out of range
    """

    slots: tuple[str, ...] = ()  # names of the state arrays per parameter

    @takes(lr=real(0), decay=real(0))
    def __init__(
        self, params: Iterable[tuple[str, Parameter]], lr: float, decay: float = 0.0
    ) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("the optimizer got no parameter: nothing trains")
        frozen = [path for path, p in self.params if not p.requires_grad]
        if frozen:
            raise ValueError(f"the optimizer got frozen parameters: {', '.join(frozen[:5])}")
        self.lr, self.decay, self.steps = lr, decay, 0
        self.state = [
            {slot: xp_of(p.data).zeros(p.shape, p.dtype) for slot in self.slots}
            for _, p in self.params
        ]
        self.scratch: Scratch | None = None

    def page(self, budget: int, folder: str | None = None) -> None:
        """Move the state to a scratch file, with at most about `budget` bytes of it in memory.

        The bits are the same. For the CPU: a device's arrays stay where they are.
        Raises  ValueError for parameters on a device, or a budget below 0
        """
        self.scratch, self.state = in_scratch(self.state, budget, folder)

    def _touched(self, *state: Array) -> None:
        """Called after each use of state arrays: what is paged may be let go."""
        if self.scratch:
            self.scratch.touched(*state)

    def step(self, lr: float | None = None) -> None:
        """Update every parameter that has a gradient, then forget the gradients."""
        self.steps += 1
        for (_, p), state in zip(self.params, self.state, strict=True):
            if p.grad is not None:
                data = p.data
                if not data.flags.c_contiguous:  # reshape(-1) would copy it
                    data = data.copy(order="C")
                decay = self.decay if data.ndim > 1 else 0.0
                flat = [a.reshape(-1) for a in (data, p.grad, *state.values())]
                chunk = CHUNK if xp_of(data) is np else max(1, data.size)
                for i in range(0, data.size, chunk):
                    w, g, *used = [a[i : i + chunk] for a in flat]
                    self._update(self.lr if lr is None else lr, decay, w, g, *used)
                    self._touched(*used)
                p.data = data  # counts the change
            p.grad = None

    def _update(self, lr: float, decay: float, w: Array, g: Array, *state: Array) -> None:
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as named arrays, for a checkpoint: no copies, they change at the next step."""
        named = zip(self.params, self.state, strict=True)
        return {f"{k}:{path}": to_numpy(a) for (path, _), s in named for k, a in s.items()}

    def load_arrays(self, arrays: dict[str, Any], steps: int) -> None:
        """Go back to a saved state, whose arrays leave `arrays` and become the optimizer's."""
        self.steps = steps
        for (path, _), state in zip(self.params, self.state, strict=True):
            for slot, array in state.items():
                saved = arrays.pop(f"{slot}:{path}")
                if self.scratch:
                    array[...] = saved
                    self._touched(array)
                else:
                    state[slot] = xp_of(array).asarray(saved, dtype=array.dtype)


class SGD(Optimizer):
    """w ← w - lr u, u ← momentum u + g + decay w"""

    slots = ("velocity",)

    @takes(momentum=real(0, below=1))
    def __init__(
        self,
        params: Iterable[tuple[str, Parameter]],
        lr: float,
        momentum: float = 0.0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, decay)
        self.momentum = momentum

    def _update(self, lr: float, decay: float, w: Array, g: Array, *state: Array) -> None:
        (u,) = state
        u *= self.momentum
        u += g
        if decay:
            u += decay * w
        w -= lr * u


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    m ← β1 m + (1-β1) g;  v ← β2 v + (1-β2) g²
    w ← w - lr decay w - lr m̂ / (sqrt(v̂) + eps),  m̂ = m/(1-β1ᵗ), v̂ = v/(1-β2ᵗ)
    """

    slots = ("m", "v")

    @takes(eps=real(above=0))
    def __init__(
        self,
        params: Iterable[tuple[str, Parameter]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, decay)
        one, two = (real(0, below=1)(f"betas[{i}]", betas[i]) for i in (0, 1))
        self.betas, self.eps = (one, two), eps

    def _update(self, lr: float, decay: float, w: Array, g: Array, *state: Array) -> None:
        m, v = state
        b1, b2 = self.betas
        m *= b1
        m += (1 - b1) * g
        v *= b2
        square = g * g
        square *= 1 - b2
        v += square
        if decay:
            w *= 1 - lr * decay
        step = xp_of(v).sqrt(v)
        step /= math.sqrt(1 - b2**self.steps)
        step += self.eps
        xp_of(v).divide(m, step, out=step)
        step *= lr / (1 - b1**self.steps)
        w -= step


def clip_gradients(params: Sequence[tuple[str, Parameter]], max_norm: float) -> float:
    """Scale all gradients down so that their joint norm is at most max_norm; returns the norm.

    On a device the factor is computed there, and nan is returned without waiting for it.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be > 0, got {max_norm}")
    trained = [p for _, p in params if p.grad is not None]
    if not trained:
        return 0.0
    xp = xp_of(trained[0].grad)
    squares = [xp.vdot(p.grad, p.grad) for p in trained]
    if xp is np:
        norm = math.sqrt(math.fsum(float(s) for s in squares))
        factor: Any = max_norm / norm if norm > max_norm else None
    else:
        norm = math.nan
        factor = xp.minimum(max_norm / xp.sqrt(sum(squares)), 1.0)
    if factor is not None:
        for p in trained:
            p.grad *= factor  # in place; a scalar, as arithmetic of 0-d arrays gives, is replaced
    return norm


SCHEDULES = ("constant", "linear", "cosine", "trapezoid")


@dataclass(frozen=True)
class Schedule(Checked):
    """The share of the learning rate that each step has.

    It rises over the first `warmup` share of the steps, then stays (constant), falls to 0 in a
    line (linear) or along half a cosine (cosine), or stays and falls in a line over the last
    fifth (trapezoid).
    """

    decline: str = setting("linear", one_of(*SCHEDULES))
    warmup: float = setting(0.06, real(0, 1, hint="a share of the steps"))

    def at(self, step: int, steps: int) -> float:
        """The share at a step of 0 … steps-1."""
        rise = round(self.warmup * steps)
        if step < rise:
            return (step + 1) / rise
        done = (step - rise) / max(1, steps - rise)  # 0 … 1
        if self.decline == "linear":
            return 1 - done
        if self.decline == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.decline == "trapezoid":
            return min(1.0, (1 - done) / 0.2)
        return 1.0
