"""DoRA, VeRA and AdaLoRA against golden values, as adapters on GPT-2's c_attn."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.methods import AdaLoRA, DoRA, VeRA
from tests.golden import CONFIG, IDS, columns, fill, golden_gpt

QKV = ("q_proj", "k_proj", "v_proj")
D = CONFIG.width
ROWS = {  # method, (kind, name in a PEFT file, shape, ours) of each array, the golden columns
    "dora": (
        DoRA(r=4, alpha=8.0, targets=QKV, fused=QKV),
        [("lora_A.weight", (4, D), "A"), ("lora_B.weight", (3 * D, 4), "B"),
         ("lora_magnitude_vector", (3 * D,), "m")],
        [-3.86444166, -4.04840706, -3.70421708, -0.46941840, 57.6105876, -13.6669207],
    ),
    "vera": (
        VeRA(r=4, targets=QKV, fused=QKV),
        [("vera_lambda_b", (3 * D,), "b"), ("vera_lambda_d", (4,), "d")],
        [-3.88572229, -4.03566499, -3.65911465, -0.58515550, 59.1728569, -13.2419722],
    ),
    "adalora": (
        AdaLoRA(r=6, alpha=8.0, targets=QKV, fused=QKV),
        [("lora_A", (6, D), "Q"), ("lora_B", (3 * D, 6), "P"), ("lora_E", (6, 1), "Lambda")],
        [-3.81244916, -4.06648647, -3.79000976, -0.59790855, 57.5090126, -14.5660416],
    ),
}  # fmt: skip
ONES = ("lora_magnitude_vector",)  # names of arrays that the rule makes 1 larger


def golden(row):
    """The golden GPT with the row's method attached and filled."""
    method, names, _ = ROWS[row]
    lead = "base_model.model.transformer.h.{}.attn.c_attn."
    shapes = {lead.format(i) + name: s for i in range(CONFIG.layers) for name, s, _ in names}
    if row == "vera":
        shapes |= {"base_model.vera_A": (4, D), "base_model.vera_B": (3 * D, 4)}
    arrays = {n: a + n.endswith(ONES) for n, a in fill(shapes, start=100).items()}
    model = golden_gpt()
    handle = attach(model, method)
    for i in range(CONFIG.layers):
        for j, part in enumerate(QKV):
            w = handle.wrappers[f"blocks.{i}.attn.{part}"]
            rows = slice(j * D, (j + 1) * D)
            for name, shape, ours in names:
                array = arrays[lead.format(i) + name]
                p = getattr(w, ours)
                p.data = (array[rows] if shape[0] == 3 * D else array).reshape(p.shape).copy()
            if row == "vera":
                w.A.data = arrays["base_model.vera_A"].copy()
                w.B.data = arrays["base_model.vera_B"][rows].copy()
    return model, handle


@pytest.mark.parametrize("row", ROWS)
def test_golden(row):
    model, _ = golden(row)
    y = model(IDS)
    assert y.shape == (2, 6, 50) and y.dtype == np.float64
    assert np.abs(np.subtract(columns(y.data), ROWS[row][2])).max() < 1e-7, columns(y.data)


@pytest.mark.parametrize("row", ROWS)
def test_golden_merged(row):
    model, handle = golden(row)
    y = model(IDS).data
    handle.merge()
    assert np.abs(model(IDS).data - y).max() < 1e-12 * np.abs(y).max()
