"""Models and arrays in safetensors files: written whole, read with suspicion.

A safetensors file is eight bytes of header length, a JSON header with each array's dtype, shape
and byte range, then the bytes. The library refuses files that are cut short, ranges that
overlap or leave gaps, sizes that do not fit the shape, unknown dtypes and headers over 100 MB.
What it lets through is refused here: a name given twice, NaN and infinity, types without a
NumPy twin. And it writes a transposed array wrongly (0.8.0), so only `save_arrays` calls it.
The files written here also carry a digest of all that they hold, so that one flipped bit shows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.backend import is_array, to_numpy
from minipeft.checks import nearest
from minipeft.engine import Tensor
from minipeft.nn import Module, Parameter
from minipeft.nn.init import is_shape_only
from minipeft.storage.files import data_dir, write_atomic
from minipeft.storage.text import Tokenizer

Arrays = dict[str, np.ndarray]
FORMAT, VERSION = "minipeft", 1
PART = 1 << 18  # values looked at together
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
          "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
          "BOOL": "u1"}  # fmt: skip


SAVED = [np.dtype(t) for t in ("f8", "f4", "f2", "?", *(k + n for k in "iu" for n in "1248"))]


class CheckpointError(ValueError):
    """A file that is not what it says, or not what was asked for."""


def save_arrays(
    path: str | Path,
    arrays: Mapping[str, Any],
    metadata: dict[str, str],
    allow_nonfinite: bool = False,
) -> None:
    """Write named arrays and string metadata to one file, whole or not at all.

    Raises  CheckpointError for what `load_arrays` would refuse: NaN, infinity, other types
    """
    from safetensors.numpy import save_file

    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must map str to str, got {key!r}: {value!r}")
    held = {name: _held(name, array) for name, array in arrays.items()}
    for name, array in held.items():
        if array.dtype.newbyteorder("=") not in SAVED:
            raise CheckpointError(f"{name} cannot be saved: it holds {array.dtype}, wanted one of "
                                  f"{', '.join(map(str, SAVED))}")  # fmt: skip
        if not allow_nonfinite:
            _check_finite(f"{name} cannot be saved: it", array)
    facts = metadata | {"digest": _digest(held, metadata)}
    write_atomic(path, lambda temporary: save_file(held, temporary, facts))


def load_arrays(path: str | Path, allow_nonfinite: bool = False) -> tuple[Arrays, dict[str, str]]:
    """Read every array of a file in its stored dtype (bfloat16 as float32), and the metadata.

    Raises  CheckpointError that names the file, the array, what was wanted and what is there
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "np"):  # the library's own checks of header and ranges
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error!s:.400}") from error

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(size), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} has a wrong header: {error!s:.400}") from error
        metadata = header.pop("__metadata__", None) or {}
        arrays = {}
        for name, entry in header.items():
            array = _read(file, 8 + size, f"{path}: {name}", entry)
            if not allow_nonfinite:
                _check_finite(f"{path}: {name}", array)
            arrays[name] = array
    digest = metadata.pop("digest", None)  # files of others have none
    if digest is not None and digest != _digest(arrays, metadata):
        raise CheckpointError(f"{path} was damaged: what it holds is not what was written")
    return arrays, metadata


def _check_finite(what: str, array: np.ndarray) -> None:
    if bad := _not_finite(array):
        raise CheckpointError(
            f"{what} must be finite, but {bad} of its {array.size} values are NaN or infinite"
        )


