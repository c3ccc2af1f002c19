"""Linear, Embedding, LayerNorm, Dropout, and the places that are identities."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, no_grad, running
from minipeft.nn import Dropout, Embedding, LayerNorm, Linear, Start, Tap, init

LIKE = init.prototype(np.float64)


def test_linear_is_x_times_w_transposed_plus_b():
    layer = Linear(3, 5, rng=Rng(0), like=LIKE)
    layer.bias.data = Rng(1).normal((5,))
    x = Rng(2).normal((2, 4, 3))
    assert layer.weight.shape == (5, 3) and (layer.d_in, layer.d_out) == (3, 5)
    assert np.allclose(layer(x).data, x @ layer.weight.data.T + layer.bias.data, rtol=1e-14)
    bare = Linear(3, 5, bias=False, weight=layer.weight)
    assert bare.bias is None and bare.weight is layer.weight
    assert np.allclose(bare(x).data, x @ layer.weight.data.T, rtol=1e-14)


def test_linear_names_the_shapes_that_disagree():
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\), w \(out, in\) = \(5, 3\)"):
        Linear(3, 5)(np.zeros((2, 4), np.float32))


def test_layers_start_as_their_docstrings_say():
    layer = Linear(300, 300, rng=Rng(0), like=LIKE)
    assert abs(layer.weight.data.std() - 0.02) < 2e-4 and not layer.bias.data.any()
    assert abs(Linear(300, 300, std=0.1, rng=Rng(0)).weight.data.std() - 0.1) < 1e-3
    assert abs(Embedding(300, 300, rng=Rng(0), like=LIKE).weight.data.std() - 0.02) < 2e-4
    norm = LayerNorm(4, like=LIKE)
    assert norm.weight.data.tolist() == [1] * 4 and norm.bias.data.tolist() == [0] * 4
    assert Linear(2, 2).weight.dtype == np.float32


def test_embedding_looks_rows_up_and_refuses_ids_outside():
    table = Embedding(5, 3, rng=Rng(0), like=LIKE)
    ids = np.array([[4, 0], [2, 2]])
    assert np.array_equal(table(ids).data, table.weight.data[ids])
    for bad in (5, -1):
        with pytest.raises(ValueError, match=f"id {bad} is outside the table of 5 rows"):
            table(np.array([0, bad]))


def test_layer_norm_uses_the_biased_variance_and_its_eps():
    norm = LayerNorm(4, eps=0.5, like=LIKE)
    norm.weight.data, norm.bias.data = Rng(0).normal((4,)), Rng(1).normal((4,))
    x = Rng(2).normal((3, 4))
    centred = x - x.mean(1, keepdims=True)
    wanted = centred / np.sqrt(x.var(1, keepdims=True) + 0.5) * norm.weight.data + norm.bias.data
    assert np.allclose(norm(x).data, wanted, rtol=1e-13)


# -- dropout ------------------------------------------------------------------------------------


def test_dropout_acts_only_with_a_generator():
    x = Tensor(np.ones((50, 50)))
    drop = Dropout(0.3)
    assert drop(x) is x
    with running(rng=Rng(0)):
        assert not np.array_equal(drop(x).data, x.data)
        assert Dropout(0.0)(x) is x
    assert drop(x) is x


def test_dropout_is_seeded_and_moves_on():
    x, drop = Tensor(np.ones((50, 50))), Dropout(0.5)
    with running(rng=Rng(3)):
        first, second = drop(x).data, drop(x).data
    with running(rng=Rng(3)):
        again = drop(x).data
    assert np.array_equal(first, again) and not np.array_equal(first, second)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_scales_what_stays(p):
    with running(rng=Rng(0)):
        y = Dropout(p)(Tensor(np.ones((300, 300)))).data
    kept = y[y != 0]
    assert np.ptp(kept) == 0 and abs(kept[0] - 1 / (1 - p)) < 1e-3 / (1 - p)
    assert abs(len(kept) / y.size - (1 - p)) < 0.01
    assert abs(y.mean() - 1) < 0.02 / (1 - p)


def test_dropout_passes_gradients_where_it_passes_values():
    x = Tensor(np.ones((20, 20)), requires_grad=True)
    with running(rng=Rng(0)):
        y = Dropout(0.5)(x)
    y.backward(np.ones((20, 20)))
    assert np.array_equal(x.grad, y.data)


def test_dropout_is_drawn_where_nothing_is_recorded_too():
    """Recomputation and measuring run the forward pass under no_grad, with the same masks."""
    x, drop = Tensor(np.ones((20, 20)), requires_grad=True), Dropout(0.5)
    with running(rng=Rng(0)):
        wanted = drop(x).data
    with running(rng=Rng(0)), no_grad():
        assert np.array_equal(drop(x).data, wanted)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2])
def test_dropout_refuses_a_share_outside_its_range(p):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\)"):
        Dropout(p)


# -- places -------------------------------------------------------------------------------------


def test_tap_and_start_are_identities():
    x, ids, mask = Tensor(np.ones(3)), np.ones((1, 2), int), np.ones((1, 2), bool)
    assert Tap()(x) is x
    out = Start()(ids, mask)
    assert out[0] is ids and out[1] is mask and out[2] is None
