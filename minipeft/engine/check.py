"""Gradient checks: is the derivative that backward computes the derivative of the function?

A check against central differences in float64, with a random cotangent (a cotangent of ones
is blind: softmax with its derivative set to zero passes it) and random directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minipeft.backend import Rng, is_array, to_numpy, xp_of
from minipeft.engine.tensor import Tensor, no_grad, running


class GradError(AssertionError):
    """A gradient that disagrees with its finite difference."""


def grad_check(
    f: Callable[..., Tensor],
    *inputs: Any,
    params: Iterable[Tensor] = (),
    seed: int = 0,
    eps: float = 1e-5,
    tol: float = 1e-8,
    directions: int = 3,
) -> float:
    """Check the gradients of f(*inputs) for its float inputs and for `params`.

    |difference quotient - <gradient, direction>| <= tol (1 + |<gradient, direction>|), for a
    random cotangent of norm 1 and, per input and parameter, random directions of norm 1.
    Shapes  inputs: arrays or Tensors of any shape, float64; integer arrays are passed on
    Returns the largest error found
    Raises  GradError that names the worst element, both values and their ratio, or says that f
            or a gradient is not finite; RuntimeError if f writes to an array that it used before
    """
    args = [_as_input(x) for x in inputs]
    leaves = [(f"input {i}", a) for i, a in enumerate(args) if isinstance(a, Tensor)]
    leaves += [(f"parameter {i}", p) for i, p in enumerate(params)]
    if not leaves:
        raise ValueError("grad_check has nothing to check: no float input and no parameter")
    for name, leaf in leaves:
        if leaf.dtype != np.float64:
            raise TypeError(f"grad_check needs float64, {name} is {leaf.dtype}")
        if not leaf.requires_grad:
            raise ValueError(f"{name}, shape {leaf.shape}, is frozen: pass only what trains")
    rng = Rng(seed, "grad_check")
    found: dict[int, Any] = {}  # not in .grad: an optimizer that comes later must not find them
    with running(check=True):
        y = f(*args)
        if not isinstance(y, Tensor):
            raise TypeError(f"grad_check needs an f that returns a Tensor, got {type(y).__name__}")
        if y.dtype != np.float64:
            raise TypeError(f"grad_check needs float64, f returned {y.dtype}")
        _need_finite("the value of f", y.data)
        cotangent = xp_of(y.data).asarray(_unit(rng, y.shape))
        y.backward(cotangent, into=found)
    gradients = [found.get(id(t), xp_of(t.data).zeros(t.shape)) for _, t in leaves]

    def value() -> float:  # <cotangent, f>
        with no_grad():
            return float((f(*args).data * cotangent).sum())

    worst = 0.0
    for (name, leaf), gradient in zip(leaves, gradients, strict=True):
        _need_finite(f"the gradient of {name}", gradient)
        for _ in range(directions):
            direction = xp_of(leaf.data).asarray(_unit(rng, leaf.shape))
            expected = _difference(value, leaf, direction, eps)
            got = float((gradient * direction).sum())
            error = abs(expected - got)
            worst = max(worst, error / (1 + abs(got)))
            if not error <= tol * (1 + abs(got)):
                raise GradError(_explain(name, leaf, to_numpy(gradient), value, eps, error))
    return worst


def _need_finite(name: str, array: Any) -> None:
    a = to_numpy(array)
    bad = np.argwhere(~np.isfinite(a))
    if len(bad):
        index = tuple(bad[0].tolist())
        raise GradError(f"{name}, shape {a.shape}, is {a[index]} at {index}: {len(bad)} of "
                        f"{a.size} elements are not finite")  # fmt: skip


def _as_input(x: Any) -> Any:
    if isinstance(x, Tensor):
        x = x.data
    x = np.asarray(x, dtype=np.float64) if isinstance(x, (float, list)) else x
    x = np.asarray(x) if isinstance(x, np.floating) else x
    return Tensor(x, requires_grad=True) if is_array(x) and x.dtype.kind == "f" else x


def _unit(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """A random array of norm 1, or an empty one."""
    v = np.asarray(rng.normal(shape))
    return np.asarray(v / math.sqrt(float((v * v).sum()))) if v.size else v


def _difference(value: Callable[[], float], leaf: Tensor, step: Any, eps: float) -> float:
    """(F(x + eps step) - F(x - eps step)) / (2 eps); the leaf is put back."""
    kept = leaf.data
    try:
        leaf.data = kept + eps * step
        above = value()
        leaf.data = kept - eps * step
        return (above - value()) / (2 * eps)
    finally:
        leaf.data = kept


def _explain(
    name: str, leaf: Tensor, gradient: np.ndarray, value: Callable[[], float], eps: float,
    error: float,
) -> str:  # fmt: skip
    """Find the worst element: halve the suspects down to 64, then look at each."""
    signs = Rng(0, "explain").sign(gradient.size)

    def both(where: np.ndarray) -> tuple[float, float]:  # <gradient, step>, difference quotient
        step = np.zeros(gradient.size)
        step[where] = signs[where] / math.sqrt(len(where))
        step = step.reshape(leaf.shape)
        quotient = _difference(value, leaf, xp_of(leaf.data).asarray(step), eps)
        return float((gradient * step).sum()), quotient

    def wrong(where: np.ndarray) -> float:
        found, expected = both(where)
        error = abs(found - expected)
        return math.inf if math.isnan(error) else error  # f is not finite nearby

    suspects = np.arange(gradient.size)
    while len(suspects) > 64:
        suspects = max(np.array_split(suspects, 2), key=wrong)
    i = int(max(suspects, key=lambda i: wrong(np.array([i]))))
    found, expected = (float(v * signs[i]) for v in both(np.array([i])))
    index = tuple(int(k) for k in np.unravel_index(i, leaf.shape))
    ratio = f"{found / expected + 0.0:.6g}" if expected else "infinite"
    return (
        f"the gradient of {name}, shape {leaf.shape}, is wrong (error {error:.3g} along a random "
        f"direction). Worst element {index}: backward gives {found:.9g}, the difference quotient "
        f"{expected:.9g}, ratio {ratio}. (A ratio of 2, -1, 0 or 1/N is usually a factor, a sign, "
        "a missing term or a missing sum.)"
    )


def kink_free(draw: Callable[[int], Any], distance: Callable[[Any], Any], tries: int = 100) -> Any:
    """Redraw an input until every `distance(input)` to a kink exceeds 1e-3."""
    for attempt in range(tries):
        x = draw(attempt)
        if (np.abs(distance(x)) > 1e-3).all():
            return x
    raise ValueError(f"no input away from a kink in {tries} draws; use fewer elements")
