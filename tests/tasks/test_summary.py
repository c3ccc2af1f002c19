"""Summary: a reader writes every summary, the first sentence is none."""

import re

import pytest

from minipeft.generation.metrics import exact_match, rouge_l
from minipeft.tasks.summary import Summary, gist
from minipeft.world.grammar import a
from minipeft.world.records import CATEGORIES
from tests.tasks.baselines import parts

TASK = Summary()


def paragraph(e):
    return parts(e, TASK.patterns[0])[0]


def read(text, category):
    """The summaries of a paragraph: its sentences are matched with the verbs of every slot."""
    spec, found = CATEGORIES[category], {}
    lines = text.removesuffix(".").split(". ")
    name = next(n for n in names(spec) if lines[0].startswith(n + " "))
    for line in lines:
        said = line.removeprefix(name + " ").removeprefix("It ").removeprefix("He ")
        said = said.removeprefix("She ")
        if said in [f"is {a(k)}" for k in spec.kinds]:
            found["kind"] = said.removeprefix("is a ").removeprefix("is an ")
        for slot, told in spec.slots.items():
            for value in told.values:
                if said in [verb.format(v=value) for verb in told.verbs]:
                    found[slot] = value
    *front, tail = gist(category)
    noun = a(" ".join([found[s] for s in front] + [found["kind"]]))
    return [f" {name} is {noun} {t.format(v=found[tail])}." for t in spec.slots[tail].tails]


def names(spec):
    """Every name of a category, the longest first."""
    out = [""]
    for column in spec.names:
        out = [f"{n} {word}".strip() for n in out for word in column]
    return sorted(out, key=len, reverse=True)


@pytest.mark.parametrize("split", TASK.splits)
def test_a_rule_that_reads_writes_every_summary(split):
    for e in TASK.load(split, 300):
        assert list(e.references) == read(paragraph(e), e.kind), paragraph(e)


def test_a_summary_joins_what_no_sentence_joins():
    for e in TASK.load("train", 300):
        assert 4 <= paragraph(e).count(".") <= 6
        assert e.target.strip() not in paragraph(e)
        assert len(e.target.split()) < len(paragraph(e).split()) / 1.4


def test_combinations_that_are_tested_are_never_seen_in_training():
    joined = {}
    for split in TASK.splits:
        joined[split] = {
            re.search(r" is (.+) (?:with|in|on|for|of|by|from|made|that|who|at|near|written)\b",
                      e.target)[1]
            for e in TASK.load(split, 600) if len(gist(e.kind)) == 2
        }  # fmt: skip
    assert len(joined["train"]) > 100 and len(joined["test"]) > 12
    assert not joined["train"] & joined["test"] and not joined["validation"] & joined["test"]


def test_the_first_sentence_is_no_summary():
    examples = TASK.load("test", 200)
    lead = [paragraph(e).split(". ")[0] + "." for e in examples]
    references = [list(e.references) for e in examples]
    scores = rouge_l(lead, references), exact_match(lead, references)
    print(f"summary, first sentence: ROUGE-L {scores[0]:.1f}, exact {scores[1]:.1f} %")
    assert 20.0 < scores[0] < 65.0 and scores[1] == 0.0
    assert rouge_l([e.references[-1] for e in examples], references) == 100.0
