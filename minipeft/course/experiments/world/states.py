"""Probes of the world that read frozen states: layers, heads, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.contract.watching import outputs
from minipeft.course.experiments.activations import activations
from minipeft.course.experiments.bases.counted_words import ridge
from minipeft.course.experiments.runner import Outcome, Settings, base
from minipeft.engine import no_grad
from minipeft.methods import Full
from minipeft.storage.checkpoint import load_model
from minipeft.tasks import get_image_task, get_task
from minipeft.training.batches import ImageBatches
from minipeft.training.loop import fit
from minipeft.world.narrators import disputed, probes
from minipeft.world.town import World

PARTS = ("train", "validation", "test")
RATE = 1e-3  # of full fine-tuning here: at its default, swept on text, pictures gain less


def layers(s: Settings) -> Outcome:
    """A linear classifier on each layer of the frozen base; beside it, fine-tuning in full."""
    model, task = base(s["base"]), get_task(s["task"])
    parts = {split: task.load(split, n) for split, n in
             (("train", 1000), ("validation", 300), ("test", 500))}  # fmt: skip
    states = {split: activations(model, [e.prompt for e in part], "blocks.*", s["pool"])
              for split, part in parts.items()}  # fmt: skip
    labels = {split: np.array([e.label for e in part]) for split, part in parts.items()}
    probe = [
        ridge(*((states[split][path], labels[split]) for split in PARTS))
        for path in states["train"]
    ]
    return {"probe": probe}


Fact = tuple[str, str]


def heads(s: Settings) -> Outcome:
    """Where truth can be read: at the end of a statement, head by head (AUC).

    The direction is learnt on half of the entities that the text has judged, one fact of each, and
    asked on the other half: so no entity is on both sides.
    carried_food, carried_other  best and median head where the direction of all judged facts is
                                 asked on facts that the text has not judged, of the same
                                 attribute and of others
    """
    world = World(0)
    judged = disputed(world)
    rest = [fact for fact in world.myths if fact not in set(judged)]
    same = [fact for fact in rest if fact[1] == judged[0][1]]
    other = [fact for fact in rest if fact[1] != judged[0][1]][:400]
    states, labels, entity = _statements(world, judged)
    left = entity < 0.5
    each = {h: _auc(_direction(x[left], labels[left], x[~left]), labels[~left])
            for h, x in states.items()}  # fmt: skip
    found: Outcome = {"best": max(each.values()), "median": float(np.median(list(each.values())))}
    for name, facts in (("carried_food", same), ("carried_other", other)):
        there, truth, _ = _statements(world, facts)
        carried = [_auc(_direction(x, labels, there[h]), truth) for h, x in states.items()]
        found[name] = [max(carried), float(np.median(carried))]
    return {**found, **each}


def _statements(
    world: World, facts: list[Fact]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Of each fact the truth and the myth: states by head (N, C), labels, a number by entity."""
    pairs = probes(world, facts)
    texts = [people.removeprefix("People say that ") + value + "."
             for _, people, true, myth in pairs for value in (true, myth)]  # fmt: skip
    model = base()
    found = {}
    for path, x in activations(model, texts, "attn.head_out", pool="last").items():
        for h, part in enumerate(np.split(x, model.config.heads, axis=1)):
            found[f"{path}.{h}"] = part
    number = [hash_of(people) for _, people, _, _ in pairs]
    return found, np.tile([1, 0], len(pairs)), np.repeat(number, 2)


def _direction(x: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Where states lie on the line from the mean of the false to that of the true."""
    mean, width = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / width
    return ((asked - mean) / width) @ (z[labels == 1].mean(0) - z[labels == 0].mean(0))


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The chance that a true statement scores above a false one."""
    ranks, right = np.argsort(np.argsort(scores)), labels == 1
    n1, n0 = right.sum(), (~right).sum()
    return float((ranks[right].sum() - n1 * (n1 - 1) / 2) / (n1 * n0))


def hash_of(text: str) -> float:
    """A number from 0 to 1 that is the same for one text each time."""
    return float(Rng(0, "entity", text).uniform((1,))[0])


def pictures(s: Settings) -> Outcome:
    """A linear classifier on the frozen ViT, and full fine-tuning."""
    task, seed = get_image_task(s["task"]), s["seed"]
    parts = {split: task.load(split, seed=seed) for split in task.splits}
    model = load_model("tiny-vit", head="linear", classes=len(task.classes), seed=seed)
    states = {split: _pooled(model, part.pixels) for split, part in parts.items()}
    probe = ridge(*((states[k], parts[k].labels) for k in ("train", "validation", "test")))
    with attach(model, Full()):
        train = ImageBatches(parts["train"].pixels, parts["train"].labels)
        fit(model, train, steps=300, lr=RATE, batch=32, seed=seed, quiet=True)
        with no_grad():
            said = np.concatenate([model(parts["test"].pixels[i : i + 100]).data.argmax(-1)
                                   for i in range(0, len(parts["test"]), 100)])  # fmt: skip
    return {"probe": probe, "tuned": 100 * float((said == parts["test"].labels).mean())}


def _pooled(model: Any, pixels: np.ndarray) -> np.ndarray:
    """What the head of a ViT sees.  (N, C)"""
    source = ImageBatches(pixels, np.zeros(len(pixels), int))
    parts = range(0, len(pixels), 100)
    batches = (source.collate(range(i, min(i + 100, len(pixels)))) for i in parts)
    seen = [given["ln_f"] for _, given in outputs(model, batches, "ln_f")]
    return np.concatenate([y if y.ndim == 2 else y[:, 0] for y in seen])
