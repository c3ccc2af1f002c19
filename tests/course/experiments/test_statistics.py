"""Paired differences, Student's quantiles and Welch's test, against tables and SciPy."""

import math

import numpy as np
import pytest

from minipeft.course.experiments.statistics import (
    Difference,
    difference,
    incomplete_beta,
    t_quantile,
    welch,
)


def test_held_needs_five_pairs_and_two_standard_errors():
    a = [3.0, 3.1, 2.9, 3.0, 3.2]
    assert difference(a, [1.0] * 5).held
    assert not difference(a[:4], [1.0] * 4).held, "four pairs are too few"
    assert not difference([1.0] * 5, a).held, "the wrong way round"
    assert not difference([5.0, -5.0, 5.0, -5.0, 1.0], [0.0] * 5).held, "noise"
    assert difference([1.0, 2.0], [0.0, 0.0]).error == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same length"):
        difference([1.0, 2.0], [1.0])


def test_a_difference_is_paired_with_its_sample_error():
    """Three unlike differences 1, 2, 6: deviation of n - 1, error over the root of n."""
    found = difference([11.0, 22.0, 36.0], [10.0, 20.0, 30.0])
    assert found.mean == pytest.approx(3.0) and found.n == 3
    deviation = np.sqrt((2**2 + 1**2 + 3**2) / 2)
    assert found.error == pytest.approx(deviation / np.sqrt(3))
    assert str(found) == "+3 ± 1.5 over 3 pairs"


def test_exactly_two_errors_are_not_enough():
    assert not Difference(2.0, 1.0, 5).held and Difference(2.0 + 1e-9, 1.0, 5).held
    assert not Difference(9.0, 1.0, 4).held and not Difference(0.0, 0.0, 9).held


def test_quantiles_of_student():
    """Tables of t: 2, 3, 4, 5, 10, 20 seeds, and many."""
    known = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451, 5: 2.5705818, 9: 2.2621572,
             19: 2.0930241, 100: 1.9839715}  # fmt: skip
    for freedom, value in known.items():
        assert t_quantile(freedom) == pytest.approx(value, abs=1e-6), freedom
    assert t_quantile(4, 0.999) == pytest.approx(8.6103016, abs=1e-6)
    with pytest.raises(ValueError, match="freedom >= 1"):
        t_quantile(0)


def test_an_interval_is_the_mean_and_t_errors():
    low, high = Difference(3.0, 0.5, 5).interval
    assert (low, high) == pytest.approx((3 - 0.5 * 2.7764451, 3 + 0.5 * 2.7764451))


def test_welch_by_hand():
    """Variances 1 and 4 of three values each: a + b = 5 / 3, nu = (5/3)^2 / ((1/9 + 16/9) / 2)."""
    t, nu, p = welch([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert t == pytest.approx(-3 / math.sqrt(5 / 3))
    assert nu == pytest.approx(50 / 17)
    assert 0.10 < p < 0.12


def test_welch_of_equal_variances_and_sizes_is_student_s():
    """nu = n_u + n_v - 2, and p = 0.05 where t is the quantile at 95 %."""
    u = np.array([-1.0, 0.0, 1.0])
    shift = t_quantile(4) * math.sqrt(2 / 3)
    t, nu, p = welch(u + shift, u)
    assert (t, nu, p) == pytest.approx((t_quantile(4), 4, 0.05))


def test_welch_s_p_is_scipy_s():
    stats = pytest.importorskip("scipy.stats", reason="scikit-learn: SciPy comes with it")
    rng, furthest = np.random.default_rng(0), 0.0
    for n, m in ((2, 2), (2, 40), (3, 5), (10, 10), (10, 7), (300, 200)):
        for shift in (0.0, 1e-9, 0.3, 1.0, 4.0, 30.0):
            for scale in (0.01, 1.0, 50.0):
                u, v = rng.normal(shift, 1.0, n), rng.normal(0.0, scale, m)
                want = stats.ttest_ind(u, v, equal_var=False)
                t, nu, p = welch(u.tolist(), v.tolist())
                assert (t, nu) == pytest.approx((want.statistic, want.df), rel=1e-11)
                assert p == pytest.approx(want.pvalue, rel=1e-9, abs=1e-300)
                furthest = max(furthest, abs(p - want.pvalue))
    assert furthest < 1e-12


def test_welch_where_nothing_varies_and_where_it_cannot_test():
    assert welch([1.0, 1.0], [1.0, 1.0, 1.0]) == (0.0, 3.0, 1.0)
    assert welch([0.0, 0.0], [1.0, 1.0]) == (-math.inf, 2.0, 0.0)
    for u, v in (([1.0], [1.0, 2.0]), ([1.0, 2.0], []), ([1.0, math.nan], [1.0, 2.0])):
        with pytest.raises(ValueError, match="two finite values"):
            welch(u, v)


def test_incomplete_beta_at_its_closed_forms():
    """I_x(1, b) = 1 - (1 - x)^b, I_x(a, 1) = x^a, I_x(1/2, 1/2) an angle."""
    for x in (0.0, 1e-12, 0.1, 0.5, 0.9, 1 - 1e-9, 1.0):
        assert incomplete_beta(1, 3.5, x) == pytest.approx(1 - (1 - x) ** 3.5, abs=1e-14)
        assert incomplete_beta(2.5, 1, x) == pytest.approx(x**2.5, abs=1e-14)
        angle = math.atan2(math.sqrt(x), math.sqrt(1 - x))
        assert incomplete_beta(0.5, 0.5, x) == pytest.approx(2 / math.pi * angle, abs=1e-14)
    for wrong in ((0, 1, 0.5), (1, -1, 0.5), (1, 1, 1.5), (1, 1, math.nan)):
        with pytest.raises(ValueError, match="a > 0"):
            incomplete_beta(*wrong)
