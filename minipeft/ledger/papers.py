"""What papers print of parameters and memory, beside what is computed here.

A printed number stays text, with its unit and its digits. The computed one comes from a model of
shapes with the method on it, is rounded to the same digits, and agrees or has its reason told.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from minipeft.contract import Method, attach
from minipeft.display.table import Table
from minipeft.models import OUTLINES, BERTConfig, build, outline, preset

UNITS = {
    **{"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "bits": 1, "times": 1},
    **{"MB": 1e6, "GB": 1e9, "TB": 1e12},
}
PRINTED = re.compile(r"([<>~]?) ?(?:([\d,]+(?:\.(\d+))?) ?)?(\w*)")
COUNTED, FORMULA = "counted", "formula"
WIDTH = 92  # of the notes


@dataclass(frozen=True)
class Row:
    """A number of a table.

    name     the row, as the table calls it
    printed  "18.8M", "< 48 GB", "~3 GB"; a unit alone ("GB") where nothing is printed
    of       what is computed, in words
    compute  () -> parameters, bytes, bits or a ratio
    why      the reason of a difference, or what one should know where there is none
    by       "counted", or "formula" where no model is counted
    scores   what else the table has in this row; quoted, not made here
    """

    name: str
    printed: str
    of: str
    compute: Callable[[], float]
    why: str = ""
    by: str = COUNTED
    scores: str = ""

    def result(self) -> dict[str, Any]:
        """The row as plain values; `agrees` is None where nothing is printed."""
        found = PRINTED.fullmatch(self.printed)
        if found is None or found[4] not in UNITS:
            raise ValueError(f"{self.name}: {self.printed!r} is no printed number")
        sign, number, decimals, unit = found.groups()
        exact = self.compute()
        rounded = number and sign not in ("<", ">")
        digits = len(decimals or "") if rounded else int(unit != "")
        value = round(exact / UNITS[unit], digits)
        agrees = None
        if number:
            wanted = float(number.replace(",", ""))
            agrees = {"<": value < wanted, ">": value > wanted}.get(sign, value == wanted)
        gap = " " if unit not in ("", "K", "M", "B") else ""
        return {
            "row": self.name,
            "printed": self.printed if number else "",
            "computed": f"{value:,.{digits}f}{gap}{unit}",
            "exact": exact,
            "agrees": agrees,
            "of": self.of,
            "by": self.by,
            "why": self.why,
            "scores": self.scores,
        }


@dataclass(frozen=True)
class Paper:
    """A table: its name here, what it is, where it is printed, its rows, what the scores are."""

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    scores: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, computed now."""
        about = {k: getattr(self, k) for k in ("name", "title", "source", "scores")}
        return about | {"rows": [row.result() for row in self.rows]}

    def __str__(self) -> str:
        rows = [row.result() for row in self.rows]
        notes = list(dict.fromkeys(r["why"] for r in rows if r["why"]))
        mark = {True: "=", False: "differs", None: ""}
        cells = []
        for r in rows:
            note = f"[{notes.index(r['why']) + 1}]" if r["why"] else ""
            exact = f"{r['exact']:,.0f}" if r["exact"] > 1e4 else f"{r['exact']:,.6g}"
            of = f"{r['of']} *" if r["by"] == FORMULA else r["of"]
            cells.append(
                (r["row"], r["printed"], r["computed"], mark[r["agrees"]], note, exact, of)
            )
        names = ("", "printed", "computed", "", "", "exactly", "of")
        blocks = [f"{self.title}\n{self.source}", Table(names, cells, "lrrllrl").text()]
        if any(r["by"] == FORMULA for r in rows):
            blocks.append("* by formula: not counted on a model")
        told = [
            textwrap.fill(f"[{i}] {why}", WIDTH, subsequent_indent="    ")
            for i, why in enumerate(notes, 1)
        ]
        blocks += ["\n".join(told)] if told else []
        if self.scores:
            quoted = [(r["row"], *r["scores"].split()) for r in rows if r["scores"]]
            header = ("quoted, not reproduced", *self.scores.split())
            blocks.append(Table(header, quoted, "lr").text())
        return "\n\n".join(blocks)

    __repr__ = __str__


# -- what rows compute ----------------------------------------------------------------------------


@cache
def shapes(name: str) -> Any:
    """A preset's model or an outline, without values; a BERT has its pooler and two classes.

    It is kept for the next row: whoever attaches to it detaches.
    """
    if name in OUTLINES:
        return outline(name)
    config = preset(name)
    if isinstance(config, BERTConfig):
        config = dataclasses.replace(config, head="linear", classes=2)
    return build(config, init="shape")


@cache
def count(name: str, method: Method) -> int:
    """How many parameters a method trains in a model, a new head not counted."""
    with attach(shapes(name), method) as at:
        return at.count()
