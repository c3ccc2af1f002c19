"""What is claimed of steering, put to the test: one function per claim. A seed draws the pairs.

Pilot (validation, 200 questions; the base picks 38 % facts and 55 % myths): 30 pairs of documents
with 10 solved questions, one head, alpha 5: 68 and 75 % facts, 24 and 17 % myths. Ranked by the
AUC of the mean shift, block 2 head 0 is the first of 36 heads in six of six draws; by that of a
probe in two; with three solved questions in four and three.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import Attached, Method, attach
from minipeft.course.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.course.experiments.steering import settings
from minipeft.course.experiments.steering.settings import ALPHA, BESIDE, HEAD, QUESTIONS, SHOTS, N
from minipeft.course.experiments.subsets.runs import held_out as text
from minipeft.course.experiments.world.context import shown
from minipeft.methods import Full, LoRA, Steering
from minipeft.methods.probes import direction, held_out, read_heads
from minipeft.methods.steering import point
from minipeft.tasks import get_task
from minipeft.training.batches import TaskBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.loop import fit
from minipeft.training.probing import probe_batches
from minipeft.training.truthful import drift, picked, told, truth_pairs


def questions(split: str) -> Any:
    """Those of a split of `truth`."""
    return get_task("truth").load(split, QUESTIONS[split])


def answers(split: str, before: str = "") -> Outcome:
    """What the base, with what is attached, picks."""
    return picked(base(), questions(split), before)


def cost(at: Attached) -> Outcome:
    """Nats per token of pretraining text, and KL of the base from what it has become."""
    return {"ce": mean_loss(base(), text(), 16), "kl": drift(at, text().collate(range(16)).ids)}


def lean(s: Settings) -> Outcome:
    """Heads found in n pairs lean, or the known one does: answers, and what they cost."""
    fields = {name: s[name] for name in ("k", "theta", "rank") if name in s}
    batches = probe_batches(base(), truth_pairs(s["n"], s["seed"]))
    with attach(base(), Steering(alpha=s["alpha"], folds=max(2, min(4, s["n"])), **fields)) as at:
        if s.get("head") == "known":
            x, kind, _ = read_heads(base(), batches)
            theta, sigma = direction(x[:, HEAD[0], HEAD[1]], kind)
            point(at, [HEAD], theta[None], [sigma])
        else:
            at.measure(batches)
        found = answers(s["split"]) | cost(at) | {"heads": at.method.state(at)["heads"].tolist()}
        if s.get("free"):
            found |= {f"free_{k}": v for k, v in told(base(), questions(s["split"])).items()}
    return found


def ways(s: Settings) -> Outcome:
    """Maps of all heads, and what their best one does, from the answer on and everywhere."""
    documents = truth_pairs(s["n"], s["seed"], s["way"], s["shots"])
    x, kind, question = read_heads(base(), probe_batches(base(), documents))
    flat = x.reshape(len(x), -1, x.shape[-1])
    probe, mean = (held_out(flat, kind, question, by, seed=s["seed"]) for by in ("probe", "mean"))
    found: Outcome = {"accuracy": list(probe.accuracy), "auc": list(probe.auc)}
    h = mean.best(1)[0]
    spread = np.linalg.svd(flat[:, h] - flat[:, h].mean(0), compute_uv=False) ** 2
    found |= {"mean_auc": list(mean.auc), "best": h, "first": float(spread[0] / spread.sum())}
    theta, sigma = direction(flat[:, h], kind)
    for positions in ("answer", "all"):
        with attach(base(), Steering(alpha=ALPHA, positions=positions)) as at:
            point(at, [divmod(h, x.shape[2])], theta[None], [sigma])
            found[positions] = answers("test")["fact"]
    return found


def random(s: Settings) -> Outcome:
    """Random directions in the same head, each with its own deviation; and shuffled labels."""
    x, kind, _ = read_heads(base(), probe_batches(base(), truth_pairs(N, s["seed"])))
    x, fact, cosine = x[:, HEAD[0], HEAD[1]], [], []
    mixed = kind[Rng(s["seed"], "shuffled").permutation(len(kind))]
    drawn = [direction(x, kind, "random", Rng(s["seed"], "null", i)) for i in range(s["n"])]
    own, _ = direction(x, kind)
    with attach(base(), Steering(alpha=s["alpha"])) as at:
        for theta, sigma in [*drawn, direction(x, mixed)]:
            point(at, [HEAD], theta[None], [sigma])
            fact.append(answers("test")["fact"])
            cosine.append(float(theta @ own))
    return {"shuffled": fact.pop(), "shuffled_cosine": cosine.pop(), "fact": fact, "cosine": cosine}


METHODS: dict[str, Method] = {"full": Full(), "lora": LoRA()}


def against(s: Settings) -> Outcome:
    """The same pairs spent on steering, solved questions in the context, both, or fine-tuning."""
    by: str = s["by"]
    found: Outcome = {}
    solved: Any = get_task("truth").load("train", N * (1 + SHOTS), s["seed"])
    before = shown(solved[:SHOTS], "") if "shots" in by else ""
    steering = Steering(alpha=ALPHA if "steering" in by else 0.0)
    with attach(base(), METHODS.get(by, steering)) as at:
        if by in METHODS:
            source = TaskBatches.of(base(), solved)
            fit(base(), source, steps=s["steps"], lr=s["lr"], seed=s["seed"], quiet=True)
        else:
            at.measure(probe_batches(base(), truth_pairs(N, s["seed"])))
        for split in s["splits"]:
            found |= {f"{split}_{k}": v for k, v in answers(split, before).items()}
        if not before and "test" in s["splits"]:
            tasks = {task: get_task(task) for task in BESIDE}
            beside = {name: evaluate(base(), t, "test", 100)[t.metric] for name, t in tasks.items()}
            found |= beside | cost(at)
    return found


EXPERIMENTS = (
    Experiment("steering_rates", "Which rate suits fine-tuning on pairs?", settings.rates, against),
    Experiment("steering_alpha", "How far should a head lean?", settings.alpha, lean),
    Experiment("steering_random", "Would any direction do?", settings.random, random),
    Experiment("steering_against", "Steering, shots, or fine-tuning?", settings.against, against),
    Experiment("steering_ways", "Which heads tell who is answering?", settings.ways, ways),
    Experiment("steering_pairs", "How many pairs are needed?", settings.pairs, lean),
    Experiment("steering_heads", "How many heads, which direction?", settings.heads, lean),
)
