"""What every task on images is: small grey pictures as arrays, with a class each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minipeft.backend import Rng
from minipeft.tasks.base import described, meant

SIDE = 16  # pixels


class Picture(NamedTuple):
    """One picture, (1, side, side), and its class."""

    pixels: np.ndarray
    label: int


@dataclass(frozen=True)
class Images:
    """n pictures and their classes.

    Shapes  pixels (n, 1, side, side) float32 from 0 to 1 in steps of 1/255; labels (n,) int64;
            the side is 16 unless a task was asked for another
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Picture]:
        return (Picture(p, int(c)) for p, c in zip(self.pixels, self.labels, strict=True))


class ImageTask:
    """The base of the tasks on images: checks what is asked, then leaves it to `_draw`.

    classes  their names, by label
    group    its place in `MINI_VTAB`; "" for pretraining
    """

    name: str = ""
    group: str = ""
    kind: str = "images"
    metric: str = "accuracy"
    also: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "validation", "test")
    sizes: tuple[int, ...] = (800, 200, 1000)  # of each split, as in VTAB-1k: there are no more

    def __repr__(self) -> str:
        return described(self)

    def load(self, split: str, n: int | None = None, seed: int = 0, pattern: object = 0) -> Images:
        """n pictures of a split in an order drawn from the seed; the first n of a larger load.

        pattern  as texts have them; of pictures there is one, 0
        Raises   ValueError for a split, n or pattern that the task does not have
        """
        if pattern != 0:
            raise ValueError(f"task {self.name!r} is on pictures and has pattern 0 alone, got "
                             f"{pattern!r}")  # fmt: skip
        if split not in self.splits:
            raise ValueError(
                f"task {self.name!r} has no split {split!r}{meant(split, self.splits)}; "
                f"its splits are {', '.join(self.splits)}"
            )
        most = self.sizes[self.splits.index(split)]
        n = most if n is None else n
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= most:
            raise ValueError(
                f"task {self.name!r} has {most} pictures in the split {split!r}, got n={n!r}"
            )
        return self._draw(split, n, seed)

    def _draw(self, split: str, n: int, seed: int) -> Images:
        images = self._whole(split)
        chosen = Rng(seed, self.name, split).permutation(len(images))[:n]
        return Images(images.pixels[chosen], images.labels[chosen])

    def _whole(self, split: str) -> Images:
        """All pictures of a split, the same for every seed."""
        raise NotImplementedError(f"{type(self).__name__} must define _whole or _draw")


def finish(rng: Rng, light: np.ndarray, invert: bool = True, noise: float = 0.1) -> np.ndarray:
    """Light on a ground to pixels: contrast and noise drawn anew, half of them inverted.

    Shapes  light (n, 16, 16) from 0 (ground) to 1 -> (n, 1, 16, 16) float32
    """
    n = len(light)
    ground = rng.uniform((n, 1, 1), 0.0, 0.3)
    x = ground + (rng.uniform((n, 1, 1), 0.6, 1.0) - ground) * light
    x = x + rng.uniform(light.shape, -noise, noise)
    if invert:
        x = np.where(rng.uniform((n, 1, 1)) < 0.5, 1.0 - x, x)
    return quantised(x)


def quantised(x: np.ndarray) -> np.ndarray:
    """(n, 16, 16) of any values to pixels (n, 1, 16, 16) of 256 levels from 0 to 1."""
    levels = np.floor(np.clip(x, 0.0, 1.0) * 255.0 + 0.5)
    return (levels[:, None] / 255.0).astype(np.float32)
