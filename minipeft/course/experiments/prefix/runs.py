"""What is claimed of prefix tuning, put to the test: one function per claim.

Pilot (three seeds, validation, 180 steps of `remap-route`; the base has 0 %, full fine-tuning
100): five positions that start at random reach 16 to 50 % at their best rate, with an MLP 25 to
90, and 96 to 100 where they start from the keys and values of words. 50 records of `table-to-text`
leave the base at BLEU 3; after 100 steps full fine-tuning has 55 on categories it has seen, a
prefix 5, so they get 200.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.contract import Method, attach
from minipeft.course.compare import judge, learnt
from minipeft.course.experiments.runner import Experiment, Outcome, Results, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import Trial, trial
from minipeft.methods import Full, Infix, Prefix, Prompt
from minipeft.tasks import get_task
from minipeft.training.batches import task_batches
from minipeft.training.evaluation import evaluate

SEEDS = (0, 1, 2, 3, 4)
TASK, STEPS, EXAMPLES = "remap-route", 180, 10_000
VALIDATION, TEST = 200, 200  # examples
WORDS = " the third word of the list"
RECORD = " name kind food price area"
NEAR = 1.0  # points: rates so close to the best are as good
MLP = 64


def learn(s: Settings, method: Method, freeze: bool = True) -> Outcome:
    """Train on the route task; scores on validation data, on which rates are chosen, and test.

    freeze  what is attached already does not train
    """
    task = get_task(TASK)
    source = task_batches(base(), task, "train", EXAMPLES, 0, s["seed"])
    with attach(base(), method, freeze=freeze) as at:
        it = Trial(base(), task, source, at, s["seed"])
        history = it.fit(steps=s["steps"], lr=s["lr"], evaluation=judge(task))
        return {
            "validation": it.score("validation", VALIDATION)["accuracy"],
            "test": it.score("test", TEST)["accuracy"],
            "trainable": it.at.count(), "loss": history.loss[-1],
            "steps_to_95": learnt(history.evaluations),
        }  # fmt: skip


def best(found: Results, rates: Any, **which: Any) -> float:
    """The smallest rate whose mean validation score is within NEAR of the best."""
    score = {lr: found.mean("validation", lr=lr, **which) for lr in rates}
    return min(lr for lr in rates if score[lr] >= max(score.values()) - NEAR)


# -- start and network -----------------------------------------------------------------------------

STARTS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {  # name -> (fields, rates)
    "random": ({}, (0.03, 0.1, 0.3)),
    "random, MLP": ({"mlp": MLP}, (1e-3, 3e-3, 1e-2)),
    "words": ({"words": WORDS}, (0.03, 0.1, 0.3)),
    "words, MLP": ({"words": WORDS, "mlp": MLP}, (1e-3, 3e-3, 1e-2)),
}
_start = grid(
    outer="seed", start=always(STARTS), lr=lambda s: Axis(STARTS[s["start"]][1], fast=1e-2),
    seed=SEEDS, steps=Axis(STEPS, fast=4),
)  # fmt: skip


def start(s: Settings) -> Outcome:
    """Five positions, from one of the starts, at one rate."""
    return learn(s, Prefix(n=5, seed=s["seed"], **STARTS[s["start"]][0]))


# -- length, and kinds of special tokens -----------------------------------------------------------

LENGTHS, LENGTH_RATES = (1, 5, 20, 60), (0.03, 0.1, 0.3)
_length = grid(
    outer="seed", n=LENGTHS, lr=Axis(LENGTH_RATES, fast=0.1), seed=SEEDS,
    steps=Axis(STEPS, fast=4),
)  # fmt: skip


def length(s: Settings) -> Outcome:
    """A prefix of n positions that starts from words."""
    return learn(s, Prefix(n=s["n"], words=WORDS, seed=s["seed"]))


EMBED_SIZES, EMBED_RATES = (2, 16, 128), (0.1,)  # not bracketed: a longer one is dear
_special = grid(
    outer="seed", kind=("embed", "layer"), n=EMBED_SIZES, lr=Axis(EMBED_RATES, fast=0.1),
    seed=SEEDS, steps=Axis(150, fast=4),
)  # fmt: skip


def special(s: Settings) -> Outcome:
    """PrefixEmbed and PrefixLayer of the LoRA paper: trained tokens, in front alone or in all
    layers; the paper's few infix tokens are left out.
    """
    return learn(s, Prompt(n=s["n"], init="vocab", deep=s["kind"] == "layer", seed=s["seed"]))


LAYERS = {"all": None, "0-2": (0, 1, 2), "3-5": (3, 4, 5), "0": (0,), "5": (5,)}
_layers = grid(
    outer="seed", layers=Axis(tuple(LAYERS)[1:], fast="0"), lr=Axis((0.03, 0.1, 0.3), fast=0.1),
    seed=SEEDS, steps=Axis(STEPS, fast=4),
)  # fmt: skip


def layers(s: Settings) -> Outcome:
    """A prefix in some of the layers."""
    return learn(s, Prefix(n=5, words=WORDS, layers=LAYERS[s["layers"]], seed=s["seed"]))


# -- before the text, and in it --------------------------------------------------------------------

ARROW = "...{} ->"  # an infix stands before the arrow that asks for the answer
_infix = grid(
    outer="seed", kind=always(("infix", "both")), lr=Axis((0.03, 0.1, 0.3), fast=0.1), seed=SEEDS,
    steps=Axis(STEPS, fast=4),
)  # fmt: skip


def infix(s: Settings) -> Outcome:
    """[x; INFIX; y], or [PREFIX; x; PREFIX'; y]; five positions each, random starts."""
    inner = Infix(n=5, template=ARROW, seed=s["seed"])
    if s["kind"] == "infix":
        return learn(s, inner)
    with attach(base(), inner) as within:
        found = learn(s, Prefix(n=5, seed=s["seed"]), freeze=False)
        return found | {"trainable": found["trainable"] + within.count()}


# -- on an encoder ---------------------------------------------------------------------------------

BERT, ENCODED = "tiny-bert", "sentiment"
_encoder = grid(
    outer="seed", start=always(("random", "words")), lr=Axis((0.03, 0.1), fast=0.1), seed=SEEDS,
    steps=Axis(100, fast=2),
)  # fmt: skip


def encoder(s: Settings) -> Outcome:
    """Five positions in BERT, which every position of the text sees; and the frozen base."""
    task, model = get_task(ENCODED), base(BERT)
    words = " the review is very good" if s["start"] == "words" else ""
    frozen = evaluate(model, task, "test", n=TEST)["accuracy"]
    with trial(model, Prefix(n=5, words=words, seed=s["seed"]), task, s["seed"]) as it:
        it.fit(steps=s["steps"], lr=s["lr"])
        found = {split: it.score(split, TEST)["accuracy"] for split in ("validation", "test")}
    return found | {"frozen": frozen}


# -- few records -----------------------------------------------------------------------------------

SIZES, FEW, FEW_STEPS = (50, 500), "table-to-text", 200
FEW_LENGTHS = (1, 10, 20)
FEW_TRIED = {
    "prefix": (0.03, 0.1, 0.3, 1.0), "random": (0.03, 0.1, 0.3, 1.0),
    "full": (3e-4, 1e-3, 3e-3, 1e-2),
}  # fmt: skip
FEW_RATES = {"prefix": 0.3, "random": 0.3, "full": 1e-3}  # what `prefix_few_rates` has chosen
_few_rates = grid(
    method=always(FEW_TRIED), lr=lambda s: Axis(FEW_TRIED[s["method"]], fast=3e-3),
    seed=SEEDS[:2], n=SIZES[0], length=10, steps=Axis(FEW_STEPS, fast=2), test=Axis(30, fast=4),
)  # fmt: skip
_few = grid(
    outer="seed", method=always(FEW_TRIED), n=SIZES[0], length=10, seed=SEEDS,
    steps=Axis(FEW_STEPS, fast=2), test=Axis(50, fast=4),
) + grid(
    outer="seed", method="prefix", n=SIZES[0], length=Axis((1, 20), fast=()), seed=SEEDS,
    steps=FEW_STEPS, test=50,
) + grid(
    outer="seed", method=Axis(("full", "prefix"), fast=()), n=SIZES[1], length=10, seed=SEEDS,
    steps=FEW_STEPS, test=50,
)  # fmt: skip


def few(s: Settings) -> Outcome:
    """Train on n records: BLEU and loss on validation data or on all of the test and both of its
    parts, and the loss on what it was trained on.

    length  of a prefix
    """
    method = {
        "full": Full(), "prefix": Prefix(n=s["length"], words=RECORD, seed=s["seed"]),
        "random": Prefix(n=s["length"], seed=s["seed"]),
    }[s["method"]]  # fmt: skip
    task = get_task(FEW)
    with trial(base(), method, task, s["seed"], s["n"]) as it:
        history = it.fit(steps=s["steps"], lr=s.get("lr") or FEW_RATES[s["method"]], batch=10)
        splits = ("validation",) if "lr" in s else ("seen", "unseen", "all")
        found = {split: evaluate(it.model, task, split, n=s["test"]) for split in splits}
    return {"train": float(np.mean(history.loss[-10:]))} | {
        f"{key}_{split}": result[key] for split, result in found.items() for key in ("bleu", "loss")
    }


EXPERIMENTS = (
    Experiment("prefix_start", "Does a prefix need a network, or a better start? Over rates.",
               _start, start),
    Experiment("prefix_length", "How long should a prefix be?", _length, length),
    Experiment("prefix_special", "Are more special tokens better? PrefixEmbed and PrefixLayer.",
               _special, special),
    Experiment("prefix_layers", "In which layers does a prefix do its work?", _layers, layers),
    Experiment("prefix_infix", "Before the text, in it, or both?", _infix, infix),
    Experiment("prefix_encoder", "Does a prefix teach an encoder?", _encoder, encoder, (BERT,)),
    Experiment("prefix_few_rates", "Which rate do prefix and full want with 50 records?",
               _few_rates, few),
    Experiment("prefix_few", "Does a prefix win where records are few?", _few, few),
)  # fmt: skip
