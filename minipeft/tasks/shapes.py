"""Shapes and strokes, drawn by rule: what tiny-vit is pretrained on.

Sixteen classes, each of straight pieces: filled, outlined, or strokes as a pen makes them. Place,
size, direction, proportions, width, contrast and noise are drawn anew for every picture, so there
are as many as one wants. Only + - x / and square roots are used: the same bits on every machine.
"""

from __future__ import annotations

import numpy as np

from minipeft.backend import Rng
from minipeft.tasks.images import SIDE, Images, ImageTask, finish

CHUNK = 256  # pictures drawn at a time
PIECES = 16  # of each shape: those of fewer repeat their last one
_HALF = 0.5**0.5
_LONG, _WIDE = (0.5 + 0.25 * 2**0.5) ** 0.5, (0.5 - 0.25 * 2**0.5) ** 0.5  # cos, sin of 22.5°
_QUARTER = [(1.0, 0.0), (_LONG, _WIDE), (_HALF, _HALF), (_WIDE, _LONG)]
_CIRCLE = [
    p for turn in range(4) for x, y in _QUARTER
    for p in [((x, y), (-y, x), (-x, -y), (y, -x))[turn]]
]  # fmt: skip
_SQUARE = [(0.75, 0.75), (-0.75, 0.75), (-0.75, -0.75), (0.75, -0.75)]
_TRIANGLE = [(0.0, 1.0), (-0.87, -0.5), (0.87, -0.5)]

Path = list[tuple[float, float]]


def _closed(points: Path) -> list[Path]:
    return [[*points, points[0]]]


def _arc(x: float, y: float, r: float, start: int) -> Path:
    """Half a circle, from one of its sixteen points."""
    return [(x + r * u, y + r * v) for u, v in (_CIRCLE[(start + i) % 16] for i in range(9))]


FILLED = ("disc", "square", "triangle")  # convex, counter-clockwise
PATHS: dict[str, list[Path]] = {
    "disc": _closed(_CIRCLE),
    "square": _closed(_SQUARE),
    "triangle": _closed(_TRIANGLE),
    "ring": _closed(_CIRCLE),
    "frame": _closed(_SQUARE),
    "outline": _closed(_TRIANGLE),
    "line": [[(-1.0, 0.0), (1.0, 0.0)]],
    "pair": [[(-0.9, 0.5), (0.9, 0.5)], [(-0.9, -0.5), (0.9, -0.5)]],
    "cross": [[(-1.0, 0.0), (1.0, 0.0)], [(0.0, -1.0), (0.0, 1.0)]],
    "corner": [[(-0.7, 0.9), (-0.7, -0.7), (0.9, -0.7)]],
    "tee": [[(-0.9, 0.7), (0.9, 0.7)], [(0.0, 0.7), (0.0, -1.0)]],
    "fork": [[(0.0, -1.0), (0.0, 0.0), (-0.87, 0.7)], [(0.0, 0.0), (0.87, 0.7)]],
    "zigzag": [[(-0.9, 0.6), (-0.35, -0.6), (0.35, 0.6), (0.9, -0.6)]],
    "arc": [_arc(0.0, -0.4, 1.0, 0)],
    "wave": [_arc(-0.5, 0.0, 0.5, 0), _arc(0.5, 0.0, 0.5, 8)],
    "hook": [[(-0.5, 1.0), *_arc(0.0, -0.4, 0.5, 8)]],
}


def _pieces(paths: list[Path]) -> np.ndarray:
    """The straight pieces of some paths.  -> (PIECES, 4)"""
    out = [(*a, *b) for path in paths for a, b in zip(path, path[1:], strict=False)]
    return np.array(out + [out[-1]] * (PIECES - len(out)))


_SHAPES = np.stack([_pieces(paths) for paths in PATHS.values()])  # (16, PIECES, 4)


