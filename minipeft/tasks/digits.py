"""Real handwritten digits: the 1 797 pictures of 8 x 8 pixels that scikit-learn brings along.

They come from the test part of the UCI set of Alpaydin and Kaynak. Here each is enlarged to 16 x
16, plain or among clutter.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from minipeft.backend import Rng
from minipeft.tasks.images import SIDE, Images, ImageTask, finish, quantised
from minipeft.tasks.shapes import directions, strokes


class Digits(ImageTask):
    """Handwritten digits, bright on dark. The splits are the same for every seed.

    Raises  ImportError on load where scikit-learn is not installed
    """

    name = "digits"
    group = "natural"
    classes = tuple("0123456789")
    sizes = (800, 200, 797)

    def _whole(self, split: str) -> Images:
        light, labels = _digits()
        order = Rng(0, "digits").permutation(len(labels))
        first = sum(self.sizes[: self.splits.index(split)])
        chosen = order[first : first + self.sizes[self.splits.index(split)]]
        return Images(self._shown(light[chosen], split), labels[chosen])

    def _shown(self, light: np.ndarray, split: str) -> np.ndarray:
        return quantised(light)


class Clutter(Digits):
    """The same digits, moved a little, with two strokes across and a ground that varies."""

    name = "clutter"

    def _shown(self, light: np.ndarray, split: str) -> np.ndarray:
        rng, n = Rng(0, self.name, split), len(light)
        moved = np.stack([
            np.roll(picture, shift, (0, 1))
            for picture, shift in zip(light, rng.integers(-2, 3, (n, 2)).tolist(), strict=True)
        ])  # fmt: skip
        middle, along = rng.uniform((n, 2, 2), -0.8, 0.8), directions(rng, 2 * n)
        along = along.reshape(n, 2, 2)
        across = strokes(np.concatenate([middle - along, middle + along], -1), np.full(n, 0.04))
        return finish(rng, np.maximum(moved, 0.6 * across), invert=False)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All pictures from 0 to 1, and what they are.  -> (1797, 16, 16), (1797,)"""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed. Install it with "
            "pip install 'minipeft[lectures]', or pip install scikit-learn"
        ) from error
    found = load_digits()
    small = found.images / 16.0  # (1797, 8, 8)
    return _enlarged(_enlarged(small).transpose(0, 2, 1)).transpose(0, 2, 1), found.target


def _enlarged(x: np.ndarray) -> np.ndarray:
    """Twice as wide, linear between the old pixels.  (n, h, w) -> (n, h, 2 w)"""
    wide = np.concatenate([x[..., :1], x, x[..., -1:]], -1)
    left, right = 0.25 * wide[..., :-2] + 0.75 * x, 0.25 * wide[..., 2:] + 0.75 * x
    return np.stack([left, right], -1).reshape(*x.shape[:-1], SIDE)
