"""The homework's pages: their commands exist, their links lead somewhere, their table is true."""

import re
import shlex
from pathlib import Path

import pytest

from minipeft import cli
from minipeft.course.homework.assignment import load

FOLDER = Path(__file__).parents[3] / "lectures" / "homework"
README = FOLDER / "README.md"
PAGES = [README, FOLDER / "short_course.md", FOLDER / "project" / "handout.md"]
ROW = re.compile(
    r"\| (?P<name>hw\d) \| \[(?P<title>[^]]+)\]\((?P<folder>\w+)/handout.ipynb\) "
    r"\| (?P<lectures>.*) \| (?P<hours>[\d.]+-[\d.]+) \| (?P<holes>\d) "
    r"\| (?P<code>\d+), (?P<written>\d+) \|"
)


def commands(text):
    """Every `minipeft …` of a page, on a line of a block or between backticks."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    found = [re.sub(r"^uv run ", "", line.split("  #")[0]) for line in lines]
    return [line for line in found if line.startswith("minipeft ") and "…" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(page):
    for line in commands(page.read_text(encoding="utf-8")):
        try:
            cli._parser().parse_args(shlex.split(line)[1:])
        except SystemExit as stop:
            assert stop.code == 0, f"{page.name}: {line}"


def test_commands_are_found():
    text = "```\nuv run minipeft doctor  # looks\n```\nor `minipeft data nli`, `minipeft …`\n"
    assert commands(text) == ["minipeft doctor", "minipeft data nli"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_never_to_answers(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    for link in links:
        assert (page.parent / link).exists(), link
        assert "instructor" not in link


def test_code_for_students_compiles():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGES[2].read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    for block in blocks:
        compile(block, "handout.md", "exec")


def test_the_table_says_what_the_assignments_say():
    rows = [match.groupdict() for match in ROW.finditer(README.read_text(encoding="utf-8"))]
    assert rows and len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        homework = load(FOLDER / row["folder"])
        numbers = [stem.partition("_")[0] for stem in homework.lectures]
        code = sum(hole.points for hole in homework.holes)
        assert row == {
            "name": homework.name, "title": homework.title, "folder": homework.folder.name,
            "lectures": ", ".join(numbers), "hours": "{:g}-{:g}".format(*homework.hours),
            "holes": str(len(homework.holes)), "code": f"{code:g}",
            "written": f"{homework.points - code:g}",
        }  # fmt: skip
