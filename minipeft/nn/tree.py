"""A model as text: the tree of its parts, alike ones in one line, and a table of its sizes."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from minipeft.backend import is_array
from minipeft.display.table import Table
from minipeft.engine import Tensor

STEP = "  "


def tree(module: Any) -> str:
    """The kind and size of a module, then a line for each part below, indented by its depth."""
    first, *below = _look(module, "")
    size = f"({module.num_parameters():,} parameters)"
    kind, _, shapes = first.partition("  ")
    lines = _folded("", module, STEP) if module.numbered else below
    return "\n".join([kind + size + (f"  {shapes}" if shapes else ""), *lines])


def _look(module: Any, indent: str) -> list[str]:
    """Kind and shapes of a part, what it is wrapped around, and its own parts below."""
    lines, part = [f"{type(module).__name__}{_shapes(module)}"], module
    while part.wraps:
        part = vars(part)["base"]
        lines.append(f"{indent}{STEP}on {type(part).__name__}{_shapes(part)}")
    for name, child in module.children():
        if child.numbered:
            lines += _folded(f"{name} ", child, indent + STEP)
        else:
            first, *rest = _look(child, indent + STEP)
            lines += [f"{indent}{STEP}{name}: {first}", *rest]
    return lines


def _folded(lead: str, modules: Any, indent: str) -> list[str]:
    """The lines of numbered parts; those that follow each other and look alike are one."""
    looks = [(i, _look(part, indent)) for i, part in enumerate(modules)]
    lines = []
    for (first, *rest), run in groupby(looks, key=lambda look: look[1]):
        alike = [i for i, _ in run]
        span = f"{alike[0]}-{alike[-1]}" if len(alike) > 1 else f"{alike[0]}"
        lines += [f"{indent}{lead}{span}: {first}", *rest]
    return lines


def _shapes(module: Any) -> str:
    """Name and shape of a module's own arrays; of those that are no Parameters the dtype too."""
    found = []
    for name, value in vars(module).items():
        array = value.data if isinstance(value, Tensor) else value
        if is_array(array):
            form = "x".join(map(str, array.shape)) or "1"
            kind = "" if isinstance(value, Tensor) else f" {array.dtype}"
            found.append(f"{name} {form}{kind}")
    return f"  {', '.join(found)}" if found else ""


class Summary(Table):
    """Rows (path, shape, parameters, trainable, bytes) that print as text and as HTML."""

    def __init__(self, rows: list[tuple[str, tuple[int, ...], int, bool, int]]) -> None:
        self.rows = rows
        self.total = sum(r[2] for r in rows)
        self.trainable = sum(r[2] for r in rows if r[3])
        cells = [
            (path, "x".join(map(str, shape)), f"{n:,}", "yes" if trains else "", f"{size:,}")
            for path, shape, n, trains, size in rows
        ]
        share = 100 * self.trainable / self.total if self.total else 0.0
        trains, size = f"{self.trainable:,} ({share:.2f} %)", f"{sum(r[4] for r in rows):,}"
        total = ("total", "", f"{self.total:,}", trains, size)
        names = ("path", "shape", "parameters", "trains", "bytes")
        super().__init__(names, [*cells, total], "llr")
