"""The measures behind the lecture on intrinsic dimension, on cases with a known answer."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS
from minipeft.course.experiments.bases.ladder import LADDER
from minipeft.course.experiments.claims import ABSENT, CANNOT, HELD
from minipeft.course.experiments.runner import Results, perform, results
from minipeft.course.experiments.subspaces import claims as subspace_claims
from minipeft.course.experiments.subspaces import runs as subspaces
from minipeft.course.experiments.subspaces.runs import best_move, crossing, rate, rounded
from minipeft.methods import Subspace
from tests.tiny import Sounds, clouds, gpt


@pytest.fixture
def small(monkeypatch):
    """The experiments on a tiny GPT, a tiny task and few small pictures."""
    model = gpt(dtype=np.float32, spread=0.1)
    monkeypatch.setattr(subspaces, "base", lambda name: model)
    monkeypatch.setattr(subspaces, "get_task", lambda name: Sounds())
    monkeypatch.setattr(subspaces, "NET", (36, 8, 10))
    monkeypatch.setattr(subspaces, "SMALL", (36, 8, 10))
    monkeypatch.setattr(
        subspaces, "pictures", lambda n, side=6: ("digits", clouds(min(n, 60), side))
    )
    monkeypatch.setattr(subspaces, "SIDE", 6)
    for where in ("digits", "all of digits"):
        monkeypatch.setitem(subspaces.MOVE, where, 2e-2)
    return model


def test_a_step_moves_a_weight_as_far_for_every_d():
    """With equal steps in every z: the root mean square over all weights."""
    net = gpt(dtype=np.float64)
    size, found = net.num_parameters(), []
    for d in (50, 800):
        before = {path: p.data.copy() for path, p in net.named_parameters()}
        with attach(net, Subspace(d=d)) as at:
            ((_, z),) = at.trainable()
            z.data = rate(1e-3, d, size) * Rng(0, d).sign(d).astype(float)
            at.merge(keep=True)
            moved = [p.data - before[path] for path, p in net.named_parameters()]
            at.detach()
        found.append(math.sqrt(sum(float((m * m).sum()) for m in moved) / size))
    assert found == pytest.approx([1e-3, 1e-3], rel=0.15)


def test_crossing_lies_between_what_was_tried():
    assert crossing((10, 100, 1000), (50, 60, 80), 60) == pytest.approx(100)
    assert crossing((10, 100, 1000), (50, 60, 80), 70) == pytest.approx(math.sqrt(1e5))
    assert crossing((10, 100), (50, 60), 40) == 10
    assert crossing((10, 100), (50, 60), 61) == math.inf
    assert crossing((10, 100, 1000), (50, 90, 80), 70) < 100  # the first time counts


def test_rounding_leaves_so_many_values_and_is_close():
    z = Rng(0).normal(5000).astype(np.float32)
    found = rounded(z, 16)
    assert len(np.unique(found)) == 16 and found.dtype == z.dtype
    assert abs(found - z).max() <= (z.max() - z.min()) / 30 * 1.001
    assert np.array_equal(rounded(np.zeros(3, np.float32)), np.zeros(3))


@pytest.mark.parametrize("d", [0, 40])
def test_a_run_on_digits(small, d):
    out = subspaces.digits({"d": d, "projection": "sparse", "seed": 0, "steps": 40, "n": 60})
    assert out["data"] == "digits" and out["examples"] == 60 and out["train"] > 15
    assert ("rounded" in out) == (d > 0)
    assert d == 0 or abs(out["rounded"][0] - out["train"]) < 10


def test_shuffled_labels_are_a_null(small, monkeypatch):
    monkeypatch.setattr(subspaces, "FEW", 60)
    run = {labels: subspaces.labels({"labels": labels, "d": 60, "seed": 0, "steps": 200})
           for labels in ("true", "shuffled")}  # fmt: skip
    assert run["true"]["train"] > run["shuffled"]["train"] > 15
    assert run["true"]["accuracy"] > run["shuffled"]["accuracy"] + 10


def test_each_model_stands_in_one_of_two_results(monkeypatch):
    monkeypatch.setattr(subspaces, "results", lambda name: name)
    found = {name: subspaces.of_model(name) for name in (*subspaces.CHECKPOINTS, *LADDER)}
    bases = {e.name: e.bases for e in subspaces.EXPERIMENTS}
    assert len(found) == 8 and all(name in bases[where] for name, where in found.items())
    pretraining, ladder = subspaces._pretraining(False), subspaces._ladder(False)
    assert {s["base"] for s in pretraining} == set(bases["subspace_pretraining"])
    assert {s["base"] for s in ladder} == set(bases["subspace_ladder"])
    assert {s["d"] for s in ladder} == {s["d"] for s in pretraining}


def test_what_size_saves_is_counted_against_each_models_own_best(monkeypatch):
    """The small model is worse anyway; what counts is that it loses more."""
    scores = {("small", 0): 80, ("small", 1500): 60, ("large", 0): 95, ("large", 1500): 90}

    class Table:
        def where(self, outcome, base, d):
            return [scores[base, d] + 0.1 * i for i in range(5)]

    monkeypatch.setattr(subspace_claims.runs, "of_model", lambda name: Table())
    found = subspace_claims._lost("small", "large", 1500)
    assert found.verdict == HELD and found.value.startswith("20 against 5 points lost: +15")
    assert subspace_claims._lost("large", "small", 1500).verdict == ABSENT


@pytest.mark.parametrize("way", ["did", "said", "lora"])
def test_the_kin_train_as_many_numbers(small, way):
    d = 32  # of LoRA with r = 1 on v of two blocks of width 16: 2 (16 + 16) = 64
    found = subspaces.text({"base": "any", "way": way, "d": d, "seed": 0, "steps": 2})
    assert found["trainable"] == (64 if way == "lora" else d) and not small.handles


def test_the_counts_of_the_kin_are_lora_s():
    blocks, width = 6, 96
    assert blocks * 2 * width == subspaces.MUCH
    assert {s["d"] for s in subspaces._kin(False)} == {subspaces.LITTLE, subspaces.MUCH}


def test_everything_trains_where_d_is_0(small):
    found = subspaces.text({"base": "any", "d": 0, "seed": 0, "steps": 2})
    assert found["trainable"] == small.num_parameters()


def test_the_route_is_another_task_with_a_move_of_its_own(small, monkeypatch):
    asked, moves = [], []
    monkeypatch.setattr(subspaces, "get_task", lambda name: asked.append(name) or Sounds())
    monkeypatch.setattr(subspaces, "rate", lambda move, *rest: moves.append(move) or 1e-3)
    for s in (subspaces._text(("any",))(True)[1], subspaces._route(True)[1]):
        subspaces.text({**s, "steps": 1})
    assert asked == [subspaces.TASK, subspaces.ROUTE]
    assert moves == [subspaces.MOVE["text"], subspaces.MOVE["route"]]
    full = subspaces._route(False)
    assert {s["d"] for s in full} == {0, *subspaces.ROUTE_DS} and len(full) == 4 * 4 * 5


@pytest.mark.parametrize(("frozen", "verdict"), [(85.0, CANNOT), (60.0, HELD)])
def test_few_numbers_prove_nothing_where_none_would_do(monkeypatch, frozen, verdict):
    class Table:
        def where(self, outcome, **asked):
            return [82.0, 83.0, 84.0, 83.0, 82.0]

        def mean(self, outcome, **asked):
            return 90.0 if "d" in asked else frozen

    monkeypatch.setattr(subspace_claims.runs, "of_model", lambda name: Table())
    monkeypatch.setattr(subspace_claims, "results", lambda name: Table())
    assert subspace_claims._share(200).verdict == verdict


def test_the_move_with_the_best_score_is_taken(tmp_path):
    scores = {1e-3: (50, 60), 3e-3: (40, 90), 1e-2: (64, 64)}  # by d

    def run(s):
        return {"accuracy": scores[s["move"]][s["d"] // 1000]}

    first = subspaces.EXPERIMENTS[0]
    text = type(first)("moves", "which?", lambda fast: [
        {"where": "text", "move": move, "d": d} for move in scores for d in (300, 1000)
    ], run, ())  # fmt: skip
    assert best_move(Results(perform(text, tmp_path)), "text") == 3e-3


def test_moves_are_the_sweeps_choice():
    found = results("subspace_rates")
    assert {where: best_move(found, where) for where in subspaces.MOVE} == subspaces.MOVE


def test_the_colleagues_rate_hardly_moves_a_weight(small):
    with attach(small, Subspace(d=50)) as at:
        subspaces.fit(small, Sounds(), steps=5, quiet=True, **subspaces.colleague(at))
        assert at.report().never_moved == [] and at.report().rows[0]["update"] < 0.05


def test_they_are_registered():
    assert {e.name for e in subspaces.EXPERIMENTS} <= set(EXPERIMENTS)
