"""Numbers in few bits: codebooks, block-wise rounding to them, and packing into bytes.

A codebook lists 2 … 256 values in [-1, 1]. A block of numbers is divided by its largest size,
each quotient becomes the number of the nearest value, and that largest size, the block's
`absmax`, is kept beside the codes: x is about book[code] * absmax. Codes of 2, 3, 4 or 8 bits are
packed without gaps, earlier ones in higher bits. Back from bytes it is one look-up per byte, in a
table that holds the values of all codes that a byte can carry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from statistics import NormalDist
from typing import Any

import numpy as np

from minipeft.backend import Array, xp_of

NESTED = 256  # constants in a block when they are quantized themselves
WORDS = {2: (8, 4), 3: (12, 4), 4: (8, 2), 8: (8, 1)}  # bits -> bits of a word, codes in it


def small_float(exponent: int, fraction: int) -> list[float]:
    """The values of a float of few bits, by code, over the largest: (2, 1) is FP4's E2M1.

    A code is sign, exponent e, fraction f, from the highest bit to the lowest. No code is infinite.
    size = 2^(e - 1) (1 + f / 2^fraction);  f / 2^fraction where e is 0
    """
    step = 2.0**-fraction
    sizes = [f * step for f in range(2**fraction)]
    for e in range(1, 2**exponent):
        sizes += [2.0 ** (e - 1) * (1 + f * step) for f in range(2**fraction)]
    return [sign * size / sizes[-1] for sign in (1, -1) for size in sizes]


def normal_float(bits: int) -> list[float]:
    """Quantiles of a normal distribution, 0 among them (Dettmers et al. 2023, appendix E).

    2^(bits - 1) values above 0, one less below it, and 0, ascending, over the largest. With
    n = 2^bits their probabilities go in even steps from 1/2, which is 0, to 1 - δ and to δ;
    δ = (1/(2n) + 1/(2n - 2)) / 2
    """
    n = 2**bits
    edge = 1 - (1 / (2 * n) + 1 / (2 * n - 2)) / 2
    ppf = NormalDist().inv_cdf
    above = [ppf(p) for p in np.linspace(edge, 0.5, n // 2 + 1)[:-1].tolist()]
    below = [-ppf(p) for p in np.linspace(edge, 0.5, n // 2)[:-1].tolist()]
    return [v / above[0] for v in sorted([*below, 0.0, *above])]


def _integers(bits: int) -> list[float]:
    """-m … m over m, as symmetric integers: the lowest two's complement is left out."""
    m = 2 ** (bits - 1) - 1
    return [k / m for k in range(-m, m + 1)]


