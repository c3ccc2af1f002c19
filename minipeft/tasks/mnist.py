"""MNIST: the published files of handwritten digits, read as they are.

LeCun, Cortes and Burges. A file is in the IDX format: two zero bytes, the type (8 for unsigned
bytes), the number of axes, the size of each as four bytes, the highest first, then the elements;
plain or packed by gzip.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from minipeft.backend import Rng
from minipeft.storage.files import cache_dir
from minipeft.tasks.images import SIDE, Images, ImageTask

FULL = 28  # pixels at the side of a published picture
CHUNK = 1024  # pictures made smaller at a time
BYTES = 8  # the type of unsigned bytes
LEVELS = (np.arange(256) / 255.0).astype(np.float32)


class MNIST(ImageTask):
    """The real digits, bright on dark; the last 10 000 of the training file are for validation.

    path  the folder of the four files; else mnist in the user's cache
    side  16, as the other pictures are, or another size up to 28, as published
    """

    name = "mnist"
    group = "natural"
    classes = tuple("0123456789")
    sizes = (50_000, 10_000, 10_000)

    def __init__(self, path: str | os.PathLike[str] | None = None, side: int = SIDE) -> None:
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= FULL:
            raise ValueError(f"side must be a whole number from 1 to {FULL}, got {side!r}")
        self.folder = Path(path) if path is not None else cache_dir() / "mnist"
        self.side = side
        self._read: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def _draw(self, split: str, n: int, seed: int) -> Images:
        at = self.splits.index(split)
        pictures, labels = self._files("t10k" if split == "test" else "train")
        first = self.sizes[0] if split == "validation" else 0
        chosen = first + Rng(seed, self.name, split).permutation(self.sizes[at])[:n]
        levels = shrunk(pictures[chosen], self.side)
        return Images(LEVELS[levels][:, None], labels[chosen].astype(np.int64))

    def _files(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """The pictures and labels of "train" or "t10k"."""
        if part not in self._read:
            n = sum(self.sizes[:2]) if part == "train" else self.sizes[2]
            pictures = read_idx(self._find(f"{part}-images-idx3-ubyte"), (n, FULL, FULL))
            path = self._find(f"{part}-labels-idx1-ubyte")
            labels = read_idx(path, (n,))
            if labels.max() >= len(self.classes):
                raise ValueError(f"{path} has the label {labels.max()}; digits are 0 to 9")
            self._read[part] = pictures, labels
        return self._read[part]

    def _find(self, name: str) -> Path:
        places = [self.folder / f"{name}.gz", self.folder / name]
        for place in places:
            if place.is_file():
                return place
        raise FileNotFoundError(
            f"task 'mnist' needs {name}.gz or {name}. Looked in: {', '.join(map(str, places))}. "
            "`minipeft data fetch mnist` gets the files; or name their folder with "
            "MNIST(path=DIR); task 'digits' needs no files"
        )


def read_idx(path: str | os.PathLike[str], shape: tuple[int, ...]) -> np.ndarray:
    """The unsigned bytes of an IDX file that must have this shape.

    No more is unpacked than the shape needs, whatever the file claims.
    Raises  ValueError that tells what the file holds instead
    """
    path, n = Path(path), math.prod(shape)
    wanted = struct.pack(f">4B{len(shape)}I", 0, 0, BYTES, len(shape), *shape)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as content:
            head, data = content.read(len(wanted)), content.read(n + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from None
    if head != wanted:
        raise ValueError(f"{path} {_instead(head, shape)}")
    if len(data) != n:
        there = f"{len(data):,} of the" if len(data) < n else "more than the"
        raise ValueError(f"{path} holds {there} {n:,} bytes that its shape {shape} needs")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _instead(head: bytes, shape: tuple[int, ...]) -> str:
    """What is wrong with the beginning of an IDX file."""
    axes = len(shape)
    if len(head) < 4 or head[:2] != b"\0\0":
        return f"is no IDX file: it starts with {head[:4].hex(' ') or 'nothing'}, wanted 00 00 08"
    if head[2] != BYTES:
        return f"holds elements of type 0x{head[2]:02x}, wanted 0x08, unsigned bytes"
    if head[3] != axes:
        return f"has {head[3]} axes, wanted {axes}"
    if len(head) < 4 + 4 * axes:
        return f"ends after {len(head)} bytes, before the sizes of its {axes} axes"
    return f"has the shape {struct.unpack(f'>{axes}I', head[4:])}, wanted {shape}"


def shrunk(pictures: np.ndarray, side: int) -> np.ndarray:
    """Pictures of another size: each new pixel is the mean of the area that it covers.

    Shapes  pictures (n, 28, 28) uint8 -> (n, side, side) uint8; whole numbers, the same anywhere
    """
    if side == FULL:
        return pictures
    new, old = np.arange(side)[:, None] * FULL, np.arange(FULL) * side  # in 1/side pixels
    overlap = np.minimum(new + FULL, old + side) - np.maximum(new, old)
    share = np.maximum(overlap, 0).astype(np.float64)  # (side, 28), rows add up to 28
    out = np.empty((len(pictures), side, side), np.uint8)
    for i in range(0, len(pictures), CHUNK):
        area = share @ pictures[i : i + CHUNK] @ share.T
        out[i : i + CHUNK] = np.floor(area / FULL**2 + 0.5)
    return out
