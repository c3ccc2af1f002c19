"""What students handed in: found in a folder, told apart, and opened with suspicion.

Three forms are known: a folder with a folder or zip per student, Gradescope's export (folders
submission_NUMBER and submission_metadata.yml), and what Canvas downloads
(doejane_LATE_ID_NUMBER_file.zip).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ENTRIES, BYTES = 2000, 64 << 20  # of one hand-in
FAR = 50_000  # entries of a zip, those that are passed over among them
METADATA = "submission_metadata.yml"
PASSED_OVER = {"__MACOSX", "__pycache__", ".DS_Store", ".git", ".venv", "venv", ".pytest_cache",
               ".ipynb_checkpoints", ".ruff_cache", ".mypy_cache"}  # fmt: skip
CANVAS = re.compile(r"(?P<who>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_\d+_(?P<file>.+)")


class Refused(ValueError):
    """A hand-in that is not opened; the text says why."""


class Person(NamedTuple):
    """Who handed in, as far as the platform tells."""

    who: str
    id: str = ""
    email: str = ""


class Submission(NamedTuple):
    """One hand-in.

    name    of its report: no two have the same, and a file can be called so
    people  of a group, several
    at      when it was handed in, in seconds since 1970
    """

    name: str
    path: Path
    people: tuple[Person, ...]
    at: float
    note: str = ""


# -- found ----------------------------------------------------------------------------------------


def found(folder: str | Path) -> list[Submission]:
    """All hand-ins of a folder, by name.

    Raises  FileNotFoundError if there is no such folder or nothing in it
    """
    folder = Path(folder)
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    aside = (METADATA, *PASSED_OVER)
    entries = [e for e in entries if not e.name.startswith(".") and e.name not in aside]
    if not entries:
        raise FileNotFoundError(f"no submissions in {folder}: it must be a folder that holds a "
                                "folder or a zip per student")  # fmt: skip
    told = _gradescope(folder / METADATA)
    made: dict[str, Submission] = {}
    for path in entries:
        stem = path.stem if path.suffix.lower() == ".zip" else path.name
        canvas, notes = CANVAS.fullmatch(path.name), []
        people, at = told.get(path.name, ([], 0.0))
        if canvas:
            stem, people = canvas["who"], [Person(canvas["who"], canvas["id"])]
            notes += ["Canvas marks it late"] * bool(canvas["late"])
        name = _safe(stem, path)
        if name.casefold() in made:
            notes.append(f"there is another submission with the name {name}")
            name = f"{name}-{_mark(path)}"
        made[name.casefold()] = Submission(name, path, tuple(people) or (Person(_printable(stem)),),
                                           at or _newest(path), "; ".join(notes))  # fmt: skip
    return list(made.values())


def _printable(text: str) -> str:
    """Unicode in one form, without what cannot be written or moves a cursor."""
    plain = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    return "".join(c if c.isprintable() else "?" for c in plain)


def _safe(text: str, path: Path) -> str:
    """A name for a file, the same in every run; marked if it is not the text itself."""
    plain = re.sub(r"[^\w.@+-]", "_", _printable(text)).strip(".")[:60]
    return plain if plain == unicodedata.normalize("NFC", text) else f"{plain}-{_mark(path)}"


def _mark(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:6]


def _newest(path: Path) -> float:
    """When the newest file of a hand-in was written."""
    times = [path.lstat().st_mtime]
    if path.is_dir() and not path.is_symlink():
        times = [p.lstat().st_mtime for p in _below(path) if not p.is_dir()] or times
    return max(times)


def _gradescope(file: Path) -> dict[str, tuple[list[Person], float]]:
    """submission_metadata.yml: the folder's name -> who handed it in, and when.

    Read line by line, as nothing else of YAML is in these lines.
    """
    found: dict[str, tuple[list[Person], float]] = {}
    folder = ""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for line in text.splitlines():
        if top := re.fullmatch(r"(\S+):\s*", line):
            folder = top[1]
            found[folder] = [], 0.0
        elif pair := re.fullmatch(r"  (?:- |  )?:(name|sid|email|created_at): (.+)", line):
            people, at = found.setdefault(folder, ([], 0.0))
            value = _printable(pair[2].strip().strip("'\""))
            if pair[1] == "created_at":
                value = re.sub(r"(\.\d{1,6})\d*", r"\1", value.replace(" Z", "+00:00"))
                found[folder] = people, datetime.fromisoformat(value).timestamp()
            elif pair[1] == "name":
                people.append(Person(value))
            elif people:
                field = "id" if pair[1] == "sid" else "email"
                people[-1] = people[-1]._replace(**{field: value})
    return found


# -- opened ---------------------------------------------------------------------------------------


@contextmanager
def opened(path: str | Path) -> Iterator[Path]:
    """The folder with a hand-in's files: regular ones only, not too many, not too large.

    A zip is unpacked into a temporary folder; one that is alone in a folder is meant itself.
    Raises  Refused that names the reason
    """
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        size = 0
        for i, file in enumerate(_below(path), 1):
            size += file.lstat().st_size
            _check(_printable(str(file.relative_to(path))), file.lstat().st_mode, i, size)
        path = _innermost(path)
        inner = [p for p in path.iterdir() if p.name not in PASSED_OVER]
        if len(inner) != 1 or inner[0].suffix.lower() != ".zip":
            yield path
            return
        path = inner[0]
    name = _printable(path.name)
    with tempfile.TemporaryDirectory(prefix="homework-") as folder:
        try:
            _check(name, path.lstat().st_mode, 1, path.lstat().st_size)
            with zipfile.ZipFile(path) as packed:
                for entry, target in _checked(packed, Path(folder)):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if not entry.is_dir():
                        target.write_bytes(packed.read(entry))
        except Refused:
            raise
        except Exception as error:  # zipfile and what unpacks for it have many kinds
            kind = "a damaged zip" if zipfile.is_zipfile(path) else "not a zip"
            raise Refused(f"{name} is {kind}: {error!s:.200}") from error
        yield _innermost(Path(folder))


def digest(path: Path) -> str:
    """Changes with every file of a hand-in; never raises for what `opened` would refuse."""
    made = hashlib.sha256()
    folder = path.is_dir() and not path.is_symlink()
    for file in sorted(_below(path))[: ENTRIES + 1] if folder else [path]:
        at = file.lstat()
        made.update(f"{file.relative_to(path.parent)} {at.st_size} ".encode(errors="replace"))
        if stat.S_ISREG(at.st_mode) and at.st_size <= BYTES:
            made.update(file.read_bytes())
    return made.hexdigest()[:24]


def _below(folder: Path) -> Iterator[Path]:
    """All below a folder, without following links, what is passed over left out."""
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in PASSED_OVER)
        yield from (Path(at, name) for name in (*folders, *files) if name not in PASSED_OVER)


def _check(name: str, mode: int, entries: int, size: int) -> None:
    """Raises  Refused for what is no file, or where there are too many or too large ones"""
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Refused(f"{name} is {'a link' if stat.S_ISLNK(mode) else 'no regular file'}")
    if entries > ENTRIES:
        raise Refused(f"it has more than {ENTRIES:,} files; hand in your own files alone")
    if size > BYTES:
        raise Refused(f"its files have more than {BYTES >> 20} MB together")


def _checked(file: zipfile.ZipFile, into: Path) -> list[tuple[zipfile.ZipInfo, Path]]:
    """The entries that are unpacked, and where to; all are looked at before the first is."""
    made: dict[str, tuple[zipfile.ZipInfo, Path]] = {}
    size = 0
    for i, entry in enumerate(file.infolist()):
        name = entry.filename.replace("\\", "/")
        parts = PurePosixPath(name).parts
        told = _printable(name)[:120]
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
            raise Refused(f"{told} would lie outside of the submission's folder")
        kind = stat.S_IFMT(entry.external_attr >> 16) or stat.S_IFREG
        if PASSED_OVER & set(parts) or not parts:
            _check(told, kind, i if i > FAR else 0, size)
            continue
        size += entry.file_size
        _check(told, kind, len(made) + 1, size)
        if entry.flag_bits & 1:
            raise Refused(f"{told} has a password")
        key = unicodedata.normalize("NFC", str(PurePosixPath(*parts))).casefold()
        if key in made:
            raise Refused(f"{told} is in it twice")
        made[key] = entry, into.joinpath(*parts)
    return list(made.values())


def _innermost(folder: Path) -> Path:
    """Through folders that hold one folder and nothing else."""
    inner = [p for p in folder.iterdir() if p.name not in PASSED_OVER]
    alone = len(inner) == 1 and inner[0].is_dir() and inner[0].name != "minipeft"
    return _innermost(inner[0]) if alone else folder
