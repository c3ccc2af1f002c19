"""The commands that use what was trained: an answer to a prompt, a score on a task."""

from __future__ import annotations

import argparse
from typing import Any

from minipeft.cli.answers import answers, base_answers, shown
from minipeft.cli.arguments import (
    Command,
    Result,
    UsageError,
    add_model,
    add_own,
    add_task,
    number,
    task_named,
    task_of,
    tasks,
    words_of,
    wrapped,
)
from minipeft.cli.recorded import asked, opened, without_new_head
from minipeft.display.table import Table

MAX_TOKENS = 64

# -- generate -------------------------------------------------------------------------------------


def add_generate(command: Command) -> None:
    """minipeft generate"""
    new = command(
        "generate",
        _generate,
        "continue a prompt, or answer it with an adapter, beside the base",
        "minipeft generate 'People say' --temperature 0.8 --top-p 0.9",
    )
    new.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    add_model(new, default=None)
    new.add_argument("--adapter", metavar="FILE", help="a file that finetune --save wrote: prompts "
                     "get the form of those that it was trained on, and of a classification one "
                     "of its options is the answer")  # fmt: skip
    new.add_argument("--text", action="store_true",
                     help="continue the prompt as it stands, also with such an adapter; so does "
                     "every option below")  # fmt: skip
    new.add_argument("--max-tokens", type=number(1), help=f"default {MAX_TOKENS}")
    new.add_argument("--temperature", type=number(0, float), default=0.0,
                     help="0, the default, takes the likeliest token")  # fmt: skip
    new.add_argument("--top-k", type=number(1), help="sample among the k likeliest tokens")
    new.add_argument("--top-p", type=number(0, float), help="sample among the likeliest up to p")
    new.add_argument("--beams", type=number(1), default=1,
                     help="keep so many texts and print the likeliest")  # fmt: skip
    new.add_argument("--seed", type=number(0), help="of the sampling; default 0")


def _generate(args: argparse.Namespace) -> Result:
    from minipeft.methods import load_adapter
    from minipeft.tasks import Example

    sampled = args.temperature or args.top_k or args.top_p
    if args.beams > 1 and sampled:
        raise UsageError("--beams looks for the likeliest text: it takes no --temperature, "
                         "--top-k or --top-p")  # fmt: skip
    args.busy("loading the model")
    model, name, told = opened(args)
    value: dict[str, Any] = {"model": name, "adapter": args.adapter, "prompt": args.prompt}
    own = (args.max_tokens, args.seed, sampled or None)
    free = args.text or args.beams > 1 or any(x is not None for x in own)
    options = () if free else tuple(told.get("options", ()))
    _check_speaks(model, name, args, free, bool(options))
    prompt = args.prompt if free else asked(args.prompt, told)
    linear = model.config.head == "linear"
    args.busy("generating")
    if not args.adapter:
        text = _text(args, model, prompt)
        return value | {"text": text}, args.prompt + text
    stored, base = without_new_head(model, name), None
    chooses = bool(options) or linear
    example = Example(prompt, options[0] if options else " ", options, 0)
    if options:
        base = base_answers(stored, [example], options)[0]
    elif stored.config.head == "lm":
        base = {"text": _text(args, stored, prompt), "probability": None}
    load_adapter(model, args.adapter)
    tuned = (answers(model, [example], options)[0] if chooses else
             {"text": _text(args, model, prompt), "probability": None})  # fmt: skip
    value |= {"asked": prompt, "text": tuned["text"], "base": base, "tuned": tuned}
    lines = [("prompt", prompt), ("base", shown(base)), ("tuned", shown(tuned))]
    return value, "\n".join(wrapped(name, text.strip()) for name, text in lines)


def _text(args: argparse.Namespace, model: Any, prompt: str) -> str:
    """The text that follows a prompt."""
    from minipeft.generation.beams import beam_search
    from minipeft.generation.sampling import generate

    most = args.max_tokens or MAX_TOKENS
    if args.beams > 1:
        return beam_search(model, prompt, beams=args.beams, max_tokens=most)[0][0]
    return generate(
        model, prompt, max_tokens=most, temperature=args.temperature, top_k=args.top_k,
        top_p=args.top_p, seed=args.seed or 0,
    )  # fmt: skip


