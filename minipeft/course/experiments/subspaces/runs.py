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
from minipeft.course.experiments.subspaces.digit_net import DigitNet, accuracy, pictures
from minipeft.methods import Full, LoRA, Subspace
from minipeft.tasks import get_task
from minipeft.training.batches import ImageBatches, task_batches
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


def _digits(fast: bool) -> list[Settings]:
    if fast:
        return [{"d": d, "projection": "fastfood", "seed": 0, "steps": 5, "n": 300} for d in (0, 9)]
    asked = [(d, "fastfood", seed) for seed in SEEDS for d in (0, *DIGIT_DS)]
    asked += [(KINDS_AT, kind, seed) for seed in SEEDS[:3] for kind in ("sparse", "dense")]
    return [
        {"d": d, "projection": projection, "seed": seed, "steps": 1000, "n": 50_000}
        for d, projection, seed in asked
    ]


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


def _labels(fast: bool) -> list[Settings]:
    return [
        {"labels": labels, "d": d, "seed": seed, "steps": 5 if fast else 1000}
        for seed in SEEDS[: 1 if fast else None]
        for d in LABEL_DS[: 1 if fast else None]
        for labels in ("true", "shuffled")
    ]


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


def _text(names: tuple[str, ...], fast: bool, ds: tuple[int, ...] = TEXT_DS) -> list[Settings]:
    return [
        {"base": name, "d": d, "seed": seed, "steps": 2 if fast else STEPS}
        for seed in SEEDS[: 1 if fast else None]
        for name in names[: 1 if fast else None]
        for d in (0, *ds)[: 2 if fast else None]
    ]


def _pretraining(fast: bool) -> list[Settings]:
    return _text(CHECKPOINTS, fast)


def _ladder(fast: bool) -> list[Settings]:
    return _text(tuple(name for name in LADDER if name != BASE), fast)


TRAVELLERS = ("tiny-gpt-4500", *LADDER)  # who are sent on ROUTE, which takes more steps
FAR, ROUTE_DS = 200, (200, 300, 1500)


def _route(fast: bool) -> list[Settings]:
    return [
        {**s, "task": ROUTE, "steps": 2 if fast else FAR} for s in _text(TRAVELLERS, fast, ROUTE_DS)
    ]


def _frozen(fast: bool) -> list[Settings]:
    names = [name for name in (*CHECKPOINTS, *LADDER) if name != BASE] + [BASE]
    return [
        {"base": name, "task": t} for t in (TASK, ROUTE) for name in (names[-1:] if fast else names)
    ]


def frozen(s: Settings) -> Outcome:
    """What a model can before any training."""
    return {"accuracy": evaluate(base(s["base"]), get_task(s["task"]), "test", n=TEST)["accuracy"]}


def of_model(name: str) -> Results:
    """The results in which a model's runs stand: both have the same settings."""
    return results("subspace_pretraining" if name in CHECKPOINTS else "subspace_ladder")


def _kin(fast: bool) -> list[Settings]:
    asked = [(way, d) for d in (LITTLE, MUCH) for way in ("did", "said")] + [("lora", MUCH)]
    return [
        {"base": BASE, "way": way, "d": d, "seed": seed, "steps": 2 if fast else STEPS}
        for seed in SEEDS[: 1 if fast else None]
        for way, d in asked[: 1 if fast else None]
    ]


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
    source = task_batches(model, data, "train", None, 0, seed=seed)
    with attach(model, method) as at:
        history = fit(model, source, steps=s["steps"], lr=lr, seed=seed, quiet=True)
        score = evaluate(model, data, split, n=TEST)
        count = at.count()
    return {
        "accuracy": score["accuracy"],
        "loss": score["loss"],
        "train_loss": float(np.mean(history.loss[-20:])),
        "trainable": count,
    }


# -- the moves -------------------------------------------------------------------------------------

MOVES = {
    "digits": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "all of digits": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "text": (1e-3, 3e-3, 1e-2),
    "route": (3e-4, 1e-3, 3e-3, 1e-2),
}
TRIED = {"digits": (100, 1000), "all of digits": (0,), "text": (300, 3000), "route": (300, 3000)}
OF_STEPS = {"digits": 400, "all of digits": 400, "text": STEPS, "route": FAR}


def _rates(fast: bool) -> list[Settings]:
    return [
        {"where": where, "move": move, "d": d, "seed": 0, "steps": 2 if fast else steps}
        for where, steps in OF_STEPS.items()
        for d in TRIED[where][: 1 if fast else None]
        for move in MOVES[where][: 1 if fast else None]
    ]


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
               tuple(name for name in LADDER if name != BASE)),
    Experiment("subspace_frozen", "What can the models before they are trained?", _frozen, frozen,
               (*CHECKPOINTS, *(name for name in LADDER if name != BASE))),
    Experiment("subspace_route", "Does that hold for a task that the base cannot do?", _route, text,
               TRAVELLERS),
    Experiment("subspace_kin", "Factors per layer, or LoRA, at as many numbers?", _kin, text),
)  # fmt: skip
