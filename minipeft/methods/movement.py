"""Movement pruning: weights are kept by scores that learn which of them move away from 0.

Paper    Sanh et al. 2020, eq. 1-3: y = (M(S) * W) x, M = the v largest of S (hard), or
         sigmoid(S) > tau with a penalty lambda mean(sigmoid(S)) (soft); dL/dS := dL/dW' * W
Kind     parameter composition
Unified  outside: weights are taken away and those that stay train, with no vector added
Touches  Linear modules matching `targets` (default all of the blocks); biases train too, unpruned
Adds     2 * d_in * d_out + bias * d_out per module: W, which is not new, and S = 0. So it starts
         as the identity, with everything kept
Merges   M * W, zeros where M is 0
Saves    W, S, b, M in bits, and the threshold of the soft kind
Differs  scores have no learning rate of their own: `c` multiplies them, as if it were c times as
         large. With equal scores the first are kept. What stands outside the targets is frozen
Lecture  12_pruning                     Homework hw7.4-hw7.6

The gradient of S is a surrogate ("straight through"): M is a step function of S, whose derivative
is 0 almost everywhere, and is taken for S itself. It is not masked, so that a pruned weight can
come back. Scores keep their sign: the largest count, not the farthest from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minipeft.backend import Array, xp_of
from minipeft.checks import one_of, real, setting
from minipeft.engine import Tensor, ops
from minipeft.methods.masks import (
    BLOCK,
    SCOPE,
    MaskedLinear,
    Masking,
    cubic,
    parts,
    top,
    top_of_all,
)
from minipeft.nn import Module, Parameter, init
from minipeft.storage.checkpoint import CheckpointError

if TYPE_CHECKING:
    from minipeft.contract.attached import Attached

LEAST = 0.005  # of each weight is kept with a threshold, as in the authors' code


@dataclass(frozen=True)
class Movement(Masking):
    """Train weights and the scores that choose among them.

    mode     "hard": the share v with the largest scores; "soft": sigmoid(c S) > tau
    v        share kept in the end; it begins with 1
    tau      threshold in the end; it begins with 0
    lam      weight of the penalty in the end; it grows with the threshold
    c        scores learn so many times as fast as weights. Order does not depend on it; the soft
             kind does: a score falls to log(tau / (1 - tau)), -2.2 for 0.1, within lr c times steps
    warm     share of the steps of fit before pruning begins (the authors: the warm-up)
    cool     share of the steps at the end without further pruning (theirs: two warm-ups)
    scope    "layer": v of each weight; "global": of all of them together; for the hard kind
    targets  which Linear parts
    bias     train their biases too
    """

    name: ClassVar[str] = "movement"
    compose: ClassVar[str] = "parameter"
    gradient: ClassVar[str] = "surrogate"
    lr: ClassVar[float] = 3e-4

    mode: str = setting("hard", one_of("hard", "soft"))
    v: float = setting(0.15, real(above=0, most=1))
    tau: float = setting(0.1, real(above=0, below=0.5, hint="scores begin where sigmoid is 0.5"))
    lam: float = setting(100.0, real(0))
    c: float = setting(1.0, real(above=0, hint="or no score would learn"))
    warm: float = setting(0.06, real(0, below=1))
    cool: float = setting(0.12, real(0, below=1))
    scope: str = setting("layer", SCOPE)
    targets: str | tuple[str, ...] = BLOCK
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        real(0, below=1 - self.warm)("Movement: cool", self.cool)
        if self.mode == "soft" and self.scope == "global":
            raise ValueError("Movement: scope='global' is for mode='hard'; one threshold is the "
                             "same for all parts already")  # fmt: skip

    def masked_linear(self, module: Module) -> ScoredLinear:
        return ScoredLinear(module, self.bias, self.c)

    def pruned(self, t: float) -> float:
        """How far the pruning has gone after a share t of the steps, from 0 to 1."""
        return cubic(0.0, 1.0, t, self.warm, self.cool)

    def compute(self, at: Attached) -> dict[str, Tensor]:
        """Choose anew where scores, or how many are kept, have changed."""
        for group in self.groups(at):
            first = group[0]
            basis = (first.left, first.threshold, *(w.S.version for w in group))
            if basis == first.basis or init.is_shape_only(first.S.data):
                continue
            scores = [w.S.data for w in group]
            masks = (
                top_of_all(scores, first.left)
                if self.mode == "hard"
                else [above(s, first.threshold, self.c) for s in scores]
            )
            for w, mask in zip(group, masks, strict=True):
                w.mask = mask
            first.basis = basis
        return {}

    def after_step(self, at: Attached, step: int, total: int) -> None:
        u = self.pruned((step + 1) / total)
        for group in self.groups(at):
            size = sum(w.W.size for w in group)
            for w in group:
                if self.mode == "hard":
                    w.left = max(1, round((1 - u * (1 - self.v)) * size))
                else:
                    w.threshold = u * self.tau

    def extra_loss(self, at: Attached) -> Tensor | None:
        every = list(parts(at).values())
        weight = self.lam * every[0].threshold / self.tau
        if self.mode == "hard" or not weight:
            return None
        total: Any = 0.0
        for w in every:
            total = total + ops.mean(ops.sigmoid(w.S * self.c))
        return total * (weight / len(every))

    def state(self, at: Attached) -> dict[str, np.ndarray]:
        self.compute(at)
        first = next(iter(parts(at).values()))
        threshold = {"threshold": np.array([first.threshold])} if self.mode == "soft" else {}
        return super().state(at) | threshold

    def load_state(self, at: Attached, state: dict[str, np.ndarray]) -> None:
        threshold = float(state["threshold"][0]) if self.mode == "soft" else 0.0
        if not 0 <= threshold <= self.tau:
            raise CheckpointError(f"Movement: the threshold must be in [0, {self.tau}], the file "
                                  f"has {threshold}")  # fmt: skip
        super().load_state(at, state)
        for w in parts(at).values():
            vars(w).update(threshold=threshold, basis=())


class ScoredLinear(MaskedLinear):
    """A masked Linear whose mask follows from scores S.  Shapes  S (d_out, d_in)"""

    def __init__(self, base: Module, bias: bool, c: float) -> None:
        super().__init__(base, bias)
        self.S = Parameter(init.zeros(self.W.shape, self.W.data))
        self.c = c
        self.threshold = 0.0
        self.basis: tuple[Any, ...] = ()  # what the mask was made from

    def masked(self) -> Tensor:
        """M * W in value; in its derivative by S, as if M were c S."""
        nothing = (self.S - self.S.data) * self.c
        return self.W * (nothing + self.mask)


def above(scores: Array, threshold: float, c: float) -> Array:
    """Where sigmoid(c S) > threshold, and at least the largest half per cent."""
    if threshold == 0:
        return xp_of(scores).ones(scores.shape, bool)
    edge = math.log(threshold / (1 - threshold)) / c
    return (scores > edge) | top(scores, max(1, math.ceil(LEAST * scores.size)))
