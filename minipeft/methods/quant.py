"""Quantization: Linear weights as codes of a few bits, decoded each time they are used.

Paper    Dettmers et al. 2023, eqs. 1-2: w = book[code] * absmax of its block; NF4, its appendix E
Kind     parameter composition
Unified  outside: nothing trains, the same W is stored in fewer bits
Touches  Linear modules matching `targets` (default all but the head)
Adds     0 per model; nothing trains: attach another method on top, or use QLoRA
Merges   the decoded weights, as floats
Saves    nothing: the same codes are made from the same base
Differs  activations and products stay in the model's float type; bf16=True rounds the decoded
         weights as the paper's compute type does. A weight is decoded once in forward and once
         in backward, never kept
Lecture  10_quantization                Homework hw6.1-hw6.6
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import Array, xp_of
from minipeft.checks import one_of, setting, whole
from minipeft.contract.method import Method, NotMergeable, Where, Wrapper
from minipeft.engine import Tensor, variants
from minipeft.methods import codes
from minipeft.nn import Linear, Module, Parameter, init
from minipeft.storage.paged import Scratch

CODE = one_of(*codes.BOOKS)
BLOCKS = whole(0, hint="0 takes the whole weight as one block")


@dataclass(frozen=True)
class Quantize(Method):
    """Weights of Linear parts as codes.

    code     "nf4", "nf3", "nf2" (NormalFloat), "fp4" (E2M1), "fp4-bnb" (bitsandbytes' table of that
             name, whose smallest value is 1/192), "int8", "int4", "int3", "int2", "dynamic8"
    block    how many weights share one constant, along the rows; 0 for the whole weight
    double   quantize the constants too, to 8 bits
    bf16     round the decoded weights to bfloat16
    targets  which Linear parts
    """

    name: ClassVar[str] = "quant"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    identity: ClassVar[str] = "codes are coarser than the weights that they stand for"

    code: str = setting("nf4", CODE)
    block: int = setting(64, BLOCKS)
    double: bool = True
    bf16: bool = False
    targets: str | tuple[str, ...] = "all-linear"

    def wrap(self, path: str, module: Module, where: Where) -> QuantLinear:
        return quantized(self, path, module)

    def prepare(self, at: Any) -> None:
        refuse_trained(at)


class QuantLinear(Wrapper):
    """y = x ŵᵀ + b, ŵ decoded from codes.  Shapes  x (..., d_in) -> (..., d_out)

    The base keeps its float weight, which nothing reads: detach() puts it back, and
    running(off=…) uses it. `page_out` takes it out of memory until then.

    packed   the codes, (bytes,) uint8
    absmax   constants of the blocks, (blocks,): float32, or 8-bit codes with `double`
    nested   constants of the constants, (ceil(blocks / 256),) float32, or None
    offset   their mean, which was subtracted
    """

    replaces = ("weight",)
    before_merge = (
        ", which keeps its decoded weights as floats, and then this (dequantize). To quantize "
        "the sum again afterwards makes another function (requantize); until then it stays apart"
    )

    def __init__(self, base: Module, code: str, block: int, double: bool, bf16: bool) -> None:
        super().__init__(base)
        self.code, self.bf16 = code, bf16
        weight = base.weight.data  # type: ignore[attr-defined]
        self.shape = weight.shape
        n, bits = weight.size, codes.BOOKS[code][0]
        self.block = min(block or n, n)  # a larger one is the whole weight too
        self.nested: Array | None = None
        self.offset = 0.0
        blocks = -(-n // self.block)
        if init.is_shape_only(weight):
            self.packed = _shape_only(codes.packed_size(n, bits), np.uint8)
            self.absmax = _shape_only(blocks, np.uint8 if double else np.float32)
            self.nested = _shape_only(-(-blocks // codes.NESTED), np.float32) if double else None
            return
        q, self.absmax = codes.quantize(weight, code, self.block)
        self.packed = codes.pack(q, bits)
        if double:
            self.absmax, self.nested, self.offset = codes.double_quantize(self.absmax)
        self.decode(weight)  # makes the tables now, so that no step has to

    def decode(self, like: Array) -> Array:
        """The weight that the codes stand for, in the library and dtype of `like`."""
        if init.is_shape_only(self.packed):
            return init.zeros(self.shape, self.base.weight.data)
        xp, absmax = xp_of(self.packed), self.absmax
        if self.nested is not None:
            table = codes.table("dynamic8", np.dtype(np.float32), xp)
            absmax = codes.double_dequantize(absmax, self.nested, self.offset, table)
        table = codes.table(self.code, like.dtype, xp)
        weight = codes.decode(self.packed, absmax, table, self.shape, self.block)
        return codes.round_bf16(weight) if self.bf16 else weight

    @property
    def weight(self) -> Parameter:
        """The decoded weight, made anew at each access."""
        return Parameter(self.decode(self.base.weight.data), requires_grad=False)

    def rounded(self, part: Linear) -> Array:
        """Another weight as codes of the same kind would store it."""
        bits = (self.code, self.block, self.nested is not None, self.bf16)
        return QuantLinear(part, *bits).weight.data

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and their constants."""
        parts = [a for a in (self.packed, self.absmax, self.nested) if a is not None]
        return sum(int(a.size * a.dtype.itemsize) for a in parts)

    def _by_row(self, rows: Any, x: Tensor, **kwargs: Any) -> Tensor:
        """All rows of a batch share the codes, whatever adapter they carry."""
        return Module.__call__(self, x)

    def forward(self, x: Tensor) -> Tensor:
        return variants.linear_decoded(x, self.base.bias, decode=self.decode, shape=self.shape)

    def merged(self) -> Linear:
        bias = None if self.base.bias is None else Parameter(init.copy(self.base.bias.data))
        return Linear.of(Parameter(self.weight.data), bias)


