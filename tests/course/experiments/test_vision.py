"""The measures behind the lecture on vision, its claims, and what the student types there."""

import dataclasses

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.runner import base
from minipeft.course.experiments.vision import claims, runs
from minipeft.course.solutions import vision as solutions
from minipeft.methods import METHODS, FacT
from tests.methods.contract import CASES, randomize

EDGES = ("linear_probe",)  # methods whose best rate is the smallest or largest tried
NAMES = [name for name in EXPERIMENTS if name.startswith("vision_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_fast_run_repeats_and_leaves_the_base(name):
    experiment = EXPERIMENTS[name]
    settings = experiment.settings(True)[0] | {"task": "textures"}  # digits need scikit-learn
    before = {path: p.data.copy() for path, p in base(runs.BASE).named_parameters()}
    found = experiment.run(settings)
    assert found == experiment.run(settings)
    after = base(runs.BASE).named_parameters()
    assert all(np.array_equal(p.data, before[path]) for path, p in after)


def test_training_pictures_are_scored_on_those_that_were_trained_on():
    """With a seed of its own: after enough steps all of them are right."""
    settings = {"task": "textures", "method": "full", "n": 100, "lr": 3e-3, "seed": 3, "steps": 60}
    assert runs.learn(settings)["train"] > 90


def test_methods_are_those_of_the_library_under_their_names():
    assert all(METHODS[name] is type(method) for name, (method, _) in runs.METHODS.items())
    ratio = [m.alpha / m.r for m, _ in runs.METHODS.values() if hasattr(m, "alpha")]
    assert ratio == [2.0, 2.0]


def test_of_rates_as_good_the_smallest_is_chosen(monkeypatch):
    validation = {1e-3: 41.0, 3e-3: 45.5, 1e-2: 47.0, 3e-2: 30.0}

    class Found:
        def mean(self, outcome, method, lr):
            assert outcome == "validation"  # not by the test score, ever
            return validation[lr]

    monkeypatch.setattr(runs, "results", lambda name: Found())
    assert runs.chosen("lnlora") == 3e-3


@pytest.mark.parametrize("name", runs.METHODS)
def test_the_chosen_rate_has_a_worse_one_on_either_side_or_is_named_an_edge(name):
    rates = runs.METHODS[name][1]
    chosen = runs.chosen(name)
    edge = chosen in (rates[0], rates[-1])
    assert edge == (name in EDGES)


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_the_average_is_over_groups():
    """Entry by entry, for one seed."""
    found = results("vision_vtab")
    scores = {t: found.where("test", method="full", task=t, seed=2)[0] for t in claims.TASKS}
    by = {"natural": ("digits", "clutter"), "specialised": ("textures", "cells"),
          "structured": ("count", "angle")}  # fmt: skip
    wanted = sum(sum(scores[t] for t in tasks) / 2 for tasks in by.values()) / 3
    assert claims.average("full")[2] == pytest.approx(wanted)
    assert solutions.group_average(scores, claims.GROUPS) == pytest.approx(wanted)


def test_groups_count_alike_however_many_tasks_they_have():
    scores = {"a": 100.0, "b": 50.0, "c": 0.0}
    groups = {"a": "one", "b": "other", "c": "other"}
    assert solutions.group_average(scores, groups) == 62.5


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_a_piece_by_hand_is_the_library_s(form):
    model = dataclasses.replace(CASES["fact"], kind="vit").model()
    handle = attach(model, FacT(r=3, form=form, s=0.7))
    randomize(handle)
    w = handle.wrappers["blocks.0.mlp.fc_in"]
    d = model.config.width
    change = (w.dense() - w.base.weight.data)[2 * d : 3 * d]
    S = w.S.data[6:9] if form == "tt" else solutions.tucker(w.P.data[2], w.C.data)
    np.testing.assert_allclose(
        solutions.piece(w.U.data, S, w.V.data, 0.7), change, rtol=1e-10, atol=1e-12
    )
