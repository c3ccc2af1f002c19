"""What is claimed of adapters, put to the test: one function per claim.

Pilot (seed 0, validation): `remap-route` is 0 % for the base and 100 % for full fine-tuning, and
100 steps lie where methods differ: adapters of r = 1, 2, 4, 16 have 100 %, top-1 has 3, top-2 92,
top-3 100. `remap-values` is the other way round: after 300 steps top-1 has 100 %, adapters of
r = 4 have 36 (3e-3) and 67 (1e-2). 50 records of `table-to-text` leave the base at BLEU 3.

Rates are chosen on validation data by `chosen`: the smallest one within a point of the best.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import Attached, Method, Where, Wrapper, attach
from minipeft.contract.watching import outputs
from minipeft.course.compare import judge, learnt
from minipeft.course.experiments.runner import Experiment, Outcome, Results, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.subsets.runs import held_out
from minipeft.course.experiments.trials import Trial, trial
from minipeft.engine import Tensor, no_grad
from minipeft.engine.blas import blas_threads
from minipeft.methods import Adapter, Full, LoRA, Parallel, TopK
from minipeft.methods.adapter import Behind, bottleneck
from minipeft.nn import Module
from minipeft.tasks import get_task
from minipeft.training.evaluation import evaluate, mean_loss

SEEDS = (0, 1, 2, 3, 4)
TASK, STEPS, EXAMPLES = "remap-route", 100, 10_000
VALIDATION, TEST = 200, 300  # examples
NEAR = 1.0  # points: rates so close to the best are as good
SIZES = ("adapter-1", "adapter-2", "adapter-4", "adapter-16")
DEPTHS = ("top-1", "top-2", "top-3", "top-4")
PLACES = ("houlsby", "pfeiffer", "lin", "parallel", "parallel-4", "parallel-attn")
RATES = {  # what `adapter_rates` and `adapter_wide` have chosen, and for the places the soonest
    "full": 1e-3, "lora": 1e-2, "adapter-8": 1e-3, "adapter-1": 3e-3, "adapter-2": 3e-3,
    "adapter-4": 3e-3, "adapter-16": 1e-3, "top-1": 3e-2, "top-2": 1e-2, "top-3": 3e-3,
    "top-4": 1e-3, "houlsby": 3e-3, "pfeiffer": 1e-2, "lin": 3e-2, "parallel": 1e-2,
    "parallel-4": 1e-2, "parallel-attn": 3e-3,
}  # fmt: skip


def method_of(name: str, seed: int = 0) -> Method:
    """The method of a short name: "full", "lora", "adapter-4" (r), "top-2" (K), or a place.

    The places hold as many parameters as each other: houlsby has two adapters in a block, and half
    the width.
    """
    kind, _, number = name.partition("-")
    if kind in ("adapter", "top"):
        r = int(number)
        return Adapter(r=r, seed=seed) if kind == "adapter" else TopK(k=r)
    made: dict[str, Method] = {
        "full": Full(), "lora": LoRA(seed=seed), "houlsby": Adapter(r=4, seed=seed),
        "pfeiffer": Adapter(place="pfeiffer", seed=seed), "lin": Adapter(place="lin", seed=seed),
        "parallel": Parallel(s=1.0, seed=seed), "parallel-4": Parallel(s=4.0, seed=seed),
        "parallel-attn": Parallel(s=1.0, sublayer="attn", seed=seed),
    }  # fmt: skip
    return made[name]


# -- learning rates --------------------------------------------------------------------------------

SWEPT = (*SIZES, *DEPTHS, *PLACES)
TRIED = (1e-3, 3e-3, 1e-2, 3e-2)
WIDE = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

_rates = grid(method=always(SWEPT), lr=TRIED, seed=SEEDS[:3], steps=Axis(STEPS, fast=4))
_wide = grid(method=always(("full", "lora", "adapter-8")), lr=WIDE, seed=SEEDS,
             steps=Axis(STEPS, fast=4))  # fmt: skip


def sweep(s: Settings) -> Outcome:
    """One rate of one method; its score on validation data, and how soon it gets there."""
    return _learn(s, s["lr"], "validation", VALIDATION)


def chosen(found: Results, method: str, rates: tuple[float, ...]) -> float:
    """The smallest rate whose mean accuracy is within NEAR of the best."""
    accuracy = {lr: found.mean("accuracy", method=method, lr=lr) for lr in rates}
    return min(lr for lr in rates if accuracy[lr] >= max(accuracy.values()) - NEAR)


def _learn(s: Settings, lr: float, split: str, n: int) -> Outcome:
    task = get_task(s.get("task", TASK))
    with trial(base(), method_of(s["method"], s["seed"]), task, s["seed"], EXAMPLES) as it:
        history = it.fit(steps=s["steps"], lr=lr, evaluation=judge(task))
        found = it.score(split, n) | {"trainable": it.at.count()}
    return found | {"steps_to_95": learnt(history.evaluations)}


# -- size and place --------------------------------------------------------------------------------

_sizes = grid(
    outer="seed", method=Axis((*SIZES, *DEPTHS, "full"), fast=("adapter-1", "top-1")),
    seed=SEEDS, steps=Axis(STEPS, fast=4),
) + grid(
    outer="seed", task="remap-values", method=Axis(("adapter-4", "top-1"), fast=()), seed=SEEDS,
    steps=300,
)  # fmt: skip
_places = grid(outer="seed", method=Axis(PLACES, fast="lin"), seed=SEEDS, steps=Axis(STEPS, fast=4))
VALUES = {"adapter-4": 1e-2, "top-1": 3e-3}  # rates on remap-values: the pilot's


def adapt(s: Settings) -> Outcome:
    """Train at the method's rate; scores on the test split."""
    lr = VALUES[s["method"]] if "task" in s else RATES[s["method"]]
    return _learn(s, lr, "test", TEST)


