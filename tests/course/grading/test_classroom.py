"""A class is graded once, whatever is handed in and whenever the grader dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from minipeft.cli.teaching import changes, missed_table
from minipeft.course.grading import classroom
from minipeft.course.grading.classroom import figure, grade_class, missed
from minipeft.course.grading.grader import Report
from minipeft.course.grading.sandbox import Limits
from minipeft.course.homework import bank as banks
from minipeft.course.homework.assignment import load
from tests.course.grading import synthetic
from tests.course.grading.standin import (  # noqa: F401
    SCALE,
    TURNED,
    bank,
    calls,
    graded,
    grader,
    hand_in,
    logged,
)

TOY = Path(__file__).parents[1] / "homework" / "toy"
CHECKOUT = str(Path(__file__).parents[3])


def scores(found):
    return {name: one.report.score for name, one in found.items()}


# -- grading --------------------------------------------------------------------------------------


@pytest.mark.full
def test_each_hand_in_has_a_report_of_its_own(tmp_path):
    hand_in(tmp_path / "in", ann="right", bob="first", carl="wrong")
    (tmp_path / "in" / "dan.zip").write_text("no zip")
    found = graded(tmp_path)
    assert scores(found) == {"ann": 40.0, "bob": 10.0, "carl": 0.0, "dan": 0.0}
    files = sorted(p.name for p in (tmp_path / "out" / "reports").iterdir())
    assert files == ["ann.json", "bob.json", "carl.json", "dan.json"]
    for name, one in found.items():
        text = (tmp_path / "out" / "reports" / f"{name}.json").read_text()
        assert Report.from_json(text) == one.report and json.loads(text)["who"] == name
    assert all("not opened: dan.zip is not a zip" in r.message for r in found["dan"].report.results)
    assert found["dan"].report.most == 40.0


def test_nothing_is_graded_twice(tmp_path):
    hand_in(tmp_path / "in", ann="right", bob="first")
    (tmp_path / "in" / "dan.zip").write_text("no zip")
    first = graded(tmp_path)
    assert sorted(calls(tmp_path)) == ["ann", "bob"]
    again = graded(tmp_path)
    assert sorted(calls(tmp_path)) == ["ann", "bob"]
    assert scores(again) == scores(first) and all(one.before is None for one in again.values())
    hand_in(tmp_path / "in", bob="right", eve="wrong")  # a new version, and a new student
    found = graded(tmp_path)
    assert calls(tmp_path)[2:] in (["bob", "eve"], ["eve", "bob"])
    assert found["bob"].before.score == 10.0 and found["bob"].report.score == 40.0


@pytest.mark.full
def test_other_tests_grade_all_again(tmp_path):
    hand_in(tmp_path / "in", ann="right", bob="first")
    graded(tmp_path)
    found = graded(tmp_path, bank(points=14.0))
    assert scores(found) == {"ann": 44.0, "bob": 14.0}
    assert len(calls(tmp_path)) == 4


@pytest.mark.full
def test_a_report_that_is_no_report_is_written_anew(tmp_path):
    hand_in(tmp_path / "in", ann="right")
    graded(tmp_path)
    for text in ("", "{", "[]", '{"results": 3}', "\xff"):
        (tmp_path / "out" / "reports" / "ann.json").write_text(text, encoding="latin-1")
        assert scores(graded(tmp_path)) == {"ann": 40.0}


@pytest.mark.full
def test_a_part_is_graded_again_with_what_changed(tmp_path):
    hand_in(tmp_path / "in", ann="right", anton="first", bob="first")
    graded(tmp_path)
    hand_in(tmp_path / "in", anton="right", bob="right")
    found = graded(tmp_path, bank(points=12.0), only=["an*"])
    assert scores(found) == {"ann": 42.0, "anton": 42.0, "bob": 10.0}
    told = str(changes(found.values()))
    assert "bob" not in told
    assert "toy.1 10 -> 12" in told and "toy.1 10 -> 12, toy.2 0 -> 30" in told
    found = graded(tmp_path, bank(points=12.0), only=["ann"])  # again, though nothing changed
    assert "unchanged" in str(changes(found.values()))
    with pytest.raises(ValueError, match="no submission 'annn'; nearest: ann"):
        graded(tmp_path, only=["annn"])


@pytest.mark.full
def test_a_grader_that_dies_or_fails_takes_nobody_along(tmp_path):
    mark = tmp_path / "mark"
    hand_in(tmp_path / "in", a="kill", b=f"kill-once {mark}", c="raise", d="right", e="right")
    found = graded(tmp_path)
    assert scores(found) == {"a": 0.0, "b": 0.0, "c": 0.0, "d": 40.0, "e": 40.0}
    assert found["a"].report.results[0].message == "the grading process ended with -9, 2 times"
    assert "ZeroDivisionError: in the grader" in found["c"].report.results[0].message
    assert str(mark) in found["b"].report.results[0].message  # graded, at the second try
    made = calls(tmp_path)
    assert made.count("a") == 2 and made.count("b") == 2 and made.count("d") == 1
    hand_in(tmp_path / "in", a="right")
    assert scores(graded(tmp_path))["a"] == 40.0
    assert calls(tmp_path).count("c") == 2  # a fault of the grader is tried in each run


@pytest.mark.full
def test_a_grader_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(classroom, "SLACK", 1.0)
    hand_in(tmp_path / "in", a="hang", b="right")
    out = grade_class(bank(), tmp_path / "in", tmp_path / "out", Limits(total=0.1), workers=1,
                      grader=grader, quiet=True)  # fmt: skip
    assert [one.report.score for one in out] == [0.0, 40.0]
    assert out[0].report.results[0].message == "the grading process hung, 2 times"


def run(tmp_path):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.course.grading.standin", str(tmp_path / "in"),
         str(tmp_path / "out"), str(tmp_path / "log")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.full
@pytest.mark.skipif(os.name != "posix", reason="posix: needs SIGKILL")
def test_a_killed_grader_goes_on_where_it_was(tmp_path):
    hand_in(tmp_path / "in", **{f"s{i:02}": "slow" for i in range(24)})
    reports = tmp_path / "out" / "reports"
    done = set()
    for _ in range(2):
        process = run(tmp_path)
        until = time.monotonic() + 60
        while len(done_now := {p.name for p in reports.glob("*.json")} - done) < 3:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert done_now
        time.sleep(1.0)  # what was being graded is written by nobody
        done = {p.name for p in reports.glob("*.json")}
        for name in done:
            assert Report.from_json((reports / name).read_text()).score == 10.0
    assert 6 <= len(done) < 24
    made = calls(tmp_path)
    process = run(tmp_path)
    assert process.communicate(timeout=60)[0].rstrip().endswith("done")
    new = calls(tmp_path)[len(made) :]
    assert sorted(new) == sorted(f"s{i:02}" for i in range(24) if f"s{i:02}.json" not in done)
    assert sorted(p.name for p in reports.iterdir()) == [f"s{i:02}.json" for i in range(24)]


REAL = """
import sys
from minipeft.course.homework.assignment import load
from minipeft.course.homework.bank import Bank
from minipeft.course.grading.classroom import grade_class
from minipeft.course.grading.sandbox import Limits
if __name__ == "__main__":
    toy, bank, folder, out = sys.argv[1:]
    grade_class(Bank.load(load(toy), bank), folder, out, Limits(), workers=2)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="posix: attacks of Unix processes")
