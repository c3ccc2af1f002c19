"""Documents of two kinds, as the batches from which probes and steering learn.

A pair is one document told in both ways, as solved questions answered by the fact or by the myth,
and then a question that is open. What a model's heads hold where the answer begins is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.models.inputs import answer_rows, pad, prompt_ids
from minipeft.training.batches import IGNORE, Batch


def probe_batches(model: Any, pairs: Sequence[tuple[str, str]], size: int = 32) -> list[Batch]:
    """Pairs of documents (of kind 1, of kind 0) as batches for `handle.measure`.

    Each has `more`: "kind"; "question", the number of the pair, so that no fold parts the two;
    "at", the position at which an answer would begin: the last token, or a masked model's mask
    Raises  ValueError for a model that gives no answers, or without a pair
    """
    if model.config.head not in ("lm", "mlm"):
        raise ValueError("probes read where an answer begins, and this model's head is "
                         f"{model.config.head!r}: load it with a language model's")  # fmt: skip
    if not pairs:
        raise ValueError("there is no pair of documents to read")
    rows: list[tuple[list[int], int, int, int]] = []
    for number, pair in enumerate(pairs):
        for kind, text in zip((1, 0), pair, strict=True):
            asked = prompt_ids(model, text, room=1)
            row = answer_rows(model, asked, [[model.tokenizer.end_id]])[0]
            rows.append((row.ids, row.first, kind, number))
    batches: list[Batch] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        texts = [text for text, *_ in part]
        ids, mask = pad(texts, model.tokenizer.pad_id), pad([[1] * len(t) for t in texts], 0) > 0
        more = {name: np.array([row[i] for row in part])
                for i, name in enumerate(("at", "kind", "question"), 1)}  # fmt: skip
        batches.append(Batch(ids, np.full(ids.shape, IGNORE), mask, more=more))
    return batches
