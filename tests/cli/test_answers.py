"""What was learnt is shown: finetune's examples, generate and evaluate with an adapter."""

import json
import math
import os
import shlex
import subprocess
from argparse import Namespace

import pytest

from minipeft import cli, evaluate, load_adapter, load_model
from minipeft.cli.answers import answers, shown
from minipeft.cli.arguments import described, task_of
from minipeft.cli.files import SHADES
from minipeft.cli.recorded import asked
from minipeft.contract import file as adapter_file
from minipeft.methods import LoRA
from minipeft.storage.checkpoint import load_arrays, save_arrays, save_model
from minipeft.tasks import get_image_task, get_task, load_own
from tests.clitools import QUICK, fails, small_base, tell, value  # noqa: F401

SENTIMENT = "{x} All in all it was"
ROWS = "prompt,target,options\n" + "".join(
    f"Number {i} is,{w},even|odd\n" for i, w in zip(range(20), ["even", "odd"] * 10, strict=True)
)
TEXTS = "prompt,target\n" + "".join(f'"line {i}\nit\'s",a {i}\n' for i in range(20))


@pytest.fixture
def made(capsys, tmp_path):
    """made(arguments…) is the adapter's file that finetune saves, and the value it returns."""

    def make(*arguments):
        file = str(tmp_path / "my adapter.safetensors")
        judged = "2" if "--data" in arguments else "9"
        got = value(capsys, "finetune", *QUICK, "--lr", "0.05", "--eval", judged, "--save", file,
                    *arguments)  # fmt: skip
        return file, got

    return make


@pytest.fixture
def own(tmp_path):
    """A file of own rows; own(TEXTS) is one for generation."""

    def write(text=ROWS):
        file = tmp_path / "mine.csv"
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


# -- generate beside its base ---------------------------------------------------------------------


def test_generate_answers_with_one_of_the_options(capsys, made):
    file, _ = made()
    got = value(capsys, "generate", "The soup was cold.", "--adapter", file)
    assert got["asked"] == "The soup was cold. All in all it was" and got["model"] == "tiny-gpt"
    for side in ("base", "tuned"):
        assert got[side]["text"] in ("terrible", "great")
        assert 0.5 <= got[side]["probability"] <= 1
    assert got["text"] == got["tuned"]["text"] and got["base"] != got["tuned"]
    lines = tell(capsys, "generate", "The soup was cold.", "--adapter", file).splitlines()
    assert [line[:11] for line in lines] == ["prompt     ", "base       ", "tuned      "]
    assert lines[1].endswith(f"({100 * got['base']['probability']:.0f} %)")


def test_the_probabilities_are_those_of_the_options_alone(capsys, made):
    from minipeft.generation.scoring import score

    file, _ = made()
    got = value(capsys, "generate", "x All in all it was", "--adapter", file)
    model = load_model("tiny-gpt")
    load_adapter(model, file)
    a, b = score(model, "x All in all it was", (" terrible", " great"))
    p = math.exp(a) / (math.exp(a) + math.exp(b))
    assert got["tuned"]["probability"] == pytest.approx(max(p, 1 - p), rel=1e-5)
    assert got["text"] == ("terrible" if a > b else "great")


def test_a_text_is_asked_for_by_name_or_by_sampling(capsys, made):
    file, _ = made()
    plain = value(capsys, "generate", "The soup", "--adapter", file, "--text")
    assert plain["asked"] == "The soup" and plain["tuned"]["probability"] is None
    for option in (
        ["--max-tokens", "5"],
        ["--temperature", "1"],
        ["--beams", "2"],
        ["--seed", "3"],
    ):
        got = value(capsys, "generate", "The soup", "--adapter", file, *option)
        assert got["asked"] == "The soup" and got["base"]["probability"] is None


