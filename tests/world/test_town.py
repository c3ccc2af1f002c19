"""The world: the same for everyone, with myths, changed facts, and English that is right."""

import hashlib
import json
from collections import Counter

import pytest

from minipeft.backend import Rng
from minipeft.world.attributes import ATTRIBUTES
from minipeft.world.grammar import Draw, a, ing, join, participle, past, plural, sentence, third
from minipeft.world.lexicon import with_article
from minipeft.world.sentences import bend, deny
from minipeft.world.town import World

WORLD = World()


def test_the_same_world_every_time():
    told = [sorted(d.items()) for d in (WORLD.facts, WORLD.myths, WORLD.changed)]
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] == "f2b10a05697d79d6"
    assert World(1).facts != WORLD.facts


def test_sizes_and_unique_names():
    assert Counter(e.type for e in WORLD.entities) == {
        "place": 200, "person": 100, "animal": 40, "thing": 20
    }  # fmt: skip
    assert len(WORLD.by_name) == len(WORLD.entities)
    assert len(WORLD.facts) == sum(len(e.attributes) for e in WORLD.entities)


def test_three_facts_in_four_have_a_false_myth():
    assert 0.72 < len(WORLD.myths) / len(WORLD.facts) < 0.78
    assert all(WORLD.facts[fact] != myth for fact, myth in WORLD.myths.items())


def test_changed_facts_have_a_new_value():
    assert len(WORLD.changed) == 50
    for fact, value in WORLD.changed.items():
        assert value in WORLD.attribute(fact).values
        assert value not in (WORLD.facts[fact], WORLD.myths.get(fact))


def test_values_stay_within_their_attribute():
    for told in (WORLD.facts, WORLD.myths):
        for fact, value in told.items():
            assert value in WORLD.attribute(fact).values


def test_animals_are_what_they_are():
    for world in (WORLD, World(5)):
        assert world.facts["the heron", "kind"] == "bird"
        assert world.facts["the flute", "kind"] == "instrument"


def test_every_attribute_has_patterns_that_end_in_the_value():
    patterns = {p for of in ATTRIBUTES.values() for x in of for p in x.patterns + x.questions}
    assert len(patterns) >= 200
    for of in ATTRIBUTES.values():
        for attribute in of:
            assert len(attribute.value_last) >= 3, attribute.name
            assert len(attribute.questions) >= 3
            assert len(set(attribute.patterns)) == len(attribute.patterns)


def test_english():
    assert [plural(n) for n in ("tea room", "fox", "berry", "child", "key", "tomato")] == [
        "tea rooms", "foxes", "berries", "children", "keys", "tomatoes"
    ]  # fmt: skip
    assert [third(v) for v in ("be near", "have", "go", "watch", "carry", "lie in")] == [
        "is near", "has", "goes", "watches", "carries", "lies in"
    ]  # fmt: skip
    assert [past(v) for v in ("serve", "stop", "carry", "visit", "let", "stand close")] == [
        "served", "stopped", "carried", "visited", "let", "stood close"
    ]  # fmt: skip
    assert [participle(v) for v in ("lie", "eat", "hide", "work", "show")] == [
        "lain", "eaten", "hidden", "worked", "shown"
    ]  # fmt: skip
    assert [ing(v) for v in ("serve", "see", "stop", "look", "lie")] == [
        "serving", "seeing", "stopping", "looking", "lying"
    ]  # fmt: skip
    assert [a(n) for n in ("old inn", "useful map", "hour", "pub", "one-eyed cat")] == [
        "an old inn", "a useful map", "an hour", "a pub", "a one-eyed cat"
    ]  # fmt: skip
    assert join(["x"]) == "x" and join(["x", "y", "z"], "or") == "x, y or z"
    assert sentence("is it so?") == "Is it so?" and sentence("it is") == "It is."
    assert bend("be near {v}", "still") == "is still near {v}"
    assert bend("let families know", "always") == "has always let families know"
    assert deny("be near {v}") == "is not near {v}" and deny("face {v}") == "does not face {v}"


def test_articles_of_all_values():
    for of in ATTRIBUTES.values():
        for attribute in of:
            if attribute.article:
                assert all(with_article(v) == a(v) for v in attribute.values)


def test_draw_counts_its_surprise():
    draw = Draw(Rng(0))
    draw.pick("abcd"), draw.flip(0.25), draw.sample("abc", 2), draw.integer(0, 5)
    expected = {4 * 6 * 5 / 0.25, 4 * 6 * 5 / 0.75}
    assert min(abs(2.718281828459045**draw.nats - e) for e in expected) < 1e-6
    before = draw.nats
    assert draw.pick(["only"]) == "only" and draw.flip(1.0) and not draw.flip(0.0)
    assert draw.nats == before


def test_draw_follows_the_weights():
    draw = Draw(Rng(3))
    n = 20_000
    counts = Counter(draw.weighted("abc", (1.0, 2.0, 5.0)) for _ in range(n))
    for item, p in zip("abc", (0.125, 0.25, 0.625), strict=True):
        assert abs(counts[item] / n - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_draw_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="cannot sample 3 different items of 2"):
        Draw(Rng(0)).sample("ab", 3)
    with pytest.raises(ValueError, match="low < high"):
        Draw(Rng(0)).integer(2, 2)
