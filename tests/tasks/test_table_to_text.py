"""Table to text: tables that hold what is told, three references, categories kept apart."""

import hashlib

import pytest

from minipeft.backend import Rng
from minipeft.generation.metrics import slot_error
from minipeft.tasks.table_to_text import SEEN, UNSEEN, TableToText
from minipeft.world.grammar import Draw
from minipeft.world.records import CATEGORIES, record, record_document, table, telling
from minipeft.world.town import World


def test_categories_of_the_splits():
    task = TableToText()
    kinds = {s: {e.kind for e in task.load(s, 200)} for s in task.splits}
    assert len(SEEN) == 4 and len(CATEGORIES) >= 6
    assert kinds["train"] == kinds["validation"] == kinds["seen"] == set(SEEN)
    assert kinds["unseen"] == set(UNSEEN)
    assert kinds["test"] == kinds["all"] == set(CATEGORIES)
    assert task.load("test", 50) == task.load("all", 50)


def test_splits_share_no_table():
    task = TableToText()
    prompts = {s: {e.prompt for e in task.load(s, 500)} for s in task.splits}
    assert all(len(p) == 500 for p in prompts.values())
    for held_out in ("validation", "test", "seen", "unseen"):
        assert not prompts["train"] & prompts[held_out]
    for tested in ("test", "seen", "unseen"):
        assert not prompts["validation"] & prompts[tested]


@pytest.mark.parametrize("n", [50, 100, 200, 500])
def test_small_sizes_are_parts_of_large_ones(n):
    assert TableToText().load("train", n) == TableToText().load("train", 1000)[:n]


def test_the_same_bytes_every_time():
    examples = TableToText().load("train", 100)
    digest = hashlib.sha256("\n".join(e.prompt + e.target for e in examples).encode()).hexdigest()
    assert digest[:16] == "6cbc44660f716ca5"


def test_references_hold_every_value():
    for e in TableToText().load("all", 300):
        assert e.references[0] == e.target and len(set(e.references)) == 3
        assert slot_error(list(e.references), [e.slots] * 3) == 0.0
        slots = dict(line.split(": ") for line in e.prompt.removesuffix(" =>").split(" | "))
        assert 3 <= len(slots) <= 8
        for text in e.references:
            assert all(value in text for value in slots.values()), (e.prompt, text)
        assert e.slots == tuple(slots.values())


def test_a_telling_holds_every_value_and_is_not_an_advertisement():
    draw = Draw(Rng(0, "tellings"))
    told = set()
    for _ in range(300):
        made = record(draw)
        assert made.table == table(made.slots)
        for text in made.sentences:
            assert all(v in text for v in made.slots.values()), (made.table, text)
            assert "?" not in text and "!" not in text
            told.add(text)
    assert len(told) > 700


def test_one_record_is_told_in_many_ways():
    slots = {"name": "The Blue Door", "kind": "pub", "food": "Thai", "price": "cheap",
             "near": "mill"}  # fmt: skip
    draw = Draw(Rng(0, "ways"))
    assert len({telling(draw, "place", slots) for _ in range(500)}) > 100


def test_pretraining_holds_no_advertisement():
    draw = Draw(Rng(0, "documents"))
    text = "\n".join(record_document(draw) for _ in range(500))
    assert " => " in text
    assert not any(call in text for call in ("Looking for", "In search", "In want", "Try "))


def test_records_bear_no_name_of_the_world():
    names = {e.name for e in World(0).entities}
    draw = Draw(Rng(0, "names"))
    assert not names & {record(draw, tellings=0).slots["name"] for _ in range(3000)}


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match=r"'unsen' \(did you mean 'unseen'\?\)"):
        TableToText().load("unsen")
    with pytest.raises(ValueError, match="patterns 0 to 2, got -1"):
        TableToText().load("train", pattern=-1)
