"""Tensors and the walk: what backward adds up, keeps, frees and refuses."""

import gc
import itertools
import weakref

import numpy as np
import pytest

from minipeft.engine import Tensor, fused, grad, no_grad, op, ops, running
from minipeft.engine.tensor import changed
from minipeft.nn import Parameter


def leaf(*values):
    return Tensor(np.array(values, dtype=np.float64), requires_grad=True)


# -- an array with a name -----------------------------------------------------------------------


def test_lists_and_floats_become_float32_and_arrays_keep_their_dtype():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(2.0).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    for dtype in (np.float64, np.float32, np.float16, np.int8, bool):
        array = np.zeros(2, dtype)
        assert Tensor(array).dtype == dtype
        assert Tensor(array).data is array


def test_numpy_scalars_keep_their_dtype():
    for kind in (np.float64, np.float32, np.float16, np.int8, np.bool_):
        t = Tensor(kind(1))
        assert t.dtype == kind and t.shape == ()
    assert Tensor(np.float64(1 / 3)).item() == 1 / 3
    for scalars in ([np.float64(1 / 3)], (np.float64(1 / 3), 1)):
        assert Tensor(scalars).dtype == np.float32  # a list, whatever it holds


def test_what_a_tensor_tells_of_its_array():
    x = Tensor(np.zeros((2, 3)))
    assert (x.shape, x.ndim, x.size, len(x), x.T.shape) == ((2, 3), 2, 6, 2, (3, 2))
    assert Tensor([3.5]).item() == 3.5 and float(Tensor(3.5)) == 3.5 and bool(Tensor(1.0))
    assert [row.shape for row in x] == [(3,), (3,)]
    assert x.numpy() is x.data
    assert "shape=(2, 3), float64" in repr(x)
    assert "requires_grad" in repr(leaf(1.0)) and "made by mul" in repr(leaf(1.0) * 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Tensor(Tensor(1.0)), TypeError, "detach"),
        (lambda: Tensor(np.array([None, 1])), TypeError, "needs real numbers; got dtype object"),
        (lambda: Tensor([1, 2], requires_grad=True), TypeError, "only floats.*int64"),
        (lambda: Tensor([1j]), TypeError, "real numbers; got dtype complex128"),
        (lambda: Tensor(["a"]), TypeError, "real numbers; got dtype <U1"),
        (lambda: int(Tensor([1.0, 2.0])), ValueError, r"one element, got shape \(2,\)"),
        (lambda: round(Tensor([1.0, 2.0])), ValueError, "one element"),
        (lambda: f"{Tensor([1.0, 2.0]):.2f}", ValueError, "one element"),
        (
            lambda: np.sum(Tensor(1.0)),
            TypeError,
            r"np\.sum of.*t\.data.*t\.numpy.*t\.sum\(…\) keeps it",
        ),
        (lambda: np.mean(Tensor(1.0), axis=0), TypeError, r"t\.data.*t\.mean\(…\)"),
        (lambda: np.max(Tensor(1.0)), TypeError, r"t\.data.*t\.max\(…\)"),
        (lambda: np.where(True, Tensor(1.0), 0), TypeError, r"t\.data.*ops\.where\(…\)"),
        (lambda: np.concatenate([Tensor([1.0])]), TypeError, r"t\.data.*ops\.concatenate\(…\)"),
        (lambda: np.linalg.norm(Tensor([1.0])), TypeError, r"t\.data.*t\.norm\(…\)"),
        (lambda: np.sort(Tensor([1.0])), TypeError, r"np\.sort of a Tensor.*\(on the host\)$"),
        (lambda: np.clip(np.ones(2), Tensor(0.0), 1), TypeError, r"t\.data.*t\.clip\(…\)"),
        (lambda: Tensor([1.0, 2.0]).item(), ValueError, r"one element, got shape \(2,\)"),
        (lambda: len(Tensor(1.0)), TypeError, "no length"),
        (lambda: bool(Tensor([1.0, 2.0])), ValueError, "one element"),
        (lambda: np.asarray(Tensor(1.0)), TypeError, r"t\.data.*t\.numpy\(\)"),
        (lambda: np.exp(Tensor(1.0)), TypeError, "Tensor"),
        (lambda: np.stack([Tensor(1.0)]), TypeError, r"t\.data"),
    ],
)
def test_wrong_uses_raise(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_one_number_is_formatted_and_rounded_as_a_number_is():
    loss = Tensor(0.98765)
    assert f"{loss:.2f}" == "0.99" and f"{loss:9.3f}" == "    0.988" and f"{loss}" == str(loss)
    assert round(loss, 2) == 0.99 and round(Tensor([2.6])) == 3 and type(round(loss)) is int
    assert int(Tensor(-2.9)) == -2 and type(int(Tensor(np.array(3)))) is int
    assert f"{Tensor(np.array(7)):03d}" == "007"


def test_numpy_tells_the_shape_of_a_tensor():
    x = Tensor(np.zeros((2, 3)))
    assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, 1)) == ((2, 3), 2, 6, 3)


