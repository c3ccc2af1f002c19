"""An adapter in a file: what trains, the method's state and fields, and whose base it needs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.checkpoint import CheckpointError, fingerprint, load_arrays, save_arrays
from minipeft.methods.base import Method
from minipeft.nn import Module

if TYPE_CHECKING:
    from minipeft.methods.attached import Attached

FORMAT, VERSION = "minipeft-adapter", "1"
STATE = "state:"  # in front of the names of arrays that do not train


def save(at: Attached, path: str | Path, card: dict[str, Any] | None = None) -> None:
    """Write an adapter, whole or not at all, and a card that tells what it was trained for."""
    arrays = {name: to_numpy(p.data) for name, p in at.trainable()}
    arrays |= {STATE + name: a for name, a in at.method.state(at).items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "method": at.method.name,
        "fields": json.dumps(dataclasses.asdict(at.method)),
        "over": json.dumps(at.over()),
        "base": base_of(at.model, at.method),
        "card": json.dumps(card or {}),
    }
    save_arrays(path, arrays, metadata)


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and metadata of an adapter file, checked; `fields` and `card` as dicts."""
    arrays, metadata = load_arrays(path)
    if metadata.get("format") != FORMAT:
        got = metadata.get("format")
        raise CheckpointError(f"{path} is no adapter of minipeft: format={got!r}. A model is read "
                              "with load_model")  # fmt: skip
    if metadata.get("version") != VERSION:
        raise CheckpointError(f"{path} has adapter version {metadata.get('version')!r}, "
                              f"wanted {VERSION!r}")  # fmt: skip
    missing = [k for k in ("method", "fields", "over", "base") if k not in metadata]
    if missing:
        raise CheckpointError(f"{path} lacks the metadata {', '.join(missing)}")
    try:
        fields, over = json.loads(metadata["fields"]), json.loads(metadata["over"])
        card = json.loads(metadata.get("card", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path} has metadata that is no JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(over, list) or not isinstance(card, dict):
        raise CheckpointError(f"{path}: fields and card must be objects and over a list")
    return arrays, {**metadata, "fields": fields, "over": over, "card": card}


def method_of(path: str | Path, kind: Any, fields: dict[str, Any]) -> Any:
    """The method that a file was saved with."""
    try:
        return kind.from_fields(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has settings that {kind.__name__} refuses: {error}"
        ) from error


def load(at: Attached, path: str | Path) -> None:
    """Put a saved adapter into a handle, or change nothing."""
    arrays, metadata = read(path)
    if metadata["method"] != at.method.name:
        raise CheckpointError(f"{path} holds a {metadata['method']!r} adapter, this handle is of "
                              f"{at.method.name!r}. load_adapter(model, path) attaches the right "
                              "one")  # fmt: skip
    check_base(at.model, at.method, at.over(), path, metadata)
    saved, old = method_of(path, type(at.method), metadata["fields"]), at.method
    here, there = dataclasses.asdict(old), dataclasses.asdict(saved)
    odd = [f"{k} is {here[k]!r} here, {there[k]!r} there"
           for k in here if k != "seed" and here[k] != there[k]]  # fmt: skip
    if odd:
        raise CheckpointError(f"{path} was saved with other settings: {'; '.join(odd)}")
    values = checked(at, path, arrays)
    if saved == old:
        put(at, values)
        return
    with at.rebuilt(saved):  # another seed: what was drawn and not saved is drawn from it
        put(at, values)


def base_of(model: Module, method: Method) -> str:
    """The fingerprint of the base model, without what the method trains whole."""
    parts = {path for path, part in model.named_modules() if method.whole(path, part)}
    state = model.state_dict()
    return fingerprint({n: a for n, a in state.items() if n.rpartition(".")[0] not in parts})


def check_base(
    model: Module, method: Method, over: list[str], path: str | Path, metadata: dict[str, Any]
) -> None:
    """Refuse an adapter that was trained on another base, or over other methods."""
    if metadata["base"] != base_of(model, method):
        raise CheckpointError(f"{path} was trained on another base model: the fingerprint of its "
                              "weights is not this one's")  # fmt: skip
    if metadata["over"] != over:
        raise CheckpointError(f"{path} was trained over the methods {metadata['over']}, here they "
                              f"are {over}")  # fmt: skip


Values = tuple[dict[str, Any], dict[str, np.ndarray]]  # what trains, and the method's state


def checked(at: Attached, path: str | Path, arrays: dict[str, np.ndarray]) -> Values:
    """The arrays of a file in the dtype of the handle's, or an error that lists what is wrong."""
    own, wanted = dict(at.trainable()), at.method.state(at)
    saved = {k: a for k, a in arrays.items() if not k.startswith(STATE)}
    state = {k.removeprefix(STATE): a for k, a in arrays.items() if k.startswith(STATE)}
    trouble = [f"{k} is missing" for k in own if k not in saved]
    trouble += [f"{k} is unexpected" for k in saved if k not in own]
    trouble += [f"state {k} is missing" for k in wanted if k not in state]
    trouble += [f"state {k} is unexpected" for k in state if k not in wanted]
    values = {}
    for k, p in own.items():
        if k in saved and saved[k].shape != p.shape:
            trouble.append(f"{k} must have shape {p.shape}, has {saved[k].shape}")
        elif k in saved and saved[k].dtype.kind != "f":
            trouble.append(f"{k} must hold floats, has {saved[k].dtype}")
        elif k in saved:
            with np.errstate(over="ignore"):
                values[k] = xp_of(p.data).asarray(saved[k].astype(p.dtype, copy=False))
            if not bool(xp_of(p.data).isfinite(values[k]).all()):
                trouble.append(f"{k} does not fit into {p.dtype}: a value becomes infinite")
    for k, a in wanted.items():
        if k in state and (state[k].shape, state[k].dtype.kind) != (a.shape, a.dtype.kind):
            trouble.append(f"state {k} must be {a.dtype} of shape {a.shape}, is {state[k].dtype} "
                           f"of shape {state[k].shape}")  # fmt: skip
    if trouble:
        raise CheckpointError(f"{path} does not fit: " + "; ".join(trouble[:6]))
    return values, state


def put(at: Attached, values: Values) -> None:
    """Put checked arrays in."""
    arrays, state = values
    if state:
        at.method.load_state(at, state)
    for k, p in at.trainable():
        p.data = arrays[k]
