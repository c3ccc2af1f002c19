"""An adapter in a file: what trains, the method's state and fields, and whose base it needs.

Version 2 also tells the fields of the methods underneath, and a digest of their arrays. In
version 1 they are names alone, and "fp4" is the table that is called "fp4-bnb" now.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.contract.handle import Handle
from minipeft.contract.method import Method
from minipeft.engine import no_grad
from minipeft.nn import Module, Parameter
from minipeft.nn.copies import hollow
from minipeft.storage.checkpoint import (
    CheckpointError,
    fingerprint,
    load_arrays,
    refuse_odd_base,
    save_arrays,
    told,
    version_of,
)

FORMAT, VERSION = "minipeft-adapter", 2
STATE = "state:"  # in front of the names of arrays that do not train


def save(at: Handle, path: str | Path, card: dict[str, Any] | None = None) -> None:
    """Write an adapter, whole or not at all, and a card that tells what it was trained for.

    Raises  CheckpointError for what could not be loaded, or would compute something else
    """
    _check_whole(at)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "method": at.method.name,
        "fields": json.dumps(_fields(at.method.settled())),
        "over": json.dumps([_told_of(h) for h in at.over()]),
        "base": base_of(at.model, at.method),
        "card": json.dumps(card or {}),
    }
    save_arrays(path, _arrays(at), metadata)


def _arrays(at: Handle) -> dict[str, np.ndarray]:
    """What a file holds of a handle: what trains, or what a network makes of it, and the state."""
    arrays = {name: to_numpy(p.data) for name, p in at.trainable()}
    if at.method.settled() != at.method:
        with no_grad():
            made = at.method.compute(at)
        head = {name: arrays[name] for name in at.head}
        arrays = {name: to_numpy(t.data) for name, t in made.items()} | head
    return arrays | {STATE + name: a for name, a in at.method.state(at).items()}


def _told_of(at: Handle) -> dict[str, Any]:
    """A method that lies underneath: its name, its fields, and a digest of its arrays."""
    arrays = fingerprint(_arrays(at))
    return {"method": at.method.name, "fields": _fields(at.method.settled()), "arrays": arrays}


def _fields(method: Method) -> dict[str, Any]:
    """A method's fields as JSON gives them back, from which the same method must come."""
    try:
        fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(method)))
        if type(method).from_fields(fields) == method:
            return fields
        error = "they come back as others"
    except (TypeError, ValueError) as caught:
        error = str(caught)
    raise CheckpointError(f"the settings of {method!r:.200} cannot be saved: {error}. A method's "
                          "__post_init__ must call super().__post_init__()")  # fmt: skip