def test_places_and_truths_are_plain_arrays():
    x = Tensor(np.array([[1.0, 0.0, 3.0], [4.0, 9.0, 6.0]]), requires_grad=True)
    for name in ("argmax", "argmin", "any", "all"):
        for how in ({}, {"axis": 0}, {"axis": np.int64(-1)}, {"axis": 1, "keepdims": True}):
            got, want = getattr(x, name)(**how), getattr(x.data, name)(**how)
            assert type(got) is type(want) and np.array_equal(got, want)
    assert (x > 0).any() and not x.all() and (x > 0).all(axis=1).tolist() == [False, True]


def test_astype_casts_and_the_gradient_is_cast_back():
    x = Tensor(np.float32([1.5, -2.7]), requires_grad=True)
    y = x.astype(np.float64)
    (y * 2).sum().backward()
    assert y.dtype == np.float64 and x.grad.dtype == np.float32 and (x.grad == 2).all()
    assert x.astype("float16").dtype == np.float16 and x.astype(float).dtype == np.float64
    for whole in (x.astype(int), x.astype(bool)):
        assert not whole.requires_grad and whole._node is None
    assert x.astype(int).data.tolist() == [1, -2]


def test_comparison_gives_plain_arrays():
    t, other = leaf(1.0, 2.0, 3.0), np.array([3.0, 2.0, 1.0])
    for f in (
        lambda a, b: a == b, lambda a, b: a != b, lambda a, b: a < b,
        lambda a, b: a <= b, lambda a, b: a > b, lambda a, b: a >= b,
    ):  # fmt: skip
        want = f(t.data, other)
        for a, b in ((t, other), (t, Tensor(other)), (t.data, Tensor(other))):
            got = f(a, b)
            assert type(got) is np.ndarray and got.dtype == bool and (got == want).all()
        assert (f(t, 2.0) == f(t.data, 2.0)).all()
        assert (f(2.0, t) == f(2.0, t.data)).all()
    assert len({t, t, leaf(1.0)}) == 2  # hashed by identity


def test_data_may_be_replaced_by_one_of_the_same_shape():
    x = leaf(1.0, 2.0)
    x.data = np.array([5.0, 6.0])
    assert (x.data == [5, 6]).all()
    with pytest.raises(ValueError, match=r"data must keep its shape \(2,\), got \(3,\)"):
        x.data = np.zeros(3)


def test_methods_are_the_operations():
    x = Tensor(np.array([[0.5, 2.0], [1.5, 1.0]]), requires_grad=True)
    names = "exp expm1 log log1p sqrt sin cos tanh sigmoid relu softplus silu abs sum mean var std "
    names += "max min prod norm logsumexp cumsum transpose squeeze flip tril triu"
    for name in names.split():
        assert (getattr(x, name)().data == getattr(ops, name)(x).data).all(), name
    assert (x.clip(0.6, 1.2).data == np.clip(x.data, 0.6, 1.2)).all()
    assert (x.cumsum(axis=1).data == np.cumsum(x.data, axis=1)).all()
    assert x.expand_dims(0).shape == (1, 2, 2) and x.swapaxes(0, 1).shape == (2, 2)
    assert (abs(-x).data == x.data).all() and +x is x
    assert (
        x.std(axis=0, keepdims=True, ddof=1).data == np.std(x.data, 0, keepdims=True, ddof=1)
    ).all()
    assert x.flatten().shape == x.ravel().shape == (4,) and Tensor(1.0).flatten().shape == (1,)
    assert x.sum(axis=0, keepdims=True).shape == (1, 2)
    assert x.reshape(4).shape == x.reshape((4,)).shape == x.reshape(-1).shape == (4,)


