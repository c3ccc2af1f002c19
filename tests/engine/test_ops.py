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
from minipeft.engine import Tensor, grad_check, ops
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
    free = {"neg": np.negative, "exp": np.exp, "tanh": np.tanh,
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "erf": np.vectorize(math.erf, otypes=[float])}  # fmt: skip
    kinked = {"relu": lambda x: np.maximum(x, 0), "abs": np.abs}
    for shape in SHAPES:
        for name, reference in free.items():
            yield Case(name, getattr(ops, name), reference, (normal(name, *shape),))
        for name, reference in kinked.items():
            yield Case(name, getattr(ops, name), reference, (away(name, shape),))
        for name in ("log", "sqrt"):
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


def reductions():
    for shape in ((2, 3, 4), (2, 1, 3), (1, 1, 1), (5,)):
        axes = [None, 0, -1, (0,), (0, -1), (-1, 1)] if len(shape) > 1 else [None, 0, -1, (0,)]
        for axis in axes:
            for keepdims in (False, True):
                how = {"axis": axis, "keepdims": keepdims}
                for name in ("sum", "mean", "max", "min"):
                    f, numpy = (partial(getattr(module, name), **how) for module in (ops, np))
                    yield Case(f"{name} {axis} {keepdims}", f, numpy, (ranked(name, *shape),))
                several = np.sum(np.ones(shape), axis=axis).size < math.prod(shape)
                for ddof in (0, 1) if several else (0,):
                    f, numpy = partial(ops.var, ddof=ddof, **how), partial(np.var, ddof=ddof, **how)
                    yield Case(f"var {axis} {keepdims} {ddof}", f, numpy, (normal("var", *shape),))
    for name in ("sum", "mean", "max", "min", "var"):
        yield Case(f"{name} 0-d", getattr(ops, name), getattr(np, name), (normal(name),))
    for axis in (0, 1, -1):
        f, numpy = partial(ops.cumsum, axis=axis), partial(np.cumsum, axis=axis)
        yield Case("cumsum", f, numpy, (normal("cumsum", 2, 3, 1),))


def shapes():
    def one(name, f, numpy, *shape):
        return Case(name, f, numpy, (normal(name, *shape),))

    for to in ((6,), (3, 2), (-1, 1), (1, 6, 1)):
        yield one("reshape", lambda x, s=to: x.reshape(s), lambda x, s=to: x.reshape(s), 2, 3)
    yield one("reshape to 0-d", lambda x: x.reshape(()), lambda x: x.reshape(()), 1, 1)
    yield one("reshape of 0-d", lambda x: x.reshape(1, 1), lambda x: x.reshape(1, 1))
    for axes in ((), (2, 0, 1), (-1, 0, -2), ((1, 0, 2),), (None,)):
        yield one("transpose", lambda x, a=axes: x.transpose(*a), lambda x, a=axes: x.transpose(*a),
                  2, 3, 4)  # fmt: skip
    yield one("T", lambda x: x.T, lambda x: x.T, 2, 3)
    for a, b in ((0, 1), (-1, 0), (1, -1)):
        f = lambda x, a=a, b=b: x.swapaxes(a, b)  # noqa: E731
        yield one("swapaxes", f, f, 2, 1, 3)
    for axis in (None, 1, -1, (1, 3)):
        f = lambda x, a=axis: x.squeeze(axis=a)  # noqa: E731
        yield one("squeeze", f, f, 2, 1, 3, 1)
    for axis in (0, 1, -1):
        yield one("expand_dims", lambda x, a=axis: x.expand_dims(a),
                  lambda x, a=axis: np.expand_dims(x, a), 2, 3)  # fmt: skip
    for shape in ((), (1,), (3,), (4, 1, 3), (2, 1), (4, 2, 3)):
        yield one("broadcast_to", lambda x: ops.broadcast_to(x, shape=(4, 2, 3)),
                  lambda x: np.broadcast_to(x, (4, 2, 3)), *shape)  # fmt: skip
    for widths in (((1, 2), (0, 1)), ((0, 0), (0, 0)), ((0, 3), (2, 0))):
        yield one("pad", lambda x, w=widths: ops.pad(x, widths=w, value=7.0),
                  lambda x, w=widths: np.pad(x, w, constant_values=7.0), 2, 3)  # fmt: skip
    for axis in (0, 1, -1):
        both = (normal("a", 2, 3, 4), normal("b", 2, 3, 4))
        yield Case("stack", lambda a, b, x=axis: ops.stack([a, b], axis=x),
                   lambda a, b, x=axis: np.stack([a, b], axis=x), both)  # fmt: skip
        uneven = tuple(
            normal("c", *[n if i == axis % 3 else 2 for i in range(3)]) for n in (1, 3, 2)
        )
        yield Case("concatenate", lambda *xs, x=axis: ops.concatenate(xs, axis=x),
                   lambda *xs, x=axis: np.concatenate(xs, axis=x), uneven)  # fmt: skip
    for sections, axis in ((2, 0), ([1, 3], 0), (3, -1), ([2], 1)):
        for i in range(sections if isinstance(sections, int) else len(sections) + 1):
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


def products():
    for sa, sb in PRODUCTS:
        yield Case("matmul", ops.matmul, np.matmul, (normal("a", *sa), normal("b", *sb)))


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


@pytest.mark.parametrize("name", ["mean", "var", "max", "min"])
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
        (lambda x: x.sum(axis=2), "axis 2 is out of"),
        (lambda x: x.mean(axis=-3), r"axis -3 is out of range for shape \(2, 3\)"),
        (lambda x: x.var(axis=0, ddof=2), "ddof=2 needs more than 2 elements, got 2"),
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
