"""The gradebook of a class: late days, a row per student, and the file that Canvas imports."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from minipeft.course.grading.classroom import Graded
from minipeft.storage.files import write_atomic

DAY = 86_400
CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")


@dataclass(frozen=True)
class Late:
    """What a late hand-in costs.

    due      in seconds since 1970
    grace    minutes after it that cost nothing; later ones are days from `due` on, begun ones whole
    free     late days over the term that cost nothing
    percent  of the points, that each further day costs
    floor    percent of the points that are left however late
    """

    due: float
    grace: float = 15.0
    free: int = 0
    percent: float = 10.0
    floor: float = 0.0

    def days(self, at: float) -> int:
        """Days that a hand-in is late."""
        over = at - self.due
        return math.ceil(over / DAY) if over > 60 * self.grace else 0

    def off(self, days: int) -> float:
        """Percent of the points that so many days cost."""
        return min(days * self.percent, 100.0 - self.floor)


def gradebook(
    found: Iterable[Graded], late: Late | None = None, used: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """A row per student.

    used  free late days that were used before, by what `key` makes of a row of an earlier gradebook
    """
    rows = []
    for s, report, _ in found:
        days = late.days(s.at) if late else 0
        at = datetime.fromtimestamp(s.at).astimezone().isoformat(timespec="seconds")
        for person in s.people:
            row = {"name": s.name, "student": person.who, "id": person.id, "email": person.email}
            free = max(0, late.free - (used or {}).get(key(row), 0)) if late else 0
            off = late.off(days - min(days, free)) if late else 0.0
            rows.append({
                **row, "submitted": at, "days late": days, "free days used": min(days, free),
                "percent off": off, "points": report.score, "of": report.most,
                "final": round(report.score * (1 - off / 100), 4),
                **{hole: points for hole, (points, _) in report.by_hole().items()},
                "notes": "; ".join(filter(None, (s.note, *report.notes))),
            })  # fmt: skip
    return rows


def key(row: Mapping[str, Any]) -> str:
    """By what a student is known in all gradebooks of a term: id, else e-mail, else name."""
    return str(row["id"] or row["email"] or row["name"])


def days_used(files: Iterable[str | Path]) -> dict[str, int]:
    """Free late days that earlier gradebooks gave.

    Raises  ValueError that names a file that is no gradebook
    """
    found: Counter[str] = Counter()
    for file in files:
        for row in _read(
            file, ("id", "email", "name", "free days used"), "minipeft homework class"
        ):
            found[key(row)] += int(row["free days used"])
    return found


def canvas(
    rows: Iterable[Mapping[str, Any]], column: str, roster: str | Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of Canvas's import, and the names that the roster does not have.

    column  the assignment as Canvas names it, "hw3 (12345)"
    roster  the gradebook as Canvas exports it; its students are found by ID, login, SIS ID or name
    """
    points: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        for known in (row["id"], row["email"], row["email"].partition("@")[0], row["student"]):
            points.setdefault(_letters(known), row)
    left = {row["name"] for row in points.values()}
    most = max(row["of"] for row in points.values())
    points.pop("", None)
    made = [{**dict.fromkeys(CANVAS, ""), "Student": "    Points Possible", column: most}]
    for student in _read(roster, CANVAS, "Canvas"):
        last, _, first = student["Student"].partition(", ")
        if last.strip() in ("", "Points Possible"):
            continue
        names = [
            *(student[k] for k in ("ID", "SIS Login ID", "SIS User ID", "Student")),
            first + last,
        ]
        mine = next((points[n] for n in map(_letters, names) if n in points), None)
        made.append({k: student[k] for k in CANVAS} | {column: mine["final"] if mine else ""})
        left -= {mine["name"]} if mine else set()
    return made, sorted(left)


def _letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum() or c in "@.")


def _read(file: str | Path, columns: Sequence[str], whose: str) -> list[dict[str, str]]:
    with Path(file).open(encoding="utf-8-sig", newline="", errors="replace") as text:
        reader = csv.DictReader(text, restval="")
        if not set(columns) <= set(reader.fieldnames or ()):
            raise ValueError(f"{file} is no gradebook of {whose}: its columns must have "
                             f"{', '.join(columns)}, got {reader.fieldnames}")  # fmt: skip
        return list(reader)


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write rows, whole or not at all; no cell is a formula of a spreadsheet."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"'{v}" if str(v)[:1] in ("=", "+", "-", "@", "\t") and
                         isinstance(v, str) else v for k, v in row.items()})  # fmt: skip
    write_atomic(path, lambda file: file.write_bytes(out.getvalue().encode()))
