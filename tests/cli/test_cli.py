"""The command line: values, texts, exit codes; stdout under --json is one JSON value."""

import argparse
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from minipeft import cli, load_adapter, load_model
from minipeft.cli import main
from minipeft.course.compare import HEADS_ALONE
from minipeft.methods import METHODS
from minipeft.models import GPT, GPTConfig
from minipeft.storage.checkpoint import load_arrays, save_model
from minipeft.training.optim import AdamW
from tests.clitools import QUICK, fails, small_base, tell, value  # noqa: F401

COMMANDS = (
    "doctor", "pretrain", "finetune", "compare", "generate", "evaluate", "inspect", "merge", "data",
    "params", "memory", "lectures",
)  # fmt: skip
GPT3 = ["params", "--model", "gpt3-175b", "--method", "lora", "--set", "r=4",
        "targets=q_proj,v_proj"]  # fmt: skip
CSV = """mr,ref
"name[The Eagle], eatType[pub]",The Eagle is a pub.
"name[The Crown], eatType[pub]",The Crown is a pub.
"name[The Mill], eatType[cafe]",The Mill is a cafe.
"""


# -- inspect, merge, data -------------------------------------------------------------------------


def test_a_merged_model_does_what_the_adapter_did(capsys, tmp_path):
    adapter, merged = (str(tmp_path / name) for name in ("a.safetensors", "sub/m.safetensors"))
    tell(capsys, "finetune", *QUICK, "--lr", "0.1", "--save", adapter)
    asked = ["generate", "The town", "--max-tokens", "8"]
    wanted = value(capsys, *asked, "--adapter", adapter)["text"]
    found = value(capsys, "merge", adapter, "--out", merged)
    assert found["out"] == merged and len(found["rows"]) == 4
    assert value(capsys, *asked, "--model", merged)["text"] == wanted
    assert value(capsys, "inspect", merged)["merged"]["method"] == "lora"
    told = tell(capsys, "inspect", adapter)
    assert "shipped base  tiny-gpt" in told and "blocks.0.attn.q_proj.A" in told


def test_a_merge_that_cannot_be_leaves_no_file(capsys, tmp_path):
    adapter, merged = (str(tmp_path / name) for name in ("a.safetensors", "m.safetensors"))
    assert "no file" in fails(capsys, 1, "merge", adapter, "--out", merged)
    tell(capsys, "finetune", *QUICK, "--save", adapter)
    config = GPTConfig(vocab=2000, context=160, width=8, layers=2, heads=2)
    other = str(tmp_path / "other.safetensors")
    save_model(GPT(config, seed=5), other)
    said = fails(capsys, 1, "merge", adapter, "--model", other, "--out", merged)
    assert "another base model" in said and not (tmp_path / "m.safetensors").exists()


def test_data_lists_the_tasks_and_shows_examples(capsys):
    rows = value(capsys, "data")
    assert {"sentiment", "nli", "truth"} <= {row["task"] for row in rows}
    assert "sentiment" in tell(capsys, "data")
    examples = value(capsys, "data", "nli", "--split", "test", "--n", "3")
    assert len(examples) == 3 and all(e["target"] in e["options"] for e in examples)
    assert tell(capsys, "data", "nli", "--n", "2").count("prompt") == 2
    assert "did you mean 'nli'" in fails(capsys, 2, "data", "nlo")
    assert "train, validation" in fails(capsys, 1, "data", "nli", "--split", "tst")


def test_beams_look_for_the_likeliest_text(capsys):
    asked = ["generate", "The town", "--max-tokens", "6"]
    assert value(capsys, *asked, "--beams", "1") == value(capsys, *asked)
    assert value(capsys, *asked, "--beams", "3")["text"]
    assert "likeliest" in fails(capsys, 2, *asked, "--beams", "3", "--top-k", "5")


# -- params -------------------------------------------------------------------------------------


def test_params_counts_lora_on_gpt3(capsys):
    got = value(capsys, *GPT3)
    assert (got["model"], got["method"], got["total"]) == ("gpt3-175b", "lora", 174_604_259_328)
    assert got["trainable"] == 2 * 96 * 4 * 2 * 12288 and got["head"] == 0
    assert got["percent"] == pytest.approx(100 * got["trainable"] / got["total"])
    assert got["settings"]["r"] == 4 and got["settings"]["targets"] == ["q_proj", "v_proj"]
    text = tell(capsys, *GPT3)
    assert "18,874,368" in text and "96 x 12288x4" in text and max(map(len, text.split("\n"))) < 90


