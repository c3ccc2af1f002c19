"""The first lines of a method's file are the reader's map: ten fields, and a count that is true.

That the count is true is a check of the contract; here, that the map is whole and that the
evaluator can say no.
"""

import dataclasses
import sys

import pytest

from minipeft.contract import attach
from minipeft.methods import METHODS
from minipeft.models import GPT
from tests.methods.contract import CASES, CONFIG, FIELDS, evaluated, fields_of, stated_count

KINDS = ("parameter composition", "function composition", "input composition")
INSERTIONS = ("parallel", "sequential", "before the text", "inside the text")


@pytest.mark.parametrize("name", METHODS)
def test_the_ten_fields_are_there_in_order(name):
    method = METHODS[name]
    file = sys.modules[method.__module__]
    found = fields_of(file)
    assert list(found) == FIELDS
    assert all(found.values()), found
    assert found["Kind"] in KINDS and found["Kind"].startswith(method.compose)
    assert file.__doc__.partition("\n")[0].endswith(".")
    assert method.name == name and file.__name__ == f"minipeft.methods.{name}"


@pytest.mark.parametrize("name", METHODS)
def test_the_formula_is_in_four_parts_or_says_why_not(name):
    said = fields_of(sys.modules[METHODS[name].__module__])["Unified"]
    if said.startswith("outside: "):
        assert len(said.split()) > 4 and ";" not in said
        return
    form, insertion, representation, composition = said.split("; ")
    assert form and representation
    assert any(insertion.startswith(known) for known in INSERTIONS), insertion
    assert "Δh" in composition and "h" in composition.replace("Δh", "").split(", ")[0]


@pytest.mark.parametrize("name", METHODS)
def test_the_class_explains_its_settings(name):
    fields = [f.name for f in dataclasses.fields(METHODS[name]) if f.name != "seed"]
    lines = [line.split() for line in METHODS[name].__doc__.splitlines() if line.strip()]
    assert [f for f in fields if f in [words[0] for words in lines]] == fields


def test_formulas():
    names = {"r": 2, "d": 3, "ln_f": True}
    assert evaluated("2 * r * (d - 1) ** 2 + ln_f * 2 * d", names) == 22
    with pytest.raises(AssertionError):
        evaluated("d.__class__", names)
    with pytest.raises(KeyError):
        evaluated("r * x", names)


def test_a_wrong_formula_is_seen():
    for name, wrong in [("lora", "r * d_in per module"), ("topk", "k * 12 * d * d per model")]:
        handle = attach(GPT(CONFIG, init="shape"), CASES[name].method)
        assert stated_count(handle, wrong) != handle.count() == stated_count(handle)