# -- adapters taken out ----------------------------------------------------------------------------

DROPPED = 5  # AdapterDrop leaves out the adapters of up to so many blocks
_removed = grid(outer="seed", drop_most=always((0, DROPPED)), seed=SEEDS,
                steps=Axis(150, fast=4))  # fmt: skip


def removed(s: Settings) -> Outcome:
    """Accuracy of a trained model with all its adapters; without those of one block; and of the
    first n blocks.

    without  of block 0 … 5
    first    of the first 0 … 6
    """
    method = Adapter(r=8, drop_most=s["drop_most"], seed=s["seed"])
    with trial(base(), method, get_task(TASK), s["seed"], EXAMPLES) as it:
        it.fit(steps=s["steps"], lr=RATES["adapter-8"])
        layers = range(base().config.layers)
        return {
            "without": [_score_without(it, (i,)) for i in layers],
            "first": [_score_without(it, tuple(range(n))) for n in range(len(layers) + 1)],
        }


def _score_without(it: Trial, blocks: tuple[int, ...]) -> float:
    """The score while the adapters of some blocks add nothing."""
    ups = [p for path, p in it.at.trainable() if ".up." in path and _block(path) in blocks]
    kept = [p.data for p in ups]
    for p in ups:
        p.data = np.zeros_like(p.data)
    score = float(it.score("test", VALIDATION)["accuracy"])
    for p, data in zip(ups, kept, strict=True):
        p.data = data
    return score


def _block(path: str) -> int:
    return int(path.split(".")[1])


# -- drift and forgetting --------------------------------------------------------------------------

DRIFTED = ("full", "lora", "adapter-8")
_drift = grid(
    outer="seed times", method=always(DRIFTED), times=(1.0, 0.333, 3.0), seed=SEEDS,
    steps=Axis(STEPS, fast=4),
)  # fmt: skip
ROWS = 12  # of held-out text, whose states are compared


def drift(s: Settings) -> Outcome:
    """Train until 95 of 100 validation examples are right, no longer; then how much has changed.

    text    rise of the loss on held-out pretraining text, in nats a token
    cosine  of each position's state behind the last block with that of the base, on that text
    """
    model, task, seed = base(), get_task(TASK), s["seed"]
    before, loss, look = _states(model), mean_loss(model, held_out(), 16), judge(task)
    assert look is not None  # the task has options
    with trial(model, method_of(s["method"], seed), task, seed, EXAMPLES) as it:
        history = it.fit(
            steps=s["steps"], lr=s["times"] * RATES[s["method"]],
            evaluation=replace(look, keep="accuracy"),  # ends with the weights that were first
        )  # fmt: skip
        now = _states(model)
        norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(now, axis=-1)
        return it.score("test", VALIDATION) | {
            "text": mean_loss(model, held_out(), 16) - loss,
            "cosine": float(((before * now).sum(-1) / norms).mean()),
            "steps_to_95": learnt(history.evaluations),
        }


