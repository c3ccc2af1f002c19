"""The measures behind the lecture on editing: they repeat, leave the base, and can be read."""

import json
from dataclasses import replace

import numpy as np
import pytest

from minipeft.contract.vectors import add, move, norm, scale
from minipeft.course.experiments import EXPERIMENTS
from minipeft.course.experiments.editing import claims, runs
from minipeft.course.experiments.runner import Results, base
from minipeft.course.solutions import editing as solutions
from minipeft.tasks import get_task
from minipeft.tasks.new_facts import NewFacts, changed_world
from tests.tiny import gpt

NAMES = [name for name in EXPERIMENTS if name.startswith("editing_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_fast_run_repeats_and_leaves_the_base(name):
    experiment = EXPERIMENTS[name]
    before = {path: p.data.copy() for path, p in base().named_parameters()}
    for settings in experiment.settings(True)[:2]:
        found = experiment.run(settings)
        runs.vector.cache_clear()
        assert found == experiment.run(settings)
    assert all(np.array_equal(p.data, before[path]) for path, p in base().named_parameters())


def test_edited_by_hand_is_the_library_s():
    model = gpt()
    weights = {path: p.data for path, p in model.named_parameters()}
    kept = {path: w.copy() for path, w in weights.items()}
    rng = np.random.default_rng(0)
    a = {path: rng.normal(size=w.shape) for path, w in list(weights.items())[::2]}
    b = {path: rng.normal(size=w.shape) for path, w in list(weights.items())[::3]}
    found = solutions.edited(weights, [(-0.5, a), (2.0, b)])
    assert all(np.array_equal(weights[path], kept[path]) for path in kept)
    move(model, add(scale(a, -0.5), scale(b, 2.0)))
    assert found.keys() == kept.keys()
    for path, p in model.named_parameters():
        np.testing.assert_allclose(found[path], p.data, 0, 1e-12)


def test_the_rarest_shared_words_decide_which_sentence_is_found():
    memory = ["The Blue Fork serves Thai food.", "The Blue Door is near the mill.", "Ann bakes."]
    assert solutions.retrieve("What food does The Blue Fork serve?", memory) == memory[0]
    assert solutions.retrieve("Where is The Blue Door?", memory) == memory[1]
    assert solutions.retrieve("Can birds fly?", memory) == ""
    task = get_task("new-facts")
    told = task.statements()
    found = [e.target.strip(" .").lower() in solutions.retrieve(e.prompt, told).lower()
             for e in task.load("edited")]  # fmt: skip
    assert 45 <= sum(found) < 50  # a few entities have two new facts


def test_context_stands_before_the_questions_that_it_answers():
    told, (e, *_) = ["Rose keeps a dog."], get_task("new-facts").load("edited")
    asked = [replace(e, prompt="What does Rose keep?"), replace(e, prompt="Who sang?")]
    first, second = runs.with_context(asked, told)
    assert first.prompt == "Rose keeps a dog.\nWhat does Rose keep?"
    assert second == asked[1]


def test_the_myths_are_what_the_myth_vector_learns(monkeypatch):
    seen = []
    monkeypatch.setattr(runs, "learn", lambda method, examples, *how: seen.append(examples) or {})
    for name in ("truth", "myth"):
        runs.vector.__wrapped__("full", name, 0, 2)
    for fact, myth in zip(*seen, strict=True):
        assert fact.prompt == myth.prompt and fact.options == myth.options
        assert myth.target == fact.myth == myth.options[myth.label] != fact.target


def test_lessons_of_each_way():
    task = NewFacts(changed_world(10, 0))
    full = runs.lessons("full", task, 10, 0)
    replay = runs.lessons("replay", task, 10, 0)
    assert replay[:10] == full and len(replay) == 10 + runs.KEPT
    assert all(e.target == e.old == e.options[e.label] for e in replay[10:])
    reader, tested = runs.lessons("reader", task, 10, 0), NewFacts()
    given = [e for e in reader if "." in e.prompt.split("\n")[0]]
    assert len(given) > len(reader) / 2
    assert not {e.prompt.split("\n")[0] for e in given} & set(tested.statements())


def test_a_part_of_a_change_is_a_part(monkeypatch):
    moves = []
    monkeypatch.setattr(runs, "right", lambda examples: 0.0)
    monkeypatch.setattr(runs, "mean_loss", lambda *_: moves.append(
        {path: p.data.copy() for path, p in base().named_parameters()}) or 0.0)  # fmt: skip
    s = {"way": "full", "amount": 1.0, "edits": 10, "lr": 1e-3, "seed": 0, "steps": 2}
    for amount in (0.0, 0.5, 1.0):
        runs.facts({**s, "amount": amount})
    frozen, half, whole = moves
    parts = [{path: w - frozen[path] for path, w in to.items()} for to in (half, whole)]
    assert norm(parts[0]) == pytest.approx(norm(parts[1]) / 2, rel=1e-3) and norm(parts[0]) > 0.01


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_the_best_amount_is_that_of_the_validation_data(monkeypatch, tmp_path):
    made = [
        {"settings": {"what": "x", "kind": "full", "seed": seed, "amount": amount},
         "outcome": {"truth_validation": v, "route_validation": n, "remap": 10 * amount + seed}}
        for amount, v, n in ((1.0, 50, 20), (2.0, 60, 30), (3.0, 80, 0)) for seed in (0, 1)
    ]  # fmt: skip
    whole = {"name": "x", "command": "", "seeds": [], "hours": 0, "bases": {}, "runs": made}
    file = tmp_path / "x.json"
    file.write_text(json.dumps(whole))
    monkeypatch.setattr(claims, "results", lambda name: Results(file))
    assert claims.vectors("remap", "x") == [20.0, 21.0]
    assert claims.vectors("remap", "x", amount=3.0) == [30.0, 31.0]
