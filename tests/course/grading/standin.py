"""A grader that does what a hand-in's file says: python -m tests.course.grading.standin IN OUT LOG

Run as a program it grades a class, to be killed on the way.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minipeft.course.grading.classroom import grade_class
from minipeft.course.grading.grader import ungraded
from minipeft.course.grading.sandbox import Limits
from minipeft.course.homework.assignment import Assignment, Case, Hole, Mistake, Question
from minipeft.course.homework.bank import Ask, Bank, Known

LOG = "MINIPEFT_TEST_LOG"
SCALE, TURNED = "The scale is missing.", "It is transposed."


def bank(points=10.0):
    """Two holes of one and two cases, 40 points."""
    holes = (
        Hole("toy.1", "minipeft/a.py::f", "the first", (), (Case("one", points),),
             (Mistake(SCALE, "a", "b"), Mistake(TURNED, "a", "c"))),
        Hole("toy.2", "minipeft/a.py::g", "the second", (),
             (Case("two", 20.0), Case("three", 10.0)), (Mistake(SCALE, "a", "b"),)),
    )  # fmt: skip
    homework = Assignment(Path(), "toy", "a toy", (2, 3), (), (), holes,
                          (Question("toy.a", "why", 60.0),), {})  # fmt: skip
    x = np.arange(3.0)
    known = [Known(Ask(hole, case, "1", {"x": x}), {"y": x}) for hole, case in homework.cases()]
    return Bank(homework, {}, {"minipeft/a.py": ""}, tuple(known), tuple(known))


def grader(bank, folder, who, limits, seen=None):
    """Notes the call, then does what answer.txt says."""
    with open(os.environ[LOG], "a") as log:
        log.write(f"{who}\n")
    does, _, more = (folder / "answer.txt").read_text().partition(" ")
    if does == "kill":
        os.kill(os.getpid(), 9)
    if does == "kill-once" and not Path(more).exists():
        Path(more).touch()
        os.kill(os.getpid(), 9)
    if does == "hang":
        time.sleep(600)
    if does == "raise":
        raise ZeroDivisionError("in the grader")
    if does == "slow":
        time.sleep(0.3)
    report = ungraded(bank, who, more or SCALE)
    won = {"right": ("toy.1", "toy.2"), "slow": ("toy.1",), "first": ("toy.1",)}.get(does, ())
    results = tuple(
        replace(r, points=r.most, passed=True, message="") if r.hole in won else r
        for r in report.results
    )
    return replace(report, results=results, seconds=0.1)


@pytest.fixture(autouse=True)
def logged(tmp_path, monkeypatch):
    """Whom the grader is called for is written down."""
    (tmp_path / "log").touch()
    monkeypatch.setenv(LOG, str(tmp_path / "log"))


def calls(tmp_path):
    """For whom the grader was called."""
    return (tmp_path / "log").read_text().split()


def hand_in(folder, **answers):
    for name, text in answers.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "answer.txt").write_text(text)
    return folder


def graded(tmp_path, made=None, **more):
    out = grade_class(made or bank(), tmp_path / "in", tmp_path / "out", Limits(), workers=2,
                      grader=grader, **{"quiet": True} | more)  # fmt: skip
    return {one.submission.name: one for one in out}


if __name__ == "__main__":
    os.environ[LOG] = sys.argv[3]
    grade_class(bank(), sys.argv[1], sys.argv[2], Limits(), workers=2, grader=grader)
    print("done")
