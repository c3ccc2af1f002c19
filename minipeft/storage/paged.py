"""Arrays in a scratch file: as many as the disk holds, within a budget of memory.

A paged array is an ordinary NumPy array whose bytes are mapped from a file that has no name and
goes with the process. The system loads a page when it is touched. `touched` counts what was, and
once that is more than the budget lets all of it go: it is still in the file, to the bit.
The file lies where the system keeps temporary files; if that is itself in memory, name a folder.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Scratch:
    """Copies of arrays in one scratch file.

    arrays  the copies, to be read and written like any array
    budget  bytes of them that may be in memory
    Raises  ValueError for a budget below 0, TypeError for arrays of a device
    """

    def __init__(
        self, arrays: Sequence[np.ndarray], budget: int = 0, folder: str | Path | None = None
    ) -> None:
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
            raise ValueError(f"budget must be a whole number of bytes >= 0, got {budget!r}")
        for a in arrays:
            if not isinstance(a, np.ndarray):
                raise TypeError(f"only arrays of the CPU are paged, got {type(a).__name__}")
        page = mmap.ALLOCATIONGRANULARITY
        ends = np.cumsum([0, *(-(-a.nbytes // page) * page for a in arrays)]).tolist()
        self.budget, self.size, self.loaded = budget, ends[-1], 0
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(max(self.size, 1))
            self.map = mmap.mmap(file.fileno(), max(self.size, 1))
        self.arrays = []
        for a, start in zip(arrays, ends, strict=False):
            new = np.frombuffer(self.map, a.dtype, a.size, start).reshape(a.shape)
            new[...] = a
            self.touched(new)
            self.arrays.append(new)

    def touched(self, *arrays: np.ndarray) -> None:
        """Note that these were read or written; let everything go once it is too much."""
        self.loaded += sum(a.nbytes for a in arrays)
        if self.loaded > self.budget < self.size:
            self.release()

    def release(self) -> None:
        """Take all pages out of memory; what was written stays in the file."""
        self.loaded = 0
        if hasattr(mmap, "MADV_DONTNEED"):  # elsewhere the system does it when it needs room
            self.map.madvise(mmap.MADV_DONTNEED)


States = list[dict[str, Any]]  # arrays by name


def in_scratch(states: States, budget: int, folder: str | None) -> tuple[Scratch, States]:
    """The states of an optimizer, in a scratch file.

    Raises  ValueError for arrays on a device
    """
    flat = [array for state in states for array in state.values()]
    if not all(isinstance(a, np.ndarray) for a in flat):
        raise ValueError("paged optimizer state is for the CPU: these parameters are on a device")
    scratch = Scratch(flat, budget, folder)
    moved = iter(scratch.arrays)
    return scratch, [{slot: next(moved) for slot in state} for state in states]


def is_paged(array: Any) -> bool:
    """Whether an array's bytes lie in a scratch file."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(getattr(array, "obj", array), mmap.mmap)