def told(path: str | Path, metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """A value that metadata hold as JSON.

    Raises  CheckpointError if it is missing, no JSON, nested too deeply, or not of that kind
    """
    if key not in metadata:
        raise CheckpointError(f"{path} lacks the metadata {key}")
    try:
        value = json.loads(metadata[key])
    except RecursionError as error:
        raise CheckpointError(f"{path}: {key} is nested too deeply to be read") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {key} is no JSON: {error}") from error
    if not isinstance(value, kind):
        name = "an object" if kind is dict else "a list"
        raise CheckpointError(f"{path}: {key} must be {name}, got {value!r:.80}")
    return value


def version_of(path: str | Path, metadata: Mapping[str, str], newest: int) -> int:
    """The version of a file's format, which must be one that is read here."""
    version = metadata.get("version", "")
    if version not in map(str, range(1, newest + 1)):
        reads = "1" if newest == 1 else f"1 to {newest}"
        raise CheckpointError(f"{path} has format version {version!r:.40}, this minipeft reads "
                              f"{reads}")  # fmt: skip
    return int(version)


def _digest(arrays: Arrays, metadata: dict[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes of arrays, and the metadata."""
    held = {name: a.astype(a.dtype.newbyteorder("<"), copy=False) for name, a in arrays.items()}
    kinds = {name: [a.dtype.str, *a.shape] for name, a in held.items()}
    digest = hashlib.sha256(json.dumps([kinds, metadata], sort_keys=True).encode())
    for name in sorted(held):
        digest.update(np.ascontiguousarray(held[name]).data)
    return digest.hexdigest()


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes and values as float32, as hex digits.

    A float64 copy of a float32 model has its fingerprint, and so has a half-precision file of
    it if the model was loaded from that file.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = _held(name, arrays[name])
        digest.update(f"{name}{list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()


def save_model(
    model: Any, path: str | Path, card: dict[str, Any] | None = None, dtype: str | None = None
) -> None:
    """Write a model: its arrays (a tied one once), its config, and a card that tells its story.

    dtype  "float16" halves the file; None keeps the arrays' own
    Raises  CheckpointError if the file would give another model than this one: something is
            attached to it, or it is no longer what its class and config make
    """
    kind = type(model).__name__.lower()
    if type(model) is not _classes(kind)[0]:
        name = type(model).__name__
        raise CheckpointError(f"{type(model)} is not minipeft's own {name}, which a file of that "
                              "name would give back")  # fmt: skip
    _refuse_attached(model)
    _refuse_changed(model)
    arrays = model.base_arrays()
    if dtype is not None:
        arrays = {name: _cast(name, _held(name, a), dtype) for name, a in arrays.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "kind": kind,
        "config": json.dumps(model.config.to_dict()),
        "ties": json.dumps(_ties(model)),
        "card": json.dumps(card or {}),
    }
    save_arrays(path, arrays, metadata)


def load_model(
    name_or_path: str | Path,
    head: str | None = None,
    classes: int | None = None,
    dtype: Any = "float32",
    seed: int = 0,
) -> Any:
    """A model of the shipped ones, by name, or of a file that `save_model` wrote, by path.

    head     "lm" or "mlm", "linear" (a classifier, with `classes`), or None for what the file
             holds. A head that the file lacks is new, drawn from `seed`, and every method trains it
    Returns  the model in `dtype`, with .card (a dict) and, if it reads text, .tokenizer (read on
             first use)
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    path = model_file(name_or_path)
    arrays, metadata = load_arrays(path)
    model_class, stored = _stored(path, metadata)
    config = stored
    if head not in (None, *stored.head_kinds):
        kinds = " or ".join(repr(kind) for kind in stored.head_kinds)
        raise ValueError(
            f"{path} holds a {model_class.__name__}: head must be {kinds}, got {head!r}"
        )
    if head not in (None, stored.value("head", "linear")):
        config = replace(stored, head=head, classes=classes)
    elif classes not in (None, stored.classes):
        config = replace(stored, classes=classes)
    model = _of_shapes(path, model_class, stored, arrays, dtype)
    if config != stored:  # what the file holds needs not be drawn
        model = model_class(config, seed=seed, init="head", dtype=dtype)
        arrays = _with_new_head(model, arrays)
    try:
        model.adopt_state_dict(arrays)
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit its own config: {error!s:.1200}") from error
    if hasattr(config, "vocab"):
        model.tokenizer = Tokenizer(data_dir() / "tokenizer.json")
    model.card = told(path, {"card": "{}"} | metadata, "card", dict)
    told(path, {"ties": "{}"} | metadata, "ties", dict)  # for readers: which array stands where
    return model


def _of_shapes(path: Path, model_class: Any, config: Any, arrays: Arrays, dtype: Any) -> Any:
    """The model of a file's config without values, which the file's arrays are known to fit.

    A lying config is found out before anything is allocated by it.
    """
    try:
        if config.layers > len(arrays):
            raise ValueError(f"{config.layers} layers, but {len(arrays)} arrays")
        model = model_class(config, init="shape", dtype=dtype)
        _untie(model, arrays)
        model.fitting(arrays)
    except (ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} does not fit its own config: {error!s:.1200}") from error
    return model


def _refuse_attached(model: Module) -> None:
    handles = model.attached()
    if handles:
        names = ", ".join(repr(h.method.name) for h in handles)
        only = all(h.method.compose == "input" for h in handles)
        merge = "" if only else "merge() it, and the model can be saved as it computes now; "
        raise CheckpointError(
            f"this {type(model).__name__} has {names} attached, and a file of the model would hold "
            f"its base alone, without what was trained: {merge}adapter.save(path) keeps the "
            "adapter, adapter.detach() gives the base back"
        )


def refuse_odd_base(model: Any) -> None:
    """Refuse a base whose Parameters are not those that its class and config make.

    No file of the base could be loaded with what is saved beside it. A user's own Module is taken.
    """
    from minipeft.models import MODELS

    if type(model) not in [made for made, _ in MODELS.values()]:
        return
    twin = type(model)(model.config, init="shape")
    wanted = {path: p.shape for path, p in twin.named_parameters()}
    found = {path: array.shape for path, array in model.base_arrays().items()}
    for path in wanted | found:
        if path not in found:
            _odd(path, "no Parameter")
        if found[path] != wanted.get(path) and path not in _ties(twin):
            _odd(path, f"of shape {found[path]}" if path in wanted else "a new Parameter")


OUTSIDE = {"config", "handles", "card", "tokenizer", "new"}  # attributes that no file has to keep


def _refuse_changed(model: Any) -> None:
    """Refuse a model in which something stands that its class and config would not put there."""
    twin = type(model)(model.config, init="shape")
    parts, wanted = dict(model.named_modules()), dict(twin.named_modules())
    for path in wanted | parts:
        part, right = parts.get(path), wanted.get(path)
        if type(part) is not type(right):
            _odd(path, "a new part" if right is None else type(part).__name__)
        for name in vars(right) | vars(part):
            if name in OUTSIDE or isinstance(vars(right).get(name), Module):
                continue
            have, want = vars(part).get(name, OUTSIDE), vars(right).get(name, OUTSIDE)
            where = f"{path}.{name}" if path else name
            if isinstance(want, Parameter):
                if type(have) is not Parameter or have.shape != want.shape:
                    _odd(where, type(have).__name__)
                elif have.base is not None or have.dtype.kind != "f":
                    _odd(where, "a clone" if have.base is not None else f"of {have.dtype}")
            elif want is OUTSIDE and (callable(have) or isinstance(have, Tensor) or is_array(have)):
                _odd(where, f"a new {type(have).__name__}")
            elif want is not OUTSIDE and (type(have) is not type(want) or have != want):
                _odd(where, repr(have))
    untold = _ties(model).items() - _ties(twin).items()
    for path, first in sorted(untold):
        raise CheckpointError(f"{path} is shared with {first}, which the file of a "
                              f"{type(model).__name__} cannot tell: give it a copy")  # fmt: skip


def _odd(where: str, what: str) -> None:
    raise CheckpointError(
        f"{where} is {what:.80}, not what the model's class and config put there: the file would "
        "give another model"
    )


def shipped_models() -> list[str]:
    """Names that `load_model` knows without a path."""
    return sorted(file.stem for file in (data_dir() / "models").glob("*.safetensors"))


def model_file(name_or_path: str | Path) -> Path:
    """The file of a shipped model's name, or the path itself.

    Raises  FileNotFoundError for a name that is neither, with the nearest one
    """
    path = Path(name_or_path)
    if path.is_file() or path.suffix == ".safetensors" or len(path.parts) > 1:
        return path
    names = shipped_models()
    if path.name in names:
        return data_dir() / "models" / f"{path.name}.safetensors"
    if not names:
        named = "which MINIPEFT_DATA names, " if os.environ.get("MINIPEFT_DATA") else ""
        raise FileNotFoundError(
            f"no model {str(name_or_path)!r}: it is no file, and the folder {data_dir()}, {named}"
            "has no models/ with models in it"
        )
    near = nearest(path.name, names, close=True)
    raise FileNotFoundError(
        f"no model {str(name_or_path)!r}: it is neither a file nor one of the shipped models "
        f"{names} in {data_dir() / 'models'}" + (f". Did you mean {near!r}?" if near else "")
    )


def _stored(path: Path, metadata: dict[str, str]) -> tuple[Any, Any]:
    """The model class and the config that a file's metadata tell of."""
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise CheckpointError(
            f"{path} is no model of minipeft: wanted metadata format={FORMAT!r} and a config, got "
            f"format={metadata.get('format')!r:.40}. An adapter is read with load_adapter"
        )
    version_of(path, metadata, VERSION)
    try:
        model_class, config_class = _classes(metadata.get("kind", ""))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        return model_class, config_class.from_dict(told(path, metadata, "config", dict))
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} has a wrong config: {error!s:.400}") from error


def _classes(kind: str) -> tuple[Any, Any]:
    """The model class and config class of a kind."""
    from minipeft.models import MODELS

    if kind not in MODELS:
        raise CheckpointError(f"model kind must be one of {list(MODELS)}, got {kind[:40]!r}")
    return MODELS[kind]


def _with_new_head(model: Any, arrays: Arrays) -> Arrays:
    """The file's arrays with what the model drew for its head, in place of the file's head.

    What leads to the head (BERT's pooler) is the file's, if the file has it.
    """
    parts = model.head_parts
    drawn = {n: p.data for n, p in model.named_parameters() if n.split(".")[0] in parts}
    kept = dict(arrays)
    for name in [n for n in kept if n.split(".")[0] in parts]:
        if name not in drawn or name.startswith("head."):
            del kept[name]
    for name, array in drawn.items():
        if name not in kept:
            kept[name] = array
            model.get(name.rpartition(".")[0]).new = True
    return kept


def _ties(model: Module) -> dict[str, str]:
    """Path -> the path under which the shared array is saved."""
    first: dict[int, str] = {}
    paths = [(p.path, first.setdefault(id(p.parameter), p.path)) for p in model.places()]
    return {path: saved for path, saved in paths if path != saved}


def _untie(model: Module, arrays: Arrays) -> None:
    """Give a tied place its own Parameter where the file holds an array for it."""
    for path in _ties(model).keys() & arrays.keys():
        place = next(p for p in model.places() if p.path == path)
        setattr(place.owner, place.name, Parameter(place.parameter.data))


def _held(name: str, array: Any) -> np.ndarray:
    """The array on the host, its elements in C order."""
    array = to_numpy(array)
    if is_shape_only(array):
        raise CheckpointError(f"{name} has a shape but no values: the model is shape-only")
    return np.ascontiguousarray(array).reshape(array.shape)  # the first makes (1,) of ()


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if np.isfinite(array).all() and not np.isfinite(cast).all():
        raise CheckpointError(
            f"{name} does not fit in {dtype}: its largest value is {np.abs(array).max():.3g}"
        )
    return cast


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is given twice")
    return found


def _read(file: BufferedReader, start: int, place: str, entry: dict[str, Any]) -> np.ndarray:
    """One array of a file, read straight into memory of its own."""
    dtype = entry["dtype"]
    if dtype not in DTYPES:
        raise CheckpointError(f"{place} has dtype {dtype}, wanted one of {', '.join(DTYPES)}")
    array = np.empty(entry["shape"], DTYPES[dtype])
    file.seek(start + entry["data_offsets"][0])
    if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise CheckpointError(f"{place} is cut short")
    if dtype == "BF16":  # the upper half of a float32
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if dtype == "BOOL":
        if array.size and array.max() > 1:
            raise CheckpointError(f"{place} is BOOL but holds the byte {array.max()}")
        return array.view(bool)
    return array


def _not_finite(array: np.ndarray) -> int:
    """How many values are NaN or infinite, counted a part at a time."""
    if array.dtype.kind != "f":
        return 0
    flat = array.reshape(-1)
    parts = (flat[i : i + PART] for i in range(0, flat.size, PART))
    return sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)
