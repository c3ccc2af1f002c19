"""The way of a gradient: its norms are those of grad, and each break is named."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, explain_grad, fused, no_grad, ops
from minipeft.methods import LoRA
from minipeft.nn import Parameter
from minipeft.training.step import loss_of
from tests.tiny import Rows, gpt, tokenizer


def matrix(name, *shape):
    return Parameter(Rng(0, name).normal(shape))


def test_the_way_down_with_its_norms():
    x, w, v = Tensor(Rng(0, "x").normal((5, 3))), matrix("w", 4, 3), matrix("v", 2, 4)
    loss = fused.linear(ops.tanh(fused.linear(x, w)), v).sum()
    text = explain_grad(loss, w, "w")
    loss.backward(retain=True)
    rows = [line.split() for line in text.splitlines()]
    assert [r[0] for r in rows] == ["operation", "sum", "linear", "tanh", "linear", "w"]
    assert float(rows[-1][-1]) == pytest.approx(np.linalg.norm(w.grad), rel=5e-3)
    assert float(rows[1][-1]) == 1.0
    assert len({len(line) for line in text.splitlines()}) == 1  # norms end at one column
    assert explain_grad(loss, v, "v").splitlines()[-1].split()[0] == "v"


def test_the_first_zero_is_pointed_out():
    x, w, v = Tensor(np.ones((5, 3))), matrix("w", 4, 3), Parameter(np.zeros((2, 4)))
    text = explain_grad(fused.linear(ops.tanh(fused.linear(x, w)), v).sum(), w, "w")
    assert "exactly zero from here on: linear passes none to its input tanh" in text
    assert "zero" not in explain_grad(fused.linear(x, w).sum(), w)


def test_why_there_is_none():
    x, w, v = Tensor(np.ones((5, 3))), matrix("w", 4, 3), matrix("v", 4, 4)
    y = fused.linear(fused.linear(x, w).detach(), v).sum()
    assert "no recorded operation leads from w" in explain_grad(y, w, "w")
    v.requires_grad = False
    y = fused.linear(fused.linear(x, w), v).sum()
    assert "v is frozen" in explain_grad(y, v, "v") and "dropped in linear" in explain_grad(y, v)
    with no_grad():
        assert "nothing was recorded" in explain_grad(fused.linear(x, w).sum(), w)


def test_an_adapter_explains_its_own():
    model = gpt()
    with attach(model, LoRA(r=2)) as at:
        loss = loss_of(model, Rows(tokenizer().vocab_size).batch(0, 2, 0))
        text = at.explain_grad(loss, "blocks.1.attn.v_proj.A")
        assert "exactly zero" in text and "add_low_rank" in text  # B = 0
        assert "exactly zero" not in at.explain_grad(loss, "blocks.1.attn.v_proj.B")
        assert "is frozen" in at.explain_grad(loss, "blocks.1.attn.v_proj.weight")
        with pytest.raises(ValueError, match="nearest is 'blocks.1.attn.v_proj.B'"):
            at.explain_grad(loss, "blocks.1.attn.v_proj.Bb")
