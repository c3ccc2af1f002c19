"""attach puts a method on a model, and gives a handle that saves, loads, merges and detaches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minipeft.contract import file
from minipeft.contract.handle import KEPT, Handle
from minipeft.contract.merging import MergeReport, merge
from minipeft.contract.method import Method
from minipeft.contract.report import AdapterReport
from minipeft.nn import Module


def attach(model: Module, method: Method, freeze: bool = True) -> Attached:
    """Freeze a model and put a method on it; `with attach(…) as a:` detaches at the end.

    Everything that trained before is frozen, an earlier method's parameters too, until this one
    is detached or merged. A warning tells that the earlier ones stay, unless they train nothing,
    as quantized weights do.
    freeze  False: what earlier methods train goes on training, together with this one's
    Raises  TypeError for a path (load_adapter loads) or a class; ValueError if nothing matches,
            with the names that exist, or if the same method is attached already
    """
    if isinstance(method, (str, Path)):
        raise TypeError(f"attach takes a method, got {str(method)!r}; a saved adapter is attached "
                        "with load_adapter(model, path)")  # fmt: skip
    if not isinstance(method, Method):
        got = method.__name__ if isinstance(method, type) else type(method).__name__
        raise TypeError(f"attach takes a method such as LoRA(r=8), got {got}; "
                        "a class needs its brackets")  # fmt: skip
    if not isinstance(model, Module):
        raise TypeError(f"attach takes a model, got {type(model).__name__}")
    handle = Attached(model, method, freeze)
    stay = [repr(h.method.name) for h in handle.over() if h.count()]
    if stay and freeze:
        warnings.warn(
            f"{method.name!r} goes on top of {', '.join(stay)}: what was attached before stays on "
            "the model, frozen. Unless they are to act together, detach() it first, as `with "
            "attach(…)` does at its end; attach(…, freeze=False) trains both",
            stacklevel=2,
        )
    return handle


class Attached(Handle):
    """A method on a model. It prints what trains; it saves, loads, merges and detaches."""

    def measure(self, batches: Sequence[Any]) -> None:
        """Let the method look at data before it trains, if it is one that does.

        Raises  ValueError for a method that has nothing to measure
        """
        self.need_live("measure")
        if not self.method.uses("measure"):
            raise ValueError(f"{self.method.name!r} measures nothing: it needs no data before fit")
        self.method.measure(self, batches)

    def report(self) -> AdapterReport:
        """Counts, and gradient and update norms of what trains, with the never-moved list."""
        return AdapterReport(self)

    def save(self, path: str | Path, card: dict[str, Any] | None = None) -> None:
        """Write what trains, the method's state and fields, and a fingerprint of the base.

        card  what the adapter is for, as plain values: it is kept in the file beside them
        """
        self.need_live("save")
        file.save(self, path, card)

    def load(self, path: str | Path) -> None:
        """Take over a saved adapter of the same method and base, or change nothing.

        Raises  CheckpointError for another method, other settings (the seed may differ), another
                base, missing, unexpected or misshapen arrays, NaN, or a damaged file
        """
        self.need_live("load")
        file.load(self, path)

    def merge(
        self, *, keep: bool = False, untie: bool = False, quantized: str = "refuse"
    ) -> MergeReport:
        """Turn the adapter into plain weights, all of it or nothing; the handle ends.

        keep    hold the base, so that detach() can still put it back
        untie   allow a merge at one end of a tie, which parts the two ends
        quantized  where the weight is stored as codes: "refuse"; "dequantize" keeps the sum as
                floats; "requantize" rounds it to the codebook again: another function
        Returns per part, the error of W and of the output beside what rounding explains
        Raises  NotMergeable that says which part cannot and why; the model is as it was
        """
        self.need_live("merge")
        report = merge(self, untie, quantized)
        if not keep:
            self.swaps = []
        self.end(KEPT if keep else "merged")
        return report
