"""erf, scatter-add and the random stream: the same numbers everywhere."""

import math
import tracemalloc

import numpy as np
import pytest

from minipeft.backend import (
    ERF_PART,
    Rng,
    dropout_factors,
    erf,
    is_whole,
    scatter_add,
    to_device,
    to_numpy,
    xp_of,
)

GOLDEN = {  # drawn once; they must never change, or every seed means something else
    "raw": [10702196281607453924, 6513711076756273545],
    "integers": [582, 433, 496, 929, 726, 501],
    "permutation": [4, 0, 5, 3, 2, 1],
    "sign": [1.0, 1.0, -1.0, 1.0, 1.0, -1.0],
    "uniform": [0.6521280903866222, 0.08316449905043855, 0.5706031201113358],
    "normal": [-1.173816743068763, -2.1354118400409616, -0.6844952966574392],
}


def test_numpy_integers_are_whole_and_booleans_are_not():
    assert all(is_whole(x) for x in (0, -3, np.int64(3), np.uint8(3), np.array([3])[0]))
    others = (True, np.True_, 3.0, np.float64(3), "3", None, [3], np.array(3), np.array([3]))
    assert not any(is_whole(x) for x in others)


def test_erf_matches_math_erf():
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, 4.0, 6.0, -1e-300, 40.0]])
    want = np.array([math.erf(v) for v in x.tolist()])
    assert np.abs(erf(x) - want).max() <= 1e-15


