"""Random graphs of operations: the same values and gradients as torch's."""

import numpy as np
import pytest

from minipeft.engine import Tensor
from tests import graphs


class Torch:
    """What the graphs ask of a library, by torch."""

    def __init__(self, torch):
        self.torch = torch

    def __getattr__(self, name):
        """Those of one name and one meaning: exp, tanh, …"""
        return getattr(self.torch, name)

    def array(self, a):
        return self.torch.from_numpy(np.array(a, order="C"))

    # -- elementwise

    def clip(self, x, low, high):
        return x.clamp(low, high)

    def softplus(self, x):
        return self.torch.nn.functional.softplus(x, threshold=1000)

    def gelu(self, x):
        return self.torch.nn.functional.gelu(x, approximate="tanh")

    def gelu_erf(self, x):
        return self.torch.nn.functional.gelu(x)

    # -- reductions: torch reduces everything for an empty tuple, and names the axes dim

    def sum(self, x, axis=None, keepdims=False):
        return x.sum(dim=every(x, axis), keepdim=keepdims) if x.ndim else x * 1

    def mean(self, x, axis=None, keepdims=False):
        return x.mean(dim=every(x, axis), keepdim=keepdims) if x.ndim else x * 1

    def var(self, x, axis=None, keepdims=False):
        centred = x - self.mean(x, axis, True)
        return self.mean(centred * centred, axis, keepdims)

    def max(self, x, axis=None, keepdims=False):
        return x.amax(dim=every(x, axis), keepdim=keepdims) if x.ndim else x * 1

    def min(self, x, axis=None, keepdims=False):
        return -self.max(-x, axis, keepdims)

    def logsumexp(self, x, axis=None, keepdims=False):
        return x.logsumexp(dim=every(x, axis), keepdim=keepdims) if x.ndim else x * 1

    def norm(self, x, axis=None, keepdims=False):
        return (x * x).sum(dim=every(x, axis), keepdim=keepdims).sqrt() if x.ndim else x.abs()

    def prod(self, x, axis=None, keepdims=False):
        for a in every(x, axis) if x.ndim else ():
            x = x.prod(dim=a, keepdim=True)
        return x if keepdims or not x.ndim else x.squeeze(every(x, axis))

    def cumsum(self, x, axis):
        return x.cumsum(axis)

    def softmax(self, x, axis):
        return x.softmax(axis)

    def log_softmax(self, x, axis):
        return x.log_softmax(axis)

    # -- shapes

    def reshape(self, x, shape):
        return x.reshape(shape)

    def transpose(self, x, axes):
        return x.permute(axes)

    def swapaxes(self, x, a, b):
        return x.swapaxes(a, b)

    def squeeze(self, x, axis):
        return x.squeeze() if axis is None else x.squeeze(axis)

    def expand_dims(self, x, axis):
        return x.unsqueeze(axis)

    def broadcast_to(self, x, shape):
        return x.expand(shape)

    def pad(self, x, widths, value):
        flat = [n for pair in widths[::-1] for n in pair]
        return self.torch.nn.functional.pad(x, flat, value=value)

    def flip(self, x, axis):
        return x.flip(axis)

    def roll(self, x, shift, axis):
        return x.roll(shift, axis)

    def repeat(self, x, repeats, axis):
        return x.repeat_interleave(repeats, dim=axis)

    def tril(self, x, k):
        return x.tril(k)

    # -- indexing and joining

    def getitem(self, x, index):
        """torch has no slices that go down: what stands where is asked of NumPy."""
        where = np.arange(x.numel()).reshape(tuple(x.shape))[index]
        return x.reshape(-1)[self.torch.from_numpy(np.array(where))]

    def concatenate(self, xs, axis=0):
        return self.torch.cat(list(xs), dim=axis)

    def stack(self, xs, axis):
        return self.torch.stack(list(xs), dim=axis)

    def split(self, x, sections, axis):
        return self.torch.tensor_split(x, sections, dim=axis)

    # -- fused

    def linear(self, x, w):
        return x @ w.T

    def layer_norm(self, x, w, b):
        return self.torch.nn.functional.layer_norm(x, w.shape, w, b)

    def embedding(self, x, ids):
        return x[ids]

    def cross_entropy(self, x, labels):
        return self.torch.nn.functional.cross_entropy(x, labels)

    def attention(self, q, k, v, heads, causal):
        def split(x):  # (B, H, T, D)
            return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

        seen = self.torch.ones(q.shape[1], k.shape[1], dtype=self.torch.bool)
        seen = seen.tril(k.shape[1] - q.shape[1]) if causal else seen
        y = self.torch.nn.functional.scaled_dot_product_attention(
            split(q), split(k), split(v), seen
        )
        return y.swapaxes(1, 2).reshape(q.shape)


def every(x, axis):
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(a % x.ndim for a in axes)


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(6000), marks=pytest.mark.full)])
def test_values_and_gradients_are_those_of_torch(torch, seeds):
    for seed in seeds:
        graph = graphs.draw(seed)
        ours = [Tensor(a.copy(), requires_grad=True) for a in graph.leaves]
        theirs = [torch.tensor(a, requires_grad=True) for a in graph.leaves]
        try:
            made = graphs.values(graph, graphs.OURS, ours)
            other = graphs.values(graph, Torch(torch), theirs)
            for a, b in zip(made, other, strict=True):
                np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-9, atol=1e-11)
            made[-1].backward(np.ones(made[-1].shape))
            other[-1].backward(torch.ones_like(other[-1]))
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-10)
        except Exception as error:
            raise AssertionError(f"graph {seed}\n{graph}\n{error}") from error
