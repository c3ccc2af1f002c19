"""Dropout: at which places of each model, which mask for whom, and how many zeros in it."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import no_grad, running
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, LLaMA, LLaMAConfig, ViT, ViTConfig
from tests.models.plain import plain, spied

P, CUT = 0.4, round(0.4 * 65536)
TEXT = {"vocab": 11, "context": 24, "width": 32, "layers": 2, "heads": 4, "mlp": 24, "dropout": P}
IMAGE = {"image": 10, "patch": 2, "channels": 3, "classes": 3}
MODELS = {
    "gpt": (GPT, GPTConfig(**TEXT)),
    "bert": (BERT, BERTConfig(**TEXT)),
    "bert-linear": (BERT, BERTConfig(**TEXT, head="linear", classes=3)),
    "llama": (LLaMA, LLaMAConfig(**TEXT, kv_heads=2)),
    "vit": (ViT, ViTConfig(**IMAGE, width=32, layers=2, heads=4, mlp=24, dropout=P)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def made(name):
    """A model in float64 with weights of O(0.3), inputs for three rows, and a mask."""
    kind, config = MODELS[name]
    model = kind(config, dtype=np.float64)
    for path, p in model.named_parameters():
        p.data = p.data + 0.3 * Rng(9, path).normal(p.shape)
    if name == "vit":
        x, length = Rng(1).normal((3, 3, 10, 10)), 26
    else:
        x, length = Rng(1).integers(0, 11, (3, 24)), 24
    return model, x, np.arange(length) < np.array([[length], [length - 3], [length - 9]])


def masks_of(name, seed=0):
    """The masks of one pass, in the order in which they were drawn."""
    model, x, mask = made(name)
    with spied() as masks, no_grad(), running(rng=Rng(seed)):
        model(x, mask=mask)
    return masks


@every_model
def test_dropout_falls_at_its_places_and_nowhere_else(name):
    model, x, mask = made(name)
    with spied() as masks, running(rng=Rng(0)):
        y = model(x, mask=mask).data
    np.testing.assert_allclose(y, plain(model, x, masks, mask), rtol=0, atol=1e-11)
    without = [np.ones_like(m) for m in masks]
    np.testing.assert_allclose(
        model(x, mask=mask).data, plain(model, x, without, mask), rtol=0, atol=1e-11
    )


@every_model
def test_every_row_head_and_query_has_a_mask_of_its_own(name):
    masks, (_, config) = masks_of(name), MODELS[name]
    T = 26 if name == "vit" else 24
    stream, weights = (3, T, 32), (3, 4, T, T)
    pooled = [(3, 32)] if name == "bert-linear" else []
    assert [m.shape for m in masks] == [
        stream, *[weights, stream, stream] * config.layers, *pooled
    ]  # fmt: skip
    for width in (T, 32):  # two vectors of 24 coins agree in one of seven million pairs
        vectors = np.concatenate([m.reshape(-1, width) for m in masks if m.shape[-1] == width])
        assert len(np.unique(vectors, axis=0)) == len(vectors)


@every_model
def test_each_place_has_its_share_of_zeros_and_scales_the_rest(name):
    for m in masks_of(name):
        assert set(np.unique(m)) == {0.0, 65536 / (65536 - CUT)}
        assert abs((m == 0).mean() - P) < 4 * np.sqrt(P * (1 - P) / m.size)


@every_model
def test_a_seed_draws_the_same_masks_again_and_another_seed_others(name):
    first, again, other = (masks_of(name, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@every_model
def test_a_second_pass_draws_other_masks_than_the_first(name):
    model, x, mask = made(name)
    with spied() as masks, no_grad(), running(rng=Rng(0)):
        model(x, mask=mask)
        model(x, mask=mask)
    half = len(masks) // 2
    assert not any(np.array_equal(a, b) for a, b in zip(masks, masks[half:], strict=False))
