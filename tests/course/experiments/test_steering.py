"""The measures behind the lecture on steering: they repeat, leave the base, and can be read."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.runner import base
from minipeft.course.experiments.steering import claims, runs, settings
from minipeft.course.solutions import steering as solutions
from minipeft.engine import no_grad
from minipeft.methods import Steering
from minipeft.methods.probes import direction
from minipeft.methods.steering import point
from tests.tiny import gpt

NAMES = [name for name in EXPERIMENTS if name.startswith("steering_")]


def test_a_mean_shift_by_hand_is_the_library_s():
    x, y = Rng(0).normal((20, 6)), np.arange(20) % 2
    theta, sigma = solutions.mean_shift(x, y)
    wanted = direction(x, y)
    np.testing.assert_allclose(theta, wanted[0])
    np.testing.assert_allclose(sigma, wanted[1])


def test_a_head_that_leans_by_hand_is_the_library_s():
    model, ids = gpt(), Rng(0).integers(2, 60, (2, 6))
    theta = np.eye(8)[2]
    with attach(model, Steering(alpha=3.0, positions="all")) as handle, no_grad():
        point(handle, [(1, 1)], theta[None], [0.5])
        wanted = model(ids).data
    attention = model.blocks[1].attn
    plain = attention.o_proj
    found = []
    for first in (0, 4):
        attention.o_proj = solutions.leaning(plain, 1, 1.5 * theta, first)
        with no_grad():
            found.append(model(ids).data)
    attention.o_proj = plain
    np.testing.assert_allclose(found[0], wanted, rtol=1e-10)
    with no_grad():
        before = model(ids).data
    np.testing.assert_array_equal(found[1][:, :4], before[:, :4])
    assert abs(found[1][:, 4:] - before[:, 4:]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_fast_run_repeats_and_leaves_the_base(name, monkeypatch):
    few = {"validation": 6, "test": 6, "transfer": 6}
    monkeypatch.setattr(runs, "QUESTIONS", few)
    monkeypatch.setattr(runs, "N", 6)
    monkeypatch.setattr(runs, "BESIDE", ("sentiment",))
    experiment = EXPERIMENTS[name]
    chosen = experiment.settings(True)[0]
    chosen |= {"n": 6} if "n" in chosen and name != "steering_random" else {}
    before = {path: p.data.copy() for path, p in base().named_parameters()}
    found = experiment.run(chosen)
    assert found == experiment.run(chosen)
    assert all(np.array_equal(p.data, before[path]) for path, p in base().named_parameters())
    assert not base().handles and "forward" not in vars(base())


def test_alpha_0_is_the_base(monkeypatch):
    monkeypatch.setattr(runs, "QUESTIONS", {"test": 40})
    found = runs.lean({"n": 4, "alpha": 0.0, "split": "test", "seed": 0})
    assert {k: found[k] for k in ("fact", "myth", "mc2", "mass")} == runs.answers("test")
    assert found["kl"] == 0.0


def test_the_known_head_is_the_one_that_leans(monkeypatch):
    monkeypatch.setattr(runs, "QUESTIONS", {"test": 6})
    found = runs.lean({"n": 2, "alpha": 5.0, "split": "test", "seed": 0, "head": "known"})
    assert found["heads"] == [[*settings.HEAD]]


def test_a_null_has_its_own_sigma_and_its_cosine(monkeypatch):
    monkeypatch.setattr(runs, "QUESTIONS", {"test": 6})
    monkeypatch.setattr(runs, "N", 6)
    seen = []
    monkeypatch.setattr(
        runs, "point", lambda at, heads, theta, sigma: seen.append((heads, theta[0], sigma[0]))
    )
    found = runs.random({"seed": 1, "alpha": 5.0, "n": 3})
    assert len(seen) == 4 and all(heads == [settings.HEAD] for heads, *_ in seen)
    assert len({round(sigma, 6) for *_, sigma in seen}) == 4
    own = seen[0][1]
    assert abs(found["cosine"][0]) <= 1 and np.isclose(np.linalg.norm(own), 1)
    assert "shuffled" in found and len(found["fact"]) == 3


def test_shots_stand_before_and_both_are_counted(monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "answers", lambda split, before="": asked.append(before) or {})
    monkeypatch.setattr(runs, "N", 6)
    runs.against({"by": "shots+steering", "seed": 0, "splits": ["test"]})
    assert asked[0].count("Question:") == settings.SHOTS and asked[0].endswith(".\n")


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)
    assert len(claims.TABLES.split("|")) == 9


def test_what_a_draw_may_cost_decides_its_alpha():
    picked = claims.chosen()
    assert len(picked) == len(settings.SEEDS) and claims.rise(0.0) == [0.0] * 5
    for i, fact in enumerate(picked):
        fits = [a for a in claims.TOP if claims.rise(a)[i] <= claims.NATS]
        assert fact == claims.at(max(fits))[i]
    assert max(claims.chosen("ce")) - claims.at(0.0, "ce")[0] <= claims.NATS


def test_the_rates_are_the_best_of_their_brackets():
    found = results("steering_rates")
    for by, rates in settings.RATES.items():
        scores = {lr: found.mean("validation_fact", by=by, lr=lr) for lr in rates}
        assert max(scores, key=scores.get) == settings.RATE[by]
        assert settings.RATE[by] not in (min(rates), max(rates))
