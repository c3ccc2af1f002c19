"""What a function's arguments must be, told beside it and checked before it runs.

Numbers of NumPy are taken wherever Python's are, and become Python's own: a file of settings can
then hold them, and a float64 scalar changes no array's dtype. Booleans are no numbers.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

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


def settle(owner: Any, **checks: Check) -> None:
    """Send fields of a frozen dataclass through checks, from its `__post_init__`.

    None passes where it is the field's default.
    """
    for name, check in checks.items():
        value = getattr(owner, name)
        if value is not None or getattr(type(owner), name, check) is not None:
            object.__setattr__(owner, name, check(name, value))


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
