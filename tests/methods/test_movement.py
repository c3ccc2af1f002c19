"""Movement pruning: its surrogate gradient, its scores, thresholds, schedule and penalty."""

import math
from dataclasses import replace

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, grad_check, ops
from minipeft.engine.explain import watching
from minipeft.methods import Magnitude, Movement
from minipeft.methods.masks import kept
from minipeft.storage.checkpoint import CheckpointError
from minipeft.training.loop import fit
from minipeft.training.optim import SGD
from tests.methods.contract import CASES, Next, randomize, run, same
from tests.methods.test_masks import Two

BASE = CASES["movement"]
IDS = BASE.inputs()


def one(method, seed=3):
    """A net of one masked Linear with random values, and its wrapper."""
    two = Two()
    handle = attach(two, replace(method, targets=("left",)))
    randomize(handle, seed)
    return two, handle, handle.wrappers["left"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# -- the gradient ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Movement(v=0.4), Movement(v=0.4, c=3.0),
                                    Movement(mode="soft", tau=0.45, c=2.0)])  # fmt: skip
def test_the_surrogate_has_its_closed_form(method):
    """dL/dS = c dL/dW' * W, dL/dW = dL/dW' * M, dL/dx = dL/dy (W * M), dL/dW' = gᵀ x."""
    _, handle, w = one(method)
    x = Tensor(Rng(1).normal((5, 7)), requires_grad=True)
    method.compute(handle)
    y = w(x)
    g = Rng(2).normal((5, 6))
    y.backward(g)
    whole = g.T @ x.data
    assert 0 < w.mask.sum() < w.mask.size
    assert abs(y.data - (x.data @ (w.W.data * w.mask).T + w.b.data)).max() < 1e-14
    assert abs(w.S.grad - method.c * whole * w.W.data).max() < 1e-13
    assert abs(w.W.grad - whole * w.mask).max() < 1e-13
    assert abs(x.grad - g @ (w.W.data * w.mask)).max() < 1e-13
    assert abs(w.b.grad - g.sum(axis=0)).max() < 1e-13
    assert w.S.grad[~w.mask].all()  # what is pruned can come back


def test_under_sgd_scores_sum_what_moved_away_from_zero():
    """S = -lr sum of dL/dW' * W: positive where steps take a weight away from 0 (eq. 4)."""
    two = Two()
    handle = attach(two, Movement(v=0.5, targets=("left",), warm=0.0, cool=0.0))
    w = handle.wrappers["left"]
    opt = SGD(list(handle.trainable()), lr=0.1)
    x = Rng(1).normal((9, 7))
    total = np.zeros_like(w.S.data)
    for step in range(6):
        y = two(Tensor(x))
        (y * y).sum().backward()
        back = 2 * y.data @ two.right.weight.data  # dL/d(left's output)
        total += (back.T @ x) * w.W.data
        opt.step()
        handle.after_step(step, 12)
    assert abs(w.S.data + 0.1 * total).max() < 1e-12 * abs(total).max()
    assert 0.5 < kept(handle)["left"] < 1  # half of the way


def test_what_moves_is_kept_though_it_is_small_and_what_shrinks_is_not():
    """Half of the inputs matter but begin with small weights, half begin large and do not."""
    x = Rng(1).normal((200, 7))
    matters = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    start = np.where(matters, 0.1, 0.5)

    def train(method):
        two = Two(7, 1, 1)
        two.left.weight.data = start[None].copy()
        two.left.bias.data = np.zeros(1)
        two.right.weight.data = np.ones((1, 1))
        handle = attach(two, replace(method, targets=("left",)))
        opt = SGD(list(handle.trainable()), lr=0.05)
        for step in range(40):
            error = two(Tensor(x)) - x[:, :3].sum(axis=1, keepdims=True) * 0.4
            ops.mean(error * error).backward()
            opt.step()
            handle.after_step(step, 40)
        two(Tensor(x))
        return handle.wrappers["left"].mask[0]

    assert (train(Movement(v=3 / 7, warm=0.3, cool=0.1)) == matters).all()
    at_once = train(Magnitude(s=4 / 7))
    assert not at_once[matters].any()


