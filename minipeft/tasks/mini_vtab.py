"""mini-vtab: six tasks of 1 000 pictures, to see what carries over. Like VTAB-1k.

Two natural ones (real digits, plain and among clutter), two specialised ones (textures; samples
of cells), two structured ones (how many; in which direction). 800 pictures to train, 200 to
validate; the last four are drawn by rule, and differ from what tiny-vit is pretrained on.
"""

from __future__ import annotations

import numpy as np

from minipeft.backend import Rng
from minipeft.tasks.digits import Clutter, Digits
from minipeft.tasks.images import SIDE, Images, ImageTask, finish
from minipeft.tasks.shapes import GRID, directions, strokes


class Drawn(ImageTask):
    """A task whose pictures are drawn by rule, the classes in turn."""

    def _whole(self, split: str) -> Images:
        rng, n = Rng(0, self.name, split), self.sizes[self.splits.index(split)]
        labels = np.arange(n) % len(self.classes)
        return Images(finish(rng, self._light(rng, labels)), labels)

    def _light(self, rng: Rng, labels: np.ndarray) -> np.ndarray:
        """Light for these classes.  (n,) -> (n, 16, 16) from 0 to 1"""
        raise NotImplementedError(f"{type(self).__name__} must define _light")


class Textures(Drawn):
    """A surface: stripes, checks, spots, rings or blotches, at any scale and angle."""

    name = "textures"
    group = "specialised"
    classes = ("stripes", "checks", "spots", "rings", "blotches")

    def _light(self, rng: Rng, labels: np.ndarray) -> np.ndarray:
        n = len(labels)
        turn, scale = directions(rng, n), rng.uniform((n, 1), 1.2, 2.4)
        x, y = GRID[:, 0], GRID[:, 1]
        u = (x * turn[:, :1] + y * turn[:, 1:]) * scale + rng.uniform((n, 1))  # (n, 256)
        v = (y * turn[:, :1] - x * turn[:, 1:]) * scale + rng.uniform((n, 1))
        off = GRID[None] - rng.uniform((n, 1, 2), -0.5, 0.5)
        r = np.sqrt((off * off).sum(-1)) * scale
        blotches = _blurred(rng.uniform((n, SIDE, SIDE))).reshape(n, -1)
        kinds = (
            _wave(u),
            np.where(_wave(u) > 0.5, _wave(v), 1.0 - _wave(v)),
            np.clip(2.0 * (_wave(u) + _wave(v)) - 2.0, 0.0, 1.0),
            _wave(r),
            np.clip(0.5 + 4.0 * (blotches - 0.5), 0.0, 1.0),
        )
        return np.choose(labels[:, None], kinds).reshape(n, SIDE, SIDE)


class Cells(Drawn):
    """A sample of seven cells: all are full, or one of them is hollow."""

    name = "cells"
    group = "specialised"
    classes = ("healthy", "sick")

    def _light(self, rng: Rng, labels: np.ndarray) -> np.ndarray:
        n, k = len(labels), 7
        middle = _scattered(rng, n, k)
        dots = _dots(middle, np.full((n, k), 0.24))
        hole = _dots(middle[:, :1], np.full((n, 1), 0.1)) * labels[:, None, None]
        return dots * (1.0 - hole)


class Count(Drawn):
    """One to six dots, of any size: how many?"""

    name = "count"
    group = "structured"
    classes = ("one", "two", "three", "four", "five", "six")

    def _light(self, rng: Rng, labels: np.ndarray) -> np.ndarray:
        n, k = len(labels), len(self.classes)
        size = rng.uniform((n, k), 0.1, 0.2)
        size[np.arange(k) > labels[:, None]] = -1.0  # not there
        return _dots(_scattered(rng, n, k), size)


class Angle(Drawn):
    """A bar in one of eight directions, anywhere."""

    name = "angle"
    group = "structured"
    classes = tuple(f"{22.5 * i:g} to {22.5 * (i + 1):g} degrees" for i in range(8))

    def _light(self, rng: Rng, labels: np.ndarray) -> np.ndarray:
        n = len(labels)
        tried = directions(rng, 100 * n)
        tried *= np.where(tried[:, 1:] < 0.0, -1.0, 1.0)  # the upper half
        found = _eighth(tried)
        queues = [iter(tried[found == i]) for i in range(len(self.classes))]
        along = np.stack([next(queues[label]) for label in labels.tolist()])  # (n, 2)
        along = along * rng.uniform((n, 1), 0.35, 0.6)
        middle = rng.uniform((n, 2), -0.35, 0.35)
        bars = np.concatenate([middle - along, middle + along], -1)[:, None]
        return strokes(bars, rng.uniform(n, 0.06, 0.14))


MINI_VTAB: dict[str, type[ImageTask]] = {
    task.name: task for task in (Digits, Clutter, Textures, Cells, Count, Angle)
}


def _wave(x: np.ndarray) -> np.ndarray:
    """A triangle wave from 0 to 1 of period 1, steepened."""
    saw = x - np.floor(x)
    return np.clip(2.0 * np.abs(2.0 * saw - 1.0) - 0.5, 0.0, 1.0)


def _blurred(x: np.ndarray) -> np.ndarray:
    """Each pixel's mean with its neighbours, twice over; the edges meet.  (n, 16, 16)"""
    for axis in (1, 2, 1, 2):
        x = (np.roll(x, 1, axis) + x + np.roll(x, -1, axis)) / 3.0
    return x


def _scattered(rng: Rng, n: int, k: int) -> np.ndarray:
    """k points of a three by three lattice in each picture, moved a little.  -> (n, k, 2)"""
    cells = np.stack([rng.permutation(9)[:k] for _ in range(n)])
    lattice = np.stack([cells % 3 - 1.0, cells // 3 - 1.0], -1) * 0.6
    return lattice + rng.uniform((n, k, 2), -0.08, 0.08)


def _dots(middle: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Round dots.  middle (n, k, 2), size (n, k) -> (n, 16, 16)"""
    light = [
        strokes(np.concatenate([middle[:, i], middle[:, i]], -1)[:, None], size[:, i])
        for i in range(size.shape[1])
    ]
    return np.max(light, axis=0)


def _eighth(upper: np.ndarray) -> np.ndarray:
    """Which of eight parts of the half circle a direction is in.  (n, 2) -> (n,)"""
    x, y = upper[:, 0], upper[:, 1]
    steep = 2.0**0.5 - 1.0  # the tangent of 22.5 degrees
    edges = ((1.0, steep), (1.0, 1.0), (steep, 1.0), (0.0, 1.0), (-steep, 1.0), (-1.0, 1.0),
             (-1.0, steep))  # fmt: skip
    passed = [x * v - y * u <= 0.0 for u, v in edges]
    return np.sum(passed, axis=0)
