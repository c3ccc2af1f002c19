"""BitFit: which biases, how many, and the ones that do nothing."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.methods import BitFit
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.nn import Linear, Module, Parameter
from tests.methods.contract import CASES, CONFIG


@pytest.mark.parametrize(
    ("name", "terms", "count"),
    [
        ("gpt2", "all", 102_144),
        ("gpt2-medium", "all", 271_360),
        ("gpt2-large", "all", 508_160),
        ("gpt2", "qm", 46_080),
        ("gpt3-175b", "all", 11 * 96 * 12288 + 12288),
    ],
)
def test_counts(name, terms, count):
    assert attach(GPT(preset(name), init="shape"), BitFit(terms)).count() == count


def test_it_trains_biases_and_nothing_else():
    handle = attach(GPT(CONFIG), BitFit())
    paths = [path for path, _ in handle.trainable()]
    assert all(path.endswith(".bias") for path in paths) and len(paths) == 2 * 8 + 1
    ends = {path.rpartition(".")[0] for path, _ in attach(GPT(CONFIG), BitFit("qm")).trainable()}
    assert ends == {f"blocks.{i}.{x}" for i in (0, 1) for x in ("attn.q_proj", "mlp.fc_in")}


def test_a_key_s_bias_gets_rounding_noise():
    model, handle = CASES["bitfit"].attached()
    y = model(CASES["bitfit"].inputs())
    y.backward(Rng(0).normal(y.shape))
    sizes = {path: abs(p.grad).max() for path, p in handle.trainable()}
    keys = {path for path in sizes if path.endswith("k_proj.bias")}
    assert len(keys) == 2
    assert max(sizes[path] for path in keys) < 1e-12
    assert min(sizes[path] for path in sizes.keys() - keys) > 1e-3


def test_a_model_without_biases_is_refused():
    class Bare(Module):
        def __init__(self):
            self.fc = Linear(3, 2, bias=False)

    with pytest.raises(ValueError, match="changes nothing in this model"):
        attach(Bare(), BitFit())


def test_a_name_that_holds_the_word_is_no_bias():
    class Odd(Module):
        def __init__(self):
            self.fc = Linear(3, 2)
            self.bias_scale = Parameter(np.ones(2, np.float32))

    assert [path for path, _ in attach(Odd(), BitFit()).trainable()] == ["fc.bias"]


def test_terms_are_checked():
    with pytest.raises(ValueError, match="terms must be 'all' or 'qm', got 'some'"):
        BitFit("some")