def _states(model: Any) -> np.ndarray:
    """What leaves the last block on held-out text.  -> (ROWS, T, C)"""
    last = f"blocks.{model.config.layers - 1}"
    ((_, seen),) = outputs(model, [held_out().collate(range(ROWS))], last)
    return seen[last].astype(np.float64)


# -- few records -----------------------------------------------------------------------------------

RECORDS, FEW = 50, "table-to-text"
FEW_TRIED = {
    "full": (3e-4, 1e-3, 3e-3, 1e-2),
    "lora": (3e-3, 1e-2, 3e-2, 1e-1),
    "adapter-8": (1e-3, 3e-3, 1e-2, 3e-2),
}
FEW_RATES = {"full": 1e-3, "lora": 3e-2, "adapter-8": 1e-2}  # what `adapter_few_rates` has chosen
_few_rates = grid(
    method=always(FEW_TRIED), lr=lambda s: Axis(FEW_TRIED[s["method"]], fast=1e-2),
    seed=SEEDS[:3], steps=Axis(100, fast=2), n=Axis(30, fast=4),
)  # fmt: skip
_few = grid(
    outer="seed", method=always(FEW_TRIED), seed=SEEDS, steps=Axis(100, fast=2),
    n=Axis(60, fast=4),
)  # fmt: skip


def few_sweep(s: Settings) -> Outcome:
    """BLEU on validation records after training on 50."""
    with _fewer(s, s["lr"]) as (it, _):
        return {"bleu": evaluate(it.model, it.task, "validation", n=s["n"])["bleu"]}


def few(s: Settings) -> Outcome:
    """BLEU after training on 50 records, on categories that were among them and on others."""
    with _fewer(s, FEW_RATES[s["method"]]) as (it, train):
        found = {
            split: evaluate(it.model, it.task, split, n=s["n"]) for split in ("seen", "unseen")
        }
        return {"train": train} | {split: result["bleu"] for split, result in found.items()}


@contextmanager
def _fewer(s: Settings, lr: float) -> Iterator[tuple[Trial, float]]:
    method, task = method_of(s["method"], s["seed"]), get_task(FEW)
    with trial(base(), method, task, s["seed"], RECORDS) as it:
        history = it.fit(steps=s["steps"], lr=lr, batch=10)
        yield it, float(np.mean(history.loss[-5:]))


# -- a rotation undone -----------------------------------------------------------------------------

PLANES = 4
_turned = grid(planes=PLANES, r=4 * PLANES, lr=3e-3, seed=SEEDS, steps=Axis(300, fast=4))


def rotation(planes: int, seed: int, d: int = 96) -> np.ndarray:
    """Turns so many random planes by 90 degrees.  -> (d, d)"""
    basis = np.linalg.qr(Rng(seed, "planes").normal((d, d)))[0]
    turn = np.eye(d)
    for i in range(0, 2 * planes, 2):
        turn[i : i + 2, i : i + 2] = [[0, -1], [1, 0]]
    return basis @ turn @ basis.T


@dataclass(frozen=True)
class Turn(Method):
    """Damage: what the embedding gives out is rotated, and all behind it is as it was."""

    name: ClassVar[str] = "turn"
    compose: ClassVar[str] = "function"

    planes: int = PLANES
    targets: str = "emb"
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        Q = rotation(self.planes, self.seed, where.config.width)
        return Turned(module, Tensor(Q.astype(where.like.dtype)))


class Turned(Wrapper):
    """y = Q x.  Shapes  x (B, T, d), Q (d, d)"""

    def __init__(self, base: Module, Q: Tensor) -> None:
        super().__init__(base)
        self.Q = Q

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.base(*args, **kwargs) @ self.Q.T


