"""The commands that look and change nothing: parameters, memory, what a file holds."""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import Any

from minipeft.cli.arguments import (
    Command,
    Result,
    UsageError,
    add_method,
    add_model,
    described,
    head_of,
    known,
    method_of,
    number,
    one_of,
)

# -- inspect --------------------------------------------------------------------------------------


def add_inspect(command: Command) -> None:
    """minipeft inspect"""
    new = command("inspect", _inspect, "tell what a file holds: a model, an adapter, a run's state",
                  "minipeft inspect runs/lora.safetensors")  # fmt: skip
    new.add_argument(
        "file", metavar="FILE|NAME", help="a safetensors file, or a shipped model's name"
    )


def _inspect(args: argparse.Namespace) -> Result:
    from minipeft.cli.inspection import FileReport

    found = FileReport(args.file)
    return found.as_dict(), str(found)


# -- params ---------------------------------------------------------------------------------------


def add_params(command: Command) -> None:
    """minipeft params"""
    new = command("params", _params, "count a model's parameters, and those that a method trains",
                  "minipeft params --model gpt3-175b --method lora --set r=4 \\\n"
                  "      targets=q_proj,v_proj --json")  # fmt: skip
    add_model(new, "a preset, a shipped model's name or a file")
    add_method(new, None)
    new.add_argument("--classes", type=number(2), default=2, help="of --head linear; default 2")
    new.add_argument("--paper", type=one_of(_papers), nargs="?", const=True, metavar="TABLE",
                     help="a published table beside what is computed here; without a name, "
                     "what tables there are")  # fmt: skip


def _params(args: argparse.Namespace) -> Result:
    from minipeft.contract import attach

    if args.paper is not None:
        return _paper(args)
    model = _shape_of(args)
    head: Any = getattr(model, "head", None)
    new_head = head.num_parameters() if getattr(head, "new", False) else 0
    total = model.num_parameters() - new_head
    value: dict[str, Any] = {"model": args.model, "method": None, "settings": {}, "total": total}
    if args.method is None:
        summary = model.summary()
        value["head"] = new_head
        value["parameters"] = [
            {"path": path, "shape": list(shape), "count": n} for path, shape, n, *_ in summary.rows
        ]
        return value, f"{args.model}\n{summary}"
    method = method_of(args)
    at = attach(model, method)
    percent = 100 * at.count() / total
    value |= {
        "method": args.method,
        "settings": dataclasses.asdict(method),
        "trainable": at.count(),
        "percent": percent,
        "head": at.count_head(),
    }
    lines = [f"{args.model} with {described(method)}", *_grouped(at), ""]
    lines += [f"{name:12}{n:>20,}" for name, n in (("total", total), ("trainable", at.count()))]
    lines.append(f"{'percent':12}{percent:>20.4f}")
    if at.count_head():
        lines.append(f"{'new head':12}{at.count_head():>20,}  (trained too, counted apart)")
    return value, "\n".join(lines)


def _papers() -> Any:
    from minipeft.ledger import PAPERS

    return PAPERS


def _paper(args: argparse.Namespace) -> Result:
    """A table, or what tables there are."""
    if args.method or args.set:
        raise UsageError("--paper brings its own models and methods: leave --method and --set out")
    tables = _papers()
    if args.paper is not True:
        table = tables[args.paper]
        return table.as_dict(), str(table)
    about = [{"name": p.name, "title": p.title, "source": p.source} for p in tables.values()]
    lines = [f"{name:12}{p.title}\n{'':12}{p.source}" for name, p in tables.items()]
    return about, "\n".join([*lines, "", "minipeft params --paper NAME prints one."])


def _shape_of(args: argparse.Namespace) -> Any:
    """A preset's model or an outline without its values, or a model file's."""
    from minipeft.models import OUTLINES, PRESETS, build, outline
    from minipeft.storage.checkpoint import load_model

    head, classes = head_of(args, args.classes)
    if args.model in OUTLINES:
        if head is not None or args.command != "params":
            raise UsageError(f"{args.model!r} is an outline, for params alone and without --head")
        return outline(args.model)
    if args.model not in PRESETS:
        return load_model(known(args.model), head=head, classes=classes)
    config = PRESETS[args.model]
    if head is not None:
        new: dict[str, Any] = {"classes": classes}
        if config.value("head"):  # a ViT's head is always linear
            new["head"] = head
        config = dataclasses.replace(config, **new)
    return build(config, init="shape")


def _grouped(at: Any) -> list[str]:
    """What trains, the same part of every block in one line."""
    groups: dict[tuple[str, tuple[int, ...]], int] = {}
    for path, p in at.trainable():
        key = re.sub(r"\.\d+\.", ".*.", path), p.shape
        groups[key] = groups.get(key, 0) + 1
    width = max((len(path) for path, _ in groups), default=0)
    return [
        f"  {path:{width}}  {n:3d} x {'x'.join(map(str, shape))}"
        for (path, shape), n in groups.items()
    ]


# -- memory ---------------------------------------------------------------------------------------


def add_memory(command: Command) -> None:
    """minipeft memory"""
    new = command("memory", _memory, "tell what a training step holds and computes",
                  "minipeft memory --model gpt3-175b --method lora --set r=4 \\\n"
                  "      --batch 1 --length 2048")  # fmt: skip
    add_model(new, "a preset, a shipped model's name or a file")
    add_method(new, None)
    new.add_argument("--classes", type=number(2), default=2, help="of --head linear; default 2")
    new.add_argument("--batch", type=number(1), default=16, help="rows; default 16")
    new.add_argument("--length", type=number(1), help="tokens in a row; default up to 128")
    new.add_argument("--optimizer", type=one_of(_optimizers), default="adamw", metavar="NAME",
                     help="adamw (the default), sgd or muon")  # fmt: skip
    new.add_argument("--recompute", action="store_true",
                     help="keep no activations inside blocks; make them again")  # fmt: skip
    new.add_argument("--measure", action="store_true",
                     help="take a real step too, on random weights, and trace it")  # fmt: skip


def _memory(args: argparse.Namespace) -> Result:
    from minipeft import ledger
    from minipeft.contract import attach

    shape = _shape_of(args)
    method = method_of(args) if args.method else None
    step = {"batch": args.batch, "length": args.length, "optimizer": args.optimizer,
            "recompute": args.recompute}  # fmt: skip

    def build(model: Any = None) -> Any:
        if model is None:
            model = type(shape)(shape.config, dtype=shape.parameters()[0].dtype)
        if method:
            attach(model, method)
        return model

    found = ledger.predict(build(shape), **step)
    found.title = f"{args.model} with {described(method)}" if method else args.model
    if args.measure:
        ledger.check_fits(found.predicted["peak"])
        found.compare(ledger.measure(build, **step))
    value = {"model": args.model, "method": args.method}
    value["settings"] = dataclasses.asdict(method) if method else {}
    return value | found.as_dict(), str(found)


def _optimizers() -> Any:
    from minipeft.training.optimizers import OPTIMIZERS

    return OPTIMIZERS
