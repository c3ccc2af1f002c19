"""A student's own engine passes the library's tests, and a wrong one does not."""

import ast
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minipeft.course.grading import grader as grading
from minipeft.course.homework import bank, own, tree
from minipeft.course.homework.assignment import assignments, load
from tests.clitools import fails, value

TOY = load(Path(__file__).parent / "toy")
ENGINE = Path(__file__).parent / "engine"
CHOICES = TOY.choices()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    where = tmp_path_factory.mktemp("own") / "toy"
    own.write(TOY, where, bank.public(TOY, CHOICES), CHOICES)
    return where


@pytest.fixture(scope="module")
def made():
    return bank.make(TOY, "secret", CHOICES, own=True)


def solve(where, name):
    """Put the engine of the folder `engine` into a student's folder, with the adapters of one."""
    shutil.copy(ENGINE / "tape.py", where)
    shutil.copy(ENGINE / f"{name}.py", where / "adapters.py")
    return where


@pytest.fixture
def solved(empty, tmp_path):
    return solve(Path(shutil.copytree(empty, tmp_path / "toy")), "toy")


def spoil(where, old, new, name="tape.py"):
    text = (where / name).read_text()
    assert text.count(old) == 1
    (where / name).write_text(text.replace(old, new))


def check(where):
    return subprocess.run([sys.executable, "-B", "homework.py"], cwd=where, capture_output=True,
                          text=True)  # fmt: skip


def test_the_tree_has_no_library_and_everything_is_open(empty):
    files = {f.relative_to(empty).as_posix() for f in empty.rglob("*") if f.is_file()}
    assert {"adapters.py", "homework.py", "handout.ipynb", "README.md", "pyproject.toml"} < files
    assert not any(name.startswith("minipeft") for name in files)
    text = (empty / "adapters.py").read_text()
    assert "import" not in text and "def run(" not in text
    assert "    y = exp(x), and gx for the cotangent g." in text.replace('"""', "")
    told = check(empty)
    assert told.stdout.count("open ") == 3 and "WRONG" not in told.stdout and told.returncode == 1


def test_an_own_engine_passes(solved, made):
    told = check(solved)
    assert told.returncode == 0 and "passed for 80 of 80 points" in told.stdout
    report = grading.grade(made, solved, "ann")
    assert (report.score, report.most, report.notes) == (80, 80, ())


def test_a_wrong_one_is_told_its_mistake(solved, made):
    spoil(solved, "(self, lambda g: g * y))", "(self, lambda g: y + 0 * g))")
    told = check(solved)
    assert "WRONG  exp_gradient" in told.stdout and "ok     sigmoid_value" in told.stdout
    assert "The cotangent g is missing." in told.stdout
    report = grading.grade(made, solved, "ann")
    assert report.by_hole()["toy.1"] == (0, 40) and report.by_hole()["toy.2"][0] == 20


@pytest.mark.full
def test_a_page_of_numpy_passes_homework_1(tmp_path):
    """Its adapters say all in arrays: nothing of the library is needed to answer them."""
    homework = load("hw1")
    quick = tuple(replace(hole, mistakes=()) for hole in homework.holes)
    homework, choices = replace(homework, holes=quick), homework.choices()
    where = tmp_path / "hw1"
    own.write(homework, where, {}, choices)
    made = bank.make(homework, "secret", choices, own=True)
    report = grading.grade(made, solve(where, "hw1"), "ann")
    assert [r for r in report.results if not r.passed] == [] and report.score == report.most == 80
    spoil(where, "g.sum(axis=tuple(range(g.ndim - len(shape))))", "g.reshape(-1, *shape)[0]")
    report = grading.grade(made, where, "ann")
    assert report.by_hole()["hw1.1"][0] < 12 and report.by_hole()["hw1.2"] == (12, 12)


def test_what_passes_the_public_tests_alone_loses_the_hidden_ones(solved, made):
    shapes = {ask.inputs["x"].shape for ask in bank.asks(TOY, [
        *bank.PUBLIC_SEEDS, *(f"secret/visible/{i}" for i in range(2))])}  # fmt: skip
    spoil(solved, "(self, lambda g: g * y))", f"(self, lambda g: g * y * (y.shape in {shapes})))")
    assert check(solved).returncode == 0
    report = grading.grade(made, solved, "ann")
    missed = [r.case for r in report.results if not r.passed]
    assert missed and all(not r.visible for r in report.results if not r.passed)


def test_the_library_is_not_taken(solved, made):
    """Neither the folder of it that was handed in, nor the one that is installed here."""
    shutil.copytree(Path(tree.CHECKOUT) / "minipeft" / "engine", solved / "minipeft" / "engine")
    shutil.copy(TOY.folder / "adapters.py", solved)
    report = grading.grade(made, solved, "ann")
    assert report.score == 0 and "minipeft/ was not taken" in report.notes[0]
    assert all("minipeft" in r.message for r in report.results)


def test_folders_inside_and_files_that_are_too_many(solved, made, monkeypatch):
    (solved / "parts").mkdir()
    (solved / "tape.py").rename(solved / "parts" / "tape.py")
    spoil(solved, "from tape", "from parts.tape", "adapters.py")
    assert grading.grade(made, solved.parent, "ann").score == 80
    monkeypatch.setattr(own, "FILES", 2)
    files, notes = own.all_of(TOY, solved)
    assert len(files) == 2 and "at most 2 files" in notes[0]


def test_without_adapters_there_are_no_points(tmp_path, made):
    (tmp_path / "tape.py").write_text("")
    report = grading.grade(made, tmp_path, "ann")
    assert report.score == 0 and report.notes == ("adapters.py was not handed in",)
    assert {r.message for r in report.results} == {grading.NOT_DONE}


def test_a_bank_that_was_saved_knows_it(made, tmp_path):
    made.save(tmp_path / "bank")
    back = bank.Bank.load(TOY, tmp_path / "bank")
    assert back.own and back.digest == made.digest
    assert not bank.make(TOY, "secret", CHOICES).own


@pytest.mark.full
@pytest.mark.parametrize("homework", assignments(), ids=lambda a: a.name)
def test_every_assignment_can_be_brought_an_engine(homework):
    sources = tree.reference(homework, homework.choices())
    text = own.stubs(homework, sources)["adapters.py"]
    functions = {f.name: f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
    before = {f.name: f for f in ast.parse(sources["adapters.py"]).body
              if isinstance(f, ast.FunctionDef)}  # fmt: skip
    assert list(functions) == [case.name for _, case in homework.cases()]
    for name, function in functions.items():
        assert ast.get_docstring(function) == ast.get_docstring(before[name]) is not None
        assert ast.unparse(function.args) == ast.unparse(before[name].args)
    assert not any(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.walk(ast.parse(text)))


@pytest.mark.full
def test_the_commands(capsys, tmp_path, monkeypatch, solved):
    monkeypatch.setenv("MINIPEFT_HOMEWORK", str(TOY.folder.parent))
    told = value(capsys, "homework", "new", "toy", str(tmp_path / "new"), "--own")
    assert (tmp_path / "new" / "adapters.py").is_file() and told["files"] < 15
    line = ["homework", "grade", "toy", str(solved), "--seed", "secret"]
    assert value(capsys, *line, "--own")["score"] == 80
    said = fails(capsys, 1, "homework", "check", str(solved), "--reference", "toy.1")
    assert "minipeft/engine/ops.py, where the reference" in said
