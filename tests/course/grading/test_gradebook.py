"""Late days cost what the policy says; each student has a row, here and for Canvas."""

import csv
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from minipeft.course.grading.classroom import Graded
from minipeft.course.grading.gradebook import (
    CANVAS,
    DAY,
    Late,
    canvas,
    days_used,
    gradebook,
    write_csv,
)
from minipeft.course.grading.grader import Report, Result
from minipeft.course.grading.submissions import Person, Submission
from tests.course.grading.standin import graded, hand_in, logged  # noqa: F401

DUE = datetime(2026, 3, 2, 23, 59).timestamp()


@pytest.mark.parametrize(
    ("minutes", "days"),
    [(-5000, 0), (0, 0), (15, 0), (15.1, 1), (1440, 1), (1440.1, 2), (2880 + 1, 3)],
)
def test_days_are_counted_from_the_due_time(minutes, days):
    assert Late(DUE, grace=15).days(DUE + 60 * minutes) == days


def test_the_floor_holds():
    late = Late(DUE, percent=10, floor=40)
    assert [late.off(d) for d in (0, 1, 6, 7, 99)] == [0, 10, 60, 60, 60]
    assert Late(DUE, percent=30).off(4) == 100


def test_the_gradebook_takes_late_days_off(tmp_path):
    hand_in(tmp_path / "in", ann="right", bob="right", carl="right", dan="first")
    for name, days in (("ann", -1), ("bob", 1), ("carl", 4), ("dan", 3)):
        at = DUE + days * DAY - 60
        os.utime(tmp_path / "in" / name / "answer.txt", (at, at))
    found = list(graded(tmp_path).values())
    late = Late(DUE, free=2, percent=10, floor=50)
    rows = {row["name"]: row for row in gradebook(found, late, {"carl": 1, "dan": 5})}
    told = {n: (r["days late"], r["free days used"], r["percent off"], r["final"])
            for n, r in rows.items()}  # fmt: skip
    assert told == {"ann": (0, 0, 0, 40), "bob": (1, 1, 0, 40), "carl": (4, 1, 30, 28),
                    "dan": (3, 0, 30, 7)}  # fmt: skip
    assert rows["dan"]["toy.1"] == 10.0 and rows["dan"]["toy.2"] == 0.0
    assert rows["dan"]["of"] == 40.0 and rows["dan"]["points"] == 10.0
    at = datetime.fromisoformat(rows["bob"]["submitted"])
    assert at == datetime.fromtimestamp(DUE - 60).astimezone() + timedelta(days=1)
    write_csv(list(rows.values()), tmp_path / "hw1.csv")
    assert days_used([tmp_path / "hw1.csv"] * 2) == {"ann": 0, "bob": 2, "carl": 2, "dan": 0}
    plain = {row["name"]: row for row in gradebook(found)}
    assert plain["carl"]["final"] == 40.0 and plain["carl"]["days late"] == 0


def test_each_member_of_a_group_has_a_row():
    people = (Person("Ann", "1"), Person("Bob", "", "bob@example.edu"))
    hand_in = Submission("submission_1", Path(), people, DUE + 2 * DAY, "a note")
    result = Result("toy.1", "one", True, 10.0, 20.0, False, "", 0.0)
    report = Report("toy", "x", (result,), ("odd",), (), {}, "", 0.0)
    ann, bob = gradebook([Graded(hand_in, report)], Late(DUE, free=1), {"1": 1})
    assert (ann["student"], ann["final"], ann["free days used"]) == ("Ann", 8.0, 0)
    assert (bob["email"], bob["final"], bob["free days used"]) == ("bob@example.edu", 9.0, 1)
    assert bob["notes"] == "a note; odd" and bob["toy.1"] == 10.0 and bob["of"] == 20.0


def test_a_file_that_is_no_gradebook_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"x\.csv is no gradebook of minipeft.*id, email"):
        days_used([tmp_path / "x.csv"])


def test_no_cell_is_a_formula(tmp_path):
    rows = [{"name": "=1+1", "points": -3.5, "student": "@x, y", "notes": "a\nb"}]
    write_csv(rows, tmp_path / "x.csv")
    (row,) = csv.DictReader((tmp_path / "x.csv").open(newline=""))
    assert row == {"name": "'=1+1", "points": "-3.5", "student": "'@x, y", "notes": "a\nb"}


ROSTER = """\
Student,ID,SIS User ID,SIS Login ID,Section,hw3 (99),Final Score
    Points Possible,,,,,80,(read only)
"Lee, Ann",340934,S1,alee,01,,
"Ray, Bob",2,S2,bob@example.edu,01,,
"Day, Carl",3,7003,cday,02,,
"Nobody, Zoe",4,S4,zn,02,,
"""


def test_canvas_gets_its_own_columns(tmp_path):
    blank = {"id": "", "email": "", "of": 40.0}
    rows = [
        {**blank, "name": "leeann", "student": "leeann", "id": "340934", "final": 40.0},
        {**blank, "name": "b", "student": "x", "email": "bob@example.edu", "final": 30.5},
        {**blank, "name": "c", "student": "Carl Day", "id": "7003", "final": 7.0},
        {**blank, "name": "m", "student": "Mallory", "final": 1.0},
    ]
    (tmp_path / "roster.csv").write_text("\ufeff" + ROSTER, encoding="utf-8")
    made, missing = canvas(rows, "hw3 (99)", tmp_path / "roster.csv")
    assert missing == ["m"]
    assert [*made[0]] == [*CANVAS, "hw3 (99)"]
    assert made[0]["Student"].strip() == "Points Possible" and made[0]["hw3 (99)"] == 40.0
    assert [(r["ID"], r["hw3 (99)"]) for r in made[1:]] == [
        ("340934", 40.0), ("2", 30.5), ("3", 7.0), ("4", ""),
    ]  # fmt: skip
    (tmp_path / "roster.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no gradebook of Canvas.*Student, ID"):
        canvas(rows, "hw3", tmp_path / "roster.csv")


def test_names_find_students_where_ids_do_not(tmp_path):
    (tmp_path / "roster.csv").write_text(ROSTER)
    rows = [{"name": s, "student": s, "id": "", "email": "", "of": 40, "final": 1.0}
            for s in ("Ann Lee", "raybob", "Day, Carl")]  # fmt: skip
    made, missing = canvas(rows, "hw3", tmp_path / "roster.csv")
    assert missing == [] and [r["hw3"] for r in made[1:]] == [1.0, 1.0, 1.0, ""]
