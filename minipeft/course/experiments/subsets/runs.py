"""What is claimed of training a subset of the model, put to the test: one function per claim.

The runs start from a shipped base, train on a task's train split and are scored on its test
split. Learning rates come from the sweeps in rates/runs.py and, for the subsets that are not
in it, from the one below.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import Attached, Method, Where, attach
from minipeft.corpus.pretraining import rows
from minipeft.course.experiments.activations import activations
from minipeft.course.experiments.bases.counted_words import ridge
from minipeft.course.experiments.runner import BASE, Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import trial
from minipeft.engine.graph import operations
from minipeft.ledger import predict
from minipeft.methods import BitFit, Full, LoRA, TopK
from minipeft.nn import Parameter
from minipeft.tasks import get_task
from minipeft.training.batches import TaskBatches, TokenBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from minipeft.world.town import World

SEEDS = (0, 1, 2, 3, 4)
TEST = 300  # examples
UNTRAINED = "tiny-gpt-0"
STEPS = {"sentiment": 100, "nli": 200, "remap-values": 300}
DEPTHS = (1, 2, 3, 4, 5, 6)  # of top-K
OTHERS = ("bitfit", "bitfit-qm", "norms", "lora")
RATES = {  # of the subsets that rates/runs.py does not sweep: what `subset_rates` has chosen
    "top-1": 3e-3, "top-4": 3e-3, "top-6": 1e-3, "bitfit-qm": 3e-2, "norms": 3e-3,
}  # fmt: skip


@dataclass(frozen=True)
class Norms(Method):
    """Train the layer norms, weights and biases."""

    name: ClassVar[str] = "norms"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = RATES["norms"]

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        return path.split(".")[-2].startswith("ln")


@dataclass(frozen=True)
class Blocks(Method):
    """Train the blocks with these numbers, wherever they stand."""

    name: ClassVar[str] = "blocks"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = RATES["top-1"]

    numbers: tuple[int, ...] = (0,)

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        return where.layer in self.numbers


def method_of(name: str, seed: int = 0) -> Method:
    """The method of a short name: "full", "top-2", "block-0", "bitfit", "norms", "lora", …"""
    kind, _, number = name.partition("-")
    if kind in ("top", "block"):
        return TopK(k=int(number)) if kind == "top" else Blocks((int(number),))
    made: dict[str, Method] = {
        "full": Full(), "bitfit": BitFit(), "bitfit-qm": BitFit(terms="qm"), "norms": Norms(),
        "lora": LoRA(seed=seed),
    }  # fmt: skip
    return made[name]


def rate_of(name: str) -> float:
    """The learning rate of a method; of the depths of top-K between the swept ones the next's."""
    if name in ("top-3", "top-5"):
        return rate_of("top-2" if name == "top-3" else "top-4")
    return RATES.get(name) or method_of(name).lr


def moved(at: Attached) -> float:
    """|θ - θ0|, how far the trained parameters are from the base's."""
    squares = [
        np.square((p.data - (at.start[path] if p.base is None else p.base.data)).ravel()).sum()
        for path, p in at.trainable()
    ]
    return float(np.sqrt(sum(map(float, squares))))


# -- learning rates --------------------------------------------------------------------------------

TRIED = (1e-3, 3e-3, 1e-2, 3e-2)


_rates = grid(
    method=always(RATES), lr=TRIED, seed=SEEDS[:2], steps=Axis(STEPS["sentiment"], fast=4)
)


def sweep(s: Settings) -> Outcome:
    """One rate of one subset; its score on validation data."""
    method, seed = method_of(s["method"], s["seed"]), s["seed"]
    with trial(base(), method, get_task("sentiment"), seed, draw=0) as it:
        it.fit(steps=s["steps"], lr=s["lr"])
        return it.score("validation", 400)


# -- scores ----------------------------------------------------------------------------------------


ALL = ("full", *(f"top-{k}" for k in DEPTHS), *OTHERS)
ASKED = {"sentiment": ALL, "nli": ("full", "top-1", "top-2", "top-4", *OTHERS)}

