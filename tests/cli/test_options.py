"""Every option of every command reaches what the command calls: none is only parsed."""

import argparse
import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from minipeft import cli
from minipeft.contract import attach
from minipeft.course.grading.classroom import Graded
from minipeft.course.grading.grader import Report
from minipeft.course.grading.leaderboard import Entry
from minipeft.course.grading.submissions import Person, Submission
from minipeft.course.homework.assignment import load
from minipeft.methods import LoRA
from minipeft.models import GPT, GPTConfig
from minipeft.nn import Module
from minipeft.storage.checkpoint import load_model, save_model
from minipeft.tasks import load_own
from minipeft.training.batches import ImageBatches, TaskBatches
from minipeft.training.looks import History
from tests.clitools import small_base, value  # noqa: F401

TOY = Path(__file__).parents[1] / "course" / "homework" / "toy"
SCORES = {"loss": 1.0, "n": 5.0, "accuracy": 50.0}
ROWS = [(f"number {i} is", "even" if i % 2 == 0 else "odd") for i in range(60)]

QUICK_TASKS = ("sentiment", "e2e")  # own rows in their place: no files, no time

# What a command calls -> what it gets back; CALL is what the function itself returns.
CALL = object()
CALLED = {
    "training.loop.fit": History([1.0], [0.1], [0.1]),
    "training.evaluation.evaluate": SCORES,
    "training.batches.task_batches": CALL,
    "contract.attached.attach": CALL,
    "methods.load_adapter": CALL,
    "contract.attached.Attached.save": None,
    "contract.attached.Attached.merge": CALL,
    "storage.checkpoint.load_model": CALL,
    "storage.checkpoint.save_model": None,
    "cli.inspection.load_base": CALL,
    "tasks.get_task": CALL,
    "tasks.get_image_task": CALL,
    "cli.training.answers": [{"text": "x", "probability": None}] * 3,
    "cli.training.base_answers": [{"text": "x", "probability": None}] * 3,
    "cli.speaking.answers": [{"text": "x", "probability": None}],
    "cli.speaking.base_answers": [{"text": "x", "probability": None}],
    "generation.sampling.generate": " x",
    "generation.beams.beam_search": [(" x", 0.0)],
    "course.compare.compare": [],
    "course.compare.as_text": "",
    "course.compare.headline": "",
    "course.viz.tradeoff": SimpleNamespace(set_title=lambda *_, **__: None),
    "course.viz.save": None,
    "corpus.pretraining.pretrain": {"tokens_seen": 1, "hours": 0.0, "validation_loss": 1.0},
    "corpus.pretraining.train_tokenizer": CALL,
    "storage.fetch.fetch": [],
    "ledger.predict": CALL,
    "ledger.measure": CALL,
    "course.notebooks.open_one": "x",
    "course.notebooks.run_all": [],
    "course.notebooks.to_html": ["index.html"],
    "course.method_map.method_map": [],
    "cli.method_page.page": "",
    "course.notebooks.listed": [],
    "course.homework.tree.write_student": ["a"],
    "course.homework.tree.public_tests": (True, "ok"),
    "course.homework.bank.public": {},
    "course.homework.bank.make": SimpleNamespace(homework=load(TOY)),
    "course.grading.classroom.grade_class": [
        Graded(Submission("a", TOY, (Person("a"),), 0.0), Report("toy", "a", (), (), (), {}, "", 0))
    ],
    "course.grading.classroom.figure": "class.png",
    "course.grading.gradebook.days_used": {"a": 1},
    "course.grading.gradebook.gradebook": CALL,
    "course.grading.gradebook.canvas": ([{"Student": "a"}], []),
    "course.grading.gradebook.write_csv": None,
    "course.grading.gradescope.autograder": b"",
    "course.grading.gradescope.board_grader": b"",
    "course.grading.gradescope.results": {},
    "course.grading.leaderboard.enter": Entry("a", "lora", 1, 0.1, 2.0),
    "course.grading.similar.similar": ([], {}),
    "storage.files.write_atomic": None,
    "course.grading.grader.grade": Report("toy", "a", (), (), (), {}, "", 0.0),
    "course.homework.verify.verify": [],
    "course.homework.notebook.write": ("n", "t"),
    "course.homework.own.write": ["a"],
}
LOOKING = ("inspect", "params", "memory", "data")  # whose value is what they were asked for

