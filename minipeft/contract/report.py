"""What trains, how strong its gradients were, how far it moved, and what never moved."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import to_numpy
from minipeft.contract.handle import Handle
from minipeft.display.table import Table


class AdapterReport(Table):
    """A snapshot of a handle, as text and as HTML.

    rows         a dict per trained array: path, shape, count, gradient (mean norm over the steps
                 that fit watched, None before any), update (norm of what changed since attaching)
    never_moved  paths whose update is exactly 0
    """

    def __init__(self, at: Handle) -> None:
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
        steps = f" ({self.steps} steps)" if self.steps else ""
        names = ("trained", "shape", "count", f"mean |gradient|{steps}", "|update|")
        cells = [
            (
                r["path"],
                "x".join(map(str, r["shape"])),
                f"{r['count']:,}",
                "" if r["gradient"] is None else f"{r['gradient']:.2e}",
                f"{r['update']:.2e}" if r["update"] else "never moved",
            )
            for r in self.rows
        ]
        super().__init__(names, cells, "llr", repr(at), self._closing())

    def _closing(self) -> str:
        if not self.steps:
            return "No step was watched yet: call fit(model, …) and look again."
        if not self.never_moved:
            return "Everything that trains has moved."
        return f"{len(self.never_moved)} of {len(self.rows)} arrays never moved."