def _check_speaks(
    model: Any, name: str, args: argparse.Namespace, free: bool, chooses: bool
) -> None:
    """Say why a model that writes no text does not, and what can be done with it."""
    adapter = f" --adapter {args.adapter}" if args.adapter else f" --model {name}"
    score = f"minipeft evaluate{adapter} scores it on a task"
    if hasattr(model.config, "image"):
        raise UsageError(f"{name} reads pictures and writes no text; {score}")
    if model.config.head == "mlm" and not chooses:
        raise UsageError(f"{name} is a BERT, which fills gaps and cannot continue a text; {score}")
    if model.config.head == "linear" and (free or not args.adapter):
        raise UsageError(f"this is a classifier (head linear): it chooses a class and writes no "
                         f"text; {score}")  # fmt: skip


# -- evaluate -------------------------------------------------------------------------------------


def add_evaluate(command: Command) -> None:
    """minipeft evaluate"""
    new = command("evaluate", _evaluate, "score a model on a task, and beside it with an adapter",
                  "minipeft evaluate --adapter runs/lora.safetensors --split test")  # fmt: skip
    add_model(new, default=None)
    new.add_argument("--adapter", metavar="FILE", help="a file that finetune --save wrote; it "
                     "knows its model and its task")  # fmt: skip
    add_task(new)
    add_own(new)
    new.add_argument("--split", default="validation", help="default validation")
    new.add_argument("--n", type=number(1), help="examples; default: 100 for generation, else all")
    new.add_argument("--pattern", type=number(0), help="which wording; default 0, or the adapter's")
    new.add_argument("--batch", type=number(1), default=64, help="default 64")


def _evaluate(args: argparse.Namespace) -> Result:
    from minipeft.methods import load_adapter
    from minipeft.training.evaluation import evaluate

    args.busy("loading the model")
    model, name, told = opened(args)
    task = task_of(args, name, told)
    recorded = told.get("pattern", 0) if task.name == told.get("task") else 0
    pattern = recorded if args.pattern is None else args.pattern
    n = args.n or default_n(task, args.split)
    asked = {"split": args.split, "n": n, "pattern": pattern, "batch": args.batch}
    args.busy("making the task's data")
    task.load(args.split, n=n, pattern=pattern)
    base, tuned, classes = None, None, (None, len(words_of(task)) or None)
    if model.config.value("classes") not in classes:
        whose = f"{args.adapter} was trained for" if args.adapter else f"{name} has"
        has, n = classes[1] or "other options in each example", model.config.classes
        hint = "" if args.adapter else "; minipeft finetune gives it another head"
        raise UsageError(f"{whose} {n} classes, {task.name} has {has}{hint}. Tasks with {n}: "
                         f"{', '.join(_with_classes(n)) or 'none'}")  # fmt: skip
    stored = without_new_head(model, name)
    if stored.config.value("classes") in classes:
        args.busy("scoring the base")
        base = evaluate(stored, task, **asked)
    if args.adapter:
        load_adapter(model, args.adapter)
        args.busy("scoring the tuned model")
        tuned = evaluate(model, task, **asked)
    both = [(k, r) for k, r in (("base", base), ("tuned", tuned)) if r is not None]
    count = both[0][1]["n"]
    value = {"model": name, "adapter": args.adapter, "task": task.name, "split": args.split,
             "n": int(count), "pattern": pattern, "metric": task.metric, "base": base,
             "tuned": tuned}  # fmt: skip
    metrics = list(dict.fromkeys(k for _, r in both for k in r if k != "n"))
    rows = [
        [k, *(f"{r[m]:.3f}" if m == "loss" else f"{r[m]:.1f}" for m in metrics)] for k, r in both
    ]
    if args.adapter and base is None:
        rows.insert(0, ["base", *["-"] * len(metrics)])
    head = f"{name} on {task.name}, split {args.split}, {count:.0f} examples"
    return value, Table(("", *metrics), rows, "lr", head).text()


def _with_classes(n: int) -> list[str]:
    """The tasks with so many classes."""
    return [name for name in tasks() if len(words_of(task_named(name))) == n]


def default_n(task: Any, split: str) -> int | None:
    """How many examples are scored unless told: generating text takes long."""
    if task.kind != "generation" or split not in task.splits:
        return None
    return min(100, task.sizes[task.splits.index(split)]) or None
