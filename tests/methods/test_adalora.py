"""AdaLoRA: importance, the budget and whom it cuts, the penalty, and a run that goes on."""

from dataclasses import replace

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor
from minipeft.methods import AdaLoRA, adalora, load_adapter
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.training.loop import fit
from minipeft.training.resume import Checkpoint
from tests.methods.contract import CASES, CONFIG, QKV, Next, randomize, run, same

IDS = CASES["adalora"].inputs()
PATHS = [f"blocks.{i}.attn.{x}_proj" for i in (0, 1) for x in "qv"]


@pytest.mark.parametrize(
    ("name", "count"), [("gpt2", 442_512), ("gpt2-medium", 1_179_936), ("gpt2-large", 2_212_272)]
)
def test_counts(name, count):
    handle = attach(GPT(preset(name), init="shape"), AdaLoRA(r=12, targets=QKV, fused=QKV))
    assert handle.count() == count


def attached(**settings):
    model = CASES["adalora"].model()
    return model, attach(model, AdaLoRA(**{"r": 4, "target": 2, "alpha": 3.0, **settings}))


def moved(**settings):
    """A model and its handle, with random values and no step taken."""
    model, handle = attached(**settings)
    for path, p in handle.trainable():
        p.data = 0.3 * Rng(5, path).normal(p.shape)
    return model, handle


def give_gradients(handle, seed):
    for path, p in handle.trainable():
        p.grad = Rng(seed, path).normal(p.shape)


def test_the_update_is_the_formula():
    _, handle = moved(targets="fc_in")
    w = handle.wrappers["blocks.1.mlp.fc_in"]
    s = 3.0 / (4 + 1e-5)
    W = w.base.weight.data + s * w.P.data @ np.diag(w.Lambda.data) @ w.Q.data
    x = Rng(0).normal((3, 8))
    np.testing.assert_allclose(w(Tensor(x)).data, x @ W.T + w.base.bias.data, rtol=0, atol=1e-12)
    np.testing.assert_allclose(w.merged().weight.data, W, rtol=0, atol=1e-13)


def test_its_start():
    model = GPT(replace(CONFIG, width=64, layers=2))
    handle = attach(model, AdaLoRA(r=48))
    for w in handle.wrappers.values():
        assert w.P.data.std() == pytest.approx(0.02, rel=0.03) and not same(w.P.data, w.Q.data.T)
        assert w.Q.data.std() == pytest.approx(0.02, rel=0.03) and not w.Lambda.data.any()


# --- importance ----------------------------------------------------------------------------------


def test_averages_are_those_of_the_paper():
    """I = |w g|, mean = b1 mean + (1 - b1) I, spread = b2 spread + (1 - b2) |I - mean|"""
    _, handle = moved(beta1=0.8, beta2=0.6)
    w = handle.wrappers[PATHS[0]]
    mean = spread = np.zeros((8, 4))
    for step in range(3):
        give_gradients(handle, step)
        w.P.data = w.P.data + 0.1
        handle.before_step(step, 10)
        now = abs(w.P.data * w.P.grad)
        mean = 0.8 * mean + 0.2 * now
        spread = 0.6 * spread + 0.4 * abs(now - mean)
        np.testing.assert_allclose(w.averages("P"), [mean, spread], rtol=1e-12)
    E, P, Q = (w.averages(name)[0] * w.averages(name)[1] for name in ("Lambda", "P", "Q"))
    np.testing.assert_allclose(
        adalora.importance([w]), E + P.mean(axis=0) + Q.mean(axis=1), rtol=1e-12
    )


def test_fused_parts_are_scored_together():
    _, handle = moved(targets=QKV, fused=QKV)
    give_gradients(handle, 0)
    handle.before_step(0, 10)
    (parts, _), w = adalora.groups(handle), handle.wrappers[PATHS[0]]
    assert [x.Lambda is w.Lambda for x in parts] == [True] * 3 and parts[0] is w
    P = np.concatenate([x.averages("P")[0] * x.averages("P")[1] for x in parts])
    E, Q = (w.averages(name)[0] * w.averages(name)[1] for name in ("Lambda", "Q"))
    np.testing.assert_allclose(adalora.importance(parts), E + P.mean(0) + Q.mean(1), rtol=1e-12)


# --- the budget ----------------------------------------------------------------------------------


def test_the_budget_falls_as_a_cube():
    method = AdaLoRA(r=12, target=4, t_i=0.1, t_f=0.3)
    budget = [method.budget(t, 100) for t in range(101)]
    assert budget[:11] == [12.0] * 11 and budget[70:] == [4.0] * 31
    assert budget[40] == pytest.approx(4 + 8 * 0.5**3)
    assert budget == sorted(budget, reverse=True)


