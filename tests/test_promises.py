"""What users rely on: names, options, exit codes, files and fields of --json stay as they are.

tests/fixtures holds files that minipeft 0.1.0 saved, and in told.json what it said of them: three
steps of each method, and a run that was stopped after three steps of six.
"""

import argparse
import dataclasses
import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import minipeft
from minipeft import attach, cli, fit, load_adapter, load_model
from minipeft.cli.arguments import UsageError
from minipeft.contract import Method
from minipeft.contract.method import GONE
from minipeft.corpus import pretraining
from minipeft.methods import METHODS, LoRA, Quantize
from minipeft.storage.checkpoint import load_arrays, save_model
from minipeft.tasks import IMAGE_TASKS, TASKS
from minipeft.training.optim import AdamW
from tests.clitools import value
from tests.tiny import Rows, gpt, tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
TOLD = json.loads((FIXTURES / "told.json").read_text(encoding="utf-8"))

PUBLIC = """
    Tensor no_grad grad_check load_model attach load_adapter METHODS Full TopK BitFit LoRA fit
    evaluate generate doctor __version__
"""
FIELDS = {
    "full": "",
    "topk": "k ln_f",
    "bitfit": "terms",
    "ln_tuning": "",
    "linear_probe": "",
    "lora": "r alpha targets fused rslora dropout init seed",
    "quant": "code block double bf16 targets",
    "qlora": "r alpha targets fused rslora dropout init seed code block double bf16",
    "subspace": "d projection said per_tensor seed",
    "dora": "r alpha targets fused rslora dropout init seed by_input exact",
    "vera": "r d_initial targets fused seed",
    "pissa": "r alpha targets dropout",
    "adalora": "r target alpha t_i t_f delta_t beta1 beta2 gamma squared targets fused seed",
    "loftq": "r alpha T targets dropout code block double bf16",
    "magnitude": "s n s_i t0 t1 scope targets bias",
    "adapter": "r place act init norms drop drop_most seed",
    "parallel": "r s sublayer reads act seed",
    "movement": "mode v tau lam c warm cool scope targets bias",
    "ia3": "targets inputs seed",
    "prefix": "n mlp layers words std seed",
    "prompt": "n template seed init labels text deep",
    "ptuning": "n template seed encoder h",
    "infix": "n template seed std",
    "lnlora": "r alpha targets seed",
    "fact": "r form s targets seed",
    "steering": "k alpha theta positions rank folds targets seed",
}
ARGUMENTS = {
    "attach": "model method freeze",
    "load_model": "name_or_path head classes dtype seed",
    "load_adapter": "model path methods beside",
    "evaluate": "model task split n pattern batch seed normalize",
    "generate": "model prompt max_tokens temperature top_k top_p seed stop",
    "grad_check": "f inputs params seed eps tol directions",
    "doctor": "quiet",
}
HOOKS = """
    wrap select compute prepare extra_loss before_step after_step measure state load_state
"""
ON_TEXT = """
    sentiment sentiment-shift nli nli-shift paraphrase acceptability choice table-to-text remap
    remap-new remap-route remap-values summary unscramble truth new-facts e2e
    truthful-qa
"""
ON_PICTURES = "shapes digits clutter textures cells count angle mnist"
OPTIONS = {  # besides --help and --json, which all have
    "doctor": "",
    "pretrain": "name --out --steps --checkpoint",
    "finetune": "--model --method --set --head --task --path --data --steps --batch --n --lr "
    "--pattern --eval --seed --save --checkpoint",
    "compare": "--model --task --path --steps --batch --methods --all --seeds --n --figure",
    "generate": "prompt --model --adapter --text --max-tokens --temperature --top-k --top-p "
    "--beams --seed",
    "evaluate": "--model --adapter --task --path --data --split --n --pattern --batch",
    "inspect": "file",
    "merge": "adapter --model --out --untie --quantized",
    "data": "name set --path --split --n --pattern --seed",
    "params": "--model --method --set --head --classes --paper",
    "memory": "--model --method --set --head --classes --batch --length --optimizer --recompute "
    "--measure",
    "lectures": "--list --open --run --html --slides",
    "methods": "--markdown",
    "homework": "do",
}
BYTES = "activations, gradients, optimizer, peak, temporary, weights"
INSPECTED = "arrays (bytes, count, path, shape), bytes, dtypes, kind, path"
ANSWER = "(probability, text)"
SCORES = "(accuracy, loss, n)"
QUICK = "--model gpt-0.2m --steps 2 --n 8 --batch 4"
JSON = {  # command line -> the fields of its value, those of a part behind it
    "doctor": "advice, blas (core, name, threads), cores, cpu, data, free_memory, gpu, malloc, "
    "minipeft, models, packages, platform, problems, python, threads",
    "lectures": "file, number, title",
    "methods": "by_row, compose, composition, file, form, insertion, lecture, merges, method, "
    "parameters, representation",
    "data": "kind, metric, patterns, splits, task",
    "data nli --n 1": "kind, label, options, prompt, references, target",
    "data textures --n 1": "class, label, pixels",
    "data fetch": "bytes, licence, set, what",
    "inspect lora.safetensors": f"{INSPECTED}, base, card, method, over, settings, shipped base",
    "inspect model.safetensors": f"{INSPECTED}, config, made, model",
    "inspect state.safetensors": f"{INSPECTED}, done, last loss, machine, methods, settings",
    "evaluate --adapter magnitude.safetensors --n 4": "adapter, metric, model, n, pattern, split, "
    f"task, base {SCORES}, tuned {SCORES}",
    "generate People --max-tokens 2": "adapter, model, prompt, text",
    "generate People --max-tokens 2 --adapter qlora.safetensors": "adapter, model, prompt, text, "
    f"asked, base {ANSWER}, tuned {ANSWER}",
    "merge magnitude.safetensors --out OUT/merged.safetensors": "adapter, model, out, rows "
    "(change, output, output_error, output_rounding, path, weight_error, weight_rounding)",
    "params": "head, method, model, parameters (count, path, shape), settings, total",
    "params --method lora": "head, method, model, percent, settings, total, trainable",
    "params --paper": "name, source, title",
    "params --paper e2e": "name, rows (agrees, by, computed, exact, of, printed, row, scores, "
    "why), scores, source, title",
    "memory --model gpt-0.2m --batch 2 --length 8 --measure": "flops (backward, forward), "
    f"measured ({BYTES}), method, model, operations (backward, calls, forward, kept, measured, "
    "operation), papers (full fine-tuning with Adam, saved per task, this method with Adam, "
    f"weights in half precision), parameters (added, total, trainable), predicted ({BYTES}), "
    "settings, step (batch, dtype, length, optimizer, recompute)",
    f"finetune {QUICK} --eval 4": f"after {SCORES}, batch, before {SCORES}, head, lr, method, "
    f"metric, model, outputs (base {ANSWER}, prompt, reference, tuned {ANSWER}), saved, seconds, "
    "settings, steps, task, trainable, try",
    f"compare {QUICK} --methods bitfit --seeds 1 --figure OUT/a.png": "each (scores, steps_to_95), "
    "forgetting, method, peak_bytes, percent, score_mean, score_std, step_seconds, steps_to_95, "
    "trainable",
    "pretrain tiny-gpt --steps 1 --out OUT/model.safetensors": "command, file, hours, name, "
    "passes, recipe, steps, tokens_seen, training_curve, validation_curve, validation_loss",
}
OPEN = {
    "card",
    "config",
    "packages",
    "recipe",
    "settings",
    "threads",
}  # parts with names of their own


