"""Recomputed blocks give the same bits and keep less."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, context, no_grad, ops, recompute, running
from minipeft.engine.explain import watching
from minipeft.methods import Full, LoRA, lora
from minipeft.nn import layers
from minipeft.training.batches import TaskBatches
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from tests.contract.throwaway import Subspace
from tests.models.plain import spied
from tests.tiny import Rows, Sounds, gpt, llama, tokenizer

VOCAB = tokenizer().vocab_size


def gradients(method, recomputed, dropout=0.0, kind=gpt):
    """The loss and all gradients of a model with a method, with dropout on."""
    model = kind(dropout=dropout)
    handle = attach(model, method)
    for path, p in handle.trainable():
        p.data = p.data + 0.1 * Rng(3, path).normal(p.shape)
    with running(rng=Rng(0, "dropout"), recompute=recomputed):
        loss = loss_of(model, Rows(VOCAB).batch(0, 3, 0))
    loss.backward()
    return loss.item(), {path: p.grad for path, p in handle.trainable()}


@pytest.mark.parametrize("kind", [gpt, llama])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("method", [Full(), LoRA(r=2, dropout=0.2), Subspace(n=3)], ids=str)
def test_recomputed_blocks_give_the_same_gradients(method, dropout, kind):
    loss, plain = gradients(method, False, dropout, kind)
    again, recomputed = gradients(method, True, dropout, kind)
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


@pytest.mark.parametrize("which", ["frozen", "trained", "inner"])
@pytest.mark.parametrize("check", [False, True])
def test_what_f_will_read_again_must_not_change(which, check):
    x, w = Tensor(np.ones(2), requires_grad=True), Tensor(np.full(2, 3.0))
    h = x * 2
    with running(check=check):
        y = recompute(lambda h: (h * w).tanh() * x, h)
    if check:
        {"frozen": w, "trained": x, "inner": h}[which].data[0] = 5.0
    else:
        {"frozen": w, "trained": x, "inner": h}[which].data -= 1.0
    with pytest.raises(RuntimeError, match="changed between the forward pass and backward"):
        y.backward(np.ones(2))


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


# -- what a pass depends on besides its inputs ----------------------------------------------------


def both(f):
    """f's gradients by name, without recomputation and with it; they agree."""
    plain, recomputed = f(False), f(True)
    assert plain.keys() == recomputed.keys()
    for name, g in plain.items():
        assert np.abs(g).max() > 1e-9, name
        np.testing.assert_allclose(recomputed[name], g, rtol=1e-9, atol=1e-13, err_msg=name)
    return plain


def two():
    """A model with two adapters on the same parts, both of which train, and five rows of ids."""
    model = gpt(dropout=0.2)
    handles = [attach(model, LoRA(r=2, seed=seed, dropout=0.2)) for seed in (1, 2)]
    for handle in handles:
        for path, p in handle.trainable():
            p.data, p.requires_grad = p.data + 0.2 * Rng(3, path).normal(p.shape), True
    return model, *handles, Rows(VOCAB).batch(0, 5, 0)


def test_a_past_and_a_mask_reach_recomputed_blocks():
    """Behind a prefix that trains, rows that are padded on either side."""
    model, ids = gpt(), Rows(VOCAB).batch(0, 2, 0).ids
    mask, runs = np.array([[True] * 4 + [False] * 2, [False] * 3 + [True] * 3]), []
    forward = model.blocks[1]._compute
    model.blocks[1]._compute = lambda *args: runs.append(args) or forward(*args)

    def run(recomputed):
        past = [[Tensor(Rng(i, j).normal((1, 3, 16)), requires_grad=True) for j in "kv"]
                for i in range(2)]  # fmt: skip
        with running(recompute=recomputed):
            y = model(ids, past=past, mask=mask)
        y.backward(Rng(5).normal(y.shape))
        found = {f"{j} of block {i}": past[i][n].grad for i in range(2) for n, j in enumerate("kv")}
        return found | {"logits": y.data, "w": model.blocks[0].attn.v_proj.weight.grad.copy()}

    model.blocks[0].attn.v_proj.weight.grad = None
    plain = run(False)
    model.blocks[0].attn.v_proj.weight.grad = None
    again = run(True)
    for name, g in plain.items():
        np.testing.assert_allclose(again[name], g, rtol=1e-9, atol=1e-13, err_msg=name)
    assert len(runs) == 1 + 2  # without recomputation once, with it twice


