"""The measures behind the lecture on prompts: they repeat, leave the base, and can be read."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.prompt import claims, ensembling, runs
from minipeft.course.experiments.runner import base
from minipeft.course.solutions import prompt as solutions
from minipeft.engine import no_grad
from minipeft.methods import Prompt
from minipeft.tasks import get_task
from minipeft.training.batches import task_batches
from tests.tiny import gpt

NAMES = [name for name in EXPERIMENTS if name.startswith("prompt_")]


def test_a_prompt_by_hand_is_the_library_s():
    model = gpt()
    ids = np.random.default_rng(0).integers(2, 60, (3, 7))
    with attach(model, Prompt(n=4)) as at, no_grad():
        P = at.wrappers["emb.tok"].P.data
        wanted = model(ids).data
    np.testing.assert_allclose(solutions.with_prompt(model, P, ids), wanted, rtol=1e-10)
    with no_grad():
        assert abs(model(ids).data - wanted).max() > 1e-3


def test_the_nearest_word_of_a_word_is_itself():
    E = np.random.default_rng(0).normal(size=(9, 5))
    ids, cosine = solutions.nearest(np.stack([3 * E[4], -E[2], 0.1 * E[7]]), E)
    assert ids[0] == 4 and ids[2] == 7 and ids[1] != 2
    np.testing.assert_allclose(cosine[[0, 2]], 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_fast_run_repeats_and_leaves_the_base(name):
    experiment = EXPERIMENTS[name]
    settings = experiment.settings(True)[0]
    model = base(settings.get("base", "tiny-gpt"))
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    found = experiment.run(settings)
    assert found == experiment.run(settings)
    assert all(np.array_equal(p.data, before[path]) for path, p in model.named_parameters())


def test_an_ensemble_of_one_is_the_one(monkeypatch):
    monkeypatch.setattr(ensembling, "TEST", 40)
    found = ensembling.together({"members": 1, "n": 3, "lr": 0.1, "seed": 2, "steps": 5})
    assert found["single"] == [found["mean"]] == [found["vote"]]


def test_members_differ_in_start_and_order_but_not_in_examples(monkeypatch):
    seen = []

    def task_batches_seen(model, task, split, n, pattern, seed):
        seen.append(seed)
        return task_batches(model, task, split, n, pattern, seed)

    monkeypatch.setattr("minipeft.course.experiments.trials.task_batches", task_batches_seen)
    monkeypatch.setattr(ensembling, "TEST", 40)
    ensembling.together({"members": 2, "n": 2, "lr": 0.3, "seed": 3, "steps": 2})
    assert seen == [3, 3]


def test_solved_examples_come_before_the_question(monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "picked", lambda model, pairs: asked.append(list(pairs)) or 0.0)
    runs.shots({"base": "tiny-gpt", "k": 2, "seed": 1})
    train = get_task(runs.TASK).load("train", 2, 1)
    prompt, example = asked[0][0]
    assert prompt.endswith(example.prompt) and len(asked[0]) == runs.TEST
    assert all(e.prompt + e.target in prompt for e in train)


def test_a_search_keeps_the_best_of_what_it_tried(monkeypatch):
    tried = []

    def picked(model, pairs):
        words = pairs[0][0][: -len(pairs[0][1].prompt)]
        tried.append((words, len(pairs)))
        return float(len(tried))

    monkeypatch.setattr(runs, "picked", picked)
    found = runs.search({"seed": 0, "candidates": 3, "n": 4})
    assert found == {"best": 4.0, "all": [1.0, 2.0, 3.0]}
    assert tried[3] == (tried[2][0], runs.TEST) and len({words for words, _ in tried}) == 3


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_the_rates_of_lengths_are_the_best_of_their_brackets():
    found = results("prompt_length")
    for n, rates in runs.RATES.items():
        score = {
            lr: np.mean([found.mean("validation", n=n, lr=lr, seed=seed) for seed in runs.SEEDS])
            for lr in rates
        }
        assert score[runs.BEST_RATE[n]] == max(score.values()), (n, score)


def test_a_shift_costs_what_is_lost_on_the_way():
    found = results("prompt_shift")
    lost = claims.lost("full")
    rates = runs.SHIFTED["full"][1]
    lr = max(rates, key=lambda lr: found.mean("validation", method="full", lr=lr))
    test, shift = (found.where(split, method="full", lr=lr) for split in ("test", "shift"))
    assert len(lost) == len(runs.SEEDS)
    assert lost == [a - b for a, b in zip(test, shift, strict=True)]
