"""Is it the network, or where its pseudo-tokens start? Plain embeddings from an encoder's start.

Pilot (one seed, 180 steps of `remap-route`, 200 validation examples): embeddings that start as the
MLP's have 73, 99.5 and 100 % at 0.01, 0.03 and 0.1, as the LSTM's 62, 99.5 and 100.
"""

from __future__ import annotations

from typing import Any

from minipeft.contract import Attached, attach
from minipeft.course.experiments.ptuning.runs import EXAMPLES, SEEDS
from minipeft.course.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import trial
from minipeft.engine import no_grad
from minipeft.methods import PTuning
from minipeft.tasks import get_task

VALIDATION, TEST = 100, 200
STARTS = {"N(0, 1)": (0.03, 0.1, 0.3, 1.0), "the MLP's": (0.03, 0.1), "MLP trains": (3e-3,)}
_starts = grid(
    outer="seed", start=always(STARTS), lr=lambda s: Axis(STARTS[s["start"]], fast=0.03),
    seed=SEEDS, steps=Axis(180, fast=3),
)  # fmt: skip


def made(model: Any, encoder: str, seed: int) -> Any:
    """What an encoder makes before any training: ten pseudo-tokens.  -> (10, d)"""
    with attach(model, PTuning(n=10, encoder=encoder, seed=seed)) as at:
        return rows(at)


def rows(at: Attached) -> Any:
    """The pseudo-tokens of a handle as they are now.  -> (n, d)"""
    with no_grad():
        found = at.method.compute(at).get("emb.tok.P", at.wrappers["emb.tok"].P)
        return found.data.copy()


def start(s: Settings) -> Outcome:
    """Train ten embeddings from a start of their own, or from the MLP's; or the MLP itself."""
    model, task, seed = base(), get_task("remap-route"), s["seed"]
    begin = made(model, "mlp", seed) if s["start"] == "the MLP's" else None
    encoder = "mlp" if s["start"] == "MLP trains" else "embedding"
    with trial(model, PTuning(n=10, encoder=encoder, seed=seed), task, seed, EXAMPLES) as it:
        if begin is not None:
            it.at.wrappers["emb.tok"].P.data = begin
        it.fit(steps=s["steps"], lr=s["lr"])
        return {
            "validation": it.score("validation", VALIDATION)["accuracy"],
            "test": it.score("test", TEST)["accuracy"], "trainable": it.at.count(),
        }  # fmt: skip


EXPERIMENTS = (
    Experiment("ptuning_starts", "Is it the network, or where its tokens start?", _starts, start),
)
