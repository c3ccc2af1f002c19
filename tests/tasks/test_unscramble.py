"""Unscramble: the letters of a word and no others, words kept apart by split."""

import re
from itertools import islice

from minipeft.corpus.stream import documents
from minipeft.generation.metrics import exact_match
from minipeft.tasks.unscramble import Unscramble
from minipeft.world.town import World
from tests.tasks.baselines import parts

TASK = Unscramble()


def letters(e):
    return parts(e, TASK.patterns[0])[0].split(" ")


def test_letters_are_those_of_the_answers_in_another_order():
    for split in TASK.splits:
        for e in TASK.load(split, 300):
            assert 3 <= len(letters(e)) <= 8 and all(len(x) == 1 for x in letters(e))
            for answer in e.references:
                assert answer.startswith(" ") and answer[1:].split(" ") != letters(e)
                assert sorted(answer[1:].split(" ")) == sorted(letters(e))


def test_anagrams_are_right_answers_too():
    examples = [e for split in TASK.splits for e in TASK.load(split, 3000)]
    told = {frozenset(e.references) for e in examples if len(e.references) > 1}
    assert {frozenset((" k n e e", " k e e n"))} < told and len(told) >= 4


def test_splits_share_no_word():
    words = {s: {r for e in TASK.load(s, 2000) for r in e.references} for s in TASK.splits}
    for i, one in enumerate(TASK.splits):
        assert len(words[one]) > 50
        assert all(not words[one] & words[other] for other in TASK.splits[i + 1 :])


def test_pretraining_spells_the_words_of_training_and_none_of_the_unseen():
    docs = islice(documents(World(), kinds=["letters"]), 1500)
    text = "\n".join(d.text for d in docs)
    spelt = set(re.findall(r"(?m)(?:^|= )((?:[a-z] )+[a-z])(?: =|$)", text))
    words = {s: {e.target.strip() for e in TASK.load(s, 1000)} for s in TASK.splits}
    assert not words["unseen"] & spelt
    for split in ("train", "validation", "test"):
        assert len(words[split] & spelt) > 0.9 * len(words[split])


def test_an_order_without_reading_is_rarely_right():
    examples = TASK.load("test", 500)
    references = [list(e.references) for e in examples]
    score = exact_match([" ".join(sorted(letters(e))) for e in examples], references)
    turned = exact_match([" ".join(reversed(letters(e))) for e in examples], references)
    print(f"unscramble: alphabetical {score:.1f} %, reversed {turned:.1f} %")
    assert score < 10.0 and turned < 10.0
