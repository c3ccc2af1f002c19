"""The commands that train: a base model, an adapter, many methods side by side."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import textwrap
import time
from pathlib import Path
from typing import Any

from minipeft.cli.answers import answers, base_answers, shown
from minipeft.cli.arguments import (
    DEFAULT_TASKS,
    WIDTH,
    Command,
    Result,
    UsageError,
    add_method,
    add_model,
    add_own,
    add_task,
    add_training,
    described,
    file_of,
    fitting,
    head_of,
    known,
    method_of,
    methods,
    number,
    one_of,
    reads_pictures,
    target,
    task_named,
    task_of,
    words_of,
    wrapped,
)
from minipeft.cli.recorded import card, without_new_head
from minipeft.cli.speaking import default_n

SHOWN = 3  # held-out examples that finetune prints

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
    from minipeft.corpus.pretraining import pretrain, train_tokenizer
    from minipeft.storage.files import data_dir
    from minipeft.world.town import World

    shipped = "tokenizer.json" if args.name == "tokenizer" else f"models/{args.name}.safetensors"
    file = target(str(data_dir() / shipped) if args.out is None else args.out, "--out")
    if args.checkpoint is not None:
        target(args.checkpoint, "--checkpoint", out=file)
    args.busy("making the text and learning its tokens" if args.name == "tokenizer"
              else "making what the model reads")  # fmt: skip
    if args.name == "tokenizer":
        tokenizer = train_tokenizer(World(0))
        tokenizer.save(file)
        value = {"name": "tokenizer", "file": str(file), "vocab": tokenizer.vocab_size}
        return value, f"wrote {file}: {tokenizer.vocab_size} tokens"
    card = pretrain(args.name, file, steps=args.steps, checkpoint=args.checkpoint)
    unit = next(u for u in ("tokens", "pictures") if f"{u}_seen" in card)
    text = (f"wrote {file}: {card[f'{unit}_seen']:,} {unit} seen in {card['hours']} hours, "
            f"validation loss {card['validation_loss']:.4f} nats")  # fmt: skip
    return card | {"file": str(file)}, text


def _recipes() -> Any:
    from minipeft.corpus.pretraining import RECIPES

    return [*RECIPES, "tokenizer"]


# -- finetune -------------------------------------------------------------------------------------


def add_finetune(command: Command) -> None:
    """minipeft finetune"""
    new = command("finetune", _finetune, "fine-tune a model on a task, scored before and after",
                  "minipeft finetune --task sentiment --method lora --set r=4 alpha=8 \\\n"
                  "      targets=q_proj,v_proj --save runs/lora.safetensors")  # fmt: skip
    add_model(new)
    add_method(new, "lora")
    add_task(new)
    add_own(new)
    add_training(new, None, "300; for generation 600")
    new.add_argument("--n", type=number(1), help="training examples; default: the task's")
    new.add_argument("--lr", type=number(0, float), help="default: the method's own")
    new.add_argument("--pattern", type=number(0), default=0, help="which wording; default 0")
    new.add_argument("--eval", type=number(1), metavar="N",
                     help="validation examples; default 100 for generation, else all")  # fmt: skip
    new.add_argument("--seed", type=number(0), default=0, help="default 0")
    new.add_argument("--save", metavar="FILE", help="write the trained adapter here")
    new.add_argument("--checkpoint", metavar="FILE",
                     help="save the state of training here, also on Ctrl-C; the same command "
                     "goes on from it")  # fmt: skip


def _finetune(args: argparse.Namespace) -> Result:
    from minipeft.contract import attach
    from minipeft.storage.checkpoint import load_model
    from minipeft.training.batches import task_batches
    from minipeft.training.evaluation import evaluate
    from minipeft.training.loop import fit

    # whatever can fail is tried before the first step
    method, name = method_of(args), known(args.model)
    if args.save is not None:
        target(args.save, "--save", model=file_of(name), data=args.data)
    if args.checkpoint is not None:
        state = target(args.checkpoint, "--checkpoint", model=file_of(name), data=args.data)
        if args.save and state.resolve() == Path(args.save).resolve():
            raise UsageError(f"--checkpoint and --save name one file, {args.save}")
    args.busy("making the task's data")
    task = task_of(args, name)
    generates = task.kind == "generation"
    head, classes = head_of(args, None if generates else len(words_of(task)))
    if task.kind == "images":
        head, classes = "linear", len(words_of(task))
    steps = args.steps or (600 if generates else 300)
    judged = args.eval or default_n(task, "validation")
    few = min(SHOWN, judged or task.sizes[task.splits.index("validation")])
    scored = {"split": "validation", "n": judged, "pattern": args.pattern}
    args.busy("loading the model")
    model = load_model(name, head=head, classes=classes, seed=args.seed)
    own_head = without_new_head(model, name)  # the base's, where the model was given a new one
    train = task_batches(model, task, "train", args.n, args.pattern)
    task.load(**scored)
    examples = task.load("validation", n=few, pattern=args.pattern)
    with attach(model, method) as at:
        counts = at.count(), at.count_head()
    more = f", and {counts[1]:,} of a head" if counts[1] else ""
    told = f"{args.model} on {task.name} with {described(method)}: {counts[0]:,} parameters"
    print(textwrap.fill(f"{told} train{more}", WIDTH, break_on_hyphens=False))

    args.busy("scoring the base")
    before = evaluate(model, task, **scored)
    print("before: " + _scores(before))
    args.busy("answering with the base")
    base = base_answers(own_head, examples, words_of(task))
    at = attach(model, method)
    args.busy("training")
    began = time.perf_counter()
    history = fit(
        model, train, steps=steps, lr=args.lr, batch=args.batch, seed=args.seed,
        checkpoint=args.checkpoint,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if args.checkpoint is not None:
        print(f"{args.checkpoint} holds the state after all {steps} steps")
    if args.save is not None:
        at.save(args.save, card(args, task))  # before what may fail
    args.busy("scoring the tuned model")
    after = evaluate(model, task, **scored)
    args.busy("answering with the tuned model")
    outputs = [
        {"prompt": getattr(e, "prompt", f"picture {i}"), "base": b, "tuned": t,
         "reference": _reference(task, e)}
        for i, (e, b, t) in enumerate(
            zip(examples, base, answers(model, examples, words_of(task)), strict=True))
    ]  # fmt: skip
    value = {
        "model": args.model, "task": task.name, "metric": task.metric, "method": args.method,
        "settings": dataclasses.asdict(method), "head": model.config.value("head", "linear"),
        "trainable": counts[0], "steps": steps, "lr": max(history.lr), "batch": args.batch,
        "seconds": seconds, "before": before, "after": after, "outputs": outputs,
        "saved": args.save, "try": _to_try(args, task, outputs),
    }  # fmt: skip
    return value, _told(value)


def _reference(task: Any, example: Any) -> str:
    """The right answer of an example."""
    if task.kind == "images":
        return str(task.classes[example.label])
    return str(example.target).strip()


def _to_try(args: argparse.Namespace, task: Any, outputs: list[dict[str, Any]]) -> str | None:
    """A command that asks the saved adapter, to be pasted into a shell; None if none was saved."""
    if args.save is None:
        return None
    words = ["minipeft", "evaluate", "--adapter", args.save]
    if task.kind == "images":
        return shlex.join([*words, "--split", "test"])
    prompt = min((one["prompt"] for one in outputs), key=len)
    words[1] = "generate"
    return shlex.join([*words, "--", prompt] if prompt.startswith("-") else
                      [words[0], words[1], prompt, *words[2:]])  # fmt: skip


def _scores(result: dict[str, float]) -> str:
    """A split's scores in one line."""
    shown = [
        f"{name} {x:.3f}" if name == "loss" else f"{name} {x:.1f}"
        for name, x in result.items()
        if name != "n"
    ]
    line = f"{', '.join(shown)}  (on {result['n']:.0f} validation examples)"
    return textwrap.fill(line, WIDTH - 8, subsequent_indent=" " * 8)


