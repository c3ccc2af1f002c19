"""A submission gets the points of what is right, and the message of what is not."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from minipeft.course.grading import grader as grading
from minipeft.course.grading.sandbox import Limits
from minipeft.course.homework import bank, cut, tree
from minipeft.course.homework.assignment import load

TOY = load(Path(__file__).parents[1] / "homework" / "toy")
OPS = "minipeft/engine/ops.py"
RIGHT = {"toy.1": "return y, (lambda g: g * y,)",
         "toy.2": "y = 1 - sigmoid_of(x)\nreturn y, (lambda g: -g * y * (1 - y),)"}  # fmt: skip
LIBRARY = "y = sigmoid_of(x)\nreturn y, (lambda g: g * y * (1 - y),)"


@pytest.fixture(scope="module")
def known():
    """Of a class whose sigmoid is turned round; the rest of the toy's VJP is as the library's."""
    return bank.make(TOY, "secret", TOY.choices("2"))


def submission(folder, known, **bodies):
    """A student's folder with these bodies in its holes."""
    text = known.sources[OPS]
    for id, body in bodies.items():
        hole = TOY.hole(f"toy.{id[1:]}")
        text = cut.fill(text, hole.function, body, hole.keep)
    file = folder / "my homework" / OPS
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return folder


def points(report):
    return {(r.case, r.visible): r.points for r in report.results}


def test_unsolved_it_gets_nothing(known, tmp_path):
    report = grading.grade(known, submission(tmp_path, known), "a")
    assert report.score == 0 and report.most == 80
    assert {r.message for r in report.results} == {grading.NOT_DONE}


def test_the_reference_gets_all(known, tmp_path):
    body = cut.body_of(tree.reference(TOY, known.choices)[OPS], "sigmoid")
    report = grading.grade(known, submission(tmp_path, known, h1=RIGHT["toy.1"], h2=body), "a")
    assert report.score == report.most == 80 and report.notes == ()
    assert report.by_hole() == {"toy.1": (40, 40), "toy.2": (40, 40)}
    assert [r.message for r in report.results] == [""] * 6


def test_each_case_gives_half_its_points_in_sight(known, tmp_path):
    """The library's own answer has the wrong value here, and of the mistake its message."""
    report = grading.grade(known, submission(tmp_path, known, h1="return y, (lambda g: g * x,)",
                                             h2=LIBRARY), "a")  # fmt: skip
    assert {r.message for r in report.results if r.hole == "toy.1"} == {"x stands where y must."}
    got = {r.case: r.message for r in report.results if r.hole == "toy.2"}
    assert got["sigmoid_value"] and report.score == 20 + 0 * 40
    assert points(report)[("sigmoid_gradient", True)] == 10


def test_what_was_public_is_not_asked_again(known):
    public = {a.seed: a.inputs for a in bank.asks(TOY, bank.PUBLIC_SEEDS)}
    seeds = {k.ask.seed for k in (*known.visible, *known.hidden)}
    assert not seeds & set(public)
    other = bank.make(TOY, "other", known.choices)
    first, second = known.hidden[0].ask.inputs, other.hidden[0].ask.inputs
    assert not np.array_equal(first["x"], second["x"])
    assert any(k.ask.inputs["x"].size == 1 for k in known.hidden)


def test_an_error_ends_no_other_test(known, tmp_path):
    report = grading.grade(known, submission(tmp_path, known, h1="return 1 / 0", h2=LIBRARY), "a")
    assert {r.message for r in report.results if r.hole == "toy.1"} == {
        "error: ZeroDivisionError: division by zero (minipeft/engine/ops.py, line 137)"
    }
    assert report.score == 20


def test_a_hole_that_hangs_is_not_tried_again(known, tmp_path):
    made = submission(tmp_path, known, h1=RIGHT["toy.1"], h2="while True: pass")
    report = grading.grade(known, made, "a", Limits(seconds=1.0))
    late = [r.message for r in report.results if r.hole == "toy.2"]
    assert late[0].startswith("time: ")
    assert late[1:] == ["not tried: sigmoid_value took too long"] * 3
    assert report.score == 40


def test_other_files_of_a_submission_are_not_taken(known, tmp_path):
    made = submission(tmp_path, known)
    for name in ("adapters.py", "homework.py", "minipeft/engine/op.py", "minipeft/__init__.py"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("raise SystemExit")
    assert {r.message for r in grading.grade(known, made, "a").results} == {grading.NOT_DONE}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"def f(:", b"\0" * 99, b"x" * (2 << 20)])
def test_a_file_that_is_no_python_gets_nothing(known, tmp_path, content):
    made = submission(tmp_path, known)
    (made / "my homework" / OPS).write_bytes(content)
    report = grading.grade(known, made, "a")
    assert report.score == 0
    assert all(r.message for r in report.results)
    assert bool(report.notes) == (len(content) > 1 << 20)


def test_nothing_handed_in_is_said(known, tmp_path):
    report = grading.grade(known, tmp_path, "a")
    assert report.score == 0 and report.notes == (f"{OPS} was not handed in",)


def test_written_answers_are_kept_for_a_person(known, tmp_path):
    made = submission(tmp_path, known)
    notebook = json.loads(tree.handout(TOY, known.choices))
    notebook["cells"][-1]["source"] = ["y is", " there."]
    (made / "handout.ipynb").write_text(json.dumps(notebook))
    assert grading.grade(known, made, "a").written == {"toy.a": "y is there."}
    for broken in ("", "[]", '{"cells": 3}', '{"cells": [{"metadata": []}]}', "[" * 100_000):
        (made / "handout.ipynb").write_text(broken)
        assert grading.written(TOY, made) == {"toy.a": ""}


def test_a_report_comes_back_from_its_text(known, tmp_path):
    report = grading.grade(known, submission(tmp_path, known), "Zoë")
    assert grading.Report.from_json(report.as_json()) == report
    for broken in ("", "{}", "[]", '{"results": 3}', report.as_json()[:-9]):
        with pytest.raises(ValueError, match="no report"):
            grading.Report.from_json(broken)


@pytest.mark.full
def test_the_digest_holds_all_that_the_report_rests_on(known, tmp_path):
    files, _ = grading.gather(TOY, submission(tmp_path, known))
    one = grading.digest(known, files, Limits())
    assert one == grading.digest(known, files, Limits())
    other = bank.make(TOY, "other", known.choices)
    changed = {name: data + b" " for name, data in files.items()}
    found = {
        one, grading.digest(other, files, Limits()), grading.digest(known, changed, Limits()),
        grading.digest(known, files, Limits(seconds=9)), grading.digest(known, {}, Limits()),
    }  # fmt: skip
    assert len(found) == 5


def test_a_bank_comes_back_from_its_file(known, tmp_path):
    known.save(tmp_path / "bank")
    back = bank.Bank.load(TOY, tmp_path / "bank")
    assert back.digest == known.digest
    assert [k.ask.seed for k in back.hidden] == [k.ask.seed for k in known.hidden]
    for a, b in zip((*back.visible, *back.hidden), (*known.visible, *known.hidden), strict=True):
        assert [m for m, _ in a.mistakes] == [m for m, _ in b.mistakes] != []
    whole = (tmp_path / "bank").read_bytes()
    for broken in (b"", whole[:-9], whole.replace(b"exp_gradient", b"exp_gradiens")):
        (tmp_path / "bank").write_bytes(broken)
        with pytest.raises(ValueError, match="is no bank of toy"):
            bank.Bank.load(TOY, tmp_path / "bank")
    assert dataclasses.replace(known, sources={}).digest != known.digest
