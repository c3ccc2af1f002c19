"""Paraphrase: a reader finds every label, shared words do not."""

import re

import numpy as np
import pytest

from minipeft.tasks.paraphrase import Paraphrase
from tests.tasks.baselines import baselines, parts
from tests.tasks.reader import read

TASK = Paraphrase()


def texts(e):
    return parts(e, TASK.patterns[0])


@pytest.mark.parametrize("split", TASK.splits)
def test_a_rule_that_reads_finds_every_label(split):
    for e in TASK.load(split, 400):
        first, second = (set(read(text)) for text in texts(e))
        assert (first == second) == (e.label == 1), (e.kind, texts(e))
        assert len(first) == len(second)


def test_the_same_sentence_twice_is_no_pair():
    assert all(len(set(texts(e))) == 2 for e in TASK.load("train", 1000))


def test_every_way_to_differ_is_there():
    kinds = [(e.label, e.kind) for e in TASK.load("train", 1500)]
    assert set(kinds) == {
        (1, "wording"), (1, "order"),
        (0, "value"), (0, "negation"), (0, "subject"), (0, "exchange"),
    }  # fmt: skip
    assert min(kinds.count(k) for k in set(kinds)) > 60


def shared(e):
    """The share of words that both sentences hold."""
    one, two = ({*re.findall(r"\w+", text.lower())} for text in texts(e))
    return len(one & two) / len(one | two)


def test_counting_words_is_not_enough():
    train, test = TASK.load("train", 1500), TASK.load("test", 600)
    scores = baselines("paraphrase", train, test)
    assert scores["majority"] == 50.0 and scores["bag of words"] < 65.0
    overlap, same = np.array([shared(e) for e in train]), np.array([e.label == 1 for e in train])
    best = max(np.unique(overlap), key=lambda cut: np.mean((overlap >= cut) == same))
    score = 100.0 * np.mean([(shared(e) >= best) == (e.label == 1) for e in test])
    print(f"paraphrase, word overlap: {score:.1f} %")
    assert score < 65.0
