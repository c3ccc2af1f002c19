"""The probes of the world: what they compute is what they say."""

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments import results
from minipeft.course.experiments.activations import activations
from minipeft.course.experiments.bases import ladder
from minipeft.course.experiments.bases.counted_words import bag_of_words, ridge
from minipeft.course.experiments.bases.ladder import nearest_levels
from minipeft.course.experiments.runner import base
from minipeft.course.experiments.world import context as world_context
from minipeft.course.experiments.world import training as world_training
from minipeft.course.experiments.world.context import order, pattern_of, shown
from minipeft.course.experiments.world.runs import READ
from minipeft.course.experiments.world.training import Rows
from minipeft.engine import no_grad, running
from minipeft.models import BERTConfig, build
from minipeft.tasks import Example, get_task
from minipeft.training.batches import TaskBatches, TokenBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.world.lexicon import LABELS


def points(rng, n, classes=3, width=8, far=4.0):
    labels = rng.integers(0, classes, n)
    return rng.normal((n, width)) + far * np.eye(width)[labels] - 50.0, labels


def test_ridge_tells_what_a_line_can_tell_and_no_more():
    parts = [points(Rng(0, "points", i), n) for i, n in enumerate((200, 100, 300))]
    assert ridge(*parts) > 95.0
    noise = [(x, Rng(1, "labels", i).integers(0, 3, len(y))) for i, (x, y) in enumerate(parts)]
    assert 20.0 < ridge(*noise) < 47.0


def test_ridge_picks_its_penalty_on_validation_alone():
    """With labels of the test part turned about, the same penalty is picked."""
    parts = [points(Rng(2, "points", i), 60, classes=2, far=1.0) for i in range(3)]
    turned = (parts[2][0], 1 - parts[2][1])
    assert ridge(*parts[:2], turned) == pytest.approx(100.0 - ridge(*parts))


def test_counting_words_solves_what_words_solve():
    def example(word, label):
        return Example(f"one {word} thing", " x", (" x", " y"), label)

    train = [example(w, i % 2) for i, w in enumerate(("good", "bad") * 20)]
    assert bag_of_words(train, train[:10]) == 100.0
    assert bag_of_words(train, [example("new", i % 2) for i in range(10)]) == 50.0


def test_solved_examples_stand_before_the_question():
    a, b = Example("Q1", " yes"), Example("Q2", " no")
    assert shown([a, b], "Q3") == "Q1 yes\nQ2 no\nQ3" and shown([], "Q3") == "Q3"


def test_words_without_meaning_come_by_the_seed():
    assert pattern_of("natural", 3) == 0
    patterns = [pattern_of("new", seed) for seed in (0, 0, 1)]
    assert patterns[0] == patterns[1] != patterns[2]
    assert all(w.strip() in LABELS for p in patterns for w in p.words)
    assert all(len(set(p.words)) == 2 for p in patterns)


def test_order_averages_over_orders_that_it_may_change(monkeypatch):
    """A model that repeats the last label: accuracy is that of chance in every order."""
    asked = []

    def score_many(model, questions, **settings):
        asked.extend(prompt for prompt, _ in questions)
        found = []
        for prompt, options in questions:
            last = prompt.rfind("\n", 0, prompt.rfind("\nOutput:") - 1)
            before = prompt[:last].rsplit("Output:", 1)[-1].split("\n")[0]
            found.append([0.0 if before == o else -2.0 for o in options])
        return found

    monkeypatch.setattr(world_context, "score_many", score_many)
    found = order({"words": "new", "seed": 0})
    assert found["accuracy"] == pytest.approx(50.0) and found["spread"] == 0.0
    assert found["content_free"] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert len({p.rpartition("\nInput:")[0] for p in asked}) > 5
    assert sum("Input: N/A\nOutput:" in p for p in asked) == 10


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounded_weights_are_the_nearest_of_their_block(bits):
    w = Rng(0, "w").normal((13, 20)).astype(np.float32)
    rounded = nearest_levels(w, bits)
    assert rounded.dtype == w.dtype and rounded.shape == w.shape
    flat, near = w.ravel(), rounded.ravel()
    for start in range(0, flat.size, 64):
        a, b = flat[start : start + 64], near[start : start + 64]
        step = np.abs(a).max() / (2 ** (bits - 1) - 1)
        assert np.abs(a - b).max() <= step / 2 * 1.001
        assert len(np.unique(np.rint(b / step))) <= 2**bits - 1
    assert not nearest_levels(np.zeros((3, 4), np.float32), bits).any()


def test_a_rung_of_the_ladder_is_measured(monkeypatch):
    """Few bits cost more than some, and the loss of the base is what a step would say."""
    some = TokenBatches(ladder._text_rows(base()).rows[:4, :40], base().tokenizer.pad_id)
    monkeypatch.setattr(ladder, "_text_rows", lambda model: some)
    told = ladder.held_out({"base": "tiny-gpt"})
    assert told["parameters"] == base().num_parameters()
    assert told["loss"] == pytest.approx(mean_loss(base(), some), rel=1e-5)
    lost = [ladder.rounding({"base": "tiny-gpt", "bits": bits})["kl"] for bits in (8, 4, 3)]
    assert 0 < lost[0] < lost[1] / 10 < lost[2]