# For each option: what the command is given without it, and what is added.
OPTIONS = {
    "pretrain": {
        "name": ("tiny-gpt", "tiny-bert"),
        "--out": ("tiny-gpt", "--out {tmp}/a"),
        "--steps": ("tiny-gpt", "--steps 7"),
        "--checkpoint": ("tiny-gpt", "--checkpoint {tmp}/c"),
    },
    "finetune": {
        "--model": ("", "--model {other}"),
        "--method": ("", "--method bitfit"),
        "--set": ("", "--set r=2"),
        "--head": ("--data {options}", "--head linear"),
        "--task": ("", "--task nli"),
        "--path": ("--task e2e", "--path {tmp}"),
        "--data": ("", "--data {data}"),
        "--steps": ("", "--steps 7"),
        "--batch": ("", "--batch 3"),
        "--n": ("", "--n 5"),
        "--lr": ("", "--lr 0.5"),
        "--pattern": ("--task nli --n 5 --eval 3", "--pattern 2"),
        "--eval": ("", "--eval 4"),
        "--seed": ("", "--seed 3"),
        "--save": ("", "--save {tmp}/s"),
        "--checkpoint": ("", "--checkpoint {tmp}/c"),
    },
    "compare": {
        "--model": ("--n 5", "--model {other}"),
        "--task": ("--n 5", "--task acceptability"),
        "--path": ("--n 5 --task e2e", "--path {tmp}"),
        "--steps": ("--n 5", "--steps 7"),
        "--batch": ("--n 5", "--batch 3"),
        "--methods": ("--n 5", "--methods full"),
        "--all": ("--n 5", "--all"),
        "--seeds": ("--n 5", "--seeds 5"),
        "--n": ("--n 5", "--n 6"),
        "--figure": ("--n 5", "--figure {tmp}/f.pdf"),
    },
    "generate": {
        "prompt": ("x", "y"),
        "--model": ("x", "--model {other}"),
        "--adapter": ("x", "--adapter {adapter}"),
        "--text": ("x --adapter {adapter}", "--text"),
        "--max-tokens": ("x", "--max-tokens 3"),
        "--temperature": ("x", "--temperature 0.5"),
        "--top-k": ("x", "--top-k 4"),
        "--top-p": ("x", "--top-p 0.4"),
        "--beams": ("x", "--beams 3"),
        "--seed": ("x", "--seed 9"),
    },
    "evaluate": {
        "--model": ("", "--model {other}"),
        "--adapter": ("", "--adapter {adapter}"),
        "--task": ("", "--task nli"),
        "--path": ("--task e2e", "--path {tmp}"),
        "--data": ("", "--data {data}"),
        "--split": ("", "--split test"),
        "--n": ("", "--n 3"),
        "--pattern": ("--task nli --n 3", "--pattern 2"),
        "--batch": ("", "--batch 7"),
    },
    "inspect": {"file": ("tiny-gpt", "tiny-bert")},
    "merge": {
        "adapter": ("{adapter} --out {tmp}/m", "{second} --out {tmp}/m"),
        "--model": ("{adapter} --out {tmp}/m", "--model {same}"),
        "--out": ("{adapter} --out {tmp}/m", "--out {tmp}/n"),
        "--untie": ("{adapter} --out {tmp}/m", "--untie"),
        "--quantized": ("{adapter} --out {tmp}/m", "--quantized dequantize"),
    },
    "data": {
        "name": ("cells --n 2", "count --n 2"),
        "set": ("fetch mnist", "fetch e2e"),
        "--path": ("fetch mnist", "--path {tmp}"),
        "--split": ("cells --n 2", "--split test"),
        "--n": ("cells --n 2", "--n 3"),
        "--pattern": ("nli --n 2", "--pattern 2"),
        "--seed": ("cells --n 2", "--seed 5"),
    },
    "params": {
        "--model": ("", "--model gpt2"),
        "--method": ("", "--method lora"),
        "--set": ("--method lora", "--set r=3"),
        "--head": ("", "--head linear"),
        "--classes": ("--head linear", "--classes 5"),
        "--paper": ("--paper", "--paper e2e"),
    },
    "memory": {
        "--model": ("", "--model gpt2"),
        "--method": ("", "--method lora"),
        "--set": ("--method lora", "--set r=3"),
        "--head": ("", "--head linear"),
        "--classes": ("--head linear", "--classes 5"),
        "--batch": ("", "--batch 3"),
        "--length": ("", "--length 9"),
        "--optimizer": ("", "--optimizer sgd"),
        "--recompute": ("", "--recompute"),
        "--measure": ("--batch 1 --length 4", "--measure"),
    },
    "lectures": {
        "--list": ("--list", "--run"),
        "--open": ("", "--open 8"),
        "--run": ("", "--run"),
        "--html": ("", "--html {tmp}"),
        "--slides": ("--html {tmp}", "--slides"),
    },
    "methods": {"--markdown": ("", "--markdown")},
    "doctor": {},
    "homework new": {
        "name": ("toy {tmp}/a", "toy2 {tmp}/a"),
        "dir": ("toy {tmp}/a", "toy {tmp}/b"),
        "--variant": ("toy {tmp}/a", "--variant 2"),
        "--own": ("toy {tmp}/a", "--own"),
    },
    "homework check": {
        "dir": ("a", "b"),
        "hole": ("a", "a toy.1"),
        "--reference": ("a", "--reference toy.1"),
    },
    "homework grade": {
        "name": ("toy {homework}/toy --seed 1", "toy2 {homework}/toy --seed 1"),
        "submission": ("toy {homework}/toy --seed 1", "toy {homework}/toy2 --seed 1"),
        "--seed": ("toy {homework}/toy --seed 1", "--seed 2"),
        "--variant": ("toy {homework}/toy --seed 1", "--variant 2"),
        "--own": ("toy {homework}/toy --seed 1", "--own"),
        "--gradescope": ("toy {homework}/toy --seed 1", "--gradescope {tmp}/r.json"),
    },
    "homework class": {
        "name": ("toy {homework} out --seed 1", "toy2 {homework} out --seed 1"),
        "folder": ("toy {homework} out --seed 1", "toy {homework}/toy out --seed 1"),
        "out": ("toy {homework} out --seed 1", "toy {homework} out2 --seed 1"),
        "--seed": ("toy {homework} out --seed 1", "--seed 2"),
        "--variant": ("toy {homework} out --seed 1", "--variant 2"),
        "--own": ("toy {homework} out --seed 1", "--own"),
        "--workers": ("toy {homework} out --seed 1", "--workers 3"),
        "--only": ("toy {homework} out --seed 1", "--only a"),
        "--due": ("toy {homework} out --seed 1", "--due 2026-03-02T23:59"),
        "--grace": ("toy {homework} out --seed 1 --due 2026-03-02", "--grace 5"),
        "--free": ("toy {homework} out --seed 1 --due 2026-03-02", "--free 2"),
        "--earlier": ("toy {homework} out --seed 1 --due 2026-03-02", "--earlier {data}"),
        "--percent": ("toy {homework} out --seed 1 --due 2026-03-02", "--percent 20"),
        "--floor": ("toy {homework} out --seed 1 --due 2026-03-02", "--floor 50"),
        "--canvas": ("toy {homework} out --seed 1", "--canvas {data}"),
        "--column": ("toy {homework} out --seed 1 --canvas {data}", "--column toy9"),
    },
    "homework similar": {
        "name": ("toy {homework}", "toy2 {homework}"),
        "folder": ("toy {homework}", "toy {homework}/toy"),
        "--variant": ("toy {homework}", "--variant 2"),
        "--own": ("toy {homework}", "--own"),
        "--earlier": ("toy {homework}", "--earlier {homework}/toy"),
        "--share": ("toy {homework}", "--share 70"),
    },
    "homework zip": {
        "name": ("toy {tmp}/a.zip --seed 1", "toy2 {tmp}/a.zip --seed 1"),
        "file": ("toy {tmp}/a.zip --seed 1", "toy {tmp}/b.zip --seed 1"),
        "--seed": ("toy {tmp}/a.zip --seed 1", "--seed 2"),
        "--variant": ("toy {tmp}/a.zip --seed 1", "--variant 2"),
        "--own": ("toy {tmp}/a.zip --seed 1", "--own"),
    },
    "homework leaderboard": {
        "adapters": ("a", "b"),
        "--seed": ("a", "--seed 3"),
        "--n": ("a", "--n 7"),
        "--zip": ("a", "--zip {tmp}/a.zip"),
    },
    "homework verify": {"names": ("toy", "toy2"), "--long": ("toy", "--long")},
    "homework notebook": {
        "name": ("toy {tmp}/a --for otter", "toy2 {tmp}/a --for otter"),
        "dir": ("toy {tmp}/a --for otter", "toy {tmp}/b --for otter"),
        "--for": ("toy {tmp}/a --for otter", "--for nbgrader"),
        "--variant": ("toy {tmp}/a --for otter", "--variant 2"),
        "--seed": ("toy {tmp}/a --for otter", "--seed s"),
    },
}  # fmt: skip

