"""Inputs of hw8's cases."""

import numpy as np


def _some(draw, high):
    """A length of 2 to high; 1 where the smallest sizes are asked for."""
    return 1 if draw.edge else draw.size(2, high)


def auc_value(draw):
    ones, zeros = (1, 1) if draw.edge else (draw.size(4, 8), draw.size(5, 10))
    y = draw.permutation(ones + zeros) < ones
    return {"scores": draw.normal(ones + zeros, scale=1.0) + 0.4 * y, "y": y.astype(np.int64)}


def auc_ties(draw):
    """Whole numbers; one pair at least is equal, and one is not."""
    ones, zeros = draw.size(4, 8), draw.size(5, 9)
    y = draw.permutation(ones + zeros) < ones
    scores = draw.integers(-2, 3, ones + zeros).astype(np.float64)
    one, zero = np.flatnonzero(y), np.flatnonzero(~y)
    scores[one[0]] = scores[zero[0]] = 1.0
    scores[one[1]], scores[zero[1]] = draw.choice([(2.0, 0.0), (2.0, 1.0), (1.0, -1.0)])
    return {"scores": scores, "y": y.astype(np.int64)}


def _documents(draw, n, D, heads=None):
    """n pairs of rows, y = 1 and y = 0, whose coordinates have different widths."""
    y = np.tile([1, 0], n)
    shape = (2 * n, D) if heads is None else (2 * n, heads, D)
    towards = draw.normal(*shape[1:], scale=0.8)
    widths = draw.uniform(0.4, 2.5, D)
    x = (draw.normal(*shape, scale=1.0) + y.reshape(-1, *[1] * (len(shape) - 1)) * towards) * widths
    return x + draw.normal(D, scale=1.0), y


def direction_mean(draw):
    x, y = _documents(draw, draw.size(2, 7), _some(draw, 5))
    order = draw.permutation(len(x))
    return {"x": x[order], "y": y[order]}


def direction_probe(draw):
    x, y = _documents(draw, draw.size(3, 8), _some(draw, 5))
    order = draw.permutation(len(x))
    return {"x": x[order], "y": y[order]}


def heads_by_mean(draw):
    """Questions are pairs of rows; a fold holds out whole questions."""
    folds = 2 if draw.edge else draw.size(2, 4)
    n = folds * draw.size(2, 3)
    x, y = _documents(draw, n, _some(draw, 3), heads=_some(draw, 4))
    fold = np.repeat(draw.permutation(n) % folds, 2)
    order = draw.permutation(2 * n)
    held = fold[None] == np.arange(folds)[:, None]
    return {"x": x[order], "y": y[order], "held": held[:, order].astype(np.int64)}


def heads_by_probe(draw):
    return heads_by_mean(draw)


def _steered(draw, H=0, D=0):
    H, D = H or _some(draw, 4), D or _some(draw, 5)
    theta = draw.normal(H, D, scale=1.0)
    sigma = draw.uniform(0.2, 2.0, H)
    if H > 1:
        sigma[draw.integers(0, H)] = 0.0  # a head that is not steered
    theta *= (sigma > 0)[:, None]
    return {
        "theta": theta,
        "sigma": sigma,
        "alpha": draw.choice([-1.0, 1.0]) * draw.uniform(2.0, 9.0),
    }


def shift_everywhere(draw):
    return _steered(draw)


def shift_from_answer(draw):
    """Positions are steered from one on, in each row another one; alpha is below 0, and H = D."""
    B, T = _some(draw, 4), draw.size(2, 6)
    first = draw.integers(0, T, B)
    here = np.arange(T) >= first[:, None]
    size = _some(draw, 4)
    made = _steered(draw, size, size)
    return {**made, "alpha": -abs(made["alpha"]), "here": here.astype(np.int64)}


def baked(draw):
    """W is square, so that a wrong order raises nothing."""
    made = _steered(draw)
    d = made["theta"].size
    return {
        **made,
        "W": draw.normal(d, d, scale=0.6),
        "b": draw.normal(d, scale=1.0),
        "x": draw.normal(_some(draw, 3), _some(draw, 4), d, scale=1.0),
    }


def baked_without_bias(draw):
    made = baked(draw)
    return {name: made[name] for name in made if name != "b"}


def mc2_share(draw):
    """Answers (Q, n), of which a question has the first `counts`, true and false ones."""
    Q, n = _some(draw, 5), draw.size(2, 6)
    counts = np.full(Q, n) if n == 2 else draw.integers(2, n + 1, Q)
    true = draw.integers(0, 2, Q, n)
    rows = np.arange(Q)
    yes = draw.integers(0, 2, Q)
    true[rows, yes], true[rows, 1 - yes] = 1, 0
    return {"scores": -draw.uniform(0.5, 9.0, Q, n), "true": true, "counts": counts}


def mc2_long_answers(draw):
    """Log-probabilities of which exp is 0, but for the first of several questions."""
    made = mc2_share(draw)
    down = draw.uniform(900.0, 1200.0, len(made["counts"]), 1)
    if len(down) > 1:
        down[0] = 5.0
    return {**made, "scores": made["scores"] - down}
