"""Magnitude pruning: shares, schedules, what momentum cannot bring back, and lottery tickets."""

from dataclasses import replace

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, ops
from minipeft.methods import LoRA, Magnitude, Movement
from minipeft.methods.magnitude import prune_further, random_masks, rewind, snapshot
from minipeft.methods.masks import kept
from minipeft.training.loop import fit
from minipeft.training.optim import AdamW
from minipeft.training.resume import Checkpoint
from tests.methods.contract import CASES, Next, randomize, run, same
from tests.methods.test_masks import Two
from tests.methods.test_subspace import MLP

BASE = CASES["magnitude"]
IDS = BASE.inputs()


def zeros(handle):
    """path -> the share of W that is 0."""
    return {path: float((w.W.data == 0).mean()) for path, w in handle.wrappers.items()}


# -- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [0.0, 0.25, 0.5, 0.97])
def test_the_largest_of_each_weight_are_kept(s):
    model = BASE.model()
    handle = attach(model, Magnitude(s=s))
    for path, w in handle.wrappers.items():
        size = abs(model.get(path).weight.data)
        assert w.mask.sum() == max(1, round((1 - s) * size.size)) == w.left
        assert s == 0 or size[w.mask].min() > size[~w.mask].max(), path
    assert (handle.method.identity == "") == (s == 0)


def test_globally_the_largest_of_all_are_kept():
    model = BASE.model()
    for i, path in enumerate(("blocks.0.attn.q_proj", "blocks.1.mlp.fc_in")):
        p = model.get(path).weight
        p.data = p.data * (100 if i else 0.01)
    handle = attach(model, Magnitude(s=0.7, scope="global"))
    sizes = {path: abs(w.base.weight.data) for path, w in handle.wrappers.items()}
    inside = np.concatenate([sizes[path][w.mask] for path, w in handle.wrappers.items()])
    outside = np.concatenate([sizes[path][~w.mask] for path, w in handle.wrappers.items()])
    assert inside.min() > outside.max() and inside.size == round(0.3 * (inside.size + outside.size))
    shares = kept(handle)
    assert shares["blocks.0.attn.q_proj"] == 0 and shares["blocks.1.mlp.fc_in"] > 0.95


def test_the_share_is_exact_among_equals():
    two = Two()
    two.left.weight.data = np.zeros((6, 7))
    handle = attach(two, Magnitude(s=0.5, targets=("left",)))
    assert handle.wrappers["left"].mask.sum() == 21


def test_a_kept_weight_of_exactly_0_is_no_pruned_one():
    """It has a gradient, is trained, and its bit is saved, before and after it was 0 again."""
    two, x = Two(), Rng(1).normal((5, 7))
    two.left.weight.data = np.zeros((6, 7))
    handle = attach(two, Magnitude(s=0.5, targets=("left",)))
    w = handle.wrappers["left"]
    mask = w.mask.copy()
    two(Tensor(x)).sum().backward()
    assert w.W.grad[mask].all() and not w.W.grad[~mask].any()
    AdamW([("w", w.W)], lr=0.1).step()
    assert w.W.data[mask].all() and not w.W.data[~mask].any()
    w.W.data = w.W.data * 0.0
    assert same(w.mask, mask) and kept(handle)["left"] == 0.5
    bits = np.unpackbits(handle.method.state(handle)["left"])[: mask.size]
    assert same(bits.reshape(mask.shape).astype(bool), mask)


def test_pruned_weights_get_no_gradient_and_do_not_count():
    two = Two()
    handle = attach(two, Magnitude(s=0.5, targets=("left", "right")))
    x = Rng(1).normal((5, 7))
    two(Tensor(x)).sum().backward()
    left, right = handle.wrappers.values()
    assert not left.W.grad[~left.mask].any() and left.W.grad[left.mask].all()
    cut = x @ (left.W.data * left.mask).T + two.left.bias.data
    assert abs(two(Tensor(x)).data - cut @ (right.W.data * right.mask).T).max() < 1e-14


# -- schedules ------------------------------------------------------------------------------------


