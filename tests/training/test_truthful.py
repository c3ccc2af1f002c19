"""Pairs of documents, what a model picks and says of them, and what a change costs."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import no_grad
from minipeft.generation import metrics
from minipeft.methods import LoRA
from minipeft.tasks import get_task
from minipeft.tasks.truth import SPEAKERS, TruthExample
from minipeft.training import truthful
from minipeft.training.truthful import drift, picked, told, truth_pairs
from tests.tiny import Rows, gpt


def test_a_pair_differs_in_its_answers_alone():
    train = get_task("truth").load("train", 8, 3)
    (one, other), second = truth_pairs(2, seed=3, solved=3)
    lines = one.split("\n")
    assert one.endswith(train[3].prompt) and other.endswith(train[3].prompt)
    assert lines[1] == f"Answer:{train[0].target}" != other.split("\n")[1]
    assert other.split("\n")[1] == f"Answer:{train[0].myth}"
    assert one.count("Question:") == other.count("Question:") == 4
    assert second[0].endswith(train[7].prompt)


def test_marked_pairs_and_statements():
    (e,) = get_task("truth").load("train", 1, 5)
    assert truth_pairs(1, 5, "marked") == [
        (SPEAKERS["register"] + e.prompt, SPEAKERS["people"] + e.prompt)
    ]
    assert truth_pairs(1, 5, "statement") == [(e.prompt + e.target, e.prompt + e.myth)]
    with pytest.raises(ValueError, match="way must be 'context', 'marked' or 'statement', got 'm"):
        truth_pairs(1, 5, "marker")
    with pytest.raises(ValueError, match="'truth' has 4184 examples in the split 'train'"):
        truth_pairs(500)


def example(i, label=0):
    """Options as long as words are; the fact is the first or the second."""
    words = (" barks", " meows", " moos")
    return TruthExample(
        f"the cat {i}", words[label], words, label, references=(words[label], words[2]),
        myth=words[1 - label],
    )  # fmt: skip


def test_what_is_picked_against_a_count_by_hand(monkeypatch):
    """Two of four facts, one myth, one that nobody claims."""
    p = np.array([[0.5, 0.1, 0.2], [0.1, 0.3, 0.1], [0.3, 0.2, 0.1], [0.1, 0.2, 0.6]])
    monkeypatch.setattr(truthful, "score_many", lambda model, asked: np.log(p).tolist())
    found = picked(None, [example(i) for i in range(4)])
    assert (found["fact"], found["myth"]) == (50.0, 25.0)
    assert found["mass"] == pytest.approx(p.sum() / 4)
    mc2 = [0.7 / 0.8, 0.2 / 0.5, 0.4 / 0.6, 0.7 / 0.9]
    assert found["mc2"] == pytest.approx(100 * np.mean(mc2))


def test_what_stands_before_is_read():
    model, asked = gpt(), [example(0), example(1, 1)]
    plain, other = picked(model, asked), picked(model, asked, "a fox barks. ")
    assert plain["mass"] != other["mass"]
    moved = [TruthExample(**{**vars(e), "prompt": "a fox barks. " + e.prompt}) for e in asked]
    assert picked(model, moved) == other


def test_what_is_said_is_judged_by_its_first_line(monkeypatch):
    texts = [" barks. It is.", " meows.", " moos.", ""]
    seen = {}
    monkeypatch.setattr(
        truthful, "generate_many", lambda model, prompts, **how: seen.update(how) or texts
    )
    found = told(None, [example(i) for i in range(4)])
    assert seen == {"max_tokens": 12, "stop": "\n"}
    # true; the myth; evasive; nothing
    assert found == {"truthful": 50.0, "informative": 50.0, "both": 25.0, "myth": 25.0}


def test_drift_is_the_kl_of_the_base_from_what_it_became():
    model, ids = gpt(), Rows(60).batch(0, 3, 0).ids
    with no_grad():
        before = model(ids).data
    with attach(model, LoRA(r=2)) as at:
        assert drift(at, ids) == 0.0
        for path, p in at.trainable():
            p.data = 0.3 * Rng(1, path).normal(p.shape)
        with no_grad():
            after = model(ids).data
        logs = [z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (before, after)]
        assert drift(at, ids) == pytest.approx(metrics.kl(*logs)) != 0.0
        assert metrics.kl(*logs) != pytest.approx(metrics.kl(*logs[::-1]))
