"""How the tests call your code: arrays in, arrays out, one function per test.

If you bring an engine of your own, write these functions anew: parameters and results stay.
"""

from types import SimpleNamespace

import numpy as np


def auc_value(scores, y):
    """The share of pairs, one row of each kind, in which the row with y = 1 scores higher.

    Shapes   scores (N,), y (N,) of 0 and 1
    Returns  auc, a number
    """
    from minipeft.methods.probes import auc

    return {"auc": auc(scores, y)}


def auc_ties(scores, y):
    """As `auc_value`, with equal scores among them."""
    return auc_value(scores, y)


def direction_mean(x, y):
    """From the mean of the rows with y = 0 to that of the rows with y = 1, as a unit vector.

    Shapes   x (N, D), y (N,) of 0 and 1
    Returns  theta (D,), and sigma, the deviation along it, a number
    """
    return _direction(x, y, "mean")


def direction_probe(x, y):
    """As `direction_mean`; theta is the direction of a logistic probe's weights, in units of x."""
    return _direction(x, y, "probe")


def _direction(x, y, kind):
    from minipeft.methods.probes import direction

    theta, sigma = direction(x, y, kind)
    return {"theta": theta, "sigma": sigma}


def heads_by_mean(x, y, held):
    """Each head read on held-out rows along the direction of the means of the others.

    Shapes   x (N, H, D), y (N,) of 0 and 1, held (folds, N), 1 where a fold holds a row out
    Returns  auc (H,), the mean over the folds
    """
    return {"auc": _read(x, y, held, "mean").auc}


def heads_by_probe(x, y, held):
    """Each head read on held-out rows by a logistic probe that was fitted on the others.

    Shapes   x (N, H, D), y (N,) of 0 and 1, held (folds, N), 1 where a fold holds a row out
    Returns  auc (H,) 0 to 1, accuracy (H,) in percent, nats (H,): means over the folds
    """
    return _read(x, y, held, "probe")._asdict()


def _read(x, y, held, kind):
    from minipeft.methods.probes import read_folds

    return read_folds(x, y, [part > 0 for part in held], kind)


def shift_everywhere(theta, sigma, alpha):
    """alpha sigma_h theta_h of each head, side by side.

    Shapes   theta (H, D), sigma (H,), alpha a number
    Returns  shift (H D,)
    """
    return {"shift": _part(theta, sigma, alpha).shift()}


def shift_from_answer(theta, sigma, alpha, here):
    """The same at the positions that are steered, 0 at the others.

    Shapes   theta (H, D), sigma (H,), alpha a number, here (B, T), 1 where a position is steered
    Returns  shift (B, T, H D)
    """
    return {"shift": _part(theta, sigma, alpha).shift(here > 0)}


def baked(theta, sigma, alpha, W, x, b=None):
    """The plain Linear that does at all positions what steering the input of W x + b does.

    Shapes   theta (H, D), sigma (H,), alpha a number, W (d_out, H D), x (B, T, H D), b (d_out,)
    Returns  W and b of that Linear, y (B, T, d_out), what it makes of x, and the base's W and b
             as they are after 1 was added in place to the new ones: base_W, and base_b if it has b
    """
    from minipeft.nn import Parameter

    part = _part(theta, sigma, alpha, np.array(W), None if b is None else np.array(b))
    made = part.merged()
    if not (isinstance(made.weight, Parameter) and isinstance(made.bias, Parameter)):
        raise TypeError("merged: Linear.of takes two Parameters, and one of these is none")
    y = made(x).data
    found = {"W": made.weight.data.copy(), "b": made.bias.data.copy(), "y": y}
    made.weight.data[...] += 1.0
    made.bias.data[...] += 1.0
    found["base_W"] = part.base.weight.data
    if b is not None:
        found["base_b"] = part.base.bias.data
    return found


def baked_without_bias(theta, sigma, alpha, W, x):
    """As `baked`, where the base has no bias: the merged part has one."""
    return baked(theta, sigma, alpha, W, x)


def _part(theta, sigma, alpha, W=None, b=None):
    """A steered Linear."""
    from minipeft.methods.steering import Steered, Steering
    from minipeft.nn import Linear, Parameter

    W = np.eye(theta.size) if W is None else W
    base = Linear.of(Parameter(W), None if b is None else Parameter(b))
    part = Steered(base, Steering(alpha=alpha, positions="all"), theta.shape,
                   SimpleNamespace(like=theta))  # fmt: skip
    part.theta, part.sigma, part.steers = theta, sigma, True
    return part


def mc2_share(scores, true, counts):
    """The mean over questions of the share of probability that lies on true answers, 0 to 100.

    Shapes   scores (Q, n) log-probabilities, true (Q, n) of 0 and 1, counts (Q,): of question q
             the first counts[q] entries are answers, the rest is nothing
    Returns  mc2, a number
    """
    from minipeft.generation.metrics import mc2

    with np.errstate(all="ignore"):
        rows = [list(row[:n]) for row, n in zip(scores, counts, strict=True)]
        marks = [[bool(t) for t in row[:n]] for row, n in zip(true, counts, strict=True)]
        return {"mc2": mc2(rows, marks)}


def mc2_long_answers(scores, true, counts):
    """As `mc2_share`; one question has them around -10, the others around -1000."""
    return mc2_share(scores, true, counts)
