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
    known,
    number,
    one_of,
    tasks,
    wrapped,
)

POLICIES = ("refuse", "dequantize", "requantize")  # as merge() has them

# -- merge ----------------------------------------------------------------------------------------


def add_merge(command: Command) -> None:
    """minipeft merge"""
    new = command("merge", _merge, "write a model with an adapter merged into its weights",
                  "minipeft merge runs/lora.safetensors --out runs/merged.safetensors")  # fmt: skip
    new.add_argument("adapter", metavar="ADAPTER", help="a file that finetune --save wrote")
    add_model(new)
    new.add_argument("--out", metavar="FILE", required=True, help="the merged model")
    new.add_argument("--untie", action="store_true", help="allow a merge at one end of a tie")
    new.add_argument("--quantized", choices=POLICIES, default=POLICIES[0],
                     help="what to do where the weights are codes; default refuse")  # fmt: skip


def _merge(args: argparse.Namespace) -> Result:
    from minipeft.checkpoint import load_model, save_model
    from minipeft.methods import load_adapter

    model = load_model(known(args.model))
    at = load_adapter(model, args.adapter)
    told = described(at.method)
    report = at.merge(untie=args.untie, quantized=args.quantized)
    settings = {"method": at.method.name, **dataclasses.asdict(at.method)}
    card = {"base": model.card, "merged": settings}
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    save_model(model, args.out, card)
    value = {"model": args.model, "adapter": args.adapter, "out": args.out, "rows": report.rows}
    return value, f"{told} merged into {args.model}\n{report}\nwrote {args.out}"


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
    from minipeft.fetch import SETS

    return list(SETS)


def _data(args: argparse.Namespace) -> Result:
    if args.name == "fetch":
        return _fetched(args)
    if args.set:
        raise UsageError(f"a set is for fetching: minipeft data fetch {args.set}")
    return _tasks() if args.name is None else _examples(args)


def _tasks() -> Result:
    """All tasks of text."""
    from minipeft.tasks import TASKS, get_task

    found = [get_task(name) for name in TASKS]
    rows = [
        {"task": name, "kind": t.kind, "metric": t.metric, "splits": list(t.splits),
         "patterns": len(t.patterns)}
        for name, t in zip(TASKS, found, strict=True)
    ]  # fmt: skip
    lines = [
        f"{name:16} {t.kind:15} {t.metric:9} {len(t.patterns)} patterns; {', '.join(t.splits)}"
        for name, t in zip(TASKS, found, strict=True)
    ]
    return rows, "\n".join(lines)


def _examples(args: argparse.Namespace) -> Result:
    """Examples of a task."""
    from minipeft.tasks import get_task

    task = get_task(args.name, args.path)
    examples = task.load(args.split, n=args.n, seed=args.seed, pattern=args.pattern)
    rows = [dataclasses.asdict(e) for e in examples]
    lines = []
    for e in examples:
        lines += [wrapped("prompt", e.prompt), wrapped("target", e.target)]
        lines += [wrapped("options", " |".join(e.options))] if e.options else []
        lines.append("")
    return rows, "\n".join(lines).rstrip()


def _fetched(args: argparse.Namespace) -> Result:
    """A published set from its home, or the list of them."""
    from minipeft.fetch import SETS, fetch

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
    rows = fetch(args.set, args.path)
    lines = [
        f"{r['file']}: {r['bytes']:,} bytes, {'fetched' if r['fetched'] else 'was there'}, checked"
        for r in rows
    ]
    return rows, "\n".join(lines)
