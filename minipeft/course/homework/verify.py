"""Proves that an assignment fits: what it cuts, what it tests, what it says."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path

from minipeft.course.homework import bank, cut, kit, tree
from minipeft.course.homework.assignment import Assignment, Hole

HOLES, LINES, HOURS = 6, 80, (2, 6)  # most holes, most lines to write, hours
MISTAKES, HINTS = 4, 2  # least of each hole
Found = Iterator[str]

IMPORTS = """
import importlib, pathlib, sys
here = pathlib.Path(sys.argv[1]); sys.path.insert(0, sys.argv[1])
for file in sorted(here.joinpath("minipeft").rglob("*.py")):
    parts = file.relative_to(here).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
import adapters, homework
"""


def verify(
    homework: Assignment, say: Callable[[str], object] = print, long: bool = False
) -> list[str]:
    """What is wrong with an assignment, a line each; [] if nothing is.

    say   is told each check as it begins
    long  try the usual mistakes under every set of conventions, not only under the library's own
    """
    problems: list[str] = []
    for name, check in (CHECKS | LONG if long else CHECKS).items():
        say(f"{homework.name}  {name}")
        try:
            problems += [f"{homework.name}: {text}" for text in check(homework)]
        except Exception as error:
            problems.append(f"{homework.name}: {name}: {type(error).__name__}: {error}")
    return problems


def _sizes(homework: Assignment) -> Found:
    """Points, holes, lines, hours."""
    if homework.points != 100:
        yield f"its points add to {homework.points:g}, not 100"
    if not 0 < len(homework.holes) <= HOLES:
        yield f"it has {len(homework.holes)} holes; 1 to {HOLES} are wanted"
    low, high = homework.hours
    if not HOURS[0] <= low <= high <= HOURS[1]:
        yield f"hours are {low:g} to {high:g}; they lie in {HOURS[0]} to {HOURS[1]}"
    sources = tree.reference(homework)
    lines = {h.id: lines_of(sources[h.file], h) for h in homework.holes}
    if sum(lines.values()) > LINES:
        yield f"{sum(lines.values())} lines are to be written, at most {LINES}: {lines}"
    for hole in homework.holes:
        if len(hole.hints) < HINTS:
            yield f"{hole.id} has {len(hole.hints)} hints, at least {HINTS} are wanted"
    names = [case.name for _, case in homework.cases()]
    if len(set(names)) < len(names):
        yield f"two cases have one name: {', '.join(names)}"


def lines_of(source: str, hole: Hole) -> int:
    """Lines of code that a solution has."""
    body = cut.body_of(source, hole.function, hole.keep).splitlines()
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in body)


def _words(homework: Assignment) -> Found:
    """The handout names each hole and question, the rubric each question."""
    notebook = json.loads((homework.folder / "handout.ipynb").read_text(encoding="utf-8"))
    marks = [cell["metadata"].get("homework", {}) for cell in notebook["cells"]]
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    for hole in homework.holes:
        if {"hole": hole.id} not in marks or f'check("{hole.id}")' not in text:
            yield f'the handout has no cell check("{hole.id}") with its metadata'
    for question in homework.questions:
        if {"question": question.id} not in marks:
            yield f"the handout has no answer cell of {question.id}"
    for name in set(re.findall(r"\{\{(\w+)\}\}", text)) ^ set(homework.variants):
        yield f"{{{{{name}}}}} stands in the handout or among the variants, not in both"
    if re.search(r"(BEGIN|END) (SOLUTION|HIDDEN)", text):
        yield "the handout has words that nbgrader and otter look for"
    ids = [cell.get("id") for cell in notebook["cells"]]
    if None in ids or len(set(ids)) < len(ids):
        yield "a cell of the handout has no id, or another's"
    if any(cell.get("outputs") for cell in notebook["cells"]):
        yield "the handout has outputs"
    rubric = homework.folder / "instructor" / "rubric.md"
    told = rubric.read_text(encoding="utf-8") if rubric.is_file() else ""
    yield from (f"{rubric.name} says nothing of {q.id}" for q in homework.questions
                if q.id not in told)  # fmt: skip


def _tree(homework: Assignment) -> Found:
    """The student's tree imports, has no solution in it, and its kit says "open" everywhere."""
    choices = homework.choices()
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / homework.name
        tree.write_student(homework, where, bank.public(homework, choices), choices)
        yield from left_over(homework, where)
        done = run_in(where, "-c", IMPORTS, str(where))
        if done.returncode:
            yield f"the cut tree does not import: {done.stderr.strip().splitlines()[-1]}"
        told = run_in(where, "homework.py").stdout
        for _, case in homework.cases():
            if not re.search(rf"^ +open +{case.name}$", told, re.M):
                yield f"{case.name} is not open on the cut tree"
        tree.refill(homework, where, [hole.id for hole in homework.holes])
        done = run_in(where, "homework.py")
        if done.returncode:
            yield f"the solved tree fails its public tests:\n{done.stdout}{done.stderr}"