# -- the walk -----------------------------------------------------------------------------------


def test_a_tensor_used_many_times_gets_every_part():
    a = leaf(1.0, 2.0)
    b = a + a
    c = b + b
    c.backward(np.array([1.0, 10.0]))
    assert (a.grad == [4, 40]).all()
    d = leaf(3.0)
    (d * d * d + d * 2 - d / d).sum().backward()
    assert d.grad == [29.0]


SCALARS = [  # f, its derivative
    (lambda s: s + s + s + s, lambda s: 4.0),
    (lambda s: (s + 1) * (s - 1) * (s + 2), lambda s: 3 * s * s + 4 * s - 1),
    (lambda s: s * s * s + s, lambda s: 3 * s * s + 1),
    (lambda s: s + s.sqrt() + s.log() + s.exp(),
     lambda s: 1 + 0.5 / np.sqrt(s) + 1 / s + np.exp(s)),
]  # fmt: skip


@pytest.mark.parametrize("f, derivative", SCALARS)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_scalar_used_many_times_gets_every_part(f, derivative, shape):
    for make in (Parameter, lambda a: Tensor(a, requires_grad=True)):
        x = make(np.full(shape, 2.0))
        f(x).backward()
        assert x.grad.shape == shape and x.grad == pytest.approx(derivative(2.0), rel=1e-14)
    x = leaf(0.5, 1.0, 1.5)  # and an inner one, of value 3
    f(x.sum()).backward()
    assert x.grad == pytest.approx(np.full(3, derivative(3.0)), rel=1e-14)


def test_what_is_read_only_is_never_added_to():
    """What broadcast_to gives need not repeat elements: of none or of one there is no stride 0."""
    for shape in [(0, 3), (3, 0), (1, 3), (1, 1), (1,), (), (2, 3)]:
        x = Tensor(np.ones(shape), requires_grad=True)
        for _ in range(2):  # the second adds to .grad
            (x.sum() + ops.stack([x, x, x]).sum() + ops.broadcast_to(x, shape=shape).sum()
             + spread(x) + spread(x)).backward()  # fmt: skip
        assert x.grad.shape == shape and (x.grad == 14).all() and x.grad.flags.writeable


@op
def spread(x):
    """The sum, with a VJP that is read-only and shares nothing with g."""
    return x.sum(), (lambda g: np.broadcast_to(np.full((1,) * x.ndim, float(g)), x.shape),)


def test_one_array_for_two_inputs_is_added_to_for_each():
    """Where a VJP gives the same memory to two inputs, neither sum may write to the other's."""

    @op
    def both(a, b, *, view):
        def vjp(g, needs):
            made = 2 * g
            return made, view(made)

        return 2 * (a + b), vjp

    for view in (lambda a: a, lambda a: np.broadcast_to(a, a.shape)):
        for order in itertools.permutations(range(4)):  # in which the parts are added up
            a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
            u, v = a * 1.0, b * 1.0
            parts = [u.sum(), both(u, v, view=view).sum(), 10 * v.sum(), 100 * u.sum()]
            sum(parts[i] for i in order).backward()
            np.testing.assert_array_equal(a.grad, [103, 103])
            np.testing.assert_array_equal(b.grad, [12, 12])
            assert not np.may_share_memory(a.grad, b.grad)


def test_gradients_add_up_over_calls():
    a = leaf(1.0, 2.0)
    for _ in range(3):
        (a * 2).sum().backward()
    assert (a.grad == 6).all()
    held = a.grad
    (a * 2).sum().backward()
    assert a.grad is held  # in place


def test_only_leaves_keep_grad_and_grad_gives_inner_ones():
    a = leaf(1.0, 2.0)
    b = a * 3
    c = b * b
    c.sum().backward()
    assert b.grad is None and c.grad is None and (a.grad == [18, 36]).all()
    a.grad = None
    b = a * 3
    c = b * b
    y = c.sum()
    ga, gb, gc, gy = grad(y, [a, b, c, y])
    assert (ga == [18, 36]).all() and (gb == [6, 12]).all() and (gc == 1).all() and gy == 1
    assert a.grad is None
    y.backward()  # grad kept the graph
    assert (a.grad == [18, 36]).all()


