"""LoRA: its first step, its scale, its start, what `fused` shares, dropout and hot swapping."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, grad_check, no_grad, running
from minipeft.methods import DoRA, LoftQ, LoRA, PiSSA, QLoRA, load_adapter, lora
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.nn import init
from minipeft.training.loop import fit
from minipeft.training.optim import Schedule
from tests.methods.contract import CASES, CONFIG, QKV, Next, randomize, run, same
from tests.models.plain import spied

IDS = CASES["lora"].inputs()
QV, QKVO = ("q_proj", "v_proj"), (*QKV, "o_proj")


@pytest.mark.parametrize(
    ("name", "method", "count"),
    [
        ("gpt3-175b", LoRA(r=2, targets="v_proj"), 4_718_592),
        ("gpt3-175b", LoRA(r=1), 4_718_592),
        ("gpt3-175b", LoRA(r=2), 9_437_184),
        ("gpt3-175b", LoRA(r=1, targets=QKVO), 9_437_184),
        ("gpt3-175b", LoRA(r=4), 18_874_368),
        ("gpt3-175b", LoRA(r=2, targets=QKVO), 18_874_368),
        ("gpt3-175b", LoRA(r=8, targets="q_proj"), 18_874_368),
        ("gpt3-175b", LoRA(r=8), 37_748_736),
        ("gpt3-175b", LoRA(r=4, targets=QKVO), 37_748_736),
        ("gpt3-175b", LoRA(r=64), 301_989_888),
        ("gpt3-175b", LoRA(r=64, targets=QKVO), 603_979_776),
        ("gpt2", LoRA(r=4), 147_456),
        ("gpt2-medium", LoRA(r=4), 393_216),
        ("gpt2-large", LoRA(r=4), 737_280),
        ("gpt2", LoRA(r=4, targets=QKV, fused=QKV), 147_456),
        ("gpt2-medium", LoRA(r=4, targets=QKV, fused=QKV), 393_216),
        ("gpt2-large", LoRA(r=4, targets=QKV, fused=QKV), 737_280),
        ("gpt2", LoRA(r=64, targets=QKV, fused=QKV), 2_359_296),
        ("gpt2", LoRA(r=8, targets=QKV, fused=QKV), 294_912),
        ("gpt2", LoRA(r=8, targets="all-linear", fused=QKV), 1_179_648),
        ("gpt2-medium", LoRA(r=8, targets="all-linear", fused=QKV), 3_145_728),
        ("gpt2-large", LoRA(r=8, targets="all-linear", fused=QKV), 5_898_240),
    ],
)
def test_counts(name, method, count):
    assert attach(GPT(preset(name), init="shape"), method).count() == count


def adapter(handle):
    """path -> the wrapper's (A, B), as arrays."""
    return {path: (w.A.data, w.B.data) for path, w in handle.wrappers.items()}


# --- the first step, the scale, the start ------------------------------------------------------


def test_at_the_first_step_only_b_moves():
    model = CASES["lora"].model()
    handle = attach(model, LoRA(r=2, targets="all-linear"))
    y = model(IDS)
    y.backward(Rng(1).normal(y.shape))
    for path, p in handle.trainable():
        assert (np.any(p.grad) == path.endswith(".B")) and p.grad.shape == p.shape, path
    before = adapter(handle)
    fit(model, Next(), steps=1, lr=0.1, batch=2, schedule=Schedule(warmup=0.0), quiet=True)
    for path, (A, B) in adapter(handle).items():
        assert same(A, before[path][0]) and np.any(B), path


@pytest.mark.parametrize(
    ("method", "scale"),
    [
        (LoRA(r=4, alpha=8.0), 2.0),
        (LoRA(r=4, alpha=8.0, rslora=True), 4.0),
        (LoRA(r=2, alpha=-1.0), -0.5),
        (LoRA(r=3), 16 / 3),
    ],
)
def test_scale(method, scale):
    model, handle = replace(CASES["lora"], method=method).attached()
    assert method.scale == pytest.approx(scale)
    x = Rng(0).normal((5, 8))
    for path, wrapper in handle.wrappers.items():
        A, B = adapter(handle)[path]
        W, b = wrapper.base.weight.data, wrapper.base.bias.data
        expected = x @ W.T + b + scale * (x @ A.T @ B.T)
        assert abs(wrapper(Tensor(x)).data - expected).max() < 1e-12 * abs(expected).max()


