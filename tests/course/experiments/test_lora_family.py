"""The measures behind the section on LoRA's family, on cases whose answer is known."""

import json

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments import trials
from minipeft.course.experiments.lora_family import runs as family
from minipeft.course.experiments.lora_family.runs import (
    HALF,
    MADE,
    RANKS,
    STEPS,
    decomposed,
    tried,
)
from minipeft.course.experiments.runner import base
from minipeft.methods import METHODS, LoftQ, LoRA, Quantize
from minipeft.training.loop import fit

EXPERIMENTS = {e.name: e for e in family.EXPERIMENTS}
MATRICES, WIDTH = 24, 96


@pytest.mark.parametrize(
    ("name", "r", "count"),
    [("lora", 2, 2 * WIDTH * 2), ("dora", 4, 2 * WIDTH * 4 + WIDTH), ("vera", 64, 64 + WIDTH),
     ("pissa", 8, 2 * WIDTH * 8), ("adalora", 8, 2 * WIDTH * 12 + 12), ("loftq", 2, 2 * WIDTH * 2)],
)  # fmt: skip
def test_members_change_attention_and_count_what_they_say(name, r, count):
    with attach(base(), MADE[name](r, 0)) as at:
        assert len(at.wrappers) == MATRICES and at.count() == MATRICES * count


def test_all_the_family_is_there_and_seeds_are_passed_on():
    assert set(MADE) == set(RANKS) and all(MADE[m](8, 0).name == m for m in MADE)
    assert {m for m in MADE if getattr(MADE[m](8, 3), "seed", 0) == 3} == {
        m for m in MADE if hasattr(METHODS[m], "seed")
    }


# -- learning rates --------------------------------------------------------------------------------


class Stub:
    """Results of a sweep: accuracy and loss of a setting."""

    def __init__(self, outcome):
        self.outcome = outcome

    def mean(self, key, **settings):
        return self.outcome(settings)[key]


def test_everyone_has_the_same_trials():
    trials = {}
    for s in EXPERIMENTS["lora_family_rates"].settings(False):
        trials.setdefault((s["task"], s["method"], s["r"]), set()).add(
            s["lr"] / tried(s["method"])[1]
        )
    assert len(trials) == len(STEPS) * sum(map(len, RANKS.values()))
    assert all(np.allclose(sorted(t), (1 / 3, 1, 3), rtol=0.05) for t in trials.values())


def test_the_best_rate_is_chosen_and_the_loss_decides_near_draws():
    low, middle, high = tried("lora")
    right = {low: 80.0, middle: 90.0, high: 89.0}
    found = Stub(lambda s: {"accuracy": right[s["lr"]], "loss": s["lr"]})
    assert family.chosen(found, "sentiment", "lora", 8) == middle
    found = Stub(lambda s: {"accuracy": right[s["lr"]], "loss": -s["lr"]})
    assert family.chosen(found, "sentiment", "lora", 8) == high


def test_scores_use_the_chosen_rates_of_their_rank_and_task(monkeypatch):
    def outcome(s):
        assert s["r"] in RANKS[s["method"]], "never tried"
        best = tried(s["method"])[(s["r"] > 2) + (s["task"] == "sentiment")]
        return {"accuracy": 100.0 * (s["lr"] == best), "loss": 0.0}

    monkeypatch.setattr(family, "results", lambda name: Stub(outcome))
    settings = EXPERIMENTS["lora_family"].settings(False)
    assert len({s["seed"] for s in settings}) >= 5
    used = {(s["task"], s["method"], s["r"]): s["lr"] for s in settings}
    assert used["remap-values", "lora", 2] == tried("lora")[0]
    assert used["remap-values", "lora", 8] == tried("lora")[1]
    assert used["sentiment", "lora", 8] == tried("lora")[2]
    assert used["remap-values", *HALF] == used["remap-values", "dora", 8]


# -- weights ---------------------------------------------------------------------------------------