@pytest.mark.parametrize(
    ("model", "total", "bitfit"),
    [("gpt2", 124_439_808, 102_144), ("gpt2-medium", 354_823_168, 271_360)],
)
def test_params_counts_ties_once(capsys, model, total, bitfit):
    got = value(capsys, "params", "--model", model, "--method", "bitfit")
    assert (got["total"], got["trainable"]) == (total, bitfit)


def test_params_counts_a_new_head_apart(capsys):
    plain = value(capsys, "params", "--model", "gpt2", "--method", "lora")
    got = value(capsys, "params", "--model", "gpt2", "--method", "lora", "--head", "linear",
                "--classes", "3")  # fmt: skip
    assert got["head"] == 3 * 768 and plain["head"] == 0
    assert all(got[key] == plain[key] for key in ("total", "trainable", "percent"))


def test_params_reads_files_and_shows_every_parameter(capsys, small_base):  # noqa: F811
    file = str(small_base / "models" / "tiny-gpt.safetensors")
    got = value(capsys, "params", "--model", file)
    assert got["total"] == load_model(file).num_parameters()
    assert sum(row["count"] for row in got["parameters"]) == got["total"]
    text = tell(capsys, "params", "--model", file)
    assert "blocks.1.mlp.fc_out.weight" in text and f"{got['total']:,}" in text


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_counted(capsys, name):
    model = "vit-base" if name == "linear_probe" else "gpt2"  # it needs a new head
    got = value(capsys, "params", "--model", model, "--method", name)
    most = 2 * got["total"] if name == "movement" else got["total"]  # which trains scores too
    assert (name not in HEADS_ALONE) <= got["trainable"] <= most


# -- memory -------------------------------------------------------------------------------------


def test_memory_tells_of_gpt3(capsys):
    line = ["memory", *GPT3[1:], "--batch", "1", "--length", "2048"]
    got = value(capsys, *line)
    assert got["papers"]["weights in half precision"] == 2 * 174_604_259_328  # "350 GB"
    assert got["predicted"]["optimizer"] == 2 * 4 * 18_874_368 and got["measured"] is None
    text = tell(capsys, *line)
    assert "gpt3-175b with lora r=4" in text and "349.2 GB" in text and "attention" in text


def test_memory_measures_beside_its_prediction(capsys):
    got = value(capsys, "memory", "--method", "topk", "--batch", "8", "--length", "32",
                "--optimizer", "sgd", "--measure")  # fmt: skip
    assert got["method"] == "topk" and got["settings"]["k"] == 2
    for name in ("weights", "gradients", "optimizer", "activations", "peak"):
        assert got["predicted"][name] == pytest.approx(got["measured"][name], rel=0.1)
    assert "measured" in tell(capsys, "memory", "--batch", "2", "--measure")


def test_memory_foretells_recomputation(capsys):
    line = ["memory", *GPT3[1:], "--batch", "1", "--length", "2048"]
    plain, again = value(capsys, *line), value(capsys, *line, "--recompute")
    assert again["step"]["recompute"] and not plain["step"]["recompute"]
    assert again["predicted"]["activations"] < plain["predicted"]["activations"] / 10
    assert again["flops"]["backward"] > 1.4 * plain["flops"]["backward"]
    text = tell(capsys, "memory", "--batch", "8", "--length", "32", "--recompute", "--measure")
    assert "float32, blocks recomputed" in text and "recomputed" not in tell(capsys, *line)


# -- finetune and generate ------------------------------------------------------------------------


def test_finetune_scores_saves_and_the_adapter_loads(capsys, tmp_path):
    file = str(tmp_path / "new" / "adapter.safetensors")
    got = value(capsys, "finetune", "--method", "lora", "--set", "r=2", "alpha=4", "--eval", "20",
                "--lr", "0.05", "--save", file, *QUICK)  # fmt: skip
    assert got["after"]["loss"] < got["before"]["loss"] and got["before"]["n"] == 20
    assert got["settings"]["r"] == 2 and got["lr"] == 0.05 and got["saved"] == file
    model = load_model("tiny-gpt")
    assert load_adapter(model, file).count() == got["trainable"]
    said = value(capsys, "generate", "People say", "--adapter", file, "--max-tokens", "5")
    assert said["prompt"] == "People say" and said["adapter"] == file