class Shapes(ImageTask):
    """Pictures of one shape or stroke: sixteen classes; another seed draws other pictures."""

    name = "shapes"
    classes = tuple(PATHS)
    sizes = (100_000, 1000, 1000)

    def _draw(self, split: str, n: int, seed: int) -> Images:
        parts = [_chunk(Rng(seed, self.name, split, i)) for i in range((n + CHUNK - 1) // CHUNK)]
        return Images(*(np.concatenate(x)[:n] for x in zip(*parts, strict=True)))


def _chunk(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, len(PATHS), CHUNK)
    size = rng.uniform((CHUNK, 1), 0.4, 0.75) * np.array([[1.0, 1.0]])
    size[:, 1] *= rng.uniform(CHUNK, 0.7, 1.0)
    place = rng.uniform((CHUNK, 2), -1.0, 1.0) * (0.85 - size[:, :1])
    pieces = placed(_SHAPES[labels], place, size, directions(rng, CHUNK))
    light = strokes(pieces, rng.uniform(CHUNK, 0.05, 0.13))
    filled = labels < len(FILLED)
    light[filled] = areas(pieces[filled])
    return finish(rng, light), labels


def directions(rng: Rng, n: int) -> np.ndarray:
    """n unit vectors, every direction as likely, without sines: points of a disc.  -> (n, 2)"""
    found = np.zeros((0, 2))
    while len(found) < n:
        tried = rng.uniform((2 * n, 2), -1.0, 1.0)
        r = (tried * tried).sum(1)
        found = np.concatenate([found, tried[(r > 0.01) & (r <= 1.0)]])
    found = found[:n]
    return found / np.sqrt((found * found).sum(1, keepdims=True))


def placed(
    pieces: np.ndarray, place: np.ndarray, size: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """Pieces stretched, turned and moved.

    Shapes  pieces (n, k, 4), place, size and direction (n, 2) -> (n, k, 4)
    """
    points = pieces.reshape(len(pieces), -1, 2) * size[:, None]
    c, s = direction[:, :1], direction[:, 1:]
    x, y = points[..., 0], points[..., 1]
    turned = np.stack([c * x - s * y, s * x + c * y], -1) + place[:, None]
    return turned.reshape(pieces.shape)


_AT = (np.arange(SIDE) + 0.5) * (2.0 / SIDE) - 1.0
GRID = np.stack(np.meshgrid(_AT, -_AT), -1).reshape(-1, 2)  # (256, 2), y upwards
PIXEL = 2.0 / SIDE


def strokes(pieces: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Pen strokes of half a width along the pieces, smoothed at the edge.

    Shapes  pieces (n, k, 4), width (n,) -> (n, 16, 16) from 0 to 1
    """
    a, d = pieces[:, None, :, :2], pieces[:, None, :, 2:] - pieces[:, None, :, :2]
    p = GRID[None, :, None] - a  # (n, 256, k, 2)
    t = np.clip((p * d).sum(-1) / ((d * d).sum(-1) + 1e-12), 0.0, 1.0)
    off = p - t[..., None] * d
    far = np.sqrt((off * off).sum(-1)).min(-1)  # (n, 256)
    return _smooth(far - width[:, None])


def areas(pieces: np.ndarray) -> np.ndarray:
    """Convex areas, their edges counter-clockwise.  (n, k, 4) -> (n, 16, 16)"""
    a, d = pieces[:, None, :, :2], pieces[:, None, :, 2:] - pieces[:, None, :, :2]
    p = GRID[None, :, None] - a
    right = p[..., 0] * d[..., 1] - p[..., 1] * d[..., 0]  # outside of an edge
    return _smooth((right / np.sqrt((d * d).sum(-1) + 1e-12)).max(-1))


def _smooth(far: np.ndarray) -> np.ndarray:
    """Signed distances to light: half at the edge, over one pixel.  (n, 256) -> (n, 16, 16)"""
    return np.clip(0.5 - far / PIXEL, 0.0, 1.0).reshape(-1, SIDE, SIDE)
