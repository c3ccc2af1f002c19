"""Code books, block-wise rounding and packing: golden values, twins, edges and known errors."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng, to_numpy
from minipeft.methods import codes
from minipeft.methods.codes import BOOKS

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
       -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
FP4_BNB = [0, 0.0052083333, 0.6666667, 1, 0.3333333, 0.5, 0.1666667, 0.25]
I = np.arange(160)  # noqa: E741
GOLDEN = (np.sin(0.37 * I) * np.exp(0.01 * I)).astype(np.float32)


def packed(x, name, block):
    """Packed codes and constants."""
    q, absmax = codes.quantize(x, name, block)
    return codes.pack(q, BOOKS[name][0]), absmax


def there_and_back(x, name, block):
    return codes.dequantize(*codes.quantize(x, name, block), name, block).reshape(x.shape)


# -- golden values --------------------------------------------------------------------------------


def test_the_books_are_the_published_ones():
    np.testing.assert_allclose(codes.book("nf4"), NF4, atol=2e-7)
    np.testing.assert_allclose(codes.book("fp4-bnb"), [*FP4_BNB, *(-v for v in FP4_BNB)], atol=1e-7)
    np.testing.assert_allclose(6 * codes.book("fp4"), [*E2M1, *(-v for v in E2M1)], atol=1e-6)
    assert sum(v < 0 for v in NF4) == 7
    dynamic = codes.book("dynamic8")
    assert len(dynamic) == 256 and (np.diff(dynamic) > 0).all()
    assert dynamic[127] == 0 and dynamic[255] == 1 and abs(dynamic.sum() - 1) < 1e-5
    assert dynamic[0] == pytest.approx(-0.99296874) and dynamic[128] == pytest.approx(5.5e-7)
    assert codes.book("int4").tolist() == pytest.approx([k / 7 for k in range(-7, 8)])
    for name, (bits, make) in BOOKS.items():
        values = make()
        assert len(values) <= 2**bits and max(map(abs, values)) == 1, name


@pytest.mark.parametrize(
    ("name", "first", "last", "back", "total", "rmse"),
    [
        ("nf4", "79bdddcb8642212357acdeedb9532111", "48cefffe",
         [0, 0.292625, 0.614443, 1.023025], 14.10298, 0.170975),
        ("fp4-bnb", "064555546ecdaaddf175222546ecaaaa", "f1423332",
         [0, 0.303056, 0.606111, 0.909167], 11.67115, 0.220606),
    ],
)  # fmt: skip
def test_golden_bytes(name, first, last, back, total, rmse):
    bytes_, absmax = packed(GOLDEN, name, 64)
    np.testing.assert_allclose(absmax, [1.818333, 3.418053, 4.804562], atol=1e-6)
    assert len(bytes_) == 80 and bytes_.dtype == np.uint8
    assert bytes_[:16].tobytes().hex() == first and bytes_[-4:].tobytes().hex() == last
    x = codes.decode(bytes_, absmax, codes.table(name, np.float32), GOLDEN.shape, 64)
    np.testing.assert_allclose(x[:4], back, atol=1e-6)
    assert float(x.sum()) == pytest.approx(total, abs=2e-5)
    assert math.sqrt(((x - GOLDEN) ** 2).mean()) == pytest.approx(rmse, abs=1e-6)


def test_golden_eight_bits_and_constants():
    q, absmax = codes.quantize(GOLDEN, "int8", 64)
    assert 127 / absmax[0] == pytest.approx(69.844185)
    assert (q[:12].astype(int) - 127).tolist() == [0, 26, 48, 64, 72, 71, 59, 39, 14, -14, -41, -62]
    q, absmax = codes.quantize(GOLDEN, "int8", 160)
    assert 127 / absmax[0] == pytest.approx(26.43321)
    assert (q[:12].astype(int) - 127).tolist() == [0, 10, 18, 24, 27, 27, 22, 15, 5, -5, -15, -24]
    q, absmax = codes.quantize(GOLDEN, "dynamic8", 64)
    assert q[:12].tolist() == [127, 198, 210, 219, 224, 223, 216, 205, 191, 63, 48, 36]
    q, nested, offset = codes.double_quantize(absmax)
    assert q.tolist() == [0, 171, 251] and nested.tolist() == pytest.approx([1.528650], abs=1e-6)
    assert offset == pytest.approx(3.346983, abs=1e-6)


def test_int8_is_the_rounded_product():
    x = np.asarray(Rng(0, "x").normal(4096), np.float32)
    q, absmax = codes.quantize(x, "int8", 64)
    c = np.repeat(127 / absmax, 64)
    assert (np.round(c * x) == q.astype(int) - 127).all()


# -- rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOOKS)
def test_every_code_is_the_nearest(name):
    x = np.asarray(Rng(0, "x").normal(1000), np.float32)
    q, absmax = codes.quantize(x, name, 64)
    scaled = x / np.repeat(absmax, 64)[:1000]
    values = codes.book(name)
    best = abs(scaled[:, None] - values).min(axis=1)
    np.testing.assert_allclose(abs(scaled - values[q]), best, atol=1e-7)
    assert len(set(q.tolist())) > 0.4 * len(set(values.tolist()))


def test_halfway_goes_down_and_zero_is_plus_zero():
    x = np.asarray([1, 0.5, -0.5, 0, -0.0], np.float32)
    assert codes.quantize(x, "int2", 5)[0].tolist() == [2, 1, 0, 1, 1]
    x = np.asarray([1, 0, -0.0, 1e-9, -1e-9], np.float32)
    assert codes.quantize(x, "fp4", 5)[0].tolist() == [7, 0, 0, 0, 0]
    assert codes.quantize(x, "fp4-bnb", 5)[0].tolist() == [3, 0, 0, 0, 0]


def test_fp4_is_the_float_of_its_bits():
    """Sign, two bits of exponent with bias 1, one of fraction; without exponent no leading one."""
    for code, value in enumerate(codes.book("fp4")):
        sign, exponent, fraction = code >> 3, (code >> 1) & 3, code & 1
        size = (1 + fraction / 2) * 2.0 ** (exponent - 1) if exponent else fraction / 2
        assert 6 * value == pytest.approx(-size if sign else size)


def test_small_floats_of_other_sizes():
    """One bit of exponent and none of fraction is a sign; E1 with fraction is evenly spaced."""
    assert codes.small_float(1, 0) == [0, 1, 0, -1]
    assert codes.small_float(1, 2)[:8] == pytest.approx([k / 7 for k in range(8)])
    assert codes.small_float(3, 0)[:8] == pytest.approx([0, *(2.0**-k for k in range(6, -1, -1))])
    e4m3 = 2.0**8 * 1.875 * np.asarray(codes.small_float(4, 3))  # with bias 7, no NaN: up to 480
    assert e4m3[1] == 2.0**-9 and e4m3[8] == 2.0**-6 and e4m3[127] == 480 and e4m3[255] == -480


def test_a_book_is_shared_and_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        codes.book("nf4")[0] = 0


def test_a_block_of_zeros_and_a_short_block():
    x = np.concatenate([np.zeros(4), [2.0, -3.0]]).astype(np.float32)
    for name in BOOKS:
        q, absmax = codes.quantize(x, name, 4)
        assert absmax.tolist() == [0, 3]
        back = codes.dequantize(q, absmax, name, 4)
        assert (back[:4] == 0).all() and np.isfinite(back).all()
        if name != "nf2":
            assert back[5] == pytest.approx(-3, rel=0.01)


@pytest.mark.parametrize("name", BOOKS)
def test_blocks_of_small_numbers_have_the_codes_of_large_ones(name):
    x = Rng(0, "x").normal(100).astype(np.float32)
    q, absmax = codes.quantize(x, name, 32)
    small, least = codes.quantize(x * np.float32(2.0**-60), name, 32)
    assert small.tolist() == q.tolist() and (least == absmax * 2.0**-60).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200, -4e38])
@pytest.mark.parametrize("name", BOOKS)
def test_what_codes_cannot_stand_for_is_refused(name, bad):
    x = np.asarray(Rng(0, "x").normal(100))
    x[70] = bad
    with pytest.raises(ValueError, match=rf"element 70 is {bad:g}".replace("+", r"\+")):
        codes.quantize(x.reshape(4, 25), name, 64)


def test_constants_that_codes_cannot_stand_for_are_refused():
    with pytest.raises(ValueError, match="is nan, and codes stand for finite numbers of float32"):
        codes.double_quantize(np.float32([1, 2, np.nan]))


def test_the_largest_numbers_come_back_finite():
    x = np.float32([3.4e38, -3.4e38, 1e-45, -1e-45, 0])
    for name in BOOKS:
        back = there_and_back(x, name, 2)
        assert np.isfinite(back).all() and back[0] == x[0] and back[-1] == 0


def test_blocks_run_along_the_rows():
    x = np.asarray([[1.0, 0.1], [100.0, 10.0]], np.float32)
    _, absmax = codes.quantize(x, "nf4", 2)
    assert absmax.tolist() == [1, 100]
    _, absmax = codes.quantize(x.T, "nf4", 2)  # another storage order has other blocks
    assert absmax.tolist() == [100, 10]


TOLD = {("nf4", 64): 0.0920, ("nf4", 128): 0.0956, ("nf4", 256): 0.0988, ("fp4-bnb", 64): 0.1219,
        ("int4", 64): 0.1077, ("int8", 64): 0.0059, ("dynamic8", 256): 0.0108}  # fmt: skip


def test_errors_by_code_and_block():
    x = np.asarray(Rng(0, "x").normal((1024, 1024)), np.float32)
    names = [*dict.fromkeys(name for name, _ in TOLD), "fp4"]
    rows = {(r["code"], r["block"]): r for r in codes.errors(x, names, [64, 128, 256])}
    for key, rmse in TOLD.items():
        assert rows[key]["rmse"] == pytest.approx(rmse, abs=3e-4), key
    assert rows["nf4", 64]["mae"] == pytest.approx(0.0728, abs=3e-4)
    assert rows["fp4", 64]["rmse"] == pytest.approx(0.1057, abs=3e-4)
    assert rows["fp4", 64]["mae"] == pytest.approx(0.0802, abs=3e-4)
    assert rows["fp4-bnb", 64]["mae"] == pytest.approx(0.0966, abs=3e-4)
    assert rows["nf4", 64]["bits"] == 4.5
    (row,) = codes.errors(x, ["nf4"], [64], double=True)  # the constants' rounding costs nothing
    assert row["bits"] == 4.126953125 and row["rmse"] == pytest.approx(0.0920, abs=3e-4)


def test_errors_are_shares_of_the_deviation_of_what_is_rounded():
    x = Rng(0, "x").normal((64, 64)).astype(np.float32)
    (row,), (large,) = (codes.errors(part, ["nf4"], [64]) for part in (x, 8 * x))
    assert row == large


def test_double_quantization_costs_next_to_nothing():
    x = np.asarray(Rng(0, "x").normal((1024, 1024)), np.float32)
    q, absmax = codes.quantize(x, "nf4", 64)
    eight, nested, offset = codes.double_quantize(absmax)
    again = codes.double_dequantize(eight, nested, offset, codes.table("dynamic8", np.float32))
    assert 0 < abs(again - absmax).max() < 0.04 * (absmax.max() - absmax.min())
    error = codes.dequantize(q, again, "nf4", 64) - x.reshape(-1)
    assert math.sqrt((error * error).mean()) == pytest.approx(0.0920, abs=3e-4)


def test_bits_of_a_number():
    assert codes.bits_per_number("nf4", 64, False) == 4.5
    assert codes.bits_per_number("nf4", 64, True) == 4.126953125
    assert codes.bits_per_number("int8", 256, False) == 8.125
    saved = codes.bits_per_number("nf4", 64, False) - codes.bits_per_number("nf4", 64, True)
    assert 65e9 * saved / 8 == pytest.approx(3.03e9, rel=1e-3)  # "about 3 GB" of a 65B model


# -- packing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOOKS)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 64, 129, 160])
def test_packed_codes_are_small_and_come_back(name, n):
    x = np.resize(GOLDEN, n)
    bits = BOOKS[name][0]
    q, absmax = codes.quantize(x, name, 64)
    bytes_ = codes.pack(q, bits)
    assert len(bytes_) == codes.packed_size(n, bits) < n * bits / 8 + 3
    assert (codes.unpack(bytes_, bits, n) == q).all() and not np.shares_memory(bytes_, q)
    back = codes.dequantize(q, absmax, name, 64)
    for dtype, close in ((np.float32, 0), (np.float64, 1e-6)):
        values = codes.table(name, dtype)
        x = codes.decode(bytes_, absmax, values, (n,), 64)
        assert x.dtype == dtype
        np.testing.assert_allclose(x, back, rtol=close)


def test_the_first_of_two_codes_is_in_the_high_half():
    assert codes.pack(np.asarray([1, 2, 3], np.uint8), 4).tolist() == [0x12, 0x30]
    assert codes.pack(np.asarray([1, 2, 3, 0], np.uint8), 2).tolist() == [0b01101100]
    three = np.asarray([1, 2, 3, 4, 5, 6, 7, 0], np.uint8)
    assert codes.pack(three, 3).tolist() == [0b00101001, 0b11001011, 0b10111000]


def test_every_backend(backend):
    x = backend.asarray(GOLDEN)
    for name, (bits, _) in BOOKS.items():
        q, absmax = codes.quantize(x, name, 64)
        values = codes.table(name, np.float32, backend)
        back = codes.decode(codes.pack(q, bits), absmax, values, (2, 80), 64)
        assert (to_numpy(back) == there_and_back(GOLDEN, name, 64).reshape(2, 80)).all()
        eight, nested, offset = codes.double_quantize(absmax)
        wide = codes.table("dynamic8", np.float32, backend)
        again = codes.double_dequantize(eight, nested, offset, wide)
        np.testing.assert_allclose(to_numpy(again), to_numpy(absmax), rtol=0.02)
    assert (to_numpy(codes.round_bf16(x)) == codes.round_bf16(GOLDEN)).all()


# -- bfloat16 -------------------------------------------------------------------------------------


def test_bfloat16_has_eight_bits():
    x = np.asarray([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-9, -1.5, 0, 1 / 3], np.float32)
    wanted = [1, 1, 1 + 2**-6, 1, -1.5, 0, 0.333984375]
    np.testing.assert_allclose(codes.round_bf16(x), wanted, rtol=1e-7)
    y = np.asarray(Rng(0, "y").normal(1000), np.float32)
    assert abs(codes.round_bf16(y) / y - 1).max() <= 2**-8
    assert np.isnan(codes.round_bf16(np.asarray([np.nan], np.float32))[0])
    assert codes.round_bf16(np.asarray([np.inf], np.float32))[0] == np.inf
    assert codes.round_bf16(y.astype(np.float64)).dtype == np.float64