def test_finetune_goes_on_where_ctrl_c_stopped_it(capsys, tmp_path, monkeypatch):
    def adapter(folder):
        arrays, _ = load_arrays(folder / "lora.safetensors")
        return {name: a.tobytes() for name, a in arrays.items()}

    def command(folder):
        return ["finetune", "--task", "sentiment", "--steps", "6", "--n", "16", "--batch", "2",
                "--eval", "4", "--save", str(tmp_path / folder / "lora.safetensors"),
                "--checkpoint", str(tmp_path / folder / "state")]  # fmt: skip

    step, calls = AdamW.step, []

    def stopped(self, *args):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        step(self, *args)

    tell(capsys, *command("whole"))
    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "step", stopped)
        assert main(command("parts")) == 130
    told, state = capsys.readouterr().err, tmp_path / "parts" / "state"
    assert f"4 steps are in {state}: the same call, or command, goes on from there" in told
    assert not (tmp_path / "parts" / "lora.safetensors").exists()
    text = tell(capsys, *command("parts"))
    assert f"{state} holds the state after all 6 steps" in text
    assert adapter(tmp_path / "parts") == adapter(tmp_path / "whole")
    same = command("whole")
    same[-1] = same[-3]
    assert main(same) == 2 and "--checkpoint and --save name one file" in capsys.readouterr().err


def test_finetune_in_text(capsys):
    text = tell(capsys, "finetune", "--eval", "10", *QUICK)
    assert "before: loss" in text and "after:  loss" in text and "accuracy" in text


def test_a_task_is_told_by_its_own_metric(capsys):
    told = tell(capsys, "finetune", "--task", "acceptability", "--eval", "10", *QUICK)
    assert len(re.findall(r": +loss [\d.]+, matthews -?[\d.]+, accuracy [\d.]+  ", told)) == 2
    got = value(capsys, "finetune", "--task", "truth", "--eval", "10", *QUICK)
    assert got["metric"] == "mc1" and {"mc1", "mc2", "accuracy"} < set(got["after"])


def test_finetune_with_a_new_head(capsys):
    got = value(capsys, "finetune", "--head", "linear", "--eval", "10", *QUICK)
    assert got["head"] == "linear" and "accuracy" in got["after"]


def test_finetune_on_the_files_of_e2e(capsys, tmp_path):
    for name in ("trainset", "devset", "testset_w_refs"):
        (tmp_path / f"{name}.csv").write_text(CSV)
    e2e = ["finetune", "--task", "e2e", "--path", str(tmp_path), "--method", "full", "--eval", "3",
           "--steps", "5", "--n", "3", "--batch", "3"]  # fmt: skip
    got = value(capsys, *e2e)
    assert got["after"]["loss"] < got["before"]["loss"]
    assert {"bleu", "rouge_l", "loss"} < set(got["after"]) and len(got["outputs"]) == 3
    assert got["outputs"][0]["prompt"].startswith("name: ")
    text = tell(capsys, *e2e)
    assert text.count("reference  The ") == 3 and "bleu" in text


def test_generate_is_seeded(capsys):
    ask = ["generate", "People say", "--temperature", "1", "--top-k", "50", "--top-p", "0.9"]
    first, again, other = (tell(capsys, *ask, "--seed", s) for s in "112")
    assert first == again != other and first.startswith("People say")


# -- compare --------------------------------------------------------------------------------------


