"""The homework: hand it out, check it, grade it."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minipeft.cli import teaching
from minipeft.cli.arguments import Command, Result, target
from minipeft.display.table import Table

if TYPE_CHECKING:
    from minipeft.course.grading.grader import Report


def add_homework(command: Command) -> None:
    """minipeft homework DO …"""
    new = command("homework", _listed, "hand out, check and grade the course's homework",
                  "minipeft homework new hw3 my-hw3")  # fmt: skip
    parts = new.add_subparsers(dest="do", metavar="DO")

    def part(name: str, run: Callable[..., Result], does: str, example: str) -> Any:
        one = parts.add_parser(
            name, help=does, description=f"{does[0].upper()}{does[1:]}.", allow_abbrev=False,
            epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        one.add_argument("--json", action="store_true", help="print one JSON value, nothing else",
                         default=argparse.SUPPRESS)  # fmt: skip
        one.set_defaults(run=run)
        return one

    for add in PARTS:
        add(part)


def _listed(args: argparse.Namespace) -> Result:
    from minipeft.course.homework.assignment import assignments

    there = assignments()
    found = [
        {"name": a.name, "title": a.title, "hours": list(a.hours), "holes": len(a.holes),
         "points": a.points, "folder": str(a.folder)}
        for a in there
    ]  # fmt: skip
    rows = [(a.name, a.title, f"{a.hours[0]:g}-{a.hours[1]:g}", len(a.holes)) for a in there]
    table = Table(("name", "title", "hours", "holes"), rows, "llrr")
    return found, f"{table}\n\nminipeft homework new NAME DIR writes one for a student"


# -- new ------------------------------------------------------------------------------------------


def _add_new(part: Command) -> None:
    new = part("new", _new, "write an assignment's starter code into a new folder",
               "minipeft homework new hw3 my-hw3 --variant fall-2026")  # fmt: skip
    new.add_argument("name", help="hw1 to hw8, or an assignment's folder")
    new.add_argument("dir", help="a new folder")
    new.add_argument("--own", action="store_true", help="without minipeft/: adapters.py is to call "
                     "an engine of your own")  # fmt: skip
    new.add_argument(
        "--variant", metavar="SEED", help="draw a class's conventions; default: the library's own"
    )


def _new(args: argparse.Namespace) -> Result:
    from minipeft.course.homework import bank, own, tree
    from minipeft.course.homework.assignment import load

    homework = load(args.name)
    choices = homework.choices(args.variant)
    write = own.write if args.own else tree.write_student
    where = Path(args.dir)
    if where.exists() and any(where.iterdir()):  # before the work of the bank
        raise FileExistsError(f"{where} is there and not empty: name a new folder")
    files = write(homework, where, bank.public(homework, choices), choices)
    says = [f"{name}: {text}" for name, text in homework.says(choices).items()]
    value = {"folder": str(where), "files": len(files), "choices": choices}
    lines = [f"wrote {homework.name} ({homework.title}), {len(files)} files, to {where}", *says]
    return value, "\n".join([*lines, f"Start with {where / 'handout.ipynb'} or README.md"])


# -- check ----------------------------------------------------------------------------------------


def _add_check(part: Command) -> None:
    new = part("check", _check, "run the public tests on a student's folder",
               "minipeft homework check my-hw3 --reference hw3.1")  # fmt: skip
    new.add_argument("dir", help="the student's folder")
    new.add_argument("hole", nargs="?", default="", help="one hole, e.g. hw3.2; all without it")
    new.add_argument(
        "--reference", metavar="HOLE", nargs="+", default=[],
        help="holes where the reference stands in, in a copy: to go on behind them",
    )  # fmt: skip


def _check(args: argparse.Namespace) -> Result:
    from minipeft.course.homework.tree import public_tests

    passed, text = public_tests(args.dir, args.hole, args.reference)
    return {"passed": passed, "text": text}, text


# -- grade ----------------------------------------------------------------------------------------


def _add_grade(part: Command) -> None:
    new = part("grade", _grade, "grade one submission with hidden tests",
               "minipeft homework grade hw3 alice/ --seed SECRET --variant fall-2026")  # fmt: skip
    teaching.add_bank(new)
    new.add_argument("submission", help="a folder or a zip")
    new.add_argument("--gradescope", metavar="FILE", help="write results.json there, too")


def _grade(args: argparse.Namespace) -> Result:
    from minipeft.course.grading import grader as grading
    from minipeft.course.grading import gradescope
    from minipeft.course.grading.submissions import opened
    from minipeft.storage.files import write_atomic

    made = teaching.bank_of(args)
    file = target(args.gradescope, "--gradescope") if args.gradescope else None
    with opened(args.submission) as folder:
        report = grading.grade(made, folder, Path(args.submission).name)
    if file:
        found = json.dumps(gradescope.results(report, made.homework), indent=1).encode()
        write_atomic(file, lambda temporary: temporary.write_bytes(found))
    return {**asdict(report), "score": report.score, "most": report.most}, as_text(report)


def as_text(report: Report) -> str:
    """A report as a table, the odd things below it."""
    rows = [(r.hole, r.case, "visible" if r.visible else "hidden", f"{r.points:g}", f"{r.most:g}",
             textwrap.shorten(r.message, 60) or "ok") for r in report.results]  # fmt: skip
    table = Table(("hole", "test", "", "points", "of", "why"), rows, "lllrrl")
    lines = [str(table), f"{report.score:g} of {report.most:g} points, written questions apart"]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"this machine lacks a protection: {one}" for one in report.missing]
    return "\n".join(lines)


# -- verify ---------------------------------------------------------------------------------------


def _add_verify(part: Command) -> None:
    new = part("verify", _verify, "prove that assignments fit: cut, tests, messages, points",
               "minipeft homework verify hw3")  # fmt: skip
    new.add_argument("names", nargs="*", help="assignments; all without it")
    new.add_argument("--long", action="store_true",
                     help="the usual mistakes under every set of conventions too")  # fmt: skip


def _verify(args: argparse.Namespace) -> Result:
    from minipeft.course.homework.assignment import assignments, load
    from minipeft.course.homework.verify import verify

    chosen = [load(name) for name in args.names] or assignments()
    with ThreadPoolExecutor(os.cpu_count()) as workers:  # each waits for processes of its own
        done = workers.map(lambda homework: verify(homework, long=args.long), chosen)
        problems = [text for found in done for text in found]
    names = ", ".join(homework.name for homework in chosen)
    if problems:
        raise RuntimeError("\n".join([f"{len(problems)} problems", *problems]))
    return {"verified": names.split(", ")}, f"{names}: all checks pass"


# -- notebook -------------------------------------------------------------------------------------


def _add_notebook(part: Command) -> None:
    new = part("notebook", _notebook, "write the notebook from which nbgrader or otter releases",
               "minipeft homework notebook hw3 my-course --for nbgrader")  # fmt: skip
    new.add_argument("name", help="hw1 to hw8, or an assignment's folder")
    new.add_argument("dir", help="the course's folder")
    new.add_argument("--for", dest="tool", required=True, choices=("nbgrader", "otter"))
    new.add_argument(
        "--variant", metavar="SEED", help="draw a class's conventions; default: the library's own"
    )
    new.add_argument("--seed", metavar="SECRET", help="hidden inputs are drawn from it; "
                     "default: a new one")  # fmt: skip


def _notebook(args: argparse.Namespace) -> Result:
    from minipeft.course.homework import notebook
    from minipeft.course.homework.assignment import load

    homework = load(args.name)
    choices, seed = homework.choices(args.variant), args.seed or secrets.token_hex(8)
    file, told = notebook.write(homework, args.dir, args.tool, seed, choices)
    value = {"notebook": str(file), "told": str(told), "choices": choices}
    return value, f"wrote {file}\n{told} says how to release it, and what is not released"


PARTS = (_add_new, _add_check, _add_grade, *teaching.PARTS, _add_notebook, _add_verify)
