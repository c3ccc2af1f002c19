"""The measures behind the lecture on adapters, and that its rates are those of the sweeps."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.adapters import claims, runs
from minipeft.course.experiments.runner import base
from minipeft.course.solutions import adapters as solutions
from minipeft.engine import Tensor, no_grad
from minipeft.tasks import get_task

NAMES = sorted(name for name in EXPERIMENTS if name.startswith("adapter_"))


def test_a_rotation_turns_so_many_planes():
    for planes in (1, 4):
        Q = runs.rotation(planes, seed=3)
        assert abs(Q.T @ Q - np.eye(96)).max() < 1e-12
        changed = np.linalg.svd(Q - np.eye(96), compute_uv=False)
        assert (changed > 1e-9).sum() == 2 * planes


def test_the_solution_undoes_any_rotation():
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    W_down, W_up = solutions.undo(Q)
    x = np.random.default_rng(1).normal(size=(4, 6))
    y = solutions.bottleneck(Tensor(x @ Q.T), W_down, np.zeros(12), W_up, np.zeros(6)).data
    assert abs(y - x).max() < 1e-12


def test_a_rotated_model_is_another_and_comes_back():
    model, ids = base(), np.array([[5, 7, 9]])
    with no_grad():
        before = model(ids).data
        with attach(model, runs.Turn(planes=2)):
            assert abs(model(ids).data - before).max() > 0.1
        assert np.array_equal(model(ids).data, before)


def test_places_hold_as_many_parameters():
    counts = []
    for name in runs.PLACES:
        with attach(base(), runs.method_of(name)) as at:
            counts.append(at.count())
    assert max(counts) < 1.15 * min(counts)  # a norm's, and the biases of a second one


def test_taken_out_adapters_come_back(monkeypatch):
    monkeypatch.setattr(runs, "VALIDATION", 20)
    task = get_task(runs.TASK)
    with runs.trial(base(), runs.method_of("adapter-8"), task, 0, 50) as it:
        it.fit(steps=30, lr=1e-2)
        before = [p.data for _, p in it.at.trainable()]
        whole = runs._score_without(it, ())
        none = runs._score_without(it, tuple(range(6)))
        assert all(a is p.data for a, (_, p) in zip(before, it.at.trainable(), strict=True))
    assert none == 0 < whole  # the base, which has no example right


def test_the_colleague_s_adapter_has_no_gradient_but_at_its_end():
    with attach(base(), runs.method_of("adapter-8")) as at:
        runs.colleague(at)
        ids = np.array([[5, 7, 9, 11]])
        (base()(ids) ** 2).sum().backward()
        moved = {path for path, p in at.trainable() if abs(p.grad).max() > 0}
    assert moved and all(path.endswith("up.bias") for path in moved)


def test_rates_are_those_that_the_sweeps_chose():
    swept, wide = results("adapter_rates"), results("adapter_wide")
    for name in (*runs.SIZES, *runs.DEPTHS):
        assert runs.RATES[name] == runs.chosen(swept, name, runs.TRIED), name
    for name in ("full", "lora", "adapter-8"):
        assert runs.RATES[name] == runs.chosen(wide, name, runs.WIDE), name
    for name in runs.PLACES:  # the soonest to 95 %; of two that are as soon the smaller
        steps = {lr: [n or runs.STEPS + 10 for n in swept.where("steps_to_95", method=name, lr=lr)]
                 for lr in runs.TRIED}  # fmt: skip
        assert runs.RATES[name] == min(runs.TRIED, key=lambda lr: (round(np.mean(steps[lr])), lr))
    few = results("adapter_few_rates")
    for name, rates in runs.FEW_TRIED.items():
        score = {lr: few.mean("bleu", method=name, lr=lr) for lr in rates}
        assert runs.FEW_RATES[name] == min(r for r in rates if score[r] >= max(score.values()) - 1)


@pytest.mark.parametrize("name", ["adapter_rates", "adapter_turned", "adapter_latency"])
def test_a_fast_run_works(name):
    experiment = EXPERIMENTS[name]
    outcome = experiment.run(experiment.settings(True)[0])
    assert all(v is None or np.isfinite(v) for v in outcome.values())
    timed = set(experiment.timed) >= set(outcome)
    assert timed or outcome == experiment.run(experiment.settings(True)[0])


def test_breadth_counts_rates_near_the_best():
    full = claims.breadth("full")
    assert len(full) == 5 and all(1 <= n <= len(runs.WIDE) for n in full)


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)
