"""What a file holds: a model, an adapter, a training state, or arrays of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minipeft.contract import file as adapter_file
from minipeft.nn.tree import Summary
from minipeft.storage.checkpoint import (
    Arrays,
    CheckpointError,
    load_arrays,
    load_model,
    model_file,
    shipped_models,
    told,
)

KINDS = {
    "minipeft": "model", "minipeft-adapter": "adapter", "minipeft-training": "training state",
}  # fmt: skip
LONGEST = 76  # letters of a value


class FileReport:
    """A file's kind, what its metadata tell, and its arrays; text and HTML.

    The file is told by its path or, of a shipped model, by its name.

    facts    what it says of itself, in reading order
    summary  a row for each array: path, shape, number, whether it is trained state, bytes
    """

    def __init__(self, path: str | Path) -> None:
        """Raises  CheckpointError for a damaged file, FileNotFoundError if there is none"""
        self.path = path = model_file(path)
        arrays, metadata = load_arrays(path, allow_nonfinite=True)
        self.kind = KINDS.get(metadata.get("format", ""), "arrays")
        tell = {"model": _model, "adapter": _adapter, "training state": _state}
        self.facts: dict[str, Any] = {"kind": self.kind}
        try:
            self.facts |= tell[self.kind](path, metadata) if self.kind in tell else metadata
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{path} has metadata that make no {self.kind}: {error}"
            ) from error
        self.facts |= {
            "dtypes": ", ".join(sorted({str(a.dtype) for a in arrays.values()})),
            "bytes": self.path.stat().st_size,
        }
        adapter = self.kind == "adapter"
        self.summary = Summary(
            [
                (name, a.shape, a.size, adapter and ":" not in name, a.nbytes)
                for name, a in arrays.items()
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """The facts and the arrays as plain values."""
        rows = [
            {"path": path, "shape": list(shape), "count": count, "bytes": size}
            for path, shape, count, _, size in self.summary.rows
        ]
        return {"path": str(self.path), **self.facts, "arrays": rows}

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        lines = [f"{key:{width}}  {_short(value)}" for key, value in self.facts.items()]
        return "\n".join([str(self.path), *lines, "", str(self.summary)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 2] + " …"


def _model(path: str | Path, metadata: dict[str, str]) -> dict[str, Any]:
    model = load_model(path)  # it must be one
    told = {k: v for k, v in model.card.items() if not isinstance(v, list)}
    config = {k: v for k, v in model.config.to_dict().items() if v is not None}
    return {"model": metadata["kind"], "config": config, **told}


def _adapter(path: str | Path, metadata: dict[str, str]) -> dict[str, Any]:
    arrays, facts = adapter_file.read(path)
    return {
        "method": facts["method"],
        "settings": facts["fields"],
        "over": [entry["method"] for entry in facts["over"]] or "nothing",
        "base": facts["base"],
        "shipped base": ", ".join(shipped_bases(arrays, facts)) or "none of the shipped ones",
        **({"card": facts["card"]} if facts["card"] else {}),
    }


def load_base(name_or_path: str | Path, arrays: Arrays) -> Any:
    """A model with the head that an adapter's arrays need: a linear one of its own, if it has one.

    arrays  what the adapter's file holds
    """
    model = load_model(name_or_path)
    head, own = arrays.get("head.weight"), dict(model.named_parameters()).get("head.weight")
    if head is None or head.ndim != 2 or (own is not None and own.shape == head.shape):
        return model
    return load_model(name_or_path, head="linear", classes=len(head))


def shipped_bases(arrays: Arrays, facts: dict[str, Any]) -> list[str]:
    """The shipped models that an adapter was trained on, by their fingerprints."""
    from minipeft.methods import METHODS

    if facts["method"] not in METHODS:
        return []
    method = METHODS[facts["method"]].from_fields(facts["fields"])
    return [name for name in shipped_models()
            if adapter_file.base_of(load_base(name, arrays), method) == facts["base"]]  # fmt: skip


def _state(path: str | Path, metadata: dict[str, str]) -> dict[str, Any]:
    settings, history = (told(path, metadata, key, dict) for key in ("settings", "history"))
    last = history["loss"][-1] if history["loss"] else None
    return {
        "done": f"{metadata['steps']} of {settings['steps']} steps",
        "last loss": last,
        "methods": settings["methods"],
        "settings": {k: v for k, v in settings.items() if k not in ("methods", "frozen", "data")},
        "machine": metadata["machine"],
    }