# Where an option concerns several functions, each of them hears of it.
BOTH = {
    ("finetune", "--pattern"): (  # the examples, their score, and what is said to them
        "training.batches.task_batches",
        "training.evaluation.evaluate",
        "cli.training.answers",
    ),
    ("finetune", "--seed"): ("training.loop.fit", "storage.checkpoint.load_model"),
    ("compare", "--task"): ("course.compare.compare", "course.viz.tradeoff"),
    ("compare", "--path"): ("course.compare.compare",),
    ("generate", "--model"): ("storage.checkpoint.load_model", "generation.sampling.generate"),
}


def commands():
    (found,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, parser in found.choices.items():
        parts = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not parts:
            yield name, parser
        for part in parts:
            yield from ((f"{name} {inner}", p) for inner, p in part.choices.items())


CASES = [(command, option) for command, options in OPTIONS.items() for option in options]


def test_the_table_has_every_option_of_every_command():
    there = {
        name: {(a.option_strings or [a.dest])[-1] for a in parser._actions} - {"--help", "--json"}
        for name, parser in commands()
    }
    assert there == {name: set(options) for name, options in OPTIONS.items()}


def plain(x):
    """A value as text that is the same in every run."""
    if isinstance(x, Module):
        return f"{x} {float(x.get('ln_f').weight.data[0]):.3f}"
    if isinstance(x, (TaskBatches, ImageBatches)):
        return f"{len(x)} rows {x.collate([0]).ids.tolist()}"
    if isinstance(x, (list, tuple)):
        return str([plain(y) for y in x])
    if isinstance(x, dict):
        return str({k: plain(y) for k, y in x.items()})
    return type(x).__name__ if " at 0x" in repr(x) else repr(x)


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_base):  # noqa: F811
    """Adapters, models and rows that arguments name."""
    folder = tmp_path_factory.mktemp("files")
    model = GPT(GPTConfig(vocab=2000, context=160, width=8, layers=2, heads=2))
    save_model(model, folder / "same.safetensors")
    model.ln_f.weight.data = 3 * model.ln_f.weight.data
    save_model(model, folder / "other.safetensors")
    for name, method in (("adapter", LoRA()), ("second", LoRA(r=2))):
        with attach(load_model("tiny-gpt"), method) as at:
            at.save(folder / name, {"template": "{x} it was", "options": [" a", " b"]})
    rows = "".join(f"{p},{t}\n" for p, t in ROWS[:30])
    (folder / "rows.csv").write_text("prompt,target\n" + rows)
    rows = "".join(f"{p},{t},even|odd\n" for p, t in ROWS)
    (folder / "options.csv").write_text("prompt,target,options\n" + rows)
    for name in ("toy", "toy2"):
        shutil.copytree(TOY, folder / "homework" / name)
    return {name: folder / f"{name}.safetensors" for name in ("same", "other")} | {
        "homework": folder / "homework",
        "adapter": folder / "adapter", "second": folder / "second", "data": folder / "rows.csv",
        "options": folder / "options.csv",
    }  # fmt: skip


