"""Every operation: its value against NumPy, its gradient against differences, its dtype."""

import math
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minipeft import backend as arrays
from minipeft.backend import Rng, to_numpy
from minipeft.engine import Tensor, einsum, grad_check, ops
from minipeft.engine.check import kink_free
from minipeft.engine.op import unbroadcast


class Case(NamedTuple):
    name: str
    f: object  # on Tensors
    numpy: object  # the same on arrays
    inputs: tuple  # float64 arrays


def beside(a, t):
    """An array in the array library of t, which may be a Tensor."""
    return arrays.xp_of(getattr(t, "data", t)).asarray(a)


def normal(name, *shape):
    return np.asarray(Rng(0, name, str(shape)).normal(shape))


def positive(name, *shape):
    return np.asarray(np.exp(normal(name, *shape) / 2))


def away(name, shape, distance=lambda x: x):
    """Drawn away from a kink, where `distance` is 0."""
    return kink_free(lambda i: normal(f"{name}/{i}", *shape), distance)


def ranked(name, *shape):
    """All elements at least 0.1 apart: no ties for max and min."""
    n = math.prod(shape)
    return (0.1 * Rng(0, name, str(shape)).permutation(n) - 0.05 * n).reshape(shape)


SHAPES = [(), (1,), (4,), (2, 3), (1, 1), (2, 1, 3)]
PAIRS = [
    ((2, 3), (2, 3)), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (1, 3)), ((1,), (2, 3)),
    ((2, 3), ()), ((), (2, 3)), ((), ()), ((4, 1, 3), (2, 1)), ((1, 1), (1,)), ((1, 3), (2, 1, 3)),
]  # fmt: skip


def unary():
    free = {"neg": np.negative, "exp": np.exp, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
            "expm1": np.expm1, "softplus": lambda x: np.log(1 + np.exp(x)),
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "silu": lambda x: x / (1 + np.exp(-x)),
            "erf": np.vectorize(math.erf, otypes=[float])}  # fmt: skip
    kinked = {"relu": lambda x: np.maximum(x, 0), "abs": np.abs}
    for shape in SHAPES:
        for name, reference in free.items():
            yield Case(name, getattr(ops, name), reference, (normal(name, *shape),))
        for name, reference in kinked.items():
            yield Case(name, getattr(ops, name), reference, (away(name, shape),))
        for name in ("log", "log1p", "sqrt"):
            yield Case(name, getattr(ops, name), getattr(np, name), (positive(name, *shape),))
        for p in (0, 1, 2, 3, 4, -1, 0.5, 2.5):
            f = lambda x, p=p: x**p  # noqa: E731
            yield Case(f"pow {p}", f, f, (positive("pow", *shape),))
        f = lambda x: 2.5**x  # noqa: E731
        yield Case("rpow", f, f, (normal("rpow", *shape),))
        for low, high in ((-0.5, 0.5), (None, 0.3), (-0.3, None)):
            edges = [e for e in (low, high) if e is not None]
            distance = lambda x, edges=edges: np.stack([x - e for e in edges])  # noqa: E731
            yield Case(
                f"clip {low} {high}",
                lambda x, low=low, high=high: ops.clip(x, low=low, high=high),
                lambda x, low=low, high=high: np.clip(x, low, high),
                (away("clip", shape, distance),),
            )


def binary():
    for sa, sb in PAIRS:
        for name in ("add", "sub", "mul"):
            numpy = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
            yield Case(name, getattr(ops, name), numpy, (normal("a", *sa), normal("b", *sb)))
        yield Case("div", ops.div, np.divide, (normal("a", *sa), positive("b", *sb)))
        yield Case("pow", ops.pow, np.power, (positive("a", *sa), normal("b", *sb)))
        a = normal("a", *sa)
        b = away("b", sb, lambda x, a=a: a - x)
        yield Case("maximum", ops.maximum, np.maximum, (a, b))
        yield Case("minimum", ops.minimum, np.minimum, (a, b))
        condition = normal("condition", *np.broadcast_shapes(sa, sb)) > 0
        yield Case(
            "where",
            lambda a, b, c=condition: ops.where(beside(c, a), a, b),
            lambda a, b, c=condition: np.where(c, a, b),
            (normal("a", *sa), normal("b", *sb)),
        )
    row = np.array([True, False, True])  # the condition broadcasts too
    yield Case("where row", lambda a, b: ops.where(beside(row, a), a, b),
               lambda a, b: np.where(row, a, b), (normal("a", 2, 1), normal("b")))  # fmt: skip


def lengths(x, axis=None, keepdims=False):
    return np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))


def log_of_sum(x, axis=None, keepdims=False):
    return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))


REFERENCE = {"norm": lengths, "logsumexp": log_of_sum}