def _told(value: dict[str, Any]) -> str:
    """What finetune has to say at the end."""
    lines = [f"after:  {_scores(value['after'])}"]
    lines.append(f"{value['steps']} steps in {value['seconds']:.0f} s; of the validation examples:")
    for one in value["outputs"]:
        lines += ["", wrapped("prompt", one["prompt"])]
        lines += [wrapped(name, shown(one[name])) for name in ("base", "tuned")]
        lines.append(wrapped("reference", one["reference"]))
    if value["saved"]:
        lines += ["", f"saved to {value['saved']}; try:", value["try"]]
    else:
        lines += ["", "--save FILE keeps the adapter, for generate, evaluate and merge"]
    return "\n".join(lines)


# -- compare --------------------------------------------------------------------------------------


def add_compare(command: Command) -> None:
    """minipeft compare"""
    new = command("compare", _compare, "fine-tune with many methods and put them side by side",
                  "minipeft compare --methods full,lora --steps 50")  # fmt: skip
    add_model(new)
    add_task(new)
    add_training(new, None, "180")
    new.add_argument("--methods", type=lambda text: [one_of(methods)(m) for m in text.split(",")],
                     metavar="A,B", help="default: about ten")  # fmt: skip
    new.add_argument("--all", action="store_true", help="every method there is")
    new.add_argument("--seeds", type=number(1), default=3, help="runs of each; default 3")
    new.add_argument("--n", type=number(1), help="training examples; default: the task's")
    new.add_argument("--figure", metavar="FILE", default=str(Path("runs", "compare.png")),
                     help="score against size; default runs/compare.png")  # fmt: skip


def _compare(args: argparse.Namespace) -> Result:
    from minipeft.course import compare as side
    from minipeft.course import viz
    from minipeft.methods import METHODS

    figure = target(args.figure, "--figure")
    viz.check_format(figure)
    name = known(args.model)
    usual = DEFAULT_TASKS[True] if reads_pictures(name) else side.Plan.task
    task = fitting(name, task_named(args.task or usual, args.path))
    every = [n for n in METHODS if task.kind == "images" or n not in side.HEADS_ALONE]
    names = every if args.all else args.methods or side.DEFAULT
    plan = side.Plan(task.name, name, args.path, args.steps or side.Plan.steps, args.batch, args.n)
    args.busy("making the task's data")
    task.load("train", n=args.n)
    workers = side.default_workers()
    print(textwrap.fill(
        f"{task.name} with {', '.join(names)}; each {plan.steps} steps, seeds: {args.seeds}, "
        f"workers: {workers}", 80, break_on_hyphens=False))  # fmt: skip
    args.busy("comparing: the first runs")
    rows = side.compare(names, plan, seeds=args.seeds, workers=workers)

    def drawn() -> str:
        ax = viz.tradeoff(rows, metric=f"{task.metric} on the test split")
        ax.set_title(f"{side.headline(rows, plan)}\n{args.model}, {plan.steps} steps, "
                     f"{args.seeds} seeds", loc="left", fontsize=10)  # fmt: skip
        viz.save(ax, figure)
        return f"figure: {figure}"

    return rows, side.as_text(rows, task.metric), drawn
