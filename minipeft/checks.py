"""What a function's arguments must be, declared beside it and checked before it runs.

Numbers of NumPy are taken wherever Python's are, and become Python's own: a file of settings can
then hold them, and a float64 scalar changes no array's dtype. Booleans are no numbers.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np

from minipeft.backend import is_whole

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any], Any]  # (name, value) -> the value as Python's own number


def takes(**checks: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Send a function's arguments through checks, by name, before it runs.

    None passes where the annotation names it.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        free = {name for name in checks if "None" in str(signature.parameters[name].annotation)}

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # Python says best what is missing or unknown
            for name, value in given.arguments.items():
                if name in checks and not (value is None and name in free):
                    given.arguments[name] = checks[name](name, value)
            return function(*given.args, **given.kwargs)

        return checked

    return decorate


def moved(**ways: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse keywords that a function no longer has, each with the new way to say it."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name in ways:
                    raise TypeError(f"{name} has moved: {ways[name]}")
            return function(*args, **kwargs)

        return checked

    return decorate


def one_each(name: str, values: Sequence[Any] | None, of: Sequence[Any]) -> Sequence[Any]:
    """The values of an argument that has one for each of something; None for all if it is None."""
    if values is not None and len(values) != len(of):
        raise ValueError(f"{name} must have one entry for each of {len(of)}, got {len(values)}")
    return [None] * len(of) if values is None else values


def nearest(word: Any, choices: Iterable[str], *, close: bool = False) -> str:
    """The choice that a word is most like, in any case; "" if there is none, or none is close.

    close  only one that could be meant
    """
    small = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(str(word)[:80].lower(), small, 1, 0.6 if close else 0.0)
    return small[found[0]] if found else ""


def whole(least: int, most: int | None = None, *, hint: str = "") -> Check:
    """A check that asks for a whole number from `least` on, and up to `most`."""
    wanted = f">= {least}" if most is None else f"from {least} to {most}"
    wanted += f" ({hint})" if hint else ""

    def check(name: str, value: Any) -> int:
        if not is_whole(value) or value < least or (most is not None and value > most):
            raise ValueError(f"{name} must be a whole number {wanted}, got {value!r}")
        return int(value)

    return check


def real(
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> Check:
    """A check that asks for a finite number: >= least, <= most, > above, < below."""
    low = least if above is None else above
    high = most if below is None else below
    if high is not None:
        wanted = f"in {'[' if above is None else '('}{low}, {high}{']' if below is None else ')'}"
    else:
        bound = "" if low is None else f" {'>=' if above is None else '>'} {low}"
        wanted = f"a finite number{bound}"
    told = f" ({hint})" if hint else ""

    def check(name: str, value: Any) -> float:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        x = float(value) if number else math.nan
        fits = (
            math.isfinite(x)
            and (least is None or x >= least)
            and (above is None or x > above)
            and (most is None or x <= most)
            and (below is None or x < below)
        )
        if not fits:
            raise ValueError(f"{name} must be {wanted}{told}, got {value!r}")
        return x

    return check


def one_of(*choices: str) -> Check:
    """A check that asks for one of a few words."""
    *most, last = map(repr, choices)
    wanted = f"{', '.join(most)} or {last}" if most else last

    def check(name: str, value: Any) -> str:
        if value not in choices:
            near = nearest(value, choices, close=True)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"{name} must be {wanted}, got {value!r:.80}{hint}")
        return value

    return check


# -- fields of a dataclass ------------------------------------------------------------------------


def setting(default: Any, check: Check) -> Any:
    """A field with a default and a range, beside each other: `r: int = setting(8, whole(1))`"""
    return dataclasses.field(default=default, metadata={"check": check})


class Checked:
    """A frozen dataclass whose fields go through the checks that they declare.

    None passes where it is the field's default.
    """

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if "check" in f.metadata and not (value is None and f.default is None):
                value = f.metadata["check"](f"{type(self).__name__}: {f.name}", value)
                object.__setattr__(self, f.name, value)


class Plain(Checked):
    """One whose fields are numbers, text, None, or tuples of such, as a file can keep them.

    NumPy's become Python's own, lists become tuples, whole numbers floats where floats are wanted.
    """

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, _typed(type(self), f, getattr(self, f.name)))
        super().__post_init__()

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> Self:
        """One from plain values, as JSON or a command line gives them.

        Raises  ValueError that names an unknown field's nearest, or a value of a wrong type
        """
        known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                near = nearest(key, known)
                hint = f"; nearest is {near!r}, all: {', '.join(known)}" if known else ""
                raise ValueError(f"{cls.__name__} has no setting {key[:80]!r}{hint}")
        return cls(**{k: _from_text(cls, known[k], v) for k, v in values.items()})


def _declared(field: dataclasses.Field[Any]) -> tuple[str, list[str]]:
    """A field's type in words, and the kinds that it allows."""
    # the type is text in a file that postpones annotations, as ours do, else an object
    declared = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    return declared, [kind.partition("[")[0].strip() for kind in declared.split("|")]


def _python(value: Any) -> Any:
    """NumPy's numbers and text as Python's, lists as tuples; they equal what a file gives back."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_python, value))
    return value.item() if isinstance(value, np.generic) else value


def _typed(cls: type, field: dataclasses.Field[Any], value: Any) -> Any:
    """A plain value of a field's declared type."""
    (declared, kinds), value = _declared(field), _python(value)
    if "float" in kinds and is_whole(value):
        return float(value)
    inner = declared.partition("tuple[")[2].partition(",")[0]  # what a tuple holds
    right = any(
        kind == "None" if value is None else type(value).__name__ == kind for kind in kinds
    )  # by name and exactly: True is no int, and what a file gives back is no subclass
    if right and isinstance(value, tuple) and inner:
        right = all(type(v).__name__ == inner for v in value)
    if right:
        return value
    got = _short(value)
    if isinstance(value, (set, frozenset)):
        got = f"a set, which has no order: write {_short(tuple(sorted(map(str, value))))}"
    raise ValueError(f"{cls.__name__}: {field.name} must be {declared}, got {got}")


def _short(value: Any) -> str:
    """A value in an error, which is to fit a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _from_text(cls: type, field: dataclasses.Field[Any], value: Any) -> Any:
    """A value of a field's declared type, from text where needed."""
    declared, kinds = _declared(field)
    text, flag = isinstance(value, str), isinstance(value, bool)
    words = str(value).lower()
    several = isinstance(value, (list, tuple)) or (text and ("," in value or "str" not in kinds))
    try:
        if value is None or (text and words == "none"):
            if "None" in kinds:
                return None
        elif "tuple" in kinds and several:
            values = [v for v in (value.split(",") if text else value) if v != ""]
            return tuple(map(int, values) if text and "tuple[int" in declared else values)
        elif "bool" in kinds and words in ("true", "1", "yes", "false", "0", "no"):
            return words in ("true", "1", "yes")
        elif "int" in kinds and not flag and float(value) == int(float(value)):
            return int(float(value))
        elif "float" in kinds and not flag:
            return float(value)
        elif "str" in kinds and text:
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{cls.__name__}: {field.name} must be {declared}, got {_short(value)}")
