"""What the parts of a model give out, for many texts at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.contract.watching import outputs
from minipeft.tasks import Example
from minipeft.training.batches import TaskBatches


def activations(
    model: Any, prompts: Sequence[str], targets: str, pool: str = "mean"
) -> dict[str, np.ndarray]:
    """What the parts give out for each prompt.  path -> (N, C), the mean or last real place"""
    source = TaskBatches.of(model, [Example(p, " .", (" .", " !"), 0) for p in prompts])
    parts = range(0, len(source), 50)
    batches = (source.collate(range(i, min(i + 50, len(source)))) for i in parts)
    found: dict[str, list[np.ndarray]] = {}
    for batch, seen in outputs(model, batches, targets):
        mask = batch.mask.copy()
        if model.causal:  # the target is not looked at
            mask[np.arange(len(mask)), mask.sum(1) - 1] = False
        for path, given in seen.items():
            y = given.reshape(*mask.shape, -1)
            last = y[np.arange(len(y)), mask.sum(1) - 1]
            mean = (y * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            found.setdefault(path, []).append(mean if pool == "mean" else last)
    return {path: np.concatenate(parts) for path, parts in found.items()}
