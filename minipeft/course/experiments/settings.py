"""An experiment's settings as a grid: the values of each, in full and for a fast run.

    _steps = grid(task=("sentiment", "nli"), seed=(0, 1, 2), steps=Axis(150, fast=4))

has six settings, and for a fast run one: {"task": "sentiment", "seed": 0, "steps": 4}.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from minipeft.course.experiments.runner import Settings


@dataclass(frozen=True)
class Axis:
    """The values of an axis, and those of a fast run, where that is not the first alone."""

    values: Any
    fast: Any


def always(values: Any) -> Axis:
    """An axis of which a fast run takes all values."""
    return Axis(values, values)


@dataclass(frozen=True)
class Grid:
    """fast -> a list of settings; a + b has those of a, then those of b.

    parts  each (axes, names of the outer ones)
    """

    parts: tuple[tuple[dict[str, Any], tuple[str, ...]], ...]

    def __add__(self, other: Grid) -> Grid:
        return Grid(self.parts + other.parts)

    def __call__(self, fast: bool) -> list[Settings]:
        return [s for axes, outer in self.parts for s in _product(axes, outer, fast)]


def grid(outer: str = "", **axes: Any) -> Grid:
    """The settings of an experiment: all combinations, with keys in the order of the axes.

    axes   each a value, or several, of which a fast run takes the first; an Axis; or a function
           that makes any of these from the settings chosen so far. Several settings that go
           together are one dict, whose keys take the place of the axis
    outer  names of axes that change slowest, the slowest first; the others follow in their order
    """
    return Grid(((axes, tuple(outer.split())),))


def _product(axes: dict[str, Any], outer: tuple[str, ...], fast: bool) -> list[Settings]:
    made: list[Settings] = [{}]
    for name in (*outer, *(name for name in axes if name not in outer)):
        made = [s | {name: value} for s in made for value in _values(axes[name], s, fast)]
    return [_plain({name: s[name] for name in axes}) for s in made]


def _values(axis: Any, chosen: Settings, fast: bool) -> list[Any]:
    first = fast
    while callable(axis) or isinstance(axis, Axis):
        if isinstance(axis, Axis):
            axis, first = axis.fast if fast else axis.values, False
        else:
            axis = axis(chosen)
    values = list(axis) if isinstance(axis, Iterable) and not isinstance(axis, str) else [axis]
    return values[:1] if first else values


def _plain(s: Settings) -> Settings:
    """Settings that go together, unpacked."""
    plain: Settings = {}
    for name, value in s.items():
        plain |= value if isinstance(value, dict) else {name: value}
    return plain
