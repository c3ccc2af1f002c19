"""Weights as vectors: what an adapter adds to its base, to be added, scaled and kept.

Paper    Ilharco et al. 2022, "Editing models with task arithmetic": tau = theta_ft - theta_pre
Lecture  13b_editing                    Homework hw8.d (written)

A vector maps the path of a base parameter to the change of its values. Any method that merges
has one, and so have two checkpoints of one base; so what two adapters of different methods learnt
can be added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import Rng, is_array, to_numpy, xp_of
from minipeft.checks import real
from minipeft.contract.handle import Handle
from minipeft.contract.merging import plain_parts
from minipeft.nn import Module
from minipeft.nn.module import original
from minipeft.storage.checkpoint import (
    CheckpointError,
    fingerprint,
    load_arrays,
    load_model,
    save_arrays,
)

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


def difference(tuned: Module | str | Path, base: Module | str | Path) -> Vector:
    """The weights of one model minus those of another: what training has changed.

    tuned, base  models, names of shipped ones, or files that `save_model` wrote
    Raises  ValueError where one has a parameter or a shape that the other has not, RuntimeError
            where a method is attached
    """
    after, before = (_weights(model) for model in (tuned, base))
    if extra := sorted(after.keys() ^ before.keys()):
        raise ValueError(f"difference: only one of the two models has {', '.join(extra)!s:.80}: "
                         "they are of different bases")  # fmt: skip
    for path in after:
        _check_shapes("difference", path, after[path], before[path])
    return {path: values - before[path] for path, values in after.items()}


def _weights(model: Module | str | Path) -> dict[str, np.ndarray]:
    found = model if isinstance(model, Module) else load_model(model)
    if found.attached():
        raise RuntimeError("difference: a method is attached to a model: merge it, or take the "
                           "delta of its handle")  # fmt: skip
    return {path: to_numpy(values) for path, values in found.state_dict().items()}


def _check_shapes(who: str, path: str, a: Any, b: Any) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{who}: {path} has shape {a.shape} in one vector and {b.shape} in "
                         "another: they are of different bases")  # fmt: skip


def add(*vectors: Mapping[str, np.ndarray]) -> Vector:
    """The sum; where one has no entry it adds nothing.

    Raises  ValueError for two shapes under one path
    """
    total: Vector = {}
    for vector in vectors:
        for path, change in vector.items():
            _check_shapes("add", path, change, total.get(path, change))
            total[path] = total[path] + change if path in total else change.copy()
    return total


def scale(vector: Mapping[str, np.ndarray], factor: float) -> Vector:
    """Every change times a factor; -1 takes away what was learnt.

    Raises  ValueError for a factor that is no finite number
    """
    real()("scale: factor", factor)
    return {path: change * change.dtype.type(factor) for path, change in vector.items()}


def negate(vector: Mapping[str, np.ndarray]) -> Vector:
    """The opposite vector: it takes away what was learnt."""
    return scale(vector, -1)


def random_like(vector: Mapping[str, np.ndarray], seed: int = 0) -> Vector:
    """A random vector that has the length of another in each of its parameters: a null."""
    found: Vector = {}
    for path, change in vector.items():
        drawn = Rng(seed, "null", path).normal(change.shape)
        length = np.linalg.norm(change) / max(float(np.linalg.norm(drawn)), 1e-12)
        found[path] = (drawn * length).astype(change.dtype)
    return found


def norm(vector: Mapping[str, np.ndarray]) -> float:
    """The length of a vector, over all its entries."""
    return math.sqrt(math.fsum(float((x.astype(np.float64) ** 2).sum()) for x in vector.values()))


def cosine(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    """The cosine of the angle between two vectors; where one has no entry it counts as 0.

    Raises  ValueError for two shapes under one path, and for a vector of zeros
    """
    inner = []
    for path in a.keys() & b.keys():
        _check_shapes("cosine", path, a[path], b[path])
        inner.append(float(np.vdot(a[path].astype(np.float64), b[path].astype(np.float64))))
    lengths = norm(a) * norm(b)
    if not lengths:
        raise ValueError("cosine: a vector of zeros has no direction")
    return math.fsum(inner) / lengths


@contextmanager
def moved(model: Module, vector: Mapping[str, np.ndarray], factor: float = 1.0) -> Iterator[Module]:
    """A model moved by `factor` times a vector inside a `with`, and put back to the bit after.

    Raises  as `move` and `scale` do
    """
    own = dict(model.named_parameters())
    before = {path: own[path].data for path in vector if path in own}
    move(model, scale(vector, factor))
    try:
        yield model
    finally:
        for path, values in before.items():
            own[path].data = values


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


def save_vector(
    vector: Mapping[str, np.ndarray], path: str | Path, base: Module | None = None
) -> None:
    """Write a vector, whole or not at all; with `base`, which one it is of."""
    mark = {} if base is None else {"base": fingerprint(base.state_dict())}
    save_arrays(path, vector, {"format": FORMAT, "version": str(VERSION), **mark})


def load_vector(path: str | Path, base: Module | None = None) -> Vector:
    """Read a vector.

    base    the model that it is to move
    Raises  CheckpointError for a damaged file, one of another kind, or one that was written with
            another base
    """
    arrays, facts = load_arrays(path)
    told: Any = facts.get("format"), facts.get("version")
    if told != (FORMAT, str(VERSION)):
        raise CheckpointError(f"{path} holds no vector of minipeft: {told!r:.80}")
    if base is not None and "base" in facts:
        mark = fingerprint(base.state_dict())
        if facts["base"] != mark:
            raise CheckpointError(f"{path} is of another base: its fingerprint is "
                                  f"{facts['base']:.12}, the model's {mark:.12}")  # fmt: skip
    return arrays
