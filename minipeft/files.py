"""Where the shipped files are, and how a file is written whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Callable
from pathlib import Path

UNFINISHED = ".tmp"  # how the name of a file ends that is being written


def data_dir() -> Path:
    """The folder with the shipped models, tokenizer and results.

    Looked for in this order: $MINIPEFT_DATA, data/ of the checkout, data/ inside the package.
    Raises  FileNotFoundError that names every place looked in
    """
    package = Path(__file__).resolve().parent
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
    the old one is still there, and after a failure the temporary one is not.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask gives a new file
        write(temporary)
        temporary.chmod(mode)  # safetensors leaves it readable by its owner alone
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(path.parent, os.O_RDONLY)


def sweep(path: str | Path) -> None:
    """Remove what writers of `path` left behind when they were killed.

    Only for a file that nobody else writes at the moment.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{UNFINISHED}"):
        left.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
