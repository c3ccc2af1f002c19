"""What the parts of a model give out, for many texts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import to_numpy
from minipeft.contract import Method, Where, Wrapper, attach
from minipeft.engine import no_grad
from minipeft.nn import Module
from minipeft.tasks import Example
from minipeft.training.batches import TaskBatches


@dataclass(frozen=True)
class Watch(Method):
    """Nothing changes: what the parts give out is kept, to be looked at."""

    name: ClassVar[str] = "watch"
    compose: ClassVar[str] = "function"

    targets: str | tuple[str, ...] = ()

    def wrap(self, path: str, module: Module, where: Where) -> Watched:
        return Watched(module)


class Watched(Wrapper):
    """The part, and its last output."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.seen = to_numpy((y := self.base(*args, **kwargs)).data)
        return y


def activations(
    model: Any, prompts: Sequence[str], targets: str, pool: str = "mean"
) -> dict[str, np.ndarray]:
    """What the parts give out for each prompt.  path -> (N, C), the mean or last real place"""
    found: dict[str, list[np.ndarray]] = {}
    source = TaskBatches.of(model, [Example(p, " .", (" .", " !"), 0) for p in prompts])
    with attach(model, Watch(targets)) as at, no_grad():
        for i in range(0, len(source), 50):
            batch = source.collate(range(i, min(i + 50, len(source))))
            mask = batch.mask.copy()
            if model.causal:  # the target is not looked at
                mask[np.arange(len(mask)), mask.sum(1) - 1] = False
            model(batch.ids, mask=batch.mask)
            for path, w in at.wrappers.items():
                y = w.seen.reshape(*mask.shape, -1)
                last = y[np.arange(len(y)), mask.sum(1) - 1]
                mean = (y * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
                found.setdefault(path, []).append(mean if pool == "mean" else last)
    return {path: np.concatenate(parts) for path, parts in found.items()}
