"""Steering: a fixed vector is added to what a few heads give out; nothing is trained.

Paper    Li et al. 2023 (ITI), eq. 2: x_{l+1} = x_l + sum_h Q_l^h (Att_l^h(P_l^h x_l) + alpha s t)
Kind     function composition
Unified  alpha sigma theta, the same for every input; parallel; k heads before W_o; h + Δh
Touches  Linear modules matching `targets` (default o_proj): what they read, the heads side by side
Adds     0 per model; nothing trains: k * (d / heads + 1) numbers are measured
Merges   with positions="all": b + W (alpha sigma theta), the output projection's bias
Saves    heads, theta, sigma; alpha is a field
Differs  from the answer on means from the first position whose logits are asked for. The authors'
         newer script puts alpha sigma theta into the bias as it is, though the direction was
         found before W: that adds another vector, and W must come first
Lecture  13_steering                    Homework hw8.4 (shift), hw8.5 (merged)

`handle.measure(batches)` finds heads, directions and deviations (training/probing.py makes the
batches); `point(handle, …)` sets ones that you have.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from minipeft.backend import Array, Rng, to_numpy, xp_of
from minipeft.checks import one_of, real, setting, whole
from minipeft.contract.method import Method, NotMergeable, Where, Wrapper
from minipeft.contract.targets import is_linear
from minipeft.engine import Tensor, context, running
from minipeft.methods.probes import direction, held_out, read_heads
from minipeft.nn import Linear, Module, Parameter, init


@dataclass(frozen=True)
class Steering(Method):
    """Heads that lean to one side.

    k          how many heads; `measure` takes those that tell best on held-out questions
    alpha      how many deviations to go; below 0 to the other side
    theta      which direction `measure` takes: "mean", "probe" or "random"
    positions  "answer": from the first position on whose logits are asked for, which is the last
               token of the prompt where answers are scored or trained, and the newest token where
               text is generated; or "all", as a merged bias does
    rank       heads by the AUC of which direction: "mean", or "probe" as the paper does
    folds      how many, of questions, when heads are ranked
    targets    the Linear parts that read the heads
    seed       draws the folds, and random directions
    """

    name: ClassVar[str] = "steering"
    compose: ClassVar[str] = "function"

    k: int = setting(1, whole(1))
    alpha: float = setting(5.0, real())
    theta: str = setting("mean", one_of("mean", "probe", "random"))
    positions: str = setting("answer", one_of("answer", "all"))
    rank: str = setting("mean", one_of("mean", "probe"))
    folds: int = setting(4, whole(2))
    targets: str | tuple[str, ...] = "o_proj"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "by_row", self.positions == "all")

    def wrap(self, path: str, module: Module, where: Where) -> Steered:
        if not is_linear(module):
            raise ValueError(f"Steering: {path} is a {type(module).__name__}; it must be the "
                             "Linear that reads the heads, such as o_proj")  # fmt: skip
        heads, part = where.config.heads, cast("Any", module)  # a wrapper has its base's d_in
        return Steered(module, self, (heads, part.d_in // heads), where)

    def prepare(self, at: Any) -> None:
        heads = sum(len(w.sigma) for w in at.wrappers.values())
        if self.k > heads:
            raise ValueError(f"Steering: k = {self.k} is more than the {heads} heads there")
        if self.positions == "answer":
            forward = at.model.forward
            names = list(inspect.signature(forward).parameters)

            def reading(*args: Any, **kwargs: Any) -> Any:
                given, values = dict(zip(names, args, strict=False)) | kwargs, context().values
                if values is not None:
                    read = given.get("at"), given.get("return_past", False)
                    values["steered", at.number] = _steered(given[names[0]], *read)
                return forward(*args, **kwargs)

            at.swap(at.model, "forward", reading)

    def measure(self, at: Any, batches: Sequence[Any]) -> None:
        """Find heads and directions from documents of two kinds.

        batches  with `more`: "kind" 1 or 0, "question" a number by which folds are made, "at" the
                 position that is read; each (B,)
        """
        taps = tuple(path.rpartition(".")[0] + ".head_out" for path in at.wrappers)
        with running(off=[at]):  # the heads as they are without it
            x, y, question = read_heads(at.model, batches, taps)  # (N, L, H, D)
        places, x = [*np.ndindex(x.shape[1:3])], x.reshape(len(x), -1, x.shape[3])
        best = held_out(x, y, question, self.rank, self.folds, self.seed).best(self.k)
        rng = Rng(self.seed, self.name)
        found = [direction(x[:, h], y, self.theta, rng) for h in best]
        point(at, [places[h] for h in best], [t for t, _ in found], [s for _, s in found])

    def state(self, at: Any) -> dict[str, np.ndarray]:
        """heads (k, 2): the number of the part and of its head; theta (k, D), sigma (k,)"""
        parts = list(at.wrappers.values())
        chosen = [(i, int(h)) for i, w in enumerate(parts)
                  for h in np.flatnonzero(to_numpy(w.sigma))][: self.k]  # fmt: skip
        chosen += [(0, 0)] * (self.k - len(chosen))  # of which sigma is 0, if none was measured
        sigma = [to_numpy(parts[i].sigma)[h] for i, h in chosen]
        theta = [to_numpy(parts[i].theta)[h] for i, h in chosen]
        return {"heads": np.array(chosen), "theta": np.array(theta), "sigma": np.array(sigma)}

    def load_state(self, at: Any, state: dict[str, np.ndarray]) -> None:
        point(at, state["heads"].tolist(), state["theta"], state["sigma"])


class Steered(Wrapper):
    """y = W (x + alpha sigma theta) + b.  Shapes  x (B, T, H D), theta (H, D), sigma (H,)"""

    def __init__(
        self, base: Module, method: Steering, shape: tuple[int, int], where: Where
    ) -> None:
        super().__init__(base)
        self.method, self.steers = method, False
        self.theta = init.zeros(shape, where.like)
        self.sigma = init.zeros(shape[:1], where.like)

    def shift(self, here: Array | None = None) -> Array:
        """What is added to the heads, side by side: alpha sigma theta of each.

        here    which positions are steered; None for all
        Shapes  here (B, T) true or false -> (B, T, H D); without it (H D,)
        """
        shift: Array = self.method.alpha * (self.sigma[:, None] * self.theta).reshape(-1)
        return shift if here is None else shift * here[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        if not self.steers:
            return self.base(x)
        here = (context().values or {}).get(("steered", getattr(self.handle, "number", None)))
        if here is not None:
            virtual = ((0, 0), (x.shape[1] - here.shape[1], 0))  # what a prompt put in front
            here = xp_of(here).pad(here, virtual)
        return self.base(x + self.shift(here))

    def merged(self) -> Linear:
        if self.method.positions != "all":
            raise NotMergeable("a bias acts at all positions, and this from the answer on: attach "
                               "Steering(positions='all') and point() it as this one")  # fmt: skip
        W, b = self.base.weight.data, self.base.bias
        bias = W @ self.shift() if b is None else b.data + W @ self.shift()
        return Linear.of(Parameter(init.copy(W)), Parameter(bias))


def _steered(ids: Array, at: Any, return_past: bool) -> Array | None:
    """Which positions are steered in a call of a model, (B, T) true or false; None for all."""
    here = xp_of(ids).zeros(ids.shape[:2], dtype=bool)
    if at is not None:
        here[tuple(at)] = True
        return here.cumsum(axis=1) > 0
    here[:, -1] = True
    return here if return_past else None


def point(at: Any, heads: Any, theta: Any, sigma: Any) -> None:
    """Set the heads of a handle, their directions and deviations, instead of measuring them.

    heads   k pairs: the number of the block, and of the head in it
    Shapes  theta (k, D), sigma (k,)
    """
    parts = list(at.wrappers.values())
    k, (H, D) = at.method.k, parts[0].theta.shape
    theta, sigma = np.asarray(theta, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    places = [(int(i), int(h)) for i, h in heads]
    if (len(places), theta.shape, sigma.shape) != (k, (k, D), (k,)):
        raise ValueError(f"point: wanted k = {k} heads, theta {(k, D)} and sigma {(k,)}, got "
                         f"{len(places)}, {theta.shape} and {sigma.shape}")  # fmt: skip
    twice = sigma.any() and len(set(places)) < k
    if twice or any(not (0 <= i < len(parts) and 0 <= h < H) for i, h in places):
        raise ValueError(f"point: wanted {k} of {len(parts)} blocks with {H} heads, got {places}")
    for number, w in enumerate(parts):
        new_theta, new_sigma = np.zeros((H, D)), np.zeros(H)
        for (i, h), t, s in zip(places, theta, sigma, strict=True):
            if i == number:
                new_theta[h], new_sigma[h] = t, s
        xp, dtype = xp_of(w.theta), w.theta.dtype
        w.theta, w.sigma = xp.asarray(new_theta, dtype=dtype), xp.asarray(new_sigma, dtype=dtype)
        w.steers = bool(at.method.alpha and new_sigma.any())
