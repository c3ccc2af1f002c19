"""NLI: a reader that knows the grammar finds every label; a hypothesis alone says nothing."""

import re
from dataclasses import replace

import pytest

from minipeft.tasks.nli import ENTAILED, FALSE, NLI, OPEN, NLIShift
from minipeft.world.statements import TOPICS
from minipeft.world.town import World
from tests.tasks.baselines import bag_of_words, baselines, parts
from tests.tasks.reader import claims, relation

TASK = NLIShift()
NAMES = {e.name.lower() for e in World().entities}


def texts(e):
    return parts(e, NLI.patterns[0])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_rule_that_reads_finds_every_label(split):
    for e in TASK.load(split, 400):
        assert relation(*texts(e)) == e.label, (e.kind, texts(e))


def test_pairs_turn_on_negation_wording_and_kinds():
    kinds = [(e.kind, e.label) for e in TASK.load("train", 1500)]
    for kind in ("wording", "negation", "value", "kind", "some", "subject", "topic"):
        assert sum(k == kind for k, _ in kinds) > 40, kind
    for kind in ("kind", "some"):
        assert {label for k, label in kinds if k == kind} == {ENTAILED, OPEN, FALSE}


def test_what_may_be_true_beside_another_value_excludes_none():
    """Who serves Thai food may serve Greek; but nobody lives in two places."""
    several = {(kind, t.attribute.name) for kind, ts in TOPICS.items() for t in ts if not t.single}
    assert several == {("place", "food"), ("place", "landmark"), ("person", "pet"),
                       ("person", "likes"), ("animal", "diet")}  # fmt: skip


def test_prices_that_are_claimed_exclude_each_other():
    """A cheap place may be affordable: of such pairs nothing is asked."""
    told = " ".join(e.prompt for e in TASK.load("train", 1500))
    assert all(word in told for word in ("cheap", "mid-priced", "expensive"))
    assert "affordable" not in told and "costly" not in told


def test_the_hypothesis_alone_and_words_alone_are_not_enough():
    train, test = TASK.load("train", 1500), TASK.load("test", 600)
    scores = baselines("nli", train, test)
    assert 33.0 < scores["majority"] < 34.0 and scores["bag of words"] < 60.0
    alone = [[replace(e, prompt=texts(e)[1]) for e in part] for part in (train, test)]
    score = bag_of_words(*alone)
    print(f"nli, hypothesis alone: bag of words {score:.1f} %")
    assert score < 45.0


def test_the_shift_overlaps_fully_and_never_follows():
    examples = TASK.load("shift")
    assert {e.label for e in examples} == {OPEN, FALSE}
    assert {e.kind for e in examples} == {"swap", "or", "if", "not", "denial"}
    for e in examples:
        premise, hypothesis = ({*re.findall(r"\w+", t.lower())} for t in texts(e))
        assert hypothesis <= premise, texts(e)


def entailed_by_overlap(e):
    """The rule of thumb of a lazy reader: all words of the claim are there, and no "not"."""
    premise, hypothesis = ({*re.findall(r"\w+", t.lower())} for t in texts(e))
    return hypothesis <= premise and ("not" in hypothesis) == ("not" in premise)


def test_overlap_speaks_for_entailment_in_training_and_not_in_the_shift():
    full = [e for e in TASK.load("train", 3000) if entailed_by_overlap(e)]
    assert len(full) > 60
    share = sum(e.label == ENTAILED for e in full) / len(full)
    print(f"nli: of {len(full)} pairs with full overlap {100 * share:.0f} % are entailed")
    assert share > 0.9


def test_subjects_are_invented_and_belong_to_one_split():
    subjects = {}
    for split in ("train", "validation", "test"):
        told = [c for e in TASK.load(split, 500) for c in claims(texts(e)[1][:-1])]
        subjects[split] = {c[0] for c in told if c[0].split()[0] not in ("some", "every", "no")}
        assert not subjects[split] & NAMES
    assert len(subjects["train"]) > 200 and len(subjects["test"]) > 50
    assert not subjects["train"] & subjects["test"]
    assert not subjects["train"] & subjects["validation"]
    assert not subjects["validation"] & subjects["test"]


def test_kinds_and_values_that_are_tested_never_meet_in_training():
    met = {}
    for split in ("train", "test"):
        told = [c for e in TASK.load(split, 900) for t in texts(e)[:1] if re.match("Every|No ", t)
                for c in claims(t[:-1])]  # fmt: skip
        met[split] = {(c[0].split()[-1], c[3]) for c in told}
    assert len(met["train"]) > 80 and len(met["test"]) > 10
    assert not met["train"] & met["test"]


def test_shift_trains_on_the_same_pairs():
    assert NLIShift().load("train", 60) == NLI().load("train", 60)
    with pytest.raises(ValueError, match="no split 'shift'"):
        NLI().load("shift")
