"""One run made anew speaks for stored results, if its outcome is the stored one."""

import json

import numpy as np
import pytest

from minipeft.course.experiments import confirmation, runner
from minipeft.course.experiments.confirmation import confirm, differences, main
from minipeft.course.experiments.runner import Experiment, Results, perform


class Base:
    def __init__(self):
        self.weights = np.zeros(2, np.float32)

    def state_dict(self):
        return {"w": self.weights}


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """The runner alone: the base is an array that can be changed."""
    model = Base()
    monkeypatch.setattr(runner, "base", lambda name: model)
    return model


@pytest.fixture
def version(monkeypatch):
    """Sets the version of today's code."""

    def of(name):
        for part in (runner, confirmation):
            monkeypatch.setattr(part, "version_of", lambda experiment: name)

    of("old")
    return of


def trial(add=0.0, n=3, made=None, timed=()):
    def run(s):
        made is None or made.append(s["seed"])
        return {"score": np.float64(s["seed"] + add) / 3, "clock": 0.5 + add, "many": [1, None]}

    settings = [{"seed": seed} for seed in range(n)]
    return Experiment("trial", "?", lambda fast: settings, run, timed=timed)


def stored(folder, version, seconds=(3.0, 1.0, 2.0)):
    """Results of three runs by "old", which took so long."""
    version("old")
    path = perform(trial(), folder)
    text = path.read_text()
    for run, took in zip(Results(path).runs, seconds, strict=True):
        line = json.dumps(run)
        text = text.replace(line, json.dumps(run | {"seconds": took}))
    path.write_text(text)
    version("new")
    return path


def test_the_shortest_run_is_made_anew_and_the_version_renewed(tmp_path, version, capsys):
    path, made = stored(tmp_path, version), []
    before = path.read_text()
    assert confirm(trial(made=made), tmp_path) and made == [1]
    assert path.read_text() == before.replace('"old"', '"new, confirmed by 1 of 3 runs"')
    found = Results(path)
    assert found.stale("new") == 0 and found.stale("other") == 3
    assert found.code("new") == "earlier, confirmed by 1 of 3 runs"
    said = capsys.readouterr().out
    assert "trial: 1 of 3 runs, which took 1.0 s: seed 1" in said
    assert "trial: equal: earlier, confirmed by 1 of 3 runs" in said
    assert confirm(trial(made=made), tmp_path) and made == [1]  # nothing is left to do
    assert "nothing to confirm" in capsys.readouterr().out


def test_another_outcome_is_shown_and_changes_nothing(tmp_path, version, capsys):
    path = stored(tmp_path, version)
    before = path.read_bytes()
    assert not confirm(trial(add=3e-6), tmp_path)
    assert path.read_bytes() == before
    said = capsys.readouterr().out
    assert "score: stored 0.333333, now 0.333334" in said and "clock" not in said.split("now")[0]
    assert "numpy" in said  # by what it was made


def test_digits_that_no_file_keeps_do_not_count(tmp_path, version):
    path = stored(tmp_path, version)
    assert confirm(trial(add=1e-8), tmp_path)
    assert Results(path).stale("new") == 0


def test_times_are_left_out_and_times_alone_say_nothing(tmp_path, version, capsys):
    path, made = stored(tmp_path, version), []
    whole = json.loads(path.read_text())
    for run in whole["runs"]:
        run["outcome"]["clock"] = 9.0
    path.write_text(json.dumps(whole))
    assert not confirm(trial(), tmp_path)
    path.write_text(json.dumps(whole, indent=1))
    assert confirm(trial(timed=("clock",)), tmp_path)
    version("newer")
    assert not confirm(trial(made=made, timed=("clock", "score", "many")), tmp_path) and not made
    assert "times" in capsys.readouterr().out


def test_results_of_an_unknown_version_get_one(tmp_path, version):
    path = stored(tmp_path, version)
    text = path.read_text().replace(' "version": "old",\n', "")
    path.write_text(text)
    assert confirm(trial(), tmp_path)
    line = ' "version": "new, confirmed by 1 of 3 runs",\n'
    assert path.read_text() == text.replace(' "seeds"', f'{line} "seeds"')


def test_of_runs_by_several_versions_one_each_is_made(tmp_path, version):
    path = stored(tmp_path, version)
    perform(trial(n=4), tmp_path)  # one more, by "new"
    version("third")
    made = []
    assert confirm(trial(made=made), tmp_path) and made == [1, 3]
    found = Results(path)
    notes = ["confirmed by 1 of 3 runs"] * 3 + ["confirmed by 1 of 1 runs"]
    assert found.made_by == [f"third, {note}" for note in notes]
    assert found.stale("third") == 0


def test_what_confirmed_a_run_stays_when_others_are_added(tmp_path, version):
    path = stored(tmp_path, version)
    assert confirm(trial(), tmp_path)
    perform(trial(n=4), tmp_path)
    assert Results(path).made_by == ["new, confirmed by 1 of 3 runs"] * 3 + ["new"]
    assert Results(path).code("new") == "earlier, confirmed by 1 of 3 runs"


def test_another_base_and_no_results_are_refused(tmp_path, version, model, capsys):
    assert not confirm(trial(), tmp_path)
    assert "no results" in capsys.readouterr().out
    stored(tmp_path, version)
    model.weights = np.ones(2, np.float32)
    assert not confirm(trial(), tmp_path)
    assert "another base" in capsys.readouterr().out


def test_a_file_in_another_layout_is_not_touched(tmp_path, version):
    path = stored(tmp_path, version)
    text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    path.write_text(text)
    with pytest.raises(ValueError, match="not laid out as the runner writes it"):
        confirm(trial(), tmp_path)
    assert path.read_text() == text


def test_a_number_is_compared_as_it_is_written():
    nan = float("nan")
    assert differences({"a": nan, "b": [1.0]}, {"a": nan, "b": [1.0]}) == []
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}) == []
    assert differences({"a": 1}, {"a": 1.0}) == ["a: stored 1, now 1.0"]
    assert differences({"a": 1}, {"b": None}) == ["a: stored 1, now nothing",
                                                  "b: stored nothing, now null"]  # fmt: skip


def test_the_command(tmp_path, version, monkeypatch, capsys):
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    stored(tmp_path / "results", version)
    assert main({"trial": trial(add=1)}, ["trial"]) == 1
    assert "0 of 1 experiments" in capsys.readouterr().out
    assert main({"trial": trial()}, ["all"]) == 0
    with pytest.raises(SystemExit):
        main({"trial": trial()}, ["nonsense"])
    with pytest.raises(SystemExit):
        main({"trial": trial()}, [])
