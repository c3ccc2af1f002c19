"""Where Parameters' arrays come from: drawn once, in place, or passed over."""

import tracemalloc

import numpy as np
import pytest

from minipeft import backend
from minipeft.backend import Rng
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, ViT, ViTConfig
from minipeft.nn import init

TEXT = {"vocab": 40, "context": 8, "width": 6, "layers": 2, "heads": 2}
MODELS = [
    lambda **how: GPT(GPTConfig(**TEXT), 3, **how),
    lambda **how: GPT(GPTConfig(**TEXT, head="linear", classes=5), 3, **how),
    lambda **how: BERT(BERTConfig(**TEXT), 3, **how),
    lambda **how: BERT(BERTConfig(**TEXT, head="linear", classes=5), 3, **how),
    lambda **how: ViT(ViTConfig(image=8, patch=4, channels=1, width=6, layers=1, heads=2,
                                classes=3), 3, **how),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 6, 31, 32, 33, 63, 64, 65, 127, 128, 131, 1000])
def test_draws_in_parts_have_the_bits_of_one_draw(n, dtype, monkeypatch):
    like = np.zeros(2, dtype)

    def drawn(part):
        monkeypatch.setattr(backend, "DRAWN", part)
        rng = Rng(1, "parts")
        rng.raw(3)
        arrays = init.normal((n,), like, rng, 0.7), init.uniform((n,), like, rng, 0.3), rng.raw(2)
        return [a.tobytes() for a in arrays]

    assert drawn(32) == drawn(1 << 30)
    rng = Rng(1, "parts")
    rng.raw(3)
    floats = (rng.normal((n,)) * 0.7).astype(dtype), rng.uniform((n,), -0.3, 0.3).astype(dtype)
    assert drawn(32)[:2] == [a.tobytes() for a in floats]


@pytest.mark.parametrize("shape", [(1,), (3, 5), (64, 70)])
def test_a_shape_without_values_leaves_the_stream_where_values_would(shape):
    drawn, passed = Rng(2), Rng(2)
    for rng, like in ((drawn, np.zeros(2)), (passed, init.prototype(shape_only=True))):
        init.normal(shape, like, rng, 1.0)
        init.uniform(shape, like, rng, 1.0)
    assert drawn.raw(1) == passed.raw(1)


@pytest.mark.parametrize("make", MODELS)
def test_a_head_alone_has_the_values_that_the_whole_model_gives_it(make):
    whole, alone = make(), make(init="head")
    parts = dict(whole.named_parameters())
    heads = 0
    for path, p in alone.named_parameters():
        if path.split(".")[0] in whole.head_parts:
            assert p.data.tobytes() == parts[path].data.tobytes(), path
            heads += 1
        else:
            assert init.is_shape_only(p.data), path
    assert heads == sum(path.split(".")[0] in whole.head_parts for path in parts)


def test_a_model_is_drawn_into_its_own_memory():
    config = GPTConfig(vocab=20_000, context=64, width=128, layers=1, heads=2)
    size = 4 * GPT(config, init="shape").num_parameters()
    tracemalloc.start()
    GPT(config)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < peak < 1.15 * size