@pytest.fixture
def received(capsys, monkeypatch, tmp_path, files):
    """received(command, line): what every called function was given, and what was looked up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIPEFT_HOMEWORK", str(files["homework"]))
    log = []

    def recorder(name, real, result):
        def call(*args, **kwargs):
            log.append((name, plain(args), plain(kwargs)))
            if name == "tasks.get_task" and args[0] in QUICK_TASKS:
                return load_own(ROWS)
            return real(*args, **kwargs) if result is CALL else result

        return call

    for name, result in CALLED.items():
        module, _, attribute = name.rpartition(".")
        owner, _, kind = module.rpartition(".") if module.endswith("Attached") else (module, "", "")
        home = importlib.import_module(f"minipeft.{owner}")
        home = getattr(home, kind) if kind else home
        monkeypatch.setattr(home, attribute, recorder(name, getattr(home, attribute), result))

    def run(command, line):
        log.clear()
        words = [word.format(tmp=tmp_path, **files) for word in line.split()]
        got = value(capsys, *command.split(), *words)
        return [*log, got] if command in LOOKING else list(log)

    return run


def test_defaults_are_those_that_help_tells(received):
    for line, steps in (("--data {options}", 300), ("--data {data}", 600)):
        (fit,) = (call for call in received("finetune", line) if call[0] == "training.loop.fit")
        assert f"'steps': '{steps}'" in fit[2]
    (call,) = (c for c in received("compare", "--n 5 --all --methods full") if "compare.c" in c[0])
    assert "vera" in call[1]  # --all is all


@pytest.mark.parametrize(("command", "option"), CASES)
def test_an_option_reaches_what_is_called(received, command, option):
    line, more = OPTIONS[command][option]
    replaced = not option.startswith("--") or option == "--list"
    with_it = more if replaced else f"{line} {more}"
    before, after = received(command, line), received(command, with_it)
    assert before != after
    for name in BOTH.get((command, option), ()):
        assert [c for c in before if c[0] == name] != [c for c in after if c[0] == name], name
