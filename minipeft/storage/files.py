"""Where the shipped files are, and how a file is written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

UNFINISHED = ".tmp"  # how the name of a file ends that is being written


def data_dir() -> Path:
    """The folder with the shipped models, tokenizer and results.

    Looked for in this order: $MINIPEFT_DATA, data/ of the checkout, data/ inside the package.
    Raises  FileNotFoundError that names every place looked in
    """
    package = Path(__file__).resolve().parents[1]
    named = os.environ.get("MINIPEFT_DATA")
    if named:
        if Path(named).is_dir():
            return Path(named)
        raise FileNotFoundError(f"MINIPEFT_DATA names {named!r}, which is not a folder")
    places = [package / "data"]
    if (package.parent / "pyproject.toml").is_file():
        places.insert(0, package.parent / "data")
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(["$MINIPEFT_DATA (not set)", *map(str, places)])
    raise FileNotFoundError(f"the shipped data/ was not found. Looked in: {looked}")


def cache_dir() -> Path:
    """The user's folder for public data sets: $MINIPEFT_CACHE, else ~/.cache/minipeft."""
    return Path(os.environ.get("MINIPEFT_CACHE") or Path.home() / ".cache" / "minipeft")


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary)` fill a file beside `path`, then put it in place in one step.

    A reader sees the old file or the new one, never a part; after a failure or a power cut
    the old one is still there, and after a failure the temporary one is not. What a killed
    writer left behind is removed. A link stays: the file that it leads to is written. A file that
    was there keeps its mode.
    Raises  OSError that names the path, where no file can be
    """
    path = _file_of(path)
    sweep(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{UNFINISHED}"
    _writing.add(temporary)
    try:
        temporary.touch()
        mode = (path if path.exists() else temporary).stat().st_mode  # a new file's: the umask's
        write(temporary)
        temporary.chmod(stat.S_IMODE(mode))  # safetensors leaves it readable by its owner alone
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _writing.discard(temporary)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(path.parent, os.O_RDONLY)


def check_writable(path: str | Path) -> None:
    """Find out now, and not after hours of work, whether `write_atomic` can write a file.

    Raises  OSError that names the path and why: no folder, no regular file, no permission
    """
    file = _file_of(path)
    trial = file.parent / f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}{UNFINISHED}"
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise type(error)(
            f"cannot write {path}: {error.strerror or error} in the folder {file.parent}"
        ) from error


def sweep(path: str | Path) -> None:
    """Remove what writers of `path` left behind when they were killed.

    The temporary files of this process and of others that still run are left alone.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{UNFINISHED}"):
        if left in _writing or _runs(left.name.removesuffix(UNFINISHED).rpartition(".")[2]):
            continue
        with contextlib.suppress(OSError):  # another process was faster, or it is open elsewhere
            left.unlink()


_writing: set[Path] = set()  # temporary files that this process fills at the moment


def _runs(mark: str) -> bool:
    """Whether another process of that number, the mark's first part, is alive."""
    number = mark.partition("-")[0]
    if os.name != "posix" or not number.isascii() or not number.isdigit():
        return False
    if int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)  # asks, and sends nothing
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _file_of(path: str | Path) -> Path:
    """The regular file that a path leads to, through links, whether it is there yet or not."""
    file = Path(os.path.realpath(path))
    if file.is_symlink():
        raise OSError(f"cannot write {path}: its links lead in a circle")
    if not file.parent.is_dir():
        there = "is no folder" if file.parent.exists() else "does not exist"
        raise FileNotFoundError(f"cannot write {path}: the folder {file.parent} {there}")
    if file.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it")
    if file.exists() and not file.is_file():
        kind = "a pipe" if file.is_fifo() else "a socket" if file.is_socket() else "a device"
        raise OSError(f"cannot write {path}: it is {kind}, no regular file")
    if file.exists() and not os.access(file, os.W_OK):
        raise PermissionError(f"cannot write {path}: the file is write-protected")
    return file


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
