"""New-facts: every changed fact is taught once, asked in other words, and its neighbours hold."""

import pytest

from minipeft.tasks.new_facts import NewFacts, changed_world
from minipeft.world.narrators import openings
from minipeft.world.town import World
from tests.tasks.baselines import baselines, parts

TASK, WORLD = NewFacts(), World()
ASKED = {
    text.lower(): (e.name, a)
    for e in WORLD.places + WORLD.people for a in e.attributes
    for text in [*(q.replace("{e}", e.name) for q in a.questions), *openings(e, a)]
}  # fmt: skip


def fact_of(e):
    """The fact that an example asks for, and how its options show values."""
    name, attribute = ASKED[parts(e, TASK.patterns[0])[0].lower()]
    shown = {attribute.show(v).lower(): v for v in attribute.values}
    return (name, attribute.name), lambda text: shown[text.strip().rstrip(".").lower()]


def test_every_changed_fact_is_taught_once():
    facts = [fact_of(e)[0] for e in TASK.load("edited")]
    assert len(facts) == 50 and set(facts) == set(WORLD.changed)
    assert {fact_of(e)[0] for e in TASK.load("validation")} == set(WORLD.changed)
    assert {fact_of(e)[0] for e in TASK.load("paraphrased", 400)} == set(WORLD.changed)


@pytest.mark.parametrize("split", ["edited", "validation", "paraphrased"])
def test_the_label_is_the_new_value_and_the_old_one_stands_beside_it(split):
    for e in TASK.load(split):
        fact, value = fact_of(e)
        said = {value(o) for o in e.options}
        assert value(e.target) == WORLD.changed[fact] and value(e.old) == WORLD.facts[fact]
        assert len(said) == 4 and e.old in e.options
        assert WORLD.myths.get(fact, e.old) in {*said, e.old}


def test_neighbours_keep_their_fact():
    same = 0
    for e in TASK.load("neighbouring"):
        fact, value = fact_of(e)
        assert fact not in WORLD.changed
        assert value(e.target) == value(e.old) == WORLD.facts[fact]
        assert WORLD.myths.get(fact) not in {value(o) for o in e.options}
        same += any(
            of == fact[1] and WORLD.facts[name, of] == WORLD.facts[fact]
            for name, of in WORLD.changed
        )
    assert same > 40, "many neighbours had the same value as a changed fact"


def test_neighbours_are_other_facts_of_the_same_or_others_that_had_the_same_value():
    own = 0
    for e in TASK.load("neighbouring"):
        (name, of), _ = fact_of(e)
        if any(changed == name for changed, _ in WORLD.changed):
            own += 1
            continue
        beside = [n for n, other in WORLD.changed if other == of]
        assert WORLD.facts[name, of] in {WORLD.facts[n, of] for n in beside}
    assert 30 < own < 120


def test_wordings_are_not_shared():
    taught, checked, asked = (
        {e.prompt for e in TASK.load(*s)} for s in (("train",), ("validation",), ("test", 400))
    )
    assert not taught & checked and not (taught | checked) & asked
    assert {e.kind for e in TASK.load("paraphrased")} == {"question", "sentence"}
    assert {e.kind for e in TASK.load("edited")} == {"question"}


def test_edited_and_paraphrased_are_other_names():
    assert TASK.load("edited") == TASK.load("train")
    assert TASK.load("paraphrased", 60) == TASK.load("test", 60)


def test_baselines_know_nothing():
    for split in ("paraphrased", "neighbouring"):
        scores = baselines(f"new-facts {split}", TASK.load("train"), TASK.load(split))
        assert max(scores.values()) < 40.0  # one in four is 25


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="task 'new-facts' has 50 examples in the split 'train'"):
        TASK.load("train", 64)


def test_a_part_of_the_changes_is_asked_alone():
    world = changed_world(7, seed=3)
    assert len(world.changed) == 7 and world.changed.items() <= WORLD.changed.items()
    assert changed_world(7, seed=4).changed != world.changed
    task = NewFacts(world)
    assert {fact_of(e)[0] for e in task.load("edited", 7)} == set(world.changed)


def test_facts_to_practise_on_are_not_those_that_are_tested():
    world = changed_world(300, others=True)
    assert len(world.changed) == 300 and not set(world.changed) & set(WORLD.changed)
    for fact, value in world.changed.items():
        assert value != world.facts[fact] and value in world.attribute(fact).values
    assert len(NewFacts(world).load("edited", 300)) == 300


def test_a_changed_fact_is_told_in_a_sentence():
    told = TASK.statements()
    assert len(told) == 50 and all(text.endswith(".") for text in told)
    for text, ((name, of), value) in zip(told, WORLD.changed.items(), strict=True):
        assert text.lower().startswith(name.lower())
        assert WORLD.attribute((name, of)).show(value).lower() in text.lower()
