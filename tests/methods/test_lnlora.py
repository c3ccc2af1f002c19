"""LNLoRA: the branch by hand, what the norm takes out, and why it stays beside the weight."""

import dataclasses

import numpy as np
import pytest

from minipeft.contract import NotMergeable, attach
from minipeft.ledger.papers import count, shapes
from minipeft.methods import LNLoRA
from tests.methods.contract import CASES, randomize, run

VIT = dataclasses.replace(CASES["lnlora"], kind="vit")


def attached(**fields):
    handle = attach(VIT.model(), LNLoRA(**{"r": 2, "alpha": 3.0, **fields}))
    randomize(handle)
    return handle.wrappers["blocks.1.mlp.fc_in"]


def test_the_branch_is_the_paper_s():
    w = attached()
    x = np.random.default_rng(0).normal(size=(5, 8))
    centred = x - x.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    normed = normed * w.ln.weight.data + w.ln.bias.data
    wanted = x @ w.base.weight.data.T + w.base.bias.data
    wanted = wanted + 1.5 * normed @ w.A.data.T @ w.B.data.T
    np.testing.assert_allclose(run(w, x), wanted, rtol=1e-10)


def test_the_branch_does_not_see_how_large_its_input_is():
    w = attached()
    x = 10 * np.random.default_rng(0).normal(size=(5, 8))
    branch = [run(w, k * x + c) - run(w.base, k * x + c) for k, c in ((1, 0), (100, 7))]
    np.testing.assert_allclose(branch[0], branch[1], rtol=1e-3)


def test_no_one_matrix_does_the_same():
    """It is not linear: f(x + y) is not f(x) + f(y) less the bias; merging says why it stays."""
    w = attached()
    x, y = np.random.default_rng(0).normal(size=(2, 5, 8))
    f = {name: run(w, z) for name, z in (("x", x), ("y", y), ("both", x + y), ("0", 0 * x))}
    assert abs(f["both"] + f["0"] - f["x"] - f["y"]).max() > 0.1
    with pytest.raises(NotMergeable, match="deviation of each input.*train LoRA, which merges"):
        w.merged()


@pytest.mark.parametrize("name", ["vit-base", "vit-large", "gpt2", "bert-base"])
@pytest.mark.parametrize("r", [1, 8, 16])
def test_counts(name, r):
    """The Linears of a block have 18 d of inputs and outputs in sum, and 9 d of inputs alone."""
    c = shapes(name).config
    assert count(name, LNLoRA(r=r)) == 18 * c.width * (r + 1) * c.layers


def test_the_start():
    with attach(VIT.model(width=48), LNLoRA(r=16)) as at:
        w = at.wrappers["blocks.0.mlp.fc_out"]
        assert not w.B.data.any() and not w.ln.bias.data.any() and (w.ln.weight.data == 1).all()
        assert 0.9 * 192**-0.5 < abs(w.A.data).max() <= 192**-0.5
