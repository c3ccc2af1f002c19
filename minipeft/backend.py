"""NumPy or CuPy: ask the array which library it belongs to.

This is the only file that names cupy. Everything else takes `xp = xp_of(array)` from the
array in hand, so the same code runs on both. It also holds what the two libraries lack or
do differently: erf, scatter-add, and random numbers that are the same on every platform.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeGuard, TypeVar

import numpy as np

T = TypeVar("T")
Array = Any  # a numpy.ndarray or a cupy.ndarray

DEVICE_LIBRARIES = {"cupy"}  # modules whose arrays live on a device


def xp_of(*arrays: Any) -> ModuleType:
    """The array library of the first device array among `arrays`, else NumPy."""
    for a in arrays:
        kind = type(a)
        if kind is not np.ndarray and kind.__module__.partition(".")[0] in DEVICE_LIBRARIES:
            return sys.modules[kind.__module__.partition(".")[0]]
    return np


def is_array(x: Any) -> bool:
    """True for a NumPy array or a device array (not for lists, scalars or Tensors)."""
    return isinstance(x, np.ndarray) or xp_of(x) is not np


def is_whole(x: Any) -> TypeGuard[int]:
    """True for an integer of Python or NumPy. True and False, NumPy's too, are none."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def to_numpy(x: Array) -> np.ndarray:
    """Copy a device array to the host; a NumPy array is returned as it is."""
    return x if isinstance(x, np.ndarray) else x.get() if xp_of(x) is not np else np.asarray(x)


