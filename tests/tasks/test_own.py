"""Own rows: what is read, how it is split, and that every mistake is named with its place."""

import json

import numpy as np
import pytest

from minipeft import evaluate, fit
from minipeft.contract import attach
from minipeft.methods import LoRA
from minipeft.tasks import load_own
from minipeft.tasks.base import Pattern
from minipeft.tasks.own import RowError
from tests.tiny import ANIMALS, SOUNDS, gpt

PAIRS = [(f"the {a}", s) for a, s in zip(ANIMALS, SOUNDS, strict=True)]
MANY = [(f"number {i} is", f" {'even' if i % 2 == 0 else 'odd'}") for i in range(40)]


def written(tmp_path, text, name="my.csv"):
    """A file with this content."""
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def three(tmp_path, text, name="my.csv"):
    """The examples of a file of few rows, in their order."""
    return load_own(written(tmp_path, text, name), held_out=0).parts["all"]


# -- what is read ---------------------------------------------------------------------------------


def test_a_csv_of_prompts_and_targets_is_a_generation(tmp_path):
    csv = 'prompt,target\nthe cat, meows\n"a dog, a big one",barks\n\n"two\nlines",x\n'
    rows = three(tmp_path, csv)
    assert [(e.prompt, e.target) for e in rows] == [
        ("the cat", " meows"), ("a dog, a big one", " barks"), ("two\nlines", " x"),
    ]  # fmt: skip
    assert all(e.label is None and e.references == (e.target,) for e in rows)
    task = load_own(written(tmp_path, csv), held_out=0)
    assert (task.name, task.kind, task.metric) == ("my", "generation", "exact")


def test_long_targets_are_scored_by_bleu():
    for long, metric in (("one two three", "exact"), ("one two three four", "bleu")):
        assert load_own([("a", long), ("b", "one")], held_out=0).metric == metric


def test_rows_may_have_other_options_each_and_keep_them():
    rows = [{"prompt": p, "label": 1, "options": [p + "x", p + "y"]} for p in "abcdef"]
    task = load_own(rows)
    assert task.patterns == (Pattern("{x}"),)
    for e in task.load("all", pattern=Pattern("Q: {x}")):
        assert e.prompt == f"Q: {e.options[0].strip()[0]}" and e.target == e.options[1]
        assert e.references == (e.target,)


def test_the_ending_and_spaces_after_commas_are_read_as_they_come(tmp_path):
    (e,) = three(tmp_path, 'prompt,target\na, "b, c"\n', "MY.CSV")
    assert (e.prompt, e.target) == ("a", " b, c")


def test_options_make_a_classification(tmp_path):
    (e,) = three(tmp_path, "prompt,target,options\nIs it?,no,yes | no\n")
    assert (e.target, e.options, e.label) == (" no", (" yes", " no"), 1)
    (e,) = three(tmp_path, "prompt,label,options\nIs it?,1,yes|no\n")
    assert (e.target, e.options, e.label) == (" no", (" yes", " no"), 1)
    task = load_own(written(tmp_path, "prompt,label,options\nIs it?,1,yes|no\n"), held_out=0)
    assert task.kind == "classification" and task.patterns == (Pattern("{x}", (" yes", " no")),)


def test_a_jsonl_holds_the_same(tmp_path):
    rows = [{"prompt": "the cat", "target": " meows"}, {"prompt": "Is it? ", "target": "no"}]
    found = three(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n", "my.jsonl")
    assert [(e.prompt, e.target) for e in found] == [("the cat", " meows"), ("Is it? ", "no")]
    row = {"prompt": "Is it?", "target": None, "label": 0, "options": ["yes", " no"]}
    (e,) = three(tmp_path, json.dumps(row), "my.jsonl")
    assert (e.target, e.options, e.label) == (" yes", (" yes", " no"), 0)


def test_a_list_of_pairs_or_of_mappings_is_taken():
    rows = load_own([("a", "b"), {"prompt": "c", "label": 1, "options": "x|y"}][:1], held_out=0)
    assert rows.parts["all"][0].target == " b"
    (e,) = load_own([{"prompt": "c", "label": 1, "options": ["x", "y"]}], held_out=0).parts["all"]
    assert e.target == " y"


def test_a_mark_of_the_byte_order_and_spaces_in_the_first_line_do_no_harm(tmp_path):
    (e,) = three(tmp_path, "\ufeffprompt, target\nthé cat,méows\n".encode())
    assert (e.prompt, e.target) == ("thé cat", " méows")


# -- splits ---------------------------------------------------------------------------------------


def test_no_prompt_is_in_two_splits_and_none_is_lost():
    task = load_own([*MANY, *MANY[:10]])
    parts = [{e.prompt for e in task.parts[s]} for s in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [32, 4, 4] and len(set.union(*parts)) == 40
    assert task.sizes == tuple(len(task.parts[s]) for s in task.splits)
    assert sum(task.sizes[:3]) == task.sizes[3] == 50


def test_the_split_of_a_prompt_does_not_depend_on_the_order_of_rows():
    a, b = load_own(MANY), load_own(MANY[::-1])
    for split in a.splits:
        assert {e.prompt for e in a.load(split)} == {e.prompt for e in b.load(split)}


def test_loading_is_that_of_every_task():
    task = load_own(MANY)
    assert task.load("train", 5, seed=1) == task.load("train", seed=1)[:5]
    assert task.load("train", seed=1) != task.load("train", seed=2)
    (e,) = task.load("test", 1, pattern=Pattern("Q: {x}"))
    assert e.prompt.startswith("Q: number")
    with pytest.raises(ValueError, match="has 4 examples in the split 'test', got n=5"):
        task.load("test", 5)
    with pytest.raises(ValueError, match="no split 'tst'"):
        task.load("tst")


def test_held_out_is_a_share_and_0_trains_on_everything():
    assert load_own(MANY, held_out=0.5).sizes == (20, 10, 10, 40)
    task = load_own(PAIRS[:1], held_out=0)
    assert task.sizes == (1, 0, 0, 1)
    with pytest.raises(ValueError, match="0 examples in the split 'test', because held_out=0"):
        task.load("test")
    with pytest.raises(ValueError, match="held_out must be a share"):
        load_own(MANY, held_out=1)


def test_the_repr_tells_name_kind_and_sizes():
    assert repr(load_own(MANY)) == (
        "Own('own': generation, exact; train 32, validation 4, test 4, all 40)"
    )


# -- training and scoring -------------------------------------------------------------------------


def test_fit_and_evaluate_take_a_list_a_file_or_the_task(tmp_path):
    file = written(tmp_path, "prompt,target\n" + "".join(f"{p},{t}\n" for p, t in PAIRS))
    losses, scores = [], []
    for source in (PAIRS, str(file), file, load_own(file)):
        model = gpt()
        attach(model, LoRA(r=2))
        losses.append(fit(model, source, steps=3, lr=0.01, batch=2, quiet=True).loss)
        scores.append(evaluate(model, source))
    assert losses[0] == losses[1] == losses[2] == losses[3]
    assert scores[0] == scores[1] == scores[3] and scores[0]["n"] == 1 and "exact" in scores[0]


def test_a_model_learns_the_rows_that_it_is_given():
    rows = [{"prompt": p, "target": t, "options": ["moos", "barks", "hoots", "clucks", "meows"]}
            for p, t in PAIRS]  # fmt: skip
    task, model = load_own(rows, held_out=0), gpt()
    attach(model, LoRA(r=4, targets="all-linear"))
    before = evaluate(model, task, "all")
    fit(model, task, steps=60, lr=0.02, batch=6, quiet=True)
    after = evaluate(model, task, "all")
    assert before["accuracy"] < 60 and after["accuracy"] == 100 and np.isfinite(after["loss"])


# -- mistakes -------------------------------------------------------------------------------------

HEAD = "prompt,target,label,options\n"
MISTAKES = {
    "a column is missing": ("prompt,answer\na,b\n", "line 1: no column 'target'"),
    "its name is misspelt": ("promt,target\na,b\n", r"no column 'prompt' (did you mean 'promt'?)"),
    "tabs": ("prompt\ttarget\na\tb\n", r"its columns are parted by '\t'"),
    "semicolons": ("prompt;target\na;b\n", "its columns are parted by ';'"),
    "a label without options": ("prompt,target,label\na,b,0\n", "no column 'options'"),
    "a column twice": ("prompt,target,target\na,b,c\n", "the column 'target' is there twice"),
    "an empty file": ("", "is empty: its first line must name"),
    "no rows": ("prompt,target\n", "holds no row"),
    "an empty prompt": ("prompt,target\na,b\n ,c\n", "row 2 (line 3), column 'prompt' is empty"),
    "after an empty line": ("prompt,target\na,b\n\n ,c\n", "row 2 (line 4), column 'prompt'"),
    "an empty target": ('prompt,target\n"a\nb",c\nd,\n', "row 2 (line 4), column 'target' is em"),
    "a row of two lines": ('prompt,target\n"a\nb",\n', "row 1 (line 2), column 'target' is empty"),
    "a cell too many": ("prompt,target\na,b\nc,d,e\n", "row 2 (line 3): 3 cells for 2 columns"),
    "a cell too few": ("prompt,target\na,b\nc\n", "row 2 (line 3): 1 cells for 2 columns"),
    "an open quote": ('prompt,target\na,b\n"c,d\n', "begins on line 3 is not CSV"),
    "another encoding": ("prompt,target\na,b\nd\u00e9,c\n".encode("latin-1"),
                         "line 3 is not UTF-8 (byte 0xe9 at column 2)"),
    "a label that is no number": (HEAD + "a,x,one,x|y\n", "column 'label': wanted the number"),
    "a label of no option": (HEAD + "a,x,2,x|y\n", "column 'label': 2 is none of the 2 options"),
    "a negative label": (HEAD + "a,x,-1,x|y\n", "column 'label': -1 is none of the 2 options"),
    "a label against the target": (HEAD + "a,x,1,x|y\n", "label 1 is 'y', the target is 'x'"),
    "a target of no option": (HEAD + "a,z,,x|y\n", "'z' is none of the options 'x', 'y'"),
    "another mark": (HEAD + "a,x,,x;y\n", "wanted two or more with '|' between them, got 'x;y'"),
    "an empty option": (HEAD + "a,x,,x||y\n", "each must be there once and none be empty"),
    "an option twice": (HEAD + "a,x,,x|y|x\n", "each must be there once"),
    "options of some rows": (HEAD + "a,x,,x|y\nb,x,,\n", "row 2 (line 3) has no options"),
    "two prompts": ("prompt,target\na,b\nc,d\n", "has 2 different prompts: too few to keep 2 of"),
    "one prompt": ("prompt,target\na,b\na,c\n", "has 1 different prompts: too few"),
}  # fmt: skip
LINES = {
    "no JSON": ('{"prompt": "a", "target": "b"}\n' * 6 + "{prompt}\n", "line 7 is not JSON"),
    "deep": ("[" * 100_000, "line 1 is not JSON: nested too deeply"),
    "no object": ('["a", "b"]\n', "line 1 must be an object"),
    "a name is missing": ('{"prompt": "a", "targt": "b"}\n',
                          "line 1 has no 'target' (did you mean 'targt'?)"),
    "a number": ('{"prompt": "a", "target": 5}\n', "line 1, column 'target': wanted text, got 5"),
    "a fraction": ('{"prompt": "a", "label": 1.0, "options": ["x", "y"]}\n',
                   "column 'label': wanted the number of an option, from 0, got 1.0"),
    "true": ('{"prompt": "a", "label": true, "options": ["x", "y"]}\n', "from 0, got True"),
    "numbers as options": ('{"prompt": "a", "label": 1, "options": [1, 2]}\n',
                           "column 'options': wanted a list of texts"),
    "half a character": ('{"prompt": "\\ud800", "target": "b"}\n', "holds half of a character"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_in_a_csv_is_named_with_its_place(tmp_path, kind):
    text, told = MISTAKES[kind]
    with pytest.raises(RowError) as error:
        load_own(written(tmp_path, text))
    assert told in str(error.value) and len(str(error.value)) < 400
    assert "my" in str(error.value)


@pytest.mark.parametrize("kind", LINES)
def test_a_mistake_in_a_jsonl_is_named_with_its_line(tmp_path, kind):
    text, told = LINES[kind]
    with pytest.raises(RowError) as error:
        load_own(written(tmp_path, text, "my.jsonl"))
    assert told in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "the list holds no row"),
        ([("a", "b"), "c"], "row 2 of the list must be a (prompt, target) pair"),
        ([("a", "b", "c")], "row 1 of the list must be"),
        ([("a", 5)], "row 1 of the list, column 'target': wanted text, got 5"),
        ([{"prompt": "a"}], "row 1 of the list has no 'target'"),
        ([{"prompt": "a", "target": "x", "label": 0}], "row 1 of the list has no 'options'"),
    ],
)
def test_a_mistake_in_a_list_is_named_with_its_row(rows, told):
    with pytest.raises(RowError) as error:
        fit(gpt(), rows, steps=1, lr=0.1)
    assert told in str(error.value)


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.csv"):
        load_own(tmp_path / "none.csv")
    with pytest.raises(RowError, match=r"must end in \.csv or \.jsonl"):
        load_own(tmp_path / "x.txt")