def reductions():
    for shape in ((2, 3, 4), (2, 1, 3), (1, 1, 1), (5,)):
        axes = [None, 0, -1, (0,), (0, -1), (-1, 1)] if len(shape) > 1 else [None, 0, -1, (0,)]
        for axis in axes:
            for keepdims in (False, True):
                how = {"axis": axis, "keepdims": keepdims}
                for name in ("sum", "mean", "max", "min", "prod"):
                    f, numpy = (partial(getattr(module, name), **how) for module in (ops, np))
                    yield Case(f"{name} {axis} {keepdims}", f, numpy, (ranked(name, *shape),))
                for name in ("norm", "logsumexp"):
                    f, numpy = partial(getattr(ops, name), **how), partial(REFERENCE[name], **how)
                    yield Case(f"{name} {axis} {keepdims}", f, numpy, (normal(name, *shape),))
                several = np.sum(np.ones(shape), axis=axis).size < math.prod(shape)
                for ddof in (0, 1) if several else (0,):
                    for name in ("var", "std") if several else ("var",):
                        f, numpy = (partial(getattr(m, name), ddof=ddof, **how) for m in (ops, np))
                        given = (normal(name, *shape),)
                        yield Case(f"{name} {axis} {keepdims} {ddof}", f, numpy, given)
    for name in ("sum", "mean", "max", "min", "var", "prod"):
        takes = [{"axis": 0}, {"axis": -1, "keepdims": True}]  # NumPy's means do not
        for how in ({}, *(takes if name not in ("mean", "var") else ())):
            f, numpy = (partial(getattr(module, name), **how) for module in (ops, np))
            yield Case(f"{name} 0-d {how}", f, numpy, (normal(name),))
    for zeros in ([0], [0, 3], [1, 4, 5]):
        x = normal("zeros", 2, 3)
        x.reshape(-1)[zeros] = 0
        for axis in (None, 0, 1):
            f, numpy = partial(ops.prod, axis=axis), partial(np.prod, axis=axis)
            yield Case(f"prod with zeros {axis}", f, numpy, (x,))
    for shape, axis in (((2, 3, 1), 0), ((2, 3, 1), 1), ((2, 3, 1), -1), ((2, 3), None), ((), 0),
                        ((), -1), ((), None), ((3,), np.int64(0))):  # fmt: skip
        f, numpy = partial(ops.cumsum, axis=axis), partial(np.cumsum, axis=axis)
        yield Case("cumsum", f, numpy, (normal("cumsum", *shape),))


def shapes():
    def one(name, f, numpy, *shape):
        return Case(name, f, numpy, (normal(name, *shape),))

    for to in ((6,), (3, 2), (-1, 1), (1, 6, 1), (np.int64(3), -1), np.int64(6), [2, 3]):
        yield one("reshape", lambda x, s=to: x.reshape(s), lambda x, s=to: x.reshape(s), 2, 3)
    yield one("reshape to 0-d", lambda x: x.reshape(()), lambda x: x.reshape(()), 1, 1)
    yield one("reshape of 0-d", lambda x: x.reshape(1, 1), lambda x: x.reshape(1, 1))
    for axes in ((), (2, 0, 1), (-1, 0, -2), ((1, 0, 2),), (None,), tuple(np.array([1, -1, 0]))):
        yield one("transpose", lambda x, a=axes: x.transpose(*a), lambda x, a=axes: x.transpose(*a),
                  2, 3, 4)  # fmt: skip
    yield one("T", lambda x: x.T, lambda x: x.T, 2, 3)
    for a, b in ((0, 1), (-1, 0), (1, np.int64(-1))):
        f = lambda x, a=a, b=b: x.swapaxes(a, b)  # noqa: E731
        yield one("swapaxes", f, f, 2, 1, 3)
    for axis in (None, 1, -1, (1, 3), np.int64(1)):
        f = lambda x, a=axis: x.squeeze(axis=a)  # noqa: E731
        yield one("squeeze", f, f, 2, 1, 3, 1)
    for axis in (0, 1, -1, np.int64(2), (0, -1)):
        yield one("expand_dims", lambda x, a=axis: x.expand_dims(a),
                  lambda x, a=axis: np.expand_dims(x, a), 2, 3)  # fmt: skip
    for shape in ((), (1,), (3,), (4, 1, 3), (2, 1), (4, 2, 3)):
        yield one("broadcast_to", lambda x: ops.broadcast_to(x, shape=(4, 2, 3)),
                  lambda x: np.broadcast_to(x, (4, 2, 3)), *shape)  # fmt: skip
    for axis in (None, 0, -1, (0, 1), [1, 2], (np.int64(-1), 0)):
        yield one("flip", lambda x, a=axis: x.flip(a),
                  lambda x, a=axis: np.flip(x, tuple(a) if isinstance(a, list) else a),
                  2, 3, 2)  # fmt: skip
    for shift, axis in (
        (1, None),
        (-2, 0),
        (4, 1),
        ((1, -1), (0, 2)),
        ([2, 1], [1, 0]),
        (np.int64(2), np.int64(-1)),
    ):
        yield one("roll", lambda x, s=shift, a=axis: x.roll(s, a),
                  lambda x, s=shift, a=axis: np.roll(x, s, a), 2, 3, 2)  # fmt: skip
    for repeats, axis in ((2, None), (3, 0), (0, 1), ([1, 0, 2], 1), (np.int64(2), -1)):
        yield one("repeat", lambda x, n=repeats, a=axis: x.repeat(n, a),
                  lambda x, n=repeats, a=axis: np.repeat(x, n, a), 2, 3)  # fmt: skip
    for reps in (2, (2, 1), (3, 1, 2), (), (0,), np.int64(2), [1, 2]):
        for shape in ((2, 3), (2,), ()):
            yield one("tile", lambda x, r=reps: x.tile(r), lambda x, r=reps: np.tile(x, r), *shape)
    for k in (-1, 0, 2):
        for shape in ((3, 3), (2, 4), (2, 3, 2)):
            yield one("tril", lambda x, k=k: x.tril(k), lambda x, k=k: np.tril(x, k), *shape)
            yield one("triu", lambda x, k=k: x.triu(k), lambda x, k=k: np.triu(x, k), *shape)
    for shape in ((), (3,), (2, 3, 1)):
        yield one("flatten", lambda x: x.flatten(), np.ravel, *shape)
        yield one("ravel", lambda x: x.ravel(), np.ravel, *shape)
        yield one("roll of all", lambda x: x.roll(1), lambda x: np.roll(x, 1), *shape)
        yield one("flip of all", lambda x: x.flip(), np.flip, *shape)
    for widths in (((1, 2), (0, 1)), ((0, 0), (0, 0)), np.array([[0, 3], [2, 0]])):
        yield one("pad", lambda x, w=widths: ops.pad(x, widths=w, value=7.0),
                  lambda x, w=widths: np.pad(x, w, constant_values=7.0), 2, 3)  # fmt: skip
    for axis in (0, 1, np.int64(-1)):
        both = (normal("a", 2, 3, 4), normal("b", 2, 3, 4))
        yield Case("stack", lambda a, b, x=axis: ops.stack([a, b], axis=x),
                   lambda a, b, x=axis: np.stack([a, b], axis=x), both)  # fmt: skip
        uneven = tuple(
            normal("c", *[n if i == axis % 3 else 2 for i in range(3)]) for n in (1, 3, 2)
        )
        yield Case("concatenate", lambda *xs, x=axis: ops.concatenate(xs, axis=x),
                   lambda *xs, x=axis: np.concatenate(xs, axis=x), uneven)  # fmt: skip
    for sections, axis in ((2, 0), ([1, 3], 0), (3, -1), ([2], 1), (np.int64(2), np.int64(0)),
                           (np.array([1, 2]), 0), ([-1], 0)):  # fmt: skip
        for i in range(len(np.split(np.zeros((4, 3)), sections, axis))):
            yield one(
                f"split {sections}",
                lambda x, s=sections, a=axis, i=i: ops.split(x, sections=s, axis=a)[i],
                lambda x, s=sections, a=axis, i=i: np.split(x, s, axis=a)[i],
                4, 3,
            )  # fmt: skip