def run_in(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a student's tree, where it leaves no bytecode."""
    return subprocess.run([sys.executable, "-B", *arguments], cwd=where, capture_output=True,
                          text=True, encoding="utf-8")  # fmt: skip


def left_over(homework: Assignment, where: Path) -> Found:
    """Statements and lines of solutions that a student's tree still holds."""
    sources = tree.reference(homework, homework.choices())
    bodies = {h.id: cut.body_of(sources[h.file], h.function, h.keep) for h in homework.holes}
    wanted = {id: cut.statements(body) for id, body in bodies.items()}
    lines = {id: {line.strip() for line in body.splitlines()
                  if len(line.strip()) >= 30 and not line.strip().startswith(("#", "def "))}
             for id, body in bodies.items()}  # fmt: skip
    for file in sorted(f for f in where.rglob("*") if f.is_file()):
        name = file.relative_to(where).as_posix()
        if file.suffix in (".pyc", ".pyo") or ".git" in file.relative_to(where).parts:
            yield f"{name} is in the student's tree"
        text = file.read_bytes().decode("utf-8", errors="replace")
        there = set()
        if file.suffix == ".py":
            there = {ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.stmt)}
        for id in wanted:
            for found in wanted[id] & there or {x for x in lines[id] if x in text}:
                yield f"{name} holds a line of the solution of {id}: {textwrap.shorten(found, 70)}"


def _prefixes(homework: Assignment) -> Found:
    """Each hole raises its own name, and with holes 1 to k solved, their tests pass."""
    asked = bank.asks(homework, bank.PUBLIC_SEEDS)
    sources = tree.reference(homework, homework.choices())
    want = bank.answers(sources, asked)
    for k in range(len(homework.holes)):
        got = bank.answers(tree.holed(sources, homework.holes[k:]), asked)
        solved = {hole.id for hole in homework.holes[:k]}
        for ask, a, b in zip(asked, got, want, strict=True):
            where = f"{ask.name}, with {k} holes solved,"
            if isinstance(b, str):
                yield f"the reference fails {where} {b}"
            elif ask.hole.id in solved and isinstance(a, str):
                yield f"{where} fails: {a}"
            elif ask.hole.id in solved and kit.compare(a, b, ask.case.tol):
                yield f"{where} is wrong: {kit.compare(a, b, ask.case.tol)}"
            elif ask.hole.id not in solved and not isinstance(a, str):
                yield f"{where} passes without its own hole"
            elif ask.hole is homework.holes[k] and f"NotImplementedError: {ask.hole.id}: " not in a:
                yield f"{where} does not raise the hole's own name: {a}"


def _mistakes(homework: Assignment) -> Found:
    """Each usual mistake is caught, by its own message; the wanted results differ by seed."""
    return _mistakes_under(homework, homework.choices())


def _everywhere(homework: Assignment) -> Found:
    """The same under every other set of conventions."""
    for drawn in list(product(*(range(len(v)) for v in homework.variants.values())))[1:]:
        choices = dict(zip(homework.variants, drawn, strict=True))
        yield from (f"under {choices}: {text}" for text in _mistakes_under(homework, choices))


def _mistakes_under(homework: Assignment, choices: Mapping[str, int]) -> Found:
    found = bank.known(homework, choices, bank.asks(homework, bank.PUBLIC_SEEDS))
    for hole in homework.holes:
        mine = [one for one in found if one.ask.hole is hole]
        usual = [m.message for m in hole.mistakes if m.fits(choices)]
        if len(set(usual)) < MISTAKES:
            yield f"{hole.id} has {len(set(usual))} mistakes, at least {MISTAKES} are wanted"
        for message in usual:
            said = {kit.compare(dict(one.mistakes)[message], one.want, one.ask.case.tol,
                                list(one.mistakes))
                    for one in mine if message in dict(one.mistakes)}  # fmt: skip
            if not said:
                yield f"{hole.id}: this mistake raises in every test: {message}"
            elif message not in said:
                yield f"{hole.id}: this mistake is told by {said or 'nothing'}: {message}"
    for one in found:
        others = [x for x in found if x.ask.case is one.ask.case and x is not one]
        if any(kit.compare(x.want, one.want, one.ask.case.tol) == "" for x in others):
            yield f"{one.ask.case.name} gives the same for two seeds"


def _variants(homework: Assignment) -> Found:
    """Each convention gives its own right answers, on edge sizes too, and can be cut."""
    asked = bank.asks(homework, [*bank.PUBLIC_SEEDS, f"{bank.EDGE}/1"])
    plain = bank.answers(tree.reference(homework), asked)
    yield from (f"{a.name} on the smallest sizes: {x}" for a, x in _failed(asked, plain))
    for name, made in homework.variants.items():
        for i in range(1, len(made)):
            choices = {**homework.choices(), name: i}
            sources = tree.reference(homework, choices)
            tree.holed(sources, homework.holes)
            got = bank.answers(sources, asked)
            for ask, text in _failed(asked, got):
                yield f"variant {name} {i}: {ask.name}: {text}"
            if not any(kit.compare(a, b) for a, b in zip(got, plain, strict=True)
                       if isinstance(b, dict)):  # fmt: skip
                yield f"variant {name} {i} changes no right answer"
            for hole in homework.holes:
                usual = [m for m in hole.mistakes if m.fits(choices)]
                for mistake in usual:
                    tree.mistaken(sources, hole, mistake)
                if len({m.message for m in usual}) < MISTAKES:
                    yield f"variant {name} {i}: {hole.id} has fewer than {MISTAKES} mistakes"


def _failed(asked: list[bank.Ask], got: list[bank.Values | str]) -> Iterator[tuple[bank.Ask, str]]:
    return ((ask, text) for ask, text in zip(asked, got, strict=True) if isinstance(text, str))


CHECKS: dict[str, Callable[[Assignment], Found]] = {
    "points, holes, lines to write": _sizes,
    "the handout and the rubric": _words,
    "the student's tree": _tree,
    "holes 1 to k": _prefixes,
    "the usual mistakes": _mistakes,
    "variants and the smallest sizes": _variants,
}
LONG: dict[str, Callable[[Assignment], Found]] = {
    "the usual mistakes under every convention": _everywhere
}
