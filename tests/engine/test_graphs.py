"""Random graphs: gradients are the differences that the function shows, whatever the shapes."""

from types import SimpleNamespace

import numpy as np
import pytest

from minipeft.engine import Tensor, grad, grad_check, recompute
from minipeft.nn import Parameter
from tests import graphs


def each(n, check):
    """Call check(graph, f) for n graphs whose function is f(*leaves); an error shows its graph."""
    for seed in range(n):
        graph = graphs.draw(seed)
        try:
            check(graph, lambda *leaves, graph=graph: graphs.values(graph, graphs.OURS, leaves)[-1])
        except Exception as error:
            raise AssertionError(f"graph {seed}\n{graph}\n{error!r}") from error


@pytest.mark.parametrize("n", [300, pytest.param(6000, marks=pytest.mark.full)])
def test_gradients_are_differences(n):
    each(n, lambda graph, f: grad_check(f, *graph.leaves, tol=1e-7, directions=1))


def alone(arrays):
    """Whether each is an array with memory of its own, which may be written to."""
    return all(isinstance(a, np.ndarray) and a.flags.writeable for a in arrays) and not any(
        np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i]
    )


@pytest.mark.parametrize("n", [60, pytest.param(2000, marks=pytest.mark.full)])
def test_every_way_to_a_gradient_gives_the_same(n):
    def check(graph, f):
        leaves = [Parameter(a.copy()) for a in graph.leaves]
        y = f(*leaves)
        g = np.ones_like(y.data)
        first = grad(y, leaves, g)
        found = {}
        y.backward(g, retain=True, into=found)
        y.backward(g, retain=True)
        kept = [p.grad.copy() for p in leaves]
        y.backward(g)
        again = [Tensor(a.copy(), requires_grad=True) for a in graph.leaves]
        recompute(f, *again).backward(g)
        for p, a, c, t in zip(leaves, first, kept, again, strict=True):
            assert a.tobytes() == found[id(p)].tobytes() == c.tobytes() and a.shape == p.shape
            np.testing.assert_array_equal(p.grad, 2 * c)
            np.testing.assert_allclose(t.grad, c, rtol=1e-12, atol=1e-14)
        assert alone([*first, *found.values(), *(p.grad for p in leaves), g])
        assert all((p.data == a).all() for p, a in zip(leaves, graph.leaves, strict=True))

    each(n, check)


def lighter(a):
    """A constant in single precision."""
    return a.astype(np.float32) if a.dtype == np.float64 else a


@pytest.mark.parametrize("n", [60, pytest.param(2000, marks=pytest.mark.full)])
def test_single_precision_stays_single(n):
    def check(graph, f):
        leaves = [Tensor(a.astype(np.float32), requires_grad=True) for a in graph.leaves]
        exact = [Tensor(a.data.astype(np.float64), requires_grad=True) for a in leaves]
        single = SimpleNamespace(**vars(graphs.OURS) | {"array": lighter})
        made = graphs.values(graph, single, leaves)
        assert {t.dtype for t in made} == {np.dtype(np.float32)}
        (made[-1] * 1.0).sum().backward()
        f(*exact).sum().backward()
        for t, e in zip(leaves, exact, strict=True):
            assert t.grad.dtype == np.float32
            scale = 1 + np.abs(e.grad).max(initial=0)
            np.testing.assert_allclose(t.grad, e.grad, rtol=0, atol=2e-3 * scale)

    each(n, check)


def test_the_graphs_are_as_they_should_be():
    """Of every operation some, of every kind of shape some, and all tensors used many times."""
    drawn = [graphs.draw(seed) for seed in range(200)]
    kinds = {step.kind for graph in drawn for step in graph.steps}
    assert kinds == set(graphs.KINDS)
    shapes = {a.shape for graph in drawn for a in graph.leaves}
    assert shapes == set(graphs.SHAPES)
    for graph in drawn:
        uses = [0] * (len(graph.leaves) + len(graph.steps))
        for step in graph.steps:
            for i in step.inputs:
                uses[i] += 1
        assert {n for n in uses if n} <= set(range(3, 16)) and graph.ends == [
            i for i, n in enumerate(uses) if not n
        ]
    assert graphs.draw(3) != graphs.draw(4) and str(graphs.draw(3)) == str(graphs.draw(3))