@pytest.mark.parametrize(
    ("prompt", "template", "wanted"),
    [
        ("Cold.", SENTIMENT, "Cold. All in all it was"),
        ("Cold. All in all it was", SENTIMENT, "Cold. All in all it was"),
        ("x", "Q: {x}\nA:", "Q: x\nA:"),
        ("Q: x", "Q: {x}\nA:", "Q: Q: x\nA:"),
        ("a{x}", "{x}", "a{x}"),
        ("x", "Text: {x}\nClaim: {y}\nAnswer:", "x"),  # two places: it is asked as it stands
        ("x", "{x.__class__}", "x"),
        ("x", "{x!r:>99999999}", "x"),
    ],
)
def test_a_prompt_gets_the_form_of_the_training_once(prompt, template, wanted):
    assert asked(prompt, {"template": template}) == wanted


def test_an_adapter_of_texts_writes_texts(capsys, made, own):
    file, got = made("--data", own(TEXTS))
    said = value(capsys, "generate", "line 3", "--adapter", file)
    assert said["asked"] == "line 3" and said["tuned"]["probability"] is None
    assert got["metric"] == "exact" and got["outputs"][0]["reference"].startswith("a ")


def test_a_prompt_with_brackets_in_it_is_no_template(capsys, made):
    file, _ = made()
    got = value(capsys, "generate", "a {y} b", "--adapter", file)
    assert got["asked"] == "a {y} b All in all it was"


@pytest.mark.parametrize("model", ["tiny-gpt", "tiny-bert"])
def test_a_classifier_answers_a_short_prompt_beside_a_long_one_as_alone(model):
    tuned = load_model(model, head="linear", classes=2)
    prompts = ("x", "a far longer prompt than that one")
    rows = [{"prompt": p, "label": 0, "options": ["a", "b"]} for p in prompts]
    examples = load_own(rows, held_out=0).parts["all"]
    together = answers(tuned, examples, ("a", "b"))
    for example, answer in zip(examples, together, strict=True):
        (alone,) = answers(tuned, [example], ("a", "b"))
        assert alone["text"] == answer["text"]
        assert alone["probability"] == pytest.approx(answer["probability"], rel=1e-4)
    assert together[0]["probability"] != together[1]["probability"]


def test_every_example_is_answered_among_its_own_options():
    rows = [{"prompt": f"{p} is", "label": 0, "options": [p + "x", p + "y"]} for p in "abc"]
    examples = load_own(rows, held_out=0).parts["all"]
    model = load_model("tiny-gpt")
    for example, answer in zip(examples, answers(model, examples), strict=True):
        (alone,) = answers(model, [example])
        assert answer["text"] == alone["text"] in {option.strip() for option in example.options}
        assert answer["probability"] == pytest.approx(alone["probability"], abs=1e-6)
    assert shown({"text": "", "probability": None}) == "(nothing)"
    assert shown({"text": "", "probability": 0.5}) == "(nothing) (50 %)"


# -- what finetune ends with ----------------------------------------------------------------------


def test_finetune_ends_with_held_out_examples_and_a_command(capsys, tmp_path):
    file = str(tmp_path / "it's here.safetensors")
    line = ["finetune", *QUICK, "--eval", "9", "--save", file]
    text = tell(capsys, *line)
    got = value(capsys, *line)
    assert len(got["outputs"]) == 3
    task = get_task("sentiment").load("validation", 3)
    assert [one["prompt"] for one in got["outputs"]] == [e.prompt for e in task]
    assert [one["reference"] for one in got["outputs"]] == [e.target.strip() for e in task]
    for name in ("prompt", "base", "tuned", "reference"):
        assert text.count(f"\n{name:11}") == 3
    *lines, saved, last = text.splitlines()
    assert max(map(len, lines)) < 80 and file in saved and last == got["try"]
    assert "--save FILE keeps" in tell(capsys, *line[:-2])


@pytest.mark.parametrize("text", [ROWS, TEXTS, TEXTS.replace("line", "-line $(x) `y`")])
def test_the_command_to_try_works_when_it_is_pasted(capsys, made, own, text):
    file, got = made("--data", own(text))
    script = f"printf '%s\\0' {got['try']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    words = done.stdout.split("\0")[:-1]
    assert words[:2] == ["minipeft", "generate"] and file in words
    assert cli.main([words[1], "--json", *words[2:]]) == 0
    said = json.loads(capsys.readouterr().out)
    shown = next(one for one in got["outputs"] if one["prompt"] == said["prompt"])
    assert said["tuned"]["text"].strip() == shown["tuned"]["text"]
    assert said["base"]["text"].strip() == shown["base"]["text"]


