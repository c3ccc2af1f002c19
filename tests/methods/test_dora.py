"""DoRA: lengths and directions, what its gradient leaves out, whose norms, and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, running
from minipeft.methods import DoRA, LoRA
from minipeft.methods.quant import Quantize
from minipeft.models import GPT
from minipeft.models.presets import preset
from tests.methods.contract import CASES, QKV, randomize, run, same

IDS = CASES["dora"].inputs()


@pytest.mark.parametrize(
    ("name", "count"),
    [("gpt2", 175_104), ("gpt2-medium", 466_944), ("gpt2-large", 875_520)],
)
def test_counts(name, count):
    handle = attach(GPT(preset(name), init="shape"), DoRA(r=4, targets=QKV, fused=QKV))
    assert handle.count() == count


def one(**settings):
    """A wrapper with random A, B and m, an input and a cotangent."""
    model = CASES["dora"].model()
    handle = attach(model, DoRA(**{"r": 2, "alpha": 3.0, "targets": "fc_in", **settings}))
    randomize(handle)
    w = handle.wrappers["blocks.0.mlp.fc_in"]
    return w, Rng(1).normal((5, 8)), Rng(2).normal((5, 32))


def moved(w):
    """W0 + s B A"""
    return w.base.weight.data + w.scale * (w.B.data @ w.A.data)


@pytest.mark.parametrize("by_input", [False, True])
def test_m_is_the_length_of_each_merged_row_or_column(by_input):
    w, x, _ = one(by_input=by_input)
    merged = w.merged().weight.data
    np.testing.assert_allclose(
        np.linalg.norm(merged, axis=0 if by_input else 1), abs(w.m.data), rtol=1e-12
    )
    V = moved(w)
    n = np.linalg.norm(V, axis=0 if by_input else 1)
    W = V * (w.m.data / n if by_input else (w.m.data / n)[:, None])
    np.testing.assert_allclose(merged, W, rtol=0, atol=1e-13)
    np.testing.assert_allclose(w(Tensor(x)).data, x @ W.T + w.base.bias.data, rtol=0, atol=1e-12)


def test_it_starts_from_the_lengths_of_the_rows():
    model = CASES["dora"].model(np.float32)
    handle = attach(model, DoRA(r=2))
    for w in handle.wrappers.values():
        assert w.m.dtype == np.float32
        rows = np.linalg.norm(w.base.weight.data.astype(float), axis=1)
        np.testing.assert_allclose(w.m.data, rows, rtol=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_gradients_are_those_of_the_formula(exact):
    """The gradient for V = W0 + s B A is m/n G; the exact one has no part along V's rows."""
    w, x, g = one(exact=exact)
    w(Tensor(x)).backward(g)
    V, m = moved(w), w.m.data
    n = np.linalg.norm(V, axis=1)
    G = (m / n)[:, None] * (g.T @ x)  # (d_out, d_in)
    if exact:
        G -= ((G * V).sum(1) / (n * n))[:, None] * V
    np.testing.assert_allclose(w.m.grad, (g * (x @ V.T) / n).sum(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(w.B.grad, w.scale * G @ w.A.data.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(w.A.grad, w.scale * w.B.data.T @ G, rtol=0, atol=1e-12)


def test_what_is_left_out_lies_along_the_rows():
    """So a step that only turns the rows is the same with either gradient."""
    grads = {}
    for exact in (False, True):
        w, x, g = one(exact=exact)
        w(Tensor(x)).backward(g)
        grads[exact] = w.B.grad
    assert abs(grads[True] - grads[False]).max() > 0.1
    along = moved(w) @ w.A.data.T  # how the rows' lengths answer to B
    left_out = grads[False] - grads[True]
    for row, direction in zip(left_out, along, strict=True):
        assert abs(row @ direction) == pytest.approx(
            np.linalg.norm(row) * np.linalg.norm(direction), rel=1e-9
        )


def test_only_a_sees_the_dropped_input():
    w, x, _ = one(dropout=0.5)
    w.B.data = np.zeros_like(w.B.data)
    still = w(Tensor(x)).data
    with running(rng=Rng(3)):
        assert same(w(Tensor(x)).data, still)
    w, x, _ = one(dropout=0.5)
    still = w(Tensor(x)).data
    with running(rng=Rng(3)):
        assert not same(w(Tensor(x)).data, still)


def test_it_reads_the_weight_that_codes_stand_for():
    model = CASES["dora"].model()
    attach(model, Quantize(block=8))
    y = run(model, IDS)
    handle = attach(model, DoRA(r=2))
    assert abs(run(model, IDS) - y).max() < 1e-12 * abs(y).max()
    w = handle.wrappers["blocks.0.attn.q_proj"]
    np.testing.assert_allclose(w.m.data, np.linalg.norm(w.base.weight.data, axis=1))
    assert not same(w.base.weight.data, w.base.base.weight.data)


def test_another_method_around_the_weight_is_refused():
    model = CASES["dora"].model()
    attach(model, LoRA(r=2, targets="q_proj"))
    with pytest.raises(ValueError, match="weight of blocks.0.attn.q_proj, which 'lora' stands"):
        attach(model, DoRA(r=2))
    attach(model, DoRA(r=2, targets="v_proj"))


@pytest.mark.parametrize(("by_input", "one"), [(False, "row"), (True, "column")])
def test_a_weight_without_a_direction_is_refused(by_input, one):
    model = CASES["dora"].model()
    weight = model.get("blocks.1.attn.v_proj").weight
    data = weight.data.copy()
    data[3 if not by_input else slice(None), slice(None) if not by_input else 3] = 0
    weight.data = data
    with pytest.raises(ValueError, match=f"a {one} of blocks.1.attn.v_proj.weight is all zeros"):
        attach(model, DoRA(r=2, by_input=by_input))
    attach(model, DoRA(r=2, by_input=not by_input))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("by_input", [False, True])
def test_a_direction_that_training_drives_to_0_gives_0(by_input, exact):
    w, x, g = one(by_input=by_input, exact=exact)
    x = x if not by_input else np.eye(8)
    data = moved(w)
    data[3 if not by_input else slice(None), slice(None) if not by_input else 3] = 0
    w.B.data = np.zeros(w.B.shape)
    w.base.weight.data = data
    y = w(Tensor(x))
    y.backward(g[: len(x)] if not by_input else np.ones(y.shape))
    at = y.data[:, 3] if not by_input else y.data[3]
    bias = w.base.bias.data
    assert (at == (bias[3] if not by_input else bias)).all() and np.isfinite(y.data).all()
    for p in (w.A, w.B, w.m):
        assert np.isfinite(p.grad).all()
    assert np.isfinite(w.merged().weight.data).all()


def test_settings_are_refused_in_its_own_name():
    with pytest.raises(ValueError, match="DoRA: r must be a whole number >= 1, got 0"):
        DoRA(r=0)
    with pytest.raises(ValueError, match="DoRA: init must be"):
        DoRA(init="zeros")
    with pytest.raises(ValueError, match="DoRA: r = 9 is above the rank of blocks.0.attn.q_proj"):
        attach(replace(CASES["dora"]).model(), DoRA(r=9))
