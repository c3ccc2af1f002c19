"""What must not change between the forward pass and backward, and how it is noticed."""

from __future__ import annotations

import zlib
from typing import Any

from minipeft.backend import Array, to_numpy


class Changes:
    """How often a Tensor's data was set: what nodes watch, for they do not hold the Tensor."""

    __slots__ = ("now", "owned", "shape")

    def __init__(self, t: Any) -> None:
        self.now, self.owned, self.shape = 0, t.owned, t.shape

    def __str__(self) -> str:
        return f"a {'parameter' if self.owned else 'Tensor'} of shape {self.shape}"


class Elements:
    """The elements of an array, as a checksum: what nodes watch under running(check=True)."""

    def __init__(self, array: Array, what: str) -> None:
        self.array, self.what = array, what

    @property
    def now(self) -> int:
        return zlib.crc32(to_numpy(self.array).tobytes())

    def __str__(self) -> str:
        return f"an element of {self.what}, shape {self.array.shape},"
