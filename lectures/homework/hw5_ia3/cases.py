"""Inputs of hw5's cases."""

import numpy as np


def _some(draw, high):
    """A length of 2 to high; 1 where the smallest sizes are asked for."""
    return 1 if draw.edge else draw.size(2, high)


def ia3_output(draw):
    return _linear(draw, reads=False)


def ia3_input(draw):
    return _linear(draw, reads=True)


def _linear(draw, reads):
    """Often with d_in = d_out, where the wrong side raises nothing."""
    d_in = _some(draw, 5)
    d_out = d_in if draw.choice([True, True, True, False]) else _some(draw, 6)
    lead = (_some(draw, 3), _some(draw, 4))
    return {
        "x": draw.normal(*lead, d_in, scale=1.0),
        "W": draw.normal(d_out, d_in, scale=0.5),
        "b": draw.normal(d_out, scale=0.7),
        "l": draw.uniform(0.3, 1.9, d_in if reads else d_out),
        "g": draw.normal(*lead, d_out, scale=1.0),
    }


def folded_output(draw):
    return _weight(draw, reads=False)


def folded_input(draw):
    return _weight(draw, reads=True)


def _weight(draw, reads):
    made = _linear(draw, reads)
    return {name: made[name] for name in ("W", "b", "l")}


def unlikely(draw):
    n, v = _some(draw, 5), draw.size(2, 7)
    return {
        "logits": draw.normal(n, v, scale=1.5),
        "tokens": draw.integers(0, v, n),
        "g": draw.normal(n, scale=1.0),
    }


def unlikely_sure(draw):
    """Some tokens are all but certain."""
    made = unlikely(draw)
    rows = np.arange(len(made["tokens"]))
    made["logits"][rows, made["tokens"]] += draw.uniform(40.0, 60.0, len(rows))
    return made


def _options(draw, absent=False):
    """Lengths (B, K) of options, the right ones, and of each token its option."""
    B, K = _some(draw, 4), draw.size(2, 5)
    lengths = draw.integers(1, 5, B, K)
    labels = draw.integers(0, K, B)
    if absent:
        gone = draw.uniform(0.0, 1.0, B, K) < 0.5
        gone[0, (labels[0] + 1) % K] = True
        gone[np.arange(B), labels] = False
        lengths = np.where(gone, 0, lengths)
    return lengths, labels, np.repeat(np.arange(B * K), lengths.reshape(-1))


def mean_of_examples(draw):
    lengths, labels, option = _options(draw, absent=draw.choice([True, False]))
    which = np.arange(lengths.shape[1]) == labels[:, None]
    if draw.choice([True, True, False]):
        which = ~which
    return {
        "values": draw.normal(len(option), scale=1.0),
        "option": option,
        "which": which.astype(np.int64),
        "lengths": lengths,
        "together": False,
        "g": draw.uniform(0.5, 2.0),
    }


def mean_together(draw):
    return {**mean_of_examples(draw), "together": True}


def ranked_options(draw):
    lengths, labels, option = _options(draw)
    return {
        "said": -draw.uniform(0.05, 3.0, len(option)),
        "option": option,
        "lengths": lengths,
        "labels": labels,
        "g": draw.uniform(0.5, 2.0),
    }


def ranked_absent(draw):
    lengths, labels, option = _options(draw, absent=True)
    return {**ranked_options(draw), "said": -draw.uniform(0.05, 3.0, len(option)),
            "option": option, "lengths": lengths, "labels": labels}  # fmt: skip


def calibrate_scale(draw):
    inputs, n = _some(draw, 4), draw.size(2, 5)
    return {
        "free": draw.normal(inputs, n, scale=1.5) - 6.0,
        "scores": draw.normal(_some(draw, 5), n, scale=1.5) - 6.0,
    }


def calibrate_shift(draw):
    return calibrate_scale(draw)