_scores = grid(
    outer="seed", task=always(ASKED),
    method=lambda s: Axis(ASKED[s["task"]], fast=ALL[:2]), seed=SEEDS,
    steps=lambda s: Axis(STEPS[s["task"]], fast=4),
)  # fmt: skip
_where = grid(
    outer="seed", task=("sentiment", "remap-values"),
    method=always([f"block-{i}" for i in range(6)]), seed=SEEDS,
    steps=lambda s: Axis(STEPS[s["task"]], fast=4),
)  # fmt: skip
_untrained = grid(
    outer="seed", task="sentiment", method=("top-2", "full"), seed=SEEDS, base=UNTRAINED,
    steps=Axis(STEPS["sentiment"], fast=4),
)  # fmt: skip


def adapt(s: Settings) -> Outcome:
    """Train one subset, on examples drawn with the seed; scores on the test split."""
    model, method = base(s.get("base", BASE)), method_of(s["method"], s["seed"])
    n = 10_000 if s["task"].startswith("remap") else None
    with trial(model, method, get_task(s["task"]), s["seed"], n) as it:
        it.fit(steps=s["steps"], lr=rate_of(s["method"]))
        return it.score("test", TEST) | {"trainable": it.at.count(), "moved": moved(it.at)}


# -- what the layers hold --------------------------------------------------------------------------


_probes = grid(
    outer="seed", task=("sentiment", "nli"), base=always((BASE, UNTRAINED)), seed=SEEDS,
    n=Axis(1000, fast=40),
)  # fmt: skip


def probe(s: Settings) -> Outcome:
    """A linear classifier on what leaves the embedding and each block of the frozen base.

    last      at the last place of the prompt, from which the model answers
    mean      on the mean over all places
    shuffled  as last, trained on labels in a random order: what the classifier makes of nothing
    """
    model, task = base(s["base"]), get_task(s["task"])
    parts = {
        split: task.load(split, n, s["seed"])
        for split, n in (("train", s["n"]), ("validation", 300), ("test", 500))
    }
    labels = {split: np.array([e.label for e in part]) for split, part in parts.items()}
    mixed = labels["train"][Rng(s["seed"], "labels").permutation(len(labels["train"]))]
    found: dict[str, list[float]] = {"last": [], "mean": [], "shuffled": []}
    for pool in ("last", "mean"):
        states = {
            split: activations(model, [e.prompt for e in part], r"re:emb|blocks\.\d+", pool)
            for split, part in parts.items()
        }
        for path in states["train"]:
            train, validation, test = ((states[k][path], labels[k]) for k in parts)
            found[pool].append(ridge(train, validation, test))
            if pool == "last":
                found["shuffled"].append(ridge((train[0], mixed), validation, test))
    return {**found, "majority": 100 * float(np.bincount(labels["test"]).max() / 500)}


# -- forgetting ------------------------------------------------------------------------------------

MARKS = (0, 10, 30, 100, 300)  # steps after which we look
KNOWN = ("sentiment", "remap")  # tasks that the base can do more or less
ROWS = 48  # of held-out text


_forgetting = grid(
    outer="seed task slower",
    task=("remap-values", "sentiment"), method=("full", "top-2", "bitfit", "lora"),
    slower=lambda s: (1, 3) if s["task"] == "remap-values" else 1, seed=SEEDS,
    steps=Axis(MARKS[-1], fast=10),
)  # fmt: skip


@cache
def held_out(name: str = BASE) -> TokenBatches:
    """Rows of text that the base was not trained on."""
    made = rows(base(name).tokenizer, World(0), 0, "validation", 0.06, 128)
    return TokenBatches(made.rows[:ROWS], made.fill)


