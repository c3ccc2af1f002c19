"""The commands that train a model, and the one that lets it speak."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
import time
from pathlib import Path
from typing import Any

from minipeft.cli.arguments import (
    Command,
    Result,
    UsageError,
    add_method,
    add_model,
    add_task,
    described,
    head_of,
    known,
    method_of,
    methods,
    number,
    one_of,
    wrapped,
)

SHOWN = 3  # outputs that finetune prints

# -- pretrain -------------------------------------------------------------------------------------


def add_pretrain(command: Command) -> None:
    """minipeft pretrain"""
    new = command("pretrain", _pretrain, "make a shipped base model, or the tokenizer, anew",
                  "minipeft pretrain tiny-gpt --out runs/mine.safetensors --steps 500")  # fmt: skip
    new.add_argument(
        "name", type=one_of(_recipes), metavar="NAME", help="tiny-gpt, …, or tokenizer"
    )
    new.add_argument("--out", metavar="FILE", help="default: the shipped file's place")
    new.add_argument("--steps", type=number(1), help="fewer than the recipe's, for a trial")
    new.add_argument("--checkpoint", metavar="FILE", help="save the state here, and go on from it")


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


def _recipes() -> Any:
    from minipeft.pretrain import RECIPES

    return [*RECIPES, "tokenizer"]


# -- finetune -------------------------------------------------------------------------------------


def add_finetune(command: Command) -> None:
    """minipeft finetune"""
    new = command("finetune", _finetune, "fine-tune a model on a task, scored before and after",
                  "minipeft finetune --task sentiment --method lora --set r=4 alpha=8 \\\n"
                  "      targets=q_proj,v_proj --save runs/lora.safetensors")  # fmt: skip
    add_model(new)
    add_method(new, "lora")
    add_task(new, None, "300; for generation 600")
    new.add_argument("--n", type=number(1), help="training examples; default: the task's")
    new.add_argument("--lr", type=number(0, float), help="default: the method's own")
    new.add_argument("--pattern", type=number(0), default=0, help="which wording; default 0")
    new.add_argument("--eval", type=number(1), metavar="N",
                     help="validation examples; default 100 for generation, else all")  # fmt: skip
    new.add_argument("--seed", type=number(0), default=0, help="default 0")
    new.add_argument("--save", metavar="FILE", help="write the trained adapter here")


def _finetune(args: argparse.Namespace) -> Result:
    from minipeft.checkpoint import load_model
    from minipeft.generate import generate_many
    from minipeft.methods import attach
    from minipeft.tasks import get_task
    from minipeft.train import evaluate, fit

    method, task = method_of(args), get_task(args.task, args.path)
    if args.save:  # an error here costs less than one after the training
        Path(args.save).parent.mkdir(parents=True, exist_ok=True)
    classify = task.kind == "classification"
    head, classes = head_of(args, len(task.patterns[0].words) if classify else None)
    model = load_model(known(args.model), head=head, classes=classes, seed=args.seed)
    steps = args.steps or (300 if classify else 600)
    judged = args.eval or (None if classify else 100)
    scored = {"split": "validation", "n": judged, "pattern": args.pattern}
    at = attach(model, method)
    print(f"{args.model} on {args.task} with {described(method)}: {at.count():,} parameters train")
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
        "model": args.model, "task": args.task, "metric": task.metric, "method": args.method,
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
            lines.append(wrapped(name, text))
    if value["saved"]:
        lines += ["", f"saved to {value['saved']}"]
    return "\n".join(lines)


# -- compare --------------------------------------------------------------------------------------


def add_compare(command: Command) -> None:
    """minipeft compare"""
    new = command("compare", _compare, "fine-tune with many methods and put them side by side",
                  "minipeft compare --methods full,lora --steps 50")  # fmt: skip
    add_model(new)
    add_task(new, 150, "150")
    new.add_argument("--methods", type=lambda text: [one_of(methods)(m) for m in text.split(",")],
                     metavar="A,B", help="default: about ten")  # fmt: skip
    new.add_argument("--all", action="store_true", help="every method there is")
    new.add_argument("--seeds", type=number(1), default=3, help="runs of each; default 3")
    new.add_argument("--n", type=number(1), default=1000, help="training examples; default 1000")
    new.add_argument("--figure", metavar="FILE", default=str(Path("runs", "compare.png")),
                     help="score against size; default runs/compare.png")  # fmt: skip


def _compare(args: argparse.Namespace) -> Result:
    from minipeft import compare as side
    from minipeft import viz
    from minipeft.methods import METHODS
    from minipeft.tasks import get_task

    figure = Path(args.figure)
    figure.parent.mkdir(parents=True, exist_ok=True)
    names = list(METHODS) if args.all else args.methods or side.DEFAULT
    plan = side.Plan(args.task, known(args.model), args.path, args.steps, args.batch, args.n)
    workers = side.default_workers()
    print(textwrap.fill(
        f"{args.task} with {', '.join(names)}; each {args.steps} steps, seeds: {args.seeds}, "
        f"workers: {workers}", 80, break_on_hyphens=False))  # fmt: skip
    rows = side.compare(names, plan, seeds=args.seeds, workers=workers)
    metric = get_task(args.task, args.path).metric
    ax = viz.tradeoff(rows, metric=f"{metric} on the test split")
    ax.set_title(f"{args.model} on {args.task}: {args.steps} steps, {args.seeds} seeds")
    viz.save(ax, figure)
    if args.json:
        print(f"figure: {figure}")  # on stderr: the rows alone are the value
    return rows, f"{side.as_text(rows, metric)}\nfigure: {figure}"


# -- generate -------------------------------------------------------------------------------------


def add_generate(command: Command) -> None:
    """minipeft generate"""
    new = command(
        "generate",
        _generate,
        "continue a prompt",
        "minipeft generate 'People say' --temperature 0.8 --top-p 0.9",
    )
    new.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    add_model(new)
    new.add_argument("--adapter", metavar="FILE", help="a file that finetune --save wrote")
    new.add_argument("--max-tokens", type=number(1), default=64, help="default 64")
    new.add_argument("--temperature", type=number(0, float), default=0.0,
                     help="0, the default, takes the likeliest token")  # fmt: skip
    new.add_argument("--top-k", type=number(1), help="sample among the k likeliest tokens")
    new.add_argument("--top-p", type=number(0, float), help="sample among the likeliest up to p")
    new.add_argument("--beams", type=number(1), default=1,
                     help="keep so many texts and print the likeliest")  # fmt: skip
    new.add_argument("--seed", type=number(0), default=0, help="default 0")


def _generate(args: argparse.Namespace) -> Result:
    from minipeft.beam import beam_search
    from minipeft.checkpoint import load_model
    from minipeft.generate import generate
    from minipeft.methods import load_adapter

    model = load_model(known(args.model))
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
