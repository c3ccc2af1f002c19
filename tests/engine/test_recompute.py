"""Recomputed blocks give the same bits and keep less."""

import tracemalloc

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, context, no_grad, ops, recompute, running
from minipeft.methods import Full, LoRA, attach
from minipeft.train import fit, loss_of
from tests.methods.throwaway import Subspace
from tests.tiny import Rows, gpt, tokenizer

VOCAB = tokenizer().vocab_size


def gradients(method, recomputed, dropout=0.0):
    """The loss and all gradients of a model with a method, with dropout on."""
    model = gpt(dropout=dropout)
    handle = attach(model, method)
    for path, p in handle.trainable():
        p.data = p.data + 0.1 * Rng(3, path).normal(p.shape)
    with running(rng=Rng(0, "dropout"), recompute=recomputed):
        loss = loss_of(model, Rows(VOCAB).batch(0, 3, 0))
    loss.backward()
    return loss.item(), {path: p.grad for path, p in handle.trainable()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("method", [Full(), LoRA(r=2, dropout=0.2), Subspace(n=3)], ids=str)
def test_recomputed_blocks_give_the_same_gradients(method, dropout):
    loss, plain = gradients(method, False, dropout)
    again, recomputed = gradients(method, True, dropout)
    assert loss == again and plain.keys() == recomputed.keys()
    for path, g in plain.items():
        np.testing.assert_allclose(g, recomputed[path], rtol=1e-12, atol=1e-15, err_msg=path)


def test_only_the_inputs_are_kept():
    def chain(x):
        for _ in range(20):
            x = ops.tanh(x)
        return x

    def kept(f):
        x = Tensor(np.ones(100_000), requires_grad=True)
        tracemalloc.start()
        y = f(x)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        y.backward(np.ones(100_000))
        return size, x.grad

    (plain, g), (small, h) = kept(chain), kept(lambda x: recompute(chain, x))
    assert (g == h).all()
    assert plain > 19 * 800_000 and small < 2 * 800_000


def test_a_training_run_is_the_same_run():
    def run(recompute):
        model = gpt(dropout=0.1)
        with attach(model, LoRA(r=2)):
            return fit(model, Rows(VOCAB), steps=4, lr=0.02, batch=3, quiet=True,
                       recompute=recompute).loss  # fmt: skip

    np.testing.assert_allclose(run(True), run(False), rtol=1e-12)


def test_what_f_gives_back_unchanged_and_what_needs_nothing():
    x = Tensor(np.ones(3), requires_grad=True)
    assert recompute(lambda x: x, x) is x
    assert not recompute(ops.tanh, Tensor(np.ones(3))).requires_grad
    with no_grad():
        assert not recompute(ops.tanh, x).requires_grad


def test_the_context_is_as_before_even_after_an_error():
    def fails(x):
        raise KeyError("inside")

    x = Tensor(np.ones(2), requires_grad=True)
    before = context()
    with pytest.raises(KeyError):
        recompute(fails, x)
    recompute(ops.tanh, x).backward(np.ones(2))
    assert context() is before


@pytest.mark.parametrize("method", [LoRA(r=2), Subspace(n=3)], ids=str)
def test_a_whole_model_is_recomputed_with_what_stands_for_its_parameters(method):
    def run(f):
        model = gpt()
        handle = attach(model, method)
        for path, p in handle.trainable():
            p.data = p.data + 0.1 * Rng(3, path).normal(p.shape)
        f(model, Rows(VOCAB).batch(0, 3, 0).ids).backward(np.ones((3, 6, VOCAB)))
        return {path: p.grad for path, p in handle.trainable()}

    plain, again = run(lambda model, ids: model(ids)), run(recompute)
    for path, g in plain.items():
        np.testing.assert_allclose(again[path], g, rtol=1e-12, atol=1e-15, err_msg=path)


SETTINGS = {"rng": Rng(0), "off": ("a",), "rows": ("b", None), "hidden": "h"}


def test_backward_runs_f_in_the_context_of_the_forward_pass():
    seen = []

    def f(x):
        now = context()
        seen.append([now.off, now.rows, now.hidden, now.inside, now.rng and now.rng.uniform(())])
        return ops.tanh(x)

    x = Tensor(np.ones(2), requires_grad=True)
    with running(recompute=True, **SETTINGS):
        y = recompute(f, x)
    with no_grad(), running(off=("c",), rng=Rng(1)):
        before = context()
        y.backward(np.ones(2))
        assert context() is before
    assert seen[0] == seen[1] and seen[0][:3] == [("a",), ("b", None), "h"]
    np.testing.assert_allclose(x.grad, 1 - np.tanh(1) ** 2)
