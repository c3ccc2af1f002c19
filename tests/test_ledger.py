"""The ledger's predictions against real steps, closed formulas and the papers' numbers."""

import tracemalloc
from functools import partial

import numpy as np
import pytest

from minipeft.engine import fused
from minipeft.engine.op import op
from minipeft.ledger import check_fits, measure, predict
from minipeft.methods import BitFit, Full, LoRA, Subspace, TopK, attach
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, ViT, ViTConfig, preset
from minipeft.nn import transformer

SIZES = {"width": 48, "layers": 3, "heads": 4}
MODELS = {
    "gpt": partial(GPT, GPTConfig(vocab=500, context=64, **SIZES)),
    "bert": partial(BERT, BERTConfig(vocab=500, context=64, **SIZES)),
    "vit": partial(ViT, ViTConfig(image=28, patch=4, channels=1, classes=10, **SIZES)),
}
METHODS = [Full(), TopK(k=1), BitFit(), LoRA(), Subspace(d=200, said="layer")]
BATCHES = [(4, 32), (16, 48)]
OBJECTS = 2000  # bytes: what the interpreter's own objects may add to a few kB that are measured
KINDS = ("weights", "optimizer", "gradients", "activations", "peak")


def made(model, *methods, **settings):
    """A model with methods attached."""
    new = model(**settings)
    for method in methods:
        attach(new, method)
    return new


def both(model, *methods, batch, length=None, **settings):
    """A ledger, predicted from shapes alone, with the measured step in it."""
    step = {"batch": batch, "length": length, **settings}
    found = predict(made(model, *methods, init="shape"), **step)
    found.compare(measure(lambda: made(model, *methods), **step))
    return found


# -- predicted against measured -------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", MODELS)
def test_predictions_hold_within_a_tenth(name, method, batch):
    rows, length = batch
    apart = both(MODELS[name], method, batch=rows, length=None if name == "vit" else length)
    noise = {k for k, n in apart.predicted.items() if abs(n - apart.measured[k]) < OBJECTS}
    assert {k: v for k, v in apart.differences().items() if abs(v) > 0.1 and k not in noise} == {}
    assert abs(apart.differences()["activations"]) < 0.01


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"dropout": 0.1}, {}),
        ({"dropout": 0.1}, {"recompute": True}),
        ({"head": "linear", "classes": 3}, {"optimizer": "sgd"}),
        ({}, {"optimizer": "muon"}),
    ],
    ids=str,
)
def test_predictions_hold_for_dropout_heads_optimizers_and_recomputed_blocks(fields, settings):
    model = partial(GPT, GPTConfig(vocab=500, context=64, **SIZES, **fields))
    found = both(model, LoRA(dropout=0.1), batch=16, length=64, **settings)
    assert all(abs(v) < 0.1 for v in found.differences().values())


def test_a_model_without_a_method_and_in_float64():
    found = both(partial(GPT, GPTConfig(vocab=99, context=32, **SIZES), dtype=np.float64), batch=16)
    assert all(abs(v) < 0.1 for v in found.differences().values())
    assert found.predicted["weights"] == 8 * found.parameters["total"]


@op
def hoarding_gelu(x):
    """GELU that keeps its tanh, one array more than it needs."""
    spare = np.tanh(x)
    y, (vjp,) = fused.gelu.__wrapped__(x)
    return y, (lambda g: vjp(g) + 0 * spare,)


def test_an_operation_that_keeps_one_array_too_many_is_seen(monkeypatch):
    model = MODELS["gpt"]
    honest = both(model, Full(), batch=16, length=32)
    assert abs(honest.differences()["activations"]) < 0.01
    monkeypatch.setitem(transformer.ACTIVATIONS, "gelu", hoarding_gelu)
    hoard, by_op = measure(lambda: made(model, Full()), batch=16, length=32)
    honest.compare((hoard, by_op))
    assert honest.differences()["activations"] < -0.1
    assert by_op["hoarding_gelu"] == 2 * 3 * 16 * 32 * 4 * 48 * 4  # twice what gelu is to keep
    (row,) = [r for r in honest.operations if r["operation"] == "gelu"]
    assert row["kept"] == by_op["hoarding_gelu"] // 2


# -- against formulas -----------------------------------------------------------------------------


def test_flops_are_those_of_the_products():
    B, T, C, L, V = 2, 16, 48, 3, 500
    shape = partial(MODELS["gpt"], init="shape")
    block = 24 * B * T * C * C + 4 * B * T * T * C
    head = 2 * B * T * C * V
    full = predict(made(shape, Full()), batch=B, length=T).flops
    assert full["forward"] == L * block + head
    assert full["backward"] == 2 * full["forward"]
    lora = predict(made(shape, LoRA(r=4)), batch=B, length=T).flops
    branch = 2 * (2 * B * T * 4 * 2 * C)  # of q and v in a block
    assert lora["forward"] == full["forward"] + L * branch
    assert 0.9 < lora["backward"] / full["forward"] < 1.2


