"""The self-checks find what is wrong with an assignment, each its own."""

import json
import shutil
from pathlib import Path

import pytest

from minipeft.course.homework.assignment import load
from minipeft.course.homework.verify import CHECKS, LONG, verify

TOY = Path(__file__).parent / "toy"
SIZES, WORDS, TREE, PREFIXES, MISTAKES, VARIANTS = CHECKS


def problems(folder, *names):
    return [text for name in names for text in CHECKS[name](load(folder))]


@pytest.fixture
def toy(tmp_path):
    return Path(shutil.copytree(TOY, tmp_path / "toy"))


def change(folder, file, old, new):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


@pytest.mark.full
def test_the_toy_is_right():
    said = []
    assert verify(load(TOY), said.append) == []
    assert said == [f"toy  {name}" for name in CHECKS]


WRONG = {  # what is changed -> the check, and what it says
    "points": (("assignment.toml", "points = 40", "points = 41"), SIZES, "add to 101, not 100"),
    "hours": (("assignment.toml", "[2, 3]", "[2, 9]"), SIZES, "hours are 2 to 9"),
    "hints": (("assignment.toml", ', "The VJP is g y."', ""), SIZES, "toy.1 has 1 hints"),
    "cell": (("handout.ipynb", 'check(\\"toy.2\\")', "pass"), WORDS, 'no cell check("toy.2")'),
    "question": (("handout.ipynb", "toy.a", "toy.b"), WORDS, "no answer cell of toy.a"),
    "convention": (("handout.ipynb", "{{sign}}", "plain"), WORDS, "{{sign}} stands in"),
    "rubric": (("instructor/rubric.md", "toy.a", "toy"), WORDS, "says nothing of toy.a"),
    "marker": (("handout.ipynb", "# Toy", "# BEGIN SOLUTION"), WORDS, "nbgrader and otter"),
    "left over": (("adapters.py", "    return run(ops.exp, x, g)",
                   "    if 0:\n        return y, (lambda g: g * y * (1 - y),)\n"
                   "    return run(ops.exp, x, g)"), TREE,
                  "adapters.py holds a line of the solution of toy.2: return"),
    "order": (("adapters.py", "return run(ops.exp, x, g)",
               "return run(ops.exp, ops.sigmoid(x).data, g)"), PREFIXES,
              "toy.1 exp_gradient, with 1 holes solved, fails"),
    "needless": (("adapters.py", 'return {"y": ops.sigmoid(x).data}', 'return {"y": x + 1}'),
                 PREFIXES, "toy.2 sigmoid_value, with 0 holes solved, passes without"),
    "reference": (("adapters.py", "leaf.grad", "leaf.gra"), PREFIXES, "the reference fails toy.1"),
    "not told": (("assignment.toml", 'new = "-g * y"', 'new = "g * y"'), MISTAKES,
                 "toy.1: this mistake is told by {''}: The sign"),
    "same": (("cases.py", "draw.normal(draw.size(1, 5), scale=2.0)", "draw.rng.random(1) * 0"),
             MISTAKES, "sigmoid_value gives the same for two seeds"),
    "few": (("assignment.toml", '  [[hole.mistake]]\n  message = "The sign is turned round."\n'
             '  old = "g * y"\n  new = "-g * y"\n', ""), MISTAKES, "toy.1 has 3 mistakes"),
    "variant": (("assignment.toml", "1 - sigmoid_of(x)\\n", "sigmoid_of(x) + 0\\n"), VARIANTS,
                "variant sign 1 changes no right answer"),
    "edge": (("adapters.py", "leaf = Tensor(x, requires_grad=True)",
              "assert x.size > 1\n    leaf = Tensor(x, requires_grad=True)"), VARIANTS,
             "toy.1 exp_gradient on the smallest sizes: AssertionError"),
}  # fmt: skip


QUICK = ("points", "cell", "left over", "order", "not told")


@pytest.mark.parametrize(
    "what", [w if w in QUICK else pytest.param(w, marks=pytest.mark.full) for w in WRONG]
)
def test_what_is_wrong_is_found(toy, what):
    (file, old, new), check, says = WRONG[what]
    change(toy, file, old, new)
    found = problems(toy, check)
    assert any(says in text for text in found), found


def test_an_assignment_that_breaks_a_check_is_a_problem_too(toy):
    change(toy, "assignment.toml", "ops.py::exp", "ops.py::expo")
    found = verify(load(toy), lambda _: None)
    assert any("points, holes, lines to write: ValueError: no 'expo' here" in f for f in found)


TOML = {
    'name = "toy"': ("", "the assignment needs name = a str, got None"),
    "hours = [2, 3]": ("hours = [2]", "hours are two numbers"),
    'title = "the derivative of exp"': ("titel = 1", "hole toy.1 needs title = a str"),
    "keep = 1": ("kept = 1", "hole toy.1 has 'kept'.*Nearest: keep"),
    "ops.py::exp": ("ops.py", "at is FILE::FUNCTION"),
    "points = 40": ("", "a case of hole toy.1 needs points"),
    'old = "g * y"': ('body = "g"', "a mistake of hole toy.1 has old and new, or a body"),
    '[[variant.choice]]\n  say = "1 / (1 + exp(-x))"': ("", "needs two choices or more"),
    "lectures = [": ("lectures = ]", "Invalid value"),
}


@pytest.mark.parametrize("old", TOML)
def test_what_is_wrong_in_the_file_is_named(toy, old):
    change(toy, "assignment.toml", old, TOML[old][0])
    with pytest.raises(ValueError, match=TOML[old][1]):
        load(toy)


def test_names_that_are_not_there_get_the_nearest(monkeypatch):
    monkeypatch.setenv("MINIPEFT_HOMEWORK", str(TOY.parent))
    with pytest.raises(ValueError, match="no assignment 'hw9'; there are toy"):
        load("hw9")
    with pytest.raises(ValueError, match=r"toy has no hole 'toy.3'; it has toy.1, toy.2. Did"):
        load("toy").hole("toy.3")


def test_a_class_keeps_its_conventions_and_classes_differ():
    homework = load(TOY)
    drawn = [homework.choices(str(seed))["sign"] for seed in range(20)]
    assert set(drawn) == {0, 1} and homework.choices() == {"sign": 0}
    assert drawn == [homework.choices(str(seed))["sign"] for seed in range(20)]


def test_the_handout_is_valid():
    assert json.loads((TOY / "handout.ipynb").read_text())["nbformat"] == 4


@pytest.mark.full
def test_a_mistake_that_another_convention_makes_right_is_found(toy):
    """1 - sigmoid(x) is wrong under the library's convention, and right under the other."""
    body = "y = 1 - sigmoid_of(x)\\nreturn y, (lambda g: g * y * (1 - y),)"
    old = 'old = "sigmoid_of(x)"\n  new = "sigmoid_of(-x)"'
    change(toy, "assignment.toml", old, f'body = "{body}"')
    assert problems(toy, MISTAKES) == []
    (found,) = LONG["the usual mistakes under every convention"](load(toy))
    assert found.startswith("under {'sign': 1}: toy.2: this mistake is told by {''}: sigmoid(-x)")