def test_grad_of_what_is_not_below_raises():
    a, other = leaf(1.0), leaf(2.0)
    with pytest.raises(RuntimeError, match=r"does not depend on wanted\[1\], shape \(1,\)"):
        grad((a * 2).sum(), [a, other])
    with pytest.raises(RuntimeError, match="does not depend"):
        grad((a * Tensor([1.0])).sum(), [Tensor([1.0])])


def test_grad_gives_arrays_of_its_own():
    a, g = leaf(1.0, 2.0), np.ones(2)
    b = a + 0.0
    y = b + 0.0
    ga, gb, gy = grad(y, [a, b, y], g)
    for x, others in ((ga, (gb, gy, g)), (gb, (gy, g)), (gy, (g,))):
        assert not any(np.shares_memory(x, other) for other in others)


def test_grad_gives_an_array_for_each_that_is_wanted():
    a = leaf(1.0, 2.0)
    h = a * 3
    found = grad((h * h).sum(), [a, h, a, h])
    assert [f.tolist() for f in found] == [[18, 36], [6, 12]] * 2
    assert not any(np.may_share_memory(f, g) for f in found for g in found if f is not g)
    assert len({id(f) for f in found}) == 4


def test_retain_keeps_the_graph_and_a_freed_one_says_so():
    a = leaf(2.0, 3.0)
    y = (a * a).tanh().sum()
    y.backward(retain=True)
    first = a.grad.copy()
    a.grad = None
    y.backward()
    assert (a.grad == first).all()
    with pytest.raises(RuntimeError, match=r"'sum' before.*freed.*retain=True"):
        y.backward()


def test_a_shared_part_of_a_freed_graph_says_so():
    a = leaf(2.0)
    shared = a * 3
    first, second = shared.exp().sum(), shared.tanh().sum()
    first.backward()
    with pytest.raises(RuntimeError, match="'mul' before.*freed"):
        second.backward()


def test_a_graph_of_300_000_operations():
    x = leaf(1.0)
    y = x
    gc.disable()  # it would look through all the nodes again and again
    try:
        for _ in range(300_000):
            y = -y
        y.backward(retain=True)
        del y  # taking so long a chain apart must not overflow either
    finally:
        gc.enable()
    assert x.grad == 1


def test_wide_sums_are_added_in_place_on_arrays_of_their_own():
    """A view of g is never written: the first sum makes a new array."""
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    s = a + b
    y = s + a + b + a  # a three times, b twice, all of it views of one g
    g = np.array([1.0, 10.0])
    y.backward(g)
    assert (a.grad == [3, 30]).all() and (b.grad == [2, 20]).all() and (g == [1, 10]).all()


def test_a_vjp_may_return_a_view_that_repeats_its_elements():
    @op
    def mean(x):
        n = x.size
        return x.mean(), (lambda g: np.broadcast_to(g / n, (n,)),)

    a = leaf(1.0, 3.0)
    mean(a).backward()
    a.grad *= 2  # an array like any other
    assert (a.grad == 1).all()
    b = leaf(1.0, 3.0)
    c = b * 1.0
    (mean(c) + mean(c) + mean(c)).backward()
    assert (b.grad == 1.5).all()


def test_clipping_one_gradient_leaves_the_other():
    for joined in (lambda a, b: a + b, lambda a, b: ops.stack([a, b]), lambda a, b: a - b):
        a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
        y = joined(a, b)
        g = np.ones(y.shape)
        y.backward(g, retain=True)
        one, other = a.grad.copy(), b.grad.copy()
        a.grad *= 0.1
        assert (b.grad == other).all() and (g == 1).all()
        a.grad = b.grad = None
        y.backward(g)
        assert (a.grad == one).all() and (b.grad == other).all()


def test_cotangents():
    a = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"shape \(2,\) needs a cotangent"):
        (a * 2).backward()
    with pytest.raises(ValueError, match=r"cotangent has shape \(3,\), the Tensor \(2,\)"):
        (a * 2).backward(np.ones(3))
    (a * 2).backward(Tensor([1.0, 2.0]))
    assert (a.grad == [2, 4]).all() and a.grad.dtype == np.float64
    b, g = leaf(1.0), np.array([3.0])
    b.backward(g)  # a leaf is its own gradient
    b.grad *= 2
    assert b.grad == 6 and g == 3