def _shape_only(n: int, dtype: Any) -> Array:
    return np.broadcast_to(np.zeros((), dtype), (n,))


def page_out(at: Any, folder: str | None = None) -> int:
    """Move the float weights behind a handle's codes out of memory, into a scratch file.

    They keep their bits: detach(), running(off=…) and the base's fingerprint find them there.
    A weight that stands elsewhere too, as a tied head's does, stays. For the CPU only.
    Returns  the bytes that left memory
    Raises   ValueError if the handle has no codes, or the model no values
    """
    weights = [w.base.weight for w in codes_of(at).values()]
    if not weights or init.is_shape_only(weights[0].data):
        lack = "model has shapes but no values" if weights else f"{at.method.name!r} has no codes"
        raise ValueError(f"page_out: this {lack}")
    stands = Counter(id(place.parameter) for place in at.model.places())
    alone = [p for p in weights if stands[id(p)] == 1]
    scratch = Scratch([p.data for p in alone], folder=folder)
    for p, array in zip(alone, scratch.arrays, strict=True):
        p.data = array
    scratch.release()
    return sum(int(array.nbytes) for array in scratch.arrays)


# -- what QLoRA and LoftQ check and make alike ----------------------------------------------------


def quantized(method: Any, path: str, module: Module) -> QuantLinear:
    """A Linear with its weight as codes, by the method's code, block, double and bf16.

    Raises  ValueError if it is no Linear, has something around it, or its weight is not finite
    """
    kind = type(method).__name__
    if isinstance(module, Wrapper):
        other = module.handle.method.name
        if _has_codes(module):
            raise ValueError(f"{kind}: {path} is quantized already, by {other!r}")
        raise ValueError(f"{kind}: {path} has {other!r} around it, which goes on top of codes: "
                         f"detach {other!r}, quantize, and attach it again")  # fmt: skip
    if not isinstance(module, Linear):
        raise ValueError(f"{kind}: {path} is a {type(module).__name__}; it must be a Linear")
    try:
        return QuantLinear(module, method.code, method.block, method.double, method.bf16)
    except ValueError as error:
        raise ValueError(f"{kind}: the weight of {path}: {error}") from error


def merged_over_codes(wrapper: Any, merged: Callable[[], Linear]) -> Linear:
    """What `merged` makes of a wrapper around codes, by the policy that merge() was told."""
    if wrapper.quantized == "refuse":
        raise NotMergeable(
            f"its weight is stored as {wrapper.base.code} codes, to which B A cannot be added. "
            "merge(quantized='dequantize') keeps the sum as floats; 'requantize' rounds it to "
            "the codes' values again, which is another function; 'refuse' is the default"
        )
    plain = merged()
    if wrapper.quantized == "requantize":
        return Linear.of(Parameter(wrapper.base.rounded(plain)), plain.bias)
    return plain


def _has_codes(module: Any) -> bool:
    while isinstance(module, Wrapper):
        if isinstance(module, QuantLinear):
            return True
        module = module.base
    return False


def refuse_trained(at: Any) -> None:
    """A weight that an earlier method trains or computes cannot stay behind codes."""
    behind = {id(w.base.weight): path for path, w in codes_of(at).items()}
    for h in at.model.handles:
        changed = [*h.clones.values(), *h.computed.values()]
        for p in changed:
            if h is not at and id(p) in behind:
                other = h.method.name
                raise ValueError(f"{at.method.name!r} would freeze {behind[id(p)]}.weight, which "
                                 f"{other!r} changes: merge {other!r} first")  # fmt: skip


def codes_of(at: Any) -> dict[str, QuantLinear]:
    """path -> the QuantLinear of a handle there, under whatever else the handle put around it."""
    layers = ((path, layer) for path, w in at.wrappers.items() for layer in w.stack())
    return {path: layer for path, layer in layers if isinstance(layer, QuantLinear)}
