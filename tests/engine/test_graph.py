"""The tape: what was recorded, what it keeps, and what freezing pruned."""

import numpy as np

from minipeft.engine import Tensor, fused, no_grad, op, ops, tape
from minipeft.engine.graph import held, kept, operations
from minipeft.nn import Parameter

ROWS, WIDTH = 6, 4
KEPT = ROWS * WIDTH * 8  # bytes of one (ROWS, WIDTH) array in float64


def ones(*shape, trains=True):
    return Parameter(np.ones(shape), requires_grad=trains)


def inner():
    """A tensor that no parameter owns: what it holds is an activation."""
    return Tensor(np.ones((ROWS, WIDTH)), requires_grad=True) * 1.0


def table(text):
    return [line.split("  ") for line in text.splitlines()]


def test_a_frozen_linear_keeps_nothing_and_a_trained_one_its_input():
    x = inner()
    frozen, bias = ones(3, WIDTH, trains=False), ones(3, trains=False)
    assert held(fused.linear(x, frozen, bias)._node) == 0
    assert held(fused.linear(x, frozen, ones(3))._node) == 0  # a bias needs g alone
    assert held(fused.linear(x, ones(3, WIDTH), bias)._node) == KEPT
    fixed = Tensor(np.ones((ROWS, WIDTH)))  # nothing below trains: x is kept for w alone
    assert held(fused.linear(fixed, ones(3, WIDTH))._node) == KEPT


def test_what_each_operation_keeps():
    w, b = ones(WIDTH), ones(WIDTH)
    for f, want in (
        (lambda x: x + 1.0, 0), (lambda x: x + x, 0), (lambda x: x * 2.0, 0), (lambda x: -x, 0),
        (lambda x: x * x, KEPT), (lambda x: x.exp(), KEPT), (lambda x: x.sum(axis=0), 0),
        (lambda x: x.mean(axis=0), 0), (lambda x: x.T, 0), (lambda x: x[1:], 0),
        (lambda x: x.reshape(-1), 0), (lambda x: ops.concatenate([x, x]), 0),
        (lambda x: fused.gelu(x), KEPT), (lambda x: fused.softmax(x), KEPT),
        (lambda x: fused.layer_norm(x, w, b), KEPT + ROWS * 8 + WIDTH * 8),  # h, s, 1/n
    ):  # fmt: skip
        assert held(f(inner())._node) == want


def test_an_array_kept_twice_counts_once():
    x = inner()
    y, z = x * x, x * x
    seen = set()
    assert held(y._node, seen) == KEPT and held(z._node, seen) == 0
    lines = tape((y + z).sum()).splitlines()
    assert f"{KEPT:,}" in lines[-1] and "bytes" in lines[-1]


def test_kept_lists_what_each_operation_below_keeps():
    x = inner()
    y = (x * x).exp() * x
    rows = kept(y)
    assert [row.operation for row in rows] == ["mul", "mul", "exp", "mul"]
    assert [row.bytes for row in rows] == [0, 0, 0, 2 * KEPT]  # the last one holds both, x and exp
    assert rows[-1].shape == (ROWS, WIDTH)
    total = tape(y).splitlines()[-1].split()[-2]
    assert total == f"{sum(row.bytes for row in rows):,}"
    y.backward(np.ones((ROWS, WIDTH)))
    assert [row.bytes for row in kept(y)] == [0] and kept(Tensor([1.0])) == []


def test_views_of_one_array_count_as_that_array():
    x = inner()
    assert held((x[:2] * x[:2])._node) == KEPT  # a slice keeps all of it alive


def test_attention_keeps_its_inputs_and_its_weights():
    q = inner().reshape(1, ROWS, WIDTH)
    y = fused.attention(q, q, q, heads=2, causal=True)
    assert held(y._node) == KEPT + 2 * ROWS * ROWS * 8  # q = k = v, and p


def test_inner_functions_of_a_vjp_are_looked_into():
    @op
    def square(x):
        def slope():
            return 2 * x

        return x * x, (lambda g: g * slope(),)

    assert held(square(inner())._node) == KEPT


def test_the_tape_names_parameters_and_what_was_pruned():
    w, b = ones(3, WIDTH, trains=False), ones(3)
    x = Parameter(np.ones((ROWS, WIDTH)))
    y = fused.linear(x, w, b).sum()
    text = tape(y, {"fc.weight": w, "fc.bias": b, "x": x})
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == "operation shape keeps gradient to pruned".split()
    assert lines[1].split() == ["#0", "sum", "()", "0", "#1"]
    assert lines[2].split() == ["#1", "linear", "(6,", "3)", "0", "x,", "fc.bias", "fc.weight"]
    assert lines[3].split() == ["2", "operations", "0", "bytes"]
    at = lines[0].index("pruned")
    assert lines[2][at:] == "fc.weight"
    assert {line[lines[0].index("keeps") :][:5] for line in lines[1:]} == {"    0"}  # on the right
    assert lines[0].index("gradient to") == lines[2].index("x, fc.bias")  # columns line up
    assert "leaf (6, 4), leaf (3,)" in tape(y) and "leaf (3, 4)" in tape(y)  # without names


def test_below_the_lowest_trainable_leaf_nothing_is_recorded():
    low, high = ones(WIDTH, WIDTH, trains=False), ones(WIDTH, WIDTH)
    x = Tensor(np.ones((ROWS, WIDTH)))
    for _ in range(3):
        x = fused.gelu(fused.linear(x, low))
    y = fused.linear(fused.linear(x, high), low).sum()
    assert operations(y) == ["linear", "linear", "sum"]
    assert tape(y, {"low": low, "high": high}).count("low") == 1


def test_the_tape_of_nothing():
    w = ones(2)
    with no_grad():
        y = w * 2
    for empty in (y, Tensor([1.0]), w):
        assert tape(empty).startswith("(nothing recorded")
        assert operations(empty) == []


def test_a_freed_graph_keeps_nothing():
    x = inner()
    y = (x * x).sum()
    y.backward(retain=True)
    assert f"{KEPT:,}" in tape(y)
    y.backward()
    assert held(y._node) == 0 and tape(y).splitlines()[-1].split() == [
        "1",
        "operations",
        "0",
        "bytes",
    ]