def test_compare_prints_a_table_and_writes_a_figure(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("minipeft.course.compare.default_workers", lambda: 0)
    figure = tmp_path / "new" / "figure.png"
    text = tell(capsys, "compare", "--methods", "full,lora", "--seeds", "1", "--steps", "2", "--n",
                "16", "--figure", str(figure))  # fmt: skip
    assert str(figure) in text and figure.stat().st_size > 5000
    table = [line.split()[0] for line in text.splitlines()[-5:]]
    assert table == ["method", "base", "full", "lora", "figure:"]


def test_compare_all_trains_a_head_alone_where_there_is_a_new_one(monkeypatch):
    asked = []

    def compare(names, plan, **_):
        asked.append(list(names))
        raise ValueError("enough")

    monkeypatch.setattr("minipeft.course.compare.compare", compare)
    for model in ("gpt-0.2m", "tiny-vit"):
        assert main(["compare", "--all", "--model", model, "--n", "4"]) == 1
    assert asked == [[name for name in METHODS if name not in HEADS_ALONE], list(METHODS)]


def test_compare_as_json_leaves_stdout_clean(tmp_path):
    done = run("compare", "--methods", "lora", "--seeds", "1", "--steps", "2", "--n", "16",
               "--figure", "a.png", "--json", cwd=tmp_path)  # fmt: skip
    rows = json.loads(done.stdout)
    assert [row["method"] for row in rows] == ["base", "lora"] and done.returncode == 0
    assert "a.png" in done.stderr and (tmp_path / "a.png").is_file()


# -- pretrain -------------------------------------------------------------------------------------


def test_pretrain_writes_a_model_with_its_card(capsys, tmp_path, monkeypatch):
    from minipeft.corpus import pretraining as pretrain

    config = GPTConfig(vocab=2000, context=64, width=8, layers=1, heads=1)
    recipe = pretrain.Recipe(megabytes=0.1, batch=2, length=32)
    monkeypatch.setitem(pretrain.RECIPES, "tiny-gpt", recipe)
    monkeypatch.setattr(pretrain, "preset", lambda name: config)
    monkeypatch.setattr(pretrain, "HELD_OUT_MEGABYTES", 0.01)
    file = tmp_path / "model.safetensors"
    got = value(capsys, "pretrain", "tiny-gpt", "--out", str(file), "--steps", "3")
    assert got["file"] == str(file) and got["tokens_seen"] == 3 * 2 * 32
    assert load_model(file).card["validation_loss"] == got["validation_loss"]


def test_pretrain_tells_of_pictures(capsys, tmp_path, monkeypatch):
    from minipeft.corpus import pretraining as pretrain

    recipe = pretrain.Recipe(pictures=64, batch=8, steps=2)
    monkeypatch.setitem(pretrain.RECIPES, "tiny-vit", recipe)
    monkeypatch.setattr(pretrain, "HELD_OUT_PICTURES", 32)
    text = tell(capsys, "pretrain", "tiny-vit", "--out", str(tmp_path / "model.safetensors"))
    assert ": 16 pictures seen in " in text


def test_pretrain_makes_the_tokenizer(capsys, tmp_path, monkeypatch):
    from minipeft.corpus import pretraining as pretrain
    from minipeft.storage.text import Tokenizer

    quick = pretrain.train_tokenizer
    monkeypatch.setattr(pretrain, "train_tokenizer", lambda world: quick(world, 0.05, 300))
    file = tmp_path / "tokenizer.json"
    assert value(capsys, "pretrain", "tokenizer", "--out", str(file))["vocab"] == 300
    assert Tokenizer.load(file).vocab_size == 300


# -- lectures and doctor --------------------------------------------------------------------------


@pytest.fixture
def two_lectures(tmp_path, monkeypatch):
    from minipeft.course import notebooks as lectures

    for number, title in (("01", "The engine"), ("08", "LoRA")):
        cell = {"cell_type": "markdown", "source": [f"# {title}\n", "text"]}
        (tmp_path / f"{number}_x.ipynb").write_text(json.dumps({"cells": [cell]}))
    monkeypatch.setattr(lectures, "folder", lambda: tmp_path)
    return tmp_path


def test_lectures_are_listed(capsys, two_lectures):
    got = value(capsys, "lectures")
    assert [(one["number"], one["title"]) for one in got] == [("01", "The engine"), ("08", "LoRA")]
    assert "08  LoRA" in tell(capsys, "lectures", "--list")


def test_lectures_call_jupyter(capsys, two_lectures, monkeypatch):
    from minipeft.course import notebooks as lectures

    calls = []
    monkeypatch.setattr(lectures, "_jupyter", lambda *words, **_: calls.append(words))
    tell(capsys, "lectures", "--open", "8")
    assert calls.pop() == ("lab", str(two_lectures / "08_x.ipynb"))
    assert [one["lecture"] for one in value(capsys, "lectures", "--run")] == ["01_x", "08_x"]


def test_jupyter_is_heard_on_stderr_and_its_failure_is_ours(two_lectures, monkeypatch):
    from minipeft.course import notebooks as lectures

    seen, solved = [], []
    monkeypatch.delenv("MINIPEFT_SOLVED", raising=False)

    def jupyter(code):
        def run(command, **settings):
            seen.append(command[2:])
            assert settings["stdout"] is sys.stderr  # stdout is for the result
            solved.append(settings["env"].get("MINIPEFT_SOLVED"))
            return subprocess.CompletedProcess(command, code)

        return run

    looked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: looked.append(name) or name)
    monkeypatch.setattr(subprocess, "run", jupyter(0))
    before = sorted(two_lectures.iterdir())
    lectures.run_all()
    where = {command[command.index("--output-dir") + 1] for command in seen}
    assert len(seen) == 2 and all(str(two_lectures) not in folder for folder in where)
    assert sorted(two_lectures.iterdir()) == before and solved == ["1", "1"]
    assert set(looked) == {"nbconvert"}
    monkeypatch.setattr(subprocess, "run", jupyter(3))
    with pytest.raises(RuntimeError, match="jupyter lab failed with code 3; see above"):
        lectures.open_one("08")
    assert looked[-1] == "jupyterlab" and solved[-1] is None  # who opens a lecture types


