"""What is claimed of the intrinsic dimension, put to the test in miniature: one function per claim.

A step of size `rate` in each of d numbers moves each of D weights by about rate sqrt(d / D). So
runs over many d share the *move* of a weight in a step, and the rate follows: move sqrt(D / d).
The moves come from the sweep in `subspace_rates`. A d of 0 stands for training everything, where
the move is the learning rate itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import Attached, Method, attach
from minipeft.course.experiments.bases.ladder import CHECKPOINTS as EARLIER
from minipeft.course.experiments.bases.ladder import LADDER
from minipeft.course.experiments.runner import (
    BASE,
    Experiment,
    Outcome,
    Results,
    Settings,
    base,
    results,
)
from minipeft.course.experiments.settings import Axis, Grid, always, grid
from minipeft.course.experiments.subspaces.digit_net import DigitNet, accuracy, pictures
from minipeft.course.experiments.trials import score_after
from minipeft.methods import Full, LoRA, Subspace
from minipeft.tasks import get_task
from minipeft.training.batches import ImageBatches
from minipeft.training.evaluation import evaluate
from minipeft.training.loop import fit

SEEDS = (0, 1, 2, 3, 4)
TASK, STEPS, TEST = "sentiment", 100, 300
ROUTE = "remap-route"  # the base cannot do it at all before it is trained; most of TASK it can
MOVE = {  # of a weight in a step, about
    "digits": 3e-2, "all of digits": 1e-2, "text": 3e-3, "route": 3e-3,
}  # fmt: skip
NET = (784, 200, 200, 10)  # of Li et al.: 199 210 parameters

# Aghajanyan et al. 2021, table 1: d90 on MRPC and QQP; with factors (SAID) and without (DID)
PAPER = {
    "BERT-Base": {"SAID": (1608, 8030), "DID": (1861, 9295)},
    "BERT-Large": {"SAID": (1037, 1200), "DID": (2493, 1389)},
    "RoBERTa-Base": {"SAID": (896, 896), "DID": (1000, 1389)},
    "RoBERTa-Large": {"SAID": (207, 774), "DID": (322, 774)},
}
PAPER_DIGITS = 750


def rate(move: float, d: int, parameters: int) -> float:
    """The learning rate with which a step moves each of all parameters by about `move`."""
    return move * math.sqrt(parameters / d)


def crossing(ds: Sequence[int], scores: Sequence[float], level: float) -> float:
    """Where scores first reach a level, log-linear between the d that were tried.

    Returns  the first d if all scores are above, infinity if none is
    """
    before: tuple[int, float] | None = None
    for d, score in zip(ds, scores, strict=True):
        if score >= level:
            if before is None:
                return float(d)
            share = (level - before[1]) / (score - before[1])
            return float(before[0] * (d / before[0]) ** share)
        before = d, score
    return math.inf


# -- digits ----------------------------------------------------------------------------------------

DIGIT_DS = (20, 50, 100, 200, 500, 750, 1500, 3000)
KINDS_AT = 100  # where the three projections are compared, over three seeds
LEVELS = 256


_digits = grid(
    outer="seed", d=Axis((0, *DIGIT_DS), fast=(0, 9)), projection="fastfood", seed=SEEDS,
    steps=Axis(1000, fast=5), n=Axis(50_000, fast=300),
) + grid(
    outer="seed", d=Axis(KINDS_AT, fast=()), projection=("sparse", "dense"), seed=SEEDS[:3],
    steps=1000, n=50_000,
)  # fmt: skip


def digits(s: Settings) -> Outcome:
    """The paper's net in a random subspace of its 199 210 dimensions; rounded afterwards too.

    rounded  its accuracy on (training data, test data) with z in 256 levels: for the bound
    """
    source, (train, validation, test) = pictures(s["n"])
    net, d, seed = DigitNet(*NET, seed=s["seed"]), s["d"], s["seed"]
    method: Method = Subspace(d=d, projection=s["projection"], seed=seed) if d else Full()
    move, size = s.get("move", MOVE["digits" if d else "all of digits"]), net.num_parameters()
    lr = rate(move, d or size, size)
    with attach(net, method) as at:
        fit(net, train, steps=s["steps"], lr=lr, batch=64, seed=seed, quiet=True)
        out = {
            "data": source,
            "examples": len(train),
            "validation": accuracy(net, validation),
            "train": accuracy(net, train),
            "accuracy": accuracy(net, test),
        }
        if d:
            ((_, z),) = at.trainable()
            z.data = rounded(z.data)
            out["rounded"] = [accuracy(net, train), accuracy(net, test)]
    return out


def rounded(z: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Each number to the nearest of `levels` values, evenly from the least to the largest."""
    low, high = float(z.min()), float(z.max())
    width = (high - low) / (levels - 1) or 1.0
    return (low + np.round((z - low) / width) * width).astype(z.dtype)


SMALL, SIDE, FEW = (196, 100, 10), 14, 300  # a smaller net for fewer and smaller pictures
LABEL_DS = (30, 100, 300, 1000)


_labels = grid(
    outer="seed d", labels=always(("true", "shuffled")), d=LABEL_DS, seed=SEEDS,
    steps=Axis(1000, fast=5),
)  # fmt: skip


def labels(s: Settings) -> Outcome:
    """How many training examples can be learnt by heart in d dimensions; with labels shuffled."""
    source, (train, _, test) = pictures(FEW, SIDE)
    d, seed, y = s["d"], s["seed"], train.labels
    if s["labels"] == "shuffled":
        y = y[Rng(seed, "labels").permutation(len(y))]
    few, net = ImageBatches(train.pixels, y), DigitNet(*SMALL, seed=seed)
    with attach(net, Subspace(d=d, seed=seed)):
        lr = rate(MOVE["digits"], d, net.num_parameters())
        fit(net, few, steps=s["steps"], lr=lr, batch=64, seed=seed, quiet=True)
        return {"data": source, "train": accuracy(net, few), "accuracy": accuracy(net, test)}


