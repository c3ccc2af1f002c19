"""Whoever hands in whatever: every hole gets what it must, and the class is graded in time."""

import os
import time
from pathlib import Path

import pytest

from minipeft.course.grading import grader as grading
from minipeft.course.grading.classroom import grade_class
from minipeft.course.grading.sandbox import Limits, protections
from minipeft.course.homework import bank, tree
from minipeft.course.homework.assignment import load
from tests.course.grading.synthetic import hand_in, hand_ins, judged, made
from tests.course.grading.synthetic import one as one_hole

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(os.name != "posix", reason="posix: attacks of Unix processes"),
]
TOY = Path(__file__).parents[1] / "homework" / "toy"
KINDS = (("right", ""), ("harmless", "tries to fork, and goes on"), ("not done", ""),
         ("attack", "forges results"), ("attack", "patches NumPy"), ("attack", "crashes"),
         ("attack", "forwards"), ("attack", "reads the cases"), ("file", "no text"))  # fmt: skip
NEEDED = ("memory", "processes", "reading", "network", "other processes")


@pytest.fixture(autouse=True)
def protected():
    """Some hand-ins would do harm on a machine that lacks these."""
    for name in NEEDED:
        if protections()[name]:
            pytest.skip(f"sandbox: {protections()[name]}")


def handed_in(homework, count, folder):
    folder.mkdir()
    found = dict(hand_ins(homework, count, folder))
    assert len(found) == count
    for number, (name, one) in enumerate(found.items()):
        hand_in(folder, name, one, zipped=number % 2)
    return found


def test_each_kind_gets_what_it_must(tmp_path):
    toy = load(TOY)
    known = bank.make(toy, "secret", toy.choices())
    sources = tree.reference(toy)
    empty, scores = tree.holed(sources, toy.holes), set()
    for what in (*KINDS, ("mistake", toy.holes[1].mistakes[0])):
        one = made(toy, one_hole(toy.holes, 1, what), sources, empty, tmp_path)
        hand_in(tmp_path, "ann", one, zipped=False)
        report = grading.grade(known, tmp_path / "ann", "ann")
        assert judged(one, report) == []
        scores.add(report.score)
    assert scores >= {0, 40, 80}


def test_a_wrong_verdict_is_seen(tmp_path):
    toy = load(TOY)
    one = next(one for _, one in hand_ins(toy, 90, tmp_path) if "mistake" in one.kind)
    report = grading.Report("toy", "a", tuple(
        grading.Result(hole.id, case.name, True, case.points, case.points, True, "", 0.0)
        for hole, case in toy.cases()), (), (), {}, "", 0.0)  # fmt: skip
    assert len(judged(one, report)) == 2  # full points, and nobody is told why


def test_a_class_of_300_is_graded_in_ten_minutes(tmp_path):
    homework = load("hw7")
    known = bank.make(homework, "secret", homework.choices())
    found = handed_in(homework, 300, tmp_path / "in")
    began = time.monotonic()
    class_ = grade_class(known, tmp_path / "in", tmp_path / "out", Limits(), workers=2, quiet=True)
    seconds = time.monotonic() - began
    print(f"300 hand-ins in {seconds:.0f} seconds")
    reports = {one.submission.name: one.report for one in class_}
    assert [f"{n}: {w}" for n, one in found.items() for w in judged(one, reports[n])] == []
    assert seconds <= 600