def check(what, promised, there):
    """Names that users rely on are there; names that are new are listed here."""
    gone, new = sorted(set(promised) - set(there)), sorted(set(there) - set(promised))
    assert not gone, (
        f"{what}: {', '.join(gone)} went, on which users rely: add a line to CHANGELOG.md and let "
        "the old name raise with the new one"
    )
    assert not new, f"{what}: {', '.join(new)} came: list it in tests/test_promises.py too"


def test_public_names():
    check("minipeft", PUBLIC.split(), minipeft.__all__)
    for name in PUBLIC.split():
        getattr(minipeft, name)


def test_arguments_of_functions():
    for name, arguments in ARGUMENTS.items():
        there = inspect.signature(getattr(minipeft, name)).parameters
        check(f"arguments of {name}", arguments.split(), there)


def test_hooks_of_a_method():
    there = [name for name in HOOKS.split() if hasattr(Method, name)]
    check("hooks of Method", HOOKS.split(), there)


@pytest.mark.parametrize("old", GONE)
def test_an_old_hook_raises_with_the_new_one(old):
    with pytest.raises(TypeError, match=rf"Mine.{old} is no hook any more: it is (select|compute)"):
        type("Mine", (Method,), {old: lambda *_: None})


def test_methods_and_their_settings():
    check("METHODS", FIELDS, METHODS)
    for name, fields in FIELDS.items():
        check(
            f"settings of {name}",
            fields.split(),
            [f.name for f in dataclasses.fields(METHODS[name])],
        )


def test_tasks():
    check("TASKS", ON_TEXT.split(), TASKS)
    check("IMAGE_TASKS", ON_PICTURES.split(), IMAGE_TASKS)


