"""What students handed in: found in a folder, told apart, and opened with suspicion.

Three forms are known: a folder with a folder or zip per student, Gradescope's export (folders
submission_NUMBER and submission_metadata.yml), and what Canvas downloads
(doejane_LATE_ID_NUMBER_file.zip).
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

ENTRIES, BYTES = 2000, 64 << 20  # of one hand-in
FAR = 50_000  # entries of a zip, those that are passed over among them
METADATA = "submission_metadata.yml"
PASSED_OVER = {"__MACOSX", "__pycache__", ".DS_Store", ".git", ".venv", "venv", ".pytest_cache",
               ".ipynb_checkpoints", ".ruff_cache", ".mypy_cache"}  # fmt: skip
CANVAS = re.compile(r"(?P<who>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_\d+_(?P<file>.+)")
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError,
          ValueError)  # fmt: skip


class Refused(ValueError):
    """A hand-in that is not opened; the text says why."""


@dataclass(frozen=True)
class Submission:
    """One hand-in.

    name  of its report: no two have the same, and a file can be called so
    who   the student's name as the platform writes it;  id, email  if it tells them
    at    when it was handed in, in seconds since 1970
    """

    name: str
    path: Path
    who: str
    id: str = ""
    email: str = ""
    at: float = 0.0
    late_mark: bool = False
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
    names: set[str] = set()
    made = []
    for path in entries:
        facts = told.get(path.name, {})
        canvas = CANVAS.fullmatch(path.name)
        stem = path.stem if path.suffix.lower() == ".zip" else path.name
        who = facts.get("name") or (canvas["who"] if canvas else stem)
        name = _safe(canvas["who"] if canvas else stem, path)
        note = ""
        if name.casefold() in names:
            note = f"there is another submission with the name {name}"
            name = f"{name}-{_mark(path)}"
        names.add(name.casefold())
        at = facts.get("at") or str(_newest(path))
        id = facts.get("sid") or (canvas["id"] if canvas else "")
        late = bool(canvas and canvas["late"])
        made.append(Submission(name, path, _printable(who), id, facts.get("email", ""), float(at),
                               late, note))  # fmt: skip
    return made


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


def _gradescope(file: Path) -> dict[str, dict[str, str]]:
    """submission_metadata.yml: the folder's name -> name, sid and email of its first submitter.

    Read line by line, as nothing else of YAML is in these lines; times become seconds since 1970.
    """
    facts: dict[str, dict[str, str]] = {}
    here: dict[str, str] = {}
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for line in text.splitlines():
        if top := re.fullmatch(r"(\S+):\s*", line):
            here = facts.setdefault(top[1], {})
        elif pair := re.fullmatch(r"  (?:- |  )?:(name|sid|email|created_at): (.+)", line):
            value = pair[2].strip().strip("'\"")
            if pair[1] == "created_at":
                value = re.sub(r"(\.\d{1,6})\d*", r"\1", value.replace(" Z", "+00:00"))
                here.setdefault("at", str(datetime.fromisoformat(value).timestamp()))
            else:
                here.setdefault(pair[1], value)
    return facts


# -- opened ---------------------------------------------------------------------------------------


@contextmanager
def opened(path: str | Path) -> Iterator[Path]:
    """The folder with a hand-in's files: regular ones only, not too many, not too large.

    A zip is unpacked into a temporary folder; one that is alone in a folder is meant itself.
    Raises  Refused that names the reason
    """
    path = Path(path)
    if path.is_symlink() or not path.exists():
        raise Refused(f"{path.name} is a link" if path.is_symlink() else f"{path.name} is missing")
    if path.is_dir():
        _check_folder(path)
        path = _innermost(path)
        inner = [p for p in path.iterdir() if p.name not in PASSED_OVER]
        if len(inner) != 1 or inner[0].suffix.lower() != ".zip":
            yield path
            return
        path = inner[0]
    with tempfile.TemporaryDirectory(prefix="homework-") as folder:
        _unpack(path, Path(folder))
        yield _innermost(Path(folder))


def digest(path: Path) -> str:
    """Changes with every file of a hand-in; never raises for what `opened` would refuse."""
    made = hashlib.sha256()
    files = [path]
    if path.is_dir() and not path.is_symlink():
        files = sorted(_below(path))[: ENTRIES + 1]
    for file in files:
        made.update(os.fsencode(str(file.relative_to(path.parent))) + b"\0")
        at = file.lstat()
        made.update(b"%d " % at.st_size if stat.S_ISREG(at.st_mode) else b"- ")
        if stat.S_ISREG(at.st_mode) and at.st_size <= BYTES:
            made.update(file.read_bytes())
    return made.hexdigest()[:24]


def _below(folder: Path) -> Iterator[Path]:
    """All below a folder, without following links, what is passed over left out."""
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in PASSED_OVER)
        yield from (Path(at, name) for name in (*folders, *files) if name not in PASSED_OVER)


def _check_folder(folder: Path) -> None:
    size = 0
    for i, path in enumerate(_below(folder), 1):
        at = path.lstat()
        _check_count(i, size := size + (at.st_size if stat.S_ISREG(at.st_mode) else 0))
        if not (stat.S_ISREG(at.st_mode) or stat.S_ISDIR(at.st_mode)):
            kind = "a link" if stat.S_ISLNK(at.st_mode) else "no regular file"
            raise Refused(f"{_printable(str(path.relative_to(folder)))} is {kind}")


def _check_count(entries: int, size: int) -> None:
    if entries > ENTRIES:
        raise Refused(f"it has more than {ENTRIES:,} files; hand in your own files alone")
    if size > BYTES:
        raise Refused(f"its files have more than {BYTES >> 20} MB together when unpacked")


def _unpack(path: Path, into: Path) -> None:
    if path.stat().st_size > BYTES:
        raise Refused(f"it has {path.stat().st_size >> 20} MB; at most {BYTES >> 20} are taken")
    try:
        with zipfile.ZipFile(path) as file:
            for entry, target in _checked(file, into):
                target.parent.mkdir(parents=True, exist_ok=True)
                if entry.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    target.write_bytes(file.read(entry))
    except Refused:
        raise
    except BROKEN as error:
        kind = "is not a zip" if not zipfile.is_zipfile(path) else "is a damaged zip"
        raise Refused(f"{_printable(path.name)} {kind}: {error!s:.200}") from error


def _checked(file: zipfile.ZipFile, into: Path) -> list[tuple[zipfile.ZipInfo, Path]]:
    """The entries that are unpacked, and where to; all are looked at before the first is."""
    entries = file.infolist()
    if len(entries) > FAR:
        _check_count(len(entries), 0)
    made: dict[str, tuple[zipfile.ZipInfo, Path]] = {}
    size = 0
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        parts = PurePosixPath(name).parts
        told = _printable(name)[:120]
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
            raise Refused(f"{told} would lie outside of the submission's folder")
        if PASSED_OVER & set(parts) or not parts:
            continue
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused(f"{told} is a link" if kind == stat.S_IFLNK
                          else f"{told} is no regular file")  # fmt: skip
        if entry.flag_bits & 1:
            raise Refused(f"{told} has a password")
        key = unicodedata.normalize("NFC", str(PurePosixPath(*parts))).casefold()
        if key in made:
            raise Refused(f"{told} is in it twice")
        made[key] = entry, into.joinpath(*parts)
        size += entry.file_size
        _check_count(len(made), size)
    return list(made.values())


def _innermost(folder: Path) -> Path:
    """Through folders that hold one folder and nothing else."""
    while True:
        inner = [p for p in folder.iterdir() if p.name not in PASSED_OVER]
        if len(inner) != 1 or not inner[0].is_dir() or inner[0].name == "minipeft":
            return folder
        folder = inner[0]
