"""Presets: the parameter totals that papers print, counted on shape-only models."""

import tracemalloc

import numpy as np
import pytest

from minipeft.models import (
    BERT,
    GPT,
    MODELS,
    PRESETS,
    BERTConfig,
    GPTConfig,
    ViT,
    ViTConfig,
    build,
    preset,
)
from minipeft.nn import init

TOTALS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125_226_240,
    "gpt3-medium": 355_871_744,
    "gpt3-large": 760_300_032,
    "gpt3-xl": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "bert-base": 109_514_298,  # with the head for masked words
    "bert-large": 335_174_458,
    "roberta-base": 124_697_433,  # likewise
    "roberta-large": 355_412_057,
    "vit-base": 86_567_656,  # with 1000 classes
    "vit-large": 304_326_632,
}
OWN = {"tiny-gpt": 0.9, "gpt-0.2m": 0.2, "gpt-3.1m": 3.1, "tiny-bert": 0.9, "tiny-vit": 0.3}


def test_every_preset_with_a_printed_total_is_here():
    assert set(PRESETS) - set(TOTALS) == set(OWN)


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name):
    assert build(preset(name), init="shape").num_parameters() == TOTALS[name]


# heads do not change a total: GPT-3's are of Table 2.1, where its XL row is as presets.py says
HEADS = {"gpt2": 12, "gpt2-medium": 16, "gpt2-large": 20, "gpt2-xl": 25, "gpt3-small": 12,
         "gpt3-medium": 16, "gpt3-large": 16, "gpt3-xl": 16, "gpt3-2.7b": 32, "gpt3-6.7b": 32,
         "gpt3-13b": 40, "gpt3-175b": 96, "bert-base": 12, "bert-large": 16, "roberta-base": 12,
         "roberta-large": 16, "vit-base": 12, "vit-large": 16}  # fmt: skip


def test_heads_are_the_printed_ones():
    assert {name: preset(name).heads for name in TOTALS} == HEADS
    widths = {name: preset(name).width // preset(name).heads for name in OWN}
    assert set(widths.values()) == {16, 32}


def test_the_shipped_models_are_as_large_as_they_are_called():
    for name, millions in OWN.items():
        total = build(preset(name), init="shape").num_parameters()
        assert round(total / 1e6, 1) == millions, name


def test_a_config_builds_its_model():
    for name, kind in (("gpt2", GPT), ("bert-base", BERT), ("vit-base", ViT)):
        assert type(build(preset(name), init="shape")) is kind
    small = GPTConfig(vocab=7, context=4, width=8, layers=1, heads=2)
    one, other = build(small, seed=3, dtype=np.float64), GPT(small, seed=3, dtype=np.float64)
    assert all((a.data == b.data).all() for a, b in zip(one.parameters(), other.parameters(),
                                                        strict=True))  # fmt: skip
    assert set(MODELS) == {"gpt", "bert", "vit", "llama"}


@pytest.mark.parametrize("name", PRESETS)
def test_totals_have_their_closed_form(name):
    c = preset(name)
    block = 12 * c.width**2 + 13 * c.width
    if isinstance(c, ViTConfig):
        total = (c.channels * c.patch**2 + 1 + 1 + 1 + c.patches) * c.width
        total += 2 * c.width + (c.width + 1) * c.classes
    else:
        total = (c.vocab + c.context) * c.width + 2 * c.width
    if isinstance(c, BERTConfig):
        total += c.segments * c.width + c.width**2 + 3 * c.width + c.vocab
    total += c.layers * block
    model = build(c, init="shape")
    assert model.num_parameters() == model.summary().total == total
    assert sum(p.size for p in model.blocks[0].parameters()) == block


def test_a_width_of_5140_would_give_the_13b_row_as_printed():
    c = preset("gpt3-13b").to_dict() | {"width": 5140, "heads": 20}
    assert GPT(GPTConfig(**c), init="shape").num_parameters() == 12_952_938_780


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="no preset 'gpt2-median'; nearest is 'gpt2-medium', all"):
        preset("gpt2-median")
    with pytest.raises(ValueError, match="nearest is"):
        preset("")


# -- shape-only models ----------------------------------------------------------------------------


def test_a_giant_of_shapes_takes_under_a_megabyte():
    tracemalloc.start()
    model = GPT(preset("gpt3-175b"), init="shape")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.num_parameters() > 10**11
    assert peak < 1_000_000, f"{peak:,} bytes"


def test_a_giant_counts_and_prints():
    model = GPT(preset("gpt3-175b"), init="shape")
    assert "174,604,259,328" in str(model.summary()) and "GPT(174,604,259,328" in repr(model)
    assert all(init.is_shape_only(p.data) for p in model.parameters())


TINY = GPTConfig(vocab=7, context=4, width=8, layers=1, heads=2)


def test_shapes_do_not_run_and_are_not_saved():
    model = GPT(TINY, init="shape")
    with pytest.raises(RuntimeError, match="shapes but no values .*: it can be counted, not run"):
        model(np.zeros((1, 2), int))
    with pytest.raises(RuntimeError, match="shapes but no values"):
        model.blocks[0].attn.q_proj(np.zeros((1, 8), np.float32))
    with pytest.raises(RuntimeError, match="emb.tok.weight has a shape but no values"):
        model.state_dict()


def test_loaded_values_make_a_shape_only_model_run():
    source, target = GPT(TINY), GPT(TINY, init="shape")
    target.load_state_dict(source.state_dict())
    ids = np.array([[1, 2, 3]])
    assert np.array_equal(source(ids).data, target(ids).data)