def test_gradients_into_a_dictionary_are_arrays_of_their_own():
    """a and b get the same array on the way; whoever changes one must not change the other."""
    a, b, g = leaf(1.0, 2.0), leaf(3.0, 4.0), np.array([5.0, 6.0])
    a.grad = np.array([7.0, 7.0])
    y, found = a + b, {}
    y.backward(g, retain=True, into=found)
    assert a.grad.tolist() == [7, 7] and b.grad is None  # .grad is left alone
    assert found.keys() == {id(a), id(b)}
    found[id(a)] *= 0.5
    assert found[id(b)].tolist() == [5, 6] and g.tolist() == [5, 6]
    y.backward(g, into=found)  # adds, as it does to .grad
    assert found[id(a)].tolist() == [7.5, 9] and found[id(b)].tolist() == [10, 12]
    s, found = Tensor(np.array(2.0), requires_grad=True), {}
    for _ in range(3):
        (s * 4).backward(into=found)
    assert isinstance(found[id(s)], np.ndarray) and found[id(s)] == 12 and s.grad is None


def test_detach_is_a_new_leaf_on_the_same_array():
    a = leaf(2.0)
    b = (a * 3).detach()
    assert not b.requires_grad
    (a * b).sum().backward()
    assert a.grad == 6
    assert a.detach().data is a.data


# -- nothing to differentiate -------------------------------------------------------------------


def test_backward_with_nothing_trainable_says_why():
    frozen = Tensor([1.0])
    with pytest.raises(RuntimeError, match="it is a leaf that has no input"):
        frozen.backward()
    with pytest.raises(RuntimeError, match="no trainable leaf; its last operation, tanh, had"):
        (frozen * 2).tanh().backward()
    with no_grad():
        y = leaf(1.0).exp()
    with pytest.raises(RuntimeError, match=r"exp \(under no_grad\).*Is everything frozen"):
        y.backward()


def test_no_grad_records_nothing_and_ends():
    a = leaf(1.0)
    with no_grad():
        assert (a * 2)._node is None and not (a * 2).requires_grad
        with no_grad():
            pass
        assert (a * 2)._node is None  # the inner end is not the outer's
    assert (a * 2)._node is not None
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (a * 2)._node is not None


# -- what stands for a Parameter: the context has tests of its own in test_context.py ------------


def test_a_value_that_stands_for_a_parameter_is_used_and_differentiated():
    p, source = Parameter(np.array([1.0])), leaf(5.0)
    with changed(values={id(p): source * 2}):
        y = (p * 3).sum()
    y.backward()
    assert y.item() == 30 and source.grad == 6 and p.grad is None


# -- Parameters that change ---------------------------------------------------------------------


def test_a_parameter_changed_before_backward_raises():
    p = Parameter(np.array([1.0, 2.0]))
    y = (p * p).sum()
    p.data = p.data + 1.0
    with pytest.raises(RuntimeError, match=r"shape \(2,\) was changed.*'mul'"):
        y.backward()
    (p * p).sum().backward()
    assert (p.grad == [4, 6]).all()


def test_a_frozen_parameter_changed_before_backward_raises_too():
    x, w = leaf(1.0), Parameter(np.array([2.0]), requires_grad=False)
    y = (x * w).sum()
    w.data = w.data * 2
    with pytest.raises(RuntimeError, match="was changed"):
        y.backward()


@pytest.mark.parametrize("which", ["leaf", "frozen", "inner", "inner and frozen"])
def test_any_tensor_that_is_set_before_backward_raises(which):
    w, x = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
    h, k = w * 2, x * 2
    y = (w * x + h * k).sum()
    t = {"leaf": w, "frozen": x, "inner": h, "inner and frozen": k}[which]
    assert t.version == 0
    t.data -= 1.0
    assert t.version == 1
    del t, x, h, k  # what backward needs to know does not die with them
    with pytest.raises(RuntimeError, match=r"a Tensor of shape \(2,\) was changed.*'mul'"):
        y.backward()