def test_a_lecture_may_have_a_letter(two_lectures):
    from minipeft.course import notebooks as lectures

    (two_lectures / "07b_x.ipynb").write_text(json.dumps({"cells": []}))
    assert [one["number"] for one in lectures.listed()] == ["01", "07b", "08"]
    for number in ("07b", "7b", "7B"):
        assert lectures.find(number) == two_lectures / "07b_x.ipynb"
    with pytest.raises(ValueError, match="no lecture '7c'; there are 01, 07b, 08"):
        lectures.find("7c")


def test_a_lecture_is_called_by_its_first_heading(two_lectures):
    from minipeft.course import notebooks as lectures

    code = {"cell_type": "code", "source": ["# no heading\n"]}
    cell = {"cell_type": "markdown", "source": ["text\n", "# The title \n", "# Another"]}
    (two_lectures / "02_x.ipynb").write_text(json.dumps({"cells": [code, cell]}))
    (two_lectures / "03_y.ipynb").write_text(json.dumps({"cells": [code]}))
    assert [one["title"] for one in lectures.listed()][1:3] == ["The title", "03_y"]


def test_lectures_without_jupyter_tell_how_to_install_it(capsys, two_lectures, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = fails(capsys, 1, "lectures", "--open", "08")
    assert "not installed: jupyterlab." in error and "pip install -e '.[lectures]'" in error
    error = fails(capsys, 1, "lectures", "--html", str(two_lectures / "web"))
    assert "nbconvert and latex2mathml" in error and "pip install -e '.[lectures]'" in error
    assert not (two_lectures / "web").exists()
    assert "no lecture '9'; there are 01, 08" in fails(capsys, 1, "lectures", "--open", "9")


def test_doctor_fails_where_there_is_a_problem(capsys, tmp_path, monkeypatch):
    assert value(capsys, "doctor")["problems"] == []
    monkeypatch.setenv("MINIPEFT_DATA", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


# -- usage and failures ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "required: COMMAND"),
        ("finetun", "invalid choice"),
        ("finetune --method lroa", "no 'lroa' (did you mean 'lora'?)"),
        ("finetune --set r", "wanted NAME=VALUE, got 'r'"),
        ("finetune --set rr=4", "LoRA has no setting 'rr'; nearest is 'r'"),
        ("finetune --set r=four", "r must be int, got 'four'"),
        ("finetune --set r=0", "r must be a whole number >= 1"),
        ("finetune --task sentimant", "did you mean 'sentiment'"),
        ("finetune --steps 0", "wanted a number >= 1, got '0'"),
        ("finetune --lr inf", "wanted a number >= 0, got 'inf'"),
        ("finetune --lr nan", "wanted a number >= 0, got 'nan'"),
        ("finetune --step 3", "unrecognized arguments: --step 3"),
        ("finetune --data x.csv --path y", "leave --task and --path out"),
        ("finetune --save ' '", "--save needs the name of a file"),
        ("params --paper e2e --set r=2", "leave --method and --set out"),
        ("params --model llama-7b --head linear", "for params alone and without --head"),
        ("memory --model llama-7b", "for params alone and without --head"),
        ("finetune --task table-to-text --head linear", "--head linear is for classification"),
        ("compare --methods full,lroa", "no 'lroa'"),
        ("generate", "required: PROMPT"),
        ("generate x --model tiny-gtp", "did you mean 'tiny-gpt'"),
        ("generate x --model gpt2", "known by its sizes alone"),
        ("params --model gpt4", "no model 'gpt4'"),
        ("memory --batch 0", "wanted a number >= 1, got '0'"),
        ("memory --optimizer adam", "no 'adam' (did you mean 'adamw'?)"),
        ("pretrain tiny-brt", "(did you mean 'tiny-bert'?); there are tiny-gpt, "),
        ("lectures --list --open 8", "not allowed with"),
        ("lectures --slides", "--slides needs --html DIR"),
    ],
)
def test_wrong_usage_is_2(capsys, line, told):
    assert told in fails(capsys, 2, *shlex.split(line))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("generate x --model missing.safetensors", "there is no file missing.safetensors"),
        ("generate x --adapter missing.safetensors", "there is no file missing.safetensors"),
        (f"finetune --save {__file__}/a.safetensors", "test_cli.py"),
        ("finetune --task e2e --path /no/such/folder", "Looked in: /no/such/folder/"),
        ("finetune --path x", "makes its own data and takes no path"),
        ("params --model gpt2 --method lora --set targets=c_attn", "Did you mean"),
        ("memory --length 500", "length must be in 1 … 256, the context, got 500"),
        ("memory --model gpt3-175b --measure", "a step needs about"),
        ("generate x --top-p 2", "top_p must be in (0, 1]"),
        ("finetune --method full --lr 1e30 --steps 3 --n 8 --eval 2", "the loss is not finite"),
    ],
)
def test_a_failure_is_1_and_says_why(capsys, line, told):
    assert told in fails(capsys, 1, *line.split())


