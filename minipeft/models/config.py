"""What all model configs check, and what all text models do with ids."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np

from minipeft.backend import is_array
from minipeft.checks import nearest

LARGEST = 2**31  # sizes are below it


@dataclass(frozen=True)
class Config:
    """The base of all configs: sizes are whole numbers, heads divide the width, classes go with
    head="linear", and with nothing else.
    """

    head_kinds: ClassVar[tuple[str, ...]] = ("linear",)
    norm: ClassVar[str] = "pre"  # or "post": where its blocks have their norms

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # a file holds Python's numbers alone
                value = value.item()
                object.__setattr__(self, field.name, value)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ValueError(
                    f"{name}: {field.name} must be a whole number >= 1, got {value!r:.80}"
                )
            if type(value) is int and value >= LARGEST:
                raise ValueError(f"{name}: {field.name} must be below 2^31, got {value!s:.40}")
        width, heads = self.value("width"), self.value("heads")
        for part in ("mlp", "head_width"):
            size = self.value(part)
            if size is not None and (type(size) is not int or size < 1):
                raise ValueError(
                    f"{name}: {part} must be a whole number >= 1 or None, got {size!r:.80}"
                )
        if width % heads and self.value("head_width") is None:
            small = [h for h in range(1, math.isqrt(width) + 1) if width % h == 0]
            best = min([*small, *(width // h for h in small)], key=lambda h: abs(h - heads))
            raise ValueError(f"{name}: width {width} does not divide into {heads} heads; the "
                             f"nearest number that fits is {best}")  # fmt: skip
        head, classes = self.value("head", "linear"), self.value("classes")
        if head not in self.head_kinds:
            kinds = " or ".join(repr(k) for k in self.head_kinds)
            raise ValueError(f"{name}: head must be {kinds}, got {head!r:.80}")
        if (head == "linear") != (classes is not None):
            raise ValueError(f"{name}: classes goes with head='linear', and only with it; "
                             f"got head={head!r:.80}, classes={classes!r:.80}")  # fmt: skip
        if classes is not None and (type(classes) is not int or classes < 2):
            raise ValueError(f"{name}: classes must be >= 2, got {classes!r:.80}")
        dropout, eps = self.value("dropout"), self.value("eps")
        numbers = all(isinstance(x, (int, float)) for x in (dropout, eps))
        if not numbers or not 0 <= dropout < 1 or not 0 < eps < math.inf:
            raise ValueError(f"{name}: dropout in [0, 1) and eps > 0; got {dropout!r}, {eps!r}")

    def value(self, field: str, default: Any = None) -> Any:
        """A field that not every config has."""
        return getattr(self, field, default)

    @property
    def key_width(self) -> int:
        """The width of the keys, and of the values, that a past holds for a position."""
        heads = self.value("heads")
        return (self.value("kv_heads") or heads) * (
            self.value("head_width") or self.value("width") // heads
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """A config from plain values; an unknown field is an error that names the nearest."""
        known = {f.name: f for f in fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(f"{cls.__name__} has no field {name[:80]!r}; nearest is "
                                 f"{nearest(name, known)!r}, all: {', '.join(known)}")  # fmt: skip
        missing = [n for n, f in known.items() if f.default is MISSING and n not in values]
        if missing:
            raise ValueError(f"{cls.__name__} needs {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_at(config: Any, at: Any) -> None:
    """A linear head reads one position, so it cannot be asked for others."""
    if at is not None and config.head == "linear":
        raise ValueError("at= names positions of a language model's logits; this model has a "
                         "linear head, which gives one row of classes for each text")  # fmt: skip


def check_ids(ids: Any) -> None:
    """Raise unless ids is an integer array (B, T) with something in it."""
    if not is_array(ids):
        raise TypeError(f"ids must be an integer array (B, T), got {type(ids).__name__}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got {ids.dtype}")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"ids must be (B, T) with at least one token, got shape {ids.shape}")
