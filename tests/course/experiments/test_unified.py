"""The measures behind the lecture on all methods: they repeat, leave the base, and can be read."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.runner import base
from minipeft.course.experiments.unified import claims, runs
from minipeft.course.solutions import unified as solutions
from minipeft.engine import Tensor, no_grad
from minipeft.methods import LoRA
from tests.tiny import gpt

NAMES = [name for name in EXPERIMENTS if name.startswith("unified_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_fast_run_repeats_and_leaves_the_base(name):
    experiment = EXPERIMENTS[name]
    (settings,) = experiment.settings(True)
    before = {path: p.data.copy() for path, p in base().named_parameters()}
    found = experiment.run(settings)
    assert found == experiment.run(settings)
    assert all(np.array_equal(p.data, before[path]) for path, p in base().named_parameters())
    assert not base().attached()


@pytest.mark.parametrize("name", runs.ARMS)
def test_the_arms_have_as_many_parameters_as_each_other(name):
    for i, method in enumerate(runs.arm(name, 0)):
        attach(base(), method, freeze=not i)
    both = base().attached()
    counts = [handle.count() for handle in both]
    trains = [p.requires_grad for handle in both for _, p in handle.trainable()]
    for handle in both[::-1]:
        handle.detach()
    assert 9_816 <= sum(counts) <= 10_368 and all(trains)
    assert len(counts) == 1 + (name == "mix")
    assert set(results("unified_places").where("trainable", arm=name)) == {sum(counts)}


def test_all_parts_of_a_mix_train(monkeypatch):
    seen = []

    def fit(model, *_, **__):
        seen.extend(any(p.requires_grad for _, p in at.trainable()) for at in model.attached())

    monkeypatch.setattr(runs, "fit", fit)
    runs.place({"arm": "mix", "lr": 0.1, "seed": 0, "steps": 1})
    assert seen == [True, True]


@pytest.mark.parametrize("name", runs.ARMS)
def test_the_middle_rate_is_the_best_on_validation_data(name):
    found = results("unified_places")
    loss = [np.mean(found.where("validation", arm=name, lr=lr)[:3]) for lr in runs.ARMS[name]]
    assert np.argmin(loss) == 1, loss


def test_the_formula_is_that_of_the_library():
    model, x = gpt(), Tensor(np.random.default_rng(0).normal(size=(5, 16)))
    with attach(model, LoRA(r=2)) as at, no_grad():
        w = at.wrappers["blocks.0.attn.q_proj"]
        w.B.data = np.random.default_rng(1).normal(size=w.B.shape)
        h = w.base(x).data
        delta = solutions.change(x.data, h, w.A.data, w.B.data, lambda z: z, "parallel")
        np.testing.assert_allclose(w(x).data, h + w.scale * delta, rtol=0, atol=1e-12)
        other = solutions.change(x.data, h, w.A.data, w.B.data, lambda z: z, "sequential")
        assert abs(other - delta).max() > 0.1


def test_storage_counts_the_base_once():
    assert solutions.storage(3, 100, 5, False) == 4 * 115
    assert solutions.storage(3, 100, 5, True) == 4 * 300


def test_a_distance_is_that_of_the_merged_weights():
    found = results("unified_rows")
    assert all(x is None for x in found.where("moved", method="adapter"))
    assert all(x is None for x in found.where("moved", method="prompt"))
    assert min(found.where("moved", method="lora")) > 0.1


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)
    assert len(runs.SEEDS) == len(claims.arm("mix")) == len(claims.row("full", "text")) == 5
