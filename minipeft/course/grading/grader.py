"""Grades one submission: its functions, in a process that knows nothing, against the bank."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minipeft.course.grading.sandbox import Child, Failed, Limits, protections
from minipeft.course.homework import kit, tree
from minipeft.course.homework.assignment import Assignment, Case, Hole
from minipeft.course.homework.bank import Bank, Known
from minipeft.course.homework.own import LARGEST, all_of

VISIBLE = 0.5  # the share of a case's points that its visible test gives
NOT_DONE = "not written yet"


@dataclass(frozen=True)
class Result:
    """One test: a case on the visible seeds, or on the hidden ones and the smallest sizes."""

    hole: str
    case: str
    visible: bool
    points: float
    most: float
    passed: bool
    message: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What a submission got, and why.

    notes    what was odd about its files
    missing  protections that this machine lacks, each with its reason
    written  the answers to the written questions, which a person grades
    digest   of all that the report depends on
    """

    assignment: str
    who: str
    results: tuple[Result, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...]
    written: Mapping[str, str]
    digest: str
    seconds: float

    @property
    def score(self) -> float:
        return sum(r.points for r in self.results)

    @property
    def most(self) -> float:
        return sum(r.most for r in self.results)

    def by_hole(self) -> dict[str, tuple[float, float]]:
        """Points and most points of each hole."""
        found: dict[str, tuple[float, float]] = {}
        for r in self.results:
            points, most = found.get(r.hole, (0.0, 0.0))
            found[r.hole] = points + r.points, most + r.most
        return found

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Report:
        """Raises  ValueError if it is no report"""
        try:
            told = json.loads(text)
            results = tuple(Result(**one) for one in told.pop("results"))
            told |= {"results": results, "notes": tuple(told["notes"])}
            return Report(**{**told, "missing": tuple(told["missing"])})
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no report of a grading: {error}") from error


def grade(
    bank: Bank, submission: str | Path, who: str, limits: Limits | None = None,
    seen: Callable[[Sequence[Result]], object] = lambda results: None,
) -> Report:  # fmt: skip
    """Grade a folder that a student handed in.

    Only the files with holes are taken from it, and the handout's written answers; all else is
    the class's own. Of an engine of the student's own all files are taken.

    seen  is told the results so far, after each hole
    """
    began, limits = time.monotonic(), limits or Limits()
    homework = bank.homework
    files, notes = (all_of if bank.own else gather)(homework, Path(submission))
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        tree.write(bank.sources, Path(folder))
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        with Child(folder, limits) as child:
            for hole in homework.holes:
                results += _hole(child, bank, hole)
                seen(results)
    return Report(
        homework.name, who, tuple(results), tuple(notes),
        tuple(f"{name}: {why}" for name, why in protections().items() if why),
        written(homework, Path(submission)), digest(bank, files, limits),
        round(time.monotonic() - began, 2),
    )  # fmt: skip


def ungraded(bank: Bank, who: str, why: str) -> Report:
    """A report in which every test failed before it ran."""
    results = [Result(hole.id, case.name, visible, 0.0, _most(case, visible), False, why, 0.0)
               for hole, case in bank.homework.cases() for visible in (True, False)]  # fmt: skip
    return Report(bank.homework.name, who, tuple(results), (), (), {}, "", 0.0)


def _most(case: Case, visible: bool) -> float:
    return case.points * (VISIBLE if visible else 1 - VISIBLE)


def _hole(child: Child, bank: Bank, hole: Hole) -> list[Result]:
    """The results of a hole; after one call that took too long its others are not tried."""
    results, slow = [], ""
    for case in hole.cases:
        for visible, known in ((True, bank.visible), (False, bank.hidden)):
            began = time.monotonic()
            asked = [one for one in known if one.ask.case is case]
            message = slow or _first(child, case, asked)
            if message.startswith("time: "):
                slow = f"not tried: {case.name} took too long"
            most = _most(case, visible)
            points = 0.0 if message else most
            seconds = round(time.monotonic() - began, 3)
            results.append(
                Result(hole.id, case.name, visible, points, most, not message, message, seconds)
            )
    return results


def _first(child: Child, case: Case, asked: Sequence[Known]) -> str:
    """The message of the first call that fails, or ""."""
    for known in asked:
        try:
            got = child.call(case.name, known.ask.inputs)
        except Failed as failed:
            own = failed.kind == "not done" and failed.text.startswith(known.ask.hole.id)
            return NOT_DONE if own else f"{failed.kind}: {failed.text}"
        if message := kit.compare(got, known.want, case.tol, list(known.mistakes)):
            return message
    return ""


# -- what was handed in ---------------------------------------------------------------------------


def gather(homework: Assignment, submission: Path) -> tuple[dict[str, bytes], list[str]]:
    """The files with holes, wherever below the folder they lie, and notes on what is odd."""
    files, notes = {}, []
    there = [f for f in sorted(submission.rglob("*.py")) if f.is_file() and not f.is_symlink()]
    for name in sorted({hole.file for hole in homework.holes}):
        found = [f for f in there if f.relative_to(submission).as_posix() == name
                 or f.relative_to(submission).as_posix().endswith(f"/{name}")]  # fmt: skip
        shortest = min(found, key=lambda f: len(f.parts), default=None)
        if shortest is None:
            notes.append(f"{name} was not handed in")
        elif shortest.stat().st_size > LARGEST:
            notes.append(f"{name} has more than {LARGEST >> 20} MB and was not taken")
        else:
            files[name] = shortest.read_bytes()
            if len(found) > 1:
                notes.append(f"{len(found)} files are named {name}: {shortest} was taken")
    return files, notes


def digest(bank: Bank, files: Mapping[str, bytes], limits: Limits) -> str:
    """Changes with the bank, the limits and every byte that is graded."""
    made = hashlib.sha256(f"{bank.digest} {limits}".encode())
    for name in sorted(files):
        made.update(f"{name} {len(files[name])} ".encode() + files[name])
    return made.hexdigest()[:16]


def written(homework: Assignment, submission: Path) -> dict[str, str]:
    """The answers to the written questions in a handed-in handout.ipynb; "" where there is none."""
    found = {question.id: "" for question in homework.questions}
    for file in sorted(submission.rglob("handout.ipynb")):
        if file.is_symlink() or file.stat().st_size > LARGEST:
            continue
        try:
            cells: Any = json.loads(file.read_text(encoding="utf-8"))["cells"]
            for cell in cells:
                id = cell["metadata"].get("homework", {}).get("question")
                text = "".join(cell["source"]).strip()
                if id in found and text != "YOUR ANSWER HERE":
                    found[id] = text
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # a broken notebook answers nothing
    return found