def test_activations_are_those_of_the_last_place_and_the_mean():
    model = base()
    texts = ["Anna keeps a cat.", "The soup was cold and the bread was stale."]
    last = activations(model, texts, "blocks.*", "last")
    mean = activations(model, texts, "blocks.*", "mean")
    assert list(last) == [f"blocks.{i}" for i in range(6)] and not model.handles
    for i, text in enumerate(texts):
        ids = np.array([model.tokenizer.encode(text)])
        row = TaskBatches.of(model, [Example(text, " .")]).rows[0][0]
        start = len(row) - 1 - ids.shape[1]  # what a prompt begins with
        ids = np.array([row[: start + ids.shape[1]]])
        with no_grad():
            x = model.emb(ids, np.arange(ids.shape[1])[None])
            for k, block in enumerate(model.blocks):
                x = block(x)
                assert last[f"blocks.{k}"][i] == pytest.approx(x.data[0, -1], rel=1e-4, abs=1e-3)
                whole = x.data[0].mean(0)
                assert mean[f"blocks.{k}"][i] == pytest.approx(whole, rel=1e-4, abs=1e-3)


def test_a_bert_is_watched_too():
    model = build(BERTConfig(vocab=2001, context=64, width=16, layers=2, heads=2))
    model.tokenizer = base().tokenizer
    texts = ["Anna keeps a cat.", "The soup was cold."]
    seen = activations(model, texts, "blocks.*", "mean")
    ids = np.array([TaskBatches.of(model, [Example(texts[0], " .", (" .", " !"), 0)]).rows[0][0]])
    with no_grad():
        x = model.emb(ids, np.arange(ids.shape[1])[None], np.zeros_like(ids))
        for k, block in enumerate(model.blocks):
            x = block(x)
            assert seen[f"blocks.{k}"][0] == pytest.approx(x.data[0].mean(0), rel=1e-3, abs=1e-4)
    assert [v.shape for v in seen.values()] == [(2, 16)] * 2


def test_rows_stand_at_the_blanks_and_nowhere_else():
    model = build(BERTConfig(vocab=11, context=8, width=16, layers=1, heads=2))
    ids = np.array([[0, 0, 5, 6], [0, 0, 7, 0]])
    with attach(model, Rows(blank=0, k=3)) as at:
        rows = dict(at.trainable())["emb.tok.rows"].data
        with no_grad():
            y = model.emb.tok(ids).data
        assert (y[0, :2] == rows[:2]).all() and (y[1, 3] == rows[2]).all()
        with no_grad(), running(off=(at,)):
            plain = model.emb.tok(ids).data
        assert (y[0, 2:] == plain[0, 2:]).all() and (plain[0, 0] != rows[0]).any()


def test_a_prompt_of_rows_moves_nothing_but_the_rows():
    model = base()
    examples = get_task("remap").load("train", 16)
    led = [dataclasses.replace(e, prompt=2 * world_training.BLANK + e.prompt) for e in examples]
    blank = model.tokenizer.encode(world_training.BLANK)
    assert len(blank) == 1
    row = TaskBatches.of(model, led).rows[0][0]
    assert list(row).count(blank[0]) == 2
    with attach(model, Rows(blank[0], k=2)) as at:
        assert at.count() == 2 * model.config.width


@pytest.mark.parametrize("task", sorted({task for task, _ in READ}))
def test_a_tuned_bert_is_ten_points_above_counted_words(task):
    found = results("reader_probes")
    settings = {"probe": "tuned", "base": "tiny-bert", "task": task}
    tuned, words = (np.array(found.where(k, **settings)) for k in ("tuned", "words"))
    assert len(tuned) == 3 * [t for t, _ in READ].count(task)
    assert min(tuned - words) > 10.0


def test_loss_falls_with_size_and_with_steps():
    found = results("ladder")
    for names in (ladder.LADDER, (*ladder.CHECKPOINTS, "tiny-gpt")):
        losses = [found.mean("loss", probe="held_out", base=name) for name in names]
        assert all(a > b for a, b in pairwise(losses))


def test_the_shipped_bert_compares_sentences_before_it_is_tuned():
    """The second leg of its pretraining has taught it to."""
    task = get_task("paraphrase")
    words = bag_of_words(task.load("train"), task.load("validation", 200))
    assert evaluate(base("tiny-bert"), task, "validation", n=200)["accuracy"] > words + 10


def test_kinds_are_counted_one_by_one():
    by_kind = world_training.kinds({"base": "tiny-bert", "task": "paraphrase"})
    counts = Counter(e.kind for e in get_task("paraphrase").load("test", 500))
    whole = sum(by_kind[kind] * n for kind, n in counts.items()) / 500
    frozen = results("reader_probes").mean("frozen", task="paraphrase", n=1000)
    assert whole == pytest.approx(frozen, abs=0.5)