def test_erf_keeps_float32(backend):
    x = backend.asarray(np.linspace(-5, 5, 101, dtype=np.float32))
    y = erf(x)
    assert y.dtype == np.float32
    want = [math.erf(v) for v in to_numpy(x).tolist()]
    assert np.abs(to_numpy(y) - want).max() <= 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_of_many_is_done_in_parts_with_the_same_bits(dtype):
    x = (3 * Rng(0, "erf").normal((7, ERF_PART // 2))).astype(dtype)
    for many in (x, x.T, x[:, ::3]):
        y = erf(many)
        assert y.shape == many.shape and y.dtype == dtype
        rows = np.stack([erf(row) for row in np.ascontiguousarray(many)])
        assert np.array_equal(y, rows)
    x = np.repeat(x, 6, axis=0)
    erf(x[:1])
    tracemalloc.start()
    erf(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.9 * x.nbytes  # 15 in one piece


@pytest.mark.parametrize("n", [1, ERF_PART - 1, ERF_PART, ERF_PART + 1, 2 * ERF_PART])
def test_erf_of_any_number_of_elements_ends_with_the_last(n):
    x = np.linspace(-3, 3, n + 2)[1:-1]
    y = erf(x)
    for i in {0, n // 2, max(n - 2, 0), n - 1}:
        assert y[i] == pytest.approx(math.erf(x[i]), abs=1e-15)


def test_scatter_add_adds_repeated_indices(backend):
    target = backend.zeros((3, 2))
    values = backend.asarray([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    scatter_add(target, backend.asarray([2, 0, 2]), values)
    assert to_numpy(target).tolist() == [[10, 20], [0, 0], [101, 202]]


def test_rng_gives_the_golden_integers():
    rng = Rng(0, "golden")
    assert rng.raw(2).tolist() == GOLDEN["raw"]
    assert rng.integers(0, 1000, 6).tolist() == GOLDEN["integers"]
    assert rng.permutation(6).tolist() == GOLDEN["permutation"]
    assert rng.sign(6).tolist() == GOLDEN["sign"]
    assert rng.uniform(3).tolist() == GOLDEN["uniform"]
    np.testing.assert_allclose(rng.normal(3), GOLDEN["normal"], rtol=1e-14)


def test_rng_state_goes_back_and_spawn_does_not_advance():
    rng, twin = Rng(3, "a"), Rng(3, "a")
    rng.spawn("child").raw(5)
    assert rng.raw(1) == twin.raw(1)
    state = rng.state()
    first = rng.normal((2, 3))
    rng.set_state(state)
    assert np.array_equal(first, rng.normal((2, 3)))
    assert Rng(3, "a").spawn("b").raw(1) == Rng(3, "a", "b").raw(1)
    assert Rng(3, "a").raw(1) != Rng(3, "b").raw(1) != Rng(4, "a").raw(1)


def test_rng_draws_have_their_moments():
    rng = Rng(1, "moments")
    z = rng.normal(100_001)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01 and abs((z**4).mean() - 3) < 0.1
    u = rng.uniform(100_000, low=2.0, high=4.0)
    assert 2 <= u.min() and u.max() < 4 and abs(u.mean() - 3) < 0.01
    counts = np.bincount(rng.integers(-1, 4, 50_000) + 1)
    assert len(counts) == 5 and abs(counts / 50_000 - 0.2).max() < 0.01
    share = np.bincount([rng.weighted([1.0, 0.0, 3.0]) for _ in range(4000)])[:3] / 4000
    assert share[1] == 0 and abs(share[2] - 0.75) < 0.03


def test_rng_scalars_are_python_numbers():
    rng = Rng(1)
    assert type(rng.uniform()) is float and type(rng.normal()) is float
    assert type(rng.integers(0, 5)) is int and type(rng.choice([7, 8])) is int
    assert sorted(rng.shuffle([1, 2, 3])) == [1, 2, 3]
    assert len(set(rng.choices(range(10), 4))) == 4


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_rng_refuses_a_bad_seed(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        Rng(seed)


def test_to_device_names_the_wrong_device():
    with pytest.raises(ValueError, match="'cuda' or 'auto', got 'gpu'"):
        to_device(np.zeros(1), "gpu")
    assert xp_of(np.zeros(1), [1.0]) is np


# -- dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("p", [0.02, 0.4, 0.9])
def test_dropout_has_its_share_of_zeros_and_scales_the_rest(backend, p, dtype):
    like = backend.zeros(1, dtype=dtype)
    f = to_numpy(dropout_factors(Rng(0), (300, 299), p, like))
    assert f.shape == (300, 299) and f.dtype == np.dtype(dtype)
    kept = np.unique(f[f != 0])
    assert len(kept) == 1 and kept[0] == pytest.approx(1 / (1 - p), rel=1e-3)
    assert abs((f == 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / f.size)
    assert f.mean() == pytest.approx(1, abs=4 * np.sqrt(p / (1 - p) / f.size) + 1e-3)


def test_no_element_of_a_mask_tells_of_another(backend):
    """Neighbours at every small distance agree as often as chance has it; no stretch repeats."""
    f = to_numpy(dropout_factors(Rng(0), (60_000,), 0.4, backend.zeros(1))) == 0
    for distance in (*range(1, 9), 16, 64, 256, 1024):
        agree = (f[distance:] == f[:-distance]).mean()
        assert abs(agree - (0.4**2 + 0.6**2)) < 5 * np.sqrt(0.25 / f.size), distance
    stretches = np.packbits(f[:59_968].reshape(-1, 64), axis=1)
    assert len(np.unique(stretches, axis=0)) == len(stretches)


def test_two_masks_of_one_generator_agree_by_chance_alone(backend):
    rng, like = Rng(0), backend.zeros(1)
    masks = [to_numpy(dropout_factors(rng, (20_000,), 0.4, like)) == 0 for _ in range(3)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        agree = (masks[a] == masks[b]).mean()
        assert abs(agree - (0.4**2 + 0.6**2)) < 5 * np.sqrt(0.25 / 20_000)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9])
def test_a_mask_of_any_size_is_the_beginning_of_a_longer_one(n, backend):
    """Four elements share a raw word; the last word may be used in part."""
    like = backend.zeros(1)
    short, long = (to_numpy(dropout_factors(Rng(0), (m,), 0.4, like)) for m in (n, 12))
    assert np.array_equal(short, long[:n])


def test_a_share_near_zero_or_one_keeps_finite_factors(backend):
    none = to_numpy(dropout_factors(Rng(0), (1000, 1000), 1e-9, backend.zeros(1)))
    assert (none == 1).all()
    f = to_numpy(dropout_factors(Rng(0), (1000, 1000), 1 - 1e-9, backend.zeros(1)))
    assert set(np.unique(f)) == {0.0, 65536.0}
    assert 0 < (f != 0).sum() < 60


@pytest.mark.parametrize("shape", [(1 << 63, 16), (1 << 17, 1 << 16), 1 << 33])
def test_more_numbers_than_memory_holds_are_refused(shape):
    for draw in (Rng(0).normal, Rng(0).uniform, Rng(0).sign):
        with pytest.raises(ValueError, match="are more than memory holds"):
            draw(shape)
