"""Hidden states below a cut, computed once for each example.

Where the lower blocks are frozen and nothing is drawn, what they make of an example never
changes. So from the second epoch on training need not run them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minipeft.backend import Array, xp_of
from minipeft.contract.targets import layer_of
from minipeft.engine import Tensor, no_grad
from minipeft.training.batches import Batch


class HiddenStates:
    """What enters block `below`, by the number of an example.

    below  the lowest block with anything in it that trains or was wrapped
    """

    def __init__(self, model: Any) -> None:
        """Raises  ValueError that says what changes below every block"""
        self.below = _cut(model)
        self.states: dict[int, Array] = {}

    def of(self, batch: Batch) -> View:
        """The states of a batch."""
        if batch.rows is None:
            raise ValueError("cached=True needs batches that number their examples (Batch.rows); "
                             "this source draws new ones each time")  # fmt: skip
        if batch.ids.ndim > 2:  # of a picture every position is kept
            return View(self, batch.rows.tolist(), [None] * len(batch.rows), None)
        lengths = batch.mask.sum(axis=1).tolist()
        return View(self, batch.rows.tolist(), lengths, batch.mask.shape[1])


class View:
    """The rows of one batch: their numbers, their lengths, and the length they are padded to.

    Both are None for pictures, all of which are alike.
    """

    def __init__(
        self,
        store: HiddenStates,
        numbers: Sequence[int],
        lengths: Sequence[int | None],
        width: int | None,
    ) -> None:
        self.store, self.below = store, store.below
        self.numbers, self.lengths, self.width = numbers, lengths, width

    def read(self, compute: Callable[[], Tensor]) -> Tensor:
        """The stored states, padded with zeros, or those of `compute`, which are then stored.

        Shapes  (B, T, C)
        """
        states = self.store.states
        if any(n not in states for n in self.numbers):
            with no_grad():
                x = compute().data
            for row, n, length in zip(x, self.numbers, self.lengths, strict=True):
                states[n] = row[:length].copy()
            return Tensor(x)
        first = states[self.numbers[0]]
        shape = len(self.numbers), self.width or len(first), first.shape[1]
        x = xp_of(first).zeros(shape, dtype=first.dtype)
        for i, (n, length) in enumerate(zip(self.numbers, self.lengths, strict=True)):
            x[i, :length] = states[n]
        return Tensor(x)


def _cut(model: Any) -> int:
    """The lowest block that may change, or how many there are."""
    if getattr(model.config, "dropout", 0.0):
        raise ValueError("cached=True: the model has dropout, which draws other states each time")
    for handle in model.handles:
        if handle.computed:
            raise ValueError(
                f"cached=True: {handle.method.name!r} computes parameters anew in every pass"
            )
    touched = [path for path, p in model.named_parameters() if p.requires_grad]
    touched += [path for handle in model.handles for path in handle.wrappers]
    moving = [path for path in touched if path.startswith(("emb", "start"))]
    if moving:
        raise ValueError(f"cached=True: {moving[0]} stands below every block and changes, so no "
                         "hidden state is fixed")  # fmt: skip
    layers = [layer_of(path) for path in touched]
    return min((i for i in layers if i is not None), default=len(model.blocks))