INDICES = [
    0, -1, np.int64(1), slice(1, None), slice(None, None, -2), ..., None, (..., 0),
    (slice(None), -1), (1, slice(0, 2), None), (0, 1, 2), (slice(0, 0),),
    np.array([0, 1, 0, 0]), [0, 0, -2], (np.array([1, 1]), np.array([2, 2])),
    True, np.True_, (np.int64(-1), ..., None), (slice(np.int64(1), None), np.uint8(2)),
    range(2), (..., np.array(0)), (None, np.array([0, 0]), ..., np.int32(3)), np.array(-1),
    (slice(None), np.array([[0, 2], [2, 2]])), (np.array([0, 0])[:, None], slice(1, 3), [1, 1]),
    np.array([True, False]), (slice(None), np.array([True, False, True])), np.array(1),
]  # fmt: skip


def indexing():
    for index in INDICES:
        f = lambda x, index=index: x[index]  # noqa: E731
        yield Case(f"getitem {index}", f, f, (normal("getitem", 2, 3, 4),))
    mask = normal("mask", 2, 3) > 0
    yield Case("getitem mask", lambda x: x[mask], lambda x: x[mask], (normal("masked", 2, 3),))


PRODUCTS = [
    ((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)), ((1, 1), (1, 1)),
    ((2, 3, 4), (4, 2)), ((3, 4), (2, 4, 2)), ((2, 1, 3, 4), (5, 4, 2)), ((2, 3, 4), (4,)),
    ((4,), (2, 4, 3)), ((1, 3, 1), (2, 1, 3)),
]  # fmt: skip


SUBSCRIPTS = {  # of einsum, with the shapes of its operands
    "ij,jk->ik": ((2, 3), (3, 4)), "ij,jk": ((2, 3), (3, 4)), "ij->ji": ((2, 3),),
    "ba": ((2, 3),), "ij->": ((2, 3),), "ij->j": ((2, 3),), "i,i->": ((3,), (3,)),
    "i,j->ij": ((3,), (2,)), "i,j->ji": ((3,), (2,)), "bij,bjk->bik": ((2, 3, 4), (2, 4, 1)),
    "bhqd,bhkd->bhqk": ((1, 2, 3, 4), (1, 2, 5, 4)), "ij,ij->ij": ((2, 3), (2, 3)),
    "ij,kj->": ((2, 3), (4, 3)), "ijk,lj->lk": ((2, 3, 4), (5, 3)),
    "ij,jk,kl->il": ((2, 3), (3, 4), (4, 2)), "a,ab,bc,c": ((2,), (2, 3), (3, 2), (2,)),
    "i,i,i->i": ((3,), (3,), (3,)), "xy,x->xy": ((2, 3), (2,)), "ij,k->j": ((2, 3), (4,)),
    "->": ((),), ",i->i": ((), (3,)), " i j , j -> i ": ((2, 3), (3,)),
    "zY,Ya->za": ((2, 3), (3, 4)),
}  # fmt: skip


def products():
    for sa, sb in PRODUCTS:
        yield Case("matmul", ops.matmul, np.matmul, (normal("a", *sa), normal("b", *sb)))
    for sa, sb in (((), (2, 3)), ((2,), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1, 3), (3, 2))):
        yield Case("dot", ops.dot, np.dot, (normal("a", *sa), normal("b", *sb)))
    for subscripts, shapes in SUBSCRIPTS.items():
        f, numpy = partial(einsum, subscripts), partial(np.einsum, subscripts)
        yield Case(f"einsum {subscripts}", f, numpy,
                   tuple(normal("einsum", *shape) for shape in shapes))  # fmt: skip


