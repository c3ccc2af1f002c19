"""The parent's side of the process boundary: limits, a child that dies and comes back, answers.

The grader's process never runs a student's code. It starts child.py with a copy of the student's
tree and nothing else, sends inputs and gets arrays. All that comes back is judged as hostile: its
length, its form and its kinds are checked, and no answer of any sort ends the grader.

The protections, each of which `protections` says is on or why it is off:
    time             a call and all calls, by the clock; the process is killed
    memory           RLIMIT_AS
    disk             a file: RLIMIT_FSIZE; the scratch folder: looked at; nothing else: Landlock
    processes        no other process and no thread: seccomp, or RLIMIT_NPROC where it is not root
    reading          the tree, Python and NumPy alone: Landlock. Without it the import path holds no
                     more than these, but a file can be opened by its name
    network          no socket: seccomp
    other processes  no signal to them and no look into them: seccomp, or a user of its own
    user             one who owns nothing if the grader is root; else the grader's, without powers
    orphans          it ends when the grader's thread ends
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from minipeft.course.grading.child import HELLO, KINDS, TEXT, put, take
from minipeft.course.homework import kit

CHILD = Path(__file__).with_name("child.py")
START = 120  # seconds that Python and NumPy may take to start on a busy machine
TICK = 0.05  # seconds between two looks at the scratch folder
ANSWER = 16 << 20  # bytes of an answer
NAMES = 100  # results in an answer, and characters of a name
TREE = 64 << 20  # bytes of a tree
LEFT_OUT = ("__pycache__", "tests", ".git", ".venv")  # of a tree: the tests hold wanted results
ALLOWED = "fiub"  # kinds of arrays: floats, integers, booleans
Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Limits:
    """What a submission may take.

    seconds  of one call, by the clock
    total    seconds of all calls together, by the clock; of the processor a little more
    memory   bytes of a process, of which Python and NumPy need about 110 MB
    files    bytes of its scratch folder, and of one file
    """

    seconds: float = 10.0
    total: float = 240.0
    memory: int = 600 << 20
    files: int = 16 << 20


class Failed(Exception):
    """A call gave no results.

    kind  "error" (an exception of the student's code), "not done" (a hole that is still one),
          "time", "memory", "disk", "crash" (the process ended), "malformed" (an answer that is
          none), "forged" (an answer to no question)
    text  one line for the report
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


class Child(AbstractContextManager["Child"]):
    """A process that has a student's tree and nothing else; use it with `with`, or close it.

    tree  a folder with adapters.py; its files are copied, links and LEFT_OUT are not

    Make it in the thread that uses it: where the thread ends, Linux ends the process.
    """

    def __init__(self, tree: str | Path, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.spent = 0.0
        self.protections: dict[str, str] = {}
        self._process: Process | None = None
        self._room = Path(tempfile.mkdtemp(prefix="homework-")).resolve()
        self._user, self._why = unprivileged(self._room)
        try:
            copy(Path(tree), self._room / "tree")
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove its folder."""
        self._end()
        remove(self._room)

    def call(self, case: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """What adapters.py returns for one case: a flat dict of arrays, numbers and strings.

        A call that fails by what an earlier one left in the process is made again in a new one.
        Raises  Failed
        """
        request = kit.pack({**inputs, "case": case})
        again = ("crash", "forged", "malformed") if self._process else ()
        try:
            return self._call(request)
        except Failed as failed:
            if failed.kind not in ("error", "not done"):
                self._end()  # who knows what is left in there
            if failed.kind not in again:
                raise
        return self._call(request)

    def _call(self, request: bytes) -> dict[str, Any]:
        """One call. Raises  Failed"""
        left = self.limits.total - self.spent
        if left <= 0:
            raise Failed("time", f"the {self.limits.total:g} seconds of all calls are used up")
        if self._process is None:
            self._start()
        began = time.monotonic()
        try:
            seconds = min(self.limits.seconds, left)
            kind, body = self._ask(os.urandom(len(HELLO)), request, seconds)
        finally:
            self.spent += time.monotonic() - began
        if kind != "done":
            raise Failed(kind, printable(body))
        return checked(body)

    def _start(self) -> None:
        """A new process, with an empty scratch folder."""
        scratch = self._room / "scratch"
        remove(scratch)
        scratch.mkdir(mode=0o700, exist_ok=True)
        if self._user is not None:
            self._room.chmod(0o755)
            os.chown(scratch, self._user, self._user)
        told = {
            "tree": str(self._room / "tree"), "scratch": str(scratch), "user": self._user,
            "packages": str(Path(np.__file__).parents[1]), "why": self._why,
            "limits": asdict(self.limits), "parent": os.getpid(),
        }  # fmt: skip
        threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        folders = dict.fromkeys(("HOME", "TMPDIR", "TEMP"), str(scratch))
        system = {name: os.environ[name] for name in {"SYSTEMROOT"} & set(os.environ)}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CHILD), json.dumps(told)], bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=scratch,
            env={**system, **folders, **dict.fromkeys(threads, "1")}, start_new_session=True,
        )  # fmt: skip
        try:
            self.protections = json.loads(self._ask(HELLO, None, START)[1])
        except Failed as failed:
            self._end()
            raise RuntimeError(f"the process for student code does not start: {failed}") from None

    def _end(self) -> None:
        """No process is left."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError, AttributeError):  # Windows has no groups
            os.killpg(process.pid, signal.SIGKILL)  # those that it started, too
        process.kill()
        process.wait()
        self._talk.join(1)
        if not self._talk.is_alive():  # else it reads what another process still holds open
            for pipe in (process.stdin, process.stdout):
                pipe and pipe.close()

    def _ask(self, nonce: bytes, request: bytes | None, seconds: float) -> tuple[str, bytes]:
        """Send a request and wait for its answer, for so many seconds. Raises  Failed"""
        process = self._process
        assert process is not None
        got: list[tuple[str, bytes] | Failed] = []

        def talk() -> None:
            try:
                got.append(exchange(process, nonce, request))
            except Failed as failed:
                got.append(failed)
            except OSError:  # the pipe is at its end
                got.append(ended(process))

        self._talk = thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        until = time.monotonic() + seconds
        while thread.is_alive():
            thread.join(min(TICK, max(0.0, until - time.monotonic())))
            if thread.is_alive() and time.monotonic() >= until:
                raise Failed("time", f"no answer after {seconds:.3g} seconds")
            if size(self._room / "scratch") > self.limits.files:
                raise Failed("disk", f"it wrote more than {self.limits.files >> 20} MB of files")
        if isinstance(got[0], Failed):
            raise got[0]
        return got[0]


# -- what comes back ------------------------------------------------------------------------------


def exchange(process: Process, nonce: bytes, request: bytes | None) -> tuple[str, bytes]:
    """Write a request and read the answer to it. Raises  Failed, and OSError at the pipe's end"""
    assert process.stdin and process.stdout
    if request is not None:
        put(process.stdin.fileno(), nonce, request)
    head = take(process.stdout.fileno(), len(nonce) + 9)
    if head[: len(nonce)] != nonce:
        raise Failed("forged", "it sent an answer to a question that was not asked")
    kinds = {mark: kind for kind, mark in KINDS.items() if (kind == "hello") == (request is None)}
    kind, length = kinds.get(head[-9:-8]), struct.unpack("<Q", head[-8:])[0]
    if kind is None or length > ANSWER:
        raise Failed("malformed", f"its answer has an unknown form, or over {ANSWER >> 20} MB")
    return kind, take(process.stdout.fileno(), length)


def ended(process: Process) -> Failed:
    """How a process went whose pipe is at its end."""
    why = "it closed its connection to the grader"
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(0.5)
        why = f"the process ended itself (exit status {code})"
        if code < 0:
            why = f"{signal.strsignal(-code)} (signal {-code} ended the process)"
    return Failed("crash", why)


def checked(body: bytes) -> dict[str, Any]:
    """The results in an answer. Raises  Failed"""
    try:
        results = kit.unpack(body)
        kinds = {v.dtype.kind if isinstance(v, np.ndarray) else type(v) for v in results.values()}
    except Exception as error:  # safetensors and JSON each have their own
        raise Failed("malformed", f"its answer holds no arrays ({type(error).__name__})") from None
    if len(results) > NAMES or not all(n.isprintable() and len(n) <= NAMES for n in results):
        raise Failed("malformed", f"its answer has {len(results)} results, or names beyond reason")
    if wrong := kinds - {*ALLOWED, bool, int, float, str}:
        raise Failed("malformed", f"its answer holds what is no number: {wrong}")
    return results


def printable(body: bytes) -> str:
    """A text of the student's process as one line for a screen."""
    text = body[: 8 * TEXT].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[: 2 * TEXT]


# -- its folder and its user ----------------------------------------------------------------------


def copy(tree: Path, to: Path) -> None:
    """Copy the plain files of a tree, readable to all. Raises  Failed where they are too many"""
    used = 0
    for folder, names, files in os.walk(tree):
        names[:] = [name for name in names if name not in LEFT_OUT]  # links are not followed
        target = to / Path(folder).relative_to(tree)
        target.mkdir(parents=True)
        target.chmod(0o755)
        for name in files:
            about = os.lstat(source := Path(folder, name))
            used += max(about.st_size, 4096)
            if used > TREE:
                raise Failed("disk", f"the submission has more than {TREE >> 20} MB of files")
            if stat.S_ISREG(about.st_mode):
                shutil.copyfile(source, target / name, follow_symlinks=False)
                (target / name).chmod(0o644)


def remove(folder: Path) -> None:
    """Remove a folder, and what is closed in it."""
    for inside, names, _ in os.walk(folder):
        for path in (Path(inside, name) for name in names):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def size(folder: Path) -> float:
    """Bytes on disk below a folder; infinity where a part of it is closed."""
    closed: list[OSError] = []
    used = 0
    for inside, names, files in os.walk(folder, onerror=closed.append):
        for name in names + files:
            try:
                used += max(4096, os.lstat(os.path.join(inside, name)).st_size)
            except OSError as error:
                closed.append(error)
    return used if all(isinstance(error, FileNotFoundError) for error in closed) else math.inf


def unprivileged(room: Path) -> tuple[int | None, str]:
    """(a user who owns nothing, to run a student's code, or None; why there is none)."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None, "only root can change the user: it runs as the grader's own"
    for needed in (room, *(Path(str(module.__file__)) for module in (os, np, safetensors))):
        for path in needed.parents:
            if not path.stat().st_mode & stat.S_IXOTH:
                return None, f"{path}, which it needs, is closed to other users: it runs as root"
    for user in (1_000_000 + secrets.randbelow(1_000_000), 65534):  # its own, or nobody
        with suppress(OSError):  # a container may know few users
            os.chown(room, user, user)
            os.chown(room, 0, 0)
            return user, ""
    return None, "root cannot be another user here: it runs as root"


@cache
def protections() -> dict[str, str]:
    """Protection -> "" where this machine has it, else why not; found out by a child."""
    with tempfile.TemporaryDirectory() as tree, Child(tree) as child:
        child._start()
        return child.protections
