"""Several adapters of one model answer together: an ensemble for the price of one model.

Lester et al. 2021, sec. 5.4: N prompts of a few thousand numbers are stored instead of N models,
and a question is asked N times in one batch, with another prompt in each of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.checks import takes, whole
from minipeft.generation.scoring import score_many

WAYS = ("mean", "vote")


@takes(batch=whole(1))
def ensemble(
    model: Any,
    handles: Sequence[Any],
    questions: Sequence[tuple[str, Sequence[str]]],
    by: str = "mean",
    normalize: bool = False,
    batch: int = 64,
) -> list[list[float]]:
    """How likely the attached adapters together find each continuation of each prompt.

    handles  adapters that can be chosen by row, as prompts and LoRAs
    by       "mean": of the probabilities that each adapter gives to the options of a question,
             which sum to 1; "vote": the share of the adapters whose likeliest option it is
    Returns  for each question a number for each option; the largest is the answer, and where the
             votes are equal np.argmax takes the first
    """
    if by not in WAYS:
        raise ValueError(f"ensemble: by is one of {', '.join(WAYS)}, got {by!r}")
    if not handles:
        raise ValueError("ensemble needs one attached adapter at least")
    n = len(handles)
    asked = [question for question in questions for _ in range(n)]  # once for each adapter
    scores = score_many(model, asked, normalize, batch, adapters=[*handles] * len(questions))
    found = []
    for start in range(0, len(asked), n):
        logits = np.array(scores[start : start + n])  # (N, options)
        if by == "vote":
            shares = np.eye(logits.shape[1])[logits.argmax(1)]
        else:
            p = np.exp(logits - logits.max(1, keepdims=True))
            shares = p / p.sum(1, keepdims=True)
        found.append(shares.mean(0).tolist())
    return found
