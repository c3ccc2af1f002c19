"""What trains, how strong its gradients were, how far it moved, and what never moved."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from minipeft.backend import to_numpy
from minipeft.contract.handle import Handle


class AdapterReport:
    """A snapshot of a handle, as text and as HTML.

    rows         a dict per trained array: path, shape, count, gradient (mean norm over the steps
                 that fit watched, None before any), update (norm of what changed since attaching)
    never_moved  paths whose update is exactly 0
    """

    def __init__(self, at: Handle) -> None:
        self.title = repr(at)
        self.total = at.total
        self.count, self.count_head = at.count(), at.count_head()
        self.steps = max((len(g) for g in at.gradients.values()), default=0)
        self.rows: list[dict[str, Any]] = []
        for path, p in at.trainable():
            seen = at.gradients.get(path, [])
            before = at.start[path] if p.base is None else p.base.data
            change = to_numpy(p.data) - to_numpy(before)  # the model may have moved since
            moved = float(np.linalg.norm(change.reshape(-1)))
            self.rows.append(
                {
                    "path": path,
                    "shape": p.shape,
                    "count": p.size,
                    "gradient": sum(map(float, seen)) / len(seen) if seen else None,
                    "update": moved,
                }
            )
        self.never_moved = [r["path"] for r in self.rows if r["update"] == 0.0]

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                r["path"],
                "x".join(map(str, r["shape"])),
                f"{r['count']:,}",
                "" if r["gradient"] is None else f"{r['gradient']:.2e}",
                f"{r['update']:.2e}" if r["update"] else "never moved",
            )
            for r in self.rows
        ]

    @property
    def _head(self) -> tuple[str, ...]:
        steps = f" ({self.steps} steps)" if self.steps else ""
        return ("trained", "shape", "count", f"mean |gradient|{steps}", "|update|")

    def _closing(self) -> str:
        if not self.steps:
            return "No step was watched yet: call fit(model, …) and look again."
        if not self.never_moved:
            return "Everything that trains has moved."
        return f"{len(self.never_moved)} of {len(self.rows)} arrays never moved."

    def __str__(self) -> str:
        rows = [self._head, *self._cells()]
        widths = [max(len(r[i]) for r in rows) for i in range(5)]
        table = "\n".join(
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w)
                      for i, (c, w) in enumerate(zip(r, widths, strict=True)))
            for r in rows
        )  # fmt: skip
        return f"{self.title}\n{table}\n{self._closing()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(row(c, "td") for c in self._cells())
        return (
            f"<p>{html.escape(self.title)}</p><table>{row(self._head, 'th')}{body}</table>"
            f"<p>{html.escape(self._closing())}</p>"
        )
