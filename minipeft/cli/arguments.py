"""What several commands share: arguments, their parsers, and how a method is told."""

from __future__ import annotations

import argparse
import dataclasses
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = tuple[Any, str]
Command = Callable[[str, Callable[..., Result], str, str], Any]  # name, run, does, example


class UsageError(ValueError):
    """Arguments that do not go together."""


# -- arguments ------------------------------------------------------------------------------------


def add_model(new: Any, what: str = "a shipped model's name or a file") -> None:
    """--model"""
    new.add_argument("--model", default="tiny-gpt", metavar="NAME|PATH",
                     help=f"{what}; default tiny-gpt")  # fmt: skip


def add_method(new: Any, default: str | None) -> None:
    """--method, its settings, and the head."""
    told = f"; default {default}" if default else ""
    new.add_argument("--method", type=one_of(methods), default=default, metavar="NAME",
                     help=f"full, topk, bitfit, lora, …{told}")  # fmt: skip
    new.add_argument("--set", type=setting, nargs="+", action="extend", metavar="NAME=VALUE",
                     help="the method's settings; commas separate several values")  # fmt: skip
    new.add_argument("--head", choices=("lm", "linear"), default="lm",
                     help="linear: a new classifier, its parameters counted apart")  # fmt: skip


def add_task(new: Any, steps: int | None, told: str) -> None:
    """--task, where its files are, and how long to train."""
    new.add_argument("--task", type=one_of(tasks), default="sentiment", metavar="NAME",
                     help="sentiment (the default), table-to-text, truth, e2e, …")  # fmt: skip
    new.add_argument("--path", metavar="DIR", help="the folder of a real data set (e2e)")
    new.add_argument("--steps", type=number(1), default=steps, help=f"default {told}")
    new.add_argument("--batch", type=number(1), default=16, help="default 16")


# -- parsers --------------------------------------------------------------------------------------


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE in its two parts."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE, got {text!r}")
    return name, value


def number(low: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """A parser of numbers from `low` on."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= low or value == float("inf"):
            raise argparse.ArgumentTypeError(f"wanted a number >= {low}, got {text!r}")
        return value

    return parse


def one_of(table: Callable[[], Any]) -> Callable[[str], str]:
    """A parser of names; `table` is looked up only when there is a name to check."""

    def parse(text: str) -> str:
        names = list(table())
        if text not in names:
            from minipeft.tasks.base import nearest

            hint = nearest(text, names)
            raise argparse.ArgumentTypeError(f"no {text!r}{hint}; there are {', '.join(names)}")
        return text

    return parse


def methods() -> Any:
    """The methods by name."""
    from minipeft.methods import METHODS

    return METHODS


def tasks() -> Any:
    """The tasks by name."""
    from minipeft.tasks import TASKS

    return TASKS


# -- what arguments mean --------------------------------------------------------------------------


def method_of(args: argparse.Namespace) -> Any:
    """The method that --method and --set describe."""
    from minipeft.methods import get_method

    try:
        return get_method(args.method).from_fields(dict(args.set or []))
    except ValueError as error:
        raise UsageError(str(error)) from None


def head_of(args: argparse.Namespace, classes: int | None) -> tuple[str | None, int | None]:
    """The head asked for and its number of classes; None, None for what the file holds."""
    if args.head != "linear":
        return None, None
    if classes is None:
        raise UsageError("--head linear is for classification")
    return "linear", classes


def known(model: str) -> str:
    """A model's name or path; a name that nobody knows is wrong usage."""
    from minipeft.checkpoint import shipped_models
    from minipeft.models import OUTLINES, PRESETS
    from minipeft.tasks.base import nearest

    names, sizes = shipped_models(), [*PRESETS, *OUTLINES]
    if model in names or Path(model).exists() or "." in model or os.sep in model:
        return model
    there = f"models with weights: {', '.join(names) or 'none'}, or a file"
    if model in sizes:
        raise UsageError(f"{model!r} is known by its sizes alone, for params and memory; {there}")
    raise UsageError(f"no model {model!r}{nearest(model, [*names, *sizes])}; {there}; "
                     f"sizes alone, for params: {', '.join(sizes)}")  # fmt: skip


# -- text -----------------------------------------------------------------------------------------


def wrapped(name: str, text: str) -> str:
    """A named text, broken into lines that fit."""
    return textwrap.fill(f"{name:11}{text}", 90, subsequent_indent=" " * 11)


def described(method: Any) -> str:
    """A method's name and the settings that are not its defaults."""
    usual = type(method)()
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    changed = [
        f"{name}={','.join(map(str, x)) if isinstance(x, tuple) else x}"
        for name, x in fields.items()
        if x != getattr(usual, name)
    ]
    return " ".join([method.name, *changed])
