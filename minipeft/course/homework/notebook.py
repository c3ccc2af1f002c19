"""The handout as an instructor's notebook, from which nbgrader or otter makes a release.

Before the tests of each hole stands a cell with the hole's function. The kit's decorator `fill`
puts what is typed there into the hole's file, so the tests, which read the files, see it. Each case
has a visible test and a hidden one, half of its points each, as `grade` has it. What the hidden
tests want lies in a folder that is not released.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minipeft.course.homework import bank, cut, tree
from minipeft.course.homework.assignment import Assignment, Case, Hole, Question

NOTEBOOK = "handout.ipynb"
HIDDEN = "hidden"  # the folder of what hidden tests want
LEFT_OUT = ("README.md", ".gitignore", "pyproject.toml", f"{tree.TESTED}/test_homework.py")
MARKS = re.compile(r"(BEGIN|END) (SOLUTION|HIDDEN|MARK|PROMPT|TEST|QUESTION)|# ?SOLUTION|AUTOTEST")
Cell = dict[str, Any]
Cells = Iterator[Cell]

START = """\
from __future__ import annotations

from homework import check, fill, hint
"""
FIRST = """\
## Where you write

You write each function in the cell above its tests. When you run such a cell, `@fill` puts the
function into its file, and `check` tests the files. An empty cell changes no file. Your answers in
this notebook are what is graded, so a function that you wrote in its file has to be in its cell
too. `hint("{first}")` prints a hint; the next call prints the next one.
"""
NBGRADER = """\
nbgrader releases `source/{name}`, without the solutions and the hidden tests of its notebook. Those
read what is right from this folder, `hidden/{name}`: keep it beside `source` where you grade.

    nbgrader generate_assignment {name} --create
    nbgrader autograde {name} --create
    nbgrader generate_feedback {name}
"""
OTTER = """\
    otter assign {name}/handout.ipynb dist
    otter run -a dist/autograder/ZIP SUBMISSION/handout.ipynb

