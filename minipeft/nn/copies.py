"""Copies of a part: the same tree on other arrays, to see what would become of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.backend import Array, is_array
from minipeft.nn.module import Module, Parameter


def hollow(part: Module) -> Any:
    """A copy with shapes and no values."""
    return _copy(part, lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), {})


def in_float64(part: Module) -> Any:
    """A copy whose floats are float64; it shares none with the original."""
    return _copy(part, lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a, {})


def _copy(part: Module, make: Callable[[Array], Array], made: dict[int, Any]) -> Any:
    """What is at two places of the tree is so in the copy too.  made: id of a thing -> its copy"""
    if id(part) in made:
        return made[id(part)]
    new = made[id(part)] = copy.copy(part)
    vars(new).pop("handles", None)
    for name, value in vars(part).items():
        if isinstance(value, Module):
            setattr(new, name, _copy(value, make, made))
        elif isinstance(value, Parameter) or is_array(value):
            if id(value) not in made:
                of = make if is_array(value) else lambda p: Parameter(make(p.data), p.requires_grad)
                made[id(value)] = of(value)
            setattr(new, name, made[id(value)])
    return new
