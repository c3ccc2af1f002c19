"""Where each method's learning rate comes from: one small sweep, the same for all.

`learning_rates` sets the defaults, on sentiment. `route_rates` looks at the neighbours of each
default on remap-route, the task of `minipeft compare`, with as many steps as that takes.

The rule of `best` was settled with this sweep before our eyes. Accuracy alone, the loss deciding
a draw, would have given lora and qlora 3e-3 in place of 1e-2, subspace 3e-3 in place of 1e-1, and
every other method the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minipeft.contract import attach
from minipeft.course.compare import DEFAULT, Plan, judge, learnt
from minipeft.course.experiments.runner import Experiment, Outcome, Results, Settings, base
from minipeft.methods import METHODS
from minipeft.tasks import get_task
from minipeft.training.batches import task_batches
from minipeft.training.evaluation import evaluate
from minipeft.training.loop import fit

SWEPT = (
    "full", "topk", "bitfit", "lora", "dora", "vera", "pissa", "adalora", "loftq", "qlora",
    "subspace", "magnitude", "movement",
)  # fmt: skip
TASK = "sentiment"
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS = (60, 150)
SEEDS = (0, 1)
VALIDATION = 400  # examples
TIMES = (0.333, 1.0, 3.0)  # of a default rate: its neighbours on the task of compare
DRAW = 1.5  # points: a standard error of a score near 90 % on VALIDATION examples, which all share


def _settings(fast: bool) -> list[Settings]:
    if fast:
        return [{"method": m, "lr": RATES[2], "steps": 4, "seed": 0} for m in SWEPT]
    return [
        {"method": method, "lr": lr, "steps": steps, "seed": seed}
        for method in SWEPT
        for lr in RATES
        for steps in STEPS
        for seed in SEEDS
    ]


def sweep(settings: Settings) -> Outcome:
    """Train a method with its default settings; its score on validation data."""
    kind, seed = METHODS[settings["method"]], settings["seed"]
    method = kind.from_fields({"seed": seed} if hasattr(kind, "seed") else {})
    task = get_task(TASK)
    with attach(base(), method):
        history = fit(
            base(), task, steps=settings["steps"], lr=settings["lr"], seed=seed, quiet=True
        )
        score = evaluate(base(), task, "validation", n=VALIDATION)
    return {
        "accuracy": score["accuracy"],
        "loss": score["loss"],
        "step_seconds": sum(history.seconds) / len(history.seconds),
    }


def best(found: Results, rates: Sequence[float], **settings: Any) -> float:
    """The rate with the lowest mean loss of those whose mean accuracy is within DRAW of the best.

    Means are over all runs with these settings.
    """
    accuracy = {lr: found.mean("accuracy", lr=lr, **settings) for lr in rates}
    near = [lr for lr in rates if accuracy[lr] > max(accuracy.values()) - DRAW]
    return min(near, key=lambda lr: found.mean("loss", lr=lr, **settings))


def _route_settings(fast: bool) -> list[Settings]:
    return [
        {"method": method, "times": times, "steps": Plan.steps, "seed": seed}
        for seed in (0, 1, 2)[: 1 if fast else None]
        for method in DEFAULT[: 1 if fast else None]
        for times in TIMES
    ]


def route(settings: Settings) -> Outcome:
    """Train as `compare` does, at a multiple of the default rate; scores on validation data."""
    kind, seed = METHODS[settings["method"]], settings["seed"]
    method = kind.from_fields({"seed": seed} if hasattr(kind, "seed") else {})
    plan, lr = Plan(steps=settings["steps"]), settings["times"] * kind.lr
    task = get_task(plan.task)
    source = task_batches(base(), task, "train", plan.n, 0, seed)
    with attach(base(), method):
        history = fit(
            base(), source, steps=plan.steps, lr=lr, batch=plan.batch, seed=seed, quiet=True,
            evaluation=judge(task),
        )  # fmt: skip
        score = evaluate(base(), task, "validation", n=VALIDATION)
    return {"accuracy": score["accuracy"], "loss": score["loss"],
            "steps_to_95": learnt(history.evaluations)}  # fmt: skip


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
    ),
)
