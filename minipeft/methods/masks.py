"""Masks over weights, which magnitude and movement pruning share: made, held, saved, merged.

A pruned Linear stays dense in memory: zeros are multiplied as other numbers are, and nothing
gets faster. What sparse storage would take is `csr_bytes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from minipeft.backend import Array, to_numpy, xp_of
from minipeft.checks import one_of
from minipeft.contract.merging import tied_with
from minipeft.contract.method import Method, Where, Wrapper
from minipeft.contract.targets import is_linear, match
from minipeft.engine import Tensor, fused
from minipeft.nn import Linear, Module, Parameter, init
from minipeft.storage.checkpoint import CheckpointError

if TYPE_CHECKING:
    from minipeft.contract.attached import Attached

BLOCK = ("q_proj", "k_proj", "v_proj", "o_proj", "fc_in", "fc_out")  # every Linear of a block


class MaskedLinear(Wrapper):
    """y = (M * W) x + b, where W and perhaps b train and M says which weights are kept.

    left    how many weights its group keeps: its own, or all that are pruned together
    Shapes  x (..., d_in), W and mask (d_out, d_in) -> (..., d_out)
    """

    def __init__(self, base: Module, bias: bool) -> None:
        super().__init__(base)
        self.W = base.weight.clone()  # type: ignore[attr-defined]
        own = bias and base.bias is not None  # type: ignore[attr-defined]
        self.b = base.bias.clone() if own else None  # type: ignore[attr-defined]
        self.replaces = ("weight", "bias") if own else ("weight",)
        shape, like = self.W.shape, self.W.data
        self.mask: Array = (
            np.broadcast_to(np.ones((), bool), shape)
            if init.is_shape_only(like)
            else xp_of(like).ones(shape, bool)
        )
        self.left = self.W.size

    def masked(self) -> Tensor:
        """The weight with zeros where it was pruned."""
        return self.W * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return fused.linear(x, self.masked(), self.base.bias if self.b is None else self.b)

    def merged(self) -> Linear:
        bias = self.base.bias if self.b is None else self.b
        kept = Parameter(self.W.data * self.mask)
        return Linear.of(kept, None if bias is None else Parameter(init.copy(bias.data)))


SCOPE = one_of("layer", "global")  # what is pruned together


class Masking(Method):
    """What the pruning methods do alike."""

    targets: str | tuple[str, ...]
    scope: str
    bias: bool

    def wrap(self, path: str, module: Module, where: Where) -> MaskedLinear:
        kind = type(self).__name__
        if isinstance(module, Wrapper):
            other = module.handle.method.name
            raise ValueError(f"{kind}: {path} is wrapped by {other!r}, which goes on using the "
                             f"weight: merge or detach {other!r} first")  # fmt: skip
        if not is_linear(module):
            raise ValueError(f"{kind}: {path} is a {type(module).__name__}; it must be a Linear")
        if getattr(module, "new", False):
            raise ValueError(f"{kind}: {path} is a new head, which trains whole; leave it out")
        dtype = cast(Linear, module).weight.dtype
        if dtype.kind != "f":
            raise ValueError(f"{kind}: {path} holds {dtype}; only floats can be pruned and trained")
        return self.masked_linear(module)

    def masked_linear(self, module: Module) -> MaskedLinear:
        """The wrapper around a Linear."""
        return MaskedLinear(module, self.bias)

    def prepare(self, at: Attached) -> None:
        computed = {id(p): h.method.name for h in at.model.handles if h is not at
                    for p in h.computed.values()}  # fmt: skip
        ends = Counter(id(place.parameter) for place in at.model.places())
        for path, w in parts(at).items():
            if ends[id(w.base.weight)] > 1:
                tied = tied_with(at.model, path, w)
                raise ValueError(f"{type(self).__name__}: {path} shares its weight with {tied}, "
                                 "where zeros would be wrong: leave it out of targets")  # fmt: skip
            if id(w.base.weight) in computed:
                other = computed[id(w.base.weight)]
                raise ValueError(f"{type(self).__name__}: {path} is computed by {other!r}: merge "
                                 f"or detach {other!r} first")  # fmt: skip
        for group in self.groups(at):
            for w in group:
                w.left = sum(v.W.size for v in group)

    def groups(self, at: Attached) -> list[list[Any]]:
        """Parts that are pruned together: each alone, or all as one."""
        every = list(parts(at).values())
        return [every] if self.scope == "global" else [[w] for w in every]

    def state(self, at: Attached) -> dict[str, np.ndarray]:
        return {path: np.packbits(to_numpy(w.mask)) for path, w in parts(at).items()}

    def load_state(self, at: Attached, state: dict[str, np.ndarray]) -> None:
        masks = {}
        for path, w in parts(at).items():
            bits = np.unpackbits(state[path]).astype(bool)
            if bits[w.W.size :].any() or not bits.any():
                raise CheckpointError(f"{type(self).__name__}: the mask of {path} is damaged: it "
                                      "keeps nothing, or more than there is")  # fmt: skip
            masks[path] = bits[: w.W.size].reshape(w.W.shape)
        for path, w in parts(at).items():
            w.mask = xp_of(w.W.data).asarray(masks[path])
            w.left = int(masks[path].sum())
        for group in self.groups(at):
            total = sum(w.left for w in group)
            for w in group:
                w.left = total


def parts(at: Attached) -> dict[str, Any]:
    """path -> the MaskedLinear that stands there."""
    return dict(at.wrappers)


def top(scores: Array, k: int) -> Array:
    """The k largest, as a mask; among equals the first. Nothing is read from the device."""
    xp, flat = xp_of(scores), scores.reshape(-1)
    edge = xp.partition(flat, flat.size - k)[flat.size - k]
    above, equal = flat > edge, flat == edge
    return (above | (equal & (xp.cumsum(equal) <= k - above.sum()))).reshape(scores.shape)


def top_of_all(scores: Sequence[Array], k: int) -> list[Array]:
    """The k largest of several arrays together, as a mask for each."""
    if len(scores) == 1:
        return [top(scores[0], k)]
    xp = xp_of(scores[0])
    chosen, masks, start = top(xp.concatenate([s.reshape(-1) for s in scores]), k), [], 0
    for s in scores:
        masks.append(chosen[start : start + s.size].reshape(s.shape))
        start += s.size
    return masks


def cubic(first: float, last: float, t: float, warm: float = 0.0, cool: float = 0.0) -> float:
    """From `first` until t = warm to `last` from t = 1 - cool on, fast at the beginning.

    last + (first - last) (1 - u)^3, u the share of the way      Zhu & Gupta 2017, eq. 1
    """
    u = (t - warm) / (1 - warm - cool)
    rest = 1 - min(max(u, 0.0), 1.0)
    return last + (first - last) * rest * rest * rest


# -- for looking ----------------------------------------------------------------------------------


def kept(at: Attached) -> dict[str, float]:
    """path -> the share of its weights that is kept."""
    at.method.compute(at)
    return {path: float(w.mask.mean()) for path, w in parts(at).items()}


def csr(weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix in compressed sparse rows: values, their columns, and where each row begins.

    Shapes  weight (rows, columns) -> (k,), (k,), (rows + 1,), k numbers that are not 0
    """
    w = to_numpy(weight)
    if w.ndim != 2:
        raise ValueError(f"csr: wanted a matrix, got shape {w.shape}")
    rows, columns = np.nonzero(w)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(w)))])
    return w[rows, columns], columns.astype(np.int32), starts.astype(np.int32)


def csr_bytes(model: Module, targets: str | tuple[str, ...] = BLOCK) -> dict[str, tuple[int, int]]:
    """path -> bytes of a Linear's weight, dense and in compressed sparse rows.

    A number that is kept costs 4 bytes more for its column. So float32 gains below one half.
    """
    found = {}
    for path in match(model, targets):
        weight = to_numpy(cast(Linear, model.get(path)).weight.data)
        found[path] = (weight.nbytes, sum(a.nbytes for a in csr(weight)))
    return found
