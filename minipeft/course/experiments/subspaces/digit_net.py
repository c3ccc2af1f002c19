"""The fully connected nets of the papers on intrinsic dimension and on lottery tickets.

Their pictures are MNIST's, 28 x 28, where its files are at hand (`minipeft data fetch mnist`), and
else the digits that scikit-learn brings along, enlarged to the same size.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from minipeft.backend import Array, Rng
from minipeft.engine import Tensor, no_grad, ops
from minipeft.nn import Linear, Module, ModuleList
from minipeft.nn.init import prototype
from minipeft.tasks import MNIST, get_image_task
from minipeft.tasks.mnist import FULL
from minipeft.training.batches import ImageBatches

Parts = tuple[ImageBatches, ImageBatches, ImageBatches]  # train, validation, test


class DigitNet(Module):
    """Linear layers with ReLU between them, of all pixels at once.

    Shapes  images (B, 1, side, side) -> (B, widths[-1])
    Init    N(0, 2 / d_in) (He et al. 2015), biases 0
    """

    causal = False

    def __init__(self, *widths: int, seed: int = 0) -> None:
        like, rng = prototype(np.float32, shape_only=False), Rng(seed, "digits")
        self.layers = ModuleList([
            Linear(a, b, std=math.sqrt(2 / a), rng=rng.spawn(i), like=like)
            for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        ])  # fmt: skip

    def forward(self, images: Array, mask: Array | None = None) -> Tensor:
        x: Tensor | Array = images.reshape(len(images), -1)  # (B, side²)
        *inner, last = self.layers
        for layer in inner:
            x = ops.relu(layer(x))
        return last(x)


@cache
def pictures(n: int, side: int = FULL) -> tuple[str, Parts]:
    """Where pictures of digits come from, and their three parts; at most n to train on."""
    try:
        real = MNIST(side=side)
        found = [real.load("train", n), real.load("validation", 1000), real.load("test")]
        return "mnist", _parts([(f.pixels, f.labels) for f in found])
    except FileNotFoundError:
        return "digits", bundled(n, side)


@cache
def bundled(n: int, side: int = FULL) -> Parts:
    """The digits that need no files, enlarged: 800 to train on, 200 and 797 for the others."""
    task = get_image_task("digits")
    found = [task.load("train", min(n, 800)), task.load("validation"), task.load("test")]
    return _parts([(enlarged(f.pixels, side), f.labels) for f in found])


def _parts(found: list[tuple[np.ndarray, np.ndarray]]) -> Parts:
    train, validation, test = (ImageBatches(*one) for one in found)
    return train, validation, test


def enlarged(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pictures of another size, linear between the old pixels.  (n, 1, h, h) -> (n, 1, s, s)"""
    h = pixels.shape[-1]
    at = np.clip((np.arange(side) + 0.5) * h / side - 0.5, 0, h - 1)  # in old pixels
    share = np.maximum(0, 1 - abs(at[:, None] - np.arange(h)))  # (s, h), rows add up to 1
    return (share @ pixels @ share.T).astype(np.float32)


def accuracy(net: Module, part: ImageBatches, size: int = 1000) -> float:
    """Right answers in percent."""
    right = 0
    with no_grad():
        for start in range(0, len(part), size):
            picked = net(part.pixels[start : start + size]).data.argmax(axis=-1)
            right += int((picked == part.labels[start : start + size]).sum())
    return 100.0 * right / len(part)