def test_a_long_or_strange_error_is_cut_to_a_screen(capsys, monkeypatch):
    def broken(**_):
        raise ZeroDivisionError("\n".join(map(str, range(100))))

    monkeypatch.setattr(sys.modules["minipeft.course.diagnosis"], "doctor", broken)
    error = fails(capsys, 1, "doctor")
    assert "ZeroDivisionError: 0" in error and "MINIPEFT_TRACEBACK=1" in error
    monkeypatch.setenv("MINIPEFT_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor", "--json"])


# -- help -----------------------------------------------------------------------------------------


def parser_of(name):
    (commands,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name):
    parser = parser_of(name)
    text = parser.format_help()
    assert "--json" in text and max(map(len, text.splitlines())) <= 100
    words = shlex.split(parser.epilog.partition("example:\n")[2].replace("\\\n", " "))
    assert words[:2] == ["minipeft", name]
    assert parser.parse_args(words[2:])


def test_all_commands_are_there():
    assert all(name in cli._parser().format_help() for name in COMMANDS)


# -- as a process ---------------------------------------------------------------------------------


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "minipeft", *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )  # fmt: skip


def run(*arguments, **options):
    process = start(*arguments, **options)
    process.stdout, out = None, process.stdout.read()
    return subprocess.CompletedProcess(arguments, process.wait(), out, process.stderr.read())


def test_the_module_is_the_command_and_help_is_quick():
    code = (
        "import sys; sys.argv = ['minipeft', '--help']\n"
        "import atexit; atexit.register(lambda: print('numpy' in sys.modules))\n"
        "import runpy; runpy.run_module('minipeft', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: minipeft")
    assert done.stdout.endswith("False\n")


def test_exit_codes_reach_the_shell():
    assert run("params", "--model", "gpt4").returncode == 2
    assert run("generate", "x", "--model", "missing.safetensors").returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="posix: signals and pipes")
def test_a_reader_that_leaves_is_no_error():
    process = start("params", "--model", "gpt3-175b")  # more than a pipe holds
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 141 and process.stderr.read() == ""


@pytest.mark.skipif(os.name != "posix", reason="posix: signals and pipes")
@pytest.mark.parametrize(
    ("command", "sign"), [("finetune", "before"), ("compare", "remap-route with lora")]
)
def test_ctrl_c_stops_quietly(command, sign, tmp_path):
    more = ["--methods", "lora", "--seeds", "9"] if command == "compare" else []

    def heard():  # whoever runs the tests in the background may have SIGINT ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start(command, *more, "--steps", "100000", "--json", cwd=tmp_path,
                    start_new_session=True, preexec_fn=heard)  # fmt: skip
    assert any(sign in process.stderr.readline() for _ in range(12))
    time.sleep(0.2)  # workers start, and hear nothing yet
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=15)
    except subprocess.TimeoutExpired:  # Python may lose one that arrives inside a finalizer
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 130 and out == ""
    assert err.strip().endswith("minipeft: stopped") and "Traceback" not in err
