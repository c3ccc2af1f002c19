"""LoRA against golden values: one A for q, k and v, as an adapter on GPT-2's c_attn has."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.methods import LoRA
from tests.golden import CONFIG, CONV1D, IDS, columns, fill, golden_gpt, lora_shapes, our_lora

QKV = ("q_proj", "k_proj", "v_proj")
ROWS = {
    "c_attn": (
        LoRA(r=4, alpha=8.0, targets=QKV, fused=QKV),
        ("attn.c_attn",),
        [-3.82232947, -4.06413177, -3.77572724, -0.56606856, 57.7791385, -14.5164971],
    ),
    "all four": (
        LoRA(r=4, alpha=8.0, targets="all-linear", fused=QKV, rslora=True),
        CONV1D,
        [-2.53391284, -2.99395957, -3.06341419, -1.25779382, 51.7381526, -12.2075653],
    ),
}


def golden_lora(row):
    """The golden GPT with the row's method attached and filled."""
    method, targets, _ = ROWS[row]
    model = golden_gpt()
    handle = attach(model, method)
    values = our_lora(fill(lora_shapes(CONFIG, targets, 4), start=100))
    for path, p in handle.trainable():
        p.data = values.pop(path).copy()
    assert not values
    return model, handle


@pytest.mark.parametrize("row", ROWS)
def test_golden_lora(row):
    model, _ = golden_lora(row)
    y = model(IDS)
    assert y.shape == (2, 6, 50) and y.dtype == np.float64
    error = np.abs(np.subtract(columns(y.data), ROWS[row][2])).max()
    assert error < 1e-7, columns(y.data)


@pytest.mark.parametrize("row", ROWS)
def test_golden_lora_merged(row):
    model, handle = golden_lora(row)
    y = model(IDS).data
    handle.merge()
    assert np.abs(model(IDS).data - y).max() < 1e-12 * np.abs(y).max()


def test_golden_counts():
    counts = [golden_lora(row)[1].count() for row in ROWS]
    r, d, layers = 4, CONFIG.width, CONFIG.layers
    assert counts == [layers * r * 4 * d, 16 * d * layers * r]


def test_separate_parts_are_fused_ones_with_a_sparse_b():
    model = golden_gpt()
    handle = attach(model, LoRA(r=2, alpha=3.0, targets=("q_proj", "v_proj")))
    separate = dict(handle.trainable())
    for i, p in enumerate(separate.values()):
        p.data = 0.3 * Rng(i).normal(p.shape)
    y = model(IDS).data
    handle.detach()
    fused = dict(attach(model, LoRA(r=4, alpha=6.0, targets=QKV, fused=QKV)).trainable())
    for i in range(CONFIG.layers):
        q, k, v = (f"blocks.{i}.attn.{name}" for name in QKV)
        fused[f"{q}.A"].data = np.concatenate([separate[f"{x}.A"].data for x in (q, v)])
        nothing = np.zeros((16, 2))
        fused[f"{q}.B"].data = np.concatenate([separate[f"{q}.B"].data, nothing], axis=1)
        fused[f"{k}.B"].data = np.zeros((16, 4))
        fused[f"{v}.B"].data = np.concatenate([nothing, separate[f"{v}.B"].data], axis=1)
    assert np.abs(model(IDS).data - y).max() < 1e-12 * np.abs(y).max()
