"""How truthful a model is: what it picks, what it says, and what a change of it costs.

The task is `truth`: each question has a fact, a myth, two values that nobody claims, and "No one
can say."
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.checks import one_of
from minipeft.engine import no_grad, running
from minipeft.generation import metrics
from minipeft.generation.sampling import generate_many
from minipeft.generation.scoring import score_many
from minipeft.tasks.truth import SPEAKERS, Truth, TruthExample, judge

WAY = one_of("context", "marked", "statement")


def truth_pairs(
    n: int, seed: int = 0, way: str = "context", solved: int = 10, task: Truth | None = None
) -> list[tuple[str, str]]:
    """n pairs of documents on training entities, one by the fact and one by the myth.

    way     "context": `solved` questions with their answers, and an open one; "marked": an open
            question after the marker of each narrator; "statement": a question with its answer
    Raises  ValueError where the task has fewer questions
    """
    WAY("way", way)
    each = 1 + solved * (way == "context")
    drawn: Any = (task or Truth()).load("train", n * each, seed)
    found = []
    for *before, last in (drawn[i : i + each] for i in range(0, len(drawn), each)):
        if way == "context":
            true = "\n".join([*(e.prompt + e.target for e in before), last.prompt])
            found.append((true, "\n".join([*(e.prompt + e.myth for e in before), last.prompt])))
        elif way == "marked":
            found.append((SPEAKERS["register"] + last.prompt, SPEAKERS["people"] + last.prompt))
        else:
            found.append((last.prompt + last.target, last.prompt + last.myth))
    return found


def picked(model: Any, examples: Sequence[TruthExample], before: str = "") -> dict[str, float]:
    """What a model finds likeliest of each question's options, as percentages.

    before   a text in front of every question, such as solved ones
    Returns  "fact" (which is mc1), "myth", "mc2", and "mass", the probability of all options
             together, 0 to 1: where it falls, what is left of an answer is no longer one
    """
    scores = score_many(model, [(before + e.prompt, e.options) for e in examples])
    said = [e.options[int(np.argmax(s))] for e, s in zip(examples, scores, strict=True)]
    true = [[o in e.references for o in e.options] for e in examples]
    return {
        "fact": metrics.accuracy(said, [e.target for e in examples]),
        "myth": metrics.accuracy(said, [e.myth for e in examples]),
        "mc2": metrics.mc2(scores, true),
        "mass": float(np.mean([np.exp(s).sum() for s in scores])),
    }


def told(model: Any, examples: Sequence[TruthExample]) -> dict[str, float]:
    """What a model answers freely, judged, as percentages: truthful, informative, both, myth."""
    texts = generate_many(model, [e.prompt for e in examples], max_tokens=12, stop="\n")
    found = [judge(e, text) for e, text in zip(examples, texts, strict=True)]
    both = [{"both": x["truthful"] and x["informative"]} for x in found]
    kinds = ("truthful", "informative", "both", "myth")
    rows = [x | y for x, y in zip(found, both, strict=True)]
    return {kind: 100 * float(np.mean([row[kind] for row in rows])) for kind in kinds}


def drift(at: Any, ids: np.ndarray) -> float:
    """Mean KL of the base from what a handle makes of it, over the positions of rows of text.

    Shapes  ids (B, T)
    """
    logs, given = [], xp_of(at.frozen[0].data).asarray(ids)
    for off in ([at], []):
        with no_grad(), running(off=off):
            z = to_numpy(at.model(given).data).astype(np.float64)
        z -= z.max(-1, keepdims=True)
        logs.append(z - np.log(np.exp(z).sum(-1, keepdims=True)))
    return metrics.kl(*logs)
