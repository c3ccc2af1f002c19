"""The page of all methods says what classes and files say, and is the one in lectures/."""

import pytest

from minipeft.cli.method_page import page
from minipeft.course.method_map import PARTS, method_map, told
from minipeft.course.notebooks import folder
from minipeft.methods import METHODS, LoRA
from tests.clitools import value
from tests.methods.contract import CASES, fields_of


@pytest.fixture(scope="module")
def rows():
    return {row["method"]: row for row in method_map()}


def test_every_method_has_its_row(rows):
    assert list(rows) == list(METHODS)
    d, L, r = 96, 6, 8  # of tiny-gpt
    assert rows["lora"]["parameters"] == 2 * L * r * 2 * d
    assert rows["bitfit"]["parameters"] == 11 * d * L + d
    assert rows["ia3"]["parameters"] == 6 * d * L
    assert rows["linear_probe"]["parameters"] == 0


def test_what_merges_was_tried(rows):
    stuck = {case.method.name for case in CASES.values() if case.stuck}
    coded = {case.method.name for case in CASES.values() if case.quantized != "refuse"}
    assert {name for name, row in rows.items() if row["merges"] == "no"} == stuck & set(METHODS)
    assert {name for name, row in rows.items() if "floats" in row["merges"]} == coded


def test_the_parts_are_those_of_the_docstring(rows):
    assert rows["lora"]["form"] == "B A x" and rows["ia3"]["insertion"] == "sequential"
    assert rows["subspace"]["form"].startswith("outside: ")
    assert [rows["subspace"][part] for part in PARTS][1:] == ["", "", ""]
    for name, row in rows.items():
        said = {field: told(METHODS[name], field) for field in ("Unified", "Lecture", "Adds")}
        found = fields_of(__import__(METHODS[name].__module__, fromlist=["x"]))
        assert said == {field: found[field] for field in said}
        assert row["lecture"] == said["Lecture"]
        assert (folder().parent / row["file"]).is_file()


def test_a_field_that_is_missing_is_named():
    with pytest.raises(ValueError, match="methods.lora has no field Unifeid"):
        told(LoRA, "Unifeid")


def test_the_page_in_the_lectures_is_current(rows):
    file = folder() / "METHODS.md"
    now = page(list(rows.values()), markdown=True) + "\n"
    assert file.read_text(encoding="utf-8") == now, (
        "minipeft methods --markdown > lectures/METHODS.md"
    )


def test_the_command_tells_the_same(rows, capsys):
    assert value(capsys, "methods") == list(rows.values())
    text = page(list(rows.values()))
    assert "](" not in text and all(f"\n{name} " in text for name in rows)
