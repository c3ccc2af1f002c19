"""Where each method's learning rate comes from: one small sweep, the same for all.

`learning_rates` sets the defaults, on sentiment. `route_rates` looks at the neighbours of each
default on remap-route, the task of `minipeft compare`, with as many steps as that takes.

`linear_probe` is not swept: it needs a new head, and the task is answered by words. Of `prefix` and
`infix` the best rate is the edge of what was tried; both start far below the base on this task,
as a random prefix takes a share of every softmax, and end there within these steps.

The rule of `best` was settled with this sweep before our eyes. Accuracy alone, the loss deciding
a draw, would have given lora and qlora 3e-3 in place of 1e-2, subspace 3e-3 in place of 1e-1, and
every other method the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minipeft.contract import Method
from minipeft.course.compare import DEFAULT, Plan, judge, learnt
from minipeft.course.experiments.runner import Experiment, Outcome, Results, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import trial
from minipeft.methods import METHODS
from minipeft.tasks import get_task

SWEPT = (
    "full", "topk", "bitfit", "lora", "dora", "vera", "pissa", "adalora", "loftq", "qlora",
    "subspace", "magnitude", "movement", "adapter", "parallel", "ia3", "ln_tuning", "prefix",
    "prompt", "ptuning", "infix",
)  # fmt: skip
TASK = "sentiment"
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS = (60, 150)
SEEDS = (0, 1)
VALIDATION = 400  # examples
TIMES = (0.333, 1.0, 3.0)  # of a default rate: its neighbours on the task of compare
DRAW = 1.5  # points: a standard error of a score near 90 % on VALIDATION examples, which all share


_settings = grid(
    method=always(SWEPT), lr=Axis(RATES, fast=RATES[2]), steps=Axis(STEPS, fast=4), seed=SEEDS
)


def made(name: str, seed: int) -> Method:
    """A method with its default settings, and this seed if it has one."""
    kind = METHODS[name]
    return kind.from_fields({"seed": seed} if hasattr(kind, "seed") else {})


def sweep(settings: Settings) -> Outcome:
    """Train a method with its default settings; its score on validation data."""
    seed = settings["seed"]
    with trial(base(), made(settings["method"], seed), get_task(TASK), seed, draw=0) as it:
        seconds = it.fit(steps=settings["steps"], lr=settings["lr"]).seconds
        score = it.score("validation", VALIDATION)
    return score | {"step_seconds": sum(seconds) / len(seconds)}


def best(found: Results, rates: Sequence[float], **settings: Any) -> float:
    """The rate with the lowest mean loss of those whose mean accuracy is within DRAW of the best.

    Means are over all runs with these settings.
    """
    accuracy = {lr: found.mean("accuracy", lr=lr, **settings) for lr in rates}
    near = [lr for lr in rates if accuracy[lr] > max(accuracy.values()) - DRAW]
    return min(near, key=lambda lr: found.mean("loss", lr=lr, **settings))


_route_settings = grid(
    outer="seed", method=DEFAULT, times=always(TIMES), steps=Plan.steps, seed=(0, 1, 2)
)


def route(settings: Settings) -> Outcome:
    """Train as `compare` does, at a multiple of the default rate; scores on validation data."""
    name, seed = settings["method"], settings["seed"]
    plan, lr = Plan(steps=settings["steps"]), settings["times"] * METHODS[name].lr
    task = get_task(plan.task)
    with trial(base(), made(name, seed), task, seed, plan.n) as it:
        history = it.fit(steps=plan.steps, lr=lr, batch=plan.batch, evaluation=judge(task))
        score = it.score("validation", VALIDATION)
    return score | {"steps_to_95": learnt(history.evaluations)}


EXPERIMENTS = (
    Experiment(
        "route_rates",
        "Are the default rates good on the task that compare runs, and is its run long enough?",
        _route_settings,
        route,
    ),
    Experiment(
        "learning_rates",
        "Which learning rate does each method want? Every method gets the same trials.",
        _settings,
        sweep,
        timed=("step_seconds",),
    ),
)
