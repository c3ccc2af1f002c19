"""The measures behind the lecture on in-context learning: they repeat, and leave the base."""

import math

import numpy as np
import pytest

from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.icl import claims, learning, runs
from minipeft.course.experiments.runner import base
from minipeft.course.experiments.statistics import welch
from minipeft.course.solutions import icl as solutions
from minipeft.generation.incontext import fits, in_context
from minipeft.generation.scoring import score_many
from minipeft.tasks import get_task

NAMES = [name for name in EXPERIMENTS if name.startswith("icl_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_fast_run_repeats_and_leaves_the_base(name, monkeypatch):
    monkeypatch.setattr(learning, "TEST", 12)
    experiment = EXPERIMENTS[name]
    (settings,) = experiment.settings(True)
    model = base(settings["base"])
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    found = experiment.run(settings)
    assert found == experiment.run(settings)
    assert all(np.array_equal(p.data, before[path]) for path, p in model.named_parameters())


def test_the_solved_function_answers_as_the_library():
    """On options of several tokens, of unlike lengths."""
    model, task = base("gpt-0.2m"), get_task("choice")
    examples, asked = task.load("train", 1), task.load("test", 12)
    scores = score_many(model, [(in_context(examples, e), e.options) for e in asked])
    wanted = [int(np.argmax(x)) for x in scores]
    assert [solutions.likeliest(model, examples, e) for e in asked] == wanted
    assert len(set(wanted)) > 1
    lengths = {len(model.tokenizer.encode(o)) for e in asked for o in e.options}
    assert len(lengths) > 1


def test_the_solved_welch_is_the_library_s():
    u, v = [1.0, 2.0, 4.0, 8.0], [3.0, 3.5, 5.0]
    assert solutions.welch_t(u, v) == pytest.approx(welch(u, v)[:2])


def test_shown_and_tuned_get_the_same_examples(monkeypatch):
    """Those of the seed, as many as are asked for; and each with the seed's label words."""
    seen = []
    monkeypatch.setattr(learning, "TEST", 4)
    monkeypatch.setattr(learning, "right", lambda model, asked, shown=(): seen.append(shown) or 0.0)
    batches = learning.TaskBatches
    monkeypatch.setattr(
        learning, "TaskBatches", lambda model, found: seen.append(found) or batches(model, found)
    )
    s = runs.REVIEWS | {"base": "gpt-0.2m", "seed": 3, "splits": "test"}
    learning.shown(s)
    learning.tuned(s | {"steps": 1, "lr": 1e-3})
    assert len(seen[0]) == 6 and list(seen[0]) == list(seen[1]) and seen[2] == ()
    assert seen[0][0].options == learning.drawn(s, "shift", 1)[0].options
    assert seen[0][0].options != learning.drawn(s | {"seed": 4}, "test", 1)[0].options


def test_no_example_is_shown_where_n_is_0(monkeypatch):
    seen = []
    monkeypatch.setattr(learning, "right", lambda model, asked, shown=(): seen.append(shown) or 0.0)
    learning.shown(runs.REVIEWS | {"n": 0, "base": "gpt-0.2m", "seed": 0, "splits": "test"})
    assert list(seen[0]) == []


def test_as_many_examples_as_are_shown_fit():
    for s in (runs.REVIEWS, runs.LISTS):
        for seed in runs.SEEDS:
            s = s | {"seed": seed}
            train, asked = learning.drawn(s, "train", 24), learning.drawn(s, "test", learning.TEST)
            assert fits(base(), train, asked) >= s["n"]


def test_accuracy_counts_the_likeliest_option(monkeypatch):
    asked = get_task("sentiment").load("test", 4)
    monkeypatch.setattr(learning, "score_many", lambda model, pairs: [[0.0, -1.0]] * 3 + [[-1, 0]])
    wanted = 25 * sum(e.label == said for e, said in zip(asked, (0, 0, 0, 1), strict=True))
    assert learning.right(base(), asked) == wanted


def test_training_pays_after_what_it_saves():
    short, long, training, calls = claims.cost()
    assert 20 < short < 60 < 200 < long < 257
    assert training == 40 * 6 * 3 * claims.flops(short + 1)[0]
    assert math.isclose(calls * (claims.flops(long)[0] - claims.flops(short)[0]), training)


def test_the_printed_tables_are_whole():
    for task in claims.PRINTED:
        assert {len(row) for row in claims.printed(task).values()} == {len(claims.OPT)}


def test_claims_name_the_runs_that_they_compare():
    stored = results("icl_tuned")
    wanted = stored.where("shift", task="sentiment-shift", n=6, base="gpt-0.2m", head="lm",
                          words="new")  # fmt: skip
    assert claims.of("tuned 6 0.2M shift") == wanted and len(wanted) == len(runs.MORE)
    wanted = stored.where("test", task="remap-route", n=64, base="tiny-gpt")
    assert claims.of("tuned 64 lists") == wanted and len(wanted) == len(runs.SEEDS)
    wanted = stored.where("test", task="sentiment-shift", n=64, head="linear")
    assert claims.of("tuned 64 linear") == wanted and len(wanted) == len(runs.MORE)
    wanted = results("icl_unscramble").where("exact", base="gpt-3.1m", k=4)
    assert claims.of("solved 4 3.1M") == wanted and len(wanted) == len(runs.SEEDS)


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)