def forgetting(s: Settings) -> Outcome:
    """Train on one task; see on the way what becomes of it, of other tasks and of the language.

    steps, own, text, moved  lists over the marks: accuracy of the task, loss on held-out text
                             in nats a token, |θ - θ0|; and each known task's accuracy by name
    slower                   what the learning rate is divided by
    """
    model, task = base(), get_task(s["task"])
    method, seed = method_of(s["method"], s["seed"]), s["seed"]
    seen: dict[str, list[float]] = {k: [] for k in ("steps", "own", "text", "moved", *KNOWN)}

    def look(done: int) -> None:
        if done in MARKS:
            seen["steps"].append(done)
            seen["own"].append(evaluate(model, task, "test", n=100)["accuracy"])
            seen["text"].append(mean_loss(model, held_out(), 16))
            seen["moved"].append(moved(it.at))
            for name in KNOWN:
                score = evaluate(model, get_task(name), "test", n=100)["accuracy"]
                seen[name].append(score)

    with trial(model, method, task, seed, 10_000) as it:
        it.fit(steps=s["steps"], lr=rate_of(s["method"]) / s["slower"], watch=look)
    return seen


# -- costs -----------------------------------------------------------------------------------------


_costs = grid(method=Axis(ALL, fast=ALL[:2]), epochs=Axis(6, fast=3))


def cost(s: Settings) -> Outcome:
    """What a step keeps and takes, the lower blocks run or remembered.

    kept    bytes that the tape holds after the forward pass, 16 rows of 64 tokens, by the ledger
    tape    recorded operations
    step    CPU milliseconds a step from the second epoch on, the fastest half; None for `cached`
            where nothing stands below the cut
    """
    model = base()
    examples = get_task("sentiment").load("train", 64)
    source = TaskBatches.of(model, examples)
    with attach(model, method_of(s["method"])) as at:
        ledger = predict(model, batch=16, length=64)
        tape = len(operations(loss_of(model, source.batch(0, 16, 0))))
        count = at.count()
    return {
        "trainable": count, "kept": ledger.predicted["activations"],
        "peak": ledger.predicted["peak"], "tape": tape,
        "step": step_time(s["method"], source, s["epochs"], cached=False),
        "cached": step_time(s["method"], source, s["epochs"], cached=True),
    }  # fmt: skip


def step_time(name: str, source: TaskBatches, epochs: int, cached: bool) -> float | None:
    """CPU milliseconds of a training step after the first epoch, the median of the faster half."""
    model, laps = base(), [0.0]
    first, steps = len(source) // 16, epochs * len(source) // 16
    with attach(model, method_of(name)):
        try:
            fit(model, source, steps=steps, lr=1e-4, cached=cached, quiet=True,
                watch=lambda done: laps.append(time.process_time()))  # fmt: skip
        except ValueError:  # it trains what stands below every block
            return None
    taken = np.sort(np.diff(laps[1:])[first:])
    return 1e3 * float(np.median(taken[: max(1, len(taken) // 2)]))


# -- a riddle --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Colleague(TopK):
    """Breaks top-K: the lecture asks what is wrong with it. Read this afterwards.

    It trains "the head too", and the head is tied to the embedding, at the model's other end.
    """

    name: ClassVar[str] = "colleague"

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        return path == "emb.tok.weight" or super().select(path, parameter, where)


EXPERIMENTS = (
    Experiment("subset_rates", "Which learning rate do the other subsets want?", _rates, sweep),
    Experiment("subset_scores", "How much of the model has to train?", _scores, adapt),
    Experiment("subset_where", "Does it have to be the top? One block at a time.", _where, adapt),
    Experiment("subset_untrained", "Top-K over random blocks: a null.", _untrained, adapt,
               (UNTRAINED,)),
    Experiment("subset_probe", "In which layer can a linear classifier read the answer?", _probes,
               probe, (BASE, UNTRAINED)),
    Experiment("subset_forgetting", "What does fine-tuning on one task do to all the rest?",
               _forgetting, forgetting),
    Experiment("subset_cost", "What does a step keep and take, by subset?", _costs, cost,
               timed=("step", "cached")),
)  # fmt: skip