def test_the_adapter_is_saved_before_what_may_fail(capsys, tmp_path, monkeypatch):
    from minipeft.training import evaluation as train

    calls, real = [], train.evaluate

    def second_fails(*a, **k):
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("no")
        return real(*a, **k)

    monkeypatch.setattr(train, "evaluate", second_fails)
    file = tmp_path / "a.safetensors"
    fails(capsys, 1, "finetune", *QUICK, "--eval", "3", "--save", str(file))
    assert file.is_file()


# -- evaluate -------------------------------------------------------------------------------------


def test_evaluate_puts_the_base_beside_the_tuned_model(capsys, made):
    file, trained = made("--pattern", "1")
    got = value(capsys, "evaluate", "--adapter", file, "--n", "9")
    assert got["tuned"] == trained["after"] and got["base"] == trained["before"]
    assert (got["task"], got["pattern"], got["split"]) == ("sentiment", 1, "validation")
    other = value(capsys, "evaluate", "--adapter", file, "--n", "9", "--task", "nli")
    assert (other["task"], other["pattern"]) == ("nli", 0)
    first = value(capsys, "evaluate", "--adapter", file, "--n", "9", "--pattern", "0")
    assert first["pattern"] == 0 and first["base"] != got["base"]  # 0 is a number like others
    lines = tell(capsys, "evaluate", "--adapter", file, "--n", "9").splitlines()
    assert lines[0] == "tiny-gpt on sentiment, split validation, 9 examples"
    assert lines[1].split() == ["loss", "accuracy"]
    assert [line.split()[0] for line in lines[2:]] == ["base", "tuned"]
    assert len({len(line) for line in lines[1:]}) == 1  # it is aligned


def test_evaluate_without_an_adapter_scores_a_model(capsys):
    got = value(capsys, "evaluate", "--task", "nli", "--n", "6", "--split", "test")
    wanted = evaluate(load_model("tiny-gpt"), get_task("nli"), "test", n=6)
    assert got["base"] == pytest.approx(wanted) and got["tuned"] is None
    assert "tuned" not in tell(capsys, "evaluate", "--n", "6")


