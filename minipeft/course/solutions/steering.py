"""13_steering: the mean shift of a head, and a wrapper that lets a head lean."""

import numpy as np


def mean_shift(x, y):
    """theta, of length 1, from the mean of the rows with y = 0 to that of the rows with y = 1; and
    sigma, the standard deviation of all rows along theta.

    Shapes  x (N, D), y (N,) -> theta (D,), sigma a number
    """
    theta = x[y == 1].mean(0) - x[y == 0].mean(0)
    theta = theta / np.linalg.norm(theta)
    return theta, (x @ theta).std()


def leaning(o_proj, h, shift, first):
    """A function to put in place of o_proj: from position `first` on, `shift` is added to head h.

    Shapes  shift (D,); the function's x (B, T, H D), heads side by side -> o_proj of it (B, T, d)
    """
    D = len(shift)

    def forward(x):
        added = np.zeros(x.shape[1:], dtype=x.dtype)  # (T, H D)
        added[first:, h * D : (h + 1) * D] = shift
        return o_proj(x + added)

    return forward
