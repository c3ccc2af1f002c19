"""Probes of the world that train the base for a moment, beside what it can without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from minipeft.contract import Method, Where, Wrapper, attach
from minipeft.course.experiments.bases.counted_words import bag_of_words
from minipeft.course.experiments.runner import Outcome, Settings, base
from minipeft.course.experiments.trials import trial
from minipeft.course.experiments.world.context import TEST, accuracy
from minipeft.engine import Tensor, ops
from minipeft.generation.scoring import score_many
from minipeft.methods import Full
from minipeft.models import build
from minipeft.nn import Module, Parameter, init
from minipeft.tasks import Example, get_task
from minipeft.training.batches import TaskBatches, task_batches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit


def few(s: Settings) -> Outcome:
    """Sixteen examples: to train on, and as many as fit into the context to be shown."""
    model, task, seed = base(), get_task(s["task"]), s["seed"]
    train = task.load("train", 16, seed)
    test, shift = (task.load(split, TEST) for split in ("test", "shift"))
    most = 16
    while True:  # the longest question decides how many fit
        try:
            icl = {"icl": accuracy(model, train[:most], test),
                   "icl_shift": accuracy(model, train[:most], shift)}  # fmt: skip
            break
        except ValueError:
            most -= 2
    with attach(model, Full()):
        fit(model, TaskBatches.of(model, train), steps=60, seed=seed, quiet=True)
        tuned = {split: accuracy(model, [], e) for split, e in (("test", test), ("shift", shift))}
    return {**icl, "icl_shots": most, "tuned": tuned["test"], "tuned_shift": tuned["shift"]}


def shortcut(s: Settings) -> Outcome:
    """Full fine-tuning where the writer tells the sign, asked where he lies."""
    model, seed = base(), s["seed"]
    task = get_task("sentiment-shift")
    frozen = {k: evaluate(model, task, k, n=TEST)["accuracy"] for k in ("test", "shift")}
    with trial(model, Full(), task, seed, 1000) as it:
        it.fit(steps=150)
        tuned = {k: evaluate(model, task, k, n=TEST)["accuracy"] for k in ("test", "shift")}
    return {"frozen": frozen["test"], "frozen_shift": frozen["shift"],
            "tuned": tuned["test"], "tuned_shift": tuned["shift"]}  # fmt: skip


def kinds(s: Settings) -> Outcome:
    """Right answers of the frozen base in percent, by the kind of example."""
    model, task = base(s["base"]), get_task(s["task"])
    test = task.load("test", 500)
    said = score_many(model, [(e.prompt, e.options) for e in test])
    right: dict[str, list[bool]] = {}
    for e, scores in zip(test, said, strict=True):
        right.setdefault(e.kind, []).append(int(np.argmax(scores)) == e.label)
    return {kind: 100 * float(np.mean(r)) for kind, r in sorted(right.items())}


def tuned(s: Settings) -> Outcome:
    """Full fine-tuning, the words of the same examples counted, and the frozen base."""
    model, task, seed = base(s["base"]), get_task(s["task"]), s["seed"]
    train, test = task.load("train", s["n"], seed), task.load("test", 500)
    frozen = evaluate(model, task, "test", n=500)["accuracy"]
    with trial(model, Full(), task, seed, s["n"]) as it:
        it.fit(steps=s["steps"], lr=s["lr"], optimizer=s.get("optimizer", "adamw"), batch=32)
        score, moved = it.score("test", 500)["accuracy"], _moved(it.at)
    return {"frozen": frozen, "tuned": score, "words": bag_of_words(train, test), **moved}


def _moved(at: Any) -> dict[str, float]:
    """How far fine-tuning moved the blocks' matrices: |ΔW| / |W|, and elements by size."""
    pairs = [
        (p.data, at.clones[path].base.data)
        for path, p in at.trainable()
        if path.startswith("blocks.") and p.ndim == 2
    ]
    change = np.concatenate([(a - b).ravel() for a, b in pairs])
    start = np.concatenate([b.ravel() for _, b in pairs])
    return {
        "moved": float(np.linalg.norm(change) / np.linalg.norm(start)),
        "moved_a_tenth": float((np.abs(change) < 0.1 * start.std()).mean()),
        "correlation": float(np.corrcoef(start, start + change)[0, 1]),
    }


def overfit(s: Settings) -> Outcome:
    """Full fine-tuning on few records: the loss on them, and on others."""
    model, task, seed = base(), get_task("table-to-text"), s["seed"]
    other = task_batches(model, task, "validation", TEST, 0)
    look = Evaluation(lambda m: {"other": mean_loss(m, other)}, every=20)
    with trial(model, Full(), task, seed, s["n"]) as it:
        history = it.fit(steps=300, evaluation=look)
        there = mean_loss(model, it.source)
    curve = [e["other"] for e in history.evaluations]
    return {"train": there, "other": curve[-1], "best": min(curve)}


BLANK = "\0"  # a byte that no text holds: its places are the prompt's


@dataclass(frozen=True)
class Rows(Method):
    """k trained rows in front, put where the text has blanks."""

    name: ClassVar[str] = "rows"
    compose: ClassVar[str] = "input"
    identity: ClassVar[str] = "the rows are read as text is"

    blank: int = 0
    k: int = 10
    seed: int = 0
    targets: str | tuple[str, ...] = ("emb.tok",)

    def wrap(self, path: str, module: Any, where: Where) -> Front:
        like = module.weight.data
        rows = like[where.rng.integers(0, len(like), (self.k,))]
        return Front(module, Parameter(init.copy(rows)), self.blank)


class Front(Wrapper):
    """emb[ids], but P[i] at the i-th blank of a row."""

    def __init__(self, base: Module, rows: Parameter, blank: int) -> None:
        super().__init__(base)
        self.rows, self.blank = rows, blank

    def forward(self, ids: Any) -> Tensor:
        here = ids == self.blank
        number = np.where(here, here.cumsum(axis=1) - 1, 0)
        y: Tensor = self.base(ids)
        return ops.where(here[..., None], self.rows[number], y)


def prompt(s: Settings) -> Outcome:
    """Ten trained rows before the text, the model frozen."""
    model, task, seed = base(), get_task(s["task"]), s["seed"]
    blank = model.tokenizer.encode(BLANK)[0]

    def led(split: str, n: int) -> list[Example]:
        return [replace(e, prompt=10 * BLANK + e.prompt) for e in task.load(split, n, s["seed"])]

    with attach(model, Rows(blank, seed=seed)):
        fit(model, TaskBatches.of(model, led("train", 2000)), steps=300, lr=3e-2, seed=seed,
            quiet=True)  # fmt: skip
        score = accuracy(model, [], led("test", TEST))
    return {"frozen": accuracy(model, [], task.load("test", TEST)), "prompt": score}


def untrained(s: Settings) -> Outcome:
    """Full fine-tuning of a base that has read nothing, beside one that has."""
    found = {}
    task, seed = get_task(s["task"]), s["seed"]
    fresh = build(base().config, seed=seed)
    fresh.tokenizer = base().tokenizer
    for name, model in (("untrained", fresh), ("pretrained", base())):
        with trial(model, Full(), task, seed, 10_000, draw=0) as it:
            it.fit(steps=400)
            found[name] = it.score("test", 500)["accuracy"]
    return found
