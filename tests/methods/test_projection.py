"""The transform and the products built on it: against matrices written out, and their twins."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng, to_numpy
from minipeft.engine import Tensor, grad_check
from minipeft.methods import projection, projection_slow


def kronecker(n):
    """H_n as the definition has it."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), h)
    return h


def normal(name, *shape):
    return np.asarray(Rng(1, name, str(shape)).normal(shape))


def food(d, n, size):
    rng = Rng(2, "food", d, n)
    return normal("z", d), rng.sign(d), rng.permutation(n), rng.normal(n), size


FOODS = [food(1, 1, 1), food(3, 16, 11), food(16, 16, 16), food(5, 8, 1), food(40, 512, 300)]
SCATTERED = [(normal("z", d), Rng(3).integers(0, size, (d, m)), Rng(4).sign((d, m)), size)
             for d, m, size in ((1, 1, 1), (4, 3, 7), (6, 5, 40))]  # fmt: skip
CASES = [
    *[("hadamard", (normal("x", *s),), {}) for s in ((1,), (2,), (16,), (3, 32), (2, 2, 64))],
    *[("fastfood", tuple(case), {"size": size}) for *case, size in FOODS],
    *[("scatter_signs", tuple(case), {"size": size}) for *case, size in SCATTERED],
]


@pytest.mark.parametrize("n", [1, 2, 8, 16, 32, 256, 1024])
def test_the_transform_is_its_matrix(n):
    x = normal("x", 3, n)
    y = projection.hadamard(Tensor(x)).data
    assert np.abs(y - x @ kronecker(n)).max() <= 1e-14 * n
    assert np.abs(projection.hadamard(Tensor(y)).data - n * x).max() <= 1e-13 * n  # H H = n
    first = np.eye(1, n)[0]
    assert (projection.hadamard(Tensor(first)).data == 1).all()  # H e_0 is all ones


@pytest.mark.parametrize(("name", "inputs", "settings"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_agrees_with_its_twin(name, inputs, settings, dtype, tolerance):
    cast = [x.astype(dtype) if x.dtype.kind == "f" else x for x in inputs]
    found = []
    for f in (getattr(projection, name), getattr(projection_slow, f"{name}_slow")):
        z = Tensor(cast[0], requires_grad=True)
        y = f(z, *cast[1:], **settings)
        y.backward(normal("g", *y.shape).astype(dtype))
        assert y.dtype == z.grad.dtype == dtype
        found.append((y.data, z.grad))
    for fast, slow in zip(*found, strict=True):
        assert fast.shape == slow.shape
        assert np.abs(fast - slow).max() <= tolerance * np.abs(slow).max()


@pytest.mark.parametrize(("name", "inputs", "settings"), CASES)
def test_gradient(name, inputs, settings):
    fast = getattr(projection, name)
    z, *rest = inputs
    assert grad_check(lambda z: fast(z, *rest, **settings), z) < 1e-8


@pytest.mark.parametrize(("name", "inputs", "settings"), CASES)
def test_the_adjoint_identity(name, inputs, settings):
    """<P x, y> = <x, Pᵀ y>, where Pᵀ is what backward applies."""
    fast, (z, *rest) = getattr(projection, name), inputs
    x = Tensor(z, requires_grad=True)
    y = fast(x, *rest, **settings)
    g = normal("cotangent", *y.shape)
    y.backward(g)
    assert abs((y.data * g).sum() - (z * x.grad).sum()) <= 1e-12 * np.abs(y.data).max() * g.size


@pytest.mark.parametrize(("name", "inputs", "settings"), CASES)
def test_two_backwards_are_bit_equal_and_write_nothing(name, inputs, settings):
    fast, x = getattr(projection, name), Tensor(inputs[0], requires_grad=True)
    for a in inputs:
        a.flags.writeable = False
    y = fast(x, *inputs[1:], **settings)
    assert not np.shares_memory(y.data, x.data)
    g = normal("g", *y.shape)
    g.flags.writeable = False
    y.backward(g, retain=True)
    first, x.grad = x.grad, None
    assert not any(np.shares_memory(first, a) for a in (g, y.data, *inputs))
    y.backward(g)
    assert first.tobytes() == x.grad.tobytes()
    for a in inputs:
        a.flags.writeable = True


def test_runs_on_every_backend(backend):
    for name, inputs, settings in CASES:
        there = [backend.asarray(x) for x in inputs]
        z = Tensor(there[0], requires_grad=True)
        y = getattr(projection, name)(z, *there[1:], **settings)
        y.backward(backend.ones_like(y.data))
        host = getattr(projection, name)(*inputs, **settings)
        assert np.allclose(to_numpy(y.data), host.data, rtol=1e-12, atol=1e-12)
        assert type(z.grad) is type(y.data)


def test_a_random_column_has_length_one():
    """Normals over sqrt(size) times their norm: columns of length 1, as Li et al. have them."""
    d, n, size = 37, 2048, 1999
    *_, signs, order, normals, _ = food(d, n, size)
    scales = normals / math.sqrt(size * (normals**2).sum())
    columns = [projection.fastfood(Tensor(e), signs, order, scales, size=size).data
               for e in np.eye(d)]  # fmt: skip
    norms = np.linalg.norm(columns, axis=1)
    assert abs(norms.mean() - 1) < 5e-3 and norms.std() < 0.03


ERRORS = {
    "hadamard: the length must be a power of two, got 6; the next is 8": lambda: (
        projection.hadamard(np.ones(6))
    ),
    "a power of two, got 0; the next is 1": lambda: projection.hadamard(np.array(1.0)),
    "fastfood: the length must be a power of two, got 3; the next is 4": lambda: (
        projection.fastfood(np.ones(2), np.ones(2), np.arange(3), np.ones(3), size=2)
    ),
    "needs as many signs, and order and scales of one length >= 4 and 2": lambda: (
        projection.fastfood(np.ones(4), np.ones(3), np.arange(4), np.ones(4), size=2)
    ),
    "length >= 2 and 9": lambda: projection.fastfood(
        np.ones(2), np.ones(2), np.arange(4), np.ones(4), size=9
    ),
    r"scatter_signs: z \(2,\) needs rows and signs \(d, m\), got \(3, 1\) and \(3, 1\)": lambda: (
        projection.scatter_signs(np.ones(2), np.zeros((3, 1), int), np.ones((3, 1)), size=4)
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_wrong_calls_raise_named_errors(message):
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()
