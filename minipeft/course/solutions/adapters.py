"""05_adapters: a bottleneck, and one that undoes a rotation."""

import numpy as np

from minipeft.engine import fused


def bottleneck(x, W_down, b_down, W_up, b_up):
    """y = x + W_up gelu(W_down x + b_down) + b_up for each row of x.

    Shapes  x (T, d), W_down (r, d), b_down (r,), W_up (d, r), b_up (d,) -> (T, d)
    """
    z = x @ W_down.T + b_down  # (T, r)
    return x + fused.gelu(z) @ W_up.T + b_up


def undo(Q):
    """W_down and W_up with x + W_up gelu(W_down x) = Q.T x for every x: gelu(z) - gelu(-z) is z.

    Shapes  Q (d, d) with Q.T Q = 1 -> W_down (2d, d), W_up (d, 2d)
    """
    identity = np.eye(len(Q))
    change = Q.T - identity  # what must be added to x
    W_down = np.concatenate([identity, -identity])
    W_up = np.concatenate([change, -change], axis=1)
    return W_down, W_up