def test_the_least_important_are_cut_over_all_modules():
    _, handle = moved()
    scores = {}
    for i, (path, w) in enumerate(handle.wrappers.items()):
        w.keep("Lambda", np.arange(4.0) + 10 * i, np.ones(4))  # later modules matter more
        scores[path] = w.Lambda.data.copy()
    handle.after_step(6, 10)  # t = 7: the last allocation, 2 of 4 on average
    assert adalora.ranks(handle) == dict(zip(PATHS, [0, 0, 4, 4], strict=True))
    for path, w in handle.wrappers.items():
        assert same(w.Lambda.data, scores[path] * w.mask), path


def test_what_was_cut_may_come_back_until_the_masks_stand_still():
    _, handle = moved()
    first, *_, last = handle.wrappers.values()

    def step(step, favoured):
        for w in handle.wrappers.values():
            w.keep("Lambda", np.full(4, float(w is favoured)), np.arange(1.0, 5.0))
            w.Lambda.data = np.ones(4)
        handle.after_step(step, 10)

    step(5, last)
    assert not first.mask.all() and last.mask.all()
    step(6, first)
    assert first.mask.all() and same(first.Lambda.data, np.ones(4))
    kept = first.mask.copy(), last.mask.copy()
    step(7, last)  # the final phase
    assert same(first.mask, kept[0]) and same(last.mask, kept[1])
    assert same(last.Lambda.data, kept[1].astype(float))


def test_allocations_are_some_steps_apart():
    _, handle = moved(delta_t=3, t_i=0.0, t_f=0.25)
    w = handle.wrappers[PATHS[0]]
    counts = []
    for step in range(12):
        give_gradients(handle, step)
        handle.before_step(step, 12)
        for x in handle.wrappers.values():
            x.Lambda.data = np.ones(4)
        handle.after_step(step, 12)
        counts.append(int(sum(x.Lambda.data.sum() for x in handle.wrappers.values())))
    budget = [int(handle.method.budget(t, 12, 4)) for t in range(1, 13)]
    assert counts == [16, 16, budget[2], 16, 16, budget[5], 16, 16, 8, 8, 8, 8]
    assert w.averages("P")[0].any()


def test_the_last_allocation_waits_for_no_multiple():
    _, handle = moved(delta_t=4)
    for step in range(6):
        handle.after_step(step, 10)
    assert sum(adalora.ranks(handle).values()) > 8
    handle.after_step(6, 10)  # t = 7, where the masks begin to stand still
    assert sum(adalora.ranks(handle).values()) == 8


def test_a_run_ends_with_its_budget():
    model, handle = attached(r=4, target=1, targets="all-linear")
    fit(model, Next(), steps=20, lr=0.03, batch=4, quiet=True)
    live = sum(int((w.Lambda.data != 0).sum()) for w in handle.wrappers.values())
    assert live == sum(adalora.ranks(handle).values()) == 12
    assert len(set(adalora.ranks(handle).values())) > 1  # they are not shared out evenly


# --- the penalty ---------------------------------------------------------------------------------


def test_the_penalty_in_both_forms():
    for squared in (False, True):
        _, handle = moved(gamma=0.7, squared=squared, targets="fc_in")
        norms = []
        for w in handle.wrappers.values():
            P, Q = w.P.data, w.Q.data
            norms += [np.linalg.norm(m - np.eye(4)) for m in (P.T @ P, Q @ Q.T)]
        expected = sum(n * n for n in norms) if squared else np.mean(norms)
        assert handle.extra_loss().item() == pytest.approx(0.7 * expected, rel=1e-12)


def test_the_penalty_of_fused_parts_is_of_their_vectors_end_to_end():
    _, handle = moved(gamma=0.7, targets=QKV, fused=QKV)
    norms = []
    for parts in adalora.groups(handle):
        P, Q = np.concatenate([w.P.data for w in parts]), parts[0].Q.data
        norms += [np.linalg.norm(m - np.eye(4)) for m in (P.T @ P, Q @ Q.T)]
    assert len(norms) == 4 and handle.extra_loss().item() == pytest.approx(0.7 * np.mean(norms))


def test_orthogonal_vectors_cost_nothing():
    _, handle = moved(squared=True, targets="fc_in")
    for w in handle.wrappers.values():
        w.P.data = np.linalg.qr(w.P.data)[0]
        w.Q.data = np.linalg.qr(w.Q.data.T)[0].T.copy()
    assert handle.extra_loss().item() < 1e-25


