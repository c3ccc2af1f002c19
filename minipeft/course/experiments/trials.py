"""What most experiments do: attach a method to a base, train it, score it on a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.contract import Attached, Method, attach
from minipeft.course.experiments.runner import Outcome
from minipeft.training.batches import task_batches
from minipeft.training.evaluation import evaluate
from minipeft.training.looks import History
from minipeft.training.loop import fit


@dataclass(frozen=True)
class Trial:
    """A model with a method attached, and the examples of a task that it trains on."""

    model: Any
    task: Any
    source: Any
    at: Attached
    seed: int

    def fit(self, **how: Any) -> History:
        """Train on the examples in an order that the seed draws. how: as `fit` takes it."""
        return fit(self.model, self.source, seed=self.seed, quiet=True, **how)

    def score(self, split: str, n: int) -> Outcome:
        """Accuracy and loss on n examples of a split."""
        found = evaluate(self.model, self.task, split, n=n)
        return {"accuracy": found["accuracy"], "loss": found["loss"]}


@contextmanager
def trial(
    model: Any, method: Method, task: Any, seed: int, n: int | None = None, draw: int | None = None
) -> Iterator[Trial]:
    """Attach a method that will train on n examples of a task; it is detached at the end.

    draw  the seed that draws the examples, where it is not that of the order
    """
    source = task_batches(model, task, "train", n, 0, seed if draw is None else draw)
    with attach(model, method) as at:
        yield Trial(model, task, source, at, seed)


def score_after(
    model: Any, method: Method, task: Any, seed: int, split: str, test: int,
    n: int | None = None, draw: int | None = None, **how: Any,
) -> Outcome:  # fmt: skip
    """Train, and score on `test` examples of a split. how: as `fit` takes it.

    Returns  accuracy, loss, train_loss (over the last 20 steps), trainable (how many parameters)
    """
    with trial(model, method, task, seed, n, draw) as it:
        history = it.fit(**how)
        late = float(np.mean(history.loss[-20:]))
        return it.score(split, test) | {"train_loss": late, "trainable": it.at.count()}