Give out dist/student. What is right in the hidden tests is in `{name}/hidden`, and goes into
dist/autograder alone, whose zip is for Gradescope.
"""
BOTH = """
The tool runs a student's code as you, in reach of what is right, and a student's cell can change
what a later one does. `minipeft homework grade` runs the same tests on a student's files in a
process that knows no answers. Written questions are graded by hand.
"""


def write(
    homework: Assignment, where: str | Path, tool: str, seed: str, choices: Mapping[str, int]
) -> tuple[Path, Path]:
    """Write an instructor's notebook and the files that it needs; for nbgrader, into a course.

    tool     "nbgrader" or "otter"
    seed     the instructor's secret, from which hidden inputs are drawn
    Returns  the notebook, and the file that says what to do with it
    Raises   FileExistsError if the assignment is there already
    """
    course, name = Path(where), homework.name
    folder = course / "source" / name if tool == "nbgrader" else course / name
    hidden = course / HIDDEN / name if tool == "nbgrader" else folder / HIDDEN
    there = [place for place in (folder, hidden) if place.exists()]
    if there:
        raise FileExistsError(f"{there[0]} is there: remove it, or name another folder")
    tree.write_student(homework, folder, bank.public(homework, choices), choices)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for file in LEFT_OUT:
        (folder / file).unlink()
    if tool == "otter":
        (folder / "tests" / "public").rename(folder / "public")  # otter has tests of its own
        (folder / "tests").rmdir()
    hidden.mkdir(parents=True)
    seeds = [*(f"{seed}/hidden/{i}" for i in range(3)), f"{bank.EDGE}/{seed}"]
    for file, data in bank.public(homework, choices, seeds).items():
        (hidden / file).write_bytes(data)
    readme = ((NBGRADER if tool == "nbgrader" else OTTER) + BOTH).format(name=name)
    told = (hidden if tool == "nbgrader" else course) / f"{name}.md"
    files = [f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file()]
    made = Nbgrader(homework, choices)
    if tool == "otter":
        made = Otter(homework, choices, files, project["dependencies"])
    for path, text in ((folder / NOTEBOOK, made.text()), (told, readme)):
        path.write_text(text, encoding="utf-8", newline="\n")
    return folder / NOTEBOOK, told


class Nbgrader:
    """Makes the notebook with nbgrader's metadata, version 3."""

    def __init__(self, homework: Assignment, choices: Mapping[str, int]) -> None:
        self.homework, self.choices = homework, choices
        self.sources = tree.reference(homework, choices)
        self.cut = tree.holed(self.sources, homework.holes)

    def text(self) -> str:
        """Raises  ValueError if words that the tools look for stand in the handout"""
        notebook = json.loads(tree.handout(self.homework, self.choices))
        holes = {hole.id: hole for hole in self.homework.holes}
        questions = {question.id: question for question in self.homework.questions}
        cells: list[Cell] = []
        for cell in notebook["cells"]:
            mark, source = cell["metadata"].get("homework", {}), "".join(cell["source"])
            if MARKS.search(source):
                raise ValueError(f"{self.homework.name}: the handout has words that nbgrader and "
                                 f"otter look for: {MARKS.search(source)}")  # fmt: skip
            if mark.get("hole") in holes:
                cells += self.hole(holes[mark["hole"]], mark)
            elif mark.get("question") in questions:
                cells += self.question(questions[mark["question"]], mark)
            elif cell["cell_type"] == "code" and source.startswith("from homework import"):
                cells += self.start()
            else:
                cells.append({**cell, "source": source})
        for i, cell in enumerate(cells):
            cell["id"] = f"cell-{i}"
            cell["source"] = cell["source"].splitlines(keepends=True)
        notebook |= {"cells": cells, "nbformat": 4, "nbformat_minor": 5}
        notebook["metadata"].setdefault("kernelspec", {}).update(
            name="python3", display_name="Python 3", language="python"
        )
        return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"

    def start(self) -> Cells:
        first = FIRST.format(first=self.homework.holes[0].id)
        yield markdown(first)
        yield code(START.rstrip(), nbgrader(f"{self.homework.name}-start", locked=True))

    def hole(self, hole: Hole, mark: Any) -> Cells:
        name = plain(hole.id)
        yield code(self.answer(hole), nbgrader(name, solution=True))
        for case in hole.cases:
            half, title = case.points / 2, f"{name}-{case.name}"
            yield code(
                f'check("{hole.id}", "{case.name}")',
                {"homework": mark, **nbgrader(title, grade=True, locked=True, points=half)},
            )
            yield code(
                f"# Hidden tests of {case.name} on other inputs run when this is graded.\n"
                "### BEGIN HIDDEN TESTS\n"
                + hidden(hole, case, f"{HIDDEN}/{self.homework.name}")
                + "\n### END HIDDEN TESTS",
                nbgrader(f"{title}-hidden", grade=True, locked=True, points=half),
            )  # fmt: skip

    def question(self, question: Question, mark: Any) -> Cells:
        yield markdown("YOUR ANSWER HERE", {
            "homework": mark,
            **nbgrader(plain(question.id), grade=True, solution=True, points=question.points),
        })  # fmt: skip

    def answer(self, hole: Hole) -> str:
        """The hole's function, with the reference's body between the marks of a solution."""
        stub = cut.text_of(self.cut[hole.file], hole.function).splitlines()
        head = stub[: stub.index(next(line for line in stub if line.strip() == cut.HERE))]
        first = next(i for i, line in enumerate(head) if line.startswith(("def ", "async def ")))
        body = cut.body_of(self.sources[hole.file], hole.function, hole.keep)
        if MARKS.search("\n".join(head) + body):
            raise ValueError(f"{hole.at} has words that nbgrader and otter look for")
        lines = ["# BEGIN SOLUTION", *body.rstrip().splitlines(), "# END SOLUTION"]
        return "\n".join([
            f"# {hole.function} of {hole.file}", f'@fill("{hole.id}")', *head[first:],
            *(f"    {line}" if line else "" for line in lines),
        ])  # fmt: skip