def test_a_tensor_may_be_set_before_it_is_used_and_after_backward():
    w = leaf(1.0, 2.0)
    w.data = np.array([3.0, 4.0])
    (w * w).sum().backward()
    w.data -= w.grad
    assert w.data.tolist() == [-3, -4] and w.version == 2
    w.grad = None
    (w * w).sum().backward()
    assert w.grad.tolist() == [-6, -8]


def test_data_is_an_array_and_stays_one():
    p = Parameter(np.array(3.0))
    p.data = p.data - 0.5  # a NumPy scalar
    p.data -= 0.5
    assert isinstance(p.data, np.ndarray) and p.data == 2.0 and p.version == 2
    with pytest.raises(TypeError, match="data must be an array, got list"):
        leaf(1.0).data = [2.0]
    with pytest.raises(TypeError, match="only floats have gradients; got data of dtype int64"):
        leaf(1.0).data = np.array([2])
    Tensor([1.0]).data = np.array([2])


def written(t):
    t.data[0] = 5.0


@pytest.mark.parametrize("make", [Parameter, lambda a: Tensor(a, requires_grad=True), Tensor])
@pytest.mark.parametrize("inner", [False, True])
def test_element_writes_are_found_where_they_are_looked_for(make, inner):
    other = leaf(1.0, 2.0)

    def run():
        t = make(np.array([3.0, 4.0]))
        t = t.tanh() if inner else t
        y = (t * other).sum()
        written(t)
        return y

    run().backward()  # not seen, as Tensor.data says
    with running(check=True):
        y = run()
    with pytest.raises(RuntimeError, match=r"an element of .*, shape \(2,\), was changed"):
        y.backward()


def test_a_result_that_was_overwritten_is_found():
    with running(check=True):
        y = leaf(1.0, 2.0).tanh()
    written(y)
    with pytest.raises(RuntimeError, match=r"an element of the result, shape \(2,\), was changed"):
        y.backward(np.ones(2))


def test_the_check_finds_nothing_where_nothing_was_written():
    with running(check=True):
        for shape in [(), (0, 2), (2, 3)]:
            x = Tensor(np.ones(shape), requires_grad=True)
            y = (ops.stack([x, x.T.T, 2 * x]) * np.float32(3)).sum()
            y.backward()
            np.testing.assert_array_equal(x.grad, np.full(shape, 12.0))
        y = fused.cross_entropy(fused.gelu(leaf(1.0, 2.0)[None] * 1.0), np.array([1]))
        y.backward()


# -- frozen inputs cost nothing -----------------------------------------------------------------


def counted(calls):
    @op
    def product(a, b):
        def ga(g):
            calls.append("a")
            return g * b

        def gb(g):
            calls.append("b")
            return g * a

        return a * b, (ga, gb)

    return product


def test_vjps_of_frozen_inputs_do_not_run():
    calls = []
    product = counted(calls)
    x, frozen = leaf(1.0), Tensor(np.array([2.0]))
    product(x, frozen).backward()
    assert calls == ["a"]
    calls.clear()
    product(frozen, x).backward()
    assert calls == ["b"]
    calls.clear()
    y = product(product(frozen, frozen), x)  # nothing below the lowest trainable leaf
    y.backward()
    assert calls == ["b"]


def test_fused_vjps_are_told_what_is_needed():
    told = []

    @op
    def product(a, b):
        def vjp(g, needs):
            told.append(needs)
            return g * b if needs[0] else None, g * a if needs[1] else None

        return a * b, vjp

    product(leaf(1.0), Tensor([2.0])).backward()
    product(leaf(1.0), leaf(2.0)).backward()
    assert told == [(True, False), (True, True)]


