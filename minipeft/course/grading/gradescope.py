"""Gradescope: a report as results.json, and the autograder.zip that makes one there.

Schema: docs/specs.md of gradescope/autograder_samples. The zip holds the tests' inputs and wanted
results, the cut tree and what grades; no solution is in it, nor what a mistake's source is.
"""

from __future__ import annotations

import ast
import io
import json
import tempfile
import textwrap
import traceback
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minipeft.course.grading.grader import Report, Result, grade, ungraded
from minipeft.course.grading.sandbox import Limits
from minipeft.course.grading.submissions import Refused, opened
from minipeft.course.homework.assignment import Assignment, load
from minipeft.course.homework.bank import Bank
from minipeft.storage.files import data_dir, write_atomic

CHECKOUT = Path(__file__).resolve().parents[3]
SCRIPTS = Path(__file__).with_name("autograder")
BANK, TOML = "bank.safetensors", "assignment.toml"
FIRST, BOARD = "first.json", "leaderboard.json"
LIMITS = Limits(memory=512 << 20)  # beside the grader, in Gradescope's 768 MB
LINES, COLUMNS = 20, 100  # of a test's output
STOPPED = "not run: the grader was stopped before it. Hand in again; if this stays, tell the staff"


# -- results.json ---------------------------------------------------------------------------------


def results(report: Report, homework: Assignment) -> dict[str, Any]:
    """A report by Gradescope's schema; hidden tests show once the grades are published."""
    tests = []
    for i, hole in enumerate(homework.holes, 1):
        for j, r in enumerate((r for r in report.results if r.hole == hole.id), 1):
            kind = "public" if r.visible else "hidden"
            tests.append({
                "name": f"{hole.id} {hole.title}: {r.case} ({kind})", "name_format": "text",
                "number": f"{i}.{j}", "score": r.points, "max_score": r.most,
                "status": "passed" if r.passed else "failed",
                "output": screen(r.message or "right"), "output_format": "text",
                "tags": [homework.name, hole.id, r.case, kind],
                "visibility": "visible" if r.visible else "after_published",
            })  # fmt: skip
    public = [r.passed for r in report.results if r.visible]
    won = "All" if all(public) else f"{sum(public)} of {len(public)}"
    hidden = len(report.results) - len(public)
    text = (f"{won} public tests passed; {hidden} hidden tests follow, on other inputs and shapes. "
            "Their points show once the grades are published.")  # fmt: skip
    extra = {"digest": report.digest, "missing protections": list(report.missing)}
    return whole(report.score, "\n".join([text, *report.notes]), tests) | {
        "execution_time": report.seconds, "extra_data": extra,
    }  # fmt: skip


def whole(score: float, output: str, tests: list[dict[str, Any]]) -> dict[str, Any]:
    """The top level of results.json."""
    return {
        "score": score, "output": screen(output), "output_format": "text", "visibility": "visible",
        "test_output_format": "text", "test_name_format": "text", "stdout_visibility": "hidden",
        "tests": tests,
    }  # fmt: skip


def screen(text: str) -> str:
    """A text that fits on one screen, without what is not printed."""
    plain = "".join(c if c.isprintable() or c == "\n" else " " for c in text.replace("\r\n", "\n"))
    lines = [part for line in plain.split("\n") for part in textwrap.wrap(line, COLUMNS) or [""]]
    return "\n".join([*lines[:LINES], *["…"] * (len(lines) > LINES)])


# -- in Gradescope's container --------------------------------------------------------------------


def run(root: Path) -> None:
    """Grade ROOT/submission by what lies in ROOT/source, into ROOT/results/results.json.

    The file is there and whole at every moment: a grader that is killed leaves the last one.
    """

    def write(found: dict[str, Any]) -> None:
        text = json.dumps(found, indent=1, allow_nan=False).encode()
        write_atomic(root / "results" / "results.json", lambda file: file.write_bytes(text))

    source = root / "source"
    if (source / BOARD).is_file():
        write(_board(root))
        return
    homework = load(source)
    bank = Bank.load(homework, source / BANK)
    report = empty = ungraded(bank, "submission", STOPPED)

    def keep(done: Sequence[Result]) -> None:
        """Write what is known so far, and that the rest was not run."""
        nonlocal report
        report = replace(empty, results=(*done, *empty.results[len(done) :]))
        write(results(report, homework))

    try:
        with opened(root / "submission") as folder:
            report = grade(bank, folder, empty.who, LIMITS, keep)
    except Refused as error:
        report = ungraded(bank, empty.who, f"not opened: {error}")
    except Exception as error:
        traceback.print_exc()  # for the instructor alone
        note = f"the grader failed, {type(error).__name__}: tell the staff"
        report = replace(report, notes=(note,))
    write(results(report, homework))


