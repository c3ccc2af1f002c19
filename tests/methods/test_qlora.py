"""QLoRA: LoRA over codes, in one handle or two; what its merge costs; what is refused."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import NotMergeable, attach
from minipeft.engine import no_grad, running
from minipeft.engine.graph import kept
from minipeft.methods import DoRA, LoRA, QLoRA, Quantize, TopK
from minipeft.methods.quant import QuantLinear, codes_of
from minipeft.models import GPT, GPTConfig, preset
from minipeft.nn import Linear, Parameter
from minipeft.training.loop import fit
from tests.methods.contract import Next, same

CONFIG = GPTConfig(vocab=11, context=8, width=32, layers=2, heads=2)
IDS = Rng(0).integers(0, 11, (2, 8))


def gpt(dtype=np.float32):
    model = GPT(CONFIG, dtype=dtype)
    for path, p in model.named_parameters():
        p.data = (p.data + 0.2 * Rng(1, path).normal(p.shape)).astype(dtype)
    return model


def logits(model):
    with no_grad():
        return model(IDS).data


def randomized(at):
    for path, p in at.trainable():
        p.data = (0.1 * Rng(2, path).normal(p.shape)).astype(p.dtype)
    return at


@pytest.mark.parametrize("rslora", [False, True])
def test_one_handle_or_two_compute_the_same_bits(rslora):
    lora = {"r": 4, "alpha": 8.0, "targets": "all-linear", "rslora": rslora}
    one, two = gpt(), gpt()
    a = randomized(attach(one, QLoRA(**lora)))
    attach(two, Quantize())
    b = randomized(attach(two, LoRA(**lora)))
    assert a.count() == b.count() and same(logits(one), logits(two))
    for model in (one, two):
        fit(model, Next(), steps=3, lr=0.01, batch=4, quiet=True)
    assert same(logits(one), logits(two))


def test_it_starts_as_the_codes_and_keeps_none_of_their_weights():
    one, two = gpt(), gpt()
    at = attach(one, QLoRA())
    attach(two, Quantize())
    assert same(logits(one), logits(two))
    found = kept(one(IDS))
    assert {k.bytes for k in found if k.operation == "linear_decoded"} == {0}
    assert set(codes_of(at)) == set(at.wrappers) and len(at.wrappers) == 12


def test_counts_of_the_paper_s_recipe():
    model = GPT(preset("gpt2"), init="shape")
    at = attach(model, QLoRA(r=8))
    assert at.count() == 8 * (12 * 12 * 768 + 12 * 6 * 768)  # 12 linear parts as six, in squares
    bits = sum(8 * w.nbytes for w in codes_of(at).values())
    assert bits / (12 * 12 * 768 * 768) == pytest.approx(4.126953, rel=1e-6)


# -- merging --------------------------------------------------------------------------------------


def test_merging_is_refused_until_told_how():
    model = gpt()
    at = randomized(attach(model, QLoRA(r=4)))
    y = logits(model)
    with pytest.raises(NotMergeable, match="q_proj: its weight is stored as nf4 codes.*'dequantize'"
                       ".*'requantize'.*'refuse' is the default"):  # fmt: skip
        at.merge()
    with pytest.raises(ValueError, match="quantized must be one of refuse, dequantize, requantize"):
        at.merge(quantized="round")
    assert same(logits(model), y) and not at.ended


def test_the_three_policies_and_their_errors():
    found = {}
    for policy in ("dequantize", "requantize"):
        model = gpt()
        at = randomized(attach(model, QLoRA(r=4)))
        y = logits(model)
        report = at.merge(quantized=policy)
        found[policy] = abs(logits(model) - y).max() / abs(y).max()
        assert (report.worst > 0.01) == (policy == "requantize")
        assert all(type(model.get(row["path"])).__name__ == "Linear" for row in report.rows)
    assert found["dequantize"] < 1e-5 < 0.01 < found["requantize"]


def test_what_was_rounded_again_lies_on_codes():
    model = gpt()
    at = randomized(attach(model, QLoRA(r=4, double=False)))
    at.merge(quantized="requantize")
    y = logits(model)
    attach(model, Quantize(double=False))
    assert same(logits(model), y)


@pytest.mark.parametrize(("double", "bf16"), [(True, False), (False, True), (True, True)])
def test_the_sum_is_rounded_by_the_settings_of_the_codes(double, bf16):
    model = gpt()
    at = randomized(attach(model, QLoRA(r=4, block=8, double=double, bf16=bf16)))
    sums = {path: Parameter(w.dense()) for path, w in at.wrappers.items()}
    at.merge(quantized="requantize")
    for path, weight in sums.items():
        wanted = QuantLinear(Linear.of(weight, None), "nf4", 8, double, bf16).weight
        assert same(model.get(path).weight.data, wanted.data)


def test_two_handles_are_merged_codes_first():
    model = gpt()
    below = attach(model, Quantize())
    at = randomized(attach(model, LoRA(r=4)))
    y = logits(model)
    with pytest.raises(NotMergeable, match="'quant' under 'lora': merge 'quant' first, which keeps "
                       "its decoded.*dequantize.*requantize"):  # fmt: skip
        at.merge()
    below.merge()
    at.merge()
    assert abs(logits(model) - y).max() < 1e-5 * abs(y).max()


# -- with others ----------------------------------------------------------------------------------


def test_rows_carry_it_or_the_bare_codes():
    model, bare = gpt(), gpt()
    at = randomized(attach(model, QLoRA(r=4)))
    attach(bare, Quantize())
    with running(rows=[at, None]):
        mixed = logits(model)
    np.testing.assert_allclose(mixed[0], logits(model)[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], logits(bare)[1], atol=1e-5)


def test_a_magnitude_is_that_of_the_decoded_weight():
    model = gpt()
    attach(model, Quantize())
    y = logits(model)
    at = attach(model, DoRA(r=4, targets="q_proj"))
    assert abs(logits(model) - y).max() < 1e-5
    assert at.count() == 2 * (4 * 64 + 32)


@pytest.mark.parametrize("first", [QLoRA(), Quantize(), LoRA()], ids=lambda m: m.name)
def test_no_second_quantization(first):
    model = gpt()
    attach(model, first)
    told = "lora' around it" if first.name == "lora" else f"quantized already, by '{first.name}'"
    for second in (QLoRA(r=2), Quantize("fp4")):
        with pytest.raises(ValueError, match=f"{type(second).__name__}: blocks.0.attn.q.*{told}"):
            attach(model, second)
    assert len(model.handles) == 1


def test_weights_behind_its_codes_cannot_train():
    model = gpt()
    attach(model, QLoRA())
    with pytest.raises(ValueError, match="q_proj.weight, which 'qlora' replaces"):
        attach(model, TopK(k=1))
    model = gpt()
    attach(model, TopK(k=1))
    with pytest.raises(ValueError, match="'qlora' would freeze blocks.1.*which 'topk' changes"):
        attach(model, QLoRA())


def test_wrong_settings_are_refused():
    for fields, told in [({"code": "nf5"}, "QLoRA: code must be 'nf4', "),
                         ({"block": -3}, "QLoRA: block"), ({"r": 0}, "QLoRA: r must")]:  # fmt: skip
        with pytest.raises(ValueError, match=told):
            QLoRA(**fields)
    with pytest.raises(ValueError, match="QLoRA: r = 33 is above the rank of blocks.0.attn.q_proj"):
        attach(gpt(), QLoRA(r=33))


def test_training_over_codes_learns():
    model = gpt()
    at = attach(model, QLoRA(r=4))
    history = fit(model, Next(), steps=40, lr=0.02, batch=8, quiet=True)
    assert history.loss[-1] < history.loss[0] - 0.3
    assert not at.report().never_moved
