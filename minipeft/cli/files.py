"""The commands on files: adapters merged into models, and the tasks' data."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from minipeft.cli.arguments import (
    Command,
    Result,
    UsageError,
    add_model,
    described,
    file_of,
    number,
    one_of,
    target,
    task_named,
    tasks,
    wrapped,
)
from minipeft.cli.recorded import opened
from minipeft.display.table import Table

SHADES = " .:-=+*#%@"  # of a picture, dark to light
POLICIES = ("refuse", "dequantize", "requantize")  # as merge() has them

# -- merge ----------------------------------------------------------------------------------------


def add_merge(command: Command) -> None:
    """minipeft merge"""
    new = command("merge", _merge, "write a model with an adapter merged into its weights",
                  "minipeft merge runs/lora.safetensors --out runs/merged.safetensors")  # fmt: skip
    new.add_argument("adapter", metavar="ADAPTER", help="a file that finetune --save wrote")
    add_model(new, default=None)
    new.add_argument("--out", metavar="FILE", required=True, help="the merged model")
    new.add_argument("--untie", action="store_true", help="allow a merge at one end of a tie")
    new.add_argument("--quantized", choices=POLICIES, default=POLICIES[0],
                     help="what to do where the weights are codes; default refuse")  # fmt: skip


def _merge(args: argparse.Namespace) -> Result:
    from minipeft.methods import load_adapter
    from minipeft.storage.checkpoint import save_model

    adapter = (
        args.adapter if Path(args.adapter).is_file() else None
    )  # opened tells if there is none
    out = target(args.out, "--out", adapter=adapter)
    args.busy("loading the model")
    model, name, _ = opened(args)
    target(args.out, "--out", base_model=file_of(name))
    at = load_adapter(model, args.adapter)
    told = described(at.method)
    args.busy("merging")
    report = at.merge(untie=args.untie, quantized=args.quantized)
    settings = {"method": at.method.name, **dataclasses.asdict(at.method)}
    save_model(model, out, {"base": model.card, "merged": settings})
    value = {"model": name, "adapter": args.adapter, "out": args.out, "rows": report.rows}
    return value, f"{told} merged into {name}\n{report}\nwrote {args.out}"


# -- data -----------------------------------------------------------------------------------------


def add_data(command: Command) -> None:
    """minipeft data"""
    new = command("data", _data, "list the tasks, show examples of one, or fetch a published set",
                  "minipeft data nli --split test --n 3")  # fmt: skip
    new.add_argument("name", nargs="?", type=one_of(_names), metavar="TASK|fetch",
                     help="default: list the tasks")  # fmt: skip
    new.add_argument("set", nargs="?", type=one_of(_sets), metavar="SET",
                     help="what to fetch; default: list the published sets")  # fmt: skip
    new.add_argument("--path", metavar="DIR", help="the folder of a real data set (e2e, mnist)")
    new.add_argument("--split", default="train", help="default train")
    new.add_argument("--n", type=number(1), default=5, help="examples; default 5")
    new.add_argument("--pattern", type=number(0), default=0, help="which wording; default 0")
    new.add_argument("--seed", type=number(0), default=0, help="default 0")


def _names() -> list[str]:
    return [*tasks(), "fetch"]


def _sets() -> list[str]:
    from minipeft.storage.fetch import SETS

    return list(SETS)


def _data(args: argparse.Namespace) -> Result:
    if args.name == "fetch":
        return _fetched(args)
    if args.set:
        raise UsageError(f"a set is for fetching: minipeft data fetch {args.set}")
    return _tasks() if args.name is None else _examples(args)


def _tasks() -> Result:
    """All tasks, those on text first."""
    found = [task_named(name) for name in tasks()]
    rows = [
        {"task": t.name, "kind": t.kind, "metric": t.metric, "splits": list(t.splits),
         "patterns": len(t.patterns) if t.kind != "images" else 1}
        for t in found
    ]  # fmt: skip
    cells = [
        (r["task"], r["kind"], r["metric"], r["patterns"], ", ".join(r["splits"])) for r in rows
    ]
    names = ("task", "kind", "metric", "patterns", "splits")
    closing = "\nminipeft data TASK shows examples of one"
    return rows, Table(names, cells, closing=closing).text()


def _examples(args: argparse.Namespace) -> Result:
    """Examples of a task."""
    args.busy("making the task's data")
    task = task_named(args.name, args.path)
    examples = task.load(args.split, n=args.n, seed=args.seed, pattern=args.pattern)
    if task.kind == "images":
        return _pictures(task, examples)
    rows = [dataclasses.asdict(e) for e in examples]
    for row in rows:
        del row["pair"]  # the prompt holds both
    lines = []
    for e in examples:
        lines += [wrapped("prompt", e.prompt), wrapped("target", e.target)]
        lines += [wrapped("options", " |".join(e.options))] if e.options else []
        lines.append("")
    return rows, "\n".join(lines).rstrip()


def _pictures(task: Any, images: Any) -> Result:
    """Pictures of a task, drawn with letters, each with its class."""
    named = [(p.pixels, p.label, task.classes[p.label]) for p in images]
    rows = [{"class": name, "label": label, "pixels": pixels[0].tolist()}
            for pixels, label, name in named]  # fmt: skip
    lines = []
    for pixels, _, name in named:
        shades = (pixels[0] * (len(SHADES) - 1)).round().astype(int).tolist()
        lines += [name, *("".join(2 * SHADES[s] for s in row).rstrip() for row in shades), ""]
    return rows, "\n".join(lines).rstrip()


def _fetched(args: argparse.Namespace) -> Result:
    """A published set from its home, or the list of them."""
    from minipeft.storage.fetch import SETS, fetch

    if args.set is None:
        rows: list[dict[str, Any]] = [
            {"set": name, "what": one.what, "licence": one.licence,
             "bytes": sum(file.size for file in one.files)}
            for name, one in SETS.items()
        ]  # fmt: skip
        lines = [
            f"{r['set']:6} {r['what']} ({r['licence']}); {r['bytes'] / 1e6:.0f} MB unpacked"
            for r in rows
        ]
        return rows, "\n".join(lines)
    args.busy(f"fetching {args.set}, or checking what is there")
    rows = fetch(args.set, args.path)
    lines = [
        f"{r['file']}: {r['bytes']:,} bytes, {'fetched' if r['fetched'] else 'was there'}, checked"
        for r in rows
    ]
    return rows, "\n".join(lines)
