"""One step's loss and gradients, in one go or with the batch's parts in threads of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng, upload, xp_of
from minipeft.engine import Tensor, context, fused, running
from minipeft.training.batches import IGNORE, Batch
from minipeft.training.hidden import HiddenStates

# of a model and a batch: a mean over the batch's labels that count
Loss = Callable[[Any, Batch], Tensor]


def loss_of(model: Any, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of a batch; the head runs only where there is a label."""
    xp = xp_of(next(model.places()).parameter.data)
    counts, labels, given = batch.labels != IGNORE, batch.labels, batch.given()
    if labels.ndim > 1:
        if model.causal:
            given.pop("mask", None)  # padding is on the right, where no position looks
        if not counts.all():
            given["at"], labels = counts.nonzero(), labels[counts]
    ids, labels, *there = upload(xp, batch.ids, labels, *given.values())
    logits = model(ids, **dict(zip(given, there, strict=True)))  # (…, V)
    return fused.cross_entropy(logits, labels, ignore=IGNORE, smoothing=smoothing)


class Workers:
    """Forward and backward passes for fit: one thread, or several with a part of the batch each.

    NumPy lets go of Python's lock inside its loops, so threads that share nothing but arrays run
    side by side. Each keeps its gradients apart; they are summed in a fixed order, so that a run
    repeats to the bit. With more threads the sums, and so the last bits, are others.
    """

    def __init__(
        self, model: Any, params: list[tuple[str, Any]], threads: int, recompute: bool,
        cached: bool, loss: Loss,
    ) -> None:  # fmt: skip
        self.model, self.params = model, params
        self.recompute, self.loss = recompute, loss
        self.states = HiddenStates(model) if cached else None
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self.threads = threads

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown()

    def gradients(
        self, data: Batch, rng: Rng, labels: int | None = None, penalties: bool = True
    ) -> float:
        """Add the gradients of a batch's share in the loss of a step to `.grad`.

        labels     how many labels count in all batches of the step, if it has several: each
                   label weighs the same
        penalties  whether the methods' penalties, which count once a step, are in this share
        Returns    the share, a sum over the batch's labels divided by `labels`; where it is not
                   finite no gradient is added
        """
        labels = labels or label_count(data)
        if self.pool is None:
            value, found = self._work(data, rng, label_count(data) / labels, penalties)
        else:
            adapters = context().rows
            if adapters is not None and len(adapters) != len(data.ids):
                raise ValueError(f"running(rows=...) names {len(adapters)} rows, the batch has "
                                 f"{len(data.ids)}")  # fmt: skip
            work = []
            for i, (cut, part) in enumerate(_parts(data, self.threads)):
                with running(rows=adapters and adapters[cut]):
                    here = copy_context()  # a thread has none of its own
                stream, weight = rng.spawn("part", i), label_count(part) / labels
                extra = penalties and i == 0
                work.append(self.pool.submit(here.run, self._work, part, stream, weight, extra))
            done = [w.result() for w in work]
            value, found = sum(v for v, _ in done), done[0][1]
            for _, other in done[1:]:
                for key, g in other.items():
                    if key in found:
                        found[key] += g
                    else:
                        found[key] = g
        if math.isfinite(value):
            for _, p in self.params:
                g = found.get(id(p))
                if p.grad is None:
                    p.grad = g
                elif g is not None:
                    p.grad += g
        return value

    def _work(
        self, data: Batch, rng: Rng, weight: float, penalties: bool
    ) -> tuple[float, dict[int, Array]]:
        """A part's weighted loss, and its gradients by id(Parameter)."""
        found: dict[int, Array] = {}
        # NumPy need not warn: the caller looks at the loss
        hidden = self.states.of(data) if self.states else None
        with (
            running(rng=rng, recompute=self.recompute, hidden=hidden),
            np.errstate(all="ignore"),
        ):
            loss = self.loss(self.model, data)
            if not isinstance(loss, Tensor) or loss.shape:
                raise TypeError(f"loss= must return a Tensor of one number, got {loss!r:.60}")
            if weight != 1:
                loss = loss * weight
            for handle in self.model.handles if penalties else ():
                extra = handle.extra_loss()
                loss = loss if extra is None else loss + extra
            value = loss.item()
            if math.isfinite(value):
                loss.backward(into=found)
        return value, found


def _parts(data: Batch, n: int) -> list[tuple[slice, Batch]]:
    """The batch cut into n parts by rows, (which, part); those left out that hold no label."""
    cuts = np.linspace(0, len(data.ids), n + 1).round().astype(int).tolist()
    which = [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False) if a < b]
    parts = [(cut, data.part(cut)) for cut in which]
    return [(cut, part) for cut, part in parts if label_count(part)]


def label_count(data: Batch) -> int:
    """How many labels count."""
    return int((data.labels != IGNORE).sum())
