"""The measures behind the LoRA lecture, on cases whose answer is known."""

import json

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.course.compare import DEFAULT, Plan
from minipeft.course.compare import RATES as COMPARED
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.lora import runs as lora
from minipeft.course.experiments.lora.runs import (
    amplification,
    cycle,
    energy_rank,
    overlap,
    random_updates,
    spectrum,
)
from minipeft.course.experiments.rates.runs import RATES, SWEPT, TIMES, best
from minipeft.course.experiments.runner import base
from minipeft.methods import METHODS
from minipeft.storage.checkpoint import fingerprint, shipped_models


def directions(*rows):
    """A matrix whose right-singular vectors are these axes of R^6, strongest first."""
    return np.diag(np.arange(len(rows), 0, -1.0)) @ np.eye(6)[list(rows)]


def test_overlap_of_known_subspaces():
    same = overlap(directions(0, 1, 2), directions(0, 1, 2), 3, 3)
    assert np.allclose(np.diag(same), 1) and same[0, 2] == pytest.approx(1)
    half = overlap(directions(0, 1), directions(1, 5), 2, 2)
    assert np.allclose(half, [[0, 0], [1, 0.5]])  # axis 1 is second here, first there
    assert np.allclose(overlap(directions(0, 1), directions(2, 3), 2, 2), 0)


def test_overlap_of_random_subspaces_is_chance():
    d, i, j = 40, 3, 8
    found = [
        overlap(Rng(s, "a").normal((i, d)), Rng(s, "b").normal((j, d)), i, j)[-1, -1]
        for s in range(200)
    ]
    assert np.mean(found) == pytest.approx(max(i, j) / d, rel=0.1)


def test_spectrum_and_energy():
    a = directions(3, 1, 0)
    assert np.allclose(spectrum(a), [3, 2, 1])
    assert energy_rank(a, 9 / 14 - 1e-9) == 1 and energy_rank(a, 0.9) == 2
    assert energy_rank(a, 0.99) == 3


def test_amplification_is_the_ratio_in_the_updates_own_directions():
    w = np.diag([1.0, 10.0])
    assert amplification(np.diag([2.0, 0.0]), w, 1) == pytest.approx(2.0)
    assert amplification(np.diag([0.0, 2.0]), w, 1) == pytest.approx(0.2)


def test_cycle_drifts_more_in_fewer_bits():
    weight = Rng(0).normal((12, 10))
    updates = random_updates(weight, 4, seed=1)
    assert np.linalg.norm(updates[0]) == pytest.approx(0.1 * np.linalg.norm(weight))
    half, single, double = (
        cycle(weight, updates, dtype, 30)[0] for dtype in ("float16", "float32", "float64")
    )
    assert half > 100 * single > 1e4 * double
    assert cycle(weight, [np.zeros_like(weight)], "float16", 3) == [0.0]
    assert len(cycle(weight, updates, "float32", 30, (1, 10, 30))) == 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_settings_are_plain_and_different(name):
    for fast in (False, True):
        settings = EXPERIMENTS[name].settings(fast)
        keys = {json.dumps(s, sort_keys=True) for s in settings}
        assert len(keys) == len(settings) > 0
    assert len(EXPERIMENTS[name].settings(True)) < len(EXPERIMENTS[name].settings(False))


def test_equal_budget():
    assert {r * len(letters) for letters, r in lora.MATRICES.items()} == {8}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_are_complete_and_of_the_shipped_base(name):
    missing = [b for b in EXPERIMENTS[name].bases if b not in shipped_models()]
    if missing:
        pytest.skip(f"bases: {', '.join(missing)} not shipped yet")
    found = results(name)
    wanted = {json.dumps(s, sort_keys=True) for s in EXPERIMENTS[name].settings(False)}
    assert {json.dumps(r["settings"], sort_keys=True) for r in found.runs} == wanted
    marks = {name: fingerprint(base(name).state_dict()) for name in EXPERIMENTS[name].bases}
    assert found.about["bases"] == marks, "remake them"


def test_defaults_are_the_sweeps_choice():
    found = results("learning_rates")
    chosen = {name: best(found, RATES, method=name) for name in SWEPT}
    assert {name: METHODS[name].lr for name in SWEPT} == chosen


def test_compare_is_long_enough_for_every_method_and_seed():
    found = results("route_rates")
    assert {run["settings"]["steps"] for run in found.runs} == {Plan.steps}
    for name in DEFAULT:
        rate = COMPARED.get((Plan.task, name), METHODS[name].lr)
        times = min(TIMES, key=lambda t: abs(t * METHODS[name].lr - rate))
        assert times * METHODS[name].lr == pytest.approx(rate, rel=0.01)
        scores = found.where("accuracy", method=name, times=times)
        assert len(scores) == 3 and min(scores) >= 95, name  # none is in the middle of its jump
    stuck = found.where("accuracy", method="bitfit", times=1.0)  # why its rate is another
    assert min(stuck) < 75


@pytest.mark.parametrize("name", ["lora_rslora", "lora_merge_drift", "lora_latency"])
def test_a_fast_run_works(name):
    experiment = EXPERIMENTS[name]
    outcome = experiment.run(experiment.settings(True)[0])
    assert all(np.isfinite(np.asarray(v, dtype=float)).all() for v in outcome.values())
    again = experiment.run(experiment.settings(True)[0])
    assert name == "lora_latency" or outcome == again
