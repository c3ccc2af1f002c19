"""Intrinsic dimension: all parameters move within a random subspace of d dimensions.

Paper    Li et al. 2018, eq. 2: theta = theta0 + P z; Aghajanyan et al. 2021, eq. 2-3: P from
         Fastfood (DID), and with a trained factor per layer: theta_i = theta0_i + lambda_i (P z)_i
         (SAID)
Kind     parameter composition
Unified  outside: one z moves all parameters at once, no h has a Δh of its own
Touches  every parameter of the base, biases and embeddings too: one flat vector of D numbers
Adds     d per model; z = 0, so it starts as the identity. The factors of SAID count in d, start
         at 1, and z has d less their number
Merges   theta0 + P z
Saves    z, the factors, and a digest of what P was drawn from; P is drawn again from the seed
Differs  a sparse P has its signs one in each of sqrt(D) equal stretches of a column, where the
         paper's fall anywhere. The authors' code of SAID makes P anew for each tensor
         (per_tensor=True) and z one shorter still; ours has one P for all, as the equations do
Lecture  11_intrinsic_dimension         Homework hw7.1-hw7.3

Columns of P have length 1 in D dimensions, so a step of lr in every z moves a parameter by about
lr sqrt(d / D): learning rates are larger than those of full fine-tuning. Weight decay on z pulls
to theta0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minipeft.backend import Array, Rng, xp_of
from minipeft.checks import one_of, setting, whole
from minipeft.contract.method import Method, Where
from minipeft.contract.targets import layer_of
from minipeft.engine import Tensor, ops
from minipeft.methods import projection
from minipeft.nn import Module, ModuleList, Parameter, init
from minipeft.storage.checkpoint import CheckpointError

if TYPE_CHECKING:
    from minipeft.contract.attached import Attached

KINDS = ("fastfood", "dense", "sparse")


@dataclass(frozen=True)
class Subspace(Method):
    """Move all parameters together along d random directions.

    d           how many numbers train
    projection  "fastfood" (O(D) memory), "dense" (D d numbers) or "sparse" (about sqrt(D) d)
    said        "" for DID; "layer" or "tensor": SAID, one factor for each block, and one for all
                that is outside the blocks, or for each tensor
    per_tensor  a projection for each tensor, with columns of length 1 in each
    """

    name: ClassVar[str] = "subspace"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 1e-1

    d: int = setting(750, whole(1))
    projection: str = setting("fastfood", one_of(*KINDS))
    said: str = setting("", one_of("", "layer", "tensor"))
    per_tensor: bool = False
    seed: int = 0

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        if parameter.dtype.kind != "f":
            raise ValueError(f"Subspace: {path} holds {parameter.dtype}; only floats can be moved")
        return True

    def prepare(self, at: Attached) -> None:
        sizes = [p.size for p in at.computed.values()]
        groups = self._groups(list(at.computed))
        m, D = len(set(groups)), sum(sizes)
        if self.d > D:
            raise ValueError(f"Subspace: d = {self.d} is more than the {D} parameters of the base: "
                             f"at most {D}")  # fmt: skip
        if self.d <= m:
            raise ValueError(f"Subspace: d = {self.d} leaves no direction beside the {m} factors "
                             f"of said={self.said!r:.80}: at least {m + 1}")  # fmt: skip
        like, rng = _first(at), Rng(self.seed, self.name)
        z = at.shared["z"] = Parameter(init.zeros((self.d - m,), like))
        if m:
            at.shared["factors"] = Parameter(init.ones((m,), like))
        cuts = sizes if self.per_tensor else [D]
        parts = [DRAW[self.projection](n, z.size, like, rng.spawn(i)) for i, n in enumerate(cuts)]
        space = Space(z, at.shared.get("factors"), parts, sizes, groups)
        vars(at.root)["space"] = space

    def _groups(self, paths: list[str]) -> list[int]:
        """Per tensor the number of its factor; none without SAID."""
        if not self.said:
            return []
        names = [path if self.said == "tensor" else layer_of(path) for path in paths]
        order = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return [order[name] for name in names]

    def compute(self, at: Attached) -> dict[str, Tensor]:
        found: dict[str, Tensor] = vars(at.root)["space"].moved(at.computed)
        return found

    def state(self, at: Attached) -> dict[str, np.ndarray]:
        if init.is_shape_only(_first(at)):
            raise RuntimeError("Subspace: the base has shapes but no values: nothing to save")
        return {"digest": vars(at.root)["space"].digest()}

    def load_state(self, at: Attached, state: dict[str, np.ndarray]) -> None:
        if state["digest"].tobytes() != self.state(at)["digest"].tobytes():
            raise CheckpointError(f"Subspace: the projection drawn here from seed {self.seed} is "
                                  "not the one that z was trained with: the digests "
                                  "differ")  # fmt: skip


def _first(at: Attached) -> Array:
    return next(iter(at.computed.values())).data


class Space(Module):
    """z, its projections, and what they make of the parameters.

    sizes   of the tensors, whose sum is D
    groups  per tensor the number of its factor, or nothing
    """

    added = True

    def __init__(
        self,
        z: Parameter,
        factors: Parameter | None,
        parts: Sequence[Projection],
        sizes: list[int],
        groups: list[int],
    ) -> None:
        self.of = (z, factors)  # in a tuple: their place is the root
        self.sizes, self.groups = sizes, groups
        self.projections = ModuleList(list(parts))  # one, or one for each tensor

    def moved(self, thetas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """theta0 + P z, tensor by tensor; with factors theta0_i + lambda_i (P z)_i.

        P z is computed once, and each tensor takes its part of it.
        Shapes  thetas: as many tensors as there are sizes; z (d,), factors (m,) or None
        """
        z, factors = self.of
        moves = [part(z) for part in self.projections]
        moves = moves if len(moves) > 1 else cut(moves[0], self.sizes)  # one for each tensor
        found = {}
        for number, (path, theta) in enumerate(thetas.items()):
            move = moves.pop(0)  # nothing of it stays here
            if factors is not None:
                g = self.groups[number]
                move = move * factors[g : g + 1]
            found[path] = theta + move.reshape(theta.shape)
        return found

    def digest(self) -> np.ndarray:
        """SHA-256 of the raw integers that the projections were drawn from.  (32,) bytes"""
        h = hashlib.sha256()
        for part in self.projections:
            for name, n in part.streams.items():
                rng = part.rng.spawn(name)
                for start in range(0, n, 1 << 20):
                    h.update(rng.raw(min(n - start, 1 << 20)).astype("<u8").tobytes())
        return np.frombuffer(h.digest(), np.uint8)


def cut(flat: Tensor, sizes: list[int]) -> list[Tensor]:
    """The parts of a flat vector, by halves.

    The gradient of a slice is as long as what it was cut from. So T slices of one vector would
    cost T sums of its length; halves cost two for each of log2 T levels.
    """
    if len(sizes) == 1:
        return [flat]
    half = len(sizes) // 2
    middle = sum(sizes[:half])
    return cut(flat[:middle], sizes[:half]) + cut(flat[middle:], sizes[half:])


# -- projections ----------------------------------------------------------------------------------


class Projection(Module):
    """P (D, d), as what it is made of; columns of length 1.

    streams  name -> how many raw integers are drawn from the stream of that name
    """

    streams: dict[str, int]

    def __init__(self, D: int, d: int, like: Array, rng: Rng) -> None:
        self.D, self.rng = D, rng


def _drawn(shape: tuple[int, ...], like: Array, draw: Callable[[], Any], dtype: Any = None) -> Any:
    """An array as the library of `like` has it; shape-only if that is, and then not drawn."""
    dtype = dtype or like.dtype
    if init.is_shape_only(like):
        return np.broadcast_to(np.zeros((), dtype), shape)
    return xp_of(like).asarray(np.asarray(draw(), dtype=dtype))


class Fastfood(Projection):
    """H G Π H B, cut to D rows, with columns of length 1 up to the spread of normal numbers."""

    def __init__(self, D: int, d: int, like: Array, rng: Rng) -> None:
        super().__init__(D, d, like, rng)
        n = 1 << (max(D, d) - 1).bit_length()
        self.streams = {"signs": d, "order": n, "scales": 2 * -(-n // 2)}
        self.signs = _drawn((d,), like, lambda: rng.spawn("signs").sign(d))
        self.order = _drawn(
            (n,), like, lambda: rng.spawn("order").permutation(n),
            np.int32 if n < 1 << 31 else np.int64,
        )  # fmt: skip
        self.scales = _drawn((n,), like, self._scales)

    def _scales(self) -> np.ndarray:
        """Normal numbers over sqrt(D) times their norm."""
        G = self.rng.spawn("scales").normal(len(self.order))
        return G / math.sqrt(self.D * float((G * G).sum()))

    def forward(self, z: Tensor) -> Tensor:
        return projection.fastfood(z, self.signs, self.order, self.scales, size=self.D)


class Dense(Projection):
    """Normal numbers, each column over its norm."""

    def __init__(self, D: int, d: int, like: Array, rng: Rng) -> None:
        super().__init__(D, d, like, rng)
        self.streams = {"normal": 2 * -(-D * d // 2)}
        self.P = _drawn((D, d), like, lambda: self._columns(d))

    def _columns(self, d: int) -> np.ndarray:
        P = self.rng.spawn("normal").normal((self.D, d))
        P /= np.sqrt((P * P).sum(axis=0))
        return P

    def forward(self, z: Tensor) -> Tensor:
        return ops.matmul(self.P, z)


class Sparse(Projection):
    """A share 1/sqrt(D) of signs in each column: one in each of sqrt(D) equal stretches."""

    def __init__(self, D: int, d: int, like: Array, rng: Rng) -> None:
        super().__init__(D, d, like, rng)
        m = max(1, round(math.sqrt(D)))
        self.streams = {"rows": d * m, "signs": d * m}
        self.rows = _drawn((d, m), like, lambda: self._rows(d, m), np.int64)
        self.signs = _drawn((d, m), like, lambda: rng.spawn("signs").sign((d, m)) / math.sqrt(m))

    def _rows(self, d: int, m: int) -> np.ndarray:
        edges = np.arange(m + 1) * self.D // m
        inside = self.rng.spawn("rows").uniform((d, m)) * (edges[1:] - edges[:-1])
        return edges[:-1] + inside.astype(np.int64)

    def forward(self, z: Tensor) -> Tensor:
        return projection.scatter_signs(z, self.rows, self.signs, size=self.D)


DRAW: dict[str, type[Projection]] = {"fastfood": Fastfood, "dense": Dense, "sparse": Sparse}


# -- what the dimension says ----------------------------------------------------------------------


def d90(scores: Mapping[int, float], full: float, share: float = 0.9) -> int | None:
    """The smallest d whose score is at least `share` of full training's, None if there is none.

    scores  d -> score; full: that of training all parameters from the same start
    """
    return min((d for d, score in scores.items() if score >= share * full), default=None)


def search_d90(
    score: Callable[[int], float], full: float, high: int, share: float = 0.9, ratio: float = 1.1
) -> dict[int, float]:
    """Scores around d90: doubling finds it from above, halving of the gap brings it to `ratio`.

    score  trains in a subspace of d dimensions and returns what it reaches
    high   the largest d to try
    Returns the scores measured, for d90() and for a figure
    """
    if high < 1 or not ratio > 1:
        raise ValueError(f"search_d90: high must be >= 1 and ratio > 1, got {high} and {ratio}")
    found, low, d = {}, 0, 1
    while True:
        found[d] = score(d)
        if found[d] >= share * full:
            break
        if d == high:
            return found
        low, d = d, min(2 * d, high)
    while d - low > 1 and d > ratio * low:
        middle = max(low + 1, math.isqrt(max(low, 1) * d))
        found[middle] = score(middle)
        low, d = (low, middle) if found[middle] >= share * full else (middle, d)
    return found


def compression_bound(
    error: float, d: int, m: int, levels: int = 256, delta: float = 0.05
) -> float:
    """What the error on new data is below, with probability 1 - delta.

    error + sqrt((d ln(levels) + ln(1/delta)) / (2 m)), Hoeffding's inequality for each of the
    levels^d models that d rounded numbers can describe. D does not stand in it.
    error   on the m training examples, in [0, 1]; P and theta0 were chosen before these were seen
    levels  values that each of the d numbers is rounded to
    """
    if not (0 <= error <= 1 and d >= 1 and m >= 1 and levels >= 2 and 0 < delta < 1):
        raise ValueError("compression_bound: needs error in [0, 1], d and m >= 1, levels >= 2 and "
                         f"delta in (0, 1); got {error}, {d}, {m}, {levels}, {delta}")  # fmt: skip
    return error + math.sqrt((d * math.log(levels) - math.log(delta)) / (2 * m))
