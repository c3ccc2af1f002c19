"""Inputs of homework 1's cases."""

import numpy as np


def unbroadcast_leading(draw):
    """`shape` lacks leading axes of g."""
    shape = [draw.size(1, 4) for _ in range(draw.integers(1, 3))]
    lead = [draw.size(1, 3) for _ in range(draw.integers(1, 3))]
    return {"g": draw.normal(*lead, *shape), "shape": np.array(shape)}


def unbroadcast_ones(draw):
    """Axes of length 1 between others, one leading axis."""
    full = [draw.size(1, 3), draw.size(1, 4), draw.size(1, 5), draw.size(1, 3)]
    shape = [1 if i == draw.choice((0, 2)) else n for i, n in enumerate(full[1:])]
    shape[1] = 1
    return {"g": draw.normal(*full), "shape": np.array(shape)}


def _away_from_zero(draw, *shape):
    return draw.uniform(0.5, 2.0, *shape) * (2 * draw.integers(0, 2, *shape) - 1)


def div_gradients(draw):
    shape = draw.size(1, 4), draw.size(1, 3)
    return {"a": draw.normal(*shape), "b": _away_from_zero(draw, *shape), "g": draw.normal(*shape)}


def div_broadcast(draw):
    n, m = draw.size(1, 4), draw.size(1, 3)
    shapes = [(n, m), (m,), (n, 1), (1, m)]
    a, b = draw.permutation(4)[:2]
    full = np.broadcast_shapes(shapes[a], shapes[b])
    return {"a": draw.normal(*shapes[a]), "b": _away_from_zero(draw, *shapes[b]),
            "g": draw.normal(*full)}  # fmt: skip


def _linear(draw, *lead):
    n_in, n_out = draw.size(1, 6), draw.size(1, 5)
    return {"x": draw.normal(*lead, n_in), "W": draw.normal(n_out, n_in), "b": draw.normal(n_out),
            "g": draw.normal(*lead, n_out)}  # fmt: skip


def linear_rows(draw):
    return _linear(draw, draw.size(1, 4))


def linear_batch(draw):
    return _linear(draw, draw.size(1, 3), draw.size(2, 4))


def _softmax(draw):
    shape = draw.size(1, 3), draw.size(2, 5), draw.size(1, 4)
    return {"x": draw.normal(*shape, scale=1.5), "axis": draw.choice((1, -2))}


def softmax_value(draw):
    """One entry is large: exp of it would overflow."""
    found = _softmax(draw)
    found["x"][0, 0] += 2000
    return found


def softmax_gradient(draw):
    found = _softmax(draw)
    return {**found, "g": draw.normal(*found["x"].shape)}


def layer_norm_gradients(draw):
    lead, n = (draw.size(1, 3), draw.size(1, 3)), draw.size(3, 7)
    x = draw.normal(*lead, n, scale=1.0) + draw.normal(1)
    return {"x": x, "w": 1 + draw.normal(n), "b": draw.normal(n), "eps": 1e-3,
            "g": draw.normal(*lead, n)}  # fmt: skip


def graph_gradients(draw):
    """A graph in which value i is a weighted sum of earlier ones; some are used near and far."""
    leaves = draw.size(2, 4)
    n = leaves + draw.size(4, 8)
    weights = draw.normal(n, n, scale=0.7) * draw.integers(0, 2, n, n)
    for i in range(leaves, n):
        weights[i, i:] = 0
        weights[i, i - 1] = draw.uniform(0.5, 1.0)  # a chain, so that all are used
        weights[i, draw.integers(0, leaves)] += draw.uniform(0.5, 1.0)
    weights[:leaves] = 0
    return {"leaves": draw.normal(leaves), "weights": weights}


def deep_gradient(draw):
    return {"x": draw.normal(3), "n": draw.size(5_000, 20_000), "g": draw.normal(3)}
