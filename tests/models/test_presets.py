"""Presets: the parameter totals that papers print, counted on shape-only models."""

import time
import tracemalloc

import numpy as np
import pytest

from minipeft.models import GPT, PRESETS, GPTConfig, preset
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
}


def test_every_preset_with_a_printed_total_is_here():
    assert set(PRESETS) - set(TOTALS) == {"tiny-gpt"}


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name):
    assert GPT(preset(name), init="shape").num_parameters() == TOTALS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_totals_have_their_closed_form(name):
    c = preset(name)
    block = 12 * c.width**2 + 13 * c.width
    total = (c.vocab + c.context) * c.width + c.layers * block + 2 * c.width
    model = GPT(c, init="shape")
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


def test_a_giant_of_shapes_takes_under_a_megabyte_and_a_second():
    tracemalloc.start()
    start = time.perf_counter()
    model = GPT(preset("gpt3-175b"), init="shape")
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.num_parameters() > 10**11 and seconds < 1
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
