"""The process that runs a student's code: python -I -S -B child.py SETTINGS.

It knows no answers. It takes requests {case, inputs} on what was its standard input, calls that
function of the tree's adapters.py and answers on what was its standard output; what the student
prints goes nowhere. Before it reads any of the student's code it gives up what the system lets it
give up (`lock`), and its first answer says which protections are on. It stands alone: Python's
standard library, NumPy, safetensors, and the kit that lies beside it.

    request   16 random bytes, length (8), `pack`ed inputs with the case's name under "case"
    answer    the request's 16 bytes, kind (1), length (8), `pack`ed results or a text
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import platform
import signal
import struct
import sys
import sysconfig
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

HELLO = bytes(16)  # what the first answer has for a question
KINDS = {"hello": b"h", "done": b"d", "error": b"e", "not done": b"n", "memory": b"m"}
PACKAGES = ("numpy", "safetensors", "tokenizers")  # all that may be imported besides the tree
WARM = ("numpy.linalg", "numpy.fft", "numpy.random", "safetensors.numpy", "hashlib", "lzma", "bz2")
OPEN = 24  # descriptors
NOT_KEPT = "darwin", "RLIMIT_AS"
TEXT = 500  # characters of a message

# -- what the process gives up --------------------------------------------------------------------


def lock(told: dict[str, Any]) -> dict[str, str]:
    """Give up all that a student's code does not need. Returns protection -> "" or why it is off.

    told  "tree", "scratch", "packages" (folders), "user" (an id), "why" not, "limits", "parent"
    """
    linux = sys.platform == "linux"
    system = f"{platform.system()} {platform.release()}"
    reading = sealed = f"{system} has neither Landlock nor seccomp"
    if linux:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: no way back up, and the filters ask it
        reading = landlock(libc, told)
    off, may = bounds(told["limits"]), "the grader may" if told["user"] is None else "all may"
    off["reading"] = reading and f"{reading}: it opens by name what {may} read"
    off["disk"] = off["disk"] or (reading and f"{reading}: it writes where {may}")
    off["user"], off["orphans"] = told["why"], "" if linux else f"{system} lets them live"
    if told["user"] is not None:
        try:
            os.setgroups([])
            os.setgid(told["user"])
            os.setuid(told["user"])
        except OSError as error:  # a container whose root may not
            off["user"] = f"it runs as root: {error}"
    if linux:
        libc.capset(struct.pack("<Ii", 0x20080522, 0), bytes(24))  # no powers, where it stays root
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no core file, whatever the system wants
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG; a change of user clears it
        if os.getppid() != told["parent"]:
            os._exit(0)
        sealed = seccomp(libc)
    off["network"], off["other processes"] = sealed, off["user"] and sealed
    if not sealed or off["processes"] or os.geteuid() == 0:  # root is above RLIMIT_NPROC
        off["processes"] = sealed
    return off


def bounds(limits: dict[str, Any]) -> dict[str, str]:
    """Set the limits that the kernel keeps. Returns protection -> "" or why it is off."""
    off = {"time": ""}  # which the parent keeps by the clock
    wanted = (
        ("RLIMIT_CPU", "time", int(limits["total"]) + 2), ("RLIMIT_AS", "memory", limits["memory"]),
        ("RLIMIT_NOFILE", "disk", OPEN), ("RLIMIT_FSIZE", "disk", limits["files"]),
        ("RLIMIT_NPROC", "processes", 0),  # the first one is there already; threads count
    )  # fmt: skip
    for name, protection, most in wanted:
        try:
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
            off[protection] = "macOS does not keep it" if (sys.platform, name) == NOT_KEPT else ""
        except (AttributeError, OSError, ValueError) as error:
            off.setdefault(protection, f"{platform.system()} has no {name} ({error})")
    return off


def landlock(libc: Any, told: dict[str, Any]) -> str:
    """Allow files of the tree, Python and NumPy to be read, the scratch folder to be written.

    Everything else is closed: other submissions, tests, installed packages, /proc, devices, and
    no file can be run. Returns "" or why it is off
    """
    abi = libc.syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return f"Linux {platform.release()} has no Landlock ({os.strerror(ctypes.get_errno())})"
    read, listing, write = 1 << 2, 1 << 3, 1 << 1
    change = write | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | (1 << 14 if abi >= 3 else 0)
    every = (1 << (13 + (abi >= 2) + (abi >= 3))) - 1 | (1 << 15 if abi >= 5 else 0)
    handled = struct.pack("=QQQ", every, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8  # files; then TCP; then signals
    rules = libc.syscall(ctypes.c_long(444), handled, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if rules < 0:
        return f"Landlock refused its rules: {os.strerror(ctypes.get_errno())}"
    for path, access in allowed(told, read, listing, change).items():
        try:
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not there: nothing to allow
        access &= ~0 if os.path.isdir(path) else read | write
        rule = struct.pack("=Qi", access, at)
        libc.syscall(ctypes.c_long(445), rules, ctypes.c_int(1), rule, ctypes.c_uint32(0))
        os.close(at)
    code = libc.syscall(ctypes.c_long(446), rules, ctypes.c_uint32(0))
    os.close(rules)
    return f"Landlock did not start: {os.strerror(ctypes.get_errno())}" if code else ""


def allowed(told: dict[str, Any], read: int, listing: int, change: int) -> dict[str, int]:
    """What may be opened, and for what."""
    paths = {"/dev/null": read | 1 << 1, "/dev/urandom": read, told["tree"]: read | listing}
    paths[told["scratch"]] = read | listing | change
    for folder in filter(os.path.isdir, map(sysconfig.get_path, ("stdlib", "platstdlib"))):
        paths[folder] = listing  # but what is installed below it stays closed
        for entry in os.listdir(folder):
            if entry not in ("site-packages", "dist-packages"):
                paths[os.path.join(folder, entry)] = read | listing
    for package in PACKAGES:
        for name in (package, f"{package}.libs"):
            paths[os.path.join(told["packages"], name)] = read | listing
    return paths


# machine -> (its AUDIT_ARCH, the numbers of refused calls, those whose first argument must be the
# process itself, or 0). They are, in this order: processes and threads, sockets, others' processes
# and signals, memory that RLIMIT_AS does not count, ways around this filter, and modes, owners and
# times of files, which Landlock leaves open; then kill and tgkill; then prlimit64
CALLS = {
    "x86_64": (0xC000003E,
        "56 57 58 59 322 435 41 53 101 129 141 142 144 200 203 251 256 279 297 310 311 "
        "312 314 424 434 438 440 29 64 68 240 319 447 248 249 250 272 298 308 321 323 "
        "425 76 90 91 92 93 94 132 188 189 190 197 198 199 235 260 261 268 280 452 463 "
        "466 469", "62 234", "302"),
    "aarch64": (0xC00000B7,
        "220 221 281 435 198 199 30 117 118 119 122 130 138 140 238 239 240 270 271 272 "
        "274 424 434 438 440 180 186 190 194 279 447 97 217 218 219 241 268 280 282 425 "
        "5 6 7 14 15 16 45 52 53 54 55 88 452 463 466 469", "129 131", "261"),
}  # fmt: skip


def seccomp(libc: Any) -> str:
    """Refuse system calls that start, signal or trace a process or open a socket. "" or why not."""
    if platform.machine() not in CALLS:
        return f"no filter of system calls is written for {platform.machine()}"
    arch, refused, own, zero = CALLS[platform.machine()]
    load, equal, reach, back = 0x20, 0x15, 0x35, 0x06  # of the classic Berkeley packet filter
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000  # refused: EPERM
    program = [(load, 0, 0, 4), (equal, 1, 0, arch), (back, 0, 0, kill), (load, 0, 0, 0)]
    program += [(reach, 0, 1, 0x40000000), (back, 0, 0, refuse)]  # the other numbering of x86
    for number in map(int, refused.split()):
        program += [(equal, 0, 1, number), (back, 0, 0, refuse)]
    for numbers, first in ((own, os.getpid()), (zero, 0)):
        for number in map(int, numbers.split()):
            program += [(equal, 0, 4, number), (load, 0, 0, 16), (equal, 0, 1, first)]
            program += [(back, 0, 0, allow), (back, 0, 0, refuse)]
    program.append((back, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    filled = struct.pack("@HP", len(program), ctypes.addressof(code))
    if libc.prctl(22, 2, filled, 0, 0):  # PR_SET_SECCOMP, a filter
        return f"seccomp did not start: {os.strerror(ctypes.get_errno())}"
    return ""


# -- what it answers ------------------------------------------------------------------------------


def only(folder: str) -> Any:
    """A finder for Python's import: of PACKAGES, and nothing that is installed beside them."""

    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        ours = path is None and name in PACKAGES
        return PathFinder.find_spec(name, [folder]) if ours else None

    return SimpleNamespace(find_spec=find_spec)