# Operations after which the arrays of both inputs may go.
W = Tensor(np.eye(3))
V = Tensor(np.ones(3))
FORGETS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul frozen": lambda a, b: a * W + b * V,
    "div frozen": lambda a, b: a / 2.0 + b / V,
    "neg, where": lambda a, b: ops.where(np.eye(3) > 0, -a, b),
    "exp, tanh, sigmoid, sqrt keep y": lambda a, b: a.exp() + b.tanh() + b.sigmoid() + b.sqrt(),
    "sum, mean": lambda a, b: a.sum(axis=0) + b.mean(axis=0),
    "var keeps what is centred": lambda a, b: a.var(axis=0) + b.var(axis=0),
    "softmax keeps y": lambda a, b: fused.softmax(a) + fused.log_softmax(b),
    "reshape of a copy": lambda a, b: a.T.reshape(9) + b.T.reshape(9),
    "getitem": lambda a, b: a[np.array([0, 0])] + b[np.array([1, 2])],
    "concatenate": lambda a, b: ops.concatenate([a, b]),
    "pad": lambda a, b: ops.pad(a, widths=((1, 1), (0, 0))) + ops.pad(b, widths=((2, 0), (0, 0))),
    "cumsum": lambda a, b: a.cumsum(axis=0) + b.cumsum(axis=1),
    "broadcast_to": lambda a, b: ops.broadcast_to(a, shape=(2, 3, 3)) + b,
    "matmul frozen": lambda a, b: a @ W + W @ b,
    "linear frozen": lambda a, b: fused.linear(a, W, V) + fused.linear(b, W),
    "layer norm keeps h": lambda a, b: fused.layer_norm(a, V, V) + fused.layer_norm(b, V, V),
}


@pytest.mark.parametrize("name", FORGETS)
def test_arrays_that_no_vjp_needs_are_freed_after_the_forward_pass(name):
    x = Tensor(np.ones((3, 3)), requires_grad=True)
    a, b = x * 2.0, x * 3.0
    gone = weakref.ref(a.data), weakref.ref(b.data)
    node = FORGETS[name](a, b)._node  # the graph lives on, the output's array does not
    del a, b
    assert node is not None and [ref() is None for ref in gone] == [True, True]


@pytest.mark.parametrize("retain", [False, True])
def test_backward_frees_activations_on_its_way(retain):
    made, alive = [], []

    @op
    def square(x):
        y = x * x
        made.append(weakref.ref(y))

        def vjp(g):
            alive.append(sum(ref() is not None for ref in made))
            return g * 2 * x

        return y, (vjp,)

    a = leaf(1.0)
    y = a
    for _ in range(6):
        y = square(y)
    y.backward(retain=retain)
    # each step frees the input of the step before; the last y has a name of its own
    assert alive == ([6] * 6 if retain else [6, 5, 4, 3, 2, 1])


# -- operations that are wrong ------------------------------------------------------------------


def test_a_vjp_of_a_wrong_shape_is_named():
    @op
    def broken(x):
        return x * 2, (lambda g: g[:1],)

    with pytest.raises(RuntimeError, match=r"VJP of 'broken' returned shape \(1,\).*shape \(2,\)"):
        broken(leaf(1.0, 2.0)).backward(np.ones(2))


def test_a_vjp_that_returns_nothing_is_named():
    @op
    def silent(x):
        return x * 2, (lambda g: None,)

    with pytest.raises(RuntimeError, match="VJP of 'silent' returned nothing"):
        silent(leaf(1.0)).backward()


def test_an_operation_with_too_few_vjps_is_named():
    @op
    def short(a, b):
        return a * b, (lambda g: g * b,)

    with pytest.raises(TypeError, match="op 'short' took 2 arrays, gave 1 VJPs"):
        short(leaf(1.0), leaf(2.0))


def test_an_operation_may_return_a_python_number():
    @op
    def total(x):
        return float(x.sum()), (lambda g: np.full(x.shape, float(g)),)

    a = leaf(1.0, 2.0)
    total(a).backward()
    assert (a.grad == 1).all()


def test_gradients_come_in_the_dtype_of_the_leaf():
    a = Tensor(np.float32([1, 2]), requires_grad=True)
    y = a * np.array([1.0, 2.0])  # a float64 array promotes, as in NumPy
    assert y.dtype == np.float64
    y.backward(np.ones(2))
    assert a.grad.dtype == np.float32


def test_the_cotangent_is_brought_to_the_dtype_of_the_output():
    seen = []

    @op
    def watched(x):
        return x * 2, (lambda g: seen.append(g.dtype) or 2 * g,)

    watched(Tensor(np.float32([1, 2]), requires_grad=True)).backward([1.0, 2.0])
    assert seen == [np.float32]


def test_an_operation_on_plain_arrays_gives_a_tensor_without_a_graph():
    y = ops.add(np.ones(2), 1.0)
    assert isinstance(y, Tensor) and y._node is None and (y.data == 2).all()
