"""Fused operations, and the plain ones that are easy to get wrong, against torch."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, fused, ops

X = Rng(0).normal((2, 5, 12))
Y = Rng(1).normal((2, 5, 12))
W = Rng(2).normal((12,))
IDS = Rng(3).integers(0, 7, (2, 5))
LABELS = np.array([[3, -100, 0, 11, 3], [1, 1, -100, 5, 2]])
MASK = np.array([[True] * 5, [True, True, True, True, False]])


def heads(t):  # (B, T, C) -> (B, 3, T, 4)
    return t.reshape(*t.shape[:2], 3, 4).swapaxes(1, 2)


def attend(torch, q, k, v, mask=None, causal=False):
    F = torch.nn.functional
    y = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), mask, is_causal=causal)
    return y.swapaxes(1, 2).reshape(q.shape)


def past_mask(torch):  # 5 queries after 3 keys
    return torch.ones(5, 8, dtype=torch.bool).tril(3)


def longer(x):
    return np.concatenate([x[:, :3] * 0.5, x], axis=1)


CASES = {
    "linear": (
        lambda x, w, b: fused.linear(x, w, b),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        (X, Rng(4).normal((7, 12)), Rng(5).normal((7,))),
    ),
    "layer_norm": (
        lambda x, w, b: fused.layer_norm(x, w, b, eps=1e-3),
        lambda t, x, w, b: t.nn.functional.layer_norm(x, (12,), w, b, 1e-3),
        (X, W, Rng(5).normal((12,))),
    ),
    "gelu": (fused.gelu, lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), (X,)),
    "gelu_erf": (fused.gelu_erf, lambda t, x: t.nn.functional.gelu(x), (X,)),
    "softmax": (lambda x: fused.softmax(x, axis=1), lambda t, x: x.softmax(1), (X,)),
    "log_softmax": (fused.log_softmax, lambda t, x: x.log_softmax(-1), (X,)),
    "attention": (
        lambda q, k, v: fused.attention(q, k, v, heads=3, causal=False),
        lambda t, q, k, v: attend(t, q, k, v),
        (X, Y, X + Y),
    ),
    "attention, causal": (
        lambda q, k, v: fused.attention(q, k, v, heads=3, causal=True),
        lambda t, q, k, v: attend(t, q, k, v, causal=True),
        (X, Y, X + Y),
    ),
    "attention, padded": (
        lambda q, k, v: fused.attention(q, k, v, heads=3, causal=False, mask=MASK),
        lambda t, q, k, v: attend(t, q, k, v, t.from_numpy(MASK)[:, None, None]),
        (X, Y, X + Y),
    ),
    "attention, causal after a past": (
        lambda q, k, v: fused.attention(q, k, v, heads=3, causal=True),
        lambda t, q, k, v: attend(t, q, k, v, past_mask(t)),
        (X, longer(Y), longer(X + Y)),
    ),
    "embedding": (
        lambda w: fused.embedding(w, IDS),
        lambda t, w: t.nn.functional.embedding(t.from_numpy(IDS), w),
        (Rng(4).normal((7, 12)),),
    ),
    "cross_entropy": (
        lambda x: fused.cross_entropy(x, LABELS),
        lambda t, x: t.nn.functional.cross_entropy(x.reshape(-1, 12), t.from_numpy(LABELS.ravel())),
        (X,),
    ),
    "cross_entropy, smoothed": (
        lambda x: fused.cross_entropy(x, LABELS, smoothing=0.2),
        lambda t, x: t.nn.functional.cross_entropy(
            x.reshape(-1, 12), t.from_numpy(LABELS.ravel()), label_smoothing=0.2
        ),
        (X,),
    ),
    "var": (lambda x: ops.var(x, axis=1, ddof=1), lambda t, x: x.var(1), (X,)),
    "max": (lambda x: ops.max(x, axis=2), lambda t, x: x.amax(2), (X,)),
    "cumsum": (lambda x: ops.cumsum(x, axis=1), lambda t, x: x.cumsum(1), (X,)),
    "erf": (ops.erf, lambda t, x: t.erf(x), (X,)),
    "power": (lambda x, p: ops.pow(abs(x) + 0.5, p), lambda t, x, p: (abs(x) + 0.5) ** p, (X, W)),
    "rows, some twice": (
        lambda x: x[:, np.array([0, 3, 3])],
        lambda t, x: x[:, t.tensor([0, 3, 3])],
        (X,),
    ),
    "matmul": (lambda a, b: a @ b, lambda t, a, b: a @ b, (X[:, None], Rng(4).normal((3, 12, 2)))),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(torch, name):
    mine, theirs, arrays = CASES[name]
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    others = [torch.from_numpy(a).requires_grad_() for a in arrays]
    y, z = mine(*ours), theirs(torch, *others)
    assert np.allclose(y.data, z.detach().numpy(), rtol=1e-12, atol=1e-13)
    g = Rng(8).normal(y.shape)
    y.backward(np.asarray(g))
    z.backward(torch.tensor(g, dtype=torch.float64))
    for a, b in zip(ours, others, strict=True):
        assert np.allclose(a.grad, b.grad.numpy(), rtol=1e-11, atol=1e-12)
