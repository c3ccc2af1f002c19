"""LoftQ: a start nearer to the weight than codes alone, found in turns, and what is saved of it."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import no_grad
from minipeft.methods import LoftQ, LoRA, QLoRA, Quantize, TopK, load_adapter, loftq
from minipeft.methods.quant import codes_of
from minipeft.models import GPT, GPTConfig, preset
from minipeft.training.loop import fit
from tests.methods.contract import Next, same

CONFIG = GPTConfig(vocab=11, context=8, width=32, layers=1, heads=2)
IDS = Rng(0).integers(0, 11, (2, 8))


def gpt(dtype=np.float64):
    model = GPT(CONFIG, dtype=dtype)
    for path, p in model.named_parameters():
        p.data = (p.data + 0.2 * Rng(1, path).normal(p.shape)).astype(dtype)
    return model


def logits(model):
    with no_grad():
        return model(IDS).data


def errors(**settings):
    """path -> Frobenius norm of W - Q - s B A."""
    model = gpt()
    at = attach(model, LoftQ(**settings))
    W = {path: w.base.base.weight.data for path, w in at.wrappers.items()}
    return {
        path: np.linalg.norm(W[path] - w.base.weight.data - w.scale * w.B.data @ w.A.data)
        for path, w in at.wrappers.items()
    }


def test_it_counts_as_lora():
    model = GPT(preset("gpt2"), init="shape")
    with attach(model, LoftQ(r=8)) as at:
        count = at.count()
    assert count == attach(model, LoRA(r=8, targets="all-linear")).count()


@pytest.mark.parametrize("alpha", [4.0, 9.0])
def test_one_turn_leaves_the_small_singular_values(alpha):
    found = errors(r=4, T=1, alpha=alpha)
    model = gpt()
    for path, w in attach(model, Quantize()).wrappers.items():
        S = np.linalg.svd(w.base.weight.data - w.weight.data, compute_uv=False)
        assert found[path] == pytest.approx(np.sqrt((S[4:] ** 2).sum()), rel=1e-9)


def test_more_turns_and_ranks_come_nearer():
    def total(**settings):
        return np.sqrt(sum(e * e for e in errors(**settings).values()))

    codes = np.sqrt(
        sum(
            np.sum((w.base.weight.data - w.weight.data) ** 2)
            for w in attach(gpt(), Quantize(code="nf2")).wrappers.values()
        )
    )
    turns = [total(r=4, T=t, code="nf2") for t in (1, 2, 5)]
    assert codes > 1.1 * turns[0] and turns[0] > 1.02 * max(turns[1:])
    ranks = [total(r=r, code="nf2") for r in (2, 8, 16)]
    assert ranks[0] > ranks[1] > ranks[2]
    assert total(r=32, T=1) < 1e-10  # all that the codes lost


def test_the_model_begins_nearer_than_with_codes_alone():
    whole = logits(gpt())
    found = {}
    for method in (QLoRA(code="nf2"), LoftQ(r=16, code="nf2")):
        model = gpt()
        attach(model, method)
        found[method.name] = abs(logits(model) - whole).mean()
    assert found["loftq"] < 0.8 * found["qlora"]


def test_the_base_keeps_its_weight_and_the_codes_are_of_another():
    model = gpt()
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    y = logits(model)
    at = attach(model, LoftQ(r=4))
    for path, w in codes_of(at).items():
        assert same(w.base.weight.data, before[f"{path}.weight"])
        A0, B0 = at.wrappers[path].A0.data, at.wrappers[path].B0.data
        left = w.base.weight.data - at.wrappers[path].scale * B0 @ A0
        step = abs(left).max() * 0.16  # half the widest gap of NF4
        assert abs(w.weight.data - left).max() <= step < abs(B0 @ A0).max() * 100
    fit(model, Next(), steps=2, lr=0.01, batch=2, quiet=True)
    at.detach()
    assert same(logits(model), y)


def test_a_file_brings_its_codes(tmp_path, monkeypatch):
    model = gpt(np.float32)
    at = attach(model, LoftQ(r=4, T=3))
    fit(model, Next(), steps=2, lr=0.01, batch=2, quiet=True)
    y = logits(model)
    at.save(tmp_path / "a")
    usual = loftq.principal

    def other(*args):  # as if another library had found other singular parts
        A, B = usual(*args)
        return A, 0.9 * B

    monkeypatch.setattr(loftq, "principal", other)
    fresh = gpt(np.float32)
    with attach(fresh, LoftQ(r=4, T=3)):
        assert not same(logits(fresh), y)
    load_adapter(fresh, tmp_path / "a")
    assert same(logits(fresh), y)


@pytest.mark.parametrize("first", [QLoRA(), Quantize(), LoRA()], ids=lambda m: m.name)
def test_it_goes_on_plain_weights_alone(first):
    model = gpt()
    attach(model, first)
    told = "lora' around it" if first.name == "lora" else f"quantized already, by '{first.name}'"
    with pytest.raises(ValueError, match=f"LoftQ: blocks.0.attn.q_proj .*{told}"):
        attach(model, LoftQ(r=2))
    assert len(model.handles) == 1


def test_refusals():
    model = gpt()
    with pytest.raises(ValueError, match="LoftQ: r = 33 is above the rank of blocks.0.attn.q_proj"):
        attach(model, LoftQ(r=33))
    attach(model, TopK(k=1))
    with pytest.raises(ValueError, match="'loftq' would freeze .*, which 'topk' changes"):
        attach(model, LoftQ(r=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"T": 0}, "LoftQ: T must be a whole number from 1 to 100, got 0"),
        ({"T": 101}, "LoftQ: T must be a whole number from 1 to 100, got 101"),
        ({"T": 2.0}, "LoftQ: T must be int, got 2.0"),
        ({"alpha": 0.0}, "LoftQ: alpha must be a finite number > 0"),
        ({"r": 0}, "LoftQ: r must be"),
        ({"code": "nf5"}, "LoftQ: code must be 'nf4', "),
        ({"block": -1}, "LoftQ: block must be"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        LoftQ(**changes)
