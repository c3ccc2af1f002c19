"""What the world must carry: for each lecture, the effect that it will stand on.

Every probe asks a frozen base, or trains it for a moment, and says in figures whether the effect
is there at all. Where a method is not the point, its bare computation stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minipeft.course.experiments.runner import Experiment, Outcome, Settings
from minipeft.course.experiments.settings import Axis, grid
from minipeft.course.experiments.world.context import in_context, order, scoring
from minipeft.course.experiments.world.states import heads, layers, pictures
from minipeft.course.experiments.world.training import (
    few,
    kinds,
    overfit,
    prompt,
    shortcut,
    tuned,
    untrained,
)
from minipeft.tasks import MINI_VTAB

SEEDS = (0, 1, 2, 3, 4)
PROBES: dict[str, Callable[[Settings], Outcome]] = {
    "in_context": in_context, "order": order, "few": few, "shortcut": shortcut, "layers": layers,
    "tuned": tuned, "overfit": overfit, "prompt": prompt, "scoring": scoring,
    "untrained": untrained, "kinds": kinds, "heads": heads, "pictures": pictures,
}  # fmt: skip
TUNED: Settings = {"n": 1000, "steps": 400, "lr": 1e-3}
LONG: Settings = {"n": 10_000, "steps": 1500, "lr": 3e-3, "optimizer": "muon"}
READ = [(task, TUNED) for task in ("sentiment", "acceptability", "nli", "paraphrase")]  # by BERT
READ += [("nli", LONG), ("paraphrase", LONG)]


def _over_seeds() -> list[Settings]:
    s: list[Settings] = []
    for seed in SEEDS:
        for words in ("natural", "new"):
            s += [{"probe": "in_context", "words": words, "k": k, "seed": seed}
                  for k in (0, 1, 2, 4)]  # fmt: skip
            s += [{"probe": "order", "words": words, "seed": seed}]
        s += [{"probe": "few", "task": t, "seed": seed} for t in ("sentiment-shift", "nli-shift")]
    s += _layers("tiny-gpt")
    for seed in SEEDS[:3]:
        s += _tuned("tiny-gpt", ("sentiment", "nli"), seed)
        s += [{"probe": "overfit", "n": n, "seed": seed} for n in (50, 1000)]
        s += [{"probe": "prompt", "task": t, "seed": seed} for t in ("remap", "remap-new")]
        s += [{"probe": "shortcut", "seed": seed}]
        s += [{"probe": "untrained", "task": t, "seed": seed} for t in ("sentiment", "paraphrase")]
    return s


def _layers(name: str) -> list[Settings]:
    return [{"probe": "layers", "base": name, "task": t, "pool": pool}
            for t in ("sentiment", "nli") for pool in ("mean", "last")]  # fmt: skip


def _tuned(name: str, tasks: Sequence[str], seed: int) -> list[Settings]:
    return [{"probe": "tuned", "base": name, "task": t, "seed": seed, **TUNED} for t in tasks]


ONCE: list[Settings] = [{"probe": "scoring"}, {"probe": "heads"}]
KINDS: Settings = {"probe": "kinds", "base": "tiny-bert", "task": "paraphrase"}
_world = grid(each=Axis([*ONCE, *_over_seeds()], fast=ONCE))
_readers = [
    {"probe": "tuned", "base": "tiny-bert", "task": task, "seed": seed, **how}
    for task, how in READ
    for seed in SEEDS[:3]
]
_reading = grid(each=Axis([*_layers("tiny-bert"), KINDS, *_readers], fast=[KINDS]))
_seeing = grid(outer="seed", probe="pictures", task=MINI_VTAB, seed=SEEDS[:3])


def _probe(s: Settings) -> Outcome:
    return PROBES[s["probe"]](s)


EXPERIMENTS = (
    Experiment(
        "world_probes", "Does the world carry what the lectures on GPT will show?", _world, _probe
    ),
    Experiment(
        "reader_probes", "Does BERT read more than words, once tuned?", _reading, _probe,
        bases=("tiny-bert",),
    ),
    Experiment(
        "picture_probes", "Is ViT tuned in full well above a line on its frozen features?",
        _seeing, _probe, bases=("tiny-vit",),
    ),
)  # fmt: skip
