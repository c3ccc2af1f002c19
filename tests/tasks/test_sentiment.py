"""Sentiment: balanced, disjoint, the same everywhere, and not to be solved by counting words."""

import hashlib
import re
from itertools import islice

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.corpus.stream import documents
from minipeft.tasks import get_task
from minipeft.tasks.base import Pattern
from minipeft.tasks.sentiment import Sentiment
from minipeft.world.grammar import Draw
from minipeft.world.reviews import (
    DOMAINS,
    ENDINGS,
    LEADS,
    TOPICS,
    VERDICT_BAD,
    VERDICT_GOOD,
    WHOLE_BAD,
    WHOLE_GOOD,
    review,
    words_of_one_sign,
)
from minipeft.world.sentences import part_of
from minipeft.world.town import World
from tests.tasks.baselines import baselines


def texts(examples, pattern=0):
    before, after = Sentiment.patterns[pattern].template.split("{x}")
    return [e.prompt.removeprefix(before).removesuffix(after) for e in examples]


def test_counting_words_is_not_enough():
    task = Sentiment()
    scores = baselines("sentiment", task.load("train", 2000), task.load("test", 1000))
    assert scores["majority"] == 50.0
    assert 55.0 < scores["bag of words"] < 80.0


def test_splits_share_no_review():
    task = Sentiment()
    parts = [set(texts(task.load(s, 1000))) for s in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [1000, 1000, 1000]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    # and none can come up with another seed
    assert not parts[0] & set(texts(task.load("test", 1000, seed=5)))


def test_the_same_bytes_every_time():
    """The digest holds on every platform; it changes only with the reviews or the task."""
    examples = Sentiment().load("train", 200)
    assert examples == Sentiment().load("train", 200)
    assert examples[:16] == Sentiment().load("train", 16)
    assert examples != Sentiment().load("train", 200, seed=1)
    digest = hashlib.sha256("\n".join(e.prompt + e.target for e in examples).encode()).hexdigest()
    assert digest[:16] == "2c74b0caa4d361d9"


def test_labels_are_balanced_at_every_even_size():
    for n in (16, 32, 64, 256):
        assert sum(e.label for e in Sentiment().load("train", n)) == n // 2


@pytest.mark.parametrize("pattern", range(len(Sentiment.patterns)))
def test_patterns_say_the_same_in_other_words(pattern):
    task = Sentiment()
    assert len(task.patterns) >= 3
    first, other = task.load("test", 20), task.load("test", 20, pattern=pattern)
    assert texts(first) == texts(other, pattern)
    assert [e.label for e in first] == [e.label for e in other]
    for e in other:
        assert e.options == task.patterns[pattern].words
        assert e.target == e.options[e.label] and e.target.startswith(" ")


def test_domains_keep_to_their_own():
    food = " ".join(texts(Sentiment("food").load("train", 200)))
    assert "soup" in food and "thriller" not in food
    assert {e.kind for e in Sentiment("film").load("test", 50)} == {"film"}
    assert {e.kind for e in Sentiment().load("test", 50)} == set(DOMAINS)


PRAISE = {w for ts in TOPICS.values() for t in ts for w in t.good} | {*WHOLE_GOOD, *VERDICT_GOOD}
BLAME = {w for ts in TOPICS.values() for t in ts for w in t.bad} | {*WHOLE_BAD, *VERDICT_BAD}
DENIALS = re.compile(
    r"(was|were) not\b|far from|anything but|hardly|never|neither|cannot (say|call)"
    r"|did not|could call|nothing \w+ about|wrongly|untrue|fool"
)


def read(text):
    """The sign of a review by rule: find the main clause, its word, and whether it is denied."""
    text = text.replace(", and rightly so", "").replace(", which is not true", " untrue")
    clauses = [c for c in re.split(r"[,;.]", text) if {*re.findall(r"\w+", c)} & (PRAISE | BLAME)]
    first = re.search(r", (although|even if) ", text) is not None  # the main clause came first
    clause = clauses[0] if first else clauses[-1]
    words = {*re.findall(r"\w+", clause)}
    return bool(words & PRAISE) != bool(DENIALS.search(clause))


def test_a_rule_that_reads_finds_every_label():
    """The label stands in the text: nothing but reading is needed."""
    assert not PRAISE & BLAME
    for task in (Sentiment("food"), Sentiment("film")):
        for text, e in zip(texts(x := task.load("test", 500)), x, strict=True):
            assert read(text) == (e.label == 1), text


def test_reviews_are_short():
    draw = Draw(Rng(0, "length"))
    lengths = [len(review(draw, d, draw.flip()).split()) for d in DOMAINS for _ in range(1000)]
    assert min(lengths) >= 7 and max(lengths) <= 25
    assert 11 < np.mean(lengths) < 16


def test_held_out_reviews_never_show_their_verdict():
    shown, lines = 0, 0
    stream = documents(World(0), kinds=["review"], split=None)
    for line in (line for doc in islice(stream, 2000) for line in doc.text.split("\n")):
        if re.match("Words of|" + "|".join(LEADS), line):
            continue  # no review: no task asks about it
        lines += 1
        for ending, good, bad in ENDINGS:
            for word in (good, bad):
                if line.endswith(ending.format(word)):
                    shown += 1
                    assert part_of(line.removesuffix(ending.format(word))) == "train"
    assert 0.4 < shown / lines < 0.55


def test_lists_of_words_have_one_sign_and_the_verdict_agrees():
    draw, seen = Draw(Rng(0, "words")), set()
    for i in range(400):
        line, ours, theirs = words_of_one_sign(draw, i % 2 == 0), PRAISE, BLAME
        if i % 2:
            ours, theirs = theirs, ours
        lead, _, said = line.rstrip(".").partition(": ")
        words = {w.removeprefix("a ") for w in said.split(", ")}
        assert 3 <= len(words) <= 6 and words <= ours and not words & theirs
        seen.add(lead)
    assert seen == {"Words of praise", "Words of blame", *LEADS}


def test_the_reviews_of_a_document_agree():
    for doc in islice(documents(World(0), kinds=["review"], split=None), 300):
        lines = doc.text.split("\n")
        if not re.match("Words of|" + "|".join(LEADS), lines[0]):
            for ending, *words in ENDINGS:
                for word in words:
                    lines = [line.removesuffix(ending.format(word)) for line in lines]
            assert len({read(line) for line in lines}) == 1, lines


def test_a_pattern_of_your_own():
    task = Sentiment()
    own = task.load("test", 5, pattern=Pattern("{x} ->", (" up", " down")))
    for e, other in zip(own, task.load("test", 5), strict=True):
        assert e.prompt.removesuffix(" ->") in other.prompt and e.label == other.label
        assert e.target == (" up", " down")[e.label] and e.options == (" up", " down")


def test_errors_name_the_choices():
    task = Sentiment()
    with pytest.raises(ValueError, match=r"no split 'tst' \(did you mean 'test'\?\).*validation"):
        task.load("tst")
    with pytest.raises(ValueError, match="patterns 0 to 3, got 4"):
        task.load("train", pattern=4)
    with pytest.raises(ValueError, match="has the form of Pattern"):
        task.load("train", pattern=Pattern("{x} So: {y}", (" a", " b")))
    with pytest.raises(ValueError, match="has the form of Pattern"):
        task.load("train", pattern=Pattern("{x} So:", (" a", " b", " c")))
    for n in (0, 10_001, 2.5, True):
        with pytest.raises(ValueError, match="from 1 to 10000, got"):
            task.load("train", n)
    with pytest.raises(ValueError, match=r"'foods' \(did you mean 'food'\?\)"):
        Sentiment("foods")
    with pytest.raises(ValueError, match="domain must be one of food, film"):
        review(Draw(Rng(0)), "books", True)
    with pytest.raises(ValueError, match=r"'sentimnt' \(did you mean 'sentiment'\?\)"):
        get_task("sentimnt")
    with pytest.raises(ValueError, match="takes no path.*e2e"):
        get_task("sentiment", path="somewhere")
