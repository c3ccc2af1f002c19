"""The state of a run in a file, from which it can go on, and what is true however it ends.

Every state, on disk or in memory, is that of a whole step: what changes it runs `unbroken`.
"""

from __future__ import annotations

import json
import platform
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.checks import Checked, setting, whole
from minipeft.display.progress import Progress
from minipeft.engine.blas import in_force
from minipeft.nn.finite import NonFinite, is_finite
from minipeft.storage.checkpoint import (
    CheckpointError,
    fingerprint,
    load_arrays,
    save_arrays,
    told,
    version_of,
)
from minipeft.storage.files import check_writable, sweep
from minipeft.training.batches import Batch
from minipeft.training.looks import Best, Looks
from minipeft.training.optim import Optimizer

VERSION = 1  # of the format of a training state


@contextmanager
def unbroken() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block, where it does what it always does."""
    # signals come to the main thread alone; a handler that is not Python's cannot be put back
    if threading.current_thread() is not threading.main_thread() or not (
        usual := signal.getsignal(signal.SIGINT)
    ):
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if waiting:
            signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True)
class Checkpoint(Checked):
    """The file of a run's state, and after how many steps it is written again."""

    path: str | Path
    every: int = setting(500, whole(1))


@dataclass
class State:
    """A run on disk: what trains, the optimizer's and the methods' arrays, the history.

    every     after how many steps it is saved again
    settings  what must be the same for the run to go on; they are in the file
    Raises  OSError if the file cannot be written: now, not after hours
    """

    path: Path
    every: int
    settings: dict[str, Any]
    opt: Optimizer
    handles: list[Any]
    history: Any
    best: Best | None = None
    saved: tuple[int, int] = (0, 0)  # steps and evaluations that the file holds

    def __post_init__(self) -> None:
        check_writable(self.path)

    def save(self) -> None:
        """Write the state after a step, whole or not at all, if the file does not hold it yet.

        Raises  NonFinite if it holds NaN or infinity; the file is as it was
        """
        done = self.opt.steps, len(self.history.evaluations)
        if done == self.saved:
            return
        arrays = self.opt.arrays() | {f"w:{name}": to_numpy(p.data) for name, p in self.opt.params}
        for i, handle in enumerate(self.handles):
            state = handle.method.state(handle)
            arrays |= {f"state:{i}:{name}": to_numpy(a) for name, a in state.items()}
        best = self.best.saved() if self.best else {}
        arrays |= {f"best:{name}": to_numpy(a) for name, a in best.items()}
        bad = [name for name, a in arrays.items() if a.dtype.kind == "f" and not is_finite(a)]
        if bad:
            raise NonFinite(
                f"after step {self.opt.steps} the state holds NaN or infinity in "
                f"{', '.join(bad[:4])}: it was not saved, and {self.path} is as it was"
            )
        facts = {
            "format": "minipeft-training",
            "version": str(VERSION),
            "settings": json.dumps(self.settings),
            "machine": machine(),
            "steps": str(self.opt.steps),
            "history": json.dumps(vars(self.history)),
        }
        save_arrays(self.path, arrays, facts)
        self.saved = done

    def after(self, done: int) -> None:
        """After so many steps."""
        if done % self.every == 0:
            self.save()

    def resume(self) -> int:
        """Go back to a saved state, if there is one; returns the steps done.

        Raises  CheckpointError if the file is of another run
        """
        sweep(self.path)
        if not self.path.is_file():
            return 0
        arrays, facts = load_arrays(self.path)
        history = self._check(arrays, facts)
        self._load_states([_under(arrays, f"state:{i}:") for i in range(len(self.handles))])
        for name, p in self.opt.params:  # nothing is refused from here on
            p.data = xp_of(p.data).asarray(arrays.pop(f"w:{name}"))
        self.opt.load_arrays(arrays, int(facts["steps"]))
        for key, values in history.items():
            setattr(self.history, key, values)
        if self.best:
            self.best.load(_under(arrays, "best:"), self.history)
        self.saved = self.opt.steps, len(self.history.evaluations)
        return self.opt.steps

    def _load_states(self, states: list[dict[str, Any]]) -> None:
        """Give each method its state; if one refuses, those before it get theirs back."""
        before: list[tuple[Any, dict[str, Any]]] = []
        for handle, state in zip(self.handles, states, strict=True):
            own = handle.method.state(handle)
            try:
                if state:
                    handle.method.load_state(handle, state)
            except BaseException:
                for other, was in before:
                    other.method.load_state(other, was)
                raise
            before += [(handle, own)] if state else []

    def _check(self, arrays: dict[str, Any], facts: dict[str, str]) -> dict[str, Any]:
        """The history, after a look at everything that the file tells."""
        if facts.get("format") != "minipeft-training":
            raise CheckpointError(
                f"{self.path} is no training state: format={facts.get('format')!r:.40}"
            )
        there, history = (told(self.path, facts, key, dict) for key in ("settings", "history"))
        steps, own = facts.get("steps", ""), vars(self.history)
        if not (steps.isascii() and steps.isdigit() and len(steps) < 12) or "machine" not in facts:
            raise CheckpointError(f"{self.path} does not tell its steps and its machine")
        lists = {key: type(values) for key, values in history.items()}
        if (
            lists != dict.fromkeys(own, list)
            or len(history["loss"]) != int(steps)
            or not all(type(v) in (int, float) for k in own for v in _numbers(history[k]))
        ):
            raise CheckpointError(f"{self.path} must hold the history of {steps:.20} steps, as "
                                  f"lists of {', '.join(own)}")  # fmt: skip
        looks = history["evaluations"]
        if self.best and not all(isinstance(e, dict) and self.best.key in e for e in looks):
            raise CheckpointError(f"{self.path} has evaluations without {self.best.key!r}, by "
                                  "which this run keeps its best weights")  # fmt: skip
        if "version" in facts:
            version_of(self.path, facts, VERSION)
        elif isinstance(there.get("methods"), list):  # when fp4-bnb was called fp4
            there["methods"] = [str(m).replace("'fp4'", "'fp4-bnb'") for m in there["methods"]]
        wanted = {"loss": None} | json.loads(json.dumps(self.settings))  # None: the cross-entropy
        other = [k for k in wanted if there.get(k) != wanted[k]]
        if other:
            odd = "; ".join(
                f"{k}: {there.get(k)!r:.200} there, {wanted[k]!r:.200} here" for k in other
            )
            raise CheckpointError(
                f"{self.path} belongs to another run ({odd:.1200}). Give another file, or delete it"
            )
        self._check_arrays(arrays)
        if facts["machine"] != machine():
            warnings.warn(
                f"{self.path} was written with {facts['machine']:.200}, this is {machine()}: the "
                "run goes on, but its last bits may differ",
                stacklevel=4,
            )
        return history

    def _check_arrays(self, arrays: dict[str, Any]) -> None:
        """Refuse arrays of other names, shapes or types than this run's own."""
        own = {f"w:{name}": p.data for name, p in self.opt.params} | self.opt.arrays()
        for i, handle in enumerate(self.handles):
            state = handle.method.state(handle)
            own |= {f"state:{i}:{name}": a for name, a in state.items()}
        if any(name.startswith("best:") for name in arrays):
            own |= {f"best:{name}": p.data for name, p in self.opt.params}
        wanted = {name: (a.shape, str(a.dtype)) for name, a in own.items()}
        found = {name: (a.shape, str(a.dtype)) for name, a in arrays.items()}
        odd = sorted(k for k in found.keys() | wanted if found.get(k) != wanted.get(k))[:4]
        if odd:
            raise CheckpointError(f"{self.path} holds the state of other parameters: "
                                  f"{', '.join(odd):.400}")  # fmt: skip


