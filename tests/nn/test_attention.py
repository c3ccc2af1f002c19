"""Attention and the block: heads, causality, masks, a past, dropout on the weights."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, grad_check, running
from minipeft.nn import Attention, Block, Module, Past, init, seen_of

LIKE = init.prototype(np.float64)
X = Rng(0).normal((2, 5, 12))


def attention(causal=True, **settings):
    """Three heads of width 4, with weights large enough to matter."""
    layer = Attention(12, 3, causal=causal, rng=Rng(1), like=LIKE, **settings)
    for i, p in enumerate(layer.parameters()):
        p.data = 0.3 * Rng(2, i).normal(p.shape)
    return layer


def by_hand(layer, x, causal, gap=None):
    """The equations of the docstring, head by head and row by row; `gap` hides a key."""
    q, k, v = (
        x @ p.weight.data.T + p.bias.data for p in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    y = np.zeros_like(x)
    for b in range(len(x)):
        for h in range(3):
            cut = slice(4 * h, 4 * h + 4)
            for t in range(x.shape[1]):
                keys = [s for s in range(t + 1 if causal else x.shape[1]) if s != gap]
                scores = np.exp(k[b, keys, cut] @ q[b, t, cut] / 2)
                y[b, t, cut] = scores @ v[b, keys, cut] / scores.sum()
    return y @ layer.o_proj.weight.data.T + layer.o_proj.bias.data


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_its_equation(causal):
    layer = attention(causal)
    assert np.allclose(layer(X).data, by_hand(layer, X, causal), rtol=0, atol=1e-13)


@pytest.mark.parametrize("causal", [True, False])
def test_a_masked_key_is_not_seen(causal):
    layer = attention(causal)
    mask = np.array([[True, False, True, True, True]] * 2)
    y = layer(X, mask=mask).data
    assert np.allclose(y, by_hand(layer, X, causal, gap=1), rtol=0, atol=1e-13)
    assert np.array_equal(layer(X, mask=mask.astype(int)).data, y)


def test_a_query_that_sees_no_key_gets_only_the_bias():
    layer = attention()
    y = layer(X, mask=np.array([[False, True, True, True, True]] * 2)).data
    assert np.allclose(y[:, 0], layer.o_proj.bias.data, rtol=0, atol=1e-15)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_past_is_keys_and_values_before_the_first(causal):
    layer, cache = attention(causal), []
    whole = layer(X, cache=cache).data
    keys, values = cache[0]
    past = keys[:, :2], values[:, :2]
    part = layer(Tensor(X[:, 2:]), past=past).data
    assert np.allclose(part, whole[:, 2:], rtol=0, atol=1e-13)


def test_a_past_of_one_row_serves_the_batch_and_takes_gradients():
    layer = attention()
    one = [Tensor(0.3 * Rng(i).normal((1, 3, 12)), requires_grad=True) for i in (3, 4)]
    two = [np.repeat(t.data, 2, axis=0) for t in one]
    assert np.array_equal(layer(X, past=one).data, layer(X, past=two).data)
    assert grad_check(lambda k, v: layer(X, past=(k, v)), *one) < 1e-8


def test_a_mask_covers_the_past():
    layer = attention()
    past = [0.3 * Rng(i).normal((2, 3, 12)) for i in (3, 4)]
    new = np.array([[True, True, False, True, True]] * 2)
    whole = np.concatenate([np.zeros((2, 3), bool), new], axis=1)
    hidden = layer(X, past=past, mask=whole).data
    assert np.allclose(hidden, layer(X, mask=new).data, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(2, 4), (2, 9), (1, 5), (3, 5), (5,), (2, 5, 1)])
def test_a_mask_of_another_length_is_refused(shape):
    layer, mask = attention(), np.ones(shape, bool)
    with pytest.raises(ValueError, match=r"mask must be \(B, P \+ T\) = \(2, 5\), got"):
        layer(X, mask=mask)
    past = [0.3 * Rng(i).normal((2, 3, 12)) for i in (3, 4)]
    with pytest.raises(ValueError, match=r"mask must be \(B, P \+ T\) = \(2, 8\), got"):
        layer(X, past=past, mask=mask)


PAIRS = [tuple(0.3 * Rng(i, j).normal((1, 3, 12)) for j in "kv") for i in range(2)]


def test_what_is_seen_is_the_past_s_places_and_then_the_text_s():
    text = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]])
    before = np.array([[True, False, True]])
    for past, seen in ((PAIRS, [True] * 3), (Past(PAIRS, before), [True, False, True])):
        found = seen_of(text, past, 2, 5)
        assert found.dtype == bool and (found[:, :3] == seen).all()
        assert np.array_equal(found[:, 3:], text != 0)
    assert np.array_equal(seen_of(None, Past(PAIRS, before), 2, 5)[:, 3:], np.ones((2, 5)))
    whole = np.arange(16).reshape(2, 8) % 3
    assert np.array_equal(seen_of(whole, Past(PAIRS, before), 2, 5), whole != 0)
    assert seen_of(None, None, 2, 5) is seen_of(None, PAIRS, 2, 5) is None
    assert np.array_equal(seen_of(text, None, 2, 5), text != 0)


@pytest.mark.parametrize("shape", [(2, 4), (2, 6), (2, 9), (1, 5), (3, 8), (5,), (2, 5, 1)])
def test_a_mask_that_fits_neither_text_nor_past_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(2, 5\), or with all of the past .* = \(2, 8\); got"):
        seen_of(np.ones(shape, bool), PAIRS, 2, 5)


def test_rows_of_a_past_keep_what_is_real_in_them():
    past = Past([(np.arange(24.0).reshape(3, 2, 4), np.ones((3, 2, 4)))], np.eye(3, 2) > 0)
    mine = past.rows(np.array([2, 0]))
    assert np.array_equal(mine[0][0], past[0][0][[2, 0]]) and len(mine) == 1
    assert mine.mask.tolist() == [[False, False], [True, False]]
    assert Past(past).rows(np.array([1])).mask is None


def test_head_out_reads_the_heads_before_they_are_mixed():
    class Lesion(Module):
        def forward(self, x):  # (B, T, H D)
            return x * np.repeat([1.0, 0.0, 1.0], 4)

    layer = attention()
    before = layer(X).data
    layer.o_proj.weight.data = layer.o_proj.weight.data * np.repeat([1.0, 0.0, 1.0], 4)
    wanted = layer(X).data
    layer = attention()
    layer.head_out = Lesion()
    assert np.allclose(layer(X).data, wanted, rtol=0, atol=1e-14)
    assert not np.allclose(wanted, before)


def test_head_width_need_not_divide_the_width():
    layer = attention(head_width=5)
    assert layer.q_proj.weight.shape == (15, 12) and layer.o_proj.weight.shape == (12, 15)
    assert layer(X).shape == X.shape
    assert attention(bias=False).q_proj.bias is None


def test_dropout_falls_on_the_weights_only_with_a_generator():
    layer, plain = attention(dropout=0.5), attention()
    assert np.array_equal(layer(X).data, plain(X).data)
    with running(rng=Rng(0)):
        dropped = layer(X).data
    with running(rng=Rng(0)):
        assert np.array_equal(layer(X).data, dropped)
    first = dropped[:, 0] - plain(X).data[:, 0]
    assert np.abs(first).max() > 1e-3  # the first query's one weight is 0 or 2: p is dropped
    assert layer.head_out(X) is X


def test_dropped_weights_have_their_gradients():
    layer = attention(dropout=0.4)

    def f(x):
        with running(rng=Rng(5)):
            return layer(x)

    assert grad_check(f, X, params=layer.parameters()) < 1e-8


CURVES = {
    "gelu": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    "gelu_erf": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", CURVES)
def test_a_block_is_its_equation_and_has_its_gradients(norm, activation):
    block = Block(
        12, 3, 7, layers=1, causal=False, norm=norm, activation=activation, rng=Rng(1), like=LIKE
    )
    for i, p in enumerate(block.parameters()):
        p.data = p.data + 0.3 * Rng(2, i).normal(p.shape)

    def mlp(x):
        inner = np.vectorize(CURVES[activation])(block.mlp.fc_in(x).data)
        return block.mlp.fc_out(inner).data

    if norm == "pre":
        x = X + block.attn(block.ln_1(X)).data
        wanted = x + mlp(block.ln_2(x))
    else:
        x = block.ln_1(X + block.attn(X).data).data
        wanted = block.ln_2(x + mlp(x)).data
    assert np.allclose(block(X).data, wanted, rtol=0, atol=1e-13)
    if activation != "relu":  # its kink would need inputs away from it
        assert grad_check(block, X, params=block.parameters()) < 1e-8


def test_residual_outputs_start_smaller_where_asked():
    def stds(**settings):
        block = Block(64, 4, 256, layers=8, causal=True, rng=Rng(0), like=LIKE, **settings)
        return [m.weight.data.std() for m in (block.attn.o_proj, block.mlp.fc_out, block.mlp.fc_in)]

    assert np.allclose(stds(scale_residual=True), [0.005, 0.005, 0.02], rtol=0.05)
    assert np.allclose(stds(), [0.02] * 3, rtol=0.05)