def test_the_schedule_of_the_paper():
    method = Magnitude(s=0.9, n=8, s_i=0.2, t0=0.1, t1=0.9)
    assert method.sparsity(0.0) == method.sparsity(0.0999) == 0
    for k in range(9):
        t = 0.1 + 0.1 * k
        s = 0.9 + (0.2 - 0.9) * (1 - (t - 0.1) / 0.8) ** 3
        assert method.sparsity(t) == pytest.approx(s) == pytest.approx(method.sparsity(t + 0.05))
    assert method.sparsity(1.0) == 0.9
    assert Magnitude(s=0.9).sparsity(0.0) == 0.9


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_fit_goes_along_the_schedule(scope):
    model = BASE.model(np.float32)
    y = run(model, IDS)
    handle = attach(model, Magnitude(s=0.8, n=3, t0=0.2, t1=0.8, scope=scope))
    assert same(run(model, IDS), y)
    seen, masks = [], []

    def watch(step):
        every = [w.mask for w in handle.wrappers.values()]
        masks.append(every)
        seen.append(1 - sum(m.sum() for m in every) / sum(m.size for m in every))
        if scope == "layer":
            assert max(kept(handle).values()) - min(kept(handle).values()) < 0.01

    fit(model, Next(), steps=10, lr=0.01, batch=2, watch=watch, quiet=True)
    expected = [0, 0, 0, 0, *[handle.method.sparsity(t / 10) for t in range(4, 11)]]
    assert seen == pytest.approx(expected, abs=5e-3)
    assert seen[4] == pytest.approx(0.8 - 0.8 * (2 / 3) ** 3, abs=5e-3) and seen[8] > 0.79
    for before, after in zip(masks, masks[1:], strict=False):
        assert all((a <= b).all() for a, b in zip(after, before, strict=True))  # none comes back


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_neither_momentum_nor_decay_revives_a_weight(optimizer):
    model = BASE.model(np.float32)
    handle = attach(model, Magnitude(s=0.75, n=2, t1=0.5))
    fit(model, Next(), steps=12, lr=0.02, batch=4, decay=0.1, optimizer=optimizer, quiet=True)
    assert set(zeros(handle).values()) == {0.75}
    for w in handle.wrappers.values():
        assert not w.W.data[~w.mask].any() and w.W.data[w.mask].all()


def test_an_interrupted_run_goes_on_with_its_masks(tmp_path):
    method = Magnitude(s=0.9, n=4, t1=1.0)

    def train(steps, file=None, stop=None):
        model = BASE.model(np.float32)
        handle = attach(model, method)

        def watch(step):
            if step == stop:
                raise KeyboardInterrupt

        settings = {"checkpoint": Checkpoint(file, every=3)} if file else {}
        fit(model, Next(), steps=steps, lr=0.01, batch=2, quiet=True, watch=watch, **settings)
        return handle

    whole = train(8)
    with pytest.raises(KeyboardInterrupt):
        train(8, tmp_path / "state", stop=7)
    again = train(8, tmp_path / "state")
    for a, b in zip(whole.wrappers.values(), again.wrappers.values(), strict=True):
        assert same(a.W.data, b.W.data) and same(a.mask, b.mask) and a.left == b.left


# -- lottery tickets ------------------------------------------------------------------------------


def test_rounds_leave_powers_of_four_fifths():
    model = MLP(784, 300, 100, 10)
    assert model.num_parameters() == 266_610  # LeNet-300-100
    handle = attach(model, Magnitude(s=0.0, targets="all-linear"))
    printed = (100, 80, 64, 51.2, 41, 32.8, 26.2, 21, 16.8, 13.4, 10.7, 8.6)
    for n, wanted in enumerate(printed):
        shares = list(kept(handle).values())
        assert shares == pytest.approx([0.8**n] * 3, abs=2e-3)
        assert round(100 * 0.8**n, 1) == pytest.approx(wanted, abs=0.06)
        prune_further(handle, 0.2)


def test_an_output_layer_has_a_share_of_its_own():
    handle = attach(MLP(40, 30, 10), Magnitude(s=0.0, targets="all-linear"))
    prune_further(handle, 0.2, {"fc1": 0.1})
    assert kept(handle) == {"fc0": 0.8, "fc1": 0.9}
    everywhere = attach(MLP(40, 30, 10), Magnitude(s=0.0, scope="global", targets="all-linear"))
    prune_further(everywhere, 0.2)
    assert sum(w.mask.sum() for w in everywhere.wrappers.values()) == 0.8 * 1500


def test_a_ticket_is_made_by_training_pruning_and_rewinding():
    """The three lines that the lecture shows, on a net that learns."""
    x = Rng(1).normal((64, 6))
    target = np.tanh(2 * x[:, :1] * x[:, 1:2])
    model = MLP(6, 24, 1)
    start = [p.data.tobytes() for p in model.parameters()]
    handle = attach(model, Magnitude(s=0.0, targets="all-linear"))

    def train(steps=60):
        opt = AdamW(list(handle.trainable()), 0.02, decay=0.0)
        for step in range(steps):
            error = model(Tensor(x)) - target
            loss = ops.mean(error * error)
            loss.backward()
            opt.step()
            handle.after_step(step, steps)
        return loss.item()

    first = train()
    for _ in range(3):
        prune_further(handle, 0.2)
        rewind(handle)
        last = train()
    assert all(abs(share - 0.512) < 0.03 for share in kept(handle).values())
    assert last < 1.5 * first + 0.02
    handle.detach()
    assert [p.data.tobytes() for p in model.parameters()] == start  # theta0 was never written


