"""The command `minipeft`. Every command returns a JSON value and the text that tells it.

With --json, stdout holds that one value and nothing else; progress goes to stderr.
Exit codes: 0 done; 1 what was asked for failed; 2 wrong usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minipeft import __version__

Result = tuple[Any, str]
SHOWN = 3  # outputs that finetune prints
LONGEST = 24  # lines of an error message
EXPECTED = (ValueError, OSError, RuntimeError, KeyError, ImportError)  # their text says enough


class UsageError(ValueError):
    """Arguments that do not go together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
            value, text = args.run(args)
        print(json.dumps(value, allow_nan=False) if args.json else text, flush=True)
        return 1 if args.command == "doctor" and value["problems"] else 0
    except UsageError as error:
        print(f"minipeft {args.command}: {error}\nSee: minipeft {args.command} --help",
              file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        print("\nminipeft: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("MINIPEFT_TRACEBACK") == "1":
            raise
        print(f"minipeft {args.command}: {_brief(error)}", file=sys.stderr)
        return 1


def _brief(error: Exception) -> str:
    """An error in one screen."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = (text or "no message").splitlines()
    cut = [*lines[:LONGEST], "…"] if len(lines) > LONGEST else lines
    kind = type(error)
    known = kind.__module__.startswith("minipeft") or issubclass(kind, EXPECTED)
    if not known:
        cut[0] = f"{kind.__name__}: {cut[0]}"
        cut.append("(MINIPEFT_TRACEBACK=1 shows where it happened)")
    return "\n".join(cut)


# -- doctor ---------------------------------------------------------------------------------------


def _doctor(args: argparse.Namespace) -> Result:
    from minipeft.doctor import as_text, doctor

    found = doctor(quiet=True)
    return found, as_text(found)


# -- params ---------------------------------------------------------------------------------------


def _params(args: argparse.Namespace) -> Result:
    from minipeft.methods import attach

    model = _shape_of(args)
    new_head = model.head.num_parameters() if getattr(model.head, "new", False) else 0
    total = model.num_parameters() - new_head
    value: dict[str, Any] = {"model": args.model, "method": None, "settings": {}, "total": total}
    if args.method is None:
        summary = model.summary()
        value["head"] = new_head
        value["parameters"] = [
            {"path": path, "shape": list(shape), "count": n} for path, shape, n, *_ in summary.rows
        ]
        return value, f"{args.model}\n{summary}"
    method = _method(args)
    at = attach(model, method)
    percent = 100 * at.count() / total
    value |= {
        "method": args.method,
        "settings": dataclasses.asdict(method),
        "trainable": at.count(),
        "percent": percent,
        "head": at.count_head(),
    }
    lines = [f"{args.model} with {_described(method)}", *_grouped(at), ""]
    lines += [f"{name:12}{n:>20,}" for name, n in (("total", total), ("trainable", at.count()))]
    lines.append(f"{'percent':12}{percent:>20.4f}")
    if at.count_head():
        lines.append(f"{'new head':12}{at.count_head():>20,}  (trained too, counted apart)")
    return value, "\n".join(lines)


def _shape_of(args: argparse.Namespace) -> Any:
    """A preset's model without its values, or a model file's."""
    from minipeft.checkpoint import load_model
    from minipeft.models import PRESETS, build

    head, classes = _head(args, args.classes)
    if args.model not in PRESETS:
        return load_model(_known(args.model), head=head, classes=classes)
    config = PRESETS[args.model]
    if head is not None:
        new: dict[str, Any] = {"classes": classes}
        if config.value("head"):  # a ViT's head is always linear
            new["head"] = head
        config = dataclasses.replace(config, **new)
    return build(config, init="shape")


def _grouped(at: Any) -> list[str]:
    """What trains, the same part of every block in one line."""
    import re

    groups: dict[tuple[str, tuple[int, ...]], int] = {}
    for path, p in at.trainable():
        key = re.sub(r"\.\d+\.", ".*.", path), p.shape
        groups[key] = groups.get(key, 0) + 1
    width = max(len(path) for path, _ in groups)
    return [
        f"  {path:{width}}  {n:3d} x {'x'.join(map(str, shape))}"
        for (path, shape), n in groups.items()
    ]


# -- memory ---------------------------------------------------------------------------------------


def _memory(args: argparse.Namespace) -> Result:
    from minipeft import ledger
    from minipeft.methods import attach

    shape = _shape_of(args)
    method = _method(args) if args.method else None
    size = {"batch": args.batch, "length": args.length, "optimizer": args.optimizer}

    def build(model: Any = None) -> Any:
        if model is None:
            model = type(shape)(shape.config, dtype=shape.parameters()[0].dtype)
        if method:
            attach(model, method)
        return model

    found = ledger.predict(build(shape), **size)
    found.title = f"{args.model} with {_described(method)}" if method else args.model
    if args.measure:
        ledger.check_fits(found.predicted["peak"])
        found.compare(ledger.measure(build, **size))
    value = {"model": args.model, "method": args.method}
    value["settings"] = dataclasses.asdict(method) if method else {}
    return value | found.as_dict(), str(found)


# -- generate -------------------------------------------------------------------------------------


def _generate(args: argparse.Namespace) -> Result:
    from minipeft.beam import beam_search
    from minipeft.checkpoint import load_model
    from minipeft.generate import generate
    from minipeft.methods import load_adapter

    model = load_model(_known(args.model))
    if args.adapter:
        load_adapter(model, args.adapter)
    if args.beams > 1:
        if args.temperature or args.top_k or args.top_p:
            raise UsageError("--beams looks for the likeliest text: it takes no --temperature, "
                             "--top-k or --top-p")  # fmt: skip
        text, _ = beam_search(model, args.prompt, beams=args.beams, max_tokens=args.max_tokens)[0]
    else:
        text = generate(
            model, args.prompt, max_tokens=args.max_tokens, temperature=args.temperature,
            top_k=args.top_k, top_p=args.top_p, seed=args.seed,
        )  # fmt: skip
    value = {"model": args.model, "adapter": args.adapter, "prompt": args.prompt, "text": text}
    return value, args.prompt + text


# -- inspect, merge -------------------------------------------------------------------------------


def _inspect(args: argparse.Namespace) -> Result:
    from minipeft.inspection import FileReport

    found = FileReport(args.file)
    return found.as_dict(), str(found)


def _merge(args: argparse.Namespace) -> Result:
    from minipeft.checkpoint import load_model, save_model
    from minipeft.methods import load_adapter

    model = load_model(_known(args.model))
    at = load_adapter(model, args.adapter)
    told = _described(at.method)
    report = at.merge(untie=args.untie)
    settings = {"method": at.method.name, **dataclasses.asdict(at.method)}
    card = {"base": model.card, "merged": settings}
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    save_model(model, args.out, card)
    value = {"model": args.model, "adapter": args.adapter, "out": args.out, "rows": report.rows}
    return value, f"{told} merged into {args.model}\n{report}\nwrote {args.out}"


# -- data -----------------------------------------------------------------------------------------


def _data(args: argparse.Namespace) -> Result:
    from minipeft.tasks import TASKS, get_task

    if args.name is None:
        tasks = [get_task(name) for name in TASKS]
        rows = [
            {"task": name, "kind": t.kind, "metric": t.metric, "splits": list(t.splits),
             "patterns": len(t.patterns)}
            for name, t in zip(TASKS, tasks, strict=True)
        ]  # fmt: skip
        lines = [
            f"{name:16} {t.kind:15} {t.metric:9} {len(t.patterns)} patterns; {', '.join(t.splits)}"
            for name, t in zip(TASKS, tasks, strict=True)
        ]
        return rows, "\n".join(lines)
    task = get_task(args.name, args.path)
    examples = task.load(args.split, n=args.n, seed=args.seed, pattern=args.pattern)
    rows = [dataclasses.asdict(e) for e in examples]
    lines = []
    for e in examples:
        lines += [_wrapped("prompt", e.prompt), _wrapped("target", e.target)]
        lines += [_wrapped("options", " |".join(e.options))] if e.options else []
        lines.append("")
    return rows, "\n".join(lines).rstrip()


# -- pretrain -------------------------------------------------------------------------------------


def _pretrain(args: argparse.Namespace) -> Result:
    from minipeft.files import data_dir
    from minipeft.pretrain import pretrain, train_tokenizer
    from minipeft.tasks.world import World

    if args.name == "tokenizer":
        file = args.out or data_dir() / "tokenizer.json"
        tokenizer = train_tokenizer(World(0))
        tokenizer.save(file)
        value = {"name": "tokenizer", "file": str(file), "vocab": tokenizer.vocab_size}
        return value, f"wrote {file}: {tokenizer.vocab_size} tokens"
    file = args.out or data_dir() / "models" / f"{args.name}.safetensors"
    card = pretrain(args.name, file, steps=args.steps, checkpoint=args.checkpoint)
    unit = next(u for u in ("tokens", "pictures") if f"{u}_seen" in card)
    text = (f"wrote {file}: {card[f'{unit}_seen']:,} {unit} seen in {card['hours']} hours, "
            f"validation loss {card['validation_loss']:.4f} nats")  # fmt: skip
    return card | {"file": str(file)}, text


# -- finetune -------------------------------------------------------------------------------------


def _finetune(args: argparse.Namespace) -> Result:
    from minipeft.checkpoint import load_model
    from minipeft.generate import generate_many
    from minipeft.methods import attach
    from minipeft.tasks import get_task
    from minipeft.train import evaluate, fit

    method, task = _method(args), get_task(args.task, args.path)
    if args.save:  # an error here costs less than one after the training
        Path(args.save).parent.mkdir(parents=True, exist_ok=True)
    classify = task.kind == "classification"
    head, classes = _head(args, len(task.patterns[0].words) if classify else None)
    model = load_model(_known(args.model), head=head, classes=classes, seed=args.seed)
    steps = args.steps or (300 if classify else 600)
    judged = args.eval or (None if classify else 100)
    scored = {"split": "validation", "n": judged, "pattern": args.pattern}
    at = attach(model, method)
    print(f"{args.model} on {args.task} with {_described(method)}: {at.count():,} parameters train")
    before = evaluate(model, task, **scored)
    print("before: " + _scores(before))
    began = time.perf_counter()
    history = fit(
        model, task, steps=steps, lr=args.lr, batch=args.batch, seed=args.seed, n=args.n,
        pattern=args.pattern,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    after = evaluate(model, task, **scored)
    outputs = []
    if not classify:
        shown = task.load("validation", n=SHOWN, pattern=args.pattern)
        texts = generate_many(model, [e.prompt for e in shown])
        outputs = [
            {"prompt": e.prompt, "output": text.strip(), "reference": e.target.strip()}
            for e, text in zip(shown, texts, strict=True)
        ]
    if args.save:
        at.save(args.save)
    value = {
        "model": args.model, "task": args.task, "method": args.method,
        "settings": dataclasses.asdict(method), "head": model.config.head,
        "trainable": at.count(), "steps": steps, "lr": max(history.lr), "batch": args.batch,
        "seconds": seconds, "before": before, "after": after, "outputs": outputs,
        "saved": args.save,
    }  # fmt: skip
    return value, _told(value)


def _scores(result: dict[str, float]) -> str:
    """A split's scores in one line."""
    shown = [
        f"{name} {x:.3f}" if name == "loss" else f"{name} {x:.1f}"
        for name, x in result.items()
        if name != "n"
    ]
    return f"{', '.join(shown)}  (on {result['n']:.0f} validation examples)"


def _told(value: dict[str, Any]) -> str:
    """What finetune has to say at the end."""
    lines = [f"after:  {_scores(value['after'])}"]
    lines.append(f"{value['steps']} steps in {value['seconds']:.0f} s")
    for one in value["outputs"]:
        lines.append("")
        for name, text in one.items():
            lines.append(_wrapped(name, text))
    if value["saved"]:
        lines += ["", f"saved to {value['saved']}"]
    return "\n".join(lines)


def _wrapped(name: str, text: str) -> str:
    """A named text, broken into lines that fit."""
    return textwrap.fill(f"{name:11}{text}", 90, subsequent_indent=" " * 11)


def _described(method: Any) -> str:
    """A method's name and the settings that are not its defaults."""
    usual = type(method)()
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    changed = [
        f"{name}={','.join(map(str, x)) if isinstance(x, tuple) else x}"
        for name, x in fields.items()
        if x != getattr(usual, name)
    ]
    return " ".join([method.name, *changed])


# -- compare --------------------------------------------------------------------------------------


def _compare(args: argparse.Namespace) -> Result:
    from minipeft import compare as side
    from minipeft import viz
    from minipeft.methods import METHODS
    from minipeft.tasks import get_task

    figure = Path(args.figure)
    figure.parent.mkdir(parents=True, exist_ok=True)
    names = list(METHODS) if args.all else args.methods or side.DEFAULT
    plan = side.Plan(args.task, _known(args.model), args.path, args.steps, args.batch, args.n)
    workers = side.default_workers()
    print(f"{args.task} with {', '.join(names)}; each {args.steps} steps, seeds: {args.seeds}, "
          f"workers: {workers}")  # fmt: skip
    rows = side.compare(names, plan, seeds=args.seeds, workers=workers)
    metric = get_task(args.task, args.path).metric
    ax = viz.tradeoff(rows, metric=f"{metric} on the test split")
    ax.set_title(f"{args.model} on {args.task}: {args.steps} steps, {args.seeds} seeds")
    viz.save(ax, figure)
    if args.json:
        print(f"figure: {figure}")  # on stderr: the rows alone are the value
    return rows, f"{side.as_text(rows, metric)}\nfigure: {figure}"


# -- lectures -------------------------------------------------------------------------------------


def _lectures(args: argparse.Namespace) -> Result:
    from minipeft import lectures

    if args.html:
        files = lectures.to_html(args.html)
        return files, "\n".join(f"wrote {file}" for file in files)
    if args.open:
        file = lectures.open_one(args.open)
        return {"opened": file}, f"closed {file}"
    if args.run_all:
        done = lectures.run_all()
        return done, "\n".join(f"{one['lecture']:24} {one['seconds']:6.1f} s" for one in done)
    found = lectures.listed()
    lines = [f"{one['number']}  {one['title']}" for one in found]
    return found, "\n".join([*lines, "", "minipeft lectures --open NUMBER opens one"])


# -- arguments ------------------------------------------------------------------------------------


def _method(args: argparse.Namespace) -> Any:
    """The method that --method and --set describe."""
    from minipeft.methods import get_method

    try:
        return get_method(args.method).from_fields(dict(args.set or []))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _head(args: argparse.Namespace, classes: int | None) -> tuple[str | None, int | None]:
    """The head asked for and its number of classes; None, None for what the file holds."""
    if args.head != "linear":
        return None, None
    if classes is None:
        raise UsageError("--head linear is for classification")
    return "linear", classes


def _known(model: str) -> str:
    """A model's name or path; a name that nobody knows is wrong usage."""
    from minipeft.checkpoint import shipped_models
    from minipeft.models import PRESETS
    from minipeft.tasks.base import nearest

    names = shipped_models()
    if model in names or Path(model).exists() or "." in model or os.sep in model:
        return model
    there = f"models with weights: {', '.join(names) or 'none'}, or a file"
    if model in PRESETS:
        raise UsageError(f"{model!r} is known by its sizes alone, for params and memory; {there}")
    raise UsageError(f"no model {model!r}{nearest(model, [*names, *PRESETS])}; {there}; "
                     f"sizes alone, for params: {', '.join(PRESETS)}")  # fmt: skip


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE, got {text!r}")
    return name, value


def _number(low: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
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


def _one_of(table: Callable[[], Any]) -> Callable[[str], str]:
    """A parser of names; `table` is looked up only when there is a name to check."""

    def parse(text: str) -> str:
        names = list(table())
        if text not in names:
            from minipeft.tasks.base import nearest

            hint = nearest(text, names)
            raise argparse.ArgumentTypeError(f"no {text!r}{hint}; there are {', '.join(names)}")
        return text

    return parse


def _methods() -> Any:
    from minipeft.methods import METHODS

    return METHODS


def _tasks() -> Any:
    from minipeft.tasks import TASKS

    return TASKS


def _optimizers() -> Any:
    from minipeft.optim import OPTIMIZERS

    return OPTIMIZERS


def _recipes() -> Any:
    from minipeft.pretrain import RECIPES

    return [*RECIPES, "tokenizer"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minipeft", description="Parameter-efficient fine-tuning, to read and to try.",
        allow_abbrev=False, epilog="minipeft COMMAND --help tells more, with an example.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"minipeft {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., Result], does: str, example: str) -> Any:
        new = commands.add_parser(
            name, help=does, description=f"{does[0].upper()}{does[1:]}.", allow_abbrev=False,
            epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        new.add_argument("--json", action="store_true", help="print one JSON value, nothing else")
        new.set_defaults(run=run)
        return new

    def model(new: Any, what: str = "a shipped model's name or a file") -> None:
        new.add_argument("--model", default="tiny-gpt", metavar="NAME|PATH",
                         help=f"{what}; default tiny-gpt")  # fmt: skip

    def method(new: Any, default: str | None) -> None:
        told = f"; default {default}" if default else ""
        new.add_argument("--method", type=_one_of(_methods), default=default, metavar="NAME",
                         help=f"full, topk, bitfit, lora, …{told}")  # fmt: skip
        new.add_argument("--set", type=_setting, nargs="+", action="extend", metavar="NAME=VALUE",
                         help="the method's settings; commas separate several values")  # fmt: skip
        new.add_argument("--head", choices=("lm", "linear"), default="lm",
                         help="linear: a new classifier, its parameters counted apart")  # fmt: skip

    def task(new: Any, steps: int | None, told: str) -> None:
        new.add_argument("--task", type=_one_of(_tasks), default="sentiment", metavar="NAME",
                         help="sentiment (the default), table-to-text, truth, e2e, …")  # fmt: skip
        new.add_argument("--path", metavar="DIR", help="the folder of a real data set (e2e)")
        new.add_argument("--steps", type=_number(1), default=steps, help=f"default {told}")
        new.add_argument("--batch", type=_number(1), default=16, help="default 16")

    command("doctor", _doctor, "tell what this machine has and what would make it faster",
            "minipeft doctor")  # fmt: skip

    new = command("pretrain", _pretrain, "make a shipped base model, or the tokenizer, anew",
                  "minipeft pretrain tiny-gpt --out runs/mine.safetensors --steps 500")  # fmt: skip
    new.add_argument(
        "name", type=_one_of(_recipes), metavar="NAME", help="tiny-gpt, …, or tokenizer"
    )
    new.add_argument("--out", metavar="FILE", help="default: the shipped file's place")
    new.add_argument("--steps", type=_number(1), help="fewer than the recipe's, for a trial")
    new.add_argument("--checkpoint", metavar="FILE", help="save the state here, and go on from it")

    new = command("finetune", _finetune, "fine-tune a model on a task, scored before and after",
                  "minipeft finetune --task sentiment --method lora --set r=4 alpha=8 \\\n"
                  "      targets=q_proj,v_proj --save runs/lora.safetensors")  # fmt: skip
    model(new)
    method(new, "lora")
    task(new, None, "300; for generation 600")
    new.add_argument("--n", type=_number(1), help="training examples; default: the task's")
    new.add_argument("--lr", type=_number(0, float), help="default: the method's own")
    new.add_argument("--pattern", type=_number(0), default=0, help="which wording; default 0")
    new.add_argument("--eval", type=_number(1), metavar="N",
                     help="validation examples; default 100 for generation, else all")  # fmt: skip
    new.add_argument("--seed", type=_number(0), default=0, help="default 0")
    new.add_argument("--save", metavar="FILE", help="write the trained adapter here")

    new = command("compare", _compare, "fine-tune with many methods and put them side by side",
                  "minipeft compare --methods full,lora --steps 50")  # fmt: skip
    model(new)
    task(new, 150, "150")
    new.add_argument("--methods", type=lambda text: [_one_of(_methods)(m) for m in text.split(",")],
                     metavar="A,B", help="default: about ten")  # fmt: skip
    new.add_argument("--all", action="store_true", help="every method there is")
    new.add_argument("--seeds", type=_number(1), default=3, help="runs of each; default 3")
    new.add_argument("--n", type=_number(1), default=1000, help="training examples; default 1000")
    new.add_argument("--figure", metavar="FILE", default=str(Path("runs", "compare.png")),
                     help="score against size; default runs/compare.png")  # fmt: skip

    new = command(
        "generate",
        _generate,
        "continue a prompt",
        "minipeft generate 'People say' --temperature 0.8 --top-p 0.9",
    )
    new.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    model(new)
    new.add_argument("--adapter", metavar="FILE", help="a file that finetune --save wrote")
    new.add_argument("--max-tokens", type=_number(1), default=64, help="default 64")
    new.add_argument("--temperature", type=_number(0, float), default=0.0,
                     help="0, the default, takes the likeliest token")  # fmt: skip
    new.add_argument("--top-k", type=_number(1), help="sample among the k likeliest tokens")
    new.add_argument("--top-p", type=_number(0, float), help="sample among the likeliest up to p")
    new.add_argument("--beams", type=_number(1), default=1,
                     help="keep so many texts and print the likeliest")  # fmt: skip
    new.add_argument("--seed", type=_number(0), default=0, help="default 0")

    new = command("inspect", _inspect, "tell what a file holds: a model, an adapter, a run's state",
                  "minipeft inspect runs/lora.safetensors")  # fmt: skip
    new.add_argument("file", metavar="FILE", help="a safetensors file")

    new = command("merge", _merge, "write a model with an adapter merged into its weights",
                  "minipeft merge runs/lora.safetensors --out runs/merged.safetensors")  # fmt: skip
    new.add_argument("adapter", metavar="ADAPTER", help="a file that finetune --save wrote")
    model(new)
    new.add_argument("--out", metavar="FILE", required=True, help="the merged model")
    new.add_argument("--untie", action="store_true", help="allow a merge at one end of a tie")

    new = command("data", _data, "list the tasks, or show examples of one",
                  "minipeft data nli --split test --n 3")  # fmt: skip
    new.add_argument("name", nargs="?", type=_one_of(_tasks), metavar="TASK", help="default: list")
    new.add_argument("--path", metavar="DIR", help="the folder of a real data set (e2e)")
    new.add_argument("--split", default="train", help="default train")
    new.add_argument("--n", type=_number(1), default=5, help="examples; default 5")
    new.add_argument("--pattern", type=_number(0), default=0, help="which wording; default 0")
    new.add_argument("--seed", type=_number(0), default=0, help="default 0")

    new = command("params", _params, "count a model's parameters, and those that a method trains",
                  "minipeft params --model gpt3-175b --method lora --set r=4 \\\n"
                  "      targets=q_proj,v_proj --json")  # fmt: skip
    model(new, "a preset, a shipped model's name or a file")
    method(new, None)
    new.add_argument("--classes", type=_number(2), default=2, help="of --head linear; default 2")

    new = command("memory", _memory, "tell what a training step holds and computes",
                  "minipeft memory --model gpt3-175b --method lora --set r=4 \\\n"
                  "      --batch 1 --length 2048")  # fmt: skip
    model(new, "a preset, a shipped model's name or a file")
    method(new, None)
    new.add_argument("--classes", type=_number(2), default=2, help="of --head linear; default 2")
    new.add_argument("--batch", type=_number(1), default=16, help="rows; default 16")
    new.add_argument("--length", type=_number(1), help="tokens in a row; default up to 128")
    new.add_argument("--optimizer", type=_one_of(_optimizers), default="adamw", metavar="NAME",
                     help="adamw (the default), sgd or muon")  # fmt: skip
    new.add_argument("--measure", action="store_true",
                     help="take a real step too, on random weights, and trace it")  # fmt: skip

    new = command("lectures", _lectures, "list, open, run or print the lectures",
                  "minipeft lectures --open 08")  # fmt: skip
    what = new.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="the default")
    what.add_argument("--open", metavar="NUMBER", help="in Jupyter")
    what.add_argument("--run", dest="run_all", action="store_true", help="all, top to bottom")
    what.add_argument("--html", metavar="DIR", help="as web pages, in this folder")
    return parser
