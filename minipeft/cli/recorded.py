"""What an adapter's file remembers of its training: which model, which task, in which words."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from minipeft.cli.arguments import DEFAULT_MODEL, known, words_of

KINDS: dict[str, type] = {"model": str, "task": str, "path": str, "data": str, "pattern": int,
                          "template": str, "options": list}  # fmt: skip


def card(args: argparse.Namespace, task: Any) -> dict[str, Any]:
    """What `generate` and `evaluate` need to know later; files by their whole paths."""
    told: dict[str, Any] = {"model": args.model, "task": task.name, "pattern": args.pattern}
    if Path(args.model).exists():
        told["model"] = os.path.abspath(args.model)
    for name in ("path", "data"):
        if getattr(args, name) is not None:
            told[name] = os.path.abspath(getattr(args, name))
    if task.kind == "images":
        return told | {"options": list(words_of(task))}
    pattern = task.patterns[args.pattern]
    return told | {"template": pattern.template, "options": list(pattern.words)}


def opened(args: argparse.Namespace) -> tuple[Any, str, dict[str, Any]]:
    """The model that --model or the adapter's file names, nothing attached; its name; the card."""
    from minipeft.cli.inspection import load_base, shipped_bases
    from minipeft.contract import file as adapter_file
    from minipeft.storage.checkpoint import CheckpointError, load_model

    if not args.adapter:
        name = known(args.model or DEFAULT_MODEL)
        return load_model(name), name, {}
    arrays, facts = adapter_file.read(args.adapter)
    told = facts["card"]
    for key, kind in KINDS.items():
        if key in told and not isinstance(told[key], kind):
            raise CheckpointError(f"{args.adapter}: its card's {key} must be a {kind.__name__}, "
                                  f"got {told[key]!r:.40}")  # fmt: skip
    if not all(isinstance(option, str) for option in told.get("options", ())):
        raise CheckpointError(f"{args.adapter}: its card's options must be texts")
    name = args.model or told.get("model")
    if name is None:  # a file without a card
        name = next(iter(shipped_bases(arrays, facts)), DEFAULT_MODEL)
    elif not args.model and os.sep in name and not Path(name).is_file():
        raise FileNotFoundError(f"{args.adapter} was trained on {name}, which is not there now: "
                                "--model names the file")  # fmt: skip
    return load_base(known(name), arrays), name, told


def without_new_head(model: Any, name: str) -> Any:
    """The model itself, or, where it was given a new head, the base with its own."""
    from minipeft.storage.checkpoint import load_model

    if model.config.value("head", "linear") != "linear":
        return model
    base = load_model(name)
    return model if base.config == model.config else base


def asked(prompt: str, told: dict[str, Any]) -> str:
    """A prompt in the form of those that the adapter was trained on, if that has one place."""
    template = told.get("template", "{x}")
    if re.findall(r"{(\w*)}", template) != ["x"]:
        return prompt
    before, after = template.split("{x}")
    shaped = prompt.startswith(before) and prompt.endswith(after)
    return prompt if shaped else before + prompt + after
