"""What a student gets runs by itself, and what is in it is never lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minipeft.course.homework import bank, tree
from minipeft.course.homework.assignment import load
from tests.clitools import value

TOY = load(Path(__file__).parent / "toy")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    where = tmp_path_factory.mktemp("student") / "toy"
    choices = TOY.choices("2")
    assert choices == {"sign": 1}
    tree.write_student(TOY, where, bank.public(TOY, choices), choices)
    return where


@pytest.fixture
def copy(student, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_HOMEWORK", str(TOY.folder.parent))
    return Path(shutil.copytree(student, tmp_path / "copy"))


def run(where, *arguments):
    return subprocess.run([sys.executable, "-B", *arguments], cwd=where, capture_output=True,
                          text=True)  # fmt: skip


def test_the_tree_holds_what_the_tests_reach_alone(student):
    files = {f.relative_to(student).as_posix() for f in student.rglob("*") if f.is_file()}
    assert {"adapters.py", "handout.ipynb", "homework.py", "README.md"} < files
    assert "minipeft/engine/ops.py" in files
    assert not any(f.startswith(("minipeft/course", "minipeft/methods")) for f in files)
    assert "The sigmoid is 1 / (1 + exp(x))." in (student / "handout.ipynb").read_text()


def test_cut_it_is_open_everywhere(student):
    done = run(student, "homework.py")
    assert done.returncode == 1
    assert done.stdout.count("open ") == 3 and "WRONG" not in done.stdout
    assert "passed for 0 of 80 points" in done.stdout


def test_the_class_gets_its_own_convention(copy):
    """The library's own sigmoid is wrong here, and of its own source it is right."""
    tree.refill(TOY, copy, ["toy.1", "toy.2"])
    assert run(copy, "homework.py").returncode == 0
    file = copy / "minipeft/engine/ops.py"
    text = file.read_text()
    file.write_text(text.replace("y = 1 - sigmoid_of(x)", "y = sigmoid_of(x)"))
    assert file.read_text() != text
    done = run(copy, "homework.py")
    assert done.returncode == 1 and "WRONG  sigmoid_value" in done.stdout


def test_a_usual_mistake_is_told_by_its_message(copy):
    file = copy / "minipeft/engine/ops.py"
    open_ = '    # YOUR CODE HERE\n    raise NotImplementedError("toy.1: the derivative of exp")\n'
    assert open_ in file.read_text()
    file.write_text(file.read_text().replace(open_, "    return y, (lambda g: g * x,)\n"))
    done = run(copy, "homework.py", "toy.1")
    assert "WRONG  exp_gradient" in done.stdout and "x stands where y must." in done.stdout
    assert "toy.2" not in done.stdout


def test_hints_grow(copy):
    first = run(copy, "homework.py", "--hint", "toy.1").stdout
    second = run(copy, "homework.py", "--hint", "toy.1").stdout
    assert first.count("Hint") == 1 and second == first + "Hint 2 of 2: The VJP is g y.\n"
    assert run(copy, "homework.py", "--hint", "toy.1").stdout == second
    assert "it has toy.1, toy.2" in run(copy, "homework.py", "--hint", "toy.9").stderr


def test_a_test_that_needs_an_earlier_hole_says_so(copy):
    file = copy / "minipeft/engine/ops.py"
    text = file.read_text()
    last = text.rindex("    # YOUR CODE HERE")
    end = text.index("\n", text.index("raise", last))
    file.write_text(text[:last] + "    return exp(x).data, (lambda g: g,)" + text[end:])
    assert "needs toy.1: the derivative" in run(copy, "homework.py", "toy.2").stdout


def test_an_error_is_told_with_its_line(copy):
    file = copy / "minipeft/engine/ops.py"
    file.write_text(file.read_text().replace("    # YOUR CODE HERE\n", "    x @ None\n"))
    told = run(copy, "homework.py", "toy.1").stdout
    assert "ValueError: matmul" in told and "(minipeft/engine/ops.py, line " in told


def test_an_error_is_told_where_a_hole_is_and_not_in_the_library(copy):
    file = copy / "minipeft/engine/ops.py"
    text = file.read_text()
    told = 'raise NotImplementedError("toy.1: the derivative of exp")'
    file.write_text(text.replace(told, "return y, (lambda g: None,)"))
    assert (
        "toy.1 exp_gradient:\n  RuntimeError: the VJP of 'exp'" in run(copy, "homework.py").stdout
    )
    file.write_text(text.replace(told, "return y @ y +, (lambda g: g * y,)"))
    assert "SyntaxError: invalid syntax (ops.py, line " in run(copy, "homework.py").stdout


def test_a_test_that_never_ends_is_stopped_and_says_where(copy):
    kit, file = copy / "homework.py", copy / "minipeft/engine/ops.py"
    kit.write_text(kit.read_text().replace("EACH = 30", "EACH = 1"))
    file.write_text(file.read_text().replace("    # YOUR CODE HERE", "    while True: pass", 1))
    done = run(copy, "homework.py")
    assert done.returncode and "Timeout" in done.stderr and "ops.py" in done.stderr


def test_pytest_runs_the_same_tests(copy):
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "toy.2")
    assert done.returncode == 1 and "2 failed, 1 deselected" in done.stdout


def test_one_goes_on_behind_the_reference(copy, capsys):
    """Its solution stands in a copy: the student's files keep their holes."""
    before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    told = value(capsys, "homework", "check", str(copy), "--reference", "toy.1")
    assert "ok     exp_gradient" in told["text"] and "open   sigmoid_value" in told["text"]
    assert not told["passed"]
    assert before == {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}


def test_work_is_never_written_over(student):
    before = (student / "README.md").read_bytes()
    with pytest.raises(FileExistsError, match="is there and not empty"):
        tree.write_student(TOY, student, {}, TOY.choices())
    assert (student / "README.md").read_bytes() == before


def test_a_folder_that_is_no_students_is_named(tmp_path):
    with pytest.raises(ValueError, match="no student's folder"):
        tree.public_tests(tmp_path)


def test_the_public_file_holds_no_place_of_this_machine(student):
    told = json.loads((student / "tests/public/homework.json").read_text())
    assert told["choices"] == {"sign": 1} and str(TOY.folder) not in json.dumps(told)