CASES = [
    case
    for part in (unary, binary, reductions, shapes, indexing, products)
    for case in part()
]  # fmt: skip
NAMES = sorted({case.name.split()[0] for case in CASES})
every_op = pytest.mark.parametrize("name", NAMES)


def cases(name):
    return [case for case in CASES if case.name.split()[0] == name]


def leaves(case, dtype=np.float64):
    return [Tensor(x.astype(dtype), requires_grad=True) for x in case.inputs]


@every_op
def test_value_and_gradient(name):
    for case in cases(name):
        y = case.f(*leaves(case))
        want = np.asarray(case.numpy(*case.inputs))
        assert isinstance(y, Tensor) and y.shape == want.shape, case
        assert y.dtype == np.float64, case
        error = np.abs(y.data - want).max(initial=0)
        assert error <= 1e-14 * (1 + np.abs(want).max(initial=0)), case
        if y.size:
            grad_check(case.f, *case.inputs)


@every_op
def test_float32_stays_float32(name):
    for case in cases(name):
        inputs = leaves(case, np.float32)
        y = case.f(*inputs)
        assert y.dtype == np.float32, case
        pulled = y._node.pull(np.ones(y.shape, np.float32))  # before the walk casts
        assert {np.asarray(g).dtype for g in pulled if g is not None} == {np.dtype("f4")}, case
        y.backward(np.ones(y.shape, np.float32))
        assert {t.grad.dtype for t in inputs} == {np.dtype("f4")}, case


@every_op
def test_backward_writes_nothing_and_shares_nothing(name):
    for case in cases(name):
        inputs = leaves(case)
        for t in inputs:
            t.data.flags.writeable = False
        y = case.f(*inputs)
        y.data.flags.writeable = False
        g = normal("g", *y.shape)
        g.flags.writeable = False
        y.backward(g, retain=True)  # writing to an input, to y or to g would raise
        first = [t.grad for t in inputs]
        kept = [*[t.data for t in inputs], y.data, g]
        for i, t in enumerate(inputs):
            assert t.grad.flags.writeable and t.grad.shape == t.shape, case
            others = kept + first[:i]
            assert not any(np.shares_memory(t.grad, other) for other in others), case
            t.grad = None
        y.backward(g, retain=True)
        for t, one in zip(inputs, first, strict=True):
            assert (t.grad == one).all(), case


def test_every_op_has_a_case():
    """What the module offers to Tensors is what the cases above go through."""
    offered = {
        name for name, f in vars(ops).items()
        if hasattr(f, "__wrapped__") and not name.startswith("_") and f.__module__ == ops.__name__
    }  # fmt: skip
    assert offered <= set(NAMES), offered - set(NAMES)


# -- scalars, dtypes, backends ------------------------------------------------------------------

OPERATORS = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b, "**": lambda a, b: a**b,
}  # fmt: skip


@pytest.mark.parametrize("sign", OPERATORS)
def test_scalars_do_not_promote(sign):
    f = OPERATORS[sign]
    scalars = (2, 2.0, np.float64(2), np.float32(2), np.int64(2), True)
    for shape, scalar, swap in product(((2, 3), ()), scalars, (False, True)):
        x = Tensor(positive("x", *shape).astype(np.float32), requires_grad=True)
        y = f(scalar, x) if swap else f(x, scalar)
        plain = f(float(scalar), x.data.astype(float)) if swap else f(x.data.astype(float), scalar)
        assert isinstance(y, Tensor) and y.dtype == np.float32
        assert np.abs(y.data - plain).max() <= 2e-6
        g = y._node.pull(np.ones(shape, np.float32))[swap]
        assert np.asarray(g).dtype == np.float32


@pytest.mark.parametrize("name", ["maximum", "minimum", "where"])
def test_scalars_in_functions_do_not_promote(name):
    for scalar in (0, 0.5, np.float64(0.5)):
        x = Tensor(np.float32([-1, 1]), requires_grad=True)
        f = getattr(ops, name)
        for y in (f(x > 0, x, scalar), f(x > 0, scalar, x)) if name == "where" else (
            f(x, scalar), f(scalar, x)
        ):  # fmt: skip
            assert y.dtype == np.float32
            y.backward(np.float32([1, 1]))
        assert x.grad.dtype == np.float32


def test_settings_that_are_numpy_scalars_do_not_promote():
    x = Tensor(np.float32([-1, 1]), requires_grad=True)
    for y in (x.clip(np.float64(-0.5), np.float64(0.5)), x.var(ddof=np.int64(1)),
              ops.pad(x, widths=((0, 1),), value=np.float64(0.5))):  # fmt: skip
        assert y.dtype == np.float32


@pytest.mark.parametrize("sign", [*OPERATORS, "@"])
def test_an_array_on_the_left_gives_a_tensor(sign):
    f = OPERATORS.get(sign, lambda a, b: a @ b)
    a, b = positive("left", 3, 3), positive("right", 3, 3)
    t = Tensor(b, requires_grad=True)
    y = f(a, t)
    assert type(y) is Tensor and y.dtype == np.float64
    assert np.allclose(y.data, f(a, b), rtol=1e-14)
    grad_check(lambda x: f(a, x), b)
    grad_check(lambda x: f(x, b), a)


