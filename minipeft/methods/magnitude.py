"""Magnitude pruning: the smallest weights become 0, at once, step by step, or round by round.

Paper    Han et al. 2015; Zhu & Gupta 2017, eq. 1: s_t = s_f + (s_i - s_f)(1 - (t - t0)/(n dt))^3;
         Frankle & Carbin 2019: prune, rewind to theta0, train again (`prune_further`, `rewind`)
Kind     parameter composition
Unified  outside: weights are taken away and those that stay train, with no vector added
Touches  Linear modules matching `targets` (default all of the blocks); biases train too, unpruned
Adds     d_in * d_out + bias * d_out per module; none is new. With n = 0 the share s goes when the
         method is attached; else the start is the identity
Merges   M * W, zeros where M is 0
Saves    W, b, and M in bits
Differs  equal sizes are kept in their order, so that the share is exact; Zhu & Gupta's code cuts
         all that equal the threshold. t0 and t1 are shares of the steps of fit, where the paper's
         t0 and t0 + n dt are steps. What stands outside the targets stays frozen
Lecture  12_pruning                     Homework hw7.4, hw7.6; hw7.d on tickets

The forward pass multiplies by M, so pruned weights get no gradient. Momentum moves them still,
so after each step they are set to 0 again. `merge` masks once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from minipeft.backend import Array, Rng, xp_of
from minipeft.checks import nearest, real, setting, whole
from minipeft.methods.masks import BLOCK, SCOPE, MaskedLinear, Masking, cubic, parts, top_of_all
from minipeft.nn import init

if TYPE_CHECKING:
    from minipeft.contract.attached import Attached


@dataclass(frozen=True)
class Magnitude(Masking):
    """Train weights of which the smallest are 0.

    s        sparsity in the end: the share of weights that are 0
    n        prunings on the way there in fit; 0 prunes once, when the method is attached
    s_i      sparsity after the first of them
    t0       share of the steps of fit after which the first is done
    t1       and the last
    scope    "layer": the share s of each weight; "global": of all of them together
    targets  which Linear parts
    bias     train their biases too
    """

    name: ClassVar[str] = "magnitude"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 3e-3

    s: float = setting(0.5, real(0, below=1))
    n: int = setting(0, whole(0))
    s_i: float = setting(0.0, real(0, below=1))
    t0: float = setting(0.0, real(0, below=1))
    t1: float = setting(0.7, real(above=0, most=1))
    scope: str = setting("layer", SCOPE)
    targets: str | tuple[str, ...] = BLOCK
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        real(0, below=max(self.s, 1e-9))("Magnitude: s_i", self.s_i)
        if not self.t0 < self.t1 <= 1:
            raise ValueError(f"Magnitude: t1 must be in (t0, 1] = ({self.t0}, 1], got {self.t1}")
        if self.s and not self.n:
            object.__setattr__(self, "identity", "the smallest weights are gone at once")

    def sparsity(self, t: float) -> float:
        """The share that is 0 after a share t of the steps."""
        if self.n == 0:
            return self.s
        done = math.floor(self.n * (t - self.t0) / (self.t1 - self.t0) + 1e-9)  # prunings so far
        return 0.0 if done < 0 else cubic(self.s_i, self.s, done / self.n)

    def prepare(self, at: Attached) -> None:
        super().prepare(at)
        if self.n == 0:
            self.prune(at, self.s)

    def after_step(self, at: Attached, step: int, total: int) -> None:
        self.prune(at, self.sparsity((step + 1) / total))
        for w in parts(at).values():
            w.W.data = w.W.data * w.mask

    def prune(self, at: Attached, s: float) -> None:
        """Bring the sparsity up to s; what is pruned stays so."""
        for group in self.groups(at):
            size = sum(w.W.size for w in group)
            _shrink(group, max(1, round((1 - s) * size)))


def _shrink(group: list[MaskedLinear], k: int) -> None:
    """Keep the k largest weights of a group."""
    if k >= group[0].left:
        return
    for w in group:
        w.left = k
    if init.is_shape_only(group[0].W.data):
        return
    for w, mask in zip(group, top_of_all([_size(w) for w in group], k), strict=True):
        w.mask = mask


def _size(w: MaskedLinear) -> Array:
    """|W|, and less than any where it is pruned."""
    xp = xp_of(w.W.data)
    return xp.where(w.mask, abs(w.W.data), -1)


# -- lottery tickets ------------------------------------------------------------------------------


def prune_further(at: Attached, p: float = 0.2, other: Mapping[str, float] | None = None) -> None:
    """Prune a share p of the weights that are left: one round of a lottery ticket's making.

    other   path -> a share of its own: the paper prunes an output layer by 0.1 where p is 0.2
    Raises  ValueError for a share outside [0, 1), or a path that is not pruned by itself
    """
    method, other = at.method, dict(other or {})
    if not isinstance(method, Magnitude):
        raise TypeError(f"prune_further is for 'magnitude', this handle is of {method.name!r}")
    for share in (p, *other.values()):
        if not 0 <= share < 1:
            raise ValueError(f"prune_further: a share must be in [0, 1), got {share}")
    if other and method.scope == "global":
        raise ValueError("prune_further: other= is for scope='layer'; here all parts are pruned "
                         "together")  # fmt: skip
    for path in other:
        if path not in parts(at):
            near = nearest(path, parts(at))
            raise ValueError(f"prune_further: {path!r} is not pruned; nearest is {near!r}")
    shares = [other.get(path, p) for path in parts(at)] if other else []
    for i, group in enumerate(method.groups(at)):
        share = shares[i] if shares else p
        _shrink(group, max(1, round((1 - share) * group[0].left)))


def snapshot(at: Attached) -> dict[str, Array]:
    """path -> a copy of what trains: theta_k, for a late rewinding."""
    return {path: init.copy(p.data) for path, p in at.trainable()}


def rewind(at: Attached, to: Mapping[str, Array] | None = None) -> None:
    """Put the weights that are left, and all else that trains, back to theta0.

    to      or to these arrays: a snapshot(), or another start for the control
    Raises  ValueError if an array is missing or has another shape
    """
    for path, p in at.trainable():
        if to is not None and (path not in to or to[path].shape != p.shape):
            raise ValueError(f"rewind: to= must hold {path} of shape {p.shape}")
    for path, p in at.trainable():
        assert p.base is not None
        p.data = init.copy(p.base.data if to is None else to[path])
    for w in parts(at).values():
        w.W.data = w.W.data * w.mask


def random_masks(at: Attached, seed: int = 0) -> None:
    """Keep as many weights of each part as now, but any: what a mask's choice is compared with."""
    for path, w in parts(at).items():
        order = xp_of(w.mask).asarray(Rng(seed, "random_masks", path).permutation(w.W.size))
        w.mask = w.mask.reshape(-1)[order].reshape(w.mask.shape)
        w.W.data = w.W.data * w.mask