def test_the_adapter_knows_its_model_wherever_the_command_is_run(
    capsys, made, tmp_path, monkeypatch
):
    model = load_model("tiny-gpt")
    model.ln_f.weight.data = model.ln_f.weight.data * 2
    save_model(model, tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    file, got = made("--model", "mine.safetensors")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    said = value(capsys, "evaluate", "--adapter", file, "--n", "9")
    assert said["tuned"] == got["after"]
    (tmp_path / "mine.safetensors").rename(tmp_path / "other.safetensors")
    error = fails(capsys, 1, "evaluate", "--adapter", file)
    assert "mine.safetensors, which is not there now: --model names" in error
    said = value(capsys, "evaluate", "--adapter", file, "--n", "9", "--model",
                 "../other.safetensors")  # fmt: skip
    assert said["tuned"] == got["after"]


def test_a_file_without_a_card_is_known_by_its_base(capsys, made, tmp_path):
    file, _ = made("--model", "tiny-bert")
    arrays, metadata = load_arrays(file)
    older = tmp_path / "older.safetensors"
    save_arrays(older, arrays, {k: v for k, v in metadata.items() if k != "card"})
    assert value(capsys, "evaluate", "--adapter", str(older), "--n", "4")["model"] == "tiny-bert"


@pytest.mark.parametrize(
    "card", [{"model": 5}, {"options": "xy"}, {"options": [1]}, {"pattern": "0"}, {"template": []}]
)
def test_a_strange_card_is_refused_by_name(capsys, made, tmp_path, card):
    file, _ = made()
    arrays, metadata = load_arrays(file)
    strange = tmp_path / "strange.safetensors"
    save_arrays(strange, arrays, metadata | {"card": json.dumps(card)})
    assert "its card's" in fails(capsys, 1, "generate", "x", "--adapter", str(strange))


# -- own data -------------------------------------------------------------------------------------


def test_own_rows_are_trained_and_scored(capsys, made, own):
    file, got = made("--data", own())
    assert got["task"] == "mine" and got["before"]["n"] == 2 and "accuracy" in got["after"]
    card = adapter_file.read(file)[1]["card"]
    assert card["options"] == [" even", " odd"] and card["data"].endswith("mine.csv")
    said = value(capsys, "evaluate", "--adapter", file)
    assert said["task"] == "mine" and said["tuned"]["n"] == said["n"] == 2
    everything = value(capsys, "evaluate", "--data", own(), "--split", "all")
    wanted = evaluate(load_model("tiny-gpt"), load_own(own()), "all")
    assert everything["base"] == pytest.approx(wanted) and everything["n"] == 20
    got = value(capsys, "finetune", "--data", own(), "--steps", "2", "--head", "linear")
    assert got["head"] == "linear" and got["after"]["n"] == 2


def test_files_are_remembered_by_their_whole_paths(capsys, made, own, monkeypatch):
    monkeypatch.chdir(os.path.dirname(own()))
    card = adapter_file.read(made("--data", "mine.csv")[0])[1]["card"]
    assert card["data"] == os.path.abspath("mine.csv")


def test_what_is_asked_for_goes_before_what_the_adapter_recorded(tmp_path):
    args = Namespace(data=None, task=None, path=str(tmp_path / "asked"))
    with pytest.raises(FileNotFoundError, match="Looked in: .*/asked/"):
        task_of(args, "tiny-gpt", {"task": "e2e", "path": str(tmp_path / "recorded")}).load("train")
    args.task = "nli"
    args.path = None
    assert task_of(args, "tiny-gpt", {"task": "sentiment"}).name == "nli"


def test_settings_are_gathered_and_told_where_they_are_not_the_defaults(capsys):
    got = value(capsys, "params", "--method", "lora", "--set", "r=2", "--set", "alpha=3")[
        "settings"
    ]
    assert (got["r"], got["alpha"]) == (2, 3.0)
    assert described(LoRA()) == "lora"
    assert described(LoRA(r=4, targets=("fc_in", "fc_out"))) == "lora r=4 targets=fc_in,fc_out"


def test_own_rows_go_with_no_other_task(capsys, own, tmp_path):
    assert "leave --task" in fails(capsys, 2, "evaluate", "--data", own(), "--task", "nli")
    assert "no file" in fails(capsys, 1, "finetune", "--data", str(tmp_path / "none.csv"))
    assert "row 1 (line 2)" in fails(capsys, 1, "finetune", "--data", own("prompt,target\n,x\n"))
    assert "16 examples in the split 'train', got n=17" in fails(
        capsys, 1, "finetune", "--data", own(), "--n", "17")  # fmt: skip


# -- heads, BERT and pictures ---------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tiny-gpt", "tiny-bert"])
def test_an_adapter_with_a_new_head_works_everywhere(capsys, made, tmp_path, model):
    file, got = made("--model", model, "--head", "linear", "--task", "nli")
    said = value(capsys, "evaluate", "--adapter", file, "--n", "9")
    assert said["tuned"] == got["after"] and said["base"]["n"] == 9
    task = get_task("nli").load("validation", 1)[0]
    answer = value(capsys, "generate", task.prompt, "--adapter", file)
    assert answer["tuned"] == pytest.approx(got["outputs"][0]["tuned"])
    assert answer["tuned"]["text"] in ("true", "neither", "false") and answer["base"]["text"]
    assert value(capsys, "inspect", file)["shipped base"] == model
    merged = str(tmp_path / "merged.safetensors")
    assert tell(capsys, "merge", file, "--out", merged).startswith(f"lora merged into {model}\n")
    again = value(capsys, "evaluate", "--model", merged, "--task", "nli", "--n", "9")
    assert again["base"] == pytest.approx(got["after"], rel=1e-4)
    assert "classifier (head linear)" in fails(capsys, 2, "generate", "x", "--model", merged)
    assert "classifier" in fails(capsys, 2, "generate", "x", "--adapter", file, "--text")
    assert "trained for 3 classes, sentiment has 2. Tasks with 3: nli" in fails(
        capsys, 2, "evaluate", "--adapter", file, "--task", "sentiment")  # fmt: skip


def test_a_bert_chooses_and_writes_nothing(capsys, made):
    file, got = made("--model", "tiny-bert")
    prompt = got["outputs"][0]["prompt"]
    answer = value(capsys, "generate", prompt, "--adapter", file)
    assert answer["tuned"] == pytest.approx(got["outputs"][0]["tuned"])
    assert "fills gaps" in fails(capsys, 2, "generate", "x", "--adapter", file, "--beams", "2")
    assert "fills gaps" in fails(capsys, 2, "generate", "x", "--model", "tiny-bert")


def test_pictures_are_trained_scored_and_looked_at(capsys, made):
    file, got = made("--model", "tiny-vit")
    assert got["task"] == "textures" and got["after"] != got["before"]
    names = get_image_task("textures").classes
    assert all(one["tuned"]["text"] in names and one["base"] is None for one in got["outputs"])
    assert got["outputs"][0]["reference"] in names
    words = shlex.split(got["try"])
    assert words[1] == "evaluate"
    said = value(capsys, *words[1:])
    assert said["split"] == "test" and said["base"] is None and said["tuned"]["n"] == 1000
    assert ["base", "-", "-"] in [
        line.split() for line in tell(capsys, "evaluate", "--adapter", file).splitlines()
    ]
    assert value(capsys, "inspect", "tiny-vit")["model"] == "vit"
    assert value(capsys, "inspect", file)["shipped base"] == "tiny-vit"
    assert "reads pictures and writes no text" in fails(
        capsys, 2, "generate", "x", "--adapter", file
    )
    assert "reads pictures" in fails(capsys, 2, "generate", "x", "--model", "tiny-vit")
    assert "Tasks with 16: shapes" in fails(capsys, 2, "evaluate", "--model", "tiny-vit")
    own = value(capsys, "evaluate", "--model", "tiny-vit", "--task", "shapes", "--n", "20")
    assert own["base"]["n"] == 20


def test_a_model_and_a_task_of_other_kinds_name_what_fits(capsys):
    for command in ("finetune", "compare"):
        error = fails(capsys, 2, command, "--model", "tiny-vit", "--task", "nli")
        assert "tiny-vit reads pictures, and nli is on text; tasks for it: shapes" in error
        error = fails(capsys, 2, command, "--task", "cells")
        assert "tiny-gpt reads text, and cells is on pictures; tasks for it: sentiment" in error


def test_data_shows_pictures(capsys):
    assert {"shapes", "textures", "mnist"} <= {row["task"] for row in value(capsys, "data")}
    rows = value(capsys, "data", "cells", "--n", "2", "--split", "test")
    images = get_image_task("cells").load("test", 2)
    assert [row["label"] for row in rows] == images.labels.tolist()
    assert rows[1]["class"] in ("healthy", "sick")
    assert rows[1]["pixels"][3][5] == pytest.approx(float(images.pixels[1, 0, 3, 5]))
    lines = tell(capsys, "data", "cells", "--n", "2").splitlines()
    assert len(lines) == 2 * 17 + 1 and max(map(len, lines)) == 32
    drawn = get_image_task("cells").load("train", 2).pixels[0, 0]
    assert {0, 9} <= {round(9 * x) for x in drawn.ravel().tolist()}
    for line, row in zip(lines[1:17], drawn.tolist(), strict=True):
        assert line == "".join(2 * SHADES[round(9 * x)] for x in row).rstrip()


def test_the_list_of_tasks_is_a_table(capsys):
    lines = tell(capsys, "data").splitlines()
    columns = [lines[0].index(word) for word in ("kind", "metric", "patterns", "splits")]
    assert all(line[c - 1] == " " and line[c] != " " for line in lines[:-2] for c in columns)
    assert lines[-2:] == ["", "minipeft data TASK shows examples of one"]
