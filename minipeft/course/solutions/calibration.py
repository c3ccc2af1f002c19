"""03b_calibration: contextual calibration by hand, and how far the answers follow the examples."""

import numpy as np


def calibrate(scores, free, form):
    """q of each option: what a question's options get, less what no content gets.

    scores and free are log-probabilities; form is "scale" (W = 1 / p_cf) or "shift" (b = -p_cf).
    Shapes  scores (questions, n), free (inputs, n) -> (questions, n)
    """
    p = np.exp(scores)
    p = p / p.sum(1, keepdims=True)  # of each question: normalized
    p_cf = np.exp(free).mean(0)  # first the mean over the inputs,
    p_cf = np.maximum(p_cf / p_cf.sum(), 1e-12)  # then normalized, once
    return p / p_cf if form == "scale" else p - p_cf


def biases(answers, labels):
    """Recency: the share of answers that are the last example's label. Majority: the share that
    are the commonest label of the examples, of the contexts that have one.

    Shapes  answers (contexts, questions) of 0 and 1, labels (contexts, k) of 0 and 1 -> two shares
    """
    recency = np.mean(answers == labels[:, -1:])
    ones = labels.mean(1)
    uneven = ones != 0.5
    commonest = (ones[uneven] > 0.5)[:, None]
    return recency, np.mean(answers[uneven] == commonest)
