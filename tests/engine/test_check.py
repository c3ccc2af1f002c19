"""The gradient check: what it catches, what it says, and why its cotangent is random."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import GradError, Tensor, fused, grad_check, jacobian, no_grad, op, ops
from minipeft.engine.check import kink_free
from minipeft.nn import Parameter


def normal(name, *shape):
    return np.asarray(Rng(2, name).normal(shape))


X, W = normal("x", 3, 4), normal("w", 4, 4)

# -- six operations, each with one mistake in its derivative ---------------------------------------


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def normalized(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    s = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
    return centred * s, s


def centre(g):
    return g - g.mean(axis=-1, keepdims=True)


@op
def softmax_without_y(x):
    y = softmax(x)
    return y, (lambda g: g - (g * y).sum(axis=-1, keepdims=True),)


@op
def softmax_zero(x):
    return softmax(x), (lambda g: 0 * g,)


@op
def layer_norm_with_n_minus_1(x):
    h, s = normalized(x)
    n = x.shape[-1]
    return h, (
        lambda g: s * (centre(g) - h * (g * h).sum(axis=-1, keepdims=True) / (n - 1)),
    )  # fmt: skip


@op
def layer_norm_without_projection(x):
    h, s = normalized(x)
    return h, (lambda g: s * centre(g),)


@op
def matmul_without_transpose(x):
    return x @ W, (lambda g: g @ W,)


@op
def bias_without_sum(b):
    return X + b, (lambda g: g[0],)


MUTANTS = {
    "softmax without y": (softmax_without_y, X),
    "softmax zero": (softmax_zero, X),
    "layer norm with n-1": (layer_norm_with_n_minus_1, X),
    "layer norm without the projection": (layer_norm_without_projection, X),
    "missing transpose": (matmul_without_transpose, X),
    "dropped broadcast sum": (bias_without_sum, normal("b", 4)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name):
    f, x = MUTANTS[name]
    for seed in range(20):  # by any cotangent and any direction
        with pytest.raises(GradError):
            grad_check(f, x, seed=seed)


def test_a_cotangent_of_ones_is_blind():
    """Softmax sums to 1 and layer norm to 0, so their true gradient under ones is 0."""
    survivors = []
    for name, (f, x) in MUTANTS.items():
        try:
            grad_check(lambda x, f=f: f(x).sum(), x)
            survivors.append(name)
        except GradError:
            pass
    assert survivors == [
        "softmax without y",
        "softmax zero",
        "layer norm with n-1",
        "layer norm without the projection",
    ]


def test_the_right_operations_pass():
    def layer_norm(x):
        return fused.layer_norm(x, Tensor(np.ones(4)), Tensor(np.zeros(4)))

    for f, x in (
        (fused.softmax, X),
        (layer_norm, X),
        (lambda x: x @ W, X),
        (lambda b: X + b, normal("b", 4)),
    ):
        for seed in range(20):
            assert grad_check(f, x, seed=seed) < 1e-8


# -- what it says ----------------------------------------------------------------------------------


def scaled_gradient(factor, only=None):
    """x², whose gradient is `factor` times too large (in one element, if `only` names it)."""

    @op
    def square(x):
        def vjp(g):
            gx = 2 * g * x
            if only is None:
                return gx * factor
            gx[only] *= factor
            return gx

        return x * x, (vjp,)

    return square


@pytest.mark.parametrize("factor", [2, -1, 0.25, 0])
def test_the_message_gives_the_ratio(factor):
    with pytest.raises(GradError, match=rf"ratio {factor:g}\. "):
        grad_check(scaled_gradient(factor), X)


def test_the_message_names_the_worst_element_and_both_values():
    with pytest.raises(GradError) as caught:
        grad_check(scaled_gradient(2, only=(1, 2)), X, tol=1e-9)
    message = str(caught.value)
    assert "input 0, shape (3, 4), is wrong" in message
    assert "Worst element (1, 2): backward gives" in message
    words = message.split("backward gives ")[1].split(",")
    found, expected = float(words[0]), float(words[1].removeprefix(" the difference quotient "))
    assert abs(found / expected - 2) < 1e-6


def test_an_error_in_a_small_gradient_of_a_large_parameter_is_named():
    """Not all elements are looked at one by one: the suspects are halved first."""
    x = normal("large", 1000) + 3.0
    x[500] = 1e-2
    with pytest.raises(GradError, match=r"Worst element \(500,\)"):
        grad_check(scaled_gradient(1e3, only=500), x)


def test_a_missing_gradient_is_named_by_its_input():
    with pytest.raises(GradError, match="gradient of input 1"):
        grad_check(lambda a, b: a * b.detach(), X, X + 1)


def test_a_wrong_parameter_is_named_by_its_number():
    good, bad = Parameter(normal("p", 4)), Parameter(normal("q", 4))

    def f(x):
        return x * good + scaled_gradient(2)(bad)

    with pytest.raises(GradError, match="gradient of parameter 1, shape"):
        grad_check(f, X, params=[good, bad])


# -- what it takes ---------------------------------------------------------------------------------


def test_float32_is_refused():
    with pytest.raises(TypeError, match="needs float64, input 1 is float32"):
        grad_check(ops.add, X, X.astype(np.float32))
    with pytest.raises(TypeError, match="needs float64, parameter 0 is float32"):
        grad_check(lambda x: x * 1.0, X, params=[Parameter(np.float32([1]))])


def test_a_frozen_parameter_is_refused():
    frozen = Parameter(normal("p", 4), requires_grad=False)
    with pytest.raises(ValueError, match=r"parameter 0, shape \(4,\), is frozen"):
        grad_check(lambda x: x * frozen, X, params=[frozen])


def test_nothing_to_check_is_refused():
    with pytest.raises(ValueError, match="nothing to check"):
        grad_check(lambda i: Tensor([1.0]), np.array([1, 2]))


def test_integers_are_passed_on_and_inputs_are_left_alone():
    ids, table = np.array([0, 2, 0]), normal("table", 3, 4)
    before = table.copy()
    assert grad_check(fused.embedding, table, ids) < 1e-8
    assert (table == before).all()
    assert grad_check(lambda x, n, s: x * n, [1.0, 2.0], 3, "a setting") < 1e-8
    assert grad_check(lambda x: x * x, Tensor(X)) < 1e-8


def test_parameters_are_put_back():
    w = Parameter(normal("w", 4))
    kept, before = w.data, w.data.copy()
    grad_check(lambda x: x * w, X, params=[w])
    assert w.data is kept and (w.data == before).all()
    assert w.grad is None  # the check's own gradient is not left for an optimizer
    with pytest.raises(GradError):
        grad_check(lambda x: scaled_gradient(3)(w) * x, X, params=[w])
    assert w.data is kept and w.grad is None


def test_each_parameter_has_directions_of_its_own():
    """A wrong gradient of one small input is not hidden by a right one of a large."""
    right, small = normal("many", 50, 40), normal("few", 2)
    with pytest.raises(GradError, match="input 1"):
        grad_check(lambda a, b: (a * a).sum() + scaled_gradient(1.001)(b).sum(), right, small)


def test_a_check_is_the_same_every_time():
    assert grad_check(fused.softmax, X, seed=3) == grad_check(fused.softmax, X, seed=3)
    assert grad_check(fused.softmax, X, seed=3) != grad_check(fused.softmax, X, seed=4)


def test_four_composed_blocks_pass_with_room():
    B, T, C, H, F, V = 2, 5, 8, 2, 16, 11
    rng = Rng(5)

    def weight(*shape):
        return Parameter(0.3 * rng.normal(shape))

    blocks = [
        {"q": weight(C, C), "k": weight(C, C), "v": weight(C, C), "o": weight(C, C), "b": weight(C),
         "up": weight(F, C), "down": weight(C, F), "w1": weight(C), "w2": weight(C)}
        for _ in range(4)
    ]  # fmt: skip
    table, ids, labels = weight(V, C), rng.integers(0, V, (B, T)), rng.integers(0, V, (B, T))

    def loss(start):
        x = start + fused.embedding(table, ids)
        for p in blocks:
            h = fused.layer_norm(x, p["w1"], p["b"])
            q, k, v = (fused.linear(h, p[name]) for name in "qkv")
            x = x + fused.linear(fused.attention(q, k, v, heads=H, causal=True), p["o"], p["b"])
            h = fused.layer_norm(x, p["w2"], p["b"])
            x = x + fused.linear(fused.gelu(fused.linear(h, p["up"])), p["down"])
        return fused.cross_entropy(fused.linear(x, table), labels, smoothing=0.1)

    parameters = [table, *[t for p in blocks for t in p.values()]]
    assert grad_check(loss, normal("start", B, T, C), params=parameters) < 2e-9


# -- what is not finite, empty, or no Tensor -------------------------------------------------------


def off(value, at=None):
    """The identity, with a gradient that is `value` everywhere, or at one element."""

    @op
    def identity(x):
        def vjp(g):
            wrong = g.copy() if at is not None else g * 0
            wrong[(...,) if at is None else at] = value
            return wrong

        return x * 1.0, (vjp,)

    return identity


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "x, at", [(X, None), (X, (2, 1)), (np.array(2.0), ()), (X[:1, :1], (0, 0))]
)
def test_a_gradient_that_is_not_finite_is_wrong(value, x, at):
    with pytest.raises(GradError, match=rf"gradient of input 0, shape .*, is {value} at \("):
        grad_check(off(value, at), x)
    with pytest.raises(GradError, match="gradient of parameter 0"):
        p = Parameter(np.array(x))
        grad_check(lambda: off(value, at)(p), params=[p])


@np.errstate(all="ignore")
def test_a_function_that_is_not_finite_cannot_be_checked():
    with pytest.raises(GradError, match=r"the value of f, shape \(2,\), is nan at \(1,\): 1 of 2"):
        grad_check(ops.log, np.array([1.0, -1.0]))
    with pytest.raises(GradError, match="the value of f, .* is inf"):
        grad_check(lambda x: 1 / x, np.zeros(3))
    with pytest.raises(GradError, match=r"Worst element \(1,\).*the difference quotient nan"):
        grad_check(lambda x: ops.sqrt(ops.sqrt(x)), np.array([1.0, 1e-12]))  # x - eps is below 0


def test_scalars_and_empty_arrays_are_checked_too():
    assert grad_check(lambda x: x * x * x + x, np.array(0.7)) < 1e-9
    assert grad_check(lambda x: x * x, np.float32(0.7) * np.float64(1)) < 1e-9
    assert grad_check(lambda x, y: x.sum() * y, np.zeros((0, 3)), np.array(2.0)) < 1e-9
    assert grad_check(lambda x, y: ops.concatenate([x, y]), np.zeros((0, 3)), X[:, :3]) < 1e-9
    with pytest.raises(GradError, match="input 1"):
        grad_check(lambda x, y: x.sum() + scaled_gradient(2.0)(y), np.zeros(0), np.array(2.0))
    with pytest.raises(RuntimeError, match=r"returned shape \(1,\) for an input of shape \(\)"):
        grad_check(op(lambda x: (x * 1.0, (lambda g: g.reshape(1),))), np.array(2.0))


def test_a_function_must_return_a_tensor_in_double_precision():
    with pytest.raises(TypeError, match="an f that returns a Tensor, got ndarray"):
        grad_check(lambda x: x.data, X)
    with pytest.raises(TypeError, match="grad_check needs float64, input 0 is float32"):
        grad_check(ops.exp, np.float32(2.0))
    half = op(lambda x: (x.astype(np.float32), (lambda g: g,)))
    with pytest.raises(TypeError, match="grad_check needs float64, f returned float32"):
        grad_check(half, X)


def test_a_function_that_overwrites_what_it_used_is_found():
    def f(x):
        y = ops.tanh(x)
        z = y * y
        y.data[0] = 0.0
        return z

    with pytest.raises(RuntimeError, match="an element of .* was changed between"):
        grad_check(f, X)


def test_gradients_that_were_there_are_left_alone():
    p = Parameter(X.copy())
    p.grad = kept = np.ones_like(X)
    grad_check(lambda: p * p, params=[p])
    assert p.grad is kept and (kept == 1).all()


# -- jacobian and kinks ----------------------------------------------------------------------------


def test_jacobian_of_softmax():
    x = normal("j", 4)
    y = softmax(x)
    assert np.abs(jacobian(fused.softmax, x) - (np.diag(y) - np.outer(y, y))).max() <= 1e-15


def test_jacobian_shapes():
    x = normal("j", 2, 3)
    J = jacobian(lambda x: x @ W[:3], x)
    assert J.shape == (2, 4, 2, 3)
    want = np.einsum("ik,lj->ijkl", np.eye(2), W[:3])
    assert np.abs(J - want).max() == 0
    assert jacobian(lambda x: (x * x).sum(), x).shape == (2, 3)
    assert (jacobian(lambda x: x * x, Tensor(x))[1, 2, 1, 2] == 2 * x[1, 2]).all()
    assert jacobian(lambda x: x * 3.0, 2.0) == 3.0


def test_jacobian_of_what_does_not_depend_on_x_is_refused():
    with no_grad(), pytest.raises(RuntimeError, match="nothing to differentiate"):
        jacobian(fused.softmax, X)


def test_jacobian_of_scalars_of_nothing_and_of_what_is_not_finite():
    assert jacobian(lambda x: x * x * x, np.array(2.0)) == 12
    assert jacobian(lambda x: x * 2, np.zeros((0, 3))).shape == (0, 3, 0, 3)
    assert jacobian(lambda x: x.sum(), np.zeros((0, 3))).shape == (0, 3)
    assert jacobian(lambda x: x[:0], X).shape == (0, 4, 3, 4)
    assert np.isnan(jacobian(off(math.nan), X)).all()
    assert jacobian(lambda x: x * 2, X.astype(np.float32)).dtype == np.float32


def test_kink_free_takes_what_has_no_elements_and_refuses_nan():
    assert kink_free(lambda i: np.zeros((0, 2)), lambda x: x).shape == (0, 2)
    with pytest.raises(ValueError, match="no input away from a kink"):
        kink_free(lambda i: np.array([1.0, math.nan]), lambda x: x, tries=3)


def test_kink_free_redraws_until_it_is_away():
    draws = []

    def draw(i):
        draws.append(i)
        return np.array([0.5, 1e-4 if i < 3 else -0.2])

    assert kink_free(draw, lambda x: x)[1] == -0.2 and draws == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no input away from a kink in 5 draws"):
        kink_free(lambda i: np.zeros(2), lambda x: x, tries=5)


def test_a_kink_fails_where_the_input_sits_on_it():
    with pytest.raises(GradError):
        grad_check(ops.relu, np.array([0.0, 1.0]))
    assert math.isfinite(grad_check(ops.relu, np.array([0.1, 1.0])))
