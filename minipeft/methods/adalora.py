"""AdaLoRA: an update in the form of singular parts, of which the least important are cut.

Paper    Zhang et al. 2023, eq. 3: h = W0 x + s P Lambda Q x; eq. 4 and 7-12, algorithm 1
Kind     parameter composition
Unified  P diag(Lambda) Q x; parallel; queries and values; h + s Δh, s = alpha / (r + 1e-5)
Touches  Linear modules matching `targets` (default q_proj, v_proj)
Adds     r * (d_in + d_out) + r per module; P, Q ~ N(0, 0.02^2), Lambda = 0, so it starts as the
         identity. What is cut counts too: it may come back
Merges   W0 + s P diag(Lambda) Q
Saves    P, Lambda, Q; as state the masks, and the averages that the scores are made of
Differs  the paper has no s; here it is alpha / (r + 1e-5), as in its code and in PEFT.
         The penalty is the code's, mean ||Q Q^T - I|| over the 2n matrices, unless `squared`, the
         sum of squares of eq. 4. The budget falls as in the code: eq. 12 as printed begins above
         b0. Importance takes w before the step (algorithm 1), the code after it
Lecture  08_lora                        Homework none yet
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.checks import real, setting, whole
from minipeft.contract.method import Method, Where
from minipeft.engine import Tensor, fused, ops
from minipeft.methods.lora import (
    DenseWrapper,
    check_shared,
    group_of,
    root,
    weight_of,
)
from minipeft.nn import Module, Parameter, init

NAMES, MOMENTS = ("P", "Lambda", "Q"), ("mean", "spread")


@dataclass(frozen=True)
class AdaLoRA(Method):
    """A low-rank update whose ranks go where they matter.

    r        rank of each module at first: b(0) is r times the number of modules
    target   mean rank at the end: b(T) is target times that number; None for two thirds of r
    alpha    the update is scaled by alpha / r
    t_i      share of the run before the budget falls
    t_f      share of the run, its end, in which the masks stand still
    delta_t  steps from one allocation to the next
    beta1    memory of the importance's average
    beta2    memory of its uncertainty's average
    gamma    strength of the penalty that keeps the columns of P and the rows of Q orthogonal
    squared  the penalty of the paper in place of its code's
    targets  which Linear parts
    fused    leaf names of parts of one module that share Lambda and Q
    """

    name: ClassVar[str] = "adalora"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-1

    r: int = setting(12, whole(1))
    target: int | None = None
    alpha: float = setting(16.0, real())
    t_i: float = setting(0.1, real(0, below=1))
    t_f: float = setting(0.3, real(0, below=1))
    delta_t: int = setting(1, whole(1))
    beta1: float = setting(0.85, real(0, below=1))
    beta2: float = setting(0.85, real(0, below=1))
    gamma: float = setting(0.5, real(0))
    squared: bool = False
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    fused: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(1, self.r)("AdaLoRA: target", self.rank)
        if self.t_i + self.t_f >= 1:
            raise ValueError(f"AdaLoRA: t_i + t_f must be below 1, or the budget has no time to "
                             f"fall; got {self.t_i} + {self.t_f}")  # fmt: skip

    @property
    def rank(self) -> int:
        """The mean rank at the end."""
        return max(1, round(self.r * 2 / 3)) if self.target is None else self.target

    def wrap(self, path: str, module: Module, where: Where) -> AdaLoRALinear:
        like = weight_of(self, path, module, self.r)
        (d_out, d_in), group = like.shape, group_of(path, self.fused).replace(".", "_")
        draw = where.rng.spawn
        Q = where.shared(f"{group}_Q", lambda: init.normal((self.r, d_in), like, draw("Q"), 0.02))
        check_shared(self, path, "Q", Q, d_in)
        Lambda = where.shared(f"{group}_Lambda", lambda: init.zeros((self.r,), like))
        P = Parameter(init.normal((d_out, self.r), like, draw("P"), 0.02))
        return AdaLoRALinear(module, P, Lambda, Q, self.alpha / (self.r + 1e-5))

    # -- the penalty ------------------------------------------------------------------------------

    def extra_loss(self, at: Any) -> Tensor | None:
        """gamma times how far P's columns and Q's rows are from orthogonal unit vectors."""
        total: Any = 0.0
        modules = groups(at)
        for parts in modules:
            Q = parts[0].Q
            grams = Q @ Q.T, sum((w.P.T @ w.P for w in parts[1:]), parts[0].P.T @ parts[0].P)
            for gram in grams:
                off = gram - xp_of(Q.data).eye(self.r, dtype=Q.dtype)
                square = ops.sum(off * off)
                total = total + (square if self.squared else root(square))
        return total * (self.gamma if self.squared else self.gamma / (2 * len(modules)))

    # -- importance and budget --------------------------------------------------------------------

    def phases(self, total: int) -> tuple[int, int]:
        """The steps after which the budget begins to fall, and the masks stand still."""
        return round(self.t_i * total), total - round(self.t_f * total)

    def budget(self, t: int, total: int, n: int = 1) -> float:
        """b(t) of n modules, after t of `total` steps."""
        first, last = self.phases(total)
        left = 1 - min(max(t - first, 0) / max(last - first, 1), 1.0)
        return (n * self.r - n * self.rank) * left**3 + n * self.rank

    def before_step(self, at: Any, step: int, total: int) -> None:
        """Average each element's importance |w dw|, and how uncertain it is (eq. 8-10)."""
        if step + 1 >= self.phases(total)[1]:
            return
        for _, w, name in arrays(at):
            p = getattr(w, name)
            if p.grad is not None:
                now = abs(p.data * p.grad)
                mean, spread = w.averages(name)
                mean = self.beta1 * mean + (1 - self.beta1) * now
                spread = self.beta2 * spread + (1 - self.beta2) * abs(now - mean)
                w.keep(name, mean, spread)

    def after_step(self, at: Any, step: int, total: int) -> None:
        """Keep the b(t) most important singular values of all modules; the others become 0."""
        t, last, modules = step + 1, self.phases(total)[1], groups(at)
        if t == last or (t < last and t % self.delta_t == 0):
            scores = [importance(parts) for parts in modules]
            xp = xp_of(*scores)
            order = xp.argsort(xp.concatenate(scores))
            kept = xp.zeros(order.shape, dtype=bool)
            kept[order[order.size - int(self.budget(t, total, len(modules))) :]] = True
            for i, (w, *_) in enumerate(modules):
                w.mask = kept[i * self.r : (i + 1) * self.r]
        elif t < last:
            return
        for w, *_ in modules:
            w.Lambda.data = w.Lambda.data * w.mask

    # -- what is saved ----------------------------------------------------------------------------

    def state(self, at: Any) -> dict[str, np.ndarray]:
        state: dict[str, np.ndarray] = {}
        for path, w, name in arrays(at):
            mean, spread = w.averages(name)
            state |= {f"{path}.mean": to_numpy(mean), f"{path}.spread": to_numpy(spread)}
            if name == "Lambda":
                state[f"{path}.mask"] = to_numpy(w.mask)
        return {key: array.copy() for key, array in state.items()}

    def load_state(self, at: Any, state: dict[str, np.ndarray]) -> None:
        for path, w, name in arrays(at):
            xp, dtype = xp_of(w.P.data), w.P.dtype
            w.keep(name, *(xp.array(state[f"{path}.{k}"], dtype=dtype) for k in MOMENTS))
            if name == "Lambda":
                w.mask = xp.array(state[f"{path}.mask"], dtype=bool)


