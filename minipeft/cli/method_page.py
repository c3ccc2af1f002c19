"""All methods on one page

Written by `minipeft methods --markdown > lectures/METHODS.md`; do not edit it by hand.

A method changes a vector h of the frozen model by Δh, as in table 1 of He et al. 2022. Parallel
means that Δh is computed from the x that h is made of, sequential that it is computed from h. What
stands outside the formula says why. The field `Unified` of a method's file says all this in four
parts. Parameters are those that train on tiny-gpt at the method's default settings, without a new
head. Whether a method merges was tried, with the same settings. Mixed batch: rows of one batch may
carry different adapters of the method. The lecture on this page is [15_unified](15_unified.ipynb).
"""

from __future__ import annotations

from typing import Any

from minipeft.course.method_map import PARTS
from minipeft.display.table import Table

WAYS = {  # to compose -> the slides' formula, and what each pass of a tuned model goes through more
    "parameter": ("f'(x) = f_{θ ⊕ φ}(x)", "nothing more, once it is merged"),
    "function": ("f'(x) = f_φ(f_θ(x))", "more modules, unless it merges"),
    "input": ("f'(x) = f_θ([φ, x])", "a longer context"),
}
NAMES = ("method", "parameters", "Δh", "insertion", "h", "in its place", "merges", "mixed batch",
         "lecture")  # fmt: skip


def page(rows: list[dict[str, Any]], markdown: bool = False) -> str:
    """The rows as three tables, one for each way to compose; in Markdown with a head and links."""
    blocks = [f"# {__doc__.strip()}"] * markdown
    for way, (formula, more) in WAYS.items():
        title = "## " * markdown + f"{way.title()} composition: {formula}"
        closing = f"Each pass of a tuned model goes through {more}."
        cells = [_cells(row, markdown) for row in rows if row["compose"] == way]
        table = Table(NAMES, cells, "lrl", title, closing)
        blocks.append(table.markdown() if markdown else table.text())
    return "\n\n".join(blocks)


def _cells(row: dict[str, Any], markdown: bool) -> list[str]:
    name = f"[{row['method']}](../{row['file']})" if markdown else row["method"]
    mixed = "yes" if row["by_row"] else "no"
    parts = map(row.__getitem__, PARTS)
    return [name, f"{row['parameters']:,}", *parts, row["merges"], mixed, row["lecture"]]