def _board(root: Path) -> dict[str, Any]:
    """results.json of an adapter that is handed in for the leaderboard."""
    from minipeft.course.grading import leaderboard

    told = json.loads((root / "source" / BOARD).read_text(encoding="utf-8"))
    test = {"name": "the adapter takes part", "number": "1", "tags": ["leaderboard"],
            "max_score": 1.0, "visibility": "visible"}  # fmt: skip
    try:
        with opened(root / "submission") as folder:
            files = sorted(folder.rglob("*.safetensors"))
            if len(files) != 1:
                raise Refused(f"hand in one file of Attached.save; there are {len(files)}")
            entry = leaderboard.enter(files[0], told["n"], told["seed"])
    except (Refused, leaderboard.Refused) as error:
        text = screen(str(error))
        return whole(0.0, text, [test | {"score": 0.0, "status": "failed", "output": text}])
    test |= {"score": 1.0, "status": "passed", "output": str(entry)}
    return whole(1.0, str(entry), [test]) | {"leaderboard": entry.rows()}


# -- autograder.zip -------------------------------------------------------------------------------


def autograder(bank: Bank) -> bytes:
    """autograder.zip of an assignment; the same bytes for the same bank."""
    files = needed("minipeft.course.grading.gradescope")
    first = results(ungraded(bank, "submission", STOPPED), bank.homework)
    files |= {TOML: toml_of(bank.homework), FIRST: json.dumps(first)}
    packages = ["numpy", "safetensors"]
    packages += ["tokenizers"] * any("tokenizers" in text for text in bank.sources.values())
    with tempfile.TemporaryDirectory() as folder:
        bank.save(Path(folder) / BANK)
        return _zip(packages, files | {BANK: (Path(folder) / BANK).read_bytes()})


def board_grader(seed: int, n: int) -> bytes:
    """autograder.zip of the leaderboard: the library and tiny-gpt, as no student's code runs."""
    there = [f for f in (CHECKOUT / "minipeft").rglob("*.py")
             if not {"cli", "experiments", "solutions"} & set(f.parts)]  # fmt: skip
    files: dict[str, Any] = {f.relative_to(CHECKOUT).as_posix(): f.read_bytes() for f in there}
    for name in ("tokenizer.json", "models/tiny-gpt.safetensors"):
        files[f"data/{name}"] = (data_dir() / name).read_bytes()
    files |= {BOARD: json.dumps({"seed": seed, "n": n}), FIRST: json.dumps(whole(0.0, STOPPED, []))}
    packages = ("numpy", "safetensors", "threadpoolctl", "tokenizers")
    return _zip(packages, {**files, "pyproject.toml": ""})


def needed(module: str) -> dict[str, Any]:
    """The files that a module imports at its top, those of the packages around them empty.

    An empty package hands nothing on, so that what it would import does not come along.
    """
    found: dict[str, Any] = {}
    left = [module]
    while left:
        path = left.pop().replace(".", "/") + ".py"
        if path in found or not (CHECKOUT / path).is_file():
            continue
        found[path] = (CHECKOUT / path).read_text(encoding="utf-8")
        for parent in list(Path(path).parents)[:-1]:
            found.setdefault(f"{parent.as_posix()}/__init__.py", "")
        for node in ast.parse(found[path]).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minipeft"):
                left += [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
    return found


def toml_of(homework: Assignment) -> str:
    """What grading needs of an assignment.toml: no hints, and not the source of mistakes."""

    def lines(**told: Any) -> list[str]:  # JSON's strings, numbers and lists are TOML's, too
        return [f"{name} = {json.dumps(value)}" for name, value in told.items()]

    found = lines(name=homework.name, title=homework.title, hours=[0, 0], lectures=[])
    for hole in homework.holes:
        found += ["[[hole]]", *lines(at=hole.at, title=hole.title, hints=[], keep=hole.keep)]
        for case in hole.cases:
            found += ["[[hole.case]]", *lines(**vars(case))]
    for question in homework.questions:
        found += ["[[question]]", *lines(title=question.title, points=question.points)]
    return "\n".join([*found, ""])


def _zip(packages: Iterable[str], files: Mapping[str, str | bytes]) -> bytes:
    """A zip whose bytes depend on its files alone."""
    pinned = "".join(f"{name}=={version(name)}\n" for name in packages)
    scripts = {name: (SCRIPTS / name).read_bytes() for name in ("setup.sh", "run_autograder")}
    files, out = {**files, **scripts, "requirements.txt": pinned}, io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3  # Unix
            entry.external_attr = (0o100755 if name in scripts else 0o100644) << 16
            made.writestr(entry, files[name])
    return out.getvalue()
