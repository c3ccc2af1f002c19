"""A model's twin that has shapes and no values, to see what a method would make of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from minipeft.backend import is_array
from minipeft.nn.module import Module, Parameter


def hollow(part: Module, made: dict[int, Any] | None = None) -> Any:
    """A copy of a part with shapes and no values; what stands at two places does so in it too."""
    made = {} if made is None else made  # id of a part or an array -> its twin
    if id(part) in made:
        return made[id(part)]
    twin = made[id(part)] = copy.copy(part)
    vars(twin).pop("handles", None)
    for name, value in vars(part).items():
        if isinstance(value, Module):
            setattr(twin, name, hollow(value, made))
        elif isinstance(value, Parameter) or is_array(value):
            flat = np.broadcast_to(np.zeros((), value.dtype), value.shape)
            new = flat if is_array(value) else Parameter(flat, value.requires_grad)
            setattr(twin, name, made.setdefault(id(value), new))
    return twin
