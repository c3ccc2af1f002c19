"""The instructor's notebook: what nbgrader and otter look for, and cells that fill the holes."""

import ast
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minipeft.course.homework import bank, cut, kit, notebook
from minipeft.course.homework.assignment import assignments, load
from tests.clitools import value

TOY = load(Path(__file__).parent / "toy")
CHOICES = {"sign": 1}
STUB = "    raise NotImplementedError()"


def cells(file):
    return json.loads(file.read_text())["cells"]


def text(cell):
    return "".join(cell["source"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """tool -> the notebook that was written for it."""
    course = tmp_path_factory.mktemp("course")
    return {tool: notebook.write(TOY, course / tool, tool, "secret", CHOICES)[0]
            for tool in ("nbgrader", "otter")}  # fmt: skip


def check_nbgrader(cells):
    """Schema 3 of nbgrader, whose cells may hold nothing else."""
    marks = [cell["metadata"]["nbgrader"] for cell in cells if "nbgrader" in cell["metadata"]]
    ids = [mark["grade_id"] for mark in marks]
    assert len(set(ids)) == len(ids) and all(re.match(r"^[a-zA-Z0-9_\-]+$", i) for i in ids)
    for mark in marks:
        flags = {"grade", "solution", "locked", "task"}
        assert {f for f in mark if isinstance(mark[f], bool)} == flags and not mark["task"]
        assert set(mark) - flags - {"points"} == {"schema_version", "grade_id"}
        assert mark["schema_version"] == 3 and mark["grade"] == ("points" in mark)
        assert mark["locked"] != mark["solution"]
    return marks


def test_nbgrader_has_an_answer_and_two_tests_a_case(written):
    made = cells(written["nbgrader"])
    marks = check_nbgrader(made)
    assert [mark["grade_id"] for mark in marks if not mark["grade"]] == ["toy-start", "toy-1",
                                                                        "toy-2"]  # fmt: skip
    assert sum(mark.get("points", 0) for mark in marks) == TOY.points == 100
    told = json.loads(written["nbgrader"].read_text())
    assert told["metadata"]["kernelspec"]["language"] == "python" and told["nbformat_minor"] == 5
    assert len({cell["id"] for cell in made}) == len(made)
    hidden = [text(c) for c in made if "BEGIN HIDDEN TESTS" in text(c)]
    assert len(hidden) == 3 and all("homework.check" not in t.partition("### BEGIN")[0]
                                    for t in hidden)  # fmt: skip
    manual = made[-1]
    assert manual["cell_type"] == "markdown" and text(manual) == "YOUR ANSWER HERE"
    assert manual["metadata"]["nbgrader"]["points"] == 20


def test_solutions_stand_between_their_marks_alone(written):
    for file in written.values():
        made = [text(cell) for cell in cells(file) if cell["cell_type"] == "code"]
        answers = [t for t in made if "@fill" in t]
        assert len(answers) == 2 and sum("SOLUTION" in t for t in made) == 2
        for answer in answers:
            lines = [line.strip() for line in answer.splitlines()]
            begin, end = lines.index("# BEGIN SOLUTION"), lines.index("# END SOLUTION")
            assert sum("SOLUTION" in line for line in lines) == 2 and end == len(lines) - 1
            assert not any("lambda" in line for line in lines[:begin])
            assert any("lambda" in line for line in lines[begin:])
    assert "y = xp_of(x).exp(x)\n    # BEGIN" in answers[0]  # a statement that is kept


def test_otter_finds_its_blocks_and_one_function_a_test(written):
    made = cells(written["otter"])
    assert not any("nbgrader" in cell["metadata"] for cell in made)
    raw = [text(cell) for cell in made if cell["cell_type"] == "raw"]
    assert raw[0].startswith("# ASSIGNMENT CONFIG\n") and '"ok_format": false' in raw[0]
    starts = [re.match(r"# (BEGIN|END) (\w+)", t).groups() for t in raw[1:]]
    open_blocks = []
    for kind, block in starts:
        if kind == "BEGIN":
            open_blocks.append(block)
        else:
            assert open_blocks.pop() == block
    assert not open_blocks and starts.count(("BEGIN", "QUESTION")) == 3
    config = dict(line.partition(": ")[::2] for line in raw[0].splitlines()[1:])
    files, folder = json.loads(config["files"]), written["otter"].parent
    assert all((folder / file).is_file() for file in files) and "public/homework.json" in files
    assert not any(file.startswith(("hidden", "tests")) for file in files)
    assert "hidden/homework.json" in json.loads(config["autograder_files"])
    tests = [text(cell) for cell in made if "BEGIN TEST CONFIG" in text(cell)]
    assert len(tests) == 6 and sum("hidden: true" in t for t in tests) == 3
    names = [re.search(r"def (\w+)\(\):", t)[1] for t in tests]
    assert len(set(names)) == 6
    assert sum(float(re.search(r"points: (\S+)", t)[1]) for t in tests) == 80


def test_what_hidden_tests_want_is_not_released(written):
    course = written["nbgrader"].parents[2]
    released = [f for f in (course / "source").rglob("*") if f.is_file()]
    assert released and not any(b"secret" in f.read_bytes() for f in released)
    public = json.loads((written["nbgrader"].parent / "tests/public/homework.json").read_text())
    hidden = json.loads((course / "hidden/toy/homework.json").read_text())
    assert not {s for c in public["cases"] for s in c["seeds"]} & {
        s for c in hidden["cases"] for s in c["seeds"]
    }


def run_cells(folder, made, change=lambda t: t):
    """Run a notebook's code cells in its folder, as one script. Returns what it printed."""
    parts = []
    for cell in made:
        if cell["cell_type"] == "code":
            body = change(text(cell))
            parts.append(f"try:\n{textwrap.indent(body, '    ')}\n"
                         "except AssertionError:\n    print('FAILED')"
                         if "check(" in body else body)  # fmt: skip
    (folder / "cells.py").write_text("\n\n".join(parts))
    done = subprocess.run([sys.executable, "-B", "cells.py"], cwd=folder, capture_output=True,
                          text=True)  # fmt: skip
    (folder / "cells.py").unlink()
    assert not done.stderr
    return done.stdout


def stub(cell):
    return re.sub(r"    # BEGIN SOLUTION.*# END SOLUTION", STUB, cell, flags=re.S)


@pytest.mark.full
def test_cells_fill_the_files_from_top_to_bottom_again_and_again(written):
    folder = written["nbgrader"].parent
    made, file = cells(written["nbgrader"]), folder / "minipeft/engine/ops.py"
    empty = file.read_text()
    told = run_cells(folder, made, stub)
    assert told.count("has no code here") == 2 and told.count("FAILED") == 6
    assert file.read_text() == empty
    told = run_cells(folder, made)
    assert told.count("was written into") == 2 and "FAILED" not in told
    assert told.count("Public tests passed") == told.count("Hidden tests passed") == 3
    full = file.read_text()
    told = run_cells(folder, made, stub)  # what is in the file is not lost
    assert "FAILED" not in told and file.read_text() == full
    told = run_cells(folder, made)
    assert told.count("is as the file has it") == 2 and file.read_text() == full
    shapes = {ask.inputs["x"].shape for ask in bank.asks(TOY, bank.PUBLIC_SEEDS)
              if ask.case.name == "exp_gradient"}  # fmt: skip
    narrow = run_cells(folder, made, lambda t: t.replace(
        "lambda g: g * y,", f"lambda g: g * (y if y.shape in {shapes} else 2),"))  # fmt: skip
    assert narrow.count("FAILED") == 1 and narrow.count("Public tests passed for 40") == 1
    file.write_text(empty)


SOURCE = '''
class A:
    @property
    def f(self, x, *, n=1):
        """Words."""
        # x (B, T)
        # YOUR CODE HERE
        raise NotImplementedError("hw.1: it")

    def g(self):
        return 2

def outer(x):
    def vjp(g):
        # YOUR CODE HERE
        raise NotImplementedError("hw.2: it")
    return vjp
'''


TYPED = """@fill("hw.1")
def f(self, x: int, *, n=...):
    # why
    y = (x +
         n)  # (B,)

    return y
"""


def test_a_typed_body_goes_into_a_method():
    typed = TYPED
    made = kit.replaced(SOURCE, "A.f", typed)
    comments = "        # x (B, T)\n        # YOUR CODE HERE\n"
    raises = 'raise NotImplementedError("hw.1: it")'
    body = "        # why\n        y = (x +\n             n)  # (B,)\n\n        return y"
    assert made == SOURCE.replace(f"{comments}        {raises}", body) != SOURCE
    again = kit.replaced(made, "A.f", typed.replace("return y", "return 2 * y"))
    assert again == made.replace("return y", "return 2 * y")
    assert kit.replaced(made, "A.f", typed) == made


def test_a_typed_body_goes_into_an_inner_function():
    made = kit.replaced(SOURCE, "outer.vjp", "def vjp(g): return g * x\n")
    assert "    def vjp(g):\n        return g * x\n    return vjp" in made


def test_a_text_of_several_lines_stays_as_it_is():
    typed = 'def f(self, x, *, n):\n    return """a\n  b"""\n'
    made = kit.replaced(SOURCE, "A.f", typed)
    inside = {}
    exec(made.replace("@property", ""), inside)
    assert inside["A"]().f(1) == "a\n  b"


@pytest.mark.parametrize(
    "body",
    ["raise NotImplementedError()", "...", "pass", '"""Words."""', "raise NotImplementedError"],
)
def test_an_empty_body_is_none(body):
    assert kit.replaced(SOURCE, "A.g", f"def g(self):\n    # YOUR CODE HERE\n    {body}\n") == ""
    kept = f"def g(self):\n    return 2\n    {body}\n"
    assert body.startswith('"""') or kit.replaced(SOURCE, "A.g", kept) == ""


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match="A.f has the arguments self, x, n; got self, y, n"):
        kit.replaced(SOURCE, "A.f", "def f(self, y, n):\n    return y\n")
    with pytest.raises(ValueError, match="a function g was expected"):
        kit.replaced(SOURCE, "A.g", "def f(self):\n    return 1\n")


def test_nothing_is_overwritten(written, tmp_path):
    with pytest.raises(FileExistsError, match="source/toy is there"):
        notebook.write(TOY, written["nbgrader"].parents[2], "nbgrader", "s", CHOICES)
    with pytest.raises(FileExistsError, match="otter/toy is there"):
        notebook.write(TOY, written["otter"].parents[1], "otter", "s", CHOICES)


def test_words_that_the_tools_look_for_are_refused(monkeypatch):
    real = notebook.tree.handout
    monkeypatch.setattr(notebook.tree, "handout", lambda *a: real(*a).replace(
        "The sigmoid", "The # BEGIN SOLUTION"))  # fmt: skip
    with pytest.raises(ValueError, match="toy: the handout has words that nbgrader"):
        notebook.Nbgrader(TOY, CHOICES).text()


@pytest.mark.full
@pytest.mark.parametrize("homework", assignments(), ids=lambda a: a.name)
def test_every_assignment_becomes_a_notebook(homework):
    made = json.loads(notebook.Nbgrader(homework, homework.choices()).text())["cells"]
    marks = check_nbgrader(made)
    assert sum(mark.get("points", 0) for mark in marks) == 100
    answers = [text(cell) for cell in made if text(cell).count("@fill(")]
    assert len(answers) == len(homework.holes)
    for answer in answers:
        compile("from __future__ import annotations\n" + answer, "cell", "exec")


@pytest.mark.full
def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_HOMEWORK", str(TOY.folder.parent))
    monkeypatch.setattr(bank, "public", lambda *a: {"homework.json": b"{}"})
    line = ["homework", "notebook", "toy", str(tmp_path / "c"), "--for", "nbgrader"]
    told = value(capsys, *line, "--variant", "2")
    assert told["choices"] == CHOICES and Path(told["notebook"]).is_file()
    assert "nbgrader generate_assignment toy --create" in Path(told["told"]).read_text()


@pytest.mark.full
@pytest.mark.parametrize("homework", assignments(), ids=lambda a: a.name)
def test_each_answer_fills_its_hole(homework):
    """The reference's files come back, and of an empty cell nothing is taken."""
    made = notebook.Nbgrader(homework, homework.choices())
    for hole in homework.holes:
        answer, source = made.answer(hole), made.cut[hole.file]
        filled = kit.replaced(source, hole.function, answer)
        got, want = (ast.unparse(ast.parse(cut.text_of(text, hole.function)))
                     for text in (filled, made.sources[hole.file]))  # fmt: skip
        assert got == want, hole.id
        for empty in (STUB, "    ..."):
            region = r"    # BEGIN SOLUTION.*# END SOLUTION"
            assert (
                kit.replaced(source, hole.function, re.sub(region, empty, answer, flags=re.S)) == ""
            )