def _dynamic() -> list[float]:
    """Seven decades, each twice as fine as the one below, both signs (Dettmers 2016)."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, 2**i + 1)
        middle = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (i - 6)).tolist()
        values += [*middle, *(-v for v in middle)]
    return sorted(values)


# bitsandbytes' table of that name: in another order, with 1/16 where E2M1 has 1
_FP4_BNB = [v / 12 for v in (0, 0.0625, 8, 12, 4, 6, 2, 3)]
BOOKS: dict[str, tuple[int, Callable[[], list[float]]]] = {  # name -> bits, values by code
    **{f"nf{bits}": (bits, partial(normal_float, bits)) for bits in (4, 3, 2)},
    "fp4": (4, partial(small_float, 2, 1)),
    "fp4-bnb": (4, lambda: [*_FP4_BNB, *(-v for v in _FP4_BNB)]),
    **{f"int{bits}": (bits, partial(_integers, bits)) for bits in (8, 4, 3, 2)},
    "dynamic8": (8, _dynamic),
}


@lru_cache
def book(name: str) -> np.ndarray:
    """The values of a codebook, by code, float32. All who ask share them."""
    values = np.asarray(BOOKS[name][1](), np.float32)
    values.flags.writeable = False
    return values


# -- block-wise rounding --------------------------------------------------------------------------


def quantize(x: Array, name: str, block: int) -> tuple[Array, Array]:
    """Round blocks of numbers to a codebook.

    q = argmin_j |x / absmax - book_j|; halfway the lower value; a block of zeros stays zero
    Shapes  x any, n elements in C order -> q (n,) uint8, absmax (ceil(n / block),) float32
    Raises  ValueError if an element is NaN, infinite or beyond float32
    """
    xp, values = xp_of(x), book(name)
    with np.errstate(over="ignore"):  # told below
        flat = xp.asarray(x.reshape(-1), dtype=np.float32)
    if not bool(xp.isfinite(flat).all()):
        i = int(xp.argmax(~xp.isfinite(flat)))
        raise ValueError(f"element {i} is {float(x.reshape(-1)[i]):g}, and codes stand for finite "
                         "numbers of float32, up to 3.4e38")  # fmt: skip
    block = max(1, min(block, n := flat.size))  # a larger one holds all, and is not padded
    rows = xp.pad(flat, (0, -n % block)).reshape(-1, block)
    absmax = xp.abs(rows).max(axis=1)
    scaled = rows / xp.where(absmax > 0, absmax, xp.float32(1))[:, None]
    order = np.argsort(values, kind="stable")
    order = order[np.diff(values[order], prepend=-2) > 0]  # of two zeros the first, +0
    middle = (values[order][1:] + values[order][:-1]) / 2
    place = xp.searchsorted(xp.asarray(middle), scaled.reshape(-1)[:n], side="left")
    return xp.asarray(order.astype(np.uint8))[place], absmax


def dequantize(q: Array, absmax: Array, name: str, block: int) -> Array:
    """Back to float32, code by code: the plain twin of `decode`.  (n,) -> (n,)"""
    xp = xp_of(q)
    return xp.asarray(book(name))[q] * xp.repeat(absmax, min(block, q.size))[: q.size]


def double_quantize(absmax: Array) -> tuple[Array, Array, float]:
    """Quantize the constants themselves: 8 bits each, one float32 for 256 of them.

    Shapes  absmax (m,) -> codes (m,) uint8, nested (ceil(m / 256),) float32, their mean
    """
    offset = float(absmax.mean(dtype=np.float32))
    return *quantize(absmax - offset, "dynamic8", NESTED), offset


def double_dequantize(codes: Array, nested: Array, offset: float, values: Array) -> Array:
    """The constants of `double_quantize`; `values` is table("dynamic8", …).  (m,) -> (m,)"""
    absmax = decode(codes, nested, values, codes.shape, NESTED)
    absmax += offset
    return absmax


def bits_per_number(name: str, block: int, double: bool) -> float:
    """What a number costs, its share of the constants included."""
    constants = 8 / block + 32 / (block * NESTED) if double else 32 / block
    return BOOKS[name][0] + constants


def errors(
    x: Array, names: Sequence[str], blocks: Sequence[int], double: bool = False
) -> list[dict[str, Any]]:
    """What rounding costs: a row for each codebook and block size.

    Returns  code, block, bits (of a number, constants included), rmse and mae as shares of the
             standard deviation of x
    """
    rows = []
    for name in names:
        for block in blocks:
            q, absmax = quantize(x, name, block)
            if double:
                values = table("dynamic8", np.dtype(np.float32), xp_of(x))
                absmax = double_dequantize(*double_quantize(absmax), values)
            error, std = dequantize(q, absmax, name, block) - x.reshape(-1), float(x.std())
            row = {"code": name, "block": block, "bits": bits_per_number(name, block, double)}
            rmse, mae = float((error * error).mean()) ** 0.5, float(abs(error).mean())
            rows.append(row | {"rmse": rmse / std, "mae": mae / std})
    return rows


# -- packing --------------------------------------------------------------------------------------


def packed_size(n: int, bits: int) -> int:
    """Bytes of n codes."""
    if bits == 3:
        return 3 * -(-n // 8)
    return -(-n // WORDS[bits][1])


def pack(q: Array, bits: int) -> Array:
    """Codes without gaps, earlier ones in higher bits.  (n,) uint8 -> (bytes,) uint8"""
    if bits != 3:
        return pack_words(q, bits).astype(np.uint8)
    xp = xp_of(q)
    words = pack_words(xp.pad(q, (0, -q.size % 8)), bits)
    a, b = words[0::2], words[1::2]  # two words of 12 bits in 3 bytes
    parts = [a >> 4, ((a & 15) << 4) | (b >> 8), b & 255]
    return xp.stack(parts, axis=1).astype(np.uint8).reshape(-1)


def pack_words(q: Array, bits: int) -> Array:
    """Codes side by side in words, WORDS[bits][1] in each, the earlier in higher bits.

    The last word is filled with zeros.  (n,) uint8 -> (words,) uint16
    """
    xp, (_, codes) = xp_of(q), WORDS[bits]
    rows = xp.pad(q, (0, -q.size % codes)).reshape(-1, codes).astype(np.uint16)
    words = rows[:, 0]
    for i in range(1, codes):
        words = words << bits | rows[:, i]
    return words


def _words(packed: Array, bits: int) -> Array:
    """The words that a table is indexed by: the bytes, or for 3 bits 12 at a time."""
    if bits != 3:
        return packed
    xp, three = xp_of(packed), packed.reshape(-1, 3).astype(np.uint16)
    a = (three[:, 0] << 4) | (three[:, 1] >> 4)
    return xp.stack([a, ((three[:, 1] & 15) << 8) | three[:, 2]], axis=1).reshape(-1)


def unpack(packed: Array, bits: int, n: int) -> Array:
    """The codes again.  (bytes,) -> (n,) uint8"""
    return xp_of(packed).asarray(_split(bits))[_words(packed, bits)].reshape(-1)[:n]


@lru_cache
def _split(bits: int) -> np.ndarray:
    """The codes in every word.  -> (2**bits of a word, codes in it) uint8"""
    width, codes = WORDS[bits]
    shifts = bits * (codes - 1 - np.arange(codes))
    return ((np.arange(2**width)[:, None] >> shifts) & (2**bits - 1)).astype(np.uint8)


@lru_cache
def table(name: str, dtype: Any, xp: Any = np) -> Array:
    """The values of all codes in a word, for every word.  -> (2**bits of a word, codes in it)"""
    bits = BOOKS[name][0]
    values = np.zeros(2**bits)
    values[: len(book(name))] = book(name)
    return xp.asarray(values[_split(bits)], dtype=dtype)


def decode(
    packed: Array, absmax: Array, values: Array, shape: tuple[int, ...], block: int
) -> Array:
    """Numbers from packed codes, in one look-up per word and one product.

    values  table(name, dtype, xp); its dtype is the result's
    Shapes  packed (bytes,), absmax (blocks,) -> shape
    """
    n = int(np.prod(shape))
    bits = {256: 8 // values.shape[1], 4096: 3}[len(values)]
    words = _words(packed, bits)
    if xp_of(packed) is np:
        flat = np.take(values, words, axis=0, mode="clip").reshape(-1)[:n]
    else:
        flat = values[words].reshape(-1)[:n]
    whole = n - n % block
    blocks = flat[:whole].reshape(-1, block)
    blocks *= absmax[: whole // block, None]
    flat[whole:] *= absmax[-1:]
    return flat.reshape(shape)


def round_bf16(x: Array) -> Array:
    """The nearest bfloat16 of each float32, still as float32: 8 bits are left of 24.

    Halfway it takes the even one, as the hardware does. NaN stays NaN.
    """
    xp = xp_of(x)
    bits = xp.asarray(x, dtype=np.float32).view(np.uint32)
    half = (bits >> 16 & 1) + np.uint32(0x7FFF)
    rounded = ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)
    return xp.where(xp.isnan(x), x, rounded).astype(x.dtype)
