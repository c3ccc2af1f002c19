"""Adapters: a small network of one bottleneck behind frozen parts.

Paper    Houlsby et al. 2019, sec. 2.1: y = f + W_up phi(W_down f + b_down) + b_up
Kind     function composition
Unified  W_up phi(W_down h + b_down) + b_up; sequential; attention and MLP, or blocks; h + Δh
Touches  what `place` says: attention and MLP, or whole blocks
Adds     2 * (L - drop) * (2 * d * r + r + d) + norms * (2 * L + 1) * 2 * d per model; half of
         it with place="pfeiffer" and "lin", which adds 2 d of a norm to each; W_up = 0 at first
Merges   never: phi stands between the two matrices
Saves    down and up of each adapter, and the norms that train
Differs  the papers draw W_up from near 0 (init="houlsby", "normal"); here it starts at 0, so that
         attaching changes nothing. norms=False, where Houlsby's code trains the base's norms.
         The base's dropout acts on what an adapter gives out; in the paper it acts before
Lecture  05_adapters                    Homework hw3.4
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import Array, Rng, xp_of
from minipeft.checks import one_of, setting, whole
from minipeft.contract.method import Method, NotMergeable, Where, Wrapper
from minipeft.engine import Tensor, context, fused, ops
from minipeft.nn import LayerNorm, Linear, Module, Parameter, init

PLACES = {  # place -> (the parts, the activation of its paper)
    "houlsby": (("attn", "mlp"), "gelu"),
    "pfeiffer": (("blocks.*", "blocks.*.ln_2"), "relu"),
    "lin": (("blocks.*",), "relu"),
}
ACTS = {"gelu": fused.gelu, "relu": ops.relu, "swish": lambda x: x * ops.sigmoid(x)}


@dataclass(frozen=True)
class Adapter(Method):
    """Bottlenecks that read what a part gives out, and add to it.

    r      width of the bottleneck
    place  "houlsby": behind attention and MLP, before the residual; "pfeiffer" (Pfeiffer et al.
           2021): behind the MLP's residual, and in a post-norm block inside ln_2, which then works
           twice; "lin" (Lin et al. 2020): behind the block, with a norm of its own
    act    "gelu", "relu" or "swish"; None: as in the place's paper, gelu for houlsby, else relu
    init   "zero": W_up = 0 and W_down U(±1/sqrt(d)); "houlsby": both N(0, 0.001²), truncated at two
           standard deviations; "normal": both N(0, 0.02²), as Lin's and the library of adapters'
    norms  train the base's norms too; rows of a batch cannot carry different ones
    drop   the first `drop` blocks have no adapter (AdapterDrop, Rücklé et al. 2021)
    drop_most  each pass of training leaves out the adapters of the first n blocks, with n drawn
           from 0 … drop_most
    """

    name: ClassVar[str] = "adapter"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 3e-3

    r: int = setting(8, whole(1))
    place: str = setting("houlsby", one_of(*PLACES))
    act: str | None = setting(None, one_of(*ACTS))
    init: str = setting("zero", one_of("zero", "houlsby", "normal"))
    norms: bool = False
    drop: int = setting(0, whole(0))
    drop_most: int = setting(0, whole(0))
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "skips", self.drop_most > 0)
        object.__setattr__(self, "by_row", not self.norms)
        if self.init != "zero":
            object.__setattr__(self, "identity", "W_up is near 0, and not 0")

    @property
    def targets(self) -> tuple[str, ...]:
        """The parts that the place names."""
        return PLACES[self.place][0]

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper | None:
        layer, inside = where.layer or 0, path.endswith(".ln_2")
        if self.drop_most >= where.layers:
            raise ValueError(f"Adapter: drop_most = {self.drop_most} leaves passes without any "
                             f"adapter: at most {where.layers - 1} of {where.layers} blocks "
                             "can go without")  # fmt: skip
        post = self.place == "pfeiffer" and getattr(where.config, "norm", "pre") == "post"
        if inside != post or layer < self.drop:
            return None
        act = self.act or PLACES[self.place][1]
        adapter = bottleneck(self.r, act, self.init, where, ln=self.place == "lin")
        return (Within if inside else Behind)(module, adapter, layer, self.drop_most)

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        *_, part, _ = ["", *path.split(".")]
        return self.norms and "ln" in part.split("_")  # as LN tuning has it


class Bottleneck(Module):
    """A(x) = W_up act(W_down x + b_down) + b_up, of ln(x) if it has a norm.

    Shapes  x (..., d) -> (..., d), W_down (r, d), W_up (d, r)
    """

    def __init__(self, down: Linear, up: Linear, act: Callable, ln: LayerNorm | None) -> None:
        self.ln, self.down, self.act, self.up = ln, down, act, up

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.act(self.down(x if self.ln is None else self.ln(x))))


def bottleneck(r: int, act: str, start: str, where: Where, ln: bool = False) -> Bottleneck:
    """One at its start, as wide as the model."""
    d, like, rng = where.config.width, where.like, where.rng

    def drawn(shape: tuple[int, int]) -> Array:
        if start == "normal":
            return init.normal(shape, like, rng, 0.02)
        return truncated(shape, like, rng, 1e-3)

    zero = start == "zero"
    down = init.uniform((r, d), like, rng, 1 / math.sqrt(d)) if zero else drawn((r, d))
    up = init.zeros((d, r), like) if zero else drawn((d, r))
    linear = [Linear.of(Parameter(w), Parameter(init.zeros((len(w),), like))) for w in (down, up)]
    return Bottleneck(linear[0], linear[1], ACTS[act], LayerNorm(d, like=like) if ln else None)


def truncated(shape: tuple[int, ...], like: Array, rng: Rng, std: float) -> Array:
    """N(0, std²) where what is beyond 2 std is drawn again, up to 7 times."""
    if init.is_shape_only(like):
        return init.zeros(shape, like)
    x = rng.normal((8, *shape))
    x = (x * (abs(x) <= 2)).reshape(8, -1)
    first = (x != 0).argmax(axis=0)  # the first draw of each element that stays
    return xp_of(like).asarray(std * x[first, range(x.shape[1])].reshape(shape), dtype=like.dtype)


class AdapterWrapper(Wrapper):
    """What all adapters' wrappers say when they are to be merged."""

    def merged(self) -> Module:
        raise NotMergeable("an adapter has an activation between its two matrices, which no weight "
                           "of the base can hold")  # fmt: skip


class Behind(AdapterWrapper):
    """y = f + A(f), f what the part gives out, whatever it takes."""

    def __init__(self, base: Module, adapter: Bottleneck, layer: int, most: int) -> None:
        super().__init__(base)
        self.adapter, self.layer, self.most = adapter, layer, most

    def dropped(self) -> bool:
        """Whether this pass leaves it out: one n for all wrappers, from the pass's generator."""
        rng = (context().values or {}).get(self.handle)  # None unless something is drawn
        return rng is not None and self.layer < rng.spawn("n").integers(0, self.most + 1)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        f = self.base(*args, **kwargs)
        return f if self.dropped() else f + self.adapter(f)


class Within(Behind):
    """y = ln(x + A(ln(x))), x the MLP's output and its residual: the base's one norm, twice."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        return z if self.dropped() else self.base(x + self.adapter(z))
