"""Runs that resume, and results that are read back."""

import json

import numpy as np
import pytest

from minipeft.course.experiments import EXPERIMENTS, results, runner
from minipeft.course.experiments.runner import (
    Experiment,
    Results,
    main,
    perform,
    source_digest,
    version_of,
)


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    """The runner alone: the base is an array that can be changed."""

    class Base:
        weights = np.zeros(2, np.float32)

        def state_dict(self):
            return {"w": self.weights}

    base = Base()
    monkeypatch.setattr(runner, "base", lambda name: base)
    return base


def counting(made, n=3):
    def run(settings):
        made.append(settings["seed"])
        return {"score": np.float64(settings["seed"]) / 3, "curve": [1.0, 2.0]}

    return Experiment(
        "trial", "?", lambda fast: [{"seed": i} for i in range(1 if fast else n)], run
    )


def test_an_experiment_is_taken_up_where_it_stopped(tmp_path):
    made = []
    perform(counting(made), tmp_path, limit=0)
    assert made == []
    perform(counting(made, 2), tmp_path)
    perform(counting(made, 3), tmp_path)
    assert made == [0, 1, 2]
    assert len(Results(tmp_path / "trial.json").runs) == 3


def test_a_run_that_fails_leaves_the_earlier_ones(tmp_path):
    def run(settings):
        if settings["seed"]:
            raise RuntimeError("stopped")
        return {"score": 1.0}

    bad = Experiment("trial", "?", lambda fast: [{"seed": 0}, {"seed": 1}], run)
    with pytest.raises(RuntimeError, match="stopped"):
        perform(bad, tmp_path)
    assert [r["settings"]["seed"] for r in Results(tmp_path / "trial.json").runs] == [0]


def test_another_base_starts_anew(tmp_path, no_model):
    made = []
    perform(counting(made), tmp_path)
    no_model.weights = np.ones(2, np.float32)
    perform(counting(made), tmp_path)
    assert made == [0, 1, 2, 0, 1, 2]


def test_the_file_says_how_it_was_made(tmp_path):
    perform(counting([]), tmp_path)
    about = json.loads((tmp_path / "trial.json").read_text())
    assert about["command"] == "python -m minipeft.experiments trial"
    assert about["seeds"] == [0, 1, 2] and about["hours"] >= 0
    assert {"minipeft", "numpy", "python"} <= about["versions"].keys()
    assert about["bases"].keys() == {"tiny-gpt"} and len(about["bases"]["tiny-gpt"]) == 64
    assert about["runs"][1]["outcome"]["score"] == 0.333333


def test_a_version_is_of_code_and_not_of_its_words():
    code = '''"""Text."""
import math
X = 1
def f(a):
    """More."""
    return a + X
'''
    plain = "from cmath import sqrt\nX = 1  # one\n\ndef f(a):\n    return (a +\n            X)\n"
    assert source_digest(code) == source_digest(plain) == "6c1b4f4cd7be7c16"
    others = ("a + X", "a - X"), ("X = 1", "X = 2"), ("X = 1", "X = '1'"), ("f(a)", "f(a, *b)")
    digests = {source_digest(plain.replace("(a +\n            X)", "a + X").replace(*o))
               for o in others}  # fmt: skip
    assert len(digests | {source_digest(code)}) == 5


def test_a_version_is_of_what_decides_the_outcome(tmp_path, monkeypatch):
    """Its own file and what that imports from experiments, however far; not how it is run."""
    texts = {
        "topic/runs.py": """from minipeft.course.experiments.runner import Outcome
from minipeft.course.experiments.topic import near
from minipeft.course.experiments.other import number
def run(s): return near.f(number)
""",
        "topic/near.py": "from minipeft.course.experiments.topic.far import g\n\nf = print\n",
        "topic/far.py": "from minipeft.tasks import Example\ng = 1\n",
        "other.py": "number = 2\n", "runner.py": "Outcome = dict\n", "apart.py": "g = 5\n",
    }  # fmt: skip

    def version(**changed):
        runner._source.cache_clear()
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + changed.get(path.stem, ""))
        monkeypatch.setattr(runner, "__file__", str(tmp_path / "runner.py"))
        monkeypatch.setattr(runner.inspect, "getsourcefile", lambda f: tmp_path / "topic/runs.py")
        return version_of(counting([]))

    plain = version()
    assert version(runner="x = 3\n", apart="x = 3\n", far="# a comment\n") == plain
    others = {version(**{part: "x = 3\n"}) for part in ("runs", "near", "far", "other")}
    assert len(others | {plain}) == 5
    runner._source.cache_clear()