# -- masks ----------------------------------------------------------------------------------------


def test_the_largest_scores_are_kept_with_their_sign():
    _, handle, w = one(Movement(v=0.2))
    handle.after_step(9, 10)
    w.S.data = -abs(w.S.data) * 100
    w.S.data[0, 0] = 1e-9
    w.S.data = w.S.data
    handle.method.compute(handle)
    assert w.mask[0, 0] and w.mask.sum() == round(0.2 * 42)
    assert w.S.data[w.mask].min() > w.S.data[~w.mask].max()


def test_global_scores_compete():
    model = BASE.model()
    handle = attach(model, Movement(v=0.3, scope="global"))
    randomize(handle)
    handle.after_step(9, 10)
    model(IDS)
    every = list(handle.wrappers.values())
    inside = np.concatenate([w.S.data[w.mask] for w in every])
    outside = np.concatenate([w.S.data[~w.mask] for w in every])
    assert inside.min() > outside.max()
    assert inside.size == round(0.3 * (inside.size + outside.size))
    assert len(set(kept(handle).values())) > 1


def test_a_threshold_on_the_sigmoid():
    _, handle, w = one(Movement(mode="soft", tau=0.4, c=2.0))
    for step in (0, 4, 9):
        handle.after_step(step, 10)
        handle.method.compute(handle)
        assert same(w.mask, sigmoid(2.0 * w.S.data) > w.threshold)
    assert w.threshold == 0.4 and 0 < w.mask.sum() < w.mask.size
    w.S.data = np.full((6, 7), -50.0)
    w.S.data[2, 3] = -49.0
    w.S.data = w.S.data
    handle.method.compute(handle)
    assert np.argwhere(w.mask).tolist() == [[2, 3]]  # half a per cent stays, at least one


def test_masks_are_chosen_anew_only_when_something_changed():
    model, handle = BASE.attached()
    model(IDS)
    masks = [w.mask for w in handle.wrappers.values()]
    model(IDS)
    assert all(w.mask is m for w, m in zip(handle.wrappers.values(), masks, strict=True))
    first, *rest = handle.wrappers.values()
    first.S.data = -first.S.data
    model(IDS)
    assert not same(first.mask, masks[0])
    assert all(w.mask is m for w, m in zip(rest, masks[1:], strict=True))
    handle.after_step(9, 10)
    model(IDS)
    assert all(w.mask is not m for w, m in zip(handle.wrappers.values(), masks, strict=True))


def test_all_is_kept_at_first_and_no_operation_sees_a_mask_otherwise():
    model = BASE.model()
    y = run(model, IDS)
    for method in (Movement(), Movement(mode="soft"), Movement(scope="global")):
        with attach(model, method) as handle:
            assert same(run(model, IDS), y) and set(kept(handle).values()) == {1.0}
            assert handle.extra_loss() is None


# -- schedule and penalty -------------------------------------------------------------------------


def test_the_schedule_of_the_code():
    """v_f + (v_i - v_f)(1 - (step - i_w w) / (T - (i_w + f_w) w))^3, w the warm-up's steps."""
    T, w, i_w, f_w = 100, 6, 1, 2
    method = Movement(v=0.15, warm=i_w * w / T, cool=f_w * w / T)
    _, handle, part = one(method)
    for step in range(T):
        handle.after_step(step, T)
        done = step + 1
        if done <= i_w * w:
            v = 1.0
        elif done > T - f_w * w:
            v = 0.15
        else:
            v = 0.15 + 0.85 * (1 - (done - i_w * w) / (T - (i_w + f_w) * w)) ** 3
        assert part.left == round(v * 42)
    assert part.left == round(0.15 * 42)


