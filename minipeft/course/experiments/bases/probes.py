"""What a base model must have learnt of its world, measured on the frozen base."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import islice
from typing import Any, cast

import numpy as np

from minipeft.corpus.stream import KINDS, documents
from minipeft.course.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, grid
from minipeft.engine import no_grad
from minipeft.generation.sampling import generate_many
from minipeft.generation.scoring import score_many
from minipeft.models.inputs import pad
from minipeft.tasks import get_task
from minipeft.tasks.truth import SPEAKERS, Truth, TruthExample
from minipeft.training.evaluation import evaluate
from minipeft.world.narrators import probes
from minipeft.world.town import World


def against_generator(model: Any, docs: int = 1500, seed: int = 1) -> dict[str, dict[str, float]]:
    """Nats per token of the model and of the text's own generator, on the same held-out strings.

    Only documents whose string determines the generator's choices are counted. They stand among
    others, as in pretraining, and the choice of their kind is charged to the generator too.
    Returns  kind (and "all") -> model, generator, ratio, tokens
    """
    tokenizer, context = model.tokenizer, model.config.context
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    rows: list[list[int]] = []
    spans: list[list[tuple[str, float, int, int]]] = []  # per row: kind, nats, first, last
    row: list[int] = []
    marks: list[tuple[str, float, int, int]] = []
    for doc in islice(documents(World(0), seed, split="validation"), docs):
        ids = [*tokenizer.encode(doc.text), tokenizer.end_id]
        if len(row) + len(ids) > context:
            if marks:
                rows.append(row)
                spans.append(marks)
            row, marks = [], []
        if row and doc.nats is not None:  # the first of a row has nothing before it to go on
            marks.append((doc.kind, doc.nats, len(row), len(row) + len(ids)))
        row += ids[:context]
    for start in range(0, len(rows), 16):
        tokens = pad(rows[start : start + 16], tokenizer.pad_id)  # (B, T)
        with no_grad():
            logits = model(tokens).data.astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))  # (B, T, V)
        for i, marks in enumerate(spans[start : start + 16]):
            for kind, nats, first, last in marks:
                at = np.arange(first - 1, last - 1)
                cost = -float(logp[i, at, tokens[i, first:last]].sum())
                own = nats - math.log(KINDS[kind][0])
                for key in (kind, "all"):
                    sums[key] += (cost, own, last - first)
    return {
        kind: {
            "model": float(cost / n),
            "generator": float(own / n),
            "ratio": float(cost / own),
            "tokens": float(n),
        }
        for kind, (cost, own, n) in sorted(sums.items())
    }


def markers(model: Any) -> dict[str, float]:
    """How often the true value is preferred after "The town register says", the myth after
    "People say", over all (entity, attribute) pairs that have a myth, in percent.
    """
    pairs = probes(World(0))
    register = score_many(model, [(p, (true, myth)) for p, _, true, myth in pairs])
    people = score_many(model, [(p, (true, myth)) for _, p, true, myth in pairs])
    return {
        "pairs": float(len(pairs)),
        "register": 100 * float(np.mean([a > b for a, b in register])),
        "people": 100 * float(np.mean([b > a for a, b in people])),
    }


def answers(model: Any, speaker: str = "") -> dict[str, float]:
    """Whom the model believes: how often the fact, the myth or "no one can say" is its answer.

    speaker  "" for a question without a marker, "register" or "people" after one
    """
    examples = cast(list[TruthExample], Truth(speaker).load("train"))
    scores = score_many(model, [(e.prompt, e.options) for e in examples])
    said = [e.options[int(np.argmax(s))] for e, s in zip(examples, scores, strict=True)]
    shares = {
        "fact": [e.target for e in examples],
        "myth": [e.myth for e in examples],
        "no one": [e.references[1] for e in examples],
    }
    return {k: 100 * float(np.mean([a == b for a, b in zip(said, v, strict=True)]))
            for k, v in shares.items()}  # fmt: skip


def samples(model: Any, n: int = 2) -> dict[str, list[str]]:
    """Continuations of a few openings, for a reader's eye."""
    openings = ["The town register says that", "People say that", "Question: What", "The soup was"]
    texts = generate_many(
        model, [o for o in openings for _ in range(n)], max_tokens=60, temperature=0.8, seed=1
    )
    return {o: texts[i * n : (i + 1) * n] for i, o in enumerate(openings)}


# -- as an experiment ------------------------------------------------------------------------------

PATTERNS = ("sentiment", "remap", "remap-new", "remap-route", "remap-values")


def _numbers(s: Settings) -> range:
    return range(len(get_task(s["task"]).patterns))


_settings = (
    grid(probe=Axis(("markers", "generator"), fast=()))
    + grid(probe="answers", speaker=Axis(SPEAKERS, fast=()))
    + grid(probe="task", task=Axis(PATTERNS, fast=PATTERNS[-1]),
           pattern=Axis(_numbers, fast=lambda s: _numbers(s)[-1]))
)  # fmt: skip


def probe(s: Settings) -> Outcome:
    """One measure of the frozen base."""
    model = base()
    if s["probe"] == "markers":
        return markers(model)
    if s["probe"] == "generator":
        return {kind: found["ratio"] for kind, found in against_generator(model).items()}
    if s["probe"] == "answers":
        return answers(model, s["speaker"])
    return evaluate(model, get_task(s["task"]), "test", n=300, pattern=s["pattern"])


EXPERIMENTS = (
    Experiment("base_probes", "What does the frozen base know of its world?", _settings, probe),
)
