"""What a model answers: the option that it chooses, and how surely, or the text that it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Answer = dict[str, Any]  # text, and the probability among the options or None


def answers(model: Any, examples: Any, words: Sequence[str] = ()) -> list[Answer]:
    """An answer to each of a few examples; `words` name the classes of a linear head."""
    from minipeft.backend import to_numpy, xp_of
    from minipeft.engine import no_grad
    from minipeft.generation.sampling import generate_many
    from minipeft.generation.scoring import score_many
    from minipeft.training.batches import TaskBatches

    if model.config.value("head", "linear") == "linear":
        source = TaskBatches.of(model, examples)
        data = source.collate(range(len(source)))
        xp = xp_of(model.parameters()[0].data)
        with no_grad():
            logits = to_numpy(model(xp.asarray(data.ids), **data.given(xp)).data)
        names = words or [f"class {i}" for i in range(logits.shape[1])]
        return [_chosen(row.tolist(), names) for row in logits]
    if examples[0].options:
        scores = score_many(model, [(e.prompt, e.options) for e in examples])
        return [_chosen(row, e.options) for row, e in zip(scores, examples, strict=True)]
    texts = generate_many(model, [e.prompt for e in examples])
    return [{"text": text.strip(), "probability": None} for text in texts]


def base_answers(base: Any, examples: Any, words: Sequence[str] = ()) -> list[Answer | None]:
    """What the base answers with its own head; None where that head knows other classes."""
    if base.config.value("classes") in (None, len(words)):
        return list(answers(base, examples, words))
    return [None] * len(examples)


def _chosen(logs: Sequence[float], options: Sequence[str]) -> Answer:
    """The likeliest option, and its share of the probability of all options."""
    top = max(logs)
    best = list(logs).index(top)
    total = math.fsum(math.exp(log - top) for log in logs)
    return {"text": options[best].strip(), "probability": 1 / total}


def shown(answer: Answer | None) -> str:
    """An answer as a line: with its probability, if it was chosen among options."""
    if answer is None:
        return "(the base has no such head)"
    text = answer["text"] or "(nothing)"
    if answer["probability"] is None:
        return str(text)
    return f"{text} ({100 * answer['probability']:.0f} %)"