def answer(case: str, inputs: dict[str, Any], tree: str, pack: Any) -> tuple[str, bytes]:
    """(kind, results or a text) of one case."""
    try:
        call = getattr(importlib.import_module("adapters"), case, None)
        if not callable(call):
            raise AttributeError(f"adapters.py has no function {case}")
        results = call(**inputs)
        if not isinstance(results, dict):
            raise TypeError(f"{case} must return a dict of arrays, not {type(results).__name__}")
        return "done", pack({str(name): plain(value) for name, value in results.items()})
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        kinds = {NotImplementedError: "not done", MemoryError: "memory"}
        kind = next((kinds[type_] for type_ in kinds if isinstance(error, type_)), "error")
        try:
            return kind, last_line(error, tree).encode("utf-8", "replace")
        except BaseException:  # an exception whose text is an exception
            return kind, b"an exception without a readable text"


def plain(value: Any) -> Any:
    """A result as `pack` takes it: an array, or a number or string as it is."""
    if isinstance(value, bool | int | float | str):
        return value
    return sys.modules["numpy"].asarray(value)


def last_line(error: BaseException, tree: str) -> str:
    """The last line of the traceback, and where in the tree it happened."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    text = str(error) if isinstance(error, NotImplementedError) and str(error) else lines[-1]
    frames = traceback.extract_tb(error.__traceback__)
    places = [f for f in frames if f.filename.startswith(tree + os.sep)]
    if isinstance(error, NotImplementedError) or not places:
        return text[:TEXT]
    file = os.path.relpath(places[-1].filename, tree)
    return f"{text[:TEXT]} ({file}, line {places[-1].lineno})"


def take(at: int, length: int) -> bytes:
    """So many bytes of a descriptor. Raises  BrokenPipeError where there are no more"""
    parts = bytearray()
    while len(parts) < length:
        if not (part := os.read(at, min(length - len(parts), 1 << 20))):
            raise BrokenPipeError("the other end is closed")
        parts += part
    return bytes(parts)


def put(at: int, head: bytes, body: bytes) -> None:
    """Write a head, a length and so many bytes."""
    rest = memoryview(head + struct.pack("<Q", len(body)) + body)
    while rest:
        rest = rest[os.write(at, rest) :]


def private() -> tuple[int, int]:
    """The two ends that the parent holds, moved away from where a print would reach them."""
    ends = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for place in (0, 1, 2):
        os.dup2(nothing, place)
    os.close(nothing)
    return ends


def kit_beside() -> Any:
    """kit.py of the folder homework, which no import finds."""
    spec = importlib.util.spec_from_file_location(
        "kit", Path(__file__).parents[1] / "homework" / "kit.py"
    )
    assert spec and spec.loader
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    return kit


def main(told: dict[str, Any]) -> NoReturn:
    """Answer until the parent closes its end."""
    requests, answers = private()
    sys.meta_path.append(only(told["packages"]))
    for name in WARM:  # with the system's libraries that they load, while these can be read
        importlib.import_module(name)
    sys.modules["numpy"].linalg.svd([[1.0]])  # MKL loads its parts when they are first called
    kit = kit_beside()
    sys.path[:] = [told["tree"], *sys.path]
    put(answers, HELLO + KINDS["hello"], json.dumps(lock(told)).encode())
    while True:
        nonce = take(requests, len(HELLO))
        inputs = kit.unpack(take(requests, struct.unpack("<Q", take(requests, 8))[0]))
        kind, body = answer(inputs.pop("case"), inputs, told["tree"], kit.pack)
        put(answers, nonce + KINDS[kind], body)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
