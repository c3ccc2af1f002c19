"""A command that works in silence says so on stderr, within two seconds and now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

FIRST, LATER = 1.7, 20.0  # seconds of silence: at first, and between two lines of a log
TICK = 0.2
WIDE = 78


class Heartbeat:
    """Listens to stdout and stderr inside a `with`, and speaks where nobody else does.

    A terminal sees one line that changes and is gone when something is printed; a log gets a
    line now and then. What is printed on stdout is never touched.
    """

    def __init__(self, doing: str) -> None:
        self.doing, self.standing = doing, False  # standing: a line of ours is in the terminal
        self.lock, self.over = threading.RLock(), threading.Event()
        self.began = self.last = time.monotonic()
        self.patience = FIRST

    def busy(self, doing: str) -> None:
        """What the command does from now on."""
        with self.lock:
            self.hush()
            self.doing, self.began = doing, time.monotonic()
            self.last, self.patience = self.began, FIRST

    def hush(self) -> None:
        """Something is printed: our line leaves the terminal, and silence begins anew."""
        if self.standing:
            self.err.write(f"\r{'':{WIDE}}\r")
            self.err.flush()
            self.standing = False
        self.last, self.patience = time.monotonic(), FIRST if self.terminal else LATER

    def beat(self) -> None:
        """Say what is going on, if nothing was heard for long enough."""
        with self.lock, contextlib.suppress(OSError, ValueError):  # stderr may be gone
            now = time.monotonic()
            if now - self.last < self.patience:
                return
            line = f"{self.doing}, {now - self.began:.0f} s"
            self.err.write(f"\r{line[:WIDE]:{WIDE}}" if self.terminal else f"{line}\n")
            self.err.flush()
            self.standing = self.terminal
            self.last = now - FIRST + 1 if self.terminal else now
            self.patience = FIRST if self.terminal else LATER

    def _listen(self) -> None:
        while not self.over.wait(TICK):
            self.beat()

    def __enter__(self) -> Self:
        self.out, self.err = sys.stdout, sys.stderr
        self.terminal = self.err.isatty()
        sys.stdout, sys.stderr = _Heard(self.out, self), _Heard(self.err, self)
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError, ValueError):
            self.hush()
        sys.stdout, sys.stderr = self.out, self.err


class _Heard:
    """A stream whose writes a heartbeat hears."""

    def __init__(self, stream: Any, heartbeat: Heartbeat) -> None:
        self._stream, self._heartbeat = stream, heartbeat

    def write(self, text: str) -> int:
        with self._heartbeat.lock:
            self._heartbeat.hush()
            return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