# -- language models -------------------------------------------------------------------------------

CHECKPOINTS = (*EARLIER, BASE)
TEXT_DS = (300, 1500, 7500)
LITTLE, MUCH = 200, 1152  # numbers in the comparison of kin: the papers', and LoRA's on all v


OTHERS = tuple(name for name in LADDER if name != BASE)  # of other sizes


def _text(
    names: tuple[str, ...], ds: tuple[int, ...] = TEXT_DS, steps: int = STEPS, **more: Any
) -> Grid:
    return grid(outer="seed base", base=names, d=Axis((0, *ds), fast=(0, ds[0])), seed=SEEDS,
                steps=Axis(steps, fast=2), **more)  # fmt: skip


_pretraining = _text(CHECKPOINTS)
_ladder = _text(OTHERS)

TRAVELLERS = ("tiny-gpt-4500", *LADDER)  # who are sent on ROUTE, which takes more steps
FAR, ROUTE_DS = 200, (200, 300, 1500)


_route = _text(TRAVELLERS, ROUTE_DS, FAR, task=ROUTE)
_frozen = grid(
    outer="task", base=Axis((*EARLIER, *OTHERS, BASE), fast=BASE), task=always((TASK, ROUTE))
)


def frozen(s: Settings) -> Outcome:
    """What a model can before any training."""
    return {"accuracy": evaluate(base(s["base"]), get_task(s["task"]), "test", n=TEST)["accuracy"]}


def of_model(name: str) -> Results:
    """The results in which a model's runs stand: both have the same settings."""
    return results("subspace_pretraining" if name in CHECKPOINTS else "subspace_ladder")


_kin = grid(
    outer="seed d",
    base=BASE, way=lambda s: ("did", "said", "lora")[: 3 if s["d"] == MUCH else 2],
    d=(LITTLE, MUCH), seed=SEEDS, steps=Axis(STEPS, fast=2),
)  # fmt: skip


def text(s: Settings, split: str = "test") -> Outcome:
    """Fine-tune a language model in a random subspace, or with LoRA of as many numbers."""
    model, data, d, seed = base(s["base"]), get_task(s.get("task", TASK)), s["d"], s["seed"]
    way, lr = s.get("way", "did"), None
    move = MOVE["route" if s.get("task") == ROUTE else "text"]
    method: Method = Full()
    if way == "lora":
        method = LoRA(r=1, targets="v_proj", seed=seed)
    elif d:
        method = Subspace(d=d, said="layer" if way == "said" else "", seed=seed)
        lr = rate(s.get("move", move), d, model.num_parameters())
    return score_after(model, method, data, seed, split, TEST, steps=s["steps"], lr=lr)


# -- the moves -------------------------------------------------------------------------------------

MOVES = {
    "digits": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "all of digits": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "text": (1e-3, 3e-3, 1e-2),
    "route": (3e-4, 1e-3, 3e-3, 1e-2),
}
TRIED = {"digits": (100, 1000), "all of digits": (0,), "text": (300, 3000), "route": (300, 3000)}
OF_STEPS = {"digits": 400, "all of digits": 400, "text": STEPS, "route": FAR}


_rates = grid(
    outer="where d",
    where=always(OF_STEPS), move=lambda s: MOVES[s["where"]], d=lambda s: TRIED[s["where"]],
    seed=0, steps=lambda s: Axis(OF_STEPS[s["where"]], fast=2),
)  # fmt: skip


def rates(s: Settings) -> Outcome:
    """A subspace with a size of step; its score on validation data."""
    if s["where"] in ("text", "route"):
        task = ROUTE if s["where"] == "route" else TASK
        return text({**s, "base": BASE, "task": task}, split="validation")
    n = 300 if s["steps"] < 10 else 50_000
    found = digits({**s, "projection": "fastfood", "n": n})
    return {"accuracy": found["validation"]}


def best_move(found: Results, where: str) -> float:
    """The move with the best mean accuracy over the d that were tried."""
    tried = sorted({r["settings"]["move"] for r in found.runs if r["settings"]["where"] == where})
    return max(tried, key=lambda move: found.mean("accuracy", where=where, move=move))


# -- a riddle --------------------------------------------------------------------------------------


def colleague(at: Attached) -> dict[str, Any]:
    """Breaks a subspace: the lecture asks what is wrong with it. Read this afterwards.

    The rate is one for full fine-tuning. In a subspace a weight moves by only sqrt(d / D) of it.
    Returns  arguments for fit
    """
    return {"lr": 1e-3}


EXPERIMENTS = (
    Experiment("subspace_rates", "How far should a step in a subspace move a weight?", _rates,
               rates),
    Experiment("subspace_digits", "In how many random directions can digits be learnt?", _digits,
               digits, ()),
    Experiment("subspace_labels", "How much can be learnt by heart in d dimensions?", _labels,
               labels, ()),
    Experiment("subspace_pretraining", "Does pretraining lower the intrinsic dimension?",
               _pretraining, text, CHECKPOINTS),
    Experiment("subspace_ladder", "Does size lower the intrinsic dimension?", _ladder, text,
               OTHERS),
    Experiment("subspace_frozen", "What can the models before they are trained?", _frozen, frozen,
               (*CHECKPOINTS, *OTHERS)),
    Experiment("subspace_route", "Does that hold for a task that the base cannot do?", _route, text,
               TRAVELLERS),
    Experiment("subspace_kin", "Factors per layer, or LoRA, at as many numbers?", _kin, text),
)  # fmt: skip
