"""Looking before training: the outputs of a model's parts on given data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.contract.handle import Handle
from minipeft.contract.method import Method, Where, Wrapper
from minipeft.contract.targets import Targets
from minipeft.engine import no_grad
from minipeft.nn import Module


@dataclass(frozen=True)
class Watch(Method):
    """Changes nothing: it keeps the outputs of parts, to look at them."""

    name: ClassVar[str] = "watch"
    compose: ClassVar[str] = "function"

    targets: str | tuple[str, ...] = ()

    def wrap(self, path: str, module: Module, where: Where) -> Watched:
        return Watched(module)


class Watched(Wrapper):
    """The part, and its last output."""

    seen: np.ndarray

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        y = self.base(*args, **kwargs)
        self.seen = to_numpy(y.data)
        return y


def outputs(
    model: Any, batches: Iterable[Any], targets: Targets
) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """Run a model on batches, and yield each with the outputs of the parts: path -> array.

    batches  Batch objects, as those of a task are
    targets  which parts, as a method's: a Tap such as "head_out", a Linear, a whole block
    Shapes   those of the part: (B, T, C) of most, (B, H, T, D) of some Taps
    What is attached already acts as it does; nothing trains and nothing stays.
    """
    xp = xp_of(model.parameters()[0].data)
    named = targets if isinstance(targets, str) else tuple(targets)
    with Handle(model, Watch(named)) as at:
        for batch in batches:
            with no_grad():
                model(xp.asarray(batch.ids), **batch.given(xp))
            yield batch, {path: w.seen for path, w in at.wrappers.items()}
