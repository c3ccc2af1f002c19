"""The ledger as numbers, text and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from minipeft.display.table import Table

Bytes = dict[str, int]
HALF, TRAINED = 2, 16  # bytes per parameter in mixed precision: frozen, trained with Adam


class Ledger:
    """Predicted costs of a step, beside measured ones once `compare` was given them.

    step        batch, length, optimizer, dtype, recompute
    parameters  total (of the base, a new head included), trainable, added (by methods)
    predicted   bytes: weights (the base, a method's copies and additions), optimizer, gradients
                (all of them, after backward), activations (what the tape keeps, after forward),
                temporary (the rest of the peak, over the larger of these two), peak
    measured    the same, or None
    flops       of products, two for a multiply and add: forward, backward
    operations  a dict each: operation, calls, kept (bytes), forward, backward, and measured
    """

    def __init__(
        self, title: str, step: dict, parameters: Bytes, predicted: Bytes, flops: Bytes,
        operations: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        self.step, self.parameters, self.predicted = step, parameters, predicted
        self.flops, self.operations, self.title = flops, operations, title
        self.measured: Bytes | None = None

    def compare(self, measured: tuple[Bytes, Bytes]) -> None:
        """Put what `measure` gave beside the prediction."""
        self.measured, by_op = measured
        for row in self.operations:
            row["measured"] = by_op.get(row["operation"], 0)

    def differences(self) -> dict[str, float]:
        """(predicted - measured) / measured, of the temporary bytes in shares of the peak."""
        if self.measured is None:
            raise ValueError("nothing was measured: give compare() what measure() returns")
        over = self.measured | {"temporary": self.measured["peak"]}
        return {
            k: (n - self.measured[k]) / over[k] if over[k] else 0.0
            for k, n in self.predicted.items()
        }

    def papers(self) -> dict[str, int]:
        """Bytes as papers count them: in mixed precision, without activations.

        2 for each weight in half precision; what Adam trains needs 2 more for its gradient and
        4 each for a float32 copy and the two moments. Hu et al. 2021 report 1.2 TB -> 350 GB for
        GPT-3: the second is the weights in half precision; the first is 6.9 bytes a parameter,
        of which the paper gives no account.
        """
        n = self.parameters
        frozen = n["total"] - (n["trainable"] - n["added"])
        return {
            "weights in half precision": HALF * n["total"],
            "full fine-tuning with Adam": TRAINED * n["total"],
            "this method with Adam": HALF * frozen + TRAINED * n["trainable"],
            "saved per task": HALF * n["trainable"],
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        facts = ("step", "parameters", "predicted", "measured", "flops", "operations")
        return {name: getattr(self, name) for name in facts} | {"papers": self.papers()}

    def tables(self) -> list[Table]:
        """Bytes by kind, costs by operation, and what papers count."""
        measured, seen = self.measured or {}, self.measured is not None
        apart = self.differences() if seen else {}
        cells = [
            (k, size(n), *((size(measured[k]), f"{100 * apart[k]:+.1f} %") if seen else ()))
            for k, n in self.predicted.items()
        ]
        by_op = [
            (r["operation"], f"{r['calls']:,}", size(r["kept"]),
             *((size(r["measured"]),) if seen else ()), flops(r["forward"]), flops(r["backward"]))
            for r in sorted(self.operations, key=lambda r: -r["kept"])
        ]  # fmt: skip
        by_op.append(
            ("all", "", size(sum(r["kept"] for r in self.operations)),
             *((size(sum(r["measured"] for r in self.operations)),) if seen else ()),
             flops(self.flops["forward"]), flops(self.flops["backward"]))
        )  # fmt: skip
        papers = [(k, size(n)) for k, n in self.papers().items()]
        both = ("measured", "difference") if seen else ()
        costs = ("operation", "calls", "keeps", *both[:1], "FLOP forward", "backward")
        return [
            Table(("a step here", "predicted", *both), cells, "lr"),
            Table(costs, by_op, "lr"),
            Table(("as papers count", "bytes"), papers, "lr"),
        ]

    def _heading(self) -> str:
        s, n = self.step, self.parameters
        share = 100 * n["trainable"] / n["total"]
        return (f"{self.title}: {n['total']:,} parameters, {n['trainable']:,} train "
                f"({share:.4g} %); {s['batch']} x {s['length']}, {s['optimizer']}, "
                f"{s['dtype']}{', blocks recomputed' if s['recompute'] else ''}")  # fmt: skip

    def __str__(self) -> str:
        return "\n\n".join([self._heading(), *(table.text() for table in self.tables())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tables = "".join(table.html() for table in self.tables())
        return f"<p>{escape(self._heading())}</p>{tables}"


def size(n: int) -> str:
    """Bytes in a unit that suits them: 1 MB is 10^6."""
    return _in_units(n, ("B", "kB", "MB", "GB", "TB"))


def flops(n: int) -> str:
    """Floating-point operations in a unit that suits them."""
    return _in_units(n, ("", "k", "M", "G", "T", "P", "E"))


def _in_units(n: float, units: Sequence[str]) -> str:
    if abs(n) < 1000:
        return f"{n:.0f} {units[0]}".rstrip()
    step = min(len(units) - 1, (len(str(int(abs(n)))) - 1) // 3)
    return f"{n / 1000**step:.4g} {units[step]}"