def _check_whole(at: Handle) -> None:
    """Refuse a handle of which a part was replaced by hand, or beside which something trains."""
    stand: set[int] = set()
    for place in at.model.places():
        p: Parameter | None = place.parameter
        while p is not None:  # a clone's original is kept in it
            stand.add(id(p))
            p = p.base
    for path, p in at.trainable():
        if id(p) not in stand:
            raise CheckpointError(f"{path} was replaced by something that is not the adapter's: "
                                  "it cannot be saved. Set its .data instead")  # fmt: skip
    known = {id(p) for h in (*at.over(), at, *at.later()) for _, p in h.trainable()}
    for path, p in at.model.named_parameters():
        if p.requires_grad and id(p) not in known:
            raise CheckpointError(
                f"{path} trains but is not part of the adapter, which would be saved without it: "
                "set its requires_grad to False, or attach a method that trains it"
            )
    refuse_odd_base(at.model)


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and metadata of an adapter file, checked.

    `fields` and `card` come as dicts, `version` as a number, `over` as a list of dicts with
    "method" and, from version 2 on, "fields" and "arrays".
    """
    arrays, metadata = load_arrays(path)
    if metadata.get("format") != FORMAT:
        got = f"{metadata.get('format')!r:.40}"
        raise CheckpointError(f"{path} is no adapter of minipeft: format={got}. A model is read "
                              "with load_model")  # fmt: skip
    version = version_of(path, metadata, VERSION)
    missing = [k for k in ("method", "fields", "over", "base") if k not in metadata]
    if missing:
        raise CheckpointError(f"{path} lacks the metadata {', '.join(missing)}")
    fields, over = told(path, metadata, "fields", dict), told(path, metadata, "over", list)
    card = told(path, {"card": "{}"} | metadata, "card", dict)
    if version == 1:
        over = [{"method": name} for name in over]
        if fields.get("code") == "fp4":
            fields["code"] = "fp4-bnb"
    wanted = {"method": str} if version == 1 else {"method": str, "fields": dict, "arrays": str}
    for entry in over:
        if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != wanted:
            raise CheckpointError(f"{path}: over must tell {', '.join(wanted)} of each method "
                                  f"underneath, got {entry!r:.80}")  # fmt: skip
    return arrays, metadata | {"version": version, "fields": fields, "over": over, "card": card}


def method_of(path: str | Path, kind: Any, fields: dict[str, Any]) -> Any:
    """The method that a file was saved with."""
    try:
        return kind.from_fields(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has settings that {kind.__name__} refuses: {error!s:.800}"
        ) from error


def load(at: Handle, path: str | Path) -> None:
    """Put a saved adapter into a handle, or change nothing."""
    arrays, metadata = read(path)
    if metadata["method"] != at.method.name:
        raise CheckpointError(f"{path} holds a {metadata['method']!r} adapter, this handle is of "
                              f"{at.method.name!r}. load_adapter(model, path) attaches the right "
                              "one")  # fmt: skip
    check_base(at.model, at.method, at.over(), path, metadata)
    saved, old = method_of(path, type(at.method), metadata["fields"]), at.method.settled()
    odd = _unlike(dataclasses.asdict(old), dataclasses.asdict(saved))
    if odd:
        raise CheckpointError(f"{path} was saved with other settings: {'; '.join(odd)}")
    if saved == at.method:
        put(at, checked(at, path, arrays))
        return
    with at.rebuilt(saved):  # another seed: what was drawn and not saved is drawn from it
        put(at, checked(at, path, arrays))


def _unlike(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """The settings, seeds apart, that are others in a file."""
    return [f"{k} is {here.get(k)!r} here, {there.get(k)!r} there"
            for k in here | there if k != "seed" and here.get(k) != there.get(k)]  # fmt: skip


def base_of(model: Module, method: Method) -> str:
    """The fingerprint of the base model, without what the method trains whole."""
    parts = {path for path, part in model.named_modules() if getattr(part, "new", False)}
    state = model.base_arrays()
    return fingerprint({n: a for n, a in state.items() if n.rpartition(".")[0] not in parts})


def check_base(
    model: Module, method: Method, over: list[Handle], path: str | Path, metadata: dict[str, Any]
) -> None:
    """Refuse an adapter that was trained on another base, or over other adapters.

    A file of version 1 tells their names alone: it is taken, with a warning.
    """
    if metadata["base"] != base_of(model, method):
        raise CheckpointError(f"{path} was trained on another base model: the fingerprint of its "
                              "weights is not this one's")  # fmt: skip
    there, here = metadata["over"], [h.method.name for h in over]
    names = [entry["method"] for entry in there]
    if names != here:
        raise CheckpointError(f"{path} was trained over the methods {names}, here they are {here}")
    if metadata["version"] == 1:
        if over:
            warnings.warn(
                f"{path} is of an older version, which does not tell the settings of the methods "
                f"that it was trained over ({', '.join(here)}): see to it that they are the same. "
                "Saved again, it tells them",
                stacklevel=4,
            )
        return
    for entry, own in zip(there, map(_told_of, over), strict=True):
        odd = _unlike(own["fields"], entry["fields"])
        if odd:
            raise CheckpointError(f"{path} was trained over another {entry['method']!r}: "
                                  f"{'; '.join(odd):.400}")  # fmt: skip
        if entry["arrays"] != own["arrays"]:
            raise CheckpointError(
                f"{path} was trained over a {entry['method']!r} with other weights than those of "
                "the one that is attached here: load that one first"
            )


def check_sizes(
    model: Module, method: Method, path: str | Path, arrays: dict[str, np.ndarray]
) -> None:
    """Compare a file with what the method would train, before anything is allocated for it."""
    try:
        wanted = dict(Handle(hollow(model), method).trainable())
    except Exception:  # what it refuses, it refuses on the model too, in its own words
        return
    _refuse(path, _misfits(wanted, {k: a for k, a in arrays.items() if not k.startswith(STATE)}))


Values = tuple[dict[str, Any], dict[str, np.ndarray]]  # what trains, and the method's state


def checked(at: Handle, path: str | Path, arrays: dict[str, np.ndarray]) -> Values:
    """The arrays of a file in the dtype of the handle's, or an error that lists what is wrong."""
    own, wanted = dict(at.trainable()), at.method.state(at)
    saved = {k: a for k, a in arrays.items() if not k.startswith(STATE)}
    state = {k.removeprefix(STATE): a for k, a in arrays.items() if k.startswith(STATE)}
    trouble = _misfits(own, saved)
    trouble += [f"state {k} is missing" for k in wanted if k not in state]
    trouble += [f"state {k} is unexpected" for k in state if k not in wanted]
    values = {}
    for k, p in own.items():
        if k in saved and saved[k].shape == p.shape and saved[k].dtype.kind == "f":
            with np.errstate(over="ignore"):
                values[k] = xp_of(p.data).asarray(saved[k].astype(p.dtype, copy=False))
            if not bool(xp_of(p.data).isfinite(values[k]).all()):
                trouble.append(f"{k} does not fit into {p.dtype}: a value becomes infinite")
    for k, a in wanted.items():
        if k in state and (state[k].shape, state[k].dtype.kind) != (a.shape, a.dtype.kind):
            trouble.append(f"state {k} must be {a.dtype} of shape {a.shape}, is {state[k].dtype} "
                           f"of shape {state[k].shape}")  # fmt: skip
        elif k in state and a.dtype.kind == "f":
            with np.errstate(over="ignore"):
                if not np.isfinite(state[k].astype(a.dtype)).all():
                    trouble.append(f"state {k} does not fit into {a.dtype}")
    _refuse(path, trouble)
    return values, state


def _misfits(own: dict[str, Parameter], saved: dict[str, np.ndarray]) -> list[str]:
    """What a file's arrays lack, have too much, or have in another shape or type."""
    trouble = [f"{k} is missing" for k in own if k not in saved]
    trouble += [f"{k:.80} is unexpected" for k in saved if k not in own]
    for k in [k for k in own if k in saved]:
        if saved[k].shape != own[k].shape:
            trouble.append(f"{k} must have shape {own[k].shape}, has {saved[k].shape}")
        elif saved[k].dtype.kind != "f":
            trouble.append(f"{k} must hold floats, has {saved[k].dtype}")
    return trouble


def _refuse(path: str | Path, trouble: list[str]) -> None:
    if trouble:
        more = f"; and {len(trouble) - 6} more" if len(trouble) > 6 else ""
        raise CheckpointError(f"{path} does not fit: {'; '.join(trouble[:6])}{more}")


def put(at: Handle, values: Values) -> None:
    """Put checked arrays in."""
    arrays, state = values
    if state:
        at.method.load_state(at, state)
    for k, p in at.trainable():
        p.data = arrays[k]
