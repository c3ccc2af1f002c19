"""LoRA's family, put to the test: LoRA, DoRA, VeRA, PiSSA, LoftQ and AdaLoRA by rank.

All of them change the four matrices of attention. The rank and the task change the learning rate
that a method wants. So each gets the same trials at each rank on each task's validation split:
its default rate, a third and three times of it, two seeds (`lora_family_rates`). The best, by the
rule of rates/runs.py, is used on the test split (`lora_family`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.contract import Attached, Method
from minipeft.course.experiments.rates.runs import best
from minipeft.course.experiments.runner import (
    Experiment,
    Outcome,
    Results,
    Settings,
    base,
    results,
)
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import trial
from minipeft.methods import METHODS, AdaLoRA, DoRA, Full, LoftQ, LoRA, PiSSA, QLoRA, VeRA
from minipeft.methods.adalora import ranks
from minipeft.methods.lora import DenseWrapper
from minipeft.tasks import get_task

Vector = np.ndarray

SEEDS = (0, 1, 2, 3, 4)
TEST, VALIDATION = 300, 400  # examples
STEPS = {"sentiment": 60, "remap-values": 300}  # few; and what LoRA half learns it in
MATRICES = ("q", "k", "v", "o")
TARGETS = tuple(f"{letter}_proj" for letter in MATRICES)
RANKS: dict[str, tuple[int, ...]] = {  # the same for all but VeRA, whose rank is nearly free
    "full": (0,), "lora": (2, 8, 32), "dora": (2, 8, 32), "vera": (16, 64, 256),
    "pissa": (2, 8, 32), "adalora": (2, 8, 32), "loftq": (2, 8, 32),
}  # fmt: skip
HALF = ("dora", 4)  # scored at the rate of rank 8, half of which it is
TIMES = (1 / 3, 1, 3)  # of a method's default rate

MADE: dict[str, Callable[[int, int], Method]] = {  # (r, seed) -> method
    "full": lambda r, seed: Full(),
    "lora": lambda r, seed: LoRA(r=r, targets=TARGETS, seed=seed),
    "dora": lambda r, seed: DoRA(r=r, targets=TARGETS, seed=seed),
    "vera": lambda r, seed: VeRA(r=r, targets=TARGETS, seed=seed),
    "pissa": lambda r, seed: PiSSA(r=r, targets=TARGETS),
    "adalora": lambda r, seed: AdaLoRA(r=3 * r // 2, target=r, targets=TARGETS, seed=seed),
    "loftq": lambda r, seed: LoftQ(r=r, targets=TARGETS),
}


def train(s: Settings, split: str, n: int) -> Outcome:
    """Fit one method of one rank; its score on a split, and what can be seen in its weights.

    early      mean training loss of the steps 11 to 20
    ranks      of AdaLoRA: what is left to each matrix, (blocks, MATRICES)
    agreement  of full, LoRA and DoRA: `decomposed` over the parts
    """
    model, name = base(), s["method"]
    many = 10_000 if s["task"].startswith("remap") else None
    parts = [f"blocks.{i}.attn.{part}" for i in range(model.config.layers) for part in TARGETS]
    before = {path: weight_of(model.get(path)).copy() for path in parts}
    with trial(model, MADE[name](s["r"], s["seed"]), get_task(s["task"]), s["seed"], many) as it:
        history = it.fit(steps=s["steps"], lr=s["lr"])
        found = it.score(split, n) | {
            "trainable": it.at.count(), "early": float(np.mean(history.loss[10:20] or history.loss))
        }  # fmt: skip
        if name == "adalora":
            left = ranks(it.at)
            found["ranks"] = np.reshape([left[path] for path in parts], (-1, 4)).tolist()
        elif name in ("full", "lora", "dora"):
            found["agreement"] = decomposed([(before[p], weight_of(model.get(p))) for p in parts])
    return found


def weight_of(part: Any) -> Vector:
    """The weight that a part computes with."""
    return part.dense() if isinstance(part, DenseWrapper) else part.weight.data


def decomposed(pairs: list[tuple[Vector, Vector]]) -> float:
    """Whether parts whose rows change more in length also change more in direction.

    The correlation, over (before, after) pairs of weights, of the mean change of a row's length
    with the mean of 1 - cosine (Liu et al. 2024, sec. 3.2).
    """
    lengths, directions = [], []
    for before, after in pairs:
        a, b = (np.linalg.norm(w, axis=1) for w in (before, after))
        lengths.append(np.abs(b - a).mean())
        directions.append((1 - (before * after).sum(axis=1) / (a * b)).mean())
    return float(np.corrcoef(lengths, directions)[0, 1])


# -- learning rates --------------------------------------------------------------------------------


def tried(name: str) -> list[float]:
    """The rates that a method is tried at, whatever its rank."""
    return [float(f"{times * METHODS[name].lr:.2g}") for times in TIMES]


_rates = grid(
    outer="seed",
    task=STEPS, method=always(RANKS), r=lambda s: RANKS[s["method"]],
    lr=lambda s: tried(s["method"]), seed=SEEDS[:2], steps=lambda s: Axis(STEPS[s["task"]], fast=4),
)  # fmt: skip


def sweep(s: Settings) -> Outcome:
    """One rate of one method of one rank; its score on validation data."""
    found = train(s, "validation", VALIDATION)
    return {"accuracy": found["accuracy"], "loss": found["loss"]}


def chosen(found: Results, task: str, name: str, r: int) -> float:
    """The rate for a method of a rank on a task."""
    return best(found, tried(name), method=name, task=task, r=2 * r if (name, r) == HALF else r)


# -- scores ----------------------------------------------------------------------------------------


def _chosen(s: Settings) -> float:
    """From the results of `lora_family_rates`, which have to be there."""
    return chosen(results("lora_family_rates"), s["task"], *s["member"].values())


_members = grid(method=always(RANKS), r=lambda s: RANKS[s["method"]])
_scores = grid(
    outer="seed", task=STEPS,
    member=Axis([*_members(False), {"method": HALF[0], "r": HALF[1]}], fast=_members(True)),
    lr=Axis(_chosen, fast=lambda s: METHODS[s["member"]["method"]].lr), seed=SEEDS,
    steps=lambda s: Axis(STEPS[s["task"]], fast=4),
)  # fmt: skip


def adapt(s: Settings) -> Outcome:
    """Train one method of one rank; scores on the test split."""
    return train(s, "test", TEST)


# -- codes -----------------------------------------------------------------------------------------

CODES = ("nf4", "nf3", "nf2")


_codes = grid(
    outer="seed code", method=always(("qlora", "loftq")), code=CODES, seed=SEEDS,
    steps=Axis(STEPS["sentiment"], fast=4),
)  # fmt: skip


def over_codes(s: Settings) -> Outcome:
    """QLoRA or LoftQ over codes of all Linear parts; scores before and after a short training.

    error  ||W - Q - s B A|| / ||W|| at the start, in the mean over the parts
    """
    code, seed = s["code"], s["seed"]
    method = QLoRA(code=code, seed=seed) if s["method"] == "qlora" else LoftQ(code=code)
    with trial(base(), method, get_task("sentiment"), seed) as it:
        error, start = apart(it.at), it.score("test", TEST)
        history = it.fit(steps=s["steps"])
        return {
            "error": error, "start": start["accuracy"], "start_loss": start["loss"],
            "early": float(np.mean(history.loss[10:20] or history.loss)),
            **it.score("test", TEST),
        }  # fmt: skip


def apart(at: Attached) -> float:
    """How far the parts of a handle over codes compute from their weights in floats."""
    errors = []
    for path in at.wrappers:
        part: Any = at.wrappers[path]
        w = part.base.base.weight.data
        errors.append(np.linalg.norm(w - part.dense()) / np.linalg.norm(w))
    return float(np.mean(errors))


EXPERIMENTS = (
    Experiment("lora_family_rates", "Which learning rate does each of LoRA's family want, by rank?",
               _rates, sweep),
    Experiment("lora_family", "LoRA and its family: what does a trained number bring?", _scores,
               adapt),
    Experiment("lora_family_codes", "Does a start that makes up for the codes' loss help?", _codes,
               over_codes),
)  # fmt: skip
