"""Draws the inputs of a case: shapes and numbers by a seed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Draw:
    """A seeded source of inputs.

    case  what it draws for: each case has numbers of its own
    edge  every size is the smallest one
    """

    def __init__(self, seed: int | str, case: str = "", edge: bool = False) -> None:
        words = [zlib.crc32(f"{i}:{seed}:{case}:{edge}".encode()) for i in range(4)]
        self.rng = np.random.Generator(np.random.PCG64(words))
        self.edge = edge

    def size(self, low: int, high: int) -> int:
        """The length of an axis, from low to high, both among them."""
        return low if self.edge else int(self.rng.integers(low, high + 1))

    def normal(self, *shape: int, scale: float = 0.3) -> Any:
        return self.rng.standard_normal(shape) * scale

    def uniform(self, low: float, high: float, *shape: int) -> Any:
        """A float without a shape, else an array."""
        found = self.rng.uniform(low, high, shape)
        return found if shape else float(found)

    def integers(self, low: int, high: int, *shape: int) -> Any:
        """Whole numbers, high not among them; an int without a shape."""
        found = self.rng.integers(low, high, shape)
        return found if shape else int(found)

    def choice(self, of: Sequence[T]) -> T:
        return of[int(self.rng.integers(len(of)))]

    def permutation(self, n: int) -> Any:
        return self.rng.permutation(n)