def state_of(
    checkpoint: Checkpoint, asked: dict[str, Any], model: Any, data: Batch, opt: Optimizer,
    looks: Looks,
) -> State:  # fmt: skip
    """A run's state on disk; it belongs to these settings, methods, frozen arrays and data.

    data  the run's first batch
    """
    handles = list(model.handles)
    frozen = {path: p.data for path, p in model.named_parameters() if not p.requires_grad}
    arrays = {name: getattr(data, name) for name in ("ids", "labels", "mask")}
    arrays |= {f"more:{name}": a for name, a in (data.more or {}).items()}
    settings = asked | {
        "methods": [repr(handle.method) for handle in handles],
        "frozen": fingerprint(frozen),
        "data": fingerprint(arrays),
    }
    path, every = Path(checkpoint.path), checkpoint.every
    return State(path, every, settings, opt, handles, looks.history, looks.best)


def _numbers(values: list[Any]) -> list[Any]:
    """The numbers of a list, or those in the objects of a list."""
    return [n for v in values for n in (v.values() if isinstance(v, dict) else (v,))]


def _under(arrays: dict[str, Any], lead: str) -> dict[str, Any]:
    """The arrays whose names begin so, without that beginning."""
    return {k.removeprefix(lead): a for k, a in arrays.items() if k.startswith(lead)}


class Guard:
    """What holds however a run ends: no gradient stays, and the best weights are put back.

    A run that is stopped saves its last whole step first, and the error says where that is.
    """

    def __init__(self, model: Any, saved: State | None, best: Best | None, show: Progress) -> None:
        self.model, self.saved, self.best, self.show = model, saved, best, show
        self.whole = True  # no step is half done

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step's changes; a Ctrl-C waits for their end."""
        with unbroken():
            self.whole = False
            yield
            self.whole = True

    def __enter__(self) -> Guard:
        self._forget_gradients()
        return self

    def __exit__(self, _: Any, error: BaseException | None, *__: object) -> None:
        try:
            with unbroken():
                if error is not None:
                    self.show.stop()
                    if self.saved:
                        self._save(self.saved, error)
                self._forget_gradients()
                if self.best:
                    self.best.put_back()
        except KeyboardInterrupt:
            if not isinstance(error, KeyboardInterrupt):  # the first one tells where the state is
                raise

    def _forget_gradients(self) -> None:
        """Whoever left them, also at what is frozen."""
        for p in self.model.parameters():
            p.grad = None

    def _save(self, saved: State, error: BaseException) -> None:
        try:
            if self.whole and not isinstance(error, NonFinite):  # which would come again
                saved.save()
        except Exception as other:
            error.add_note(f"The state was not saved: {other}")
        steps = saved.saved[0]
        if steps:
            error.add_note(f"{steps} steps are in {saved.path}: the same call, or command, goes "
                           "on from there")  # fmt: skip


def machine() -> str:
    """What the bits of a run depend on beside its settings."""
    return ", ".join([platform.machine(), f"NumPy {np.__version__}", in_force()])