@pytest.mark.parametrize(
    ("name", "std", "largest"),
    [
        ("normal", 1 / math.sqrt(64), 6 / math.sqrt(64)),
        ("peft", 1 / math.sqrt(3 * 64), 1 / math.sqrt(64)),
        ("gaussian", 1 / 16, 6 / 16),
    ],
)
def test_variance_of_a(name, std, largest):
    model = GPT(replace(CONFIG, width=64, layers=8))
    handle = attach(model, LoRA(r=16, init=name))
    A = np.concatenate([a.ravel() for a, _ in adapter(handle).values()])
    assert A.size == 16_384 and A.dtype == np.float32
    assert A.std() == pytest.approx(std, rel=0.03) and abs(A.mean()) < 0.03 * std
    assert 0.8 * largest < abs(A).max() * (1 if name == "peft" else 1.6) and abs(A).max() <= largest
    assert not any(np.any(B) for _, B in adapter(handle).values())


# --- fused -------------------------------------------------------------------------------------


def fused_handle(**changes):
    model = CASES["lora"].model()
    handle = attach(model, LoRA(r=2, targets=QKV, **changes))
    randomize(handle)
    return model, handle


def test_fused_parts_share_one_a():
    _, handle = fused_handle(fused=QKV)
    q, k, v, q1, *_ = handle.wrappers.values()
    assert q.A is k.A is v.A is not q1.A and q.B is not k.B
    names = [path for path, _ in handle.trainable() if path.endswith(".A")]
    assert names == [f"blocks.{i}.attn.q_proj.A" for i in (0, 1)]


def test_parts_of_two_modules_are_not_fused():
    handle = attach(
        CASES["lora"].model(), LoRA(r=2, targets=(*QKV, "fc_in"), fused=(*QKV, "fc_in"))
    )
    assert len({id(w.A) for w in handle.wrappers.values()}) == 4


@pytest.mark.parametrize("method", [LoRA, DoRA, QLoRA])
def test_fused_parts_share_one_mask(method):
    for fused, masks_of_a_block in ((QKV, 1), (QKV[:2], 2), ((), 3)):
        model = CASES["lora"].model()
        handle = attach(model, method(r=2, targets=QKV, fused=fused, dropout=0.5))
        with spied(lora) as masks, running(rng=Rng(5)):
            model(IDS)
        assert len(masks) == len(handle.wrappers) == 6
        blocks = [{m.tobytes() for m in masks[i : i + 3]} for i in (0, 3)]
        assert len(blocks[0]) == len(blocks[1]) == masks_of_a_block
        assert not blocks[0] & blocks[1]


def test_parts_of_other_widths_cannot_share():
    with pytest.raises(ValueError, match=r"fc_out has d_in = 32 and cannot share.*\(2, 8\)"):
        attach(
            CASES["lora"].model(), LoRA(r=2, targets=("fc_in", "fc_out"), fused=("fc_in", "fc_out"))
        )


# --- dropout -----------------------------------------------------------------------------------


def test_dropout_needs_a_generator():
    model, _ = CASES["lora-dropout"].attached()
    still = run(model, IDS)
    assert same(run(model, IDS), still)
    with running(rng=Rng(1)):
        first, second = run(model, IDS), run(model, IDS)
    with running(rng=Rng(1)):
        assert same(run(model, IDS), first)
    with running(rng=Rng(2)):
        other = run(model, IDS)
    assert not any(same(a, b) for a, b in combinations((still, first, second, other), 2))


CUT = round(0.4 * 65536)
DROPPING = [
    LoRA(r=2, alpha=3.0, dropout=0.4),
    LoRA(r=2, alpha=3.0, dropout=0.4, targets=QKV, fused=QKV),
    DoRA(r=2, dropout=0.4),
    PiSSA(r=2, dropout=0.4),
    LoftQ(r=2, dropout=0.4, block=8),
    QLoRA(r=2, dropout=0.4, block=8),
]
NAMED = ["lora", "lora fused", "dora", "pissa", "loftq", "qlora"]