class Otter(Nbgrader):
    """Makes the notebook with otter's raw cells."""

    def __init__(
        self, homework: Assignment, choices: Mapping[str, int], files: list[str], needs: list[str]
    ) -> None:
        super().__init__(homework, choices)
        self.needs = needs
        self.files = [f for f in files if f != NOTEBOOK and not f.startswith(f"{HIDDEN}/")]
        self.hidden = [f for f in files if f.startswith(f"{HIDDEN}/")]

    def start(self) -> Cells:
        config = {
            "name": self.homework.name,
            "requirements": self.needs,
            "tests": {"ok_format": False},
            "files": self.files,
            "autograder_files": self.hidden,
            "export_cell": {"pdf": False, "files": sorted({h.file for h in self.homework.holes})},
        }
        yield raw("# ASSIGNMENT CONFIG", config)
        for cell in super().start():
            yield {**cell, "metadata": {}}

    def hole(self, hole: Hole, mark: Any) -> Cells:
        yield raw("# BEGIN QUESTION", {"name": plain(hole.id)})
        yield raw("# BEGIN SOLUTION")
        yield code(self.answer(hole), {"homework": mark})
        yield raw("# END SOLUTION")
        yield raw("# BEGIN TESTS")
        for case in hole.cases:
            visible = f'import homework\nhomework.check("{hole.id}", "{case.name}")'
            for kind, body in (("visible", visible), (HIDDEN, hidden(hole, case, HIDDEN))):
                yield code("\n".join([
                    '""" # BEGIN TEST CONFIG', f"points: {case.points / 2}",
                    f"hidden: {str(kind == HIDDEN).lower()}", '""" # END TEST CONFIG',
                    f"def test_{case.name}_{kind}():",
                    *(f"    {line}" for line in body.splitlines()),
                ]))  # fmt: skip
        yield raw("# END TESTS")
        yield raw("# END QUESTION")

    def question(self, question: Question, mark: Any) -> Cells:
        told = {"name": plain(question.id), "manual": True, "points": question.points}
        yield raw("# BEGIN QUESTION", told)
        yield markdown(f"*{question.title}*")
        yield raw("# BEGIN PROMPT")
        yield markdown("YOUR ANSWER HERE", {"homework": mark})
        yield raw("# END PROMPT")
        yield raw("# BEGIN SOLUTION")
        yield markdown("The rubric has the answer.")
        yield raw("# END SOLUTION")
        yield raw("# END QUESTION")


def hidden(hole: Hole, case: Case, folder: str) -> str:
    """The code of a hidden test: the kit as its file has it, not what a cell made of `check`."""
    call = f'check("{hole.id}", "{case.name}", "{folder}")'
    return f"import importlib\nimport homework\nimportlib.reload(homework).{call}"


def plain(id: str) -> str:
    """An id as nbgrader and otter take it."""
    return re.sub(r"[^\w-]", "-", id)


def nbgrader(
    grade_id: str, grade: bool = False, solution: bool = False, locked: bool = False,
    points: float | None = None,
) -> Cell:  # fmt: skip
    """The metadata of a cell; its checksum is written by generate_assignment."""
    told = {"schema_version": 3, "grade": grade, "solution": solution, "locked": locked,
            "task": False, "grade_id": grade_id}  # fmt: skip
    return {"nbgrader": told if points is None else {**told, "points": points}}


def code(source: str, metadata: Any = None) -> Cell:
    """A code cell."""
    return {"cell_type": "code", "execution_count": None, "metadata": metadata or {},
            "outputs": [], "source": source}  # fmt: skip


def markdown(source: str, metadata: Any = None) -> Cell:
    """A cell of text."""
    return {"cell_type": "markdown", "metadata": metadata or {}, "source": source}


def raw(first: str, config: Mapping[str, Any] | None = None) -> Cell:
    """A cell of otter's; JSON is YAML too."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in (config or {}).items()]
    return {"cell_type": "raw", "metadata": {}, "source": "\n".join([first, *lines])}
