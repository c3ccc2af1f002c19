"""One line that says how far a long loop is and when it should end."""

from __future__ import annotations

import sys
import time
from typing import TextIO

FIRST = 1.5  # seconds


class Progress:
    """Prints within two seconds, then now and then; a terminal sees one line that changes.

    out    where to print; stdout by default
    quiet  print nothing
    start  how many of the total were done before
    """

    def __init__(
        self, name: str, total: int, out: TextIO | None = None, quiet: bool = False, start: int = 0
    ) -> None:
        self.name, self.total, self.quiet, self.start = name, total, quiet, start
        self.out = sys.stdout if out is None else out
        self.begin = self.last = time.monotonic()
        self.shown = False

    def update(self, done: int, note: str = "") -> None:
        """Tell that `done` of the total is done."""
        now = time.monotonic()
        terminal = self.out.isatty()
        wait = FIRST if not self.shown else 0.5 if terminal else 15.0
        if self.quiet or now - self.last < wait:
            return
        left = (now - self.begin) / max(done - self.start, 1) * (self.total - done)
        line = f"{self.name}  {done}/{self.total}  {note}  {_clock(left)} to go"
        self.out.write(f"\r{line:<78}" if terminal else f"{line}\n")
        self.out.flush()
        self.last, self.shown = now, True

    def stop(self) -> None:
        """Leave the changing line as it is: what is printed next begins a new one."""
        if self.shown and self.out.isatty():
            self.out.write("\n")
            self.out.flush()

    def done(self, note: str = "") -> None:
        """The closing line, if anything was shown before."""
        if self.shown:
            line = f"{self.name}  done in {_clock(time.monotonic() - self.begin)}  {note}"
            self.out.write(f"\r{line:<78}\n" if self.out.isatty() else f"{line}\n")
            self.out.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
