"""What looks at a run from outside: evaluations, the best weights they found, and `watch`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minipeft.backend import Array, is_whole, xp_of
from minipeft.checks import Checked, setting, whole


@dataclass
class History:
    """What a run did, as plain lists: one entry a step, and one an evaluation."""

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)

    def add(self, loss: float, lr: float, seconds: float) -> None:
        """A step is done."""
        self.loss.append(loss)
        self.lr.append(lr)
        self.seconds.append(seconds)


@dataclass(frozen=True)
class Evaluation(Checked):
    """When a run is evaluated, and what follows.

    of        a function of the model; the numbers of the dict that it returns go to the history
    every     after so many steps, beside the end of the run
    keep      which of its numbers decides what weights the run ends with: the best ones. "loss"
              is best low, any other best high; None ends with the last
    patience  stop after so many evaluations in a row without a better one
    """

    of: Callable[[Any], dict[str, float]]
    every: int | None = setting(None, whole(1))
    keep: str | None = None
    patience: int | None = setting(None, whole(1))

    def __post_init__(self) -> None:
        if not callable(self.of):
            raise ValueError(f"evaluation= must be a function, got {self.of!r:.60}")
        super().__post_init__()
        if self.keep is not None and not (isinstance(self.keep, str) and self.keep):
            raise ValueError(f"keep= must name a number of the evaluation, got {self.keep!r}")
        if self.patience and not self.keep:
            raise ValueError(
                "patience= needs keep=: which number of the evaluation is to get better"
            )


class Looks:
    """What follows each step of a run: its evaluation, when one is due, and the call of `watch`."""

    def __init__(
        self, model: Any, steps: int, history: Any, params: list[tuple[str, Any]],
        evaluation: Evaluation | None, watch: Callable[[int], None] | None,
    ) -> None:  # fmt: skip
        self.model, self.steps, self.history = model, steps, history
        self.evaluation, self.watch = evaluation, watch
        keep = evaluation and evaluation.keep
        self.best = Best(keep, params) if keep else None

    def before(self, first: int) -> None:
        """Before the first step, or where a stopped run goes on: what it did not get to."""
        if first == 0 and self.watch:
            self.watch(0)
        elif first and self._due(first):
            self.after(first)

    def after(self, done: int) -> None:
        """After so many steps."""
        if self.evaluation and self._due(done):
            found = _numbers(self.evaluation.of(self.model), done)
            if self.best:
                self.best.look(found)
            self.history.evaluations.append(found)
        if self.watch:
            self.watch(done)

    def enough(self) -> bool:
        """Whether patience has come to its end."""
        patience = self.evaluation and self.evaluation.patience
        return bool(patience and self.best and self.best.since >= patience)

    def _due(self, done: int) -> bool:
        """Whether the model is to be evaluated after so many steps, and was not yet."""
        asked, made = self.evaluation, self.history.evaluations
        if not asked or (made and made[-1]["step"] == done):
            return False
        return done == self.steps or bool(asked.every and done % asked.every == 0)


@dataclass
class Best:
    """The best weights that the evaluations of a run have found.

    key  which number of the evaluation decides: "loss" is best low, others are best high
    """

    key: str
    params: list[tuple[str, Any]]
    value: float = -math.inf
    since: int = 0  # evaluations since the best one
    weights: dict[str, Array] | None = None

    def look(self, found: dict[str, float]) -> None:
        """Take note of an evaluation; of two equals the first stays."""
        if self.key not in found:
            have = ", ".join(k for k in found if k != "step") or "nothing"
            raise ValueError(f"keep={self.key!r}, but the evaluation returns {have}")
        value = -found[self.key] if self.key == "loss" else found[self.key]
        if value > self.value:
            self.weights = {name: p.data.copy() for name, p in self.params}
            self.value, self.since = value, 0
        else:
            self.since += 1

    def put_back(self) -> None:
        """Give the parameters their best values."""
        for name, p in self.params:
            if self.weights is not None:
                p.data = self.weights[name]

    def saved(self) -> dict[str, Array]:
        """The best weights, for a state."""
        return self.weights or {}

    def load(self, weights: dict[str, Any], history: Any) -> None:
        """Take back the weights, and the count from the history."""
        if not weights:
            return
        for found in history.evaluations:
            self.look(found)
        self.weights = {n: xp_of(p.data).asarray(weights[n]) for n, p in self.params}


def _numbers(found: Any, step: int) -> dict[str, float]:
    """What an evaluation returned, as Python's own numbers, and the step."""
    if not isinstance(found, Mapping):
        raise TypeError(f"evaluation= must return a dict of numbers, got {found!r:.60}")
    told: dict[str, float] = {"step": float(step)}
    for name, value in found.items():
        if name == "step":
            raise ValueError("evaluation= returns 'step', which the history has already")
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"evaluation= must return numbers, but {name!r} is {value!r:.60}")
        told[name] = int(value) if is_whole(value) else float(value)
    return told