def test_recomputing_costs_one_more_forward_of_the_blocks():
    model = made(partial(MODELS["gpt"], init="shape"), Full())
    plain = predict(model, batch=2, length=16)
    again = predict(model, batch=2, length=16, recompute=True)
    head = 2 * 2 * 16 * 48 * 500
    assert again.flops["backward"] - plain.flops["backward"] == plain.flops["forward"] - head
    assert again.predicted["activations"] < plain.predicted["activations"] / 2


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 2), ("sgd", 1), ("muon", 2)])
def test_the_optimizer_keeps_copies_of_what_trains(optimizer, copies):
    model = made(partial(MODELS["gpt"], init="shape"), LoRA())
    got = predict(model, batch=1, length=4, optimizer=optimizer)
    assert got.predicted["gradients"] == 4 * got.parameters["trainable"]
    assert got.predicted["optimizer"] == copies * got.predicted["gradients"]


def test_activations_grow_by_the_block_that_top_k_adds():
    kept = [
        predict(made(partial(MODELS["gpt"], init="shape"), TopK(k=k)), batch=2, length=16)
        .predicted["activations"]
        for k in (1, 2, 3)
    ]  # fmt: skip
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0


# -- giants ---------------------------------------------------------------------------------------


def test_gpt3_is_told_in_a_few_megabytes():
    tracemalloc.start()
    model = made(partial(GPT, preset("gpt3-175b"), init="shape"), LoRA(r=4, dropout=0.1))
    found = predict(model, batch=1, length=2048)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300e6
    papers = found.papers()
    assert papers["weights in half precision"] == pytest.approx(350e9, rel=0.01)
    assert papers["this method with Adam"] == pytest.approx(350e9, rel=0.01)
    assert papers["full fine-tuning with Adam"] == pytest.approx(2.8e12, rel=0.01)
    assert papers["saved per task"] == 36 * 2**20  # "35MB"
    assert found.flops["forward"] > 2 * 174e9 * 2048 and "TB" in str(found)


def test_papers_count_selected_weights_once():
    shape = partial(MODELS["gpt"], init="shape")
    full = predict(made(shape, Full()), batch=1, length=4)
    assert full.papers()["this method with Adam"] == full.papers()["full fine-tuning with Adam"]


# -- what it leaves, refuses and prints -----------------------------------------------------------


def test_predicting_changes_nothing():
    model = made(MODELS["gpt"], Full())
    p = model.blocks[0].attn.q_proj.weight
    p.grad = gradient = np.ones(p.shape)
    version, values = p.version, p.data.copy()
    predict(model, batch=2, length=8)
    assert p.grad is gradient and p.version == version and np.array_equal(p.data, values)
    assert np.isfinite(model(np.zeros((1, 4), int)).data).all()


def test_wrong_input_is_refused():
    gpt, vit = MODELS["gpt"](), MODELS["vit"]()
    for wrong, told in [
        ({"batch": 0}, "batch must be a whole number >= 1, got 0"),
        ({"batch": 1, "length": 65}, "length must be in 1 … 64, the context, got 65"),
        (
            {"batch": 1, "optimizer": "adam"},
            "optimizer must be 'adamw', 'sgd' or 'muon', got 'adam'",
        ),
    ]:
        with pytest.raises(ValueError, match=told):
            predict(gpt, **wrong)
    with pytest.raises(ValueError, match="an image is always 49 patches and one place more"):
        predict(vit, batch=1, length=3)
    for p in gpt.parameters():
        p.requires_grad = False
    with pytest.raises(ValueError, match="nothing in the model trains"):
        predict(gpt, batch=1)
    with pytest.raises(ValueError, match="nothing was measured"):
        predict(vit, batch=1).differences()
    with pytest.raises(RuntimeError, match="a step needs about 100 TB and this machine has"):
        check_fits(10**14)


def test_it_prints_as_text_and_html():
    found = predict(made(MODELS["vit"], LoRA()), batch=2)
    assert "ViT with lora" in str(found) and "measured" not in str(found)
    found.compare(measure(lambda: made(MODELS["vit"], LoRA()), batch=2))
    text, page = str(found), found._repr_html_()
    for word in (*KINDS, "add_low_rank", "measured", "as papers count", "2 x 50"):
        assert word in text and word in page
    assert page.count("<table>") == page.count("</table>") == 3
