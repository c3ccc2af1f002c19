"""All methods on one page

Written by `minipeft methods --markdown > lectures/METHODS.md`; do not edit it by hand.

A method changes a vector h of the frozen model by Δh, as in table 1 of He et al. 2022. Parallel
means that Δh is computed from the x that h is made of, sequential that it is computed from h. What
stands outside the formula says why. The field `Unified` of a method's file says all this in four
parts. Parameters are those that train on tiny-gpt at the method's default settings, without a new
head. Whether a method merges was tried. Mixed batch: rows of one batch may carry different adapters
of the method. The lecture on this page is 15_unified.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

from minipeft.contract import Attached, Method, NotMergeable, attach
from minipeft.display.table import Table
from minipeft.methods import METHODS
from minipeft.models import build, preset

HEADED: dict[str, Any] = {"head": "linear", "classes": 2}  # for what trains a new head alone
WAYS = {  # to compose -> the slides' formula, and what each pass of a tuned model goes through more
    "parameter": ("f'(x) = f_{θ ⊕ φ}(x)", "nothing more, once it is merged"),
    "function": ("f'(x) = f_φ(f_θ(x))", "more modules, unless it merges"),
    "input": ("f'(x) = f_θ([φ, x])", "a longer context"),
}
PARTS = {
    "form": "Δh",
    "insertion": "insertion",
    "representation": "h",
    "composition": "in its place",
}


def told(method: type[Method], field: str) -> str:
    """What a field of the docstring of a method's file says."""
    text = sys.modules[method.__module__].__doc__ or ""
    found = re.search(rf"^{field} +(.+?)(?=  +Homework|\n\w|\n\n|\Z)", text, re.M | re.S)
    if found is None:
        raise ValueError(f"{method.__module__} has no field {field} in its docstring")
    return " ".join(found[1].split())


def merges(at: Attached) -> str:
    """Whether what is attached becomes plain weights: tried."""
    for quantized, answer in (("refuse", "yes"), ("dequantize", "yes, as floats")):
        with suppress(NotMergeable):
            at.merge(quantized=quantized)
            return answer
    return "no"


def method_map() -> list[dict[str, Any]]:
    """A row for each method: its name, way to compose, parameters, the four parts, and the rest."""
    rows = []
    for name, kind in METHODS.items():
        at = attach(build(replace(preset("tiny-gpt"), **HEADED)), kind())
        parts = (told(kind, "Unified") + 3 * "; ").split("; ")  # empty ones of what stands outside
        row = {"method": name, "compose": kind.compose, "parameters": at.count()}
        row |= zip(PARTS, parts, strict=False)
        row |= {"merges": merges(at), "by_row": at.method.by_row}
        row |= {"lecture": told(kind, "Lecture"), "file": kind.__module__.replace(".", "/") + ".py"}
        rows.append(row)
    return rows


def page(rows: list[dict[str, Any]], markdown: bool = False) -> str:
    """The rows as three tables, one for each way to compose; in Markdown with a head and links."""
    names = ("method", "parameters", *PARTS.values(), "merges", "mixed batch", "lecture")
    blocks = [f"# {__doc__.strip()}"] * markdown
    for way, (formula, more) in WAYS.items():
        title = "## " * markdown + f"{way.title()} composition: {formula}"
        closing = f"Each pass of a tuned model goes through {more}."
        cells = [_cells(row, markdown) for row in rows if row["compose"] == way]
        table = Table(names, cells, "lrl", title, closing)
        blocks.append(table.markdown() if markdown else table.text())
    return "\n\n".join(blocks)


def _cells(row: dict[str, Any], markdown: bool) -> list[str]:
    name = f"[{row['method']}](../{row['file']})" if markdown else row["method"]
    mixed = "yes" if row["by_row"] else "no"
    parts = map(row.__getitem__, PARTS)
    return [name, f"{row['parameters']:,}", *parts, row["merges"], mixed, row["lecture"]]
