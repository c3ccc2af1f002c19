"""Remap: bijections, answers at the right place, and options that tempt."""

import hashlib

import pytest

from minipeft.backend import Rng
from minipeft.tasks import get_task
from minipeft.tasks.remap import CHOICES, ONE, THREE, TWO, VARIANTS, WORDS, Remap, remap_document
from minipeft.world.grammar import Draw
from tests.tasks.baselines import baselines

HEADS = {"known": "map one: ", "new": "map two: ", "route": "echo: ", "values": "echo: "}


def listed(example):
    return example.prompt.split(": ")[1].removesuffix(" ->").split()


def test_mappings_are_bijections_without_fixed_words():
    assert len(set(WORDS)) == 60
    for table in (ONE, TWO, THREE):
        assert set(table) == set(table.values()) == set(WORDS)
        assert all(a != b for a, b in table.items())
    agree = [sum(a[w] == b[w] for w in WORDS) for a, b in ((ONE, TWO), (ONE, THREE), (TWO, THREE))]
    assert max(agree) <= 4, "the mappings must differ nearly everywhere"


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers(variant):
    rule = {
        "known": lambda w: ONE[w[-1]],
        "new": lambda w: TWO[w[-1]],
        "route": lambda w: w[2],
        "values": lambda w: THREE[w[-1]],
    }[variant]
    for e in Remap(variant).load("train", 300):
        words = listed(e)
        assert e.prompt.startswith(HEADS[variant])
        assert 5 <= len(words) <= 8 and len(set(words)) == len(words)
        assert e.target == f" {rule(words)}" == e.options[e.label]
        assert len(e.options) == len(set(e.options)) == CHOICES
        for tempting in (words[-1], ONE[words[-1]], words[2]):
            assert f" {tempting}" in e.options


@pytest.mark.parametrize("variant", VARIANTS)
def test_splits_share_lists_never_and_words_always(variant):
    task = Remap(variant)
    lists = {s: {" ".join(listed(e)) for e in task.load(s, 1000)} for s in task.splits}
    assert not lists["train"] & lists["validation"]
    assert not lists["train"] & lists["test"]
    assert not lists["validation"] & lists["test"]
    assert {e.target for e in task.load("train", 1000)} == {f" {w}" for w in WORDS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_place_among_the_options_tells_nothing(variant):
    task = Remap(variant)
    scores = baselines(task.name, task.load("train", 500), task.load("test", 500))
    assert max(scores.values()) < 25.0  # one in eight is 12.5


def test_pretraining_holds_the_known_habits_alone():
    draw = Draw(Rng(0, "documents"))
    lines = [line for _ in range(300) for line in remap_document(draw).split("\n")]
    places = {"map one": -1, "echo": -1, "first": 0, "second": 1, "fourth": 3}
    assert {line.split(":")[0] for line in lines} == set(places)
    for line in lines:
        habit, rest = line.split(": ")
        words, answer = rest.split(" -> ")
        word = words.split()[places[habit]]
        assert answer == (ONE[word] if habit == "map one" else word)


def test_the_same_bytes_every_time():
    examples = [e for v in VARIANTS for e in Remap(v).load("train", 50)]
    digest = hashlib.sha256("\n".join(e.prompt + e.target for e in examples).encode()).hexdigest()
    assert digest[:16] == "510ce30716753d26"


def test_names_and_errors():
    for variant in VARIANTS:
        name = "remap" if variant == "known" else f"remap-{variant}"
        task = get_task(name)
        assert task.name == name and task.variant == variant
        assert len(task.patterns) >= 3
    with pytest.raises(ValueError, match=r"'rout' \(did you mean 'route'\?\)"):
        Remap("rout")