def test_options_of_the_commands():
    parser = cli._parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    check("minipeft", OPTIONS, commands)
    for name, options in OPTIONS.items():
        there = [n for a in commands[name]._actions for n in a.option_strings or [a.dest]]
        check(f"minipeft {name}", ["-h", "--help", "--json", *options.split()], there)


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (ValueError("x"), 1), (TypeError("x"), 1), (UsageError("x"), 2),
     (KeyboardInterrupt(), 130)],
)  # fmt: skip
def test_exit_codes(error, code, monkeypatch, capsys):
    def run(args):
        if error is not None:
            raise error
        return {}, ""

    monkeypatch.setattr(cli.files, "_data", run)
    assert cli.main(["data"]) == code
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "--nothing"])
    assert stop.value.code == 2


def test_formats_of_files(tmp_path):
    model = gpt()
    save_model(model, tmp_path / "model")
    with attach(model, LoRA(r=1)) as at:
        fit(model, Rows(tokenizer().vocab_size), steps=1, lr=0.1, checkpoint=tmp_path / "state",
            quiet=True)  # fmt: skip
        at.save(tmp_path / "adapter")
    written = {file.name: load_arrays(file)[1] for file in tmp_path.iterdir()}
    assert {name: (told["format"], told["version"]) for name, told in written.items()} == {
        "model": ("minipeft", "1"),
        "adapter": ("minipeft-adapter", "2"),
        "state": ("minipeft-training", "1"),
    }


def fields(told):
    """The names in a value, those of a part after it and a dot; of a list those of its items."""
    if isinstance(told, list):
        return {name for one in told for name in fields(one)}
    if not isinstance(told, dict):
        return set()
    within = {f"{k}.{name}" for k, v in told.items() if k not in OPEN for name in fields(v)}
    return set(told) | within


def listed(text):
    """The same names from their short form: "a, b (c, d)" is a, b, b.c and b.d."""
    names, above, name = set(), [], ""
    for letter in text + ",":
        if letter not in ",()":
            name += letter
            continue
        if name := name.strip():
            names.add(".".join([*above, name]))
        if letter == "(":
            above.append(name)
        elif letter == ")":
            above.pop()
        name = ""
    return names


@pytest.mark.parametrize("line", JSON)
def test_fields_of_json(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(FIXTURES)
    monkeypatch.setattr("minipeft.course.compare.default_workers", lambda: 0)
    monkeypatch.setattr(pretraining, "HELD_OUT_MEGABYTES", 0.01)
    short = dataclasses.replace(pretraining.RECIPES["tiny-gpt"], megabytes=0.1, batch=2, length=32)
    monkeypatch.setitem(pretraining.RECIPES, "tiny-gpt", short)
    command = line.replace("OUT", str(tmp_path)).split()
    check(f"minipeft {line} --json", listed(JSON[line]), fields(value(capsys, *command)))


# -- files of before ------------------------------------------------------------------------------


def near(told, tolerance=2e-5):
    """A value to compare with: the same names and texts, numbers within rounding."""
    if isinstance(told, dict):
        return {name: near(one, tolerance) for name, one in told.items()}
    if isinstance(told, list):
        return [near(one, tolerance) for one in told]
    return pytest.approx(told, tolerance, tolerance) if isinstance(told, float) else told


@pytest.mark.parametrize("file", TOLD["logits"])
def test_what_was_saved_computes_the_same(file):
    if file == "model.safetensors":
        model = load_model(FIXTURES / file)
    else:
        on = {"lora.safetensors": "tiny-gpt", "subspace.safetensors": "tiny-bert"}
        model = load_model(on.get(file, "gpt-0.2m"))
        if file.startswith("dora_over_quant"):
            attach(model, Quantize(code="nf4", block=64))
        load_adapter(model, FIXTURES / file)
    ids = 7 * np.arange(12)[None] + 40  # (1, 12)
    assert model(ids).data[0, -1, 40:300:40].tolist() == near(TOLD["logits"][file])


@pytest.mark.parametrize("told", TOLD["commands"], ids=lambda told: " ".join(told["command"])[:50])
def test_what_was_saved_is_told_the_same(told, capsys, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    assert value(capsys, *told["command"]) == near(told["value"])


@pytest.mark.filterwarnings("ignore:.* was written with")
def test_a_run_that_was_stopped_goes_on(tmp_path, capsys, monkeypatch):
    state, told, steps = tmp_path / "state.safetensors", TOLD["resumed"], []
    shutil.copy(FIXTURES / state.name, state)
    step = AdamW.step
    monkeypatch.setattr(AdamW, "step", lambda *args: (steps.append(1), step(*args)))
    got = value(capsys, *told["command"], str(state))
    assert len(steps) == 3
    # Adam divides by what is nearly 0: rounding grows
    assert {k: v for k, v in got.items() if k != "seconds"} == near(told["value"], 1e-3)
