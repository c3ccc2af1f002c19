"""Sentiment-shift: a shortcut that holds 95 times in 100 in one domain and lies in the other."""

import pytest

from minipeft.tasks.base import majority
from minipeft.tasks.sentiment import Sentiment
from minipeft.tasks.sentiment_shift import WRITERS, SentimentShift
from tests.tasks.baselines import bag_of_words, baselines, parts
from tests.tasks.test_sentiment import read

TASK = SentimentShift()


def texts(examples):
    return [parts(e, TASK.patterns[0])[0] for e in examples]


@pytest.mark.parametrize(("split", "share"), [("train", 0.95), ("test", 0.95), ("shift", 0.05)])
def test_the_writer_agrees_as_often_as_promised(split, share):
    examples = TASK.load(split, 2000)
    agree = sum(WRITERS[e.label] == e.kind for e in examples) / len(examples)
    assert abs(agree - share) < 0.02
    assert all(t.startswith(f"{e.kind}: ") for t, e in zip(texts(examples), examples, strict=True))


def test_a_rule_that_reads_finds_every_label():
    for split in TASK.splits:
        examples = TASK.load(split, 300)
        for text, e in zip(texts(examples), examples, strict=True):
            assert read(text.removeprefix(f"{e.kind}: ")) == (e.label == 1), text


def test_domains_and_parts_are_those_of_sentiment():
    assert "soup" in " ".join(texts(TASK.load("train", 200)))
    films = " ".join(texts(TASK.load("shift", 200)))
    assert "plot" in films and "soup" not in films
    shown = {parts(e, Sentiment.patterns[0])[0] for e in Sentiment("film").load("train", 2000)}
    assert not shown & {t.split(": ", 1)[1] for t in texts(TASK.load("shift", 500))}


def test_the_shortcut_pays_in_training_and_fails_in_the_shift():
    train = TASK.load("train", 1500)
    scores = baselines("sentiment-shift", train, TASK.load("test", 500))
    shift = TASK.load("shift", 500)
    lost = bag_of_words(train, shift)
    print(f"sentiment-shift, shift: majority {majority(shift):.1f} %, bag of words {lost:.1f} %")
    assert scores["majority"] == 50.0 and scores["bag of words"] > 90.0 and lost < 20.0
