"""The homework: hand it out, check it, grade it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minipeft.cli.arguments import Command, Result
from minipeft.display.table import Table


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
    new.add_argument(
        "--variant", metavar="SEED", help="draw a class's conventions; default: the library's own"
    )


def _new(args: argparse.Namespace) -> Result:
    from minipeft.course.homework import bank, tree
    from minipeft.course.homework.assignment import load

    homework = load(args.name)
    choices = homework.choices(args.variant)
    where = Path(args.dir)
    if where.exists() and any(where.iterdir()):  # before the work of the bank
        raise FileExistsError(f"{where} is there and not empty: name a new folder")
    files = tree.write_student(homework, where, bank.public(homework, choices), choices)
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


# -- verify ---------------------------------------------------------------------------------------


def _add_verify(part: Command) -> None:
    new = part("verify", _verify, "prove that assignments fit: cut, tests, messages, points",
               "minipeft homework verify hw3")  # fmt: skip
    new.add_argument("names", nargs="*", help="assignments; all without it")


def _verify(args: argparse.Namespace) -> Result:
    from minipeft.course.homework.assignment import assignments, load
    from minipeft.course.homework.verify import verify

    chosen = [load(name) for name in args.names] or assignments()
    problems = [text for homework in chosen for text in verify(homework)]
    names = ", ".join(homework.name for homework in chosen)
    if problems:
        raise RuntimeError("\n".join([f"{len(problems)} problems", *problems]))
    return {"verified": names.split(", ")}, f"{names}: all checks pass"


PARTS = (_add_new, _add_check, _add_verify)