def turned(length, angle):
    """Two rows (1, 0): the first becomes longer and turns, the second stays."""
    after = np.array([[np.cos(angle), np.sin(angle)], [1.0, 0.0]]) * [[1 + length], [1.0]]
    return np.array([[1.0, 0.0], [1.0, 0.0]]), after


def test_lengths_and_directions_together_and_apart():
    together = [turned(0.1 * i, np.arccos(1 - 0.1 * i)) for i in range(4)]
    assert decomposed(together) == pytest.approx(1)
    apart = [turned(0.1 * i, np.arccos(1 - 0.1 * (3 - i))) for i in range(4)]
    assert decomposed(apart) == pytest.approx(-1)
    shorter = [turned(-0.1 * i, np.arccos(1 - 0.1 * i)) for i in range(4)]
    assert decomposed(shorter) == pytest.approx(1)  # a change of length has no sign


def test_the_weight_of_a_part_is_what_it_computes_with():
    model, path = base(), "blocks.0.attn.v_proj"
    x = Rng(0).normal((3, WIDTH)).astype(np.float32)
    with attach(model, LoRA(r=2)):
        part = model.get(path)
        part.B.data = Rng(1).normal(part.B.shape).astype(np.float32)
        y = part(x).data - part.base.bias.data
        assert np.allclose(x @ family.weight_of(part).T, y, atol=1e-4)
    assert family.weight_of(model.get(path)) is model.get(path).weight.data


def test_a_low_rank_makes_up_for_codes():
    path = "blocks.0.attn.v_proj"
    with attach(base(), Quantize(targets=path, code="nf2")) as at:
        w = base().get(path)
        codes = np.linalg.norm(w.base.weight.data - w.weight.data)
        codes /= np.linalg.norm(w.base.weight.data)
        assert at.wrappers
    errors = {}
    for r in (1, 8, WIDTH):
        with attach(base(), LoftQ(r=r, T=1, targets=path, code="nf2")) as at:
            errors[r] = family.apart(at)
    assert codes > errors[1] > errors[8] > errors[WIDTH] and errors[WIDTH] < 1e-5


# -- the runs --------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(family, "TEST", 20)


@pytest.mark.parametrize("name", ["full", "adalora"])
def test_a_run_repeats_says_what_is_its_own_and_leaves_the_base(name, few):
    before = {k: v.copy() for k, v in base().state_dict().items()}
    settings = next(s for s in EXPERIMENTS["lora_family"].settings(True) if s["method"] == name)
    found = family.adapt(settings | {"steps": 2})
    assert found == family.adapt(settings | {"steps": 2}) == json.loads(json.dumps(found))
    assert ("ranks" in found) == (name == "adalora") != ("agreement" in found)
    assert all(np.array_equal(v, before[k]) for k, v in base().state_dict().items())


def test_the_ranks_left_are_the_budget(few):
    settings = {"task": "sentiment", "method": "adalora", "r": 2, "lr": 0.03, "seed": 0, "steps": 4}
    left = np.array(family.adapt(settings)["ranks"])
    assert left.shape == (6, 4) and left.mean() == 2 and left.max() <= 3


def test_over_codes_the_start_of_loftq_is_nearer(few):
    s = {"code": "nf2", "seed": 0, "steps": 1}
    qlora, loftq = (family.over_codes(s | {"method": m}) for m in ("qlora", "loftq"))
    assert loftq["error"] < 0.9 * qlora["error"] and qlora["error"] > 0.3
    assert set(loftq) == set(qlora) and all(np.isfinite(v) for v in loftq.values())


def test_training_on_rates_of_another_split(few, monkeypatch):
    """The sweep looks at validation data, the scores at test data."""
    asked = []
    monkeypatch.setattr(trials, "evaluate", lambda model, task, split, n: (
        asked.append((split, n)) or {"accuracy": 1.0, "loss": 0.0}))  # fmt: skip
    monkeypatch.setattr(trials, "fit", lambda *a, **k: fit(*a, **k | {"steps": 1}))
    s = EXPERIMENTS["lora_family_rates"].settings(True)[1]
    family.sweep(s), family.adapt(s)
    assert asked == [("validation", family.VALIDATION), ("test", 20)]