def test_in_place_operators_make_new_tensors():
    a, t = np.ones(3), Tensor(np.ones(3), requires_grad=True)
    before = t
    t += a
    assert t is not before and (before.data == 1).all()
    with pytest.raises(TypeError, match="Tensor"):
        a *= t  # an array cannot become a Tensor in place


def test_runs_on_every_backend(backend):
    for case in CASES:
        inputs = [Tensor(backend.asarray(x), requires_grad=True) for x in case.inputs]
        y = case.f(*inputs)
        assert arrays.xp_of(y.data) is backend
        assert np.allclose(to_numpy(y.data), case.numpy(*case.inputs), rtol=1e-12, atol=1e-14)
        if y.size:
            y.backward(backend.ones_like(y.data))
            assert all(arrays.xp_of(t.grad) is backend for t in inputs)


# -- half precision -------------------------------------------------------------------------------


def test_sums_of_float16_are_made_in_float32():
    """In float16 2048 + 1 is 2048, and 65 520 is infinite."""
    x = Tensor(np.ones((5000, 2), np.float16), requires_grad=True)
    y = x.sum(axis=0)
    y.backward(np.ones(2, np.float16))
    assert y.dtype == x.grad.dtype == np.float16 and (y.data == 5000).all() and (x.grad == 1).all()
    b = Tensor(np.zeros(2, np.float16), requires_grad=True)
    (x + b).backward(np.ones((5000, 2), np.float16))  # what was broadcast is summed
    assert (b.grad == 5000).all() and b.grad.dtype == np.float16
    (Tensor(np.ones((5000, 2), np.float16)) * b).backward(np.ones((5000, 2), np.float16))
    assert (b.grad == 10000).all()
    row = Tensor(np.ones((1, 2), np.float16), requires_grad=True)
    row[np.zeros(5000, int)].backward(np.ones((5000, 2), np.float16))
    assert (row.grad == 5000).all()
    assert (x.cumsum(0).data[-1] == 5000).all()


def test_statistics_of_float16_do_not_overflow():
    far = np.float16([[60000, 60000, 58976, 58976]])
    x = Tensor(far, requires_grad=True)
    assert x.mean(axis=1).data == np.float16(59488) and x.mean().dtype == np.float16
    assert x.std().data == np.float16(512) and x.norm(axis=0).data.tolist() == far.tolist()[0]
    assert Tensor(np.float16([200, -200])).var().data == np.float16(40000)
    assert Tensor(np.float16([300, -300])).std().data == 300
    assert Tensor(np.float16([200, 300, 0.01])).prod().data == np.float16(600.2)
    x.std().backward()
    assert x.grad.dtype == np.float16 and np.allclose(x.grad, [[0.25, 0.25, -0.25, -0.25]])


# -- shapes drawn at large ----------------------------------------------------------------------

drawn = settings(max_examples=25, derandomize=True, deadline=None, database=None)
SIDES = {"min_side": 1, "max_side": 3}


@drawn
@given(
    hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, **SIDES),
    st.sampled_from(["add", "sub", "mul", "div", "pow", "maximum", "minimum", "where"]),
)
def test_broadcasting_on_drawn_shapes(drawn_shapes, name):
    sc, sa, sb = drawn_shapes.input_shapes
    a = positive("a", *sa)
    b = kink_free(lambda i: positive(f"b{i}", *sb), lambda x: a - x)
    c = normal("c", *sc) > 0
    f = (lambda a, b: ops.where(c, a, b)) if name == "where" else getattr(ops, name)
    grad_check(f, a, b)
    parts = (c, a, b) if name == "where" else (a, b)
    assert f(Tensor(a), Tensor(b)).shape == np.broadcast_shapes(*[p.shape for p in parts])


@drawn
@given(st.data(), hnp.array_shapes(max_dims=4, **SIDES), st.booleans())
def test_reductions_on_drawn_axes(data, shape, keepdims):
    axis = data.draw(st.none() | hnp.valid_tuple_axes(len(shape), min_size=1))
    name = data.draw(st.sampled_from(["sum", "mean", "var", "max", "min"]))
    x = ranked("x", *shape)
    y = getattr(ops, name)(Tensor(x), axis=axis, keepdims=keepdims)
    want = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert y.shape == want.shape and np.allclose(y.data, want, rtol=1e-13, atol=1e-15)
    grad_check(lambda x: getattr(ops, name)(x, axis=axis, keepdims=keepdims), x)


@drawn
@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=3, **SIDES))
def test_indexing_on_drawn_indices(data, shape):
    integers = hnp.integer_array_indices(
        shape, result_shape=hnp.array_shapes(max_dims=2, max_side=4)
    )
    masks = hnp.arrays(bool, shape)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True) | integers | masks)
    x = normal("x", *shape)
    y = Tensor(x)[index]
    assert y.shape == np.asarray(x[index]).shape and (y.data == x[index]).all()
    if y.size:
        grad_check(lambda x: x[index], x)


@drawn
@given(
    hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, **SIDES),
)
def test_matmul_on_drawn_shapes(drawn_shapes):
    sa, sb = drawn_shapes.input_shapes
    grad_check(ops.matmul, normal("a", *sa), normal("b", *sb))
    assert ops.matmul(Tensor(np.ones(sa)), Tensor(np.ones(sb))).shape == drawn_shapes.result_shape


