"""LoRA: a low-rank product beside a frozen weight.

Paper    Hu et al. 2021, eq. 3: h = W0 x + (alpha/r) B A x
Kind     parameter composition
Unified  B A x; parallel; queries and values; h + s Δh, s = alpha / r
Touches  Linear modules matching `targets` (default q_proj, v_proj)
Adds     r * (d_in + d_out) per module; A ~ N(0, 1/d_in), B = 0, so it starts as the identity
Merges   W0 + (alpha/r) B A
Saves    A, B
Differs  the paper leaves A's variance open; init="peft" and "gaussian" are those of PEFT.
         `fused` parts share one A, as an adapter on a joint q, k, v matrix does
Lecture  08_lora                        Homework hw3.2, hw3.3
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import Rng, dropout_factors, xp_of
from minipeft.checks import one_of, real, setting, whole
from minipeft.contract.method import Method, NotMergeable, Where, Wrapper
from minipeft.contract.targets import is_linear
from minipeft.engine import Tensor, context, fused, ops
from minipeft.nn import Linear, Module, Parameter, init


@dataclass(frozen=True)
class LoRA(Method):
    """A low-rank update of Linear parts.

    r        rank
    alpha    the update is scaled by alpha / r
    targets  which Linear parts
    fused    leaf names of parts of one module that share one A (and its dropout mask)
    rslora   scale by alpha / sqrt(r) instead (Kalajdzievski 2023)
    dropout  of the branch's input
    init     of A: "normal" N(0, 1/d_in), "peft" U(±1/sqrt(d_in)), "gaussian" N(0, 1/r²)
    """

    name: ClassVar[str] = "lora"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    r: int = setting(8, whole(1))
    alpha: float = setting(16.0, real())
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    fused: tuple[str, ...] = ()
    rslora: bool = False
    dropout: float = setting(0.0, real(0, below=1))
    init: str = setting("normal", one_of("normal", "peft", "gaussian"))
    seed: int = 0

    @property
    def scale(self) -> float:
        """s, by which B A is multiplied."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    def wrap(self, path: str, module: Module, where: Where) -> LoRALinear:
        like, group = weight_of(self, path, module, self.r), group_of(path, self.fused)
        d_out, d_in = like.shape
        A = where.shared(group.replace(".", "_"), lambda: self._draw(d_in, like, where.rng))
        check_shared(self, path, "A", A, d_in)
        B = Parameter(init.zeros((d_out, self.r), like))
        return LoRALinear(module, A, B, self.scale, self.dropout, group)

    def _draw(self, d_in: int, like: Any, rng: Rng) -> Any:
        """A at its start.  (r, d_in)"""
        if self.init == "peft":
            return init.uniform((self.r, d_in), like, rng, 1 / math.sqrt(d_in))
        std = 1 / math.sqrt(d_in) if self.init == "normal" else 1 / self.r
        return init.normal((self.r, d_in), like, rng, std)


class DenseWrapper(Wrapper):
    """Around a Linear; `dense()` is the weight that it stands for, which merging makes it."""

    def dense(self) -> Any:
        """Shapes  -> (d_out, d_in)"""
        raise NotImplementedError

    def merged(self) -> Linear:
        dtype = self.base.weight.dtype
        if dtype.itemsize < 4:
            raise NotMergeable(f"a weight stored as {dtype} would round the change away")
        whole = self.dense()
        bias = None if self.base.bias is None else Parameter(init.copy(self.base.bias.data))
        return Linear.of(Parameter(xp_of(whole).asarray(whole, dtype=dtype)), bias)


class LoRALinear(DenseWrapper):
    """y = W0 x + b + s B A x.  Shapes  x (..., d_in) -> (..., d_out), A (r, d_in), B (d_out, r)"""

    def __init__(
        self, base: Module, A: Parameter, B: Parameter, scale: float, dropout: float, group: str
    ) -> None:
        super().__init__(base)
        self.A, self.B, self.scale = A, B, scale
        self.dropout, self.group = dropout, group

    def dropped(self, x: Tensor) -> Tensor:
        """The branch's input; parts that share A draw the same mask."""
        ctx = context()
        if ctx.rng is None or not self.dropout:
            return x
        rng = (ctx.values or {}).get(self.handle, ctx.rng)  # the handle's, of this pass
        like = x.data if isinstance(x, Tensor) else x  # images come as arrays
        return x * dropout_factors(rng.spawn(self.group), x.shape, self.dropout, like)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropped(x)
        return fused.add_low_rank(self.base(x), inner, self.A, self.B, scale=self.scale)

    def dense(self) -> Any:
        return self.base.weight.data + self.scale * (self.B.data @ self.A.data)


# -- what the methods of LoRA's family check alike ------------------------------------------------


def weight_of(method: Method, path: str, module: Module, r: int, plain: bool = False) -> Any:
    """The array of a Linear's weight, (d_out, d_in).

    plain   its values are read, so nothing may change them from around it
    Raises  ValueError if it is no Linear, or r is above the rank of its weight
    """
    kind, weight = type(method).__name__, getattr(module, "weight", None)
    if weight is None or not is_linear(module):
        raise ValueError(f"{kind}: {path} is a {type(module).__name__}; it must be a Linear")
    if plain and isinstance(module, Wrapper) and "weight" not in module.replaces:
        other = module.handle.method.name
        raise ValueError(f"{kind} starts from the weight of {path}, which {other!r} stands around: "
                         f"merge or detach {other!r} first")  # fmt: skip
    d_out, d_in = weight.shape
    if r > min(d_in, d_out):
        raise ValueError(f"{kind}: r = {r} is above the rank of {path}, whose weight is "
                         f"{d_out} x {d_in}: at most {min(d_in, d_out)}")  # fmt: skip
    return weight.data


def principal(weight: Any, r: int, scale: float) -> tuple[Any, Any]:
    """The A and B whose scale * B A is nearest to a matrix: its r largest singular parts.

    Shapes  (d_out, d_in) -> (r, d_in), (d_out, r)
    """
    U, S, V = xp_of(weight).linalg.svd(weight, full_matrices=False)
    root = xp_of(weight).sqrt(S[:r] / scale)
    return root[:, None] * V[:r], U[:, :r] * root


def root(square: Tensor) -> Tensor:
    """The square root of a sum of squares; where it is 0, so is its derivative, and not NaN."""
    zero = xp_of(square.data).asarray(square.data == 0, dtype=square.dtype)
    return ops.sqrt(square + zero) - zero


def group_of(path: str, fused: tuple[str, ...]) -> str:
    """The name that a part shares with its fused neighbours, or its own path."""
    parent, _, leaf = path.rpartition(".")
    return parent if leaf in fused else path


def check_shared(method: Method, path: str, name: str, shared: Parameter, d_in: int) -> None:
    """Refuse a fused part that reads another input than its neighbours."""
    if shared.shape[1] != d_in:
        raise ValueError(f"{type(method).__name__}: {path} has d_in = {d_in} and cannot share the "
                         f"{name} of {path.rpartition('.')[0]}, {shared.shape}: fused parts read "
                         "the same input")  # fmt: skip
