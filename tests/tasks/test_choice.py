"""Choice: true answers, false ones that nobody claims, and lengths that say nothing."""

import re
from collections import Counter

from minipeft.storage.files import data_dir
from minipeft.storage.text import Tokenizer
from minipeft.tasks.choice import Choice
from minipeft.world.lexicon import CATEGORIES
from minipeft.world.town import World
from tests.tasks.baselines import baselines, parts

TASK, WORLD = Choice(), World()


def question(e):
    return parts(e, TASK.patterns[0])[0]


def about(e):
    """The entity and the attribute of a question about a fact."""
    for entity in WORLD.places + WORLD.people:
        for attribute in entity.attributes:
            asked = (q.replace("{e}", entity.name) for q in attribute.questions)
            if question(e) in asked:
                return entity.name, attribute


def value_in(text, attribute):
    return max((v for v in attribute.values if v.lower() in text.lower()), key=len)


def test_answers_about_facts_are_true_or_claimed_by_nobody():
    for e in [e for e in TASK.load("train", 300) if e.kind == "fact"]:
        name, attribute = about(e)
        fact = name, attribute.name
        said = [value_in(o, attribute) for o in e.options]
        assert said[e.label] == WORLD.facts[fact] and len(set(said)) == 4
        wrong = set(said) - {WORLD.facts[fact]}
        assert not wrong & {WORLD.myths.get(fact), WORLD.changed.get(fact)}


def test_one_list_alone_goes_on():
    for e in [e for e in TASK.load("train", 600) if e.kind == "list"]:
        category, shown = re.fullmatch(r"What goes under (.+) with (.+)\?", question(e)).groups()
        members = [
            set(re.findall(r"\w+", o)) - {"and"} <= set(CATEGORIES[category]) for o in e.options
        ]
        assert members == [i == e.label for i in range(4)]
        assert not set(re.findall(r"\w+", shown)) & set(re.findall(r"\w+", e.target)) - {"and"}


def lengths(e, tokens):
    return [len(tokens.encode(o)) for o in e.options]


def test_length_is_balanced_against_truth():
    tokens = Tokenizer(data_dir() / "tokenizer.json")
    examples = TASK.load("train", 2000)
    counted = [lengths(e, tokens) for e in examples]
    long = sum(n > 8 for row in counted for n in row) / (4 * len(examples))
    assert long < 0.06 and min(min(row) for row in counted) <= 2
    for best in (min, max):
        share = sum(row[e.label] == best(row) for row, e in zip(counted, examples, strict=True))
        chance = sum(row.count(best(row)) / 4 for row in counted)
        print(
            f"choice: the {best.__name__} of the lengths is right in {share}, chance {chance:.0f}"
        )
        assert abs(share - chance) < 0.04 * len(examples)
    assert sum(len(set(row)) > 1 for row in counted) > 0.95 * len(examples)


def test_splits_share_no_entity():
    named = {s: {about(e)[0] for e in TASK.load(s, 200) if e.kind == "fact"} for s in TASK.splits}
    assert not named["train"] & named["test"] and not named["train"] & named["validation"]


def test_both_kinds_and_every_place():
    examples = TASK.load("test", 400)
    assert min(Counter(e.kind for e in examples).values()) > 150
    assert min(Counter(e.label for e in examples).values()) > 70


def test_baselines_know_nothing():
    scores = baselines("choice", TASK.load("train", 800), TASK.load("test", 400))
    assert max(scores.values()) < 35.0  # one in four is 25