@drawn
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, **SIDES))
def test_unbroadcast_undoes_broadcasting(drawn_shapes):
    shape = drawn_shapes.input_shapes[0]
    g = normal("g", *drawn_shapes.result_shape)
    x = normal("x", *shape)
    once = unbroadcast(g, shape)
    assert once.shape == shape
    assert np.allclose((once * x).sum(), (g * x).sum(), rtol=1e-12, atol=1e-12)  # the adjoint


# -- edges --------------------------------------------------------------------------------------


def test_repeated_indices_add_up():
    x = Tensor(np.zeros((3, 2)), requires_grad=True)
    x[np.array([0, 2, 0, 0])].sum().backward()
    assert (x.grad == [[3, 3], [0, 0], [1, 1]]).all()


def test_an_index_may_be_a_tensor():
    x = Tensor(np.arange(4.0), requires_grad=True)
    assert (x[Tensor(np.array([3, 0]))].data == [3, 0]).all()


def test_equal_maxima_share_the_gradient():
    x = Tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], requires_grad=True)
    x.max(axis=1).sum().backward()
    assert np.allclose(x.grad, [[0, 0.5, 0.5], [1 / 3] * 3])
    a, b = (Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    (ops.maximum(a, b) + ops.minimum(a, b)).sum().backward()
    assert (a.grad == 2).all() and (b.grad == 0).all()


def test_relu_and_abs_have_gradient_0_at_0():
    for name in ("relu", "abs"):
        x = Tensor([0.0, 2.0], requires_grad=True)
        getattr(x, name)().sum().backward()
        assert (x.grad == [0, 1]).all()


def test_clip_passes_no_gradient_where_it_cut():
    x = Tensor([-2.0, 0.0, 2.0], requires_grad=True)
    x.clip(-1.0, 1.0).sum().backward()
    assert (x.grad == [0, 1, 0]).all()


def test_where_takes_any_condition_numpy_takes():
    for condition in ([1, 0], np.array([2, 0]), [True, False]):
        a, b = (Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
        ops.where(np.asarray(condition), a, b).sum().backward()
        assert (a.grad == [1, 0]).all() and (b.grad == [0, 1]).all()
    a = Tensor(3.0, requires_grad=True)
    ops.where(a > 1, a, 0.0).backward()  # comparison of 0-d arrays gives a scalar
    assert a.grad == 1


def test_powers_at_zero():
    for p, want in ((0, 0.0), (1, 1.0), (2, 0.0), (3, 0.0)):
        x = Tensor([0.0, 0.0], requires_grad=True)
        (x**p).sum().backward()
        assert (x.grad == want).all()
    p = Tensor([2.0], requires_grad=True)
    (np.array([0.0]) ** p).sum().backward()
    assert p.grad == 0
    p = Tensor([2.0], requires_grad=True)
    (0.0**p).sum().backward()
    assert p.grad == 0


INF, NAN = math.inf, math.nan
POWERS = [  # base, exponent, value, gradient of the base, of the exponent
    (0.0, 0.0, 1, 0, 0), (0.0, 2.0, 0, 0, 0), (0.0, 1.0, 0, 1, 0), (0.0, 0.5, 0, INF, 0),
    (0.0, -0.3, INF, -INF, -INF), (0.0, -1.0, INF, -INF, -INF), (2.0, 0.0, 1, 0, math.log(2)),
    (-2.0, 2.0, 4, -4, NAN), (-2.0, 0.0, 1, 0, NAN), (-2.0, 0.5, NAN, NAN, NAN),
    (-2.0, -1.0, -0.5, -0.25, NAN), (1.0, 3.0, 1, 3, 0), (INF, 0.0, 1, 0, INF),
    (INF, 2.0, INF, INF, INF), (NAN, 0.0, 1, 0, NAN), (4.0, 0.5, 2, 0.25, 2 * math.log(4)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", POWERS)
def test_powers_of_special_numbers_are_the_same_however_they_are_written(case, dtype):
    a, p, value, base, exponent = case
    kinds = (float, dtype, lambda x: np.array(x, dtype), lambda x: np.full((2, 1), x, dtype))

    def close(got, want):
        return np.allclose(got, want, rtol=1e-6, equal_nan=True)

    with np.errstate(all="ignore"):
        for kind in kinds:
            for shape in ((), (2,), (0,)):
                x = Tensor(np.full(shape, a, dtype), requires_grad=True)
                y = x ** kind(p)
                y.sum().backward()
                n = y.size // max(x.size, 1)  # how often each element was used
                assert y.dtype == dtype and close(y.data, value) and close(x.grad, base * n)
                t = Tensor(np.full(shape, p, dtype), requires_grad=True)
                y = kind(a) ** t
                y.sum().backward()
                assert y.dtype == dtype and close(y.data, value) and close(t.grad, exponent * n)


def test_each_power_of_an_array_has_its_own_gradient():
    x = Tensor(np.array([0.0, 2.0]), requires_grad=True)
    (x ** np.array([0.0, 0.0])).sum().backward()
    assert (x.grad == 0).all()
    x = Tensor(np.array([0.0, 0.0, 3.0]), requires_grad=True)
    (x ** np.array([0, 1, 2])).sum().backward()
    assert (x.grad == [0, 1, 6]).all()


def test_whole_powers_are_products():
    """x**3 on float32 goes through a slow general power, and gives other bits."""
    x = normal("cubes", 100).astype(np.float32)
    assert ((Tensor(x) ** 3).data == x * x * x).all()
    assert ((Tensor(x) ** 4).data == (x * x) * (x * x)).all()


def test_sigmoid_does_not_overflow():
    x = Tensor([-1000.0, 0.0, 1000.0], requires_grad=True)
    y = x.sigmoid()
    y.backward(np.float32([1, 1, 1]))
    assert (y.data == [0, 0.5, 1]).all() and (x.grad == [0, 0.25, 0]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sigmoid_keeps_its_lower_tail(dtype):
    """0.5 (1 + tanh(x/2)) is 44 % off at -17 in float32, and 0 at -20."""
    at = [-8.0, -6.0, 0.0, 6.0] if dtype == np.float16 else [-80.0, -20.0, -17.0, -1.0, 3.0, 80.0]
    x = Tensor(np.array(at, dtype), requires_grad=True)
    y = x.sigmoid()
    exact = 1 / (1 + np.exp(-np.array(at)))
    assert y.dtype == dtype and np.allclose(y.data, exact, rtol=4 * np.finfo(dtype).eps, atol=0)
    y.backward(np.ones(len(at), dtype))
    assert np.allclose(
        x.grad[:2], exact[:2] * (1 - exact[:2]), rtol=8 * np.finfo(dtype).eps, atol=0
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_logarithm_of_sigmoid_is_right_far_out(dtype):
    for f in (lambda x: -x.sigmoid().log(), lambda x: (-x).softplus()):
        x = Tensor(dtype(-20.0), requires_grad=True)
        y = f(x)
        y.backward()
        assert y.item() == pytest.approx(20, rel=1e-6) and x.grad == pytest.approx(-1, rel=1e-6)


def test_expm1_keeps_its_slope_far_below():
    x = Tensor(np.float32([-17, -40]), requires_grad=True)
    x.expm1().sum().backward()
    assert np.allclose(x.grad, np.exp([-17.0, -40.0]), rtol=1e-6, atol=0)


def test_softplus_and_silu_far_out():
    x = Tensor(np.array([-1e30, -100.0, 0.0, 100.0, 3e38], np.float32), requires_grad=True)
    y = x.softplus()
    y.backward(np.ones(5, np.float32))
    assert np.allclose(y.data, [0, 3.8e-44, math.log(2), 100, 3e38], rtol=0.05, atol=0)
    assert np.allclose(x.grad, [0, 3.8e-44, 0.5, 1, 1], rtol=0.05, atol=0)
    x.grad = None
    y = x.silu()
    y.backward(np.ones(5, np.float32))
    assert np.allclose(y.data, [0, 0, 0, 100, 3e38]) and np.allclose(x.grad, [0, 0, 0.5, 1, 1])


def test_logsumexp_neither_overflows_nor_underflows():
    rows = [[1000.0, 1000.0], [-1000.0, -1001.0], [-np.inf, 2.0], [-np.inf, -np.inf], [3e38, -3e38]]
    x = Tensor(np.array(rows), requires_grad=True)
    with np.errstate(divide="ignore"):  # the logarithm of 0
        y = x.logsumexp(axis=1)
    y.backward(np.ones(5))
    want = [1000 + math.log(2), -1000 + math.log1p(math.exp(-1)), 2, -np.inf, 3e38]
    assert np.allclose(y.data, want, rtol=1e-14)
    share = 1 / (1 + math.exp(-1))
    want = [[0.5, 0.5], [share, 1 - share], [0, 1], [0, 0], [1, 0]]
    assert np.allclose(x.grad, want, rtol=1e-12)
    x = Tensor(np.array([np.inf, 0.0]), requires_grad=True)
    with np.errstate(invalid="ignore", over="ignore"):
        assert x.logsumexp().item() == np.inf


def test_small_numbers_survive_log1p_and_expm1():
    x = Tensor(np.float32([1e-10, -1e-10]), requires_grad=True)
    for f in (x.log1p, x.expm1):
        x.grad = None
        y = f()
        y.backward(np.float32([1, 1]))
        assert np.allclose(y.data, x.data, rtol=1e-6, atol=0) and np.allclose(x.grad, 1)


def test_lengths_and_deviations_of_0_have_gradient_0():
    for x in (np.zeros((2, 3)), np.full((2, 3), 5.0)):
        t = Tensor(x, requires_grad=True)
        (t.std(axis=1) + (t - t.data).norm(axis=1)).sum().backward()
        assert (t.grad == 0).all()
    t = Tensor(np.array([[0.0, 0.0], [3.0, 4.0]]), requires_grad=True)
    y = t.norm(axis=1)
    y.sum().backward()
    assert (y.data == [0, 5]).all() and np.allclose(t.grad, [[0, 0], [0.6, 0.8]])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_lengths_and_deviations_do_not_overflow_where_squares_do(size):
    x = Tensor(np.float32([3 * size, -4 * size]), requires_grad=True)
    y = x.norm()
    y.backward()
    assert y.item() == pytest.approx(5 * size) and np.allclose(x.grad, [0.6, -0.8])
    assert x.std().item() == pytest.approx(3.5 * size)
    assert x.norm(axis=(0,), keepdims=True).shape == (1,)
    with np.errstate(invalid="ignore"):
        assert Tensor([np.inf, 1.0]).norm().item() == np.inf
    assert np.isnan(Tensor([np.nan, 1.0]).norm().item())


def test_infinity_that_a_triangle_hides_leaves_no_trace():
    x = Tensor(np.array([[1.0, np.inf], [2.0, 3.0]]), requires_grad=True)
    y = x.tril()
    y.sum().backward()
    assert (y.data == [[1, 0], [2, 3]]).all() and (x.grad == [[1, 0], [1, 1]]).all()


@pytest.mark.parametrize("name", ["mean", "var", "std", "norm", "logsumexp", "max", "min"])
@pytest.mark.parametrize("axis", [None, 1, -1, (0, 1)])
def test_reducing_nothing_is_a_named_error(name, axis):
    with pytest.raises(ValueError, match=rf"{name} over axis .* of shape \(2, 0\)"):
        getattr(ops, name)(Tensor(np.zeros((2, 0))), axis=axis)


def test_a_sum_of_nothing_is_zero():
    x = Tensor(np.zeros((2, 0)), requires_grad=True)
    y = x.sum(axis=1)
    y.backward(np.ones(2))
    assert (y.data == 0).all() and x.grad.shape == (2, 0)
    assert Tensor(np.zeros((0, 3))).max(axis=1).shape == (0,)  # no row, nothing to reduce


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.sum(axis=True), "an axis is an integer, got True"),
        (lambda x: x.mean(axis=np.True_), "an axis is an integer, got True"),
        (lambda x: x.max(axis=(0, np.True_)), "an axis is an integer, got np.True_"),
        (lambda x: x.cumsum(axis=0.0), "an axis is an integer, got 0.0"),
        (lambda x: x.sum(axis="0"), "an axis is an integer, got '0'"),
        (lambda x: x.transpose(1.0, 0.0), "an axis is an integer, got 1.0"),
        (lambda x: x.expand_dims(None), "an axis is an integer, got None"),
        (lambda x: ops.concatenate([x, x], axis=None), "an axis is an integer, got None"),
        (lambda x: ops.split(x, sections=[1.5]), "float"),
        (lambda x: ops.pad(x, widths=((1.5, 0), (0, 0))), "float"),
    ],
)
def test_axes_and_sizes_are_integers(call, message):
    with pytest.raises(TypeError, match=message):
        call(Tensor(np.zeros((2, 3))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.sum(axis=2), "axis 2 is out of"),
        (lambda x: x.mean(axis=-3), r"axis -3 is out of range for shape \(2, 3\)"),
        (lambda x: x.var(axis=0, ddof=2), "ddof=2 needs more than 2 elements, got 2"),
        (lambda x: x.std(axis=0, ddof=2), "ddof=2 needs more than 2 elements, got 2"),
        (lambda x: x.sum(axis=(0, 0)), r"axis \(0, 0\) of shape \(2, 3\) names an axis twice"),
        (lambda x: x.max(axis=(1, -1)), "names an axis twice"),
        (lambda x: x.flip((0, -2)), "names an axis twice"),
        (lambda x: x.transpose(0, 0), "names an axis twice"),
        (lambda x: x.transpose(3, 0), "axis 3 is out of range"),
        (lambda x: x.transpose(0), "axes don't match"),
        (lambda x: x.swapaxes(0, 2), "axis 2 is out of range"),
        (lambda x: x.cumsum(axis=(0, 1)), r"one axis is needed, got \(0, 1\) of shape \(2, 3\)"),
        (lambda x: x.sum().cumsum(1), "axis 1 is out of range"),
        (lambda x: x.sum().sum(axis=1), r"axis 1 is out of range for shape \(\)"),
        (lambda x: ops.concatenate([x, x], axis=2), "axis 2 is out of range"),
        (lambda x: ops.concatenate([x.sum()] * 2), r"one axis is needed, got 0 of shape \(\)"),
        (lambda x: ops.stack([x, x], axis=3), "axis 3 is out of range"),
        (lambda x: ops.split(x, sections=3, axis=5), "axis 5 is out of range"),
        (lambda x: x.sum(axis=0).tril(), r"need two axes or more, got shape \(3,\)"),
        (lambda x: x.dot(np.zeros((2, 3, 3))), "more than two axes.*einsum"),
        (lambda x: einsum("ii", x), "'i' twice in 'ii' would be a diagonal"),
        (lambda x: einsum("...j->j", x), "'...' is not known here"),
        (lambda x: einsum("ij,jk->ik", x), "does not fit operands of shapes"),
        (lambda x: einsum("ijk", x), "does not fit operands of shapes"),
        (lambda x: einsum("ij,ij", x, x.T), "'i' has size 2 and size 3"),
        (lambda x: einsum("ij,ij", x.T, x), "'i' has size 3 and size 2"),
        (lambda x: einsum("ij->ijk", x), "each must stand in an operand"),
        (lambda x: einsum("ij->ii", x), "must differ"),
        (lambda x: einsum("i1", x), "'1' is no letter"),
        (lambda x: x.clip(), "needs low, high or both"),
        (lambda x: ops.concatenate([]), "at least one"),
        (lambda x: ops.stack([]), "at least one"),
        (lambda x: ops.split(x, sections=2, axis=1), "axis 1 of size 3 does not divide into 2"),
        (lambda x: ops.matmul(x, 2.0), "matmul needs arrays"),
        (lambda x: x @ np.zeros((2, 2)), "."),
        (lambda x: x + np.zeros(4), "broadcast"),
    ],
)
def test_wrong_calls_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(Tensor(np.zeros((2, 3))))
