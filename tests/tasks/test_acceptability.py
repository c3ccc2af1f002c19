"""Acceptability: a parser accepts the right sentences and no other; words alone say nothing."""

import re
from collections import Counter

import pytest

from minipeft.tasks.acceptability import Acceptability
from minipeft.world.attributes import ATTRIBUTES
from minipeft.world.lexicon import with_article
from tests.tasks.baselines import baselines, parts
from tests.tasks.reader import NAME, good_english

TASK = Acceptability()


def texts(examples):
    return [parts(e, TASK.patterns[0])[0] for e in examples]


@pytest.mark.parametrize("split", TASK.splits)
def test_a_parser_finds_every_label(split):
    for text, e in zip(texts(examples := TASK.load(split, 400)), examples, strict=True):
        assert good_english(text) == (e.label == 1), (e.kind, text)


def test_mistakes_of_both_kinds():
    kinds = Counter(e.kind for e in TASK.load("train", 1000))
    assert kinds["right"] == 500 and min(kinds["agreement"], kinds["order"]) > 200


def test_spoilt_sentences_keep_the_words_of_right_ones():
    """Word order is spoilt by moving words, agreement by a form that other sentences need."""
    told = {label: " ".join(texts(e for e in TASK.load("train", 3000) if e.label == label))
            for label in (0, 1)}  # fmt: skip
    for form in ("is", "are", "was", "were", "does", "do", "have", "has"):
        counts = [len(re.findall(rf"\b{form}\b", told[label])) for label in (0, 1)]
        assert min(counts) > 0.6 * max(counts) > 10, (form, counts)


def test_two_subjects_are_no_single_thing():
    """ "The Mill and The Swan are a pub" is no English, and no example of it."""
    one = {with_article(v) for topics in ATTRIBUTES.values() for x in topics if x.article
           for v in x.values}  # fmt: skip
    two = re.compile(rf"{NAME} and {NAME} ")
    joined = [t for t in texts(TASK.load("train", 1500)) if two.match(t)]
    ends = re.compile(f" (?:{'|'.join(map(re.escape, one))})( by trade)?\\.$")
    assert len(joined) > 200 and not [t for t in joined if ends.search(t)]
    assert any(ends.search(t) for t in texts(TASK.load("train", 600)) if not two.match(t))


def test_counting_words_is_not_enough():
    scores = baselines("acceptability", TASK.load("train", 1500), TASK.load("test", 600))
    assert scores["majority"] == 50.0 and scores["bag of words"] < 60.0


def test_nouns_and_adjectives_that_are_tested_never_meet_in_training():
    met = {}
    for split in ("train", "test"):
        found = [
            re.search(r"(?i)the (.+) at .+ (?:was|were) (\w+)\.", t)
            for t in texts(e for e in TASK.load(split, 1500) if e.kind != "order")
        ]
        met[split] = {m.groups() for m in found if m}
    assert len(met["train"]) > 100 and len(met["test"]) > 10
    assert not met["train"] & met["test"]
