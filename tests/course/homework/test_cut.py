"""Holes are cut and filled by the syntax tree; what belongs to the question stays."""

import ast

import pytest

from minipeft.course.homework import cut
from tests.test_bounds import FILES

SOURCE = '''\
"""A file."""


class Part:
    @property
    def heads(self, x):
        """Split.

        Shapes  x (B, T, C) -> (B, H, T, D)
        """
        # queries first
        q = self.split(x)  # (B, H, T, D)
        # then one more
        y = q + 1  # the next one
        if q is None:

            return y
        return y  # (B, H, T, D)


def outer(x):
    def inner(g):
        return g * x
    return inner


def plain(x): return x
'''


def test_signature_docstring_comments_and_shapes_stay():
    made = cut.cut(SOURCE, "Part.heads", 'hw0.1: "heads"')
    want = '''\
    @property
    def heads(self, x):
        """Split.

        Shapes  x (B, T, C) -> (B, H, T, D)
        """
        # queries first
        # q (B, H, T, D)
        # then one more
        # YOUR CODE HERE
        raise NotImplementedError("hw0.1: \\"heads\\"")


def outer(x):
'''
    assert want in made
    assert "y = q + 1" not in made and "the next one" not in made
    ast.parse(made)


def test_statements_can_stay():
    made = cut.cut(SOURCE, "Part.heads", "x", keep=2)
    assert "y = q + 1  # the next one\n        # YOUR CODE HERE\n" in made
    assert "if q is None" not in made


def test_a_function_inside_another_is_found():
    made = cut.cut(SOURCE, "outer.inner", "x")
    assert "    def inner(g):\n        # YOUR CODE HERE\n" in made and "return inner" in made


@pytest.mark.parametrize(
    ("function", "keep", "says"),
    [("Part.head", 0, "no 'Part.head' here; there are heads"),
     ("Part", 0, "'Part' is a class"), ("outer", 2, "'outer' has 2 statements; 2 of them"),
     ("plain", 0, "begins on a line that stays")],
)  # fmt: skip
def test_what_is_no_hole_is_said(function, keep, says):
    with pytest.raises(ValueError, match=says):
        cut.cut(SOURCE, function, "x", keep)


def test_an_exchange_needs_a_text_that_stands_there_once():
    made = cut.mistaken(SOURCE, "outer.inner", "g * x", "g", "")
    assert made == SOURCE.replace("g * x", "g")
    with pytest.raises(ValueError, match="'q' stands there 4 times, not once"):
        cut.mistaken(SOURCE, "Part.heads", "q", "k", "")


def functions(file):
    """Every function of a file by its whole name, those of one name by the first alone."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield source, node.name
        elif isinstance(node, ast.ClassDef):
            names = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            yield from ((source, f"{node.name}.{n}") for n in names if names.count(n) == 1)


def test_every_function_of_the_library_can_be_cut_and_filled_again():
    n = 0
    for file in FILES:
        if file.parent.name != "generation":
            continue
        for source, name in functions(file):
            try:
                body = cut.body_of(source, name)
            except ValueError:  # only a docstring, or all on a line
                continue
            holed = cut.cut(source, name, "x")
            filled = cut.fill(holed, name, body)
            assert ast.dump(ast.parse(filled)) == ast.dump(ast.parse(source)), (file, name)
            assert "NotImplementedError('x')" in ast.unparse(ast.parse(holed))
            n += 1
    assert n > 40
