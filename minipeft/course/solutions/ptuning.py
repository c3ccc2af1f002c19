"""07b_ptuning: a step of an LSTM, and pseudo-tokens in front of an anchor."""

import numpy as np


def lstm_cell(x, h, c, Wx, Wh, bx, bh):
    """One step: gates i, f, g, o in torch's order; c' = f c + i g and h' = o tanh(c').

    Shapes  x (d,), h and c (s,), Wx (4 s, d), Wh (4 s, s), bx and bh (4 s,) -> h', c', each (s,)
    """
    i, f, g, o = np.split(Wx @ x + bx + Wh @ h + bh, 4)
    i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
    c = f * c + i * np.tanh(g)
    return o * np.tanh(c), c


def put_before(ids, anchor, n, V):
    """The ids of a text with V, V + 1 … V + n - 1 before the last place where the anchor stands.

    ids and anchor are lists of ids; V is the size of the vocabulary  -> a list, n longer than ids
    """
    at = max(i for i in range(len(ids)) if ids[i : i + len(anchor)] == anchor)
    return ids[:at] + list(range(V, V + n)) + ids[at:]
