"""What is claimed of P-tuning, put to the test: one function per claim.

Pilot (three seeds, 180 steps of `remap-route`, validation): the MLP encoder has 71 to 100 % at
1e-3 and 100 at 3e-3; plain embeddings, which are prompt tuning, 32 to 42 at 1e-1. `truth` leaves
the base at 35 %, `sentiment` and `acceptability` BERT at 72 and 56.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minipeft.contract import Method
from minipeft.course.experiments.runner import (
    BASE,
    Experiment,
    Outcome,
    Results,
    Settings,
    base,
)
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import trial
from minipeft.methods import Full, PTuning
from minipeft.storage.checkpoint import load_model
from minipeft.tasks import get_task

SEEDS = (0, 1, 2, 3, 4)
BERT = "tiny-bert"
VALIDATION, TEST, EXAMPLES = 200, 200, 10_000
NEAR = 1.0  # points: rates so close to the best are as good


def learn(model: Any, method: Method, s: Settings) -> Outcome:
    """Train at one rate; scores on validation data, on which rates are chosen, and test."""
    task = get_task(s["task"])
    n = EXAMPLES if s["task"].startswith("remap") else None
    with trial(model, method, task, s["seed"], n) as it:
        it.fit(steps=s["steps"], lr=s["lr"])
        return {
            "validation": it.score("validation", VALIDATION)["accuracy"],
            "test": it.score("test", TEST)["accuracy"], "trainable": it.at.count(),
        }  # fmt: skip


def best(found: Results, rates: Sequence[float], **which: Any) -> float:
    """The smallest rate whose mean validation score is within NEAR of the best."""
    score = {lr: found.mean("validation", lr=lr, **which) for lr in rates}
    return min(lr for lr in rates if score[lr] >= max(score.values()) - NEAR)


# -- encoders --------------------------------------------------------------------------------------

ENCODERS = {
    "lstm": (1e-3, 3e-3), "mlp": (1e-3, 3e-3, 1e-2), "embedding": (0.03, 0.1, 0.3),
}  # fmt: skip
ASKED = {("remap-route", BASE): 180, ("truth", BASE): 60}
_encoders = grid(
    outer="seed",
    of=Axis([{"task": t, "base": b, "steps": n} for (t, b), n in ASKED.items()],
            fast=[{"task": "truth", "base": BASE, "steps": 3}]),
    encoder=always(ENCODERS), lr=lambda s: Axis(ENCODERS[s["encoder"]], fast=3e-3), seed=SEEDS,
)  # fmt: skip


def encoder(s: Settings) -> Outcome:
    """Ten pseudo-tokens before the text, from one of the encoders."""
    return learn(base(s["base"]), PTuning(n=10, encoder=s["encoder"], seed=s["seed"]), s)


# -- where they stand ------------------------------------------------------------------------------

TEMPLATES = {"before": "{}", "around": "{}...{5}\nAnswer:", "anchor": "...{}\nAnswer:"}
_places = grid(
    outer="seed", template=Axis(("around", "anchor"), fast="around"), task="truth", lr=3e-3,
    seed=SEEDS, steps=Axis(60, fast=3),
)  # fmt: skip


def place(s: Settings) -> Outcome:
    """Ten pseudo-tokens of the MLP around the question, or between it and its anchor."""
    method = PTuning(n=10, template=TEMPLATES[s["template"]], seed=s["seed"])
    return learn(base(), method, s)


# -- a classifier, a pattern, pseudo-tokens --------------------------------------------------------

WAYS = {"CLS-FT": (3e-4, 1e-3), "PET-FT": (3e-4, 1e-3), "P-tuning": (1e-3, 3e-3)}
CLOZE = [{"task": t, "base": BERT} for t in ("sentiment", "acceptability")]
_ways = grid(
    outer="seed", of=Axis(CLOZE, fast=CLOZE[1:2]), way=always(WAYS),
    lr=lambda s: WAYS[s["way"]], seed=SEEDS, steps=Axis(150, fast=3),
)  # fmt: skip


def way(s: Settings) -> Outcome:
    """Full fine-tuning with a new classifier, or of a pattern's words; or P-tuning of the pattern.

    CLS-FT puts a linear head on the model and trains it with all weights; PET-FT trains all
    weights to say the label word; P-tuning trains ten pseudo-tokens before the pattern.
    """
    if s["way"] == "CLS-FT":
        classes = len(get_task(s["task"]).patterns[0].words)
        return learn(load_model(s["base"], head="linear", classes=classes), Full(), s)
    method = Full() if s["way"] == "PET-FT" else PTuning(n=10, seed=s["seed"])
    return learn(base(s["base"]), method, s)


EXPERIMENTS = (
    Experiment("ptuning_encoders", "Which encoder should make the pseudo-tokens?", _encoders,
               encoder),
    Experiment("ptuning_places", "Does it matter where pseudo-tokens stand?", _places, place),
    Experiment("ptuning_ways", "A new classifier, a pattern, or pseudo-tokens?", _ways, way,
               (BERT,)),
)  # fmt: skip
