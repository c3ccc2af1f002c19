"""The inputs of the tests of homework 7."""

import numpy as np


def transform_values(draw):
    rows = 1 if draw.edge else draw.choice((2, 4))
    n = 1 if draw.edge else 1 << draw.integers(2, 7)
    return {"x": draw.normal(rows, n)}


def transform_long(draw):
    n = 1 if draw.edge else 1 << 14
    few = draw.size(1, 6)
    return {
        "n": n,
        "at": draw.permutation(n)[:few],
        "values": draw.normal(few),
        "look": draw.integers(0, n, draw.size(1, 60)),
    }


def _fastfood(draw):
    d, size = draw.size(1, 12), draw.size(1, 40)
    n = 1 << (max(d, size) - 1).bit_length()
    return {
        "z": draw.normal(d),
        "signs": 2.0 * draw.integers(0, 2, d) - 1,
        "order": draw.permutation(n),
        "scales": draw.normal(n),
        "size": size,
    }


def fastfood_forward(draw):
    return _fastfood(draw)


def fastfood_backward(draw):
    inputs = _fastfood(draw)
    return {**inputs, "g": draw.normal(inputs["size"])}


def _subspace(draw, scaled):
    tensors = 1 if draw.edge else draw.size(3, 5)
    rows = np.array([draw.size(1, 4) for _ in range(tensors)])
    columns = np.array([draw.size(1, 5) for _ in range(tensors)])
    D, d = int((rows * columns).sum()), draw.size(1, 6)
    m = tensors if scaled else 0
    groups = np.zeros(tensors, int)
    if tensors > 2:  # two share a factor, one factor is unused
        groups = (np.arange(tensors) + draw.integers(1, tensors - 1)) % (tensors - 1)
    return {
        "theta": draw.normal(D),
        "rows": rows,
        "columns": columns,
        "z": draw.normal(d),
        "P": draw.normal(D, d),
        "factors": 1 + draw.normal(m),
        "groups": groups,
    }


def subspace_forward(draw):
    return _subspace(draw, draw.choice((True, True, False)))


def subspace_backward(draw):
    inputs = _subspace(draw, not draw.edge)
    return {**inputs, "g": draw.normal(inputs["theta"].size)}


def top_mask(draw):
    scores = draw.normal(*((1, 1) if draw.edge else (draw.size(3, 6), draw.size(3, 7))))
    return {"scores": scores, "k": draw.integers(1, scores.size + 1)}


def top_equal(draw):
    # NumPy's sort keeps the order of equals in short arrays, stable or not
    shape = (1, 1) if draw.edge else (draw.size(8, 12), draw.size(14, 18))
    scores = draw.integers(-1, 2, *shape) / 4
    values, counts = np.unique(scores, return_counts=True)
    most = values[counts.argmax()]  # k falls among these
    k = int((scores > most).sum()) + (draw.integers(1, counts.max()) if counts.max() > 1 else 1)
    return {"scores": scores, "k": k}


def _masked(draw):
    n_out, n_in, n = draw.size(1, 5), draw.size(1, 6), draw.size(1, 4)
    return {
        "x": draw.normal(n, n_in),
        "W": draw.normal(n_out, n_in),
        "b": draw.normal(n_out),
        "S": draw.normal(n_out, n_in),
        "mask": draw.uniform(0, 1, n_out, n_in) < 0.5,
        "c": draw.uniform(2, 5),
    }


def masked_forward(draw):
    return _masked(draw)


def masked_backward(draw):
    inputs = _masked(draw)
    return {**inputs, "g": draw.normal(len(inputs["x"]), len(inputs["W"]))}


def schedule(draw):
    return {
        "first": draw.uniform(0.5, 1),
        "last": draw.uniform(0, 0.5),
        "t": draw.uniform(0, 1, draw.size(1, 20)),
        "warm": 0.0 if draw.edge else draw.uniform(0.1, 0.3),
        "cool": 0.0 if draw.edge else draw.uniform(0.1, 0.3),
    }


def movement_training(draw):
    n_out, n_in, n = draw.size(1, 4), draw.size(1, 6), draw.size(1, 9)
    return {
        "x": draw.normal(n, n_in, scale=1.0),
        "target": draw.normal(n, n_out, scale=1.0),
        "W": draw.normal(n_out, n_in),
        "b": draw.normal(n_out),
        "v": draw.uniform(0.2, 0.5),
        "warm": 0.0 if draw.edge else draw.uniform(0.1, 0.3),
        "cool": 0.0 if draw.edge else draw.uniform(0.1, 0.3),
        "c": draw.uniform(1, 3),
        "lr": draw.uniform(0.05, 0.2),
        "steps": draw.size(1, 12),
    }
