"""PiSSA: where it starts, what it saves, and the LoRA that it turns into."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, running
from minipeft.methods import LoRA, PiSSA, load_adapter, pissa
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.training.loop import fit
from tests.methods.contract import CASES, Next, randomize, run, same

IDS = CASES["pissa"].inputs()


def test_it_counts_as_lora():
    model = GPT(preset("gpt2"), init="shape")
    with attach(model, PiSSA(r=8)) as a:
        assert a.count() == 294_912


@pytest.mark.parametrize("alpha", [2.0, 9.0])
def test_it_starts_from_the_best_approximation(alpha):
    model = CASES["pissa"].model()
    handle = attach(model, PiSSA(r=2, alpha=alpha, targets=("q_proj", "fc_in", "fc_out")))
    for w in handle.wrappers.values():
        W = w.base.weight.data
        S = np.linalg.svd(W, compute_uv=False)
        left = W - w.scale * w.B.data @ w.A.data
        assert np.linalg.norm(left, 2) == pytest.approx(S[2], rel=1e-10)
        assert np.linalg.norm(left) == pytest.approx(np.sqrt((S[2:] ** 2).sum()), rel=1e-10)
        np.testing.assert_allclose(w.A.data @ w.A.data.T, np.diag(S[:2]) / w.scale, atol=1e-12)
        np.testing.assert_allclose(w.B.data.T @ w.B.data, np.diag(S[:2]) / w.scale, atol=1e-12)


def test_it_is_lora_on_the_residual():
    """The same outputs and gradients as LoRA's product beside W0 - s B0 A0."""
    model = CASES["pissa"].model()
    handle = attach(model, PiSSA(r=2))
    start = {path: (w.A.data, w.B.data) for path, w in handle.wrappers.items()}
    randomize(handle)
    y = model(IDS)
    y.backward(Rng(3).normal(y.shape))
    other = CASES["pissa"].model()
    twin = attach(other, LoRA(r=2, alpha=8.0))
    for path, w in twin.wrappers.items():
        A, B = start[path]
        w.base.weight.data = w.base.weight.data - w.scale * B @ A
        w.A.data, w.B.data = (getattr(handle.wrappers[path], x).data for x in "AB")
    z = other(IDS)
    z.backward(Rng(3).normal(z.shape))
    np.testing.assert_allclose(y.data, z.data, rtol=0, atol=1e-12 * abs(y.data).max())
    for (path, p), (_, q) in zip(handle.trainable(), twin.trainable(), strict=True):
        np.testing.assert_allclose(
            p.grad, q.grad, rtol=0, atol=1e-11 * abs(q.grad).max(), err_msg=path
        )


def test_both_factors_move_at_the_first_step():
    model = CASES["pissa"].model()
    handle = attach(model, PiSSA(r=2))
    y = model(IDS)
    y.backward(Rng(1).normal(y.shape))
    assert all(np.any(p.grad) for _, p in handle.trainable())


def test_a_file_does_not_need_the_same_singular_vectors(tmp_path, monkeypatch):
    model = CASES["pissa"].model(np.float32)
    handle = attach(model, PiSSA(r=2))
    fit(model, Next(), steps=2, lr=0.01, batch=2, quiet=True)
    y = run(model, IDS)
    handle.save(tmp_path / "a")
    handle.detach()
    usual = pissa.principal

    def turned(*args):  # as another library might have them
        A, B = usual(*args)
        return -A[::-1], -B[:, ::-1]

    monkeypatch.setattr(pissa, "principal", turned)
    load_adapter(model, tmp_path / "a")
    assert same(run(model, IDS), y)


@pytest.mark.parametrize("shape", [{}, {"head": "linear", "classes": 3}])
def test_it_turns_into_a_lora_of_twice_the_rank(shape, tmp_path):
    model = CASES["pissa"].model(**shape)
    handle = attach(model, PiSSA(r=2, alpha=3.0))
    randomize(handle)
    y, count = run(model, IDS), handle.count()
    twin = pissa.as_lora(handle)
    assert handle.ended == "detached" and twin.method == LoRA(r=4, alpha=6.0)
    assert twin.count() == 2 * count
    assert abs(run(model, IDS) - y).max() < 1e-12 * abs(y).max()
    twin.save(tmp_path / "a")
    fresh = CASES["pissa"].model(**shape)
    load_adapter(fresh, tmp_path / "a")
    assert same(run(fresh, IDS), run(model, IDS))


def test_what_cannot_turn_into_a_lora():
    model = CASES["pissa"].model()
    handle = attach(model, PiSSA(r=5))
    y = run(model, IDS)
    with pytest.raises(ValueError, match="LoRA: r = 10 is above the rank of blocks.0.attn.q_proj"):
        pissa.as_lora(handle)
    assert same(run(model, IDS), y) and model.handles == [handle]
    handle.detach()
    with pytest.raises(ValueError, match="as_lora takes a PiSSA adapter, got one of 'lora'"):
        pissa.as_lora(attach(model, LoRA(r=2)))


def test_dropout_is_of_the_trained_branch_alone():
    model = CASES["pissa"].model()
    w = attach(model, PiSSA(r=2, dropout=0.5)).wrappers["blocks.0.attn.q_proj"]
    x = Tensor(Rng(0).normal((4, 8)))
    w.B.data = np.zeros_like(w.B.data)
    still = w(x).data
    with running(rng=Rng(1)):
        assert same(w(x).data, still)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "PiSSA: r must be a whole number"),
        ({"alpha": 0.0}, "PiSSA: alpha must be a finite number > 0"),
        ({"alpha": -1.0}, "PiSSA: alpha must be a finite number > 0"),
        ({"dropout": 1.0}, r"PiSSA: dropout must be in \[0, 1\)"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        PiSSA(**changes)


def test_refusals_when_attached():
    model = CASES["pissa"].model()
    with pytest.raises(ValueError, match="PiSSA: r = 9 is above the rank of blocks.0.attn.q_proj"):
        attach(model, PiSSA(r=9))
    with pytest.raises(ValueError, match="blocks.0.ln_1 is a LayerNorm; it must be a Linear"):
        attach(model, PiSSA(r=2, targets="ln_1"))
    attach(model, LoRA(r=2))
    with pytest.raises(ValueError, match="PiSSA starts from the weight of .* 'lora' stands around"):
        attach(model, PiSSA(r=2))
