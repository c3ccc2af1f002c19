"""Weights as vectors: what an adapter adds to its base, to be added, scaled and kept.

Paper    Ilharco et al. 2022, "Editing models with task arithmetic"
A vector maps the path of a base parameter to the change of its values. Any method that merges
has one, so what two adapters of different methods learnt can be added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import is_array, to_numpy, xp_of
from minipeft.checks import real
from minipeft.contract.handle import Handle
from minipeft.contract.merging import plain_parts
from minipeft.nn import Module
from minipeft.nn.module import original
from minipeft.storage.checkpoint import CheckpointError, load_arrays, save_arrays

Vector = dict[str, np.ndarray]
FORMAT, VERSION = "minipeft-vector", 1


def delta(at: Handle, *, untie: bool = False, quantized: str = "refuse") -> Vector:
    """Merged weights minus those of the base, by path; the handle stays as it is.

    Where a merge would round in the base's dtype, so does this.
    untie, quantized  as in `merge`
    Raises  NotMergeable as `merge` does
    """
    at.need_live("delta")
    parts, clones, computed, _ = plain_parts(at, untie, quantized)
    found: Vector = {}
    for path, part in parts.items():
        base = dict(at.wrappers[path].base.named_parameters())
        for name, p in part.named_parameters():
            under = original(base[name]).data if name in base else 0.0
            found[f"{path}.{name}"] = to_numpy(p.data - under)
    for path, p in [*clones.items(), *computed.items()]:
        old = at.clones[path] if path in clones else at.computed[path]
        found[path] = to_numpy(p.data - original(old).data)
    return found


def add(*vectors: Mapping[str, np.ndarray]) -> Vector:
    """The sum; where one has no entry it adds nothing.

    Raises  ValueError for two shapes under one path
    """
    total: Vector = {}
    for vector in vectors:
        for path, change in vector.items():
            if path in total and total[path].shape != change.shape:
                raise ValueError(f"add: {path} has shape {change.shape} in one vector and "
                                 f"{total[path].shape} in another: they are of different "
                                 "bases")  # fmt: skip
            total[path] = total[path] + change if path in total else change.copy()
    return total


def scale(vector: Mapping[str, np.ndarray], factor: float) -> Vector:
    """Every change times a factor; -1 takes away what was learnt.

    Raises  ValueError for a factor that is no finite number
    """
    real()("scale: factor", factor)
    return {path: change * change.dtype.type(factor) for path, change in vector.items()}


def move(model: Module, vector: Mapping[str, np.ndarray]) -> None:
    """Add a vector to a model's weights, all of it or nothing; the opposite vector undoes it, but
    for rounding.

    Raises  ValueError for a path or a shape that the model does not have, RuntimeError where a
            method is attached
    """
    if model.attached():
        raise RuntimeError("move: a method is attached to the model: merge or detach it first")
    own = dict(model.named_parameters())
    for path, change in vector.items():
        if not is_array(change) or path not in own or own[path].shape != change.shape:
            there = f"shape {own[path].shape}" if path in own else "no such parameter"
            raise ValueError(f"move: {path} has {getattr(change, 'shape', change)!s:.60} in the "
                             f"vector; the model has {there}")  # fmt: skip
    for path, change in vector.items():
        p = own[path]
        p.data = p.data + xp_of(p.data).asarray(change, dtype=p.dtype)


def save_vector(vector: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write a vector, whole or not at all."""
    save_arrays(path, vector, {"format": FORMAT, "version": str(VERSION)})


def load_vector(path: str | Path) -> Vector:
    """Read a vector.

    Raises  CheckpointError for a damaged file, or one of another kind
    """
    arrays, facts = load_arrays(path)
    told: Any = facts.get("format"), facts.get("version")
    if told != (FORMAT, str(VERSION)):
        raise CheckpointError(f"{path} holds no vector of minipeft: {told!r:.80}")
    return arrays
