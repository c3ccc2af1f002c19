"""evaluate: a model's loss and scores on a task."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.checks import takes, whole
from minipeft.engine import no_grad
from minipeft.engine.blas import blas_threads, threads_for
from minipeft.generation import metrics
from minipeft.generation.sampling import generate_many
from minipeft.generation.scoring import score_many
from minipeft.nn.finite import NonFiniteLoss, where_it_began
from minipeft.training.batches import Batch, TaskBatches, task_of
from minipeft.training.step import label_count, loss_of


@takes(n=whole(1), batch=whole(1), seed=whole(0))
def evaluate(
    model: Any,
    task: Any,
    split: str = "validation",
    n: int | None = None,
    pattern: int = 0,
    batch: int = 64,
    seed: int = 0,
    normalize: bool = False,
) -> dict[str, float]:
    """Score a model on a task, or on your own data, as `fit` takes them.

    normalize  rank options by their log-probability per token, not by its sum over their tokens
    Returns  "loss" (nats per target token), "n" (examples), then the task's own `metric`, and
             what else is usual: "accuracy" where there are labels; "bleu", "rouge_l" and
             "exact" where texts are generated; what the task names in `also`. See metrics.py
    Raises   NonFinite for a model that gives NaN or infinity, with where it began
    """
    task = task_of(task)
    examples = task.load(split, n=n, seed=seed, pattern=pattern)
    source = TaskBatches.of(model, examples)
    loss = mean_loss(model, source, batch)
    if model.config.value("head", "linear") == "linear":
        with no_grad(), blas_threads(threads_for(model, batch)):
            picked = [
                int(c)
                for i in range(0, len(source), batch)
                for c in _classes(model, source.collate(range(i, min(i + batch, len(source)))))
            ]
        found = _of_choices(task, examples, picked, None)
    elif task.kind == "classification":
        questions = [(e.prompt, e.options) for e in examples]
        scores = score_many(model, questions, normalize, batch=batch)
        found = _of_choices(task, examples, [int(np.argmax(s)) for s in scores], scores)
    else:
        texts = generate_many(model, [e.prompt for e in examples], batch=batch)
        found = _of_texts(task, examples, [t.strip() for t in texts])
    own = {k: v for k, v in found.items() if k == task.metric}
    return {"loss": loss, "n": float(len(examples)), **own, **found}


def _of_choices(
    task: Any, examples: Any, picked: list[int], scores: list[list[float]] | None
) -> dict[str, float]:
    """The scores of a classification; those of TruthfulQA need the options' log-probabilities."""
    labels, asked = [e.label for e in examples], {task.metric, *task.also}
    found = {"accuracy": metrics.accuracy(picked, labels)}
    if "f1" in asked:
        found["f1"] = metrics.f1(picked, labels)
    if "matthews" in asked:
        found["matthews"] = metrics.matthews(picked, labels)
    if "mc1" in asked and scores:
        found["mc1"] = metrics.mc1(scores, labels)
    if "mc2" in asked and scores:
        found["mc2"] = metrics.mc2(scores, [[o in e.references for o in e.options]
                                            for e in examples])  # fmt: skip
    return found


def _of_texts(task: Any, examples: Any, texts: list[str]) -> dict[str, float]:
    """The scores of generated texts against their references."""
    references = [[r.strip() for r in e.references or (e.target,)] for e in examples]
    found = {
        "bleu": metrics.bleu(texts, references),
        "rouge_l": metrics.rouge_l(texts, references),
        "exact": metrics.exact_match(texts, references),
    }
    if "ter" in task.also:
        found["ter"] = metrics.ter(texts, references)
    if "slot_error" in task.also:
        found["slot_error"] = metrics.slot_error(texts, [e.slots for e in examples])
    return found


def _classes(model: Any, batch: Batch) -> np.ndarray:
    xp = xp_of(model.parameters()[0].data)
    logits = model(xp.asarray(batch.ids), **batch.given(xp)).data
    return to_numpy(logits.argmax(axis=-1))


@takes(batch=whole(1))
def mean_loss(model: Any, source: Any, batch: int = 64) -> float:
    """Mean loss per counted label over all rows of a source, in nats.

    Raises  NonFiniteLoss that names where NaN or infinity began; ValueError if no label counts
    """
    total, count = 0.0, 0
    cores = threads_for(model, batch)
    with no_grad(), blas_threads(cores), np.errstate(all="ignore"):  # what is not finite raises
        for i in range(0, len(source), batch):
            data = source.collate(range(i, min(i + batch, len(source))))
            labels = label_count(data)
            if not labels:
                continue
            loss = loss_of(model, data).item()
            if not math.isfinite(loss):
                raise NonFiniteLoss(
                    f"the loss of rows {i} to {i + len(data.ids) - 1} is not finite. "
                    f"{where_it_began(model, partial(loss_of, model, data))}"
                )
            total += loss * labels
            count += labels
    if not count:
        raise ValueError("there is no loss where no label counts: the source has none")
    return total / count