@dataclass(frozen=True)
class OneAdapter(Method):
    """One bottleneck behind the embedding."""

    name: ClassVar[str] = "one-adapter"
    compose: ClassVar[str] = "function"

    r: int = 8
    targets: str = "emb"
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        return Behind(module, bottleneck(self.r, "gelu", "zero", where), 0, 0)


def turned(s: Settings) -> Outcome:
    """Accuracy on a task that the base can do: as it is, rotated, and with an adapter trained."""
    model, task = base(), get_task("remap")
    found = {"base": evaluate(model, task, "test", n=VALIDATION)["accuracy"]}
    with attach(model, Turn(s["planes"], seed=s["seed"])):
        found["turned"] = evaluate(model, task, "test", n=VALIDATION)["accuracy"]
        with trial(model, OneAdapter(s["r"], seed=s["seed"]), task, s["seed"], EXAMPLES) as it:
            it.fit(steps=s["steps"], lr=s["lr"])
            return found | {"adapter": it.score("test", VALIDATION)["accuracy"]}


# -- latency ---------------------------------------------------------------------------------------

_latency = grid(
    of=Axis([{"batch": 32, "tokens": 128}, {"batch": 16, "tokens": 64}, {"batch": 1, "tokens": 32}],
            fast=[{"batch": 1, "tokens": 32}]),
    rounds=Axis(31, fast=3),
)  # fmt: skip
TIMED = {"lin": Adapter(r=28, place="lin"), "houlsby": Adapter(r=14)}  # as many parameters


def latency(s: Settings) -> Outcome:
    """CPU milliseconds of a forward pass on one thread, in turn: base, merged LoRA, adapters."""
    model = base()
    ids = Rng(0, "latency").integers(0, model.config.vocab, (s["batch"], s["tokens"]))
    times: dict[str, list[float]] = {"base": [], "merged": [], **{name: [] for name in TIMED}}

    def clock(name: str) -> None:
        for _ in range(10 if s["batch"] == 1 else 1):
            began = time.process_time()
            model(ids)
            times[name].append(time.process_time() - began)

    with no_grad(), blas_threads(1):
        for seed in range(s["rounds"]):
            clock("base")
            at = attach(model, LoRA(seed=seed))
            at.merge(keep=True)
            clock("merged")
            at.detach()
            for name, method in TIMED.items():
                with attach(model, method):
                    clock(name)
    # the fastest half of each: what else the machine did is left out
    fast = {k: statistics.median(sorted(v)[: len(v) // 2 + 1]) * 1e3 for k, v in times.items()}
    return fast | {f"{k}_over_base": 100 * (fast[k] / fast["base"] - 1) for k in (*TIMED, "merged")}


# -- a riddle --------------------------------------------------------------------------------------


def colleague(at: Attached) -> None:
    """Breaks an adapter: the lecture asks what is wrong with it. Read this afterwards.

    Both matrices of every bottleneck start at 0, and neither ever has a gradient.
    """
    for path, p in at.trainable():
        if ".down.weight" in path:
            p.data = np.zeros_like(p.data)


EXPERIMENTS = (
    Experiment("adapter_rates", "Which learning rate do sizes, depths and places want?", _rates,
               sweep),
    Experiment("adapter_wide", "Over how many decades of the rate does a method learn?", _wide,
               sweep),
    Experiment("adapter_sizes", "How much must train: adapters by width, top-K by depth.", _sizes,
               adapt),
    Experiment("adapter_places", "Where should a bottleneck stand, at equal cost?", _places, adapt),
    Experiment("adapter_removed", "What do the adapters of each block do?", _removed, removed),
    Experiment("adapter_drift", "How far do states move, and what is forgotten, at equal score?",
               _drift, drift),
    Experiment("adapter_few_rates", "Which rate does each method want with 50 records?",
               _few_rates, few_sweep),
    Experiment("adapter_few", "Adapter, LoRA or full fine-tuning, with 50 records?", _few, few),
    Experiment("adapter_turned", "Can an adapter undo a rotation in front of frozen blocks?",
               _turned, turned),
    Experiment("adapter_latency", "What does an adapter cost in a forward pass?", _latency, latency,
               timed=("base", "merged", *TIMED, *(f"{k}_over_base" for k in (*TIMED, "merged")))),
)  # fmt: skip