@pytest.mark.parametrize("squared", [False, True])
def test_where_the_penalty_is_0_so_is_its_gradient(squared):
    """Orthonormal to the bit: its code's norm has no derivative there, and 0 is one of its own."""
    _, handle = moved(squared=squared, targets="fc_in")
    first, *rest = handle.wrappers.values()
    for w in handle.wrappers.values():
        w.P.data, w.Q.data = np.eye(*w.P.shape), np.eye(*w.Q.shape)
    loss = handle.extra_loss()
    loss.backward()
    assert loss.item() == 0
    assert all((w.P.grad == 0).all() and (w.Q.grad == 0).all() for w in handle.wrappers.values())
    first.P.data = 2 * first.P.data  # the others' stay 0, and what it adds is as before
    loss = handle.extra_loss()
    for w in handle.wrappers.values():
        w.P.grad = w.Q.grad = None
    loss.backward()
    assert all((p.grad == 0).all() for p in (first.Q, *(w.P for w in rest)))
    assert np.isfinite(first.P.grad).all() and abs(first.P.grad).max() > 0.1
    assert loss.item() == pytest.approx(0.5 * 3 * 2 / 4 if not squared else 0.5 * 9 * 4)


def test_a_run_goes_through_orthonormal_vectors():
    model, handle = attached(gamma=0.5)
    for w in handle.wrappers.values():
        w.P.data, w.Q.data = np.eye(*w.P.shape), np.eye(*w.Q.shape)
    history = fit(model, Next(), steps=3, lr=0.03, batch=4, quiet=True)
    assert np.isfinite(history.loss).all()
    assert all(np.isfinite(p.data).all() for _, p in handle.trainable())


def test_training_makes_them_orthogonal():
    model, handle = attached(gamma=3.0)
    before = handle.extra_loss().item()
    fit(model, Next(), steps=60, lr=0.03, batch=4, quiet=True)
    assert handle.extra_loss().item() < 0.3 * before


# --- what is kept --------------------------------------------------------------------------------


def test_a_run_goes_on_to_the_bit(tmp_path):
    def go(stop=None, file=None):
        model, handle = attached(targets="all-linear")

        def watch(done):
            if done == stop:
                raise KeyboardInterrupt

        checkpoint = file and Checkpoint(file, 2)
        fit(model, Next(), steps=12, lr=0.02, batch=4, quiet=True, checkpoint=checkpoint,
            watch=watch)  # fmt: skip
        return handle

    whole = go()
    file = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        go(stop=7, file=file)
    resumed = go(file=file)
    for (path, p), (_, q) in zip(whole.trainable(), resumed.trainable(), strict=True):
        assert same(p.data, q.data), path
    state = resumed.method.state(resumed)
    assert all(same(a, state[name]) for name, a in whole.method.state(whole).items())


def test_a_loaded_adapter_knows_its_masks(tmp_path):
    model, handle = attached(fused=("q_proj", "v_proj"))
    randomize(handle)
    handle.save(tmp_path / "a")
    ranks = adalora.ranks(handle)
    assert sum(ranks.values()) < 8
    fresh = CASES["adalora"].model()
    loaded = load_adapter(fresh, tmp_path / "a")
    assert adalora.ranks(loaded) == ranks and same(run(fresh, IDS), run(model, IDS))


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "AdaLoRA: r must be a whole number"),
        ({"target": 13}, "AdaLoRA: target must be a whole number from 1 to 12, got 13"),
        ({"target": 0}, "AdaLoRA: target must be a whole number from 1 to 12, got 0"),
        ({"delta_t": 0}, "AdaLoRA: delta_t must be a whole number"),
        ({"beta1": 1.0}, r"AdaLoRA: beta1 must be in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, "AdaLoRA: beta2 must be in"),
        ({"t_i": 0.6, "t_f": 0.4}, "AdaLoRA: t_i [+] t_f must be below 1.*got 0.6 [+] 0.4"),
        ({"gamma": -1.0}, "AdaLoRA: gamma must be a finite number >= 0"),
        ({"alpha": float("inf")}, "AdaLoRA: alpha must be a finite number"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        AdaLoRA(**changes)


def test_parts_of_other_widths_cannot_share():
    with pytest.raises(ValueError, match="fc_out has d_in = 32 and cannot share the Q of blocks.0"):
        attached(targets=("fc_in", "fc_out"), fused=("fc_in", "fc_out"))
    with pytest.raises(ValueError, match="AdaLoRA: r = 9 is above the rank of blocks.0.attn.q_pro"):
        attached(r=9)
