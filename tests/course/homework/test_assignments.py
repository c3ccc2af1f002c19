"""The course's assignments: what a quick look can tell; `homework verify` tells the rest."""

import re

import pytest

from minipeft.course.homework.assignment import assignments
from minipeft.course.homework.tree import CHECKOUT
from minipeft.course.homework.verify import CHECKS, verify

SIZES, WORDS, *_ = CHECKS
ALL = assignments()


@pytest.mark.parametrize("homework", ALL, ids=lambda homework: homework.name)
def test_sizes_and_words(homework):
    assert [*CHECKS[SIZES](homework), *CHECKS[WORDS](homework)] == []


@pytest.mark.full
@pytest.mark.parametrize("homework", ALL, ids=lambda homework: homework.name)
def test_all_checks(homework):
    assert verify(homework, long=True) == []


@pytest.mark.parametrize("homework", ALL, ids=lambda homework: homework.name)
def test_its_lectures_are_there_and_name_it(homework):
    page = (CHECKOUT / "lectures" / "README.md").read_text(encoding="utf-8")
    for lecture in homework.lectures:
        (row,) = (line for line in page.splitlines() if f"]({lecture}.ipynb)" in line)
        assert f"homework/{homework.folder.name}/" in row


def named(text):
    """The ids in a Homework field; hw7.1-hw7.3 are three."""
    for first, last in re.findall(r"(hw\d+\.\w+)(?:-(hw\d+\.\w+))?", text):
        stem, _, i = first.partition(".")
        j = last.partition(".")[2] or i
        yield from (f"{stem}.{k}" for k in (range(int(i), int(j) + 1) if i.isdigit() else (i,)))


def test_a_methods_file_names_its_holes():
    """All of them, and no part of a homework that there is not."""
    parts = {p.id for homework in ALL for p in (*homework.holes, *homework.questions)}
    for file in sorted((CHECKOUT / "minipeft" / "methods").glob("[a-z]*.py")):
        told = re.search(r"Homework +(.+)$", file.read_text(encoding="utf-8"), re.M)
        name = file.relative_to(CHECKOUT).as_posix()
        holes = {h.id for homework in ALL for h in homework.holes if h.file == name}
        if told is not None:  # not in what several methods share
            assert holes <= set(named(told[1])) <= parts, name
