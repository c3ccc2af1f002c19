"""What several commands share: arguments, their parsers, and how a method is told."""

from __future__ import annotations

import argparse
import dataclasses
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

# the value, the text that tells it, and what is still to be done once both are printed
Result = tuple[Any, str] | tuple[Any, str, Callable[[], str]]
Command = Callable[[str, Callable[..., Result], str, str], Any]  # name, run, does, example


WIDTH = 79  # columns of a terminal, but one
SEPARATORS = tuple({os.sep, os.altsep or os.sep})
DEFAULT_MODEL = "tiny-gpt"
DEFAULT_TASKS = {False: "sentiment", True: "textures"}  # of models of text, and of pictures


class UsageError(ValueError):
    """Arguments that do not go together."""


# -- arguments ------------------------------------------------------------------------------------


def add_model(
    new: Any, what: str = "a shipped model's name or a file", default: str | None = DEFAULT_MODEL
) -> None:
    """--model; without a default the adapter's own model is taken."""
    told = default or f"the adapter's, else {DEFAULT_MODEL}"
    new.add_argument("--model", default=default, metavar="NAME|PATH",
                     help=f"{what}; default {told}")  # fmt: skip


def add_method(new: Any, default: str | None) -> None:
    """--method, its settings, and the head."""
    told = f"; default {default}" if default else ""
    new.add_argument("--method", type=one_of(methods), default=default, metavar="NAME",
                     help=f"full, topk, bitfit, lora, …{told}")  # fmt: skip
    new.add_argument("--set", type=setting, nargs="+", action="extend", metavar="NAME=VALUE",
                     help="the method's settings; commas separate several values")  # fmt: skip
    new.add_argument("--head", choices=("lm", "linear"), default="lm",
                     help="linear: a new classifier, its parameters counted apart")  # fmt: skip


def add_task(new: Any) -> None:
    """--task, and where its files are."""
    new.add_argument("--task", type=one_of(tasks), metavar="NAME",
                     help="sentiment (the default), table-to-text, truth, e2e, …; of pictures "
                     "textures, cells, …")  # fmt: skip
    new.add_argument("--path", metavar="DIR", help="the folder of a real data set (e2e, mnist)")


def add_own(new: Any) -> None:
    """--data"""
    new.add_argument("--data", metavar="FILE", help="your own task: a CSV or JSONL file with "
                     "prompt and target, or prompt, label and options")  # fmt: skip


def add_training(new: Any, steps: int | None, told: str) -> None:
    """How long to train."""
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
            from minipeft.tasks.base import meant

            hint = meant(text, names)
            raise argparse.ArgumentTypeError(f"no {text!r}{hint}; there are {', '.join(names)}")
        return text

    return parse


def methods() -> Any:
    """The methods by name."""
    from minipeft.methods import METHODS

    return METHODS


def tasks() -> Any:
    """The tasks by name, those on pictures last."""
    from minipeft.tasks import IMAGE_TASKS, TASKS

    return TASKS | IMAGE_TASKS


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
    if not classes:
        raise UsageError("--head linear needs the same options in every example, and this task "
                         "has others in each")  # fmt: skip
    return "linear", classes


def task_named(name: str, path: str | None = None) -> Any:
    """The task of that name, on text or on pictures."""
    from minipeft.tasks import any_task

    return any_task(name, path)


def task_of(args: argparse.Namespace, model: str, recorded: Any = None) -> Any:
    """The task that --task or --data names for a model, else the adapter's, else the usual one."""
    from minipeft.tasks import load_own

    if args.data is not None:
        if args.task or args.path:
            raise UsageError("--data is a task of your own: leave --task and --path out")
        return load_own(args.data)
    name, path = args.task, args.path
    if name is None and recorded:
        if "data" in recorded:
            return load_own(recorded["data"])
        name, path = recorded.get("task"), path or recorded.get("path")
    return fitting(model, task_named(name or DEFAULT_TASKS[reads_pictures(model)], path))


def fitting(model: str, task: Any) -> Any:
    """The task, if the model reads what it is on."""
    from minipeft.tasks import IMAGE_TASKS, TASKS

    pictures = reads_pictures(model)
    if pictures != (task.kind == "images"):
        reads, on = ("pictures", "text") if pictures else ("text", "pictures")
        fit = ", ".join(IMAGE_TASKS if pictures else TASKS)
        raise UsageError(f"{model} reads {reads}, and {task.name} is on {on}; tasks for it: {fit}")
    return task


def words_of(task: Any) -> tuple[str, ...]:
    """The options that all examples of a classification share, by label; else none."""
    return task.classes if task.kind == "images" else task.patterns[0].words


def reads_pictures(model: str) -> bool:
    """Whether a model's file holds a ViT; False for what is no model, which loading tells."""
    from safetensors import SafetensorError, safe_open

    from minipeft.storage.checkpoint import model_file

    try:
        with safe_open(model_file(model), "np") as file:
            return (file.metadata() or {}).get("kind") == "vit"
    except (OSError, SafetensorError):
        return False


def target(name: str, option: str, **keep: Any) -> Path:
    """A file that will be written, tried before any work; its folder is made if need be.

    keep  files that it must not be, by what they are: the only copy of something may lie there
    Raises  UsageError for an empty name or one of these files, OSError if it cannot be written
    """
    from minipeft.storage.files import check_writable

    if not name.strip():
        raise UsageError(f"{option} needs the name of a file, got {name!r}")
    file = Path(name)
    if name.endswith(SEPARATORS):
        raise UsageError(f"{option} {name} names a folder; name a file in it")
    for what, other in keep.items():
        if other and _same(file, Path(other)):
            raise UsageError(f"{option} {name} is the file of the {what.replace('_', ' ')} itself, "
                             "which would be lost: give another name")  # fmt: skip
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{option} {name}: the folder {file.parent} cannot be made: "
                          f"{error.strerror}") from error  # fmt: skip
    check_writable(file)
    return file


def _same(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, which need not be there yet."""
    if a.exists() and b.exists():
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def file_of(model: str) -> Path | None:
    """The file that a model's name stands for, if there is one."""
    from minipeft.storage.checkpoint import model_file

    try:
        file = model_file(model)
    except FileNotFoundError:
        return None
    return file if file.is_file() else None


def known(model: str) -> str:
    """A model's name or path; a name that nobody knows is wrong usage."""
    from minipeft.models import OUTLINES, PRESETS
    from minipeft.storage.checkpoint import shipped_models
    from minipeft.tasks.base import meant

    names, sizes = shipped_models(), [*PRESETS, *OUTLINES]
    if model in names or Path(model).exists() or "." in model or os.sep in model:
        return model
    there = f"models with weights: {', '.join(names) or 'none'}, or a file"
    if model in sizes:
        raise UsageError(f"{model!r} is known by its sizes alone, for params and memory; {there}")
    raise UsageError(f"no model {model!r}{meant(model, [*names, *sizes])}; {there}; "
                     f"sizes alone, for params: {', '.join(sizes)}")  # fmt: skip


# -- text -----------------------------------------------------------------------------------------


def wrapped(name: str, text: str) -> str:
    """A named text, broken into lines that fit."""
    return textwrap.fill(f"{name:11}{text}", WIDTH, subsequent_indent=" " * 11)


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
