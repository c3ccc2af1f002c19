"""Published data sets, fetched from their public homes: whole and checked, or not at all.

Only `minipeft data fetch NAME` comes here; nothing else in the package opens a connection. Each
file's content must have the SHA-256 that is written below, whoever sends it. Of a .gz file that
is the unpacked content: mirrors pack the same bytes differently. Nothing that is fetched is run
or unpickled.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TextIO
from urllib.request import Request, urlopen

from minipeft.display.progress import Progress
from minipeft.storage.files import cache_dir, write_atomic

PART = 1 << 16  # bytes read at a time
SECONDS = 30  # without a byte, then the home counts as away
SPARE = 1 << 12  # bytes by which a packed file may be larger than its content


@dataclass(frozen=True)
class PublicFile:
    """A file by what is in it: bytes and SHA-256 of the content, unpacked if it ends in .gz."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PublicSet:
    """Files that belong together.

    folder  inside the cache, where the loader looks
    homes   addresses that end in "/", tried in turn
    """

    folder: str
    what: str
    licence: str
    homes: tuple[str, ...]
    files: tuple[PublicFile, ...]


SETS = {
    "mnist": PublicSet(
        "mnist", "70 000 handwritten digits; LeCun, Cortes and Burges", "CC BY-SA 3.0",
        ("https://storage.googleapis.com/cvdf-datasets/mnist/",
         "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        (
            PublicFile("train-images-idx3-ubyte.gz", 47_040_016,
                       "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            PublicFile("train-labels-idx1-ubyte.gz", 60_008,
                       "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            PublicFile("t10k-images-idx3-ubyte.gz", 7_840_016,
                       "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            PublicFile("t10k-labels-idx1-ubyte.gz", 10_008,
                       "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ),
    ),
    "e2e": PublicSet(
        "e2e_nlg", "restaurant records and texts; Novikova, Dušek and Rieser", "CC BY-SA 4.0",
        ("https://raw.githubusercontent.com/tuetschek/e2e-dataset/master/",),
        (
            PublicFile("trainset.csv", 9_340_189,
                       "f27d48df45815288ab15619d47a79028c300fbb7f42e373668aba0b98c1d57c6"),
            PublicFile("devset.csv", 1_161_305,
                       "fc26b78cdb849c80545f513b223d1e051138b43882eeb79e3eb153e689c864f9"),
            PublicFile("testset_w_refs.csv", 1_310_822,
                       "edc8db685e39bb9824d5bd70c18b1c9b0412d14b527aa960e2d1c8251ee15ccd"),
        ),
    ),
}  # fmt: skip


class FetchError(RuntimeError):
    """A file could not be had, or is not the published one."""


def fetch(
    name: str, folder: str | Path | None = None, *, quiet: bool = False, out: TextIO | None = None
) -> list[dict[str, Any]]:
    """Get the files of a published set; those that are there already are checked and left.

    folder   where to put them; by default where the loader looks, in the user's cache
    Returns  a row of file, bytes and fetched (False: it was there) for each
    Raises   ValueError for an unknown name; FetchError that names every home tried, or a file
             in the way that is not the published one
    """
    if name not in SETS:
        raise ValueError(f"no published set {name!r}; there are {', '.join(SETS)}")
    known = SETS[name]
    there = Path(folder) if folder is not None else cache_dir() / known.folder
    there.mkdir(parents=True, exist_ok=True)
    rows = []
    for file in known.files:
        path = there / file.name
        missing = not path.exists()
        if missing:
            _get(known, file, path, quiet, out)
        elif wrong := _wrong(path, file):
            raise FetchError(f"{path} is in the way: {wrong}. Move it away, and fetch again")
        rows.append({"file": str(path), "bytes": path.stat().st_size, "fetched": missing})
    return rows


def _get(known: PublicSet, file: PublicFile, path: Path, quiet: bool, out: TextIO | None) -> None:
    """Write a file that one of the homes sends, once it is known to be right."""
    failed = []
    for home in known.homes:
        address = home + file.name

        def write(temporary: Path, address: str = address) -> None:
            _download(address, file, temporary, quiet, out)
            if wrong := _wrong(temporary, file):
                raise FetchError(wrong)

        try:
            return write_atomic(path, write)
        except FetchError as error:
            failed.append(f"  {address}: {error}")
    raise FetchError("\n".join([
        f"could not fetch {file.name}", *failed,
        f"Without a network, put the file there by other means: {path}",
    ]))  # fmt: skip


def _download(address: str, file: PublicFile, to: Path, quiet: bool, out: TextIO | None) -> None:
    """What an address sends, as it comes; too much of it is refused."""
    most, size = file.size + SPARE, 0
    try:
        with (
            urlopen(Request(address, headers={"User-Agent": "minipeft"}), timeout=SECONDS) as reply,
            to.open("wb") as target,
        ):
            told = reply.length or 0
            show = Progress(f"{file.name}, kB", (told or file.size) // 1000, out, quiet)
            while part := reply.read(PART):
                size += len(part)
                if size > most:
                    raise FetchError(f"it sends more than {most:,} bytes")
                target.write(part)
                show.update(size // 1000)
            show.done()
    except (OSError, HTTPException) as error:
        why = str(error).removeprefix("<urlopen error ").removesuffix(">")
        raise FetchError(why or type(error).__name__) from error
    if size < told:
        raise FetchError(f"the connection ended after {size:,} of {told:,} bytes")


def _wrong(path: Path, file: PublicFile) -> str:
    """What makes this another file than the published one; "" if nothing does."""
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(path) if file.name.endswith(".gz") else path.open("rb") as content:
            while part := content.read(PART):
                size += len(part)
                if size > file.size:
                    return f"it holds more than the {file.size:,} bytes of the published file"
                digest.update(part)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"it cannot be unpacked ({error})"
    if digest.hexdigest() != file.sha256:
        return f"its SHA-256 is {digest.hexdigest()[:12]}…, wanted {file.sha256[:12]}…"
    return ""