def test_a_past_is_returned_where_blocks_are_recomputed():
    model, ids = gpt(), Rows(VOCAB).batch(0, 2, 0).ids
    _, wanted = model(ids, return_past=True)
    with running(recompute=True):
        _, past = model(ids, return_past=True)
    assert len(past) == len(wanted) == 2
    for pair, other in zip(past, wanted, strict=True):
        assert all(np.array_equal(a.data, b.data) for a, b in zip(pair, other, strict=True))


@pytest.mark.parametrize("kind", ["rows", "off", "neither"])
def test_the_adapters_of_rows_and_those_that_are_off_hold_in_the_second_pass(kind):
    def run(recomputed):
        model, a, b, data = two()
        chosen = {"rows": {"rows": [b, None, a, b, a]}, "off": {"off": [a]}, "neither": {}}[kind]
        with running(rng=Rng(4), recompute=recomputed, **chosen):
            loss = loss_of(model, data)
        loss.backward()  # where neither holds any more
        named = [(f"{n} {path}", p) for n, h in (("a", a), ("b", b)) for path, p in h.trainable()]
        return {name: p.grad for name, p in named if p.grad is not None}

    names = both(run)
    assert any(n.startswith("a") for n in names) == (kind != "off")
    assert any(n.startswith("b") for n in names)


def test_backward_leaves_the_context_and_the_generator_as_they_were():
    """Two steps inside one `running`: the second draws what it would without recomputation."""

    def run(recomputed):
        model, a, b, data = two()
        losses, rng, rows = [], Rng(4), (a, b, None, b, a)
        with running(rng=rng, recompute=recomputed, rows=rows):
            for _ in range(2):
                loss = loss_of(model, data)
                loss.backward()
                now = context()
                assert (now.rng, now.rows, now.off) == (rng, rows, ())
                assert (now.recompute, now.inside, now.values) == (recomputed, None, None)
                losses.append(loss.item())
        return losses, rng.state()

    assert run(True) == run(False)


def test_the_masks_of_the_second_pass_are_those_of_the_first():
    """Each block's three masks and the adapters' come twice; those outside the blocks once."""
    model, a, _, data = two()
    with spied(layers, lora) as masks, running(rng=Rng(4), recompute=True):
        loss_of(model, data).backward()
    times = Counter(m.tobytes() for m in masks)
    assert sorted(times.values()) == [1] + [2] * (2 * 3 + 2 * 4)


def test_stored_hidden_states_and_recomputed_blocks_go_together():
    source = TaskBatches(gpt(), Sounds().load("train"))

    def losses(**settings):
        model = gpt()
        with attach(model, LoRA(r=2, targets="re:blocks\\.1\\..*_proj")):
            return fit(model, source, steps=7, lr=0.02, batch=2, quiet=True, **settings).loss

    np.testing.assert_allclose(losses(cached=True, recompute=True), losses(), rtol=1e-10)


def test_a_graph_that_was_kept_draws_the_same_masks_each_time():
    model, *_, data = two()
    with running(rng=Rng(4), recompute=True):
        loss = loss_of(model, data)
    params = [p for p in model.parameters() if p.requires_grad]
    found = []
    for retain in (True, False):
        loss.backward(retain=retain)
        found.append([p.grad for p in params])
        for p in params:
            p.grad = None
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_who_watches_sees_what_is_recomputed():
    seen = []
    with watching(lambda name, y, inputs: seen.append(name)):
        y = recompute(lambda x: ops.exp(ops.tanh(x)), Tensor(np.ones(2), requires_grad=True))
    assert seen == ["tanh", "exp"]
    y.backward(np.ones(2))
    assert seen == ["tanh", "exp"]  # nobody watches any more


def test_what_is_recomputed_as_a_whole_is_not_recomputed_in_its_parts_too():
    model, runs = gpt(), []
    forward = model.blocks[1]._compute
    model.blocks[1]._compute = lambda *args: runs.append(args) or forward(*args)
    with running(recompute=True):
        y = recompute(model, Rows(VOCAB).batch(0, 2, 0).ids)
        y.backward(np.ones(y.shape))
    assert len(runs) == 2
