"""All operations against torch: values and gradients, in two precisions, and at their edges."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, einsum, fused, ops, variants

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


def attend_in_groups(torch, q, k, v):
    q, k, v = (x.reshape(*x.shape[:2], -1, 2).swapaxes(1, 2) for x in (q, k, v))
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return y.swapaxes(1, 2).reshape(*X.shape)


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
    "attention, heads that share keys": (
        lambda q, k, v: fused.attention(q, k, v, heads=6, causal=True),
        lambda t, q, k, v: attend_in_groups(t, q, k, v),
        (X, Y[:, :, :4], (X + Y)[:, :, :4]),
    ),
    "rms_norm": (
        lambda x, w: variants.rms_norm(x, w, eps=1e-3),
        lambda t, x, w: t.nn.functional.rms_norm(x, (12,), w, 1e-3),
        (X, W),
    ),
    "swiglu": (variants.swiglu, lambda t, a, b: t.nn.functional.silu(a) * b, (X, Y)),
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
    "matmul of vectors": (lambda a, b: a @ b, lambda t, a, b: a @ b, (W, W[::-1].copy())),
    "add": (lambda a, b: a + b, lambda t, a, b: a + b, (X, W)),
    "sub": (lambda a, b: a - b, lambda t, a, b: a - b, (X, Y[:1])),
    "mul": (lambda a, b: a * b, lambda t, a, b: a * b, (X, W)),
    "div": (lambda a, b: a / (abs(b) + 1), lambda t, a, b: a / (abs(b) + 1), (X, W)),
    "neg, abs": (lambda x: -abs(x), lambda t, x: -abs(x), (X,)),
    "rpow": (lambda x: 2.5**x, lambda t, x: 2.5**x, (X,)),
    **{
        f"power {p}": (lambda x, p=p: (abs(x) + 0.1) ** p,
                       lambda t, x, p=p: (abs(x) + 0.1) ** p, (X,))
        for p in (0, 1, 2, 3, 4, -1, 0.5, 2.5)
    },
    **{
        name: (getattr(ops, name), lambda t, x, name=name: getattr(t, name)(x), (X,))
        for name in ("exp", "expm1", "sin", "cos", "tanh", "sigmoid", "relu")
    },
    **{
        name: (lambda x, name=name: getattr(ops, name)(abs(x) + 0.1),
               lambda t, x, name=name: getattr(t, name)(abs(x) + 0.1), (X,))
        for name in ("log", "log1p", "sqrt")
    },
    "softplus": (ops.softplus, lambda t, x: t.nn.functional.softplus(x), (X,)),
    "silu": (ops.silu, lambda t, x: t.nn.functional.silu(x), (X,)),
    "maximum": (ops.maximum, lambda t, a, b: t.maximum(a, b), (X, Y)),
    "minimum": (ops.minimum, lambda t, a, b: t.minimum(a, b), (X, W)),
    "where": (lambda a, b: ops.where(X > 0, a, b),
              lambda t, a, b: t.where(t.from_numpy(X > 0), a, b), (X, W)),
    "clip": (lambda x: x.clip(-0.5, 0.7), lambda t, x: x.clip(-0.5, 0.7), (X,)),
    "sum": (lambda x: x.sum(axis=(0, -1)), lambda t, x: x.sum((0, -1)), (X,)),
    "mean": (lambda x: x.mean(axis=1, keepdims=True), lambda t, x: x.mean(1, keepdim=True), (X,)),
    "std": (lambda x: x.std(axis=(1, 2)), lambda t, x: x.std((1, 2), correction=0), (X,)),
    "std of a constant": (lambda x: (x * 0 + 2).std(axis=1) + x[:, 0],
                          lambda t, x: (x * 0 + 2).std(1, correction=0) + x[:, 0], (X,)),
    "norm": (lambda x: x.norm(axis=2), lambda t, x: t.linalg.vector_norm(x, dim=2), (X,)),
    "norm of 0": (lambda x: (x * 0).norm() + x.sum(), lambda t, x: (x * 0).norm() + x.sum(), (X,)),
    "prod": (lambda x: x.prod(axis=1), lambda t, x: x.prod(1), (X,)),
    "prod with zeros": (lambda x: (x * (abs(X) > 0.2)).prod(axis=1),
                        lambda t, x: (x * t.from_numpy(abs(X) > 0.2)).prod(1), (X,)),
    "logsumexp": (lambda x: x.logsumexp(axis=(0, 1)), lambda t, x: x.logsumexp((0, 1)), (X,)),
    "min": (lambda x: ops.min(x, axis=(0, 1)), lambda t, x: x.amin((0, 1)), (X,)),
    "max of equals": (lambda x: ops.max(x * 0, axis=1) + x[:, 0],
                      lambda t, x: (x * 0).amax(1) + x[:, 0], (X,)),
    "cumsum of all": (lambda x: x.cumsum(), lambda t, x: x.reshape(-1).cumsum(0), (X,)),
    "reshape": (lambda x: x.reshape(10, -1), lambda t, x: x.reshape(10, -1), (X,)),
    "transpose": (lambda x: x.transpose(2, 0, 1), lambda t, x: x.permute(2, 0, 1), (X,)),
    "swapaxes": (lambda x: x.swapaxes(0, -1), lambda t, x: x.swapaxes(0, -1), (X,)),
    "squeeze": (lambda x: x[:1].squeeze(0), lambda t, x: x[:1].squeeze(0), (X,)),
    "expand_dims": (lambda x: x.expand_dims(1), lambda t, x: x.unsqueeze(1), (X,)),
    "broadcast_to": (lambda x: ops.broadcast_to(x, shape=(3, 2, 12)),
                     lambda t, x: t.broadcast_to(x, (3, 2, 12)), (W,)),
    "pad": (lambda x: ops.pad(x, widths=((0, 0), (1, 2), (3, 0)), value=2.0),
            lambda t, x: t.nn.functional.pad(x, (3, 0, 1, 2), value=2.0), (X,)),
    "flip": (lambda x: x.flip((0, 2)), lambda t, x: x.flip((0, 2)), (X,)),
    "roll": (lambda x: x.roll((3, -1), (2, 1)), lambda t, x: x.roll((3, -1), (2, 1)), (X,)),
    "roll of all": (lambda x: x.roll(7), lambda t, x: x.roll(7), (X,)),
    "repeat": (lambda x: x.repeat([1, 0, 2, 3, 1], 1),
               lambda t, x: x.repeat_interleave(t.tensor([1, 0, 2, 3, 1]), 1), (X,)),
    "tile": (lambda x: x.tile((3, 1, 2)), lambda t, x: x.tile((3, 1, 2)), (X,)),
    "tril": (lambda x: x.tril(-1), lambda t, x: x.tril(-1), (X,)),
    "triu": (lambda x: x.triu(2), lambda t, x: x.triu(2), (X,)),
    "flatten": (lambda x: x.flatten(), lambda t, x: x.flatten(), (X,)),
    "concatenate": (lambda a, b: ops.concatenate([a, b, a], axis=1),
                    lambda t, a, b: t.cat([a, b, a], 1), (X, Y)),
    "stack": (lambda a, b: ops.stack([a, b], axis=-1), lambda t, a, b: t.stack([a, b], -1), (X, Y)),
    "split": (lambda x: ops.split(x, sections=[2, 3], axis=1)[2] * 3,
              lambda t, x: x.tensor_split([2, 3], 1)[2] * 3, (X,)),
    "a mask": (lambda x: x[X > 0.3], lambda t, x: x[t.from_numpy(X > 0.3)], (X,)),
    "mixed index": (lambda x: x[None, 1, ..., ::2], lambda t, x: x[None, 1, ..., ::2], (X,)),
    "dot": (lambda a, b: a.dot(b), lambda t, a, b: a @ b, (X, W)),
    **{
        f"einsum {how}": (lambda *xs, how=how: einsum(how, *xs),
                          lambda t, *xs, how=how: t.einsum(how, *xs), given)
        for how, given in {
            "abc,abd->acd": (X, Y), "abc,c": (X, W), "abc->ca": (X,), "abc,dbc,c->ad": (X, Y, W),
            "c,d->dc": (W, W), "abc,abc->": (X, Y), "abc,abc->b": (X, Y), "c,c,c->c": (W, W, W),
        }.items()
    },
}  # fmt: skip
DTYPES = {"float64": (1e-12, 1e-11), "float32": (1e-5, 1e-4)}  # tolerance of values, gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(torch, name, dtype):
    mine, theirs, arrays = CASES[name]
    near, nearly = DTYPES[dtype]
    ours = [Tensor(a.astype(dtype), requires_grad=True) for a in arrays]
    others = [torch.from_numpy(a.astype(dtype)).requires_grad_() for a in arrays]
    y, z = mine(*ours), theirs(torch, *others)
    assert y.dtype == dtype and y.shape == z.shape
    assert np.allclose(y.data, z.detach().numpy(), rtol=near, atol=near)
    g = np.asarray(Rng(8).normal(y.shape)).astype(dtype)
    y.backward(g)
    z.backward(torch.tensor(g))
    for a, b in zip(ours, others, strict=True):
        assert a.grad.dtype == dtype
        assert np.allclose(a.grad, b.grad.numpy(), rtol=nearly, atol=nearly)


def test_every_operation_is_compared():
    told = " ".join(CASES)
    for name, f in vars(ops).items():
        if hasattr(f, "__wrapped__") and f.__module__ == ops.__name__ and not name.startswith("_"):
            assert name in told or name in ("getitem", "pow", "in_float32"), name


# -- edges ----------------------------------------------------------------------------------------

BASES = [0.0, -0.0, 1.0, 2.0, -2.0, 0.5, -0.5, math.inf, -math.inf, math.nan]
POWERS = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -2.0, 0.5, -0.5, -0.3, 2.5, math.inf, -math.inf]


def agree(a, b):
    return np.allclose(a, b, rtol=1e-5, equal_nan=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("a", BASES)
def test_powers_of_special_numbers(torch, a, p, dtype):
    """Numbers, arrays of one and of no dimension, on both sides."""
    kinds = (lambda x: x, np.dtype(dtype).type, lambda x: np.array(x, dtype),
             lambda x: np.full(2, x, dtype))  # fmt: skip
    if (a, p) == (-math.inf, 0.5):
        return  # for an exponent that is a number NumPy takes the root, which is nan
    for shape in ((), (2,)):
        both = [torch.from_numpy(np.full(shape, x, dtype)).requires_grad_() for x in (a, p)]
        z = both[0] ** both[1]
        z.sum().backward()
        value = z.detach().numpy().reshape(-1)[0]
        base, exponent = (t.grad.numpy().reshape(-1)[0] for t in both)
        for kind in kinds:
            x = Tensor(np.full(shape, a, dtype), requires_grad=True)
            y = x ** kind(p)
            y.sum().backward()
            used = y.size / x.size
            assert y.dtype == dtype and agree(y.data, value) and agree(x.grad, base * used)
            x = Tensor(np.full(shape, p, dtype), requires_grad=True)
            y = kind(a) ** x
            y.sum().backward()
            assert y.dtype == dtype and agree(y.data, value) and agree(x.grad, exponent * used)


FAR = [-3e38, -1e20, -300.0, -88.0, -60.0, -20.0, -17.0, -8.0, -1e-3, 0.0, 1e-8, 5.0, 17.0, 90.0,
       1e13, 1e20, 3e38]  # fmt: skip
TAILS = {
    "sigmoid": (ops.sigmoid, lambda t, x: t.sigmoid(x)),
    "log of sigmoid": (lambda x: -ops.softplus(-x), lambda t, x: t.nn.functional.logsigmoid(x)),
    "softplus": (ops.softplus, lambda t, x: t.nn.functional.softplus(x, threshold=80)),
    "silu": (ops.silu, lambda t, x: t.nn.functional.silu(x)),
    "tanh": (ops.tanh, lambda t, x: t.tanh(x)),
    "erf": (ops.erf, lambda t, x: t.erf(x)),
    "expm1": (lambda x: ops.expm1(ops.minimum(x, 80)), lambda t, x: t.expm1(x.clip(max=80))),
    "log1p": (lambda x: ops.log1p(ops.maximum(x, -0.5)), lambda t, x: t.log1p(x.clip(min=-0.5))),
    "gelu_erf": (fused.gelu_erf, lambda t, x: t.nn.functional.gelu(x.double()).to(x.dtype)),
    "logsumexp": (ops.logsumexp, lambda t, x: x.logsumexp(0)),
    "softmax": (fused.softmax, lambda t, x: x.softmax(0)),
    "log_softmax": (fused.log_softmax, lambda t, x: x.log_softmax(0)),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TAILS)
def test_tails(torch, name, dtype):
    mine, theirs = TAILS[name]
    x = Tensor(np.array(FAR, dtype), requires_grad=True)
    t = torch.tensor(x.data, requires_grad=True)
    y, z = mine(x), theirs(torch, t)
    y.sum().backward()
    z.sum().backward()
    near_one = name in ("tanh", "erf", "gelu_erf", "expm1")  # torch's too, and 1 is taken away
    low = 1e-6 if near_one else np.finfo(dtype).tiny
    for a, b in ((y.data, z.detach().numpy()), (x.grad, t.grad.numpy())):
        assert np.allclose(a, b, rtol=2e-5, atol=low, equal_nan=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "name",
    ["layer_norm", "gelu", "gelu_erf", "softmax", "log_softmax", "attention, padded", "erf", "std",
     "cross_entropy, smoothed", "logsumexp", "sum", "cumsum", "embedding", "sigmoid"],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1, 300])
def test_half_precision(torch, name, scale):
    """Computed in float32, and rounded."""
    mine, theirs, arrays = CASES[name]
    given = [np.float16(a * scale if i == 0 else a) for i, a in enumerate(arrays)]
    ours = [Tensor(a, requires_grad=True) for a in given]
    others = [torch.from_numpy(a.astype(np.float32)).requires_grad_() for a in given]
    y, z = mine(*ours), theirs(torch, *others)
    assert y.dtype == np.float16 and np.isfinite(y.data).all()
    assert np.allclose(y.data, z.detach().numpy(), rtol=4e-3, atol=2e-3)
    g = np.float16(Rng(8).normal(y.shape))
    y.backward(g)
    z.backward(torch.tensor(g.astype(np.float32)))
    for a, b in zip(ours, others, strict=True):
        assert a.grad.dtype == np.float16
        assert np.allclose(a.grad, b.grad.numpy(), rtol=4e-3, atol=2e-3)
