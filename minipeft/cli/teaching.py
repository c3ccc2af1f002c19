"""The homework of a whole class: grade it, compare it, pack the grader, rank adapters."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minipeft.cli.arguments import Command, Result, UsageError, number, target
from minipeft.display.table import Table

if TYPE_CHECKING:
    from minipeft.course.grading.classroom import Graded, Missed
    from minipeft.course.grading.leaderboard import Entry
    from minipeft.course.grading.similar import Pair


def add_bank(new: Any) -> None:
    """The assignment, and what its hidden tests are drawn from."""
    new.add_argument("name", help="hw1 to hw8, or an assignment's folder")
    new.add_argument("--seed", required=True, metavar="SECRET",
                     help="hidden inputs are drawn from it; keep it from students")  # fmt: skip
    add_form(new)


def add_form(new: Any) -> None:
    """How the assignment was handed out."""
    new.add_argument("--variant", metavar="SEED", help="as it was handed out with")
    new.add_argument("--own", action="store_true", help="students bring an engine of their own")


def bank_of(args: argparse.Namespace) -> Any:
    """The bank that name, --seed and --variant describe."""
    from minipeft.course.homework import bank
    from minipeft.course.homework.assignment import load

    homework = load(args.name)
    args.busy("making the hidden tests")
    return bank.make(homework, args.seed, homework.choices(args.variant), args.own)


# -- class ----------------------------------------------------------------------------------------


def _add_class(part: Command) -> None:
    new = part(
        "class", _class, "grade all submissions of a folder, those that are graded left out",
        "minipeft homework class hw3 submissions/ graded/ --seed SECRET --due 2026-03-02T23:59",
    )  # fmt: skip
    add_bank(new)
    new.add_argument("folder", help="a folder or zip per student, Gradescope's export, or what "
                     "Canvas downloads, unpacked")  # fmt: skip
    new.add_argument("out", help="reports, gradebook.csv and class.png go there")
    new.add_argument("--workers", type=number(1), metavar="N", help="default: one per core")
    new.add_argument("--only", nargs="+", default=[], metavar="NAME",
                     help='these again ("ann*" is a pattern), and tell what changed')  # fmt: skip
    new.add_argument("--due", type=_time, metavar="TIME", help="2026-03-02T23:59; late hand-ins "
                     "cost what the next options say")  # fmt: skip
    new.add_argument("--grace", type=number(0, float), default=15, metavar="MINUTES",
                     help="after --due that cost nothing; default 15")  # fmt: skip
    new.add_argument("--free", type=number(0), default=0, metavar="DAYS",
                     help="late days over the term that cost nothing; default 0")  # fmt: skip
    new.add_argument("--earlier", nargs="+", default=[], metavar="CSV",
                     help="gradebooks of this term, where free days were used")  # fmt: skip
    new.add_argument("--percent", type=number(0, float), default=10,
                     help="of the points, that each further day costs; default 10")  # fmt: skip
    new.add_argument("--floor", type=number(0, float), default=0, metavar="PERCENT",
                     help="of the points, that are left however late; default 0")  # fmt: skip
    new.add_argument("--canvas", metavar="CSV", help="the gradebook as Canvas exports it: "
                     "canvas.csv is written, for its import")  # fmt: skip
    new.add_argument("--column", help='the assignment there, "hw3 (12345)"; default its name')


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"wanted a time such as 2026-03-02T23:59, got {text!r}"
        ) from None


def _class(args: argparse.Namespace) -> Result:
    from minipeft.course.grading import classroom, gradebook
    from minipeft.course.grading.sandbox import Limits

    made, out = bank_of(args), Path(args.out)
    used = gradebook.days_used(args.earlier)
    late = None
    if args.due is not None:
        late = gradebook.Late(args.due, args.grace, args.free, args.percent, args.floor)
    out.mkdir(parents=True, exist_ok=True)
    args.busy("grading")
    found = classroom.grade_class(
        made, args.folder, out, Limits(), args.workers, args.only, quiet=args.json
    )
    rows = gradebook.gradebook(found, late, used)
    gradebook.write_csv(rows, out / "gradebook.csv")
    missed = classroom.missed(made.homework, [one.report for one in found])
    lines = [str(missed_table(missed)), "", f"{len(found)} submissions; see {out}/gradebook.csv, "
             f"{classroom.figure(missed, out / 'class.png')} and {out}/reports"]  # fmt: skip
    if args.only:
        lines = [str(changes(found)), "", *lines]
    if args.canvas:
        column = args.column or made.homework.name
        imported, strangers = gradebook.canvas(rows, column, args.canvas)
        gradebook.write_csv(imported, out / "canvas.csv")
        lines += [f"not in {args.canvas}: {', '.join(strangers)}"] * bool(strangers)
    lacks = sorted({text for one in found for text in one.report.missing})
    lines += [f"this machine lacks a protection: {text}" for text in lacks]
    value = {"submissions": rows, "missing protections": lacks,
             "holes": [{**m._asdict(), "mistakes": dict(m.mistakes)} for m in missed]}  # fmt: skip
    return value, "\n".join(lines)


def missed_table(rows: Sequence[Missed]) -> Table:
    """By hole: who has it, and the mistake that most made."""
    cells = []
    for m in rows:
        usual = "".join(f"{n} x {text:.60}" for text, n in m.mistakes.most_common(1))
        cells.append((m.id, f"{m.title:.40}", m.all, m.some, m.none, usual))
    return Table(("hole", "", "all", "some", "none", "the usual mistake"), cells, "llrrrl")


def changes(found: Sequence[Graded]) -> Table:
    """Old and new points of what was graded again, by hole where they changed."""
    rows = []
    for s, report, before in found:
        if before is not None:
            old, new = before.by_hole(), report.by_hole()
            moved = [f"{hole} {old.get(hole, (0.0, 0.0))[0]:g} -> {new[hole][0]:g}"
                     for hole in new if old.get(hole) != new[hole]]  # fmt: skip
            rows.append((s.name, f"{before.score:g}", f"{report.score:g}",
                         ", ".join(moved) or "unchanged"))  # fmt: skip
    return Table(("graded again", "before", "now", "by hole"), rows, "lrrl")


# -- similar --------------------------------------------------------------------------------------


def _add_similar(part: Command) -> None:
    new = part("similar", _similar, "find submissions that look alike",
               "minipeft homework similar hw3 submissions/ --earlier hw3-2025/")  # fmt: skip
    new.add_argument("name", help="hw1 to hw8, or an assignment's folder")
    new.add_argument("folder", help="the submissions, as `homework class` takes them")
    add_form(new)
    new.add_argument("--earlier", nargs="+", default=[], metavar="DIR",
                     help="submissions of earlier terms, to compare with")  # fmt: skip
    new.add_argument("--share", type=number(0, float), default=50, metavar="PERCENT",
                     help="of the smaller one, that a pair must share; default 50")  # fmt: skip


def _similar(args: argparse.Namespace) -> Result:
    from minipeft.course.grading import submissions
    from minipeft.course.grading.similar import similar
    from minipeft.course.homework import own, tree
    from minipeft.course.homework.assignment import load

    homework = load(args.name)
    solved = tree.reference(homework, homework.choices(args.variant))
    starter = own.stubs(homework, solved) if args.own else tree.holed(solved, homework.holes)
    earlier = {f"{Path(folder).name}/{s.name}": s.path
               for folder in args.earlier for s in submissions.found(folder)}  # fmt: skip
    hand_ins = {s.name: s.path for s in submissions.found(args.folder)}
    args.busy("comparing")
    share = args.share / 100
    pairs, unread = similar(homework, hand_ins, starter, solved, earlier, share, own=args.own)
    return {"pairs": [p._asdict() for p in pairs], "unread": unread}, alike(pairs, unread)


def alike(pairs: Sequence[Pair], unread: Mapping[str, str]) -> str:
    """The pairs as a table, and below it what was not read."""
    rows = [(p.first, p.second, f"{100 * p.share:.0f} %", p.shared, ", ".join(p.holes))
            for p in pairs]  # fmt: skip
    title = "Look-alikes: read both before you judge. share: of the smaller one's own code"
    table = Table(("first", "second", "share", "prints", "where"), rows, "llrrl", title).text()
    lines = [table if pairs else "No two look alike."]
    return "\n".join([*lines, *(f"not read: {name}: {why}" for name, why in unread.items())])


# -- zip ------------------------------------------------------------------------------------------


def _add_zip(part: Command) -> None:
    new = part("zip", _zip, "write the autograder for Gradescope",
               "minipeft homework zip hw3 autograder.zip --seed SECRET")  # fmt: skip
    add_bank(new)
    new.add_argument("file", help="autograder.zip")


def _zip(args: argparse.Namespace) -> Result:
    from minipeft.course.grading.gradescope import autograder

    return _written(target(args.file, "the file"), autograder(bank_of(args)))


def _written(file: Path, data: bytes) -> Result:
    from minipeft.storage.files import write_atomic

    write_atomic(file, lambda temporary: temporary.write_bytes(data))
    return {"file": str(file), "bytes": len(data)}, (
        f"wrote {file}, {len(data):,} bytes: upload it to Gradescope under Configure Autograder"
    )


# -- leaderboard ----------------------------------------------------------------------------------


def _add_leaderboard(part: Command) -> None:
    new = part("leaderboard", _leaderboard, "rank adapters on tiny-gpt by their slot error",
               "minipeft homework leaderboard ann.safetensors bob.safetensors")  # fmt: skip
    new.add_argument("adapters", nargs="*", help="files that Attached.save wrote, of "
                     "methods that train under 1 %% of the parameters")  # fmt: skip
    new.add_argument("--seed", type=number(0), default=0,
                     help="draws the records; keep it from students; default 0")  # fmt: skip
    new.add_argument("--n", type=number(1), default=200, help="records; default 200")
    new.add_argument("--zip", metavar="FILE", help="write the autograder for Gradescope, too")


def _leaderboard(args: argparse.Namespace) -> Result:
    from minipeft.course.grading.gradescope import board_grader
    from minipeft.course.grading.leaderboard import Refused, enter

    if not args.zip and not args.adapters:
        raise UsageError("name adapters to rank, or --zip FILE to write the autograder")
    lines = []
    if args.zip:
        lines = [_written(target(args.zip, "--zip"), board_grader(args.seed, args.n))[1]]
    entries, refused = list[Any](), {}
    for path in args.adapters:
        args.busy(f"scoring {path}")
        try:
            entries.append(enter(path, n=args.n, seed=args.seed))
        except Refused as error:
            refused[path] = str(error)
    entries.sort(key=lambda entry: (entry.error, entry.trained))
    value = {"entries": [entry._asdict() for entry in entries], "refused": refused}
    return value, "\n".join(filter(None, [*lines, ranked(entries, refused)]))


def ranked(entries: Sequence[Entry], refused: Mapping[str, str]) -> str:
    """Adapters, the best first, and those that take no part."""
    rows = [(i, e.name, e.method, f"{e.trained:,}", f"{100 * e.share:.2f} %", f"{e.error:.2f}")
            for i, e in enumerate(entries, 1)]  # fmt: skip
    header = ("", "adapter", "method", "trained", "share", "slot error (%)")
    lines = [str(Table(header, rows, "rllrrr"))] if rows else []
    return "\n".join([*lines, *(f"refused: {text}" for text in refused.values())])


PARTS = (_add_class, _add_similar, _add_zip, _add_leaderboard)
