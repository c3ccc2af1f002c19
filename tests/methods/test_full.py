"""Full fine-tuning: the counts, and that it is training the model itself."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.methods import Full
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.training.loop import fit
from tests.methods.contract import CONFIG, Next, same


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt3-175b", 174_604_259_328),
    ],
)
def test_counts(name, count):
    assert attach(GPT(preset(name), init="shape"), Full()).count() == count


def test_it_is_training_the_model_itself():
    alone, held = GPT(CONFIG, seed=3), GPT(CONFIG, seed=3)
    handle = attach(held, Full())
    for model in (alone, held):
        fit(model, Next(), steps=4, lr=0.01, batch=4, decay=0.1, quiet=True)
    start = GPT(CONFIG, seed=3).state_dict()
    assert all(same(a, start[path]) for path, a in held.base_arrays().items())
    handle.merge()
    for path, array in alone.state_dict().items():
        assert same(held.base_arrays()[path], array), path
        assert not np.array_equal(array, start[path]), path


def test_the_tie_is_kept():
    model = GPT(CONFIG)
    handle = attach(model, Full())
    assert model.head.weight is model.emb.tok.weight is dict(handle.trainable())["emb.tok.weight"]
    handle.merge()
    assert model.head.weight is model.emb.tok.weight


def test_what_is_kept_for_the_report_is_not_copied_twice():
    handle = attach(GPT(CONFIG), Full())
    assert not handle.start
    path, p = next(handle.trainable())
    p.data = p.data + 1
    assert handle.report().rows[0]["update"] == pytest.approx(np.sqrt(p.size))