def to_device(x: Array, device: str) -> Array:
    """Move an array to "cpu" or "cuda"; "auto" takes a GPU where there is one.

    Raises  RuntimeError if "cuda" is asked for and CuPy or a GPU is missing.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'auto', got {device!r}")
    if device == "cpu":
        return to_numpy(x)
    cupy = _cupy()
    if cupy is None:
        if device == "auto":
            return to_numpy(x)
        raise RuntimeError(
            "device 'cuda' needs CuPy and an NVIDIA GPU, and one of the two was not found. "
            "Install with: pip install 'minipeft[cuda12]' (or cuda13); `minipeft doctor` tells more"
        )
    return cupy.asarray(x)


def _cupy() -> ModuleType | None:
    """CuPy, if it is installed and sees a GPU."""
    try:
        import cupy
    except ImportError:
        return None
    return cupy if cupy.cuda.is_available() else None


def synchronize() -> None:
    """Wait for the device, so that a clock read afterwards means something."""
    if "cupy" in sys.modules:
        sys.modules["cupy"].cuda.get_current_stream().synchronize()


def memory_stats() -> dict[str, int]:
    """Bytes that the device pool holds, {} on the CPU: `used` by arrays, `pooled` in all."""
    if "cupy" not in sys.modules:
        return {}
    pool = sys.modules["cupy"].get_default_memory_pool()
    return {"used": int(pool.used_bytes()), "pooled": int(pool.total_bytes())}


def scatter_add(target: Array, index: Array, values: Array) -> None:
    """target[index] += values in place, where repeated indices add up.

    Shapes  target (V, ...), index (n,) integers, values (n, ...)
    """
    if xp_of(target) is not np:
        xp_of(target).add.at(target, index, values)
        return
    for row, value in zip(index.tolist(), values, strict=True):  # 3-4x faster than np.add.at
        target[row] += value


def dropout_factors(rng: Rng, shape: tuple[int, ...], p: float, like: Array) -> Array:
    """0 with probability p, else 1/(1-p), for each element; library and dtype of `like`.

    On the CPU 16-bit slices of the raw stream are compared. On a device only a seed goes up,
    and an integer hash of (seed, element number) decides, so that nothing large is copied.
    """
    if rng.blank is not None:
        return rng.blank(shape, like)
    xp, n = xp_of(like), _count(shape)
    limit = min(round(p * 65536), 65535)  # p near 1 still keeps a few
    if xp is np:
        bits = rng.raw(-(-n // 4)).view("<u2")[:n]
    else:
        x = xp.arange(n, dtype=np.uint32) ^ xp.uint32(int(rng.raw(1)[0]) & 0xFFFFFFFF)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # Wellons' lowbias32
            x = (x ^ (x >> shift)) * xp.uint32(factor)
        bits = (x ^ (x >> 16)) & 0xFFFF
    factors = (bits >= limit).astype(like.dtype)
    factors *= 65536 / (65536 - limit)
    return factors.reshape(shape)


ERF_PART = 1 << 14  # elements
DRAWN = 1 << 14  # random numbers at a time

# Cody 1969, Rational Chebyshev approximations for the error function (three ranges).
_ERF_A = (3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
          3.20937758913846947e3, 1.85777706184603153e-1)  # fmt: skip
_ERF_B = (2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
          2.84423683343917062e3)  # fmt: skip
_ERF_C = (5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
          2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3,
          2.05107837782607147e3, 1.23033935479799725e3, 2.15311535474403846e-8)  # fmt: skip
_ERF_D = (1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
          1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
          3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_ERF_P = (3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
          1.60837851487422766e-2, 6.58749161529837803e-4, 1.63153871373020978e-2)  # fmt: skip
_ERF_Q = (2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1,
          6.05183413124413191e-2, 2.33520497626869185e-3)  # fmt: skip


def _ratio(t: Array, top: Sequence[float], bottom: Sequence[float], lead: float) -> Array:
    """(lead t^n + top[0] t^(n-1) + …) / (t^n + bottom[0] t^(n-1) + …), by Horner."""
    num, den = lead * t, t
    for a, b in zip(top[:-1], bottom[:-1], strict=True):
        num, den = (num + a) * t, (den + b) * t
    return (num + top[-1]) / (den + bottom[-1])


def erf(x: Array) -> Array:
    """The error function, element by element, in the precision of x.

    erf(x) = 2/sqrt(pi) * integral_0^x exp(-t^2) dt          Cody 1969; error <= 1e-15
    Shapes  any -> the same
    Holds   15 arrays while it runs; on the CPU those of ERF_PART elements at a time, which also
            stay in the cache
    """
    if xp_of(x) is not np or x.size <= ERF_PART:
        return _erf(x)
    flat, y = x.reshape(-1), np.empty(x.size, x.dtype)
    for i in range(0, x.size, ERF_PART):
        y[i : i + ERF_PART] = _erf(flat[i : i + ERF_PART])
    return y.reshape(x.shape)


def _erf(x: Array) -> Array:
    xp = xp_of(x)
    dtype = x.dtype
    a = xp.abs(x)
    small = xp.minimum(a, 0.5)
    z = small * small
    near = x * _ratio(z, _ERF_A[:4], _ERF_B, _ERF_A[4])
    mid = xp.clip(a, 0.46875, 4.0)
    middle = _ratio(mid, _ERF_C[:8], _ERF_D, _ERF_C[8])
    big = xp.clip(a, 4.0, 6.0)
    w = 1.0 / (big * big)
    tail = w * _ratio(w, _ERF_P[:5], _ERF_Q, _ERF_P[5])
    tail = (0.56418958354775628695 - tail) / big
    cut = xp.minimum(a, 6.0)
    coarse = xp.trunc(cut * 16.0) / 16.0  # exp(-x^2) in two factors keeps the last digits
    gauss = xp.exp(-coarse * coarse) * xp.exp(-(cut - coarse) * (cut + coarse))
    far = xp.sign(x) * (1.0 - gauss * xp.where(a <= 4.0, middle, tail))
    return xp.where(a <= 0.46875, near, far).astype(dtype)


class Rng:
    """Random numbers that are the same on every platform and NumPy version.

    NumPy promises only the raw stream of PCG64 across versions, so everything is made from
    it here. `Rng(seed, "a", 3)` is the stream named by the path; `spawn` names a child.
    Uniforms, integers, permutations and signs are the same bits everywhere; normals go
    through log and cos, so they agree to about 1e-15.
    """

    blank: Any = None  # where only shapes count, a function that makes a mask without values

    def __init__(self, seed: int, *path: str | int) -> None:
        if not is_whole(seed) or seed < 0:
            raise ValueError(f"seed must be an integer >= 0, got {seed!r}")
        self.seed, self.path = int(seed), path
        name = "/".join([str(self.seed), *(str(p) for p in path)])
        words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4")
        self._bits = np.random.PCG64([int(w) for w in words])

    def spawn(self, *path: str | int) -> Rng:
        """The stream of a child path; this stream does not advance."""
        return Rng(self.seed, *self.path, *path)

    def raw(self, n: int) -> np.ndarray:
        """n raw 64-bit words."""
        return self._bits.random_raw(n)

    def skip(self, n: int) -> None:
        """Pass over n words of the stream, in no time."""
        self._bits.advance(n)

    def uniform(
        self, shape: Any = None, low: float = 0.0, high: float = 1.0, dtype: Any = np.float64
    ) -> Any:
        """Uniform on [low, high), of 53 random bits each; drawn in float64, a part at a time."""
        n = _count(shape)
        if n <= DRAWN:
            u = self._uniform(n, low, high).astype(dtype, copy=False)
        else:
            u = np.empty(n, dtype)
            for i in range(0, n, DRAWN):
                u[i : i + DRAWN] = self._uniform(min(DRAWN, n - i), low, high)
        return _shaped(u, shape)

    def _uniform(self, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return low + (high - low) * ((self.raw(n) >> np.uint64(11)) * 2.0**-53)

    def normal(self, shape: Any = None, std: float = 1.0, dtype: Any = np.float64) -> Any:
        """Normal with mean 0, by Box-Muller; drawn in float64, a part at a time.

        The first half of the words are radii, the second the angles that belong to them, so a
        second reader goes ahead of this one where there are many.
        """
        n = _count(shape)
        half = (n + 1) // 2
        y = np.empty(n, dtype)
        angles = self
        if half > DRAWN:
            angles = Rng(self.seed, *self.path)
            angles.set_state(self.state())
            angles.skip(half)
        for i in range(0, half, DRAWN):
            k = min(DRAWN, half - i)
            radius = np.sqrt(-2.0 * np.log(1.0 - self._uniform(k)))
            angle = 2 * np.pi * angles._uniform(k)
            y[i : i + k] = radius * np.cos(angle) * std
            sines = y[half + i : half + i + k]  # one fewer at the end of an odd number
            sines[...] = (radius * np.sin(angle) * std)[: sines.size]
        if angles is not self:
            self.set_state(angles.state())
        return _shaped(y, shape)

    def skip_normal(self, shape: Any) -> None:
        """Pass over what `normal` would draw."""
        self.skip(2 * ((_count(shape) + 1) // 2))

    def integers(self, low: int, high: int, shape: Any = None) -> Any:
        """Integers in [low, high), int64; the bias is below (high - low) / 2^53."""
        if high <= low:
            raise ValueError(f"integers needs low < high, got low={low}, high={high}")
        drawn = np.floor(self.uniform(_count(shape)) * (high - low)).astype(np.int64) + low
        return int(drawn[0]) if shape is None else drawn.reshape(shape)

    def sign(self, shape: Any = None) -> Any:
        """-1.0 or 1.0, float64."""
        s = (self.raw(_count(shape)) >> np.uint64(63)) * 2.0 - 1.0
        return _shaped(s, shape)

    def permutation(self, n: int) -> np.ndarray:
        """A random order of 0 … n-1, int64."""
        return np.argsort(self.raw(n), kind="stable")

    def choice(self, items: Sequence[T]) -> T:
        """One item of a sequence."""
        return items[self.integers(0, len(items))]

    def choices(self, items: Sequence[T], k: int) -> list[T]:
        """k different items of a sequence, in random order."""
        if k > len(items):
            raise ValueError(f"cannot choose {k} different items of {len(items)}")
        return [items[i] for i in self.permutation(len(items))[:k]]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """The items in a new random order."""
        return [items[i] for i in self.permutation(len(items))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, drawn with probability in proportion to its weight."""
        edges = np.cumsum(np.asarray(weights, dtype=np.float64))
        return min(int(np.searchsorted(edges, self.uniform() * edges[-1], "right")), len(edges) - 1)

    def state(self) -> dict[str, int]:
        """The place in the stream, as plain integers."""
        inner = self._bits.state["state"]
        return {"state": int(inner["state"]), "inc": int(inner["inc"])}

    def set_state(self, state: dict[str, int]) -> None:
        """Go back to a place that `state` told."""
        whole = self._bits.state
        whole["state"] = {"state": int(state["state"]), "inc": int(state["inc"])}
        self._bits.state = whole