def test_rewinding_puts_survivors_back_and_the_rest_stays_zero():
    model = BASE.model()
    handle = attach(model, Magnitude(s=0.5))
    randomize(handle)
    late = snapshot(handle)
    randomize(handle, seed=8)
    prune_further(handle)
    rewind(handle, late)
    for path, w in handle.wrappers.items():
        assert same(w.W.data, late[f"{path}.W"] * w.mask) and same(w.b.data, late[f"{path}.b"])
        assert w.mask.mean() == pytest.approx(0.4, abs=0.02)
        assert not np.shares_memory(w.b.data, late[f"{path}.b"])
    rewind(handle)
    for w in handle.wrappers.values():
        assert same(w.W.data, w.base.weight.data * w.mask) and same(w.b.data, w.base.bias.data)


def test_a_new_head_is_rewound_too():
    model = BASE.model(head="linear", classes=3)
    start = model.head.weight.data.copy()
    handle = attach(model, Magnitude(s=0.5))
    randomize(handle)
    assert not same(model.head.weight.data, start)
    rewind(handle)
    assert same(model.head.weight.data, start)


def test_random_masks_keep_as_many():
    model = BASE.model()
    handle = attach(model, Magnitude(s=0.7))
    before, shares = [w.mask for w in handle.wrappers.values()], kept(handle)
    random_masks(handle, seed=1)
    assert kept(handle) == shares
    for w, mask in zip(handle.wrappers.values(), before, strict=True):
        assert not same(w.mask, mask) and not w.W.data[~w.mask].any()
    again = attach(BASE.model(), Magnitude(s=0.7))
    random_masks(again, seed=1)
    pairs = zip(handle.wrappers.values(), again.wrappers.values(), strict=True)
    assert all(same(a.mask, b.mask) for a, b in pairs)


# -- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"s": 1.0}, r"s must be in \[0, 1\), got 1.0"),
        ({"s": -0.1}, r"s must be in \[0, 1\), got -0.1"),
        ({"s": float("nan")}, r"s must be in \[0, 1\), got nan"),
        ({"s": True}, "s must be float, got True"),
        ({"s": 0.5, "s_i": 0.6}, r"s_i must be in \[0, 0.5\), got 0.6"),
        ({"n": -1}, "n must be a whole number >= 0, got -1"),
        ({"n": 1.5}, "n must be int, got 1.5"),
        ({"t0": 1.0}, r"t0 must be in \[0, 1\), got 1.0"),
        ({"t0": 0.8}, r"t1 must be in \(t0, 1\] = \(0.8, 1\], got 0.7"),
        ({"t0": 0.5, "t1": 0.5}, r"t1 must be in \(t0, 1\] = \(0.5, 1\], got 0.5"),
        ({"t1": 1.1}, r"t1 must be in \(0, 1\], got 1.1"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Magnitude(**fields)


def test_wrong_rounds_are_refused():
    handle = attach(Two(), Magnitude(s=0.0, targets=("left", "right")))
    with pytest.raises(ValueError, match=r"a share must be in \[0, 1\), got 1"):
        prune_further(handle, 1)
    with pytest.raises(ValueError, match=r"a share must be in \[0, 1\), got 1"):
        prune_further(handle, 0.2, {"right": 1})
    with pytest.raises(ValueError, match="'rigth' is not pruned; nearest is 'right'"):
        prune_further(handle, 0.2, {"rigth": 0.1})
    with pytest.raises(ValueError, match=r"rewind: to= must hold left.W of shape \(6, 7\)"):
        rewind(handle, {"left.W": np.zeros((7, 6))})
    assert kept(handle) == {"left": 1.0, "right": 1.0}
    together = attach(Two(), replace(handle.method, scope="global"))
    with pytest.raises(ValueError, match=r"other= is for scope='layer'; here all"):
        prune_further(together, 0.2, {"right": 0.1})
    for other in (Movement(targets=("left",)), LoRA(r=1, targets="left")):
        with pytest.raises(TypeError, match=f"this handle is of '{other.name}'"):
            prune_further(attach(Two(), other))
