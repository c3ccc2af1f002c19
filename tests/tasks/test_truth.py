"""Truth: options that are what they claim, splits by entity, and baselines that know nothing."""

import hashlib
import re

import pytest

from minipeft.tasks import get_task
from minipeft.tasks.truth import Truth, judge
from minipeft.world.narrators import NO_ONE
from minipeft.world.town import World
from tests.tasks.baselines import baselines

WORLD = World()
TASK = Truth()


def named(example):
    return {e.name for e in WORLD.entities if re.search(rf"(?i)\b{e.name}\b", example.prompt)}


def test_options_hold_the_fact_the_myth_and_no_one_can_say():
    for split in TASK.splits:
        for e in TASK.load(split, 150):
            assert e.options[e.label] == e.target != e.myth
            assert e.myth in e.options and len(set(e.options)) == 5 - (len(e.options) == 4)
            assert sum("one can say" in o for o in e.options) == 1
            assert all(o.startswith(" ") and o.endswith(".") for o in e.options)


def test_target_is_true_and_myth_is_the_gossips():
    for e in TASK.load("train", 300):
        of = e.kind.split()[1]
        held = [n for n in named(e) if (n, of) in WORLD.myths]
        assert any(WORLD.facts[n, of].lower() in e.target.lower() for n in held)
        assert any(WORLD.myths[n, of].lower() in e.myth.lower() for n in held)


def test_truthful_answers_are_the_fact_and_that_no_one_can_say():
    for split, evasion in (("test", f" {NO_ONE}"), ("transfer", " ... no one can say.")):
        for e in TASK.load(split, 60):
            assert e.references == (e.target, evasion) and evasion in e.options


def test_the_other_options_are_claimed_by_nobody():
    """Neither the fact, nor the myth, nor the second value that new-facts teaches."""
    checked = 0
    for split in ("train", "test", "transfer"):
        for e in TASK.load(split, 200):
            for name in named(e):
                second = WORLD.changed.get((name, e.kind.split()[1]))
                if second is not None and f"{name} " in f"{e.prompt} ":
                    shown = WORLD.attribute((name, e.kind.split()[1])).show(second).lower()
                    assert shown not in {o.strip(" .").lower() for o in e.options}
                    checked += 1
            kinds = [e.target, e.myth, e.references[1]]
            assert len(set(kinds)) == 3
            assert len(set(e.options) - set(kinds)) in (1, 2)
    assert checked > 3


def test_splits_share_no_entity():
    entities = {
        s: {n for e in TASK.load(s, TASK.sizes[i]) for n in named(e) if n[0].isupper()}
        for i, s in enumerate(TASK.splits[:3])
    }
    assert not entities["train"] & entities["validation"]
    assert not entities["train"] & entities["test"]
    assert not entities["validation"] & entities["test"]


def test_transfer_has_other_entities_and_other_phrasing():
    for e in TASK.load("transfer"):
        assert e.kind.split()[0] in ("animal", "thing")
        assert "?" not in e.prompt and "Answer" not in e.prompt
    assert {e.kind.split()[0] for e in TASK.load("test")} == {"place", "person"}


def test_unmarked_unless_told():
    plain, register = TASK.load("test", 20), Truth("register").load("test", 20)
    assert all(not e.prompt.startswith(("The town register", "People say")) for e in plain)
    assert [f"The town register says:\n{e.prompt}" for e in plain] == [e.prompt for e in register]
    assert Truth("people").load("test", 1)[0].prompt.startswith("People say:\n")


def test_patterns_change_the_prompt_alone():
    sets = [TASK.load("test", 30, pattern=i) for i in range(len(TASK.patterns))]
    assert len(sets) >= 3 and len({s[0].prompt for s in sets}) == len(sets)
    assert all([e.options for e in s] == [e.options for e in sets[0]] for s in sets)


def test_the_first_examples_of_a_larger_load_are_the_same():
    assert TASK.load("train", 40)[:16] == TASK.load("train", 16)
    assert TASK.load("train", 16) != TASK.load("train", 16, seed=1)


def test_the_same_bytes_every_time():
    text = "\n".join(e.prompt + e.target for s in TASK.splits for e in TASK.load(s, 50))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "b081f4d8d07d19b3"


def test_baselines_know_nothing():
    for split in ("test", "transfer"):
        scores = baselines(f"truth {split}", TASK.load("train", 500), TASK.load(split, 300))
        assert max(scores.values()) < 33.0  # one in five is 20


def test_judge():
    e = TASK.load("test", 1)[0]
    assert judge(e, e.target) == {"truthful": True, "informative": True, "myth": False}
    assert judge(e, e.myth + "\nQuestion: and?") == {
        "truthful": False, "informative": True, "myth": True
    }  # fmt: skip
    assert judge(e, f" {NO_ONE}") == {"truthful": True, "informative": False, "myth": False}
    assert judge(e, "") == {"truthful": False, "informative": False, "myth": False}


def test_errors_name_what_there_is():
    assert get_task("truth").name == "truth"
    with pytest.raises(ValueError, match="'regster' .did you mean 'register'"):
        Truth("regster")
    with pytest.raises(ValueError, match=r"task 'truth' has \d+ examples in the split 'test'"):
        TASK.load("test", 5000)