def test_runs_that_other_code_made_are_stale(tmp_path, monkeypatch, capsys):
    path = perform(counting([], 2), tmp_path)
    version = version_of(counting([]))
    found = Results(path)
    assert found.about["version"] == version and found.made_by == [version] * 2
    assert found.stale(version) == 0 and found.code(version) == "today's"
    monkeypatch.setattr(runner, "version_of", lambda experiment: "other")
    found = Results(perform(counting([], 3), tmp_path))
    assert found.made_by == [version, version, "other"]
    assert found.stale("other") == 2 and found.stale(version) == 1
    assert "version" not in found.runs[2]
    assert main({"trial": counting([])}, ["trial", "--out", str(tmp_path)]) == 0
    assert "code that made them: 2 of 3 runs are stale" in capsys.readouterr().out


def test_the_version_of_older_results_is_unknown(tmp_path):
    path = perform(counting([], 2), tmp_path)
    whole = json.loads(path.read_text())
    del whole["version"]
    path.write_text(json.dumps(whole))
    assert Results(path).code("any") == "unknown" and Results(path).stale("any") == 0
    found = Results(perform(counting([], 3), tmp_path))
    version = version_of(counting([]))
    assert found.made_by == ["unknown", "unknown", version]
    assert found.code("other") == "1 of 3 runs are stale, others unknown"


def test_where_selects_by_settings(tmp_path):
    perform(counting([]), tmp_path)
    found = Results(tmp_path / "trial.json")
    assert found.where("score", seed=2) == [0.666667]
    assert found.mean("score") == pytest.approx(1 / 3, abs=1e-6)
    assert found.label == "3 seeds; remake: python -m minipeft.experiments trial"
    with pytest.raises(KeyError, match="seed"):
        found.where("score", seed=9)


def several(settings):
    return {"score": 10.0 * settings["r"] + settings["seed"]}


def test_curves_and_means_are_over_the_runs_that_were_asked_for(tmp_path):
    wanted = [{"seed": seed, "r": r, "on": seed > 0} for r in (1, 2, 4) for seed in (0, 1)]
    perform(Experiment("trial", "?", lambda fast: wanted, several), tmp_path)
    found = Results(tmp_path / "trial.json")
    values, outcomes = found.curve("score", "r", [4, 1])
    assert values == [4, 1] and outcomes.tolist() == [[40.0, 10.0], [41.0, 11.0]]  # a run to a row
    assert found.mean("score", seed=1) == pytest.approx((11 + 21 + 41) / 3)
    assert found.where("score", on=False) == [10.0, 20.0, 40.0]
    assert found.label.startswith("2 seeds; ")


def test_runs_are_kept_in_the_order_of_the_settings(tmp_path):
    def perform_on(seeds):
        settings = [{"seed": s, "r": 1} for s in seeds]
        perform(Experiment("trial", "?", lambda fast: settings, several), tmp_path)
        return Results(tmp_path / "trial.json")

    perform_on([5, 2])
    found = perform_on([1, 2, 5])
    assert [r["settings"]["seed"] for r in found.runs] == found.about["seeds"] == [1, 2, 5]
    assert found.where("score") == [11.0, 12.0, 15.0]
    seconds = [r["seconds"] for r in found.runs]
    assert found.about["hours"] == round(sum(seconds) / 3600, 4)


def test_unknown_results_name_the_known(monkeypatch, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text("{}")
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there are: one"):
        results("two")


def test_command_writes_fast_runs_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    assert main({"trial": counting([])}, ["trial", "--fast"]) == 0
    assert "1 runs" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    with pytest.raises(SystemExit):
        main(EXPERIMENTS, ["nonsense"])
