"""As many BLAS threads as the matrices are worth.

A product that threads share ends with its slowest piece. Where other work has a core, a small
piece waits for its turn far longer than it computes, while the threads that are done spin: 30
steps of a small model that take 2 s on one thread took 40 on two. So a model of narrow matrices
gets one thread, and one of wide matrices as many as have some milliseconds of work each.

The number follows from sizes alone, never from how busy the machine is, because OpenBLAS gives
other last bits with another number of threads. What the user has set (OPENBLAS_NUM_THREADS,
OMP_NUM_THREADS, threadpoolctl) is the most that is taken.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

NARROW = 256  # below this width products are a small part of a step: one thread
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
PIECE = 2.5e8  # floating-point operations of a thread's piece: 2-4 ms, a turn of the scheduler


def worth(width: int, tokens: int) -> int:
    """How many threads the largest product of a block is worth.

    Its MLP multiplies (tokens, width) by (width, 4 width): 8 tokens width² operations.
    """
    return 1 if width < NARROW else max(1, int(8 * tokens * width * width / PIECE))


def threads_for(model: Any, rows: int, length: int | None = None) -> int:
    """How many threads a model's work on so many rows at a time is worth.

    length  tokens a row; None for as many as the model takes. A module that has no model of this
            library in it gets one thread
    """
    configs = (part.config for _, part in model.named_modules() if hasattr(part, "config"))
    config = next(configs, None)
    if length is None:
        length = getattr(config, "context", None) or 1 + getattr(config, "patches", 0)
    return worth(getattr(config, "width", 0), rows * length)


class _Limits:
    """The calls that limit the threads now, the last one deciding, and what was set before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: list[list[int]] = []
        self.before: list[int] = []  # of each library
        self.now = 0

    def begin(self, asked: list[int]) -> None:
        with self.lock:
            if not self.asked:
                self.before, self.now = [lib.get_num_threads() for lib in _libraries()], 0
            self.asked.append(asked)
            self.put()

    def end(self, asked: list[int]) -> None:
        with self.lock:
            self.asked = [other for other in self.asked if other is not asked]
            self.put()

    def put(self) -> None:
        """Tell the libraries, if there is news."""
        n = self.asked[-1][0] if self.asked else max(self.before, default=1)
        if n != self.now:
            self.now = n
            for library, most in zip(_libraries(), self.before, strict=True):
                library.set_num_threads(min(n, most))


_LIMITS = _Limits()


@contextmanager
def blas_threads(n: int) -> Iterator[None]:
    """At most n BLAS threads inside; what was set before is back afterwards.

    It holds for the whole process. Calls may be nested, in other threads too: the one that began
    last decides, and the last to end puts things back. Inside another of the same n it costs
    a microsecond or two.
    """
    asked = [n]
    _LIMITS.begin(asked)
    try:
        yield
    finally:
        _LIMITS.end(asked)


def limit_threads(n: int) -> None:
    """At most n BLAS threads from now on: for a notebook, whose own loops are of small arrays."""
    for library in _libraries():
        library.set_num_threads(min(n, library.get_num_threads()))


def one_thread(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process of small arrays: one thread, unless the user has set some."""
    asked = any(environment.get(name) for name in THREADS)
    return {**environment, **({} if asked else dict.fromkeys(THREADS, "1"))}


def in_force() -> str:
    """The BLAS libraries, their kernels and threads: what the last bits of a product depend on."""
    return ", ".join(
        f"{lib.internal_api} {getattr(lib, 'architecture', '')} with {lib.get_num_threads()} thread"
        + "s" * (lib.get_num_threads() > 1)
        for lib in _libraries()
    )


@cache
def _libraries() -> list[Any]:
    """The BLAS libraries of this process; to look for them takes a millisecond or more."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers
