"""TruthfulQA: the published files read whole, MC1 and MC2 as counted by hand, odd files refused."""

import json
import math

import pytest

from minipeft.generation import metrics
from minipeft.generation.scoring import score_many
from minipeft.tasks import get_task
from minipeft.tasks.truthful_qa import TruthfulQA
from minipeft.training import evaluation
from minipeft.training.evaluation import evaluate
from tests.tiny import gpt

ROWS = [
    {"question": f"What does the {who} say?", "mc1_targets": {own: 1, "barks.": 0, "hoots.": 0},
     "mc2_targets": {own: 1, "nothing.": 1, "barks.": 0, "hoots.": 0}}
    for who, own in (("cat", "meows."), ("cow", "moos."), ("hen", "clucks."), ("fox", "meows."))
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mc_task.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return tmp_path


def test_the_published_files(real_data):
    task = get_task("truthful-qa", path=real_data("truthfulqa"))
    rows, texts = task.questions(), task.texts()
    assert len(rows) == len(texts) == 817 == len({row["question"] for row in rows})
    assert sum(len(row["mc1_targets"]) for row in rows) == 4186
    assert sum(len(row["mc2_targets"]) for row in rows) == 6204
    categories = [row["Category"] for row in texts]
    assert len(set(categories)) == 38 and categories.count("Misconceptions") == 100
    assert sum(len(row["Correct Answers"].split("; ")) for row in texts) == 2840
    assert len({r["question"] for r in rows} & {t["Question"] for t in texts}) == 816


def test_examples_of_the_published_files(real_data):
    folder = real_data("truthfulqa")
    one, two = TruthfulQA(folder), TruthfulQA(folder, "mc2")
    parts = [{e.prompt for e in one.load(split)} for split in one.splits]
    assert list(map(len, parts)) == [328, 81, 408, 817]
    assert parts[0] | parts[1] | parts[2] == parts[3]
    assert sum(e.label == 0 for e in one.load("all")) < 300  # the file has the true one first
    for e in one.load("test", 50):
        assert e.prompt.startswith("Q: ") and e.prompt.endswith("\nA:")
        assert e.target == e.options[e.label] == e.references[0] and len(e.references) == 1
    for e in two.load("test", 50):
        assert 0 < len(e.references) < len(e.options)
        assert e.target == e.options[e.label] in e.references


def test_the_published_files_can_be_scored(real_data):
    """Few questions and an untrained model: each is asked, and none is out of range."""
    model = gpt(context=640, dtype="float32")
    for targets, most in (("mc1", 8), ("mc2", 4)):
        task = TruthfulQA(real_data("truthfulqa"), targets)
        found = evaluate(model, task, "test", n=most)
        assert found["n"] == most and 0 <= found[targets] <= 100


def test_mc1_and_mc2_as_counted_by_hand(folder, monkeypatch):
    """The probabilities of all answers are told; the share on the true ones is added up here."""
    said = {" meows.": 0.4, " barks.": 0.3, " hoots.": 0.05, " moos.": 0.1, " clucks.": 0.2,
            " nothing.": 0.05}  # fmt: skip

    def scores(model, asked, normalize=False, batch=64):
        return [[math.log(said[o]) for o in options] for _, options in asked]

    monkeypatch.setattr(evaluation, "score_many", scores)
    one = evaluate(gpt(context=64), TruthfulQA(folder), "all", n=4)
    assert one["mc1"] == 50.0  # the cat and the fox; barks is likelier than moos and clucks
    two = evaluate(gpt(context=64), TruthfulQA(folder, "mc2"), "all", n=4)
    shares = (0.45 / 0.8, 0.15 / 0.5, 0.25 / 0.6, 0.45 / 0.8)
    assert two["mc2"] == pytest.approx(100 * sum(shares) / 4)


def test_scores_are_the_model_s_own(folder):
    model, task = gpt(context=64), TruthfulQA(folder, "mc2")
    examples = task.load("all", 4)
    rows = score_many(model, [(e.prompt, e.options) for e in examples])
    marks = [[o in e.references for o in e.options] for e in examples]
    assert evaluate(model, task, "all", n=4)["mc2"] == pytest.approx(metrics.mc2(rows, marks))


def test_patterns_and_draws(folder):
    task = TruthfulQA(folder)
    assert task.load("all", 4) == task.load("all", 4)[:4]
    assert task.load("all", 4, seed=1) != task.load("all", 4)
    asked = {task.load("all", 1, pattern=i)[0].prompt for i in range(3)}
    assert len(asked) == 3 and sum("\nAnswer:" in p for p in asked) == 2
    with pytest.raises(ValueError, match="has 4 questions in the split 'all', got n=5"):
        task.load("all", 5)


def test_the_true_answer_stands_anywhere(folder):
    task = TruthfulQA(folder)
    drawn = [e for seed in range(20) for e in task.load("all", 4, seed=seed)]
    assert {e.label for e in drawn} == {0, 1, 2}
    true = {row["question"]: next(iter(row["mc1_targets"])) for row in ROWS}
    assert all(e.target == f" {true[question]}" for e in drawn
               for question in true if question in e.prompt)  # fmt: skip


def test_missing_and_odd_files_are_named(tmp_path):
    task = TruthfulQA(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        task.load("test", 5)
    assert str(tmp_path / "mc_task.json") in str(caught.value) and "--path" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="TruthfulQA.csv"):
        task.texts()
    (tmp_path / "TruthfulQA.csv").write_text("Question,Answer\na,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no column Best Answer, Category, Correct Answers"):
        task.texts()
    true = {"a": 1, "b": 0}
    for text, message in (
        ("{", "is not JSON"), ("{}", "a list of questions, and not empty"), ("[]", "not empty"),
        ([{"mc1_targets": true}], "row 0 has no question"),
        ([{"question": "a?", "mc1_targets": {"a": 1}}], "row 0 needs mc1_targets with true and f"),
        ([{"question": "a?", "mc1_targets": true}], "row 0 needs mc2_targets"),
        ([{"question": "a?", "mc1_targets": {"a": 1, "c": 1, "b": 0}, "mc2_targets": true}],
         "row 0: MC1 has one true answer"),
    ):  # fmt: skip
        whole = text if isinstance(text, str) else json.dumps(text)
        (tmp_path / "mc_task.json").write_text(whole, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            TruthfulQA(tmp_path).load("all", 1)
    with pytest.raises(ValueError, match=r"'mc1' or 'mc2', got 'mc3' \(did you mean 'mc"):
        TruthfulQA(tmp_path, "mc3")


def test_without_a_path_the_cache_is_looked_in(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "truthfulqa").mkdir(parents=True)
    (folder / "mc_task.json").rename(tmp_path / "cache" / "truthfulqa" / "mc_task.json")
    assert len(TruthfulQA().load("all", 4)) == 4