class AdaLoRALinear(DenseWrapper):
    """y = W0 x + b + s P (Lambda (Q x)).

    mask    which singular values the last allocation kept
    P_mean, P_spread, … the averages of each element's importance and of its uncertainty
    Shapes  x (..., d_in) -> (..., d_out), P (d_out, r), Lambda (r,), Q (r, d_in), mask (r,)
    """

    def __init__(
        self, base: Module, P: Parameter, Lambda: Parameter, Q: Parameter, scale: float
    ) -> None:
        super().__init__(base)
        self.P, self.Lambda, self.Q, self.scale = P, Lambda, Q, scale
        self.mask = init.ones(Lambda.shape, Lambda.data) > 0
        for name, p in zip(NAMES, (P, Lambda, Q), strict=True):
            self.keep(name, init.zeros(p.shape, p.data), init.zeros(p.shape, p.data))

    def averages(self, name: str) -> tuple[Any, Any]:
        """Of P, Lambda or Q: (mean, spread)."""
        return getattr(self, f"{name}_mean"), getattr(self, f"{name}_spread")

    def keep(self, name: str, mean: Any, spread: Any) -> None:
        """Set what `averages` gives."""
        setattr(self, f"{name}_mean", mean)
        setattr(self, f"{name}_spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        down = self.Q * self.Lambda.reshape(-1, 1)  # (r, d_in)
        return fused.add_low_rank(self.base(x), x, down, self.P, scale=self.scale)

    def dense(self) -> Any:
        down = self.Q.data * self.Lambda.data[:, None]
        return self.base.weight.data + self.scale * (self.P.data @ down)


def arrays(at: Any) -> Iterator[tuple[str, Any, str]]:
    """(path, wrapper, name) of each trained array, shared ones once."""
    seen: set[int] = set()
    for path, w in at.wrappers.items():
        for name in NAMES:
            if id(getattr(w, name)) not in seen:
                seen.add(id(getattr(w, name)))
                yield f"{path}.{name}", w, name


def groups(at: Any) -> list[list[Any]]:
    """The wrappers, those together that share Lambda and Q; the first holds their mask."""
    found: dict[int, list[Any]] = {}
    for w in at.wrappers.values():
        found.setdefault(id(w.Lambda), []).append(w)
    return list(found.values())


def importance(parts: list[Any]) -> Any:
    """Of each triplet: its value's, and the means over its two vectors (eq. 7).  -> (r,)"""
    first = parts[0]
    value, right = (mean * spread for mean, spread in map(first.averages, ("Lambda", "Q")))
    left = xp_of(value).concatenate([m * s for m, s in (w.averages("P") for w in parts)])
    return value + left.mean(axis=0) + right.mean(axis=1)


def ranks(at: Any) -> dict[str, int]:
    """How many singular values the masks leave to each module, fused ones under the first."""
    firsts = {id(parts[0]) for parts in groups(at)}
    return {p: int(w.mask.sum()) for p, w in at.wrappers.items() if id(w) in firsts}