def _count(shape: Any) -> int:
    """How many numbers a shape asks for.

    Raises  ValueError where no memory could hold them, as for a setting of a hostile file
    """
    n = 1 if shape is None else math.prod(shape if isinstance(shape, Sequence) else (shape,))
    if n >= 1 << 33:
        raise ValueError(f"{n} random numbers of shape {shape} are more than memory holds")
    return int(n)


def _shaped(flat: np.ndarray, shape: Any) -> Any:
    return float(flat[0]) if shape is None else flat.reshape(shape)


def upload(xp: Any, *arrays: Any) -> list[Any]:
    """Host arrays, tuples of them and None, for the library xp; to a device in one transfer."""
    if xp is np:
        return list(arrays)
    parts: list[np.ndarray] = []
    for entry in arrays:
        parts += entry if isinstance(entry, tuple) else [] if entry is None else [entry]
    sizes = [-(-a.nbytes // 16) * 16 for a in parts]  # each begins where any dtype may begin
    ends = np.cumsum(sizes).tolist()
    host = np.zeros(ends[-1], np.uint8)
    for a, end, size in zip(parts, ends, sizes, strict=True):
        host[end - size : end - size + a.nbytes] = np.ascontiguousarray(a).reshape(-1).view("u1")
    there = xp.asarray(host)
    made = iter(
        there[end - size : end - size + a.nbytes].view(a.dtype).reshape(a.shape)
        for a, end, size in zip(parts, ends, sizes, strict=True)
    )
    return [
        tuple(next(made) for _ in entry) if isinstance(entry, tuple)
        else None if entry is None else next(made)
        for entry in arrays
    ]  # fmt: skip