def test_the_penalty_and_its_gradient():
    method = Movement(mode="soft", tau=0.2, lam=3.0, c=2.0)
    two = Two()
    handle = attach(two, replace(method, targets=("left", "right")))
    randomize(handle)
    handle.after_step(4, 10)
    parts = list(handle.wrappers.values())
    share = parts[0].threshold / 0.2
    assert 0.5 < share < 1
    loss = handle.extra_loss()
    expected = 3.0 * share * np.mean([sigmoid(2.0 * w.S.data).mean() for w in parts])
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert grad_check(handle.extra_loss, params=[w.S for w in parts]) < 1e-8
    handle.extra_loss().backward()
    for w in parts:
        p = sigmoid(2.0 * w.S.data)
        assert abs(w.S.grad - 3.0 * share * 2.0 * p * (1 - p) / w.S.size / 2).max() < 1e-15
    assert attach(Two(), Movement(targets=("left",))).extra_loss() is None


def test_the_penalty_thins_the_weights_out():
    shares = []
    for lam in (0.0, 100.0):
        model = BASE.model(np.float32)
        handle = attach(model, Movement(mode="soft", tau=0.3, lam=lam, c=10.0))
        fit(model, Next(), steps=60, lr=0.01, batch=4, quiet=True)
        shares.append(np.mean(list(kept(handle).values())))
    assert shares[1] < 0.5 * shares[0]


def test_fit_reaches_its_share_and_learns():
    model = BASE.model(np.float32)
    handle = attach(model, Movement(v=0.25))
    loss = fit(model, Next(), steps=60, lr=0.03, batch=8, quiet=True).loss
    assert set(kept(handle).values()) == {0.25}
    assert np.mean(loss[-10:]) < np.mean(loss[:5]) - 0.3


def test_threads_choose_the_same():
    found = []
    for threads in (1, 2):
        model = BASE.model()
        handle = attach(model, Movement(v=0.3))
        fit(model, Next(), steps=5, lr=0.02, batch=4, threads=threads, quiet=True)
        found.append([p.data for _, p in handle.trainable()])
    assert all(abs(a - b).max() < 1e-9 for a, b in zip(*found, strict=True))


# -- files and wrong use --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["movement", "movement-soft", "movement-global"])
def test_a_loaded_run_goes_on_as_it_would_have(name, tmp_path):
    case = CASES[name]
    model, handle = case.attached()
    fit(model, Next(), steps=4, lr=0.02, batch=2, quiet=True)
    handle.after_step(5, 10)
    handle.save(tmp_path / "a")
    other = case.model()
    second = attach(other, case.method)
    second.load(tmp_path / "a")
    assert same(run(other, IDS), run(model, IDS))
    for at in (handle, second):
        at.after_step(8, 10)
    assert same(run(other, IDS), run(model, IDS))


def test_a_threshold_out_of_reach_is_refused():
    handle = attach(Two(), Movement(mode="soft", targets=("left",)))
    state = handle.method.state(handle)
    for wrong in (-0.1, 0.2, math.nan):
        with pytest.raises(CheckpointError, match=r"the threshold must be in \[0, 0.1\], the file"):
            handle.method.load_state(handle, state | {"threshold": np.array([wrong])})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "topv"}, "mode must be 'hard' or 'soft', got 'topv'"),
        ({"v": 0.0}, r"v must be in \(0, 1\], got 0.0"),
        ({"v": 1.5}, r"v must be in \(0, 1\], got 1.5"),
        ({"tau": 0.5}, r"tau must be in \(0, 0.5\) \(scores begin where sigmoid is 0.5\), got 0.5"),
        ({"lam": -1.0}, "lam must be a finite number >= 0, got -1.0"),
        ({"c": float("inf")}, "c must be a finite number > 0 .*, got inf"),
        ({"c": 0.0}, "c must be a finite number > 0 .or no score would learn"),
        ({"warm": 1.0}, r"warm must be in \[0, 1\), got 1.0"),
        ({"warm": 0.5, "cool": 0.5}, r"cool must be in \[0, 0.5\), got 0.5"),
        ({"mode": "soft", "scope": "global"}, "scope='global' is for mode='hard'"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Movement(**fields)


def test_the_surrogate_costs_no_operation_more_than_four():
    """W * ((S - S) c + M): what the tape shows of a masked weight."""
    calls = []
    _, _, w = one(Movement())
    with watching(lambda name, y, args: calls.append(name)):
        w.masked()
    assert calls == ["sub", "mul", "add", "mul"]
