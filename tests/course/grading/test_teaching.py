"""The commands for a whole class, run on the toy and on its real grader."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from minipeft.contract import attach
from minipeft.course.homework import tree
from minipeft.course.homework.assignment import load
from minipeft.methods import LoRA
from minipeft.storage.checkpoint import load_model
from tests.clitools import fails, small_base, tell, value  # noqa: F401

TOY = load(Path(__file__).parents[1] / "homework" / "toy")
NAME = "minipeft/engine/ops.py"
BANK = ("--seed", "secret", "--variant", "2")


pytestmark = pytest.mark.full  # minutes of processes


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setenv("MINIPEFT_HOMEWORK", str(TOY.folder.parent))


def hand_in(folder, *solved, mistake=None):
    sources = tree.reference(TOY, TOY.choices("2"))
    if mistake is not None:
        hole = TOY.holes[mistake[0]]
        sources = tree.mistaken(sources, hole, hole.mistakes[mistake[1]])
    left = [hole for hole in TOY.holes if hole.id not in solved]
    (folder / NAME).parent.mkdir(parents=True)
    (folder / NAME).write_text(tree.holed(sources, left)[NAME])


@pytest.fixture
def submissions(tmp_path):
    folder = tmp_path / "in"
    hand_in(folder / "ann", "toy.1", "toy.2")
    hand_in(folder / "bob", "toy.1")
    hand_in(folder / "carl", "toy.1", "toy.2", mistake=(0, 0))
    with zipfile.ZipFile(folder / "dan.zip", "w") as out:
        out.write(folder / "ann" / NAME, f"homework/{NAME}")
    (folder / "eve.zip").write_text("no zip")
    return folder


def test_a_class_is_graded_and_compared(capsys, submissions, tmp_path):
    out = tmp_path / "out"
    text = tell(capsys, "homework", "class", "toy", str(submissions), str(out), *BANK,
                "--due", "2026-01-01")  # fmt: skip
    assert "1 x The cotangent g is missing." in text and "5 submissions" in text
    reports = {f.stem: json.loads(f.read_text()) for f in (out / "reports").iterdir()}
    points = {name: sum(r["points"] for r in told["results"]) for name, told in reports.items()}
    assert points == {"ann": 80, "bob": 40, "carl": 40, "dan": 80, "eve": 0}
    assert (out / "class.png").stat().st_size > 5000
    book = (out / "gradebook.csv").read_text().splitlines()
    assert len(book) == 6 and book[1].startswith("ann,ann,,,")
    again = value(capsys, "homework", "class", "toy", str(submissions), str(out), *BANK, "--only",
                  "bob")  # fmt: skip
    assert {row["name"]: row["final"] for row in again["submissions"]} == points
    assert again["holes"][0]["mistakes"] == {"The cotangent g is missing.": 1}
    found = value(capsys, "homework", "similar", "toy", str(submissions), "--variant", "2")
    assert "eve" in found["unread"] and found["pairs"] == []  # two lines are alike by nature


def test_a_report_goes_to_gradescope(capsys, submissions, tmp_path):
    file = tmp_path / "results.json"
    got = value(capsys, "homework", "grade", "toy", str(submissions / "dan.zip"), *BANK,
                "--gradescope", str(file))  # fmt: skip
    told = json.loads(file.read_text())
    assert told["score"] == got["score"] == 80 and len(told["tests"]) == 6
    err = fails(capsys, 1, "homework", "grade", "toy", str(submissions / "eve.zip"), *BANK)
    assert "eve.zip is not a zip" in err


def test_the_autograder_is_written(capsys, tmp_path):
    file = tmp_path / "autograder.zip"
    assert "Configure Autograder" in tell(capsys, "homework", "zip", "toy", str(file), *BANK)
    assert {"setup.sh", "run_autograder"} <= set(zipfile.ZipFile(file).namelist())


def test_adapters_are_ranked(capsys, tmp_path):
    attach(load_model("tiny-gpt"), LoRA(r=1)).save(tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_text("x")
    files = [str(tmp_path / f"{name}.safetensors") for name in "abc"]
    text = tell(capsys, "homework", "leaderboard", *files, "--n", "2")
    assert "2  b" in text and "refused: c.safetensors is no adapter" in text
    assert "--zip FILE" in fails(capsys, 2, "homework", "leaderboard")
    err = fails(capsys, 2, "homework", "class", "toy", "in", "out", "--seed", "1", "--due", "soon")
    assert "wanted a time such as 2026-03-02T23:59" in err
