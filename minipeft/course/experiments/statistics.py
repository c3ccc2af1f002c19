"""The statistics of the course: paired differences with Student's t, and Welch's test.

Everything is computed here, so that the course needs no SciPy; the tests compare with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def t_quantile(freedom: int, share: float = 0.95) -> float:
    """How many standard errors of a mean hold the middle share of Student's t.

    The share within t is a finite sum in the angle arctan(t / sqrt(freedom)): Abramowitz and
    Stegun 26.7.3 and 26.7.4. It is inverted by bisection.
    """
    if freedom < 1 or not 0 < share < 1:
        raise ValueError(f"wanted freedom >= 1 and 0 < share < 1, got {freedom} and {share}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        c, total = math.cos(angle), 0.0
        term = c if freedom % 2 else 1.0
        for k in range(freedom % 2 + 1, freedom, 2):  # the powers of c up to freedom - 2
            total += term
            term *= c * c * k / (k + 1)
        within = math.sin(angle) * total
        if freedom % 2:
            within = 2 / math.pi * (angle + within)
        low, high = (angle, high) if within < share else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its standard error."""

    mean: float
    error: float
    n: int

    @property
    def held(self) -> bool:
        """Whether the first is larger, by more than twice the standard error, over >= 5 pairs."""
        return self.n >= 5 and self.mean > 2 * self.error

    @property
    def interval(self) -> tuple[float, float]:
        """The paired t interval at 95 %."""
        half = t_quantile(self.n - 1) * self.error
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        return f"{self.mean:+.2g} ± {self.error:.2g} over {self.n} pairs"


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """a - b, seed by seed."""
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"wanted two lists of the same length >= 2, got {len(a)} and {len(b)}")
    d = np.subtract(a, b)
    return Difference(float(d.mean()), float(d.std(ddof=1) / math.sqrt(len(d))), len(d))


def welch(u: Sequence[float], v: Sequence[float]) -> tuple[float, float, float]:
    """Welch's test that two means are the same, where the variances may differ: (t, nu, p).

    t = (mean u - mean v) / sqrt(a + b),  a = var(u) / n_u, b = var(v) / n_v, both with ddof = 1
    nu = (a + b)^2 / (a^2 / (n_u - 1) + b^2 / (n_v - 1))
    p = I_{nu / (nu + t^2)}(nu / 2, 1 / 2), two-sided

    The samples are not paired. Where neither varies, t is infinite and p is 0 if the means
    differ; if they are the same, nothing speaks for a difference: t = 0 and p = 1.
    Raises  ValueError for fewer than two values of either, or for NaN and infinity
    """
    if min(len(u), len(v)) < 2 or not np.isfinite([*u, *v]).all():
        raise ValueError("Welch's test needs two finite values at least of each sample, got "
                         f"{len(u)} and {len(v)}")  # fmt: skip
    a, b = (float(np.var(x, ddof=1)) / len(x) for x in (u, v))
    apart = float(np.mean(u) - np.mean(v))
    if a + b == 0:
        freedom = float(len(u) + len(v) - 2)
        return (math.copysign(math.inf, apart), freedom, 0.0) if apart else (0.0, freedom, 1.0)
    t = apart / math.sqrt(a + b)
    nu = (a + b) ** 2 / (a * a / (len(u) - 1) + b * b / (len(v) - 1))
    return t, nu, incomplete_beta(nu / 2, 0.5, nu / (nu + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    By its continued fraction (Abramowitz and Stegun 26.5.8), which converges fast below
    x = (a + 1) / (a + b + 2); above it stands 1 - I_{1 - x}(b, a).
    """
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError(f"wanted a > 0, b > 0 and 0 <= x <= 1, got {a}, {b} and {x}")
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    logs = a * math.log(x) + b * math.log1p(-x)
    front = math.exp(logs + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) / a
    tiny = 1e-300  # Lentz's method: the fraction's value as a product of ratios c d
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            c, d = 1 + term / c or tiny, 1 / (1 + term * d or tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return front * value
