"""A class: all hand-ins graded in parallel, what was missed, and the gradebook.

Each report is a file of its own, written whole. A run that was killed goes on where it was: what is
graded, by the digest of the hand-in and of the tests, is not graded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from minipeft.checks import nearest
from minipeft.course import viz
from minipeft.course.grading import submissions
from minipeft.course.grading.grader import Report, grade, ungraded
from minipeft.course.grading.sandbox import Limits
from minipeft.course.grading.submissions import Submission
from minipeft.course.homework.assignment import Assignment
from minipeft.course.homework.bank import Bank
from minipeft.display.progress import Progress
from minipeft.storage.files import write_atomic

TRIES = 2  # of a hand-in whose grading process died
SLACK = 60  # seconds over the limits after which a grading process is given up
SHOWN = 8  # mistakes in the figure
Grader = Callable[[Bank, Path, str, Limits], Report]


class Graded(NamedTuple):
    """A hand-in, its report, and the report of before, if this run wrote a new one."""

    submission: Submission
    report: Report
    before: Report | None = None


# -- grading --------------------------------------------------------------------------------------


def grade_class(
    bank: Bank, folder: str | Path, out: str | Path, limits: Limits, workers: int | None = None,
    only: Sequence[str] = (), quiet: bool = False, grader: Grader = grade,
) -> list[Graded]:  # fmt: skip
    """Grade the hand-ins of a folder into OUT/reports, those that are graded left out.

    workers  processes that grade; by default one per core
    only     names or patterns such as "ann*": these alone, and again
    Returns  all hand-ins that have a report now, by name
    Raises   ValueError where a name of `only` fits nobody
    """
    there, reports = submissions.found(folder), Path(out) / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    for name in only:
        if not any(fnmatchcase(s.name, name) for s in there):
            near = nearest(name, [s.name for s in there])
            raise ValueError(f"no submission {name!r}; nearest: {near}")
    asked = [s for s in there if not only or any(fnmatchcase(s.name, name) for name in only)]
    tests = hashlib.sha256(f"{bank.digest} {limits}".encode()).hexdigest()[:16]
    jobs = [(s, f"{tests}-{submissions.digest(s.path)}") for s in asked]
    old = {s.name: report for s in there if (report := _read(reports / f"{s.name}.json"))}
    if not only:
        jobs = [(s, key) for s, key in jobs if s.name not in old or old[s.name].digest != key]
    progress = Progress("grading", len(asked), quiet=quiet, start=len(asked) - len(jobs))
    new: dict[str, Report] = {}
    for submission, report in _all(jobs, (bank, limits, grader), workers):
        text = report.as_json().encode()
        write_atomic(reports / f"{submission.name}.json", partial(Path.write_bytes, data=text))
        new[submission.name] = report
        progress.update(progress.start + len(new), f"{submission.name} {report.score:g}")
    progress.done(f"{len(asked)} hand-ins")
    return [Graded(s, {**old, **new}[s.name], old.get(s.name) if s.name in new else None)
            for s in there if s.name in old or s.name in new]  # fmt: skip


def _read(file: Path) -> Report | None:
    """A stored report; None if there is none, or none that this version reads."""
    try:
        return Report.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _serve(pipe: Connection, bank: Bank, limits: Limits, grader: Grader) -> None:
    """A grading process: hand-ins come, reports go, until the other end is closed."""
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            submission, digest, _ = pipe.recv()
            try:
                with submissions.opened(submission.path) as folder:
                    report = grader(bank, folder, submission.name, limits)
            except submissions.Refused as error:
                report = ungraded(bank, submission.name, f"not opened: {error}")
            except Exception as error:  # of the grader: the next run tries again
                text = f"the grader failed, {type(error).__name__}: {error!s:.300}"
                report, digest = ungraded(bank, submission.name, text), ""
            pipe.send(replace(report, digest=digest))


def _all(
    jobs: Sequence[tuple[Submission, str]], setup: tuple[Bank, Limits, Grader], workers: int | None
) -> Iterator[tuple[Submission, Report]]:
    """Reports as they come; a process that dies or hangs is replaced, its job tried once more."""
    spawn, most = multiprocessing.get_context("spawn"), workers or os.cpu_count() or 1
    left = [(submission, digest, 1) for submission, digest in jobs][::-1]
    team: dict[Connection, tuple[Any, tuple[Submission, str, int] | None, float]] = {}
    try:
        while left or any(job for _, job, _ in team.values()):
            while len(team) < min(most, len(left)):
                pipe, theirs = spawn.Pipe()
                process = spawn.Process(target=_serve, args=(theirs, *setup), daemon=True)
                process.start()
                theirs.close()
                team[pipe] = process, None, 0.0
            for pipe, (process, job, _) in team.items():
                if job is None and left:
                    team[pipe] = process, left.pop(), monotonic() + 2 * setup[1].total + SLACK
                    with contextlib.suppress(OSError):  # it died: there will be no answer
                        pipe.send(team[pipe][1])
            ready = wait([pipe for pipe, (_, job, _) in team.items() if job], timeout=1.0)
            for pipe, (process, job, until) in list(team.items()):
                if job is None or (pipe not in ready and monotonic() < until):
                    continue
                submission, digest, tries = job
                try:
                    if pipe not in ready:
                        raise TimeoutError
                    report = pipe.recv()
                    team[pipe] = process, None, 0.0
                except (EOFError, OSError) as error:
                    hung = isinstance(error, TimeoutError)
                    process.kill() if hung else process.join()
                    del team[pipe]
                    if tries < TRIES:
                        left.append((submission, digest, tries + 1))
                        continue
                    how = "hung" if hung else f"ended with {process.exitcode}"
                    why = f"the grading process {how}, {tries} times"
                    report = ungraded(setup[0], submission.name, why)
                yield submission, report
    finally:
        for process, _, _ in team.values():
            process.kill()


# -- what the class missed ------------------------------------------------------------------------


class Missed(NamedTuple):
    """A hole: how many have all its points, some, none; and how many made which usual mistake."""

    id: str
    title: str
    all: int
    some: int
    none: int
    mistakes: Counter[str]


def missed(homework: Assignment, reports: Sequence[Report]) -> list[Missed]:
    """What the class missed, hole by hole; a mistake counts once per student."""
    found = []
    for hole in homework.holes:
        points = [report.by_hole().get(hole.id, (0.0, hole.points)) for report in reports]
        full = sum(got >= most for got, most in points)
        none = sum(got == 0 for got, most in points if most)
        said = [{r.message for r in report.results if r.hole == hole.id} for report in reports]
        counts = {m.message: sum(m.message in one for one in said) for m in hole.mistakes}
        some = len(points) - full - none
        found.append(Missed(hole.id, hole.title, full, some, none, +Counter(counts)))
    return found


@viz.style()
def figure(rows: Sequence[Missed], path: str | Path) -> Path:
    """Draw which holes the class missed, and its usual mistakes by their number."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    named = Counter({f"{m.id}: {text}": n for m in rows for text, n in m.mistakes.items()})
    usual = named.most_common(SHOWN)[::-1]
    height = 1.6 + 0.5 * max(len(rows), 1.2 * len(usual))
    left, right = Figure((11, height), layout="constrained").subplots(1, 2, width_ratios=(3, 4))
    start = [0] * len(rows)
    for part, colour in (("all", "#009E73"), ("some", "#E69F00"), ("none", "#D97B4F")):
        counts = [getattr(m, part) for m in rows[::-1]]
        bars = left.barh([m.id for m in rows[::-1]], counts, left=start, color=colour,
                         label=part)  # fmt: skip
        left.bar_label(bars, [str(n or "") for n in counts], label_type="center")
        start = [a + b for a, b in zip(start, counts, strict=True)]
    worst = max(rows, key=lambda m: m.some + m.none)
    left.set(xlabel="students", title=f"{worst.some + worst.none} of {start[0]} missed {worst.id}")
    left.figure.legend(loc="outside lower left", ncols=3, title="points of the hole")
    bars = right.barh([textwrap.fill(text, 46) for text, _ in usual], [n for _, n in usual])
    right.bar_label(bars, padding=3)
    right.set(xlabel="students", title="The usual mistakes" if usual else "No usual mistake")
    for ax in (left, right):
        ax.set_axisbelow(True)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return viz.save(left, path)
