"""Outlines: totals that the published configurations have, and what can be done with them."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.methods import BitFit, Full, LoRA, QLoRA, TopK
from minipeft.models import OUTLINES, outline
from minipeft.models.outlines import BIASES, BUCKETS, KERNEL
from minipeft.nn import init

TOTALS = {  # counted on the published configurations' models
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "deberta-xxl": 1_564_549_632,
    "t0-3b": 2_849_757_184,
    "t0-11b": 11_135_332_352,
}


def closed_form(c):
    d, L = c.width, c.layers
    if c.kind == "llama":
        return 2 * c.vocab * d + L * (4 * d * d + 3 * d * c.mlp + 2 * d) + d
    if c.kind == "t5":
        encoder = 4 * d * d + 3 * d * c.mlp + 2 * d
        decoder = 8 * d * d + 3 * d * c.mlp + 3 * d
        return 2 * c.vocab * d + L * (encoder + decoder) + 2 * BIASES * c.heads + 2 * d
    conv = KERNEL * d * d + d
    return c.vocab * d + L * (12 * d * d + 13 * d) + BUCKETS * d + conv + 3 * 2 * d


@pytest.mark.parametrize("name", OUTLINES)
def test_totals(name):
    model = outline(name)
    assert model.num_parameters() == closed_form(OUTLINES[name]) == TOTALS[name]
    for side in (model.encoder, model.decoder) if "t0" in name else (model,):
        assert len(side.blocks) == model.config.layers
    assert all(init.is_shape_only(p.data) for p in model.parameters())
    assert f"{TOTALS[name]:,}" in str(model.summary())


@pytest.mark.parametrize("name", ["llama-7b", "deberta-xxl"])
def test_methods_attach(name):
    model = outline(name)
    c = model.config
    with attach(model, LoRA(r=4)) as at:
        assert at.count() == c.layers * 2 * 4 * 2 * c.width
    with attach(model, TopK(k=1)) as at:
        assert at.count() * c.layers == sum(p.size for p in model.blocks.parameters())
    with attach(model, Full()) as at:
        assert at.count() == TOTALS[name]


def test_all_linear_is_seven_parts_of_a_llama_block():
    model = outline("llama-7b")
    c = model.config
    with attach(model, QLoRA(r=2)) as at:
        assert len(at.wrappers) == 7 * c.layers
        assert at.count() == 2 * c.layers * (4 * 2 * c.width + 3 * (c.width + c.mlp))


def test_llama_has_no_biases():
    with pytest.raises(ValueError, match="changes nothing in this model"):
        attach(outline("llama-7b"), BitFit())


def test_an_outline_does_not_run():
    with pytest.raises(RuntimeError, match="it can be counted, not run"):
        outline("llama-7b")(np.zeros((1, 2), int))


def test_an_unknown_outline_names_the_nearest():
    with pytest.raises(ValueError, match="no outline 'llama-8b'; nearest is 'llama-7b', all: "):
        outline("llama-8b")