def test_a_killed_class_of_every_kind_has_all_its_verdicts(tmp_path):
    """80 hand-ins, many of them attacks; the grader is killed three times on the way."""
    toy, folder, out = load(TOY), tmp_path / "in", tmp_path / "out"
    made = banks.make(toy, "secret", toy.choices())
    made.save(tmp_path / "bank")
    (tmp_path / "run.py").write_text(REAL)
    folder.mkdir()
    given = dict(synthetic.hand_ins(toy, 80, folder))
    for number, (name, one) in enumerate(given.items()):
        synthetic.hand_in(folder, name, one, zipped=number % 2)
    command = [sys.executable, "run.py", str(TOY), "bank", str(folder), str(out)]
    for part in (10, 30, 55):
        own = {**os.environ, "PYTHONPATH": CHECKOUT}
        process = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=subprocess.DEVNULL)
        while len(list((out / "reports").glob("*.json"))) < part:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
    before = {p.name: p.read_bytes() for p in (out / "reports").glob("*.json")}
    found = grade_class(made, folder, out, Limits(), workers=2, quiet=True)
    assert [one.submission.name for one in found] == sorted(given)
    for one in found:
        assert synthetic.judged(given[one.submission.name], one.report) == []
    for name, data in before.items():
        assert (out / "reports" / name).read_bytes() == data  # nothing was graded twice


@pytest.mark.full
def test_progress_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minipeft.display.progress.FIRST", 0.0)
    hand_in(tmp_path / "in", ann="right", bob="first")
    graded(tmp_path, quiet=False)
    out = capsys.readouterr().out
    assert "grading  1/2" in out and "grading  done" in out and "2 hand-ins" in out


# -- what the class missed ------------------------------------------------------------------------


@pytest.fixture
def a_class(tmp_path):
    hand_in(tmp_path / "in", a="right", b="right", c="first", d=f"wrong {SCALE}",
            e=f"wrong {TURNED}", f=f"wrong {SCALE}", g="wrong y[0] = 3")  # fmt: skip
    return graded(tmp_path)


def test_what_was_missed_is_counted_by_student(a_class):
    reports = [one.report for one in a_class.values()]
    first, second = missed(bank().homework, reports)
    assert (first.all, first.some, first.none) == (3, 0, 4)
    assert first.mistakes == {SCALE: 2, TURNED: 1}
    assert (second.all, second.some, second.none) == (2, 0, 5)
    assert second.mistakes == {SCALE: 3}  # c's message is SCALE, too
    text = str(missed_table([first, second]))
    assert "2 x The scale" in text and "toy.2" in text and "the second" in text


def test_the_figure_says_which_hole_was_missed(a_class, tmp_path):
    reports = [one.report for one in a_class.values()]
    file = figure(missed(bank().homework, reports), tmp_path / "class.png")
    with Image.open(file) as image:
        assert image.width > 600
    svg = figure(missed(bank().homework, reports), tmp_path / "class.svg").read_text()
    assert "5 of 7 missed toy.2" in svg and "The usual mistakes" in svg
    alone = [r for r in reports if r.score == 40.0]
    svg = figure(missed(bank().homework, alone), tmp_path / "class.svg").read_text()
    assert "No usual mistake" in svg
