"""A training step on shapes alone, which tells its memory and FLOPs before anything is computed.

Inside `with metered(…) as m:` every operation follows its rule in cost.py instead of computing.
Its output is a Blank, an array with a shape and no values, so a forward and a backward pass of
GPT-3 run on a laptop, through the real modules, the real tape and the real walk: what a method
freezes is pruned there as it always is. Blanks are freed when the last reference to them goes,
as arrays are, so `m.live` and `m.peak` are the bytes that a real step would hold.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng, is_array
from minipeft.engine.tensor import changed
from minipeft.ledger.cost import RULES

_METER: ContextVar[Meter] = ContextVar("meter")  # that counts here


class Blank(np.ndarray):
    """An array of a shape without values: all elements are one zero in memory.

    The walk of backward adds gradients and copies them; a Blank only notes that.
    """

    held: int | None = None  # of the array that others are views of: the bytes it stands for

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize if self.held is None else self.held

    @property  # type: ignore[misc]
    def strides(self) -> tuple[int, ...]:
        """Those of a real array, so that the walk takes it for one that it may write to."""
        sizes = [math.prod(self.shape[i + 1 :]) for i in range(self.ndim)]
        return tuple(n * self.itemsize for n in sizes)

    def __add__(self, other: Any) -> Any:
        return _METER.get().new(self.shape, self)

    def __iadd__(self, other: Any) -> Any:
        return self

    def copy(self, order: Any = "C") -> Any:
        return _METER.get().new(self.shape, self)


class BlankRng(Rng):
    """A generator with no state: all that it makes are Blanks."""

    def spawn(self, *path: str | int) -> Rng:
        return self

    def __deepcopy__(self, memo: Any) -> Rng:
        return self


class Meter:
    """Runs operations on shapes, and counts.

    live, peak     bytes of arrays that exist now, and the most there were; arrays that were
                   `known` from the start (parameters, the batch) are left out
    forward, back  FLOPs of products by operation's name, two for a multiply and add
    calls          how often each operation ran
    """

    def __init__(self, known: list[Array]) -> None:
        self.live = self.peak = 0
        self.known = {id(_owner(a)) for a in known}
        self.forward: dict[str, int] = {}
        self.back: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.name = ""  # of the operation that runs

    def new(self, shape: tuple[int, ...], *like: Any, dtype: Any = None) -> Blank:
        """A Blank whose dtype is that of the first floats in `like`."""
        if dtype is None:
            dtype = next(a.dtype for a in like if is_array(a) and a.dtype.kind == "f")
        owner = Blank((), dtype)
        owner.fill(0)
        owner.held = math.prod(shape) * owner.itemsize
        self._hold(owner, owner.held)
        blank: Any = np.broadcast_to(owner, shape, subok=True)
        blank.flags.writeable = True  # as a real array is, for the walk
        return blank

    def spike(self, extra: int) -> None:
        """Note bytes that an operation holds while it runs, beyond what it returns."""
        self.peak = max(self.peak, self.live + extra)

    def run(
        self, name: str, fn: Any, args: Any, arrays: tuple[Any, ...], settings: dict[str, Any]
    ) -> Any:
        """What an @op does in place of its function."""
        if name not in RULES:
            raise NotImplementedError(
                f"operation {name!r} has no rule in minipeft/ledger/cost.py, so its memory is not "
                f"known from shapes; there are rules for {', '.join(RULES)}"
            )
        for a in arrays:
            if is_array(a):
                self._meet(a)
        self.name = name
        self.calls[name] = self.calls.get(name, 0) + 1
        rule = RULES[name]
        return rule(self, *arrays, **settings) if rule else fn(*arrays, **settings)

    def rng(self) -> Rng:
        """A generator for dropout, whose masks are Blanks."""
        rng = BlankRng(0)
        rng.blank = self.new
        return rng

    def flops(self, n: int) -> None:
        """Count the products of the operation that runs."""
        self.forward[self.name] = self.forward.get(self.name, 0) + n

    def gradient(self, x: Any, *keeps: Any, flops: int = 0, work: int = 0) -> Any:
        """The VJP of an input x: a new array of its shape.

        keeps  what it needs until then; flops, and bytes held while it runs
        """
        if not is_array(x):
            return None  # a number is no leaf
        shape, dtype, name = x.shape, x.dtype, self.name

        def vjp(g: Array) -> Array:
            return self._pulled(name, shape, dtype, flops, work, keeps)

        return vjp

    def _pulled(
        self, name: str, shape: Any, dtype: Any, flops: int, work: int, keeps: Any
    ) -> Array:
        self.back[name] = self.back.get(name, 0) + flops
        made = self.new(shape, dtype=dtype)
        self.spike(work)
        return made

    def together(
        self,
        inputs: tuple[Any, ...],
        keeps: tuple[Any, ...],
        flops: Callable[[tuple[bool, ...]], int] = lambda needs: 0,
        work: int = 0,
    ) -> Any:
        """The one VJP of inputs that share work: it keeps all of `keeps`, whoever trains."""
        name, like = self.name, [(x.shape, x.dtype) for x in inputs]

        def vjp(g: Array, needs: tuple[bool, ...]) -> list[Array | None]:
            made = [
                self._pulled(name, shape, dtype, 0, 0, keeps) if need else None
                for (shape, dtype), need in zip(like, needs, strict=True)
            ]
            self.back[name] = self.back.get(name, 0) + flops(needs)
            self.spike(work)
            return made

        return vjp

    def _meet(self, a: Array) -> None:
        """Count an array that was made outside of operations: a copy of patches, a mask."""
        owner = _owner(a)
        if id(owner) not in self.known:
            self._hold(owner, max(int(owner.nbytes), int(a.nbytes)))

    def _hold(self, owner: Array, n: int) -> None:
        self.known.add(id(owner))
        self.live += n
        self.peak = max(self.peak, self.live)
        weakref.finalize(owner, self._free, id(owner), n).atexit = False

    def _free(self, key: int, n: int) -> None:
        self.known.discard(key)
        self.live -= n


@contextmanager
def metered(known: list[Array]) -> Iterator[Meter]:
    """Run operations on shapes alone; arrays `known` before are not counted."""
    meter = Meter(known)
    here = _METER.set(meter)
    try:
        with changed(around=meter.run):
            yield meter
    finally:
        _METER.reset(here)


def _owner(a: Any) -> Any:
    """The array whose memory a view shows."""
    while is_array(getattr(a, "base", None)):
        a = a.base
    return a
