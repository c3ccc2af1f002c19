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


def folded_bare(draw):
    W = draw.normal(_some(draw, 6), _some(draw, 5), scale=0.5)
    return {
        "W": W,
        "l_out": draw.uniform(0.3, 1.9, W.shape[0]),
        "l_in": draw.uniform(0.3, 1.9, W.shape[1]),
    }


def unlikely(draw):
    n, v = _some(draw, 5), draw.size(2, 7)
    return {
        "logits": draw.normal(n, v, scale=1.5),
        "tokens": draw.integers(0, v, n),
        "g": draw.normal(n, scale=1.0),
    }


def unlikely_sure(draw):
    """The first row's token is not sure, the last one's is so sure that the others' p is 0."""
    n, v = draw.size(3, 5), draw.size(2, 7)
    logits, tokens = draw.normal(n, v, scale=1.5), draw.integers(0, v, n)
    sure = np.array([0.0, *draw.uniform(40.0, 60.0, n - 2), 800.0])
    logits[np.arange(n), tokens] += sure
    return {"logits": logits, "tokens": tokens, "g": draw.normal(n, scale=1.0)}


def _options(draw, absent=False, alone=False):
    """Lengths (B, K) of options, the right ones, and of each token its option.

    alone  the last example has its right option only
    """
    B, K = _some(draw, 4) + 2 * (alone and not draw.edge), draw.size(2, 5)
    lengths = draw.integers(1, 5, B, K)
    labels = draw.integers(0, K, B)
    if absent:
        gone = draw.uniform(0.0, 1.0, B, K) < 0.5
        gone[0, (labels[0] + 1) % K] = True
        gone[np.arange(B), labels] = False
        lengths = np.where(gone, 0, lengths)
    if alone and B > 1:
        lengths[-1] = np.where(np.arange(K) == labels[-1], lengths[-1], 0)
    return lengths, labels, np.repeat(np.arange(B * K), lengths.reshape(-1))


def mean_of_examples(draw):
    return _means(draw, wrong=True)


def _means(draw, wrong):
    """The wrong options are meant, and the last of several examples has none; or the right ones."""
    lengths, labels, option = _options(draw, absent=draw.choice([True, False]), alone=True)
    which = (np.arange(lengths.shape[1]) == labels[:, None]) != wrong
    return {
        "values": draw.normal(len(option), scale=1.0),
        "option": option,
        "which": which.astype(np.int64),
        "lengths": lengths,
        "together": False,
        "g": draw.uniform(0.5, 2.0),
    }


def mean_together(draw):
    return {**_means(draw, wrong=draw.choice([True, False])), "together": True}


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
    """Of options so unlikely that exp gives 0 for all."""
    made = calibrate_scale(draw)
    return {**made, "free": made["free"] - 1000.0}


def calibrate_least(draw):
    """One option has next to no probability without content."""
    made = calibrate_scale(draw)
    made["free"][:, int(draw.integers(0, made["free"].shape[1], 1)[0])] -= 80.0
    return made
