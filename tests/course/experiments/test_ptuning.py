"""The measures behind the lecture on P-tuning, its solutions, and that its claims are readable."""

import json

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS
from minipeft.course.experiments.ptuning import claims, runs, starts
from minipeft.course.experiments.runner import base
from minipeft.course.solutions import ptuning as solutions
from minipeft.engine import Tensor
from minipeft.methods import PTuning
from minipeft.methods.ptuning import lstm
from minipeft.tasks import get_task


def test_steps_of_the_cell_are_the_library_s_lstm():
    rng = np.random.default_rng(0)
    shapes = ((3, 4), (20, 4), (20, 5), (20,), (20,))  # x, Wx, Wh, bx, bh
    x, *w = (rng.normal(size=shape) for shape in shapes)
    h, c, found = np.zeros(5), np.zeros(5), []
    for row in x:
        h, c = solutions.lstm_cell(row, h, c, *w)
        found.append(h)
    wanted = lstm(Tensor(x), *map(Tensor, w), back=False).data
    assert abs(np.array(found) - wanted).max() < 1e-12


def test_pseudo_tokens_stand_where_the_template_puts_them():
    model = base()
    ids = model.tokenizer.encode(get_task("truth").load("train")[0].prompt)
    anchor, V = model.tokenizer.encode("\nAnswer:"), model.config.vocab
    with attach(model, PTuning(n=3, template="...{}\nAnswer:")) as at:
        theirs = at.wrappers["start"].forward(np.array([ids]), None)[0][0]
    mine = solutions.put_before(ids, anchor, 3, V)
    assert mine == theirs.tolist() and mine[-len(anchor) :] == anchor
    assert solutions.put_before([7, 1, 7, 1], [7, 1], 1, 9) == [7, 1, 9, 7, 1]  # the last place


def test_the_best_rate_is_the_smallest_that_is_near_the_best():
    class Found:
        def mean(self, outcome, lr):
            return {0.01: 89.0, 0.1: 98.5, 1.0: 99.0}[lr]

    assert runs.best(Found(), (0.01, 0.1, 1.0)) == 0.1


def test_the_shipped_rate_is_among_those_tried():
    assert PTuning().lr in runs.ENCODERS["mlp"] and PTuning().lr in runs.WAYS["P-tuning"]


def write(folder, runs):
    """A results file of ptuning_starts."""
    whole = {"name": "ptuning_starts", "command": "", "seeds": [], "hours": 0, "bases": {}}
    (folder / "results" / "ptuning_starts.json").write_text(json.dumps(whole | {"runs": runs}))


def test_a_claim_needs_its_runs_and_follows_them(tmp_path, monkeypatch):
    monkeypatch.setattr("minipeft.course.experiments.runner.data_dir", lambda: tmp_path)
    claim = next(c for c in claims.CLAIMS if c.text.startswith("From the MLP's start"))
    (tmp_path / "results").mkdir()
    with pytest.raises(FileNotFoundError, match="no results 'ptuning_starts'"):
        claim.measure()
    outcome = {"validation": 50.0, "test": 60.0}
    made = [{"settings": s, "outcome": outcome} for s in starts.EXPERIMENTS[0].settings(False)]
    write(tmp_path, made[:14])
    assert claim.decision(claim.measure()) == "undecided"  # two seeds are few
    write(tmp_path, made)
    assert claim.decision(claim.measure()) == "held"


def test_a_start_is_what_the_network_makes():
    model = base()
    with attach(model, PTuning(n=10, seed=3)) as at:
        wanted = starts.rows(at)
    assert np.array_equal(starts.made(model, "mlp", 3), wanted) and wanted.shape == (10, 96)


@pytest.mark.parametrize(
    "name", ["ptuning_encoders", "ptuning_places", "ptuning_ways", "ptuning_starts"]
)
def test_a_fast_run_works(name):
    experiment = EXPERIMENTS[name]
    settings = experiment.settings(True)[-1]
    outcome = experiment.run(settings)
    assert 0 <= outcome["validation"] <= 100 and outcome["trainable"] > 0
    assert outcome == experiment.run(settings)


def test_printed_averages_are_those_of_seven_tasks():
    assert round(claims.average(claims.SUPERGLUE["BERT-base"]["CLS-FT"]), 1) == 66.2
    assert claims.average([7, 0, 14, 7, 7, 14, 0, 7, 7]) == 7
    assert claims.above("GPT2-base", "P-tuning", "CLS-FT") == 9
    assert claims.above("BERT-base", "P-tuning", "CLS-FT") == 5


def test_deviations_are_from_the_median_of_the_seeds(monkeypatch):
    monkeypatch.setattr(claims, "encoded", lambda task, encoder: [1.0, 2.0, 2.0, 2.0, 7.0])
    assert claims.deviations("mlp") == [1.0, 0.0, 0.0, 0.0, 5.0]


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)
