"""Cutting holes into source by the syntax tree, and filling them.

A hole is the body of a function. Its signature and docstring stay, so do comments on lines of their
own and the shapes behind assignments: `q = split(x)  # (B, H, T, D)` leaves `# q (B, H, T, D)`.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

HERE = "# YOUR CODE HERE"
Function = ast.FunctionDef | ast.AsyncFunctionDef
SHAPE = re.compile(r"^\s*(?P<names>\w+(?:, \w+)*) = .*#\s*(?P<shape>\(.*)$")


@dataclass(frozen=True)
class Place:
    """Where a hole stands in a source.

    head   lines before the body: signature and docstring, from the function's first line (from 0)
    start, end   the body's lines, from 0, the end not among them; 0 lines if all is kept
    """

    first: int
    start: int
    end: int
    indent: str


def locate(source: str, function: str, keep: int = 0) -> Place:
    """Find a function's body.

    function  "tanh", "LoRALinear.forward", or "softmax.vjp" for one inside another
    Raises    ValueError if it is not there, or holds nothing behind what is kept
    """
    node: ast.AST = ast.parse(source)
    for name in function.split("."):
        inner = [n for n in ast.walk(node) if isinstance(n, Function | ast.ClassDef)
                 and n.name == name and n is not node]  # fmt: skip
        if not inner:
            there = sorted({n.name for n in ast.walk(node) if isinstance(n, Function)})
            raise ValueError(f"no {function!r} here; there are {', '.join(there)}")
        node = inner[0]
    if not isinstance(node, Function):
        raise ValueError(f"{function!r} is a class; a hole is a function or a method")
    body = node.body[1 if ast.get_docstring(node, clean=False) is not None else 0 :]
    if keep >= len(body):
        raise ValueError(f"{function!r} has {len(body)} statements; {keep} of them cannot stay")
    left = body[keep:]
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    start = left[0].lineno - 1
    decorated = getattr(left[0], "decorator_list", [])
    if decorated:
        start = decorated[0].lineno - 1
    if start <= node.lineno - 1 or start < _end_before(node, body, keep):
        raise ValueError(f"the body of {function!r} begins on a line that stays")
    assert left[-1].end_lineno is not None
    return Place(first, start, left[-1].end_lineno, " " * left[0].col_offset)


def _end_before(node: Function, body: list[ast.stmt], keep: int) -> int:
    """The line, from 1, on which what stays ends."""
    stays = [*node.body[: len(node.body) - len(body)], *body[:keep]]
    return max([stays[-1].end_lineno or 0] if stays else [node.lineno])


def body_of(source: str, function: str, keep: int = 0) -> str:
    """The body of a hole, dedented."""
    place = locate(source, function, keep)
    return textwrap.dedent("\n".join(source.splitlines()[place.start : place.end])) + "\n"


def text_of(source: str, function: str) -> str:
    """A whole function, dedented: decorators, signature, docstring and body."""
    place = locate(source, function)
    return textwrap.dedent("\n".join(source.splitlines()[place.first : place.end])) + "\n"


def fill(source: str, function: str, body: str, keep: int = 0) -> str:
    """The source with another body in a function."""
    place = locate(source, function, keep)
    lines = source.splitlines()
    new = textwrap.indent(textwrap.dedent(body).strip("\n"), place.indent).splitlines()
    return "\n".join([*lines[: place.start], *new, *lines[place.end :]]) + "\n"


def cut(source: str, function: str, says: str, keep: int = 0) -> str:
    """The source with a hole in place of a function's body.

    says  what the NotImplementedError there says
    """
    left = [line for line in map(_left_of, body_of(source, function, keep).splitlines()) if line]
    raises = f"raise NotImplementedError({_quoted(says)})"
    return fill(source, function, "\n".join([*left, HERE, raises]), keep)


def _left_of(line: str) -> str:
    """What stays of a line of a hole."""
    if line.lstrip().startswith("#"):
        return line.strip()
    shape = SHAPE.match(line)
    return f"# {shape['names']} {shape['shape']}" if shape else ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def replace_once(text: str, old: str, new: str, where: str) -> str:
    """Raises  ValueError unless `old` stands there exactly once"""
    if text.count(old) != 1:
        raise ValueError(f"{where}: {old!r} stands there {text.count(old)} times, not once")
    return text.replace(old, new)


def mistaken(source: str, function: str, old: str, new: str, body: str, keep: int = 0) -> str:
    """The source with a mistake in a function: a text exchanged, or another body."""
    if body:
        return fill(source, function, body, keep)
    place = locate(source, function)
    lines = source.splitlines()
    whole = "\n".join(lines[place.first : place.end])
    changed = replace_once(whole, old, new, function)
    return "\n".join([*lines[: place.first], changed, *lines[place.end :]]) + "\n"


def statements(body: str) -> set[str]:
    """The statements of a body in one form each, inner ones too, without what any code has.

    They are what must not be left in a student's tree.
    """
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(body))):
        if isinstance(node, ast.stmt) and not isinstance(
            node, Function | ast.ClassDef | ast.For | ast.If | ast.With | ast.While | ast.Try
        ):
            text = ast.unparse(node)
            if len(text) >= 30:
                found.add(text)
    return found