@pytest.mark.parametrize("method", DROPPING, ids=NAMED)
def test_the_input_of_a_branch_is_dropped_there_and_scaled(method):
    """What the part gives without dropout, moved by what B A makes of the masked part of x."""
    handle = attach(CASES["lora"].model(width=64), method)
    randomize(handle)
    for w in handle.wrappers.values():
        x = Tensor(Rng(3).normal((1, 1, w.d_in)))
        with spied(lora) as masks, running(rng=Rng(5)):
            dropped = w(x).data
        assert len(masks) == 1 and masks[0].shape == x.shape
        assert set(np.unique(masks[0])) == {0.0, 65536 / (65536 - CUT)}
        ratio = w.ratio().data if method.name == "dora" else 1.0
        moved = w.scale * ((masks[0] - 1) * x.data) @ w.A.data.T @ w.B.data.T * ratio
        np.testing.assert_allclose(dropped, w(x).data + moved, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", DROPPING, ids=NAMED)
def test_parts_rows_and_stacked_adapters_have_masks_of_their_own(method):
    """All of them in one pass; and of the elements the right share is 0."""
    model = CASES["lora"].model(width=64)
    handles = [attach(model, method)]
    if method.name == "lora":
        handles.append(attach(model, replace(method, seed=1)))
    with spied(lora) as masks, running(rng=Rng(5)):
        model(IDS)
    assert len(masks) == sum(len(h.wrappers) for h in handles)
    own = {m.tobytes(): m for m in masks}
    assert len(own) == len(masks) // (3 if getattr(method, "fused", ()) else 1)
    rows = np.concatenate([m.reshape(-1, 64) for m in own.values()])
    assert len(np.unique(rows, axis=0)) == len(rows)
    for m in own.values():
        assert abs((m == 0).mean() - 0.4) < 4 * np.sqrt(0.24 / m.size)


def test_dropout_is_of_the_branch_alone_and_keeps_the_mean():
    _, handle = CASES["lora-dropout"].attached()
    w = handle.wrappers["blocks.0.mlp.fc_in"]
    x = Tensor(np.ones((1, 8)))
    still = w(x).data - w.base(x).data
    rows = []
    with no_grad():
        for seed in range(400):
            with running(rng=Rng(seed)):
                rows.append(w(x).data - w.base(x).data)
    rows = np.array(rows)
    kept, wanted = rows.mean(0), rows.std(0) / 20
    assert (abs(kept - still) < 4 * wanted + 1e-12).all() and rows.std() > 0.01
    w.B.data = np.zeros_like(w.B.data)
    with running(rng=Rng(0)):
        assert same(w(x).data, w.base(x).data)


def test_gradients_under_dropout():
    model, handle = CASES["lora-dropout"].attached()

    def f():
        with running(rng=Rng(4)):
            return model(IDS)

    grad_check(f, params=[p for _, p in handle.trainable()])


# --- two adapters on one base ------------------------------------------------------------------


def test_hot_swap_between_two_tasks(tmp_path):
    model = CASES["lora"].model(np.float32)
    base, files, outputs = run(model, IDS), {}, {}
    for task in ("true", "shuffled"):
        method = LoRA(r=2, targets="all-linear" if task == "true" else QV)
        with attach(model, method) as handle:
            fit(model, Next(task == "shuffled"), steps=5, lr=0.02, batch=4, quiet=True)
            files[task], outputs[task] = tmp_path / task, run(model, IDS)
            handle.save(files[task])
    assert not same(outputs["true"], outputs["shuffled"])
    for task in ("true", "shuffled", "true", "true"):
        with load_adapter(model, files[task]):
            assert same(run(model, IDS), outputs[task])
        assert same(run(model, IDS), base)


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "r must be a whole number >= 1, got 0"),
        ({"r": 2.0}, "r must be int, got 2.0"),
        ({"r": True}, "r must be int, got True"),
        ({"alpha": math.inf}, "alpha must be a finite number"),
        ({"alpha": math.nan}, "alpha must be a finite number, got nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, "dropout must be in"),
        ({"init": "zeros"}, "init must be 'normal', 'peft' or 'gaussian', got 'zeros'"),
        ({"fused": "q_proj"}, r"fused must be tuple\[str, ...\], got 'q_proj'"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**changes)


def test_r_may_be_the_rank_and_not_more():
    model = CASES["lora"].model()
    attach(model, LoRA(r=8)).detach()
    with pytest.raises(ValueError, match="r = 9 is above the rank of blocks.0.attn.q_proj, whose "
                                         "weight is 8 x 8: at most 8"):  # fmt: skip
        attach(model, LoRA(r=9))


def test_adapters_follow_the_dtype_of_the_weight():
    for dtype in (np.float32, np.float64):
        handle = attach(CASES["lora"].model(dtype), LoRA(r=2))
        assert {p.dtype for _, p in handle.trainable()} == {np.dtype(dtype)}
    like = init.prototype(np.float32)
    same_bits = [LoRA(r=2)._draw(8, like.astype(t), Rng(0)).astype("f4") for t in ("f4", "f8")]
    assert same(*same_bits)
