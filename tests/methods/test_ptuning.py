"""P-tuning: what the networks make, where it goes, and that a file keeps no network."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import grad_check, no_grad
from minipeft.methods import LoRA, Prompt, PTuning, load_adapter
from minipeft.methods.ptuning import lstm
from minipeft.storage.checkpoint import load_arrays
from minipeft.training.loop import fit
from tests.methods.contract import randomize, run, same
from tests.tiny import Rows, bert, gpt, tokenizer

VOCAB = tokenizer().vocab_size
IDS = Rng(0).integers(2, VOCAB, (2, 5))
NETWORKS = ("mlp", "lstm")


def made(handle):
    with no_grad():
        return handle.method.compute(handle)["emb.tok.P"].data


@pytest.mark.parametrize("encoder", [*NETWORKS, "embedding"])
@pytest.mark.parametrize("kind", [gpt, bert])
def test_what_the_network_makes_are_a_prompt_s_rows(kind, encoder):
    model, plain = kind(), kind()
    template = "{1}... cat{2}"
    ids = IDS.copy()
    ids[:, 2] = tokenizer().encode(" cat")
    handle = attach(model, PTuning(3, template, encoder=encoder, h=5))
    randomize(handle)
    rows = handle.trained["emb.tok.P"].data if encoder == "embedding" else made(handle)
    other = attach(plain, Prompt(3, template))
    other.wrappers["emb.tok"].P.data = rows
    assert same(run(model, ids), run(plain, ids))


def test_the_mlp_has_three_layers():
    handle = attach(gpt(), PTuning(n=4, h=6))
    w = {name: p.data for name, p in handle.shared.items()}
    x = w["E"]
    for i in range(3):
        x = x @ w[f"W{i}"].T + w[f"b{i}"]
        x = np.maximum(x, 0) if i < 2 else x
    assert np.abs(made(handle) - x).max() < 1e-13


def by_hand(x, Wx, Wh, bx, bh):
    """A layer in one direction, a token at a time."""
    size, out = Wh.shape[1], []
    h = c = np.zeros(size)
    for row in x:
        z = Wx @ row + bx + Wh @ h + bh
        i, f, o = (1 / (1 + np.exp(-z[k * size : (k + 1) * size])) for k in (0, 1, 3))
        c = f * c + i * np.tanh(z[2 * size : 3 * size])
        h = o * np.tanh(c)
        out.append(h)
    return np.array(out)


def test_the_lstm_reads_both_ways_in_two_layers():
    handle = attach(gpt(), PTuning(n=4, h=5, encoder="lstm"))
    randomize(handle)
    w = {name: p.data for name, p in handle.shared.items()}
    x = w["E"]
    for layer in range(2):
        there, back = ([w[f"{n}_{layer}{way}"] for n in ("Wx", "Wh", "bx", "bh")] for way in "fb")
        x = np.concatenate([by_hand(x, *there), by_hand(x[::-1], *back)[::-1]], axis=1)
    x = np.maximum(x @ w["W0"].T + w["b0"], 0) @ w["W1"].T + w["b1"]
    assert x.shape == (4, 16) and np.abs(made(handle) - x).max() < 1e-13


def test_a_token_of_the_lstm_knows_the_others_and_one_of_the_mlp_does_not():
    for encoder in NETWORKS:
        handle = attach(gpt(), PTuning(n=4, h=5, encoder=encoder))
        randomize(handle)
        before = made(handle)
        handle.shared["E"].data = handle.shared["E"].data + np.eye(4)[:, 1:2]  # the second alone
        moved = np.abs(made(handle) - before).max(1) > 1e-9
        assert moved.tolist() == ([True] * 4 if encoder == "lstm" else [False, True, False, False])


@pytest.mark.parametrize("back", [False, True])
def test_gradients_of_an_lstm_are_right(back):
    rng = Rng(0)
    shapes = ((3, 4), (12, 4), (12, 3), (12,), (12,))  # x, Wx, Wh, bx, bh
    inputs = [rng.normal(shape) for shape in shapes]
    assert grad_check(lambda *a: lstm(*a, back=back), *inputs) < 1e-8


def test_the_starts_are_those_of_torch():
    """N(0, 1) for the embeddings, U(±1/sqrt(d_in)) in an MLP and U(±1/sqrt(h)) in an LSTM."""
    w = attach(gpt(), PTuning(n=50, h=40)).shared
    assert 0.95 < w["E"].data.std() < 1.05
    for name, d_in in (("W0", 16), ("b0", 16), ("W1", 40), ("W2", 40), ("b2", 40)):
        bound = 1 / math.sqrt(d_in)
        assert 0.85 * bound < np.abs(w[name].data).max() <= bound
    w = attach(gpt(), PTuning(n=5, h=40, encoder="lstm")).shared
    for name in ("Wx_0f", "Wh_0b", "bx_1f", "bh_1b"):
        assert 0.9 / math.sqrt(40) < np.abs(w[name].data).max() <= 1 / math.sqrt(40)
    assert 0.9 / math.sqrt(80) < np.abs(w["W1"].data).max() <= 1 / math.sqrt(80)
    assert not same(w["Wx_0f"].data, w["Wx_0b"].data)


@pytest.mark.parametrize("encoder", NETWORKS)
def test_a_file_has_what_the_network_made(encoder, tmp_path):
    model = gpt()
    handle = attach(model, PTuning(n=3, h=5, encoder=encoder))
    randomize(handle)
    y = run(model, IDS)
    handle.save(tmp_path / "a")
    arrays, _ = load_arrays(tmp_path / "a")
    assert list(arrays) == ["emb.tok.P"] and same(arrays["emb.tok.P"], made(handle))
    alone = gpt()
    found = load_adapter(alone, tmp_path / "a")
    assert found.method == PTuning(n=3, encoder="embedding") and same(run(alone, IDS), y)
    fit(alone, Rows(VOCAB), steps=2, lr=0.1, batch=2, quiet=True)  # which goes on from there
    assert not same(run(alone, IDS), y)


def test_a_run_that_was_stopped_keeps_its_network(tmp_path):
    found = []
    for cut in (6, 3):
        model = gpt()
        handle = attach(model, PTuning(n=3, h=5, encoder="lstm"))
        settings = {"steps": 6, "lr": 0.01, "batch": 2, "quiet": True}
        if cut < 6:
            with pytest.raises(KeyboardInterrupt):
                fit(model, Stops(cut), checkpoint=tmp_path / "state", **settings)
            handle.detach()
            handle = attach(model, PTuning(n=3, h=5, encoder="lstm"))
        fit(model, Rows(VOCAB), checkpoint=tmp_path / "state" if cut < 6 else None, **settings)
        found.append({path: p.data for path, p in handle.trainable()})
    assert found[0].keys() == found[1].keys()
    assert all(same(found[0][path], found[1][path]) for path in found[0])


class Stops(Rows):
    """Batches until somebody presses Ctrl-C."""

    def __init__(self, step):
        super().__init__(VOCAB)
        self.step = step

    def batch(self, step, size, seed):
        if step == self.step:
            raise KeyboardInterrupt
        return super().batch(step, size, seed)


def test_it_goes_over_other_methods():
    model = gpt()
    attach(model, LoRA(r=2))
    with pytest.warns(UserWarning, match="goes on top of"):
        handle = attach(model, PTuning(n=2, h=3))
    randomize(handle)
    assert run(model, IDS).shape == (2, 5, VOCAB)
