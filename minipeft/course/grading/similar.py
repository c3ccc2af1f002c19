"""Look-alikes: pairs of hand-ins that share more than independent right answers do.

Winnowing (Schleimer, Wilkerson and Aiken 2003) over the syntax tree. Names, literals, annotations,
comments and layout are not looked at; operands that commute, keywords, and statements of which none
needs the other have one order. What the starter has is taken off. Among the class, what a fifth of
it has is taken off, too: the equation in the docstring has few translations. Beside the reference
and earlier terms it counts, as a fifth of the class may have copied that.
"""

from __future__ import annotations

import ast
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from minipeft.course.grading.grader import gather
from minipeft.course.grading.submissions import opened
from minipeft.course.homework.assignment import Assignment
from minipeft.course.homework.own import all_of

GRAM, WINDOW = 10, 4  # any GRAM + WINDOW - 1 tokens that two share leave a print in both
ENOUGH = 12  # prints that a pair must share, about 30 tokens; short answers are alike by nature
SHARE = 0.5  # of the prints of the smaller of both
COMMON, FEW = 0.2, 5  # a print of more than this part of a class, and of more than so many
AHEAD = 12  # statements that are looked at for the next one
OTHER, REFERENCE = "other", "the reference"
Function = ast.FunctionDef | ast.AsyncFunctionDef
Prints = dict[str, frozenset[int]]  # a hole's id, or OTHER -> the prints of its code
Names = tuple[set[str], set[str]]  # read, written


class Pair(NamedTuple):
    """Two hand-ins that look alike.

    share   of the prints of the smaller one, from 0 to 1
    shared  how many prints that is
    holes   where they are, those with the most first
    """

    first: str
    second: str
    share: float
    shared: int
    holes: tuple[str, ...]


def similar(
    homework: Assignment, hand_ins: Mapping[str, Path], starter: Mapping[str, str],
    reference: Mapping[str, str], earlier: Mapping[str, Path] | None = None,
    share: float = SHARE, enough: int = ENOUGH, own: bool = False,
) -> tuple[list[Pair], dict[str, str]]:  # fmt: skip
    """Compare hand-ins with each other, with the reference, and with those of earlier terms.

    hand_ins  name -> folder or zip;  earlier  the same, of which no two are compared
    starter, reference  the cut and the solved tree, file -> text
    own       students bring an engine of their own: all their files are compared
    Returns  the pairs, those that share most first, and whose files were not read, and why
    """
    old, take = earlier or {}, all_of if own else gather
    files = set(starter) if own else {hole.file for hole in homework.holes}
    known = {n.attr for file in files for n in ast.walk(ast.parse(starter[file]))
             if isinstance(n, ast.Attribute)}  # fmt: skip
    solved = {hole.file: reference[hole.file] for hole in homework.holes}
    seen = {REFERENCE: _prints(homework, solved, known)}
    unread = {}
    for name, path in {**hand_ins, **old}.items():
        try:
            with opened(path) as folder:
                given, notes = take(homework, folder)
            texts = {file: data.decode("utf-8", "replace") for file, data in given.items()
                     if file.endswith(".py")}  # fmt: skip
            seen[name] = _prints(homework, texts, known)
            if not given:
                raise ValueError("; ".join(notes))
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
            unread[name] = f"{type(error).__name__}: {error!s:.200}"
    given_all = _whole(_prints(homework, {file: starter[file] for file in files}, known))
    whole = {name: {k: prints - given_all for k, prints in of.items()} for name, of in seen.items()}
    new = {name: whole[name] for name in hand_ins if name not in unread}
    counts = Counter(p for of in new.values() for p in _whole(of))
    common = {p for p, n in counts.items() if n > max(FEW, COMMON * len(hand_ins))}
    rare = {name: {k: prints - common for k, prints in of.items()} for name, of in new.items()}
    pairs = [_pair(a, b, rare[a], rare[b]) for a, b in combinations(rare, 2)]
    pairs += [_pair(a, b, whole[a], whole[b]) for a in new for b in whole if b not in new]
    pairs = [p for p in pairs if p.share >= share and p.shared >= enough]
    return sorted(pairs, key=lambda p: (-p.share, -p.shared, p[:2])), unread


def _pair(a: str, b: str, first: Prints, second: Prints) -> Pair:
    shared, least = _whole(first) & _whole(second), min(len(_whole(first)), len(_whole(second)))
    where = Counter({hole: len(prints & shared) for hole, prints in first.items()})
    holes = tuple(hole for hole, n in where.most_common() if n)
    return Pair(a, b, len(shared) / max(1, least), len(shared), holes)


def _whole(prints: Prints) -> frozenset[int]:
    return frozenset().union(*prints.values())


# -- prints ---------------------------------------------------------------------------------------


def _prints(homework: Assignment, texts: Mapping[str, str], known: set[str]) -> Prints:
    """The prints of each function of some files, by the hole that it belongs to."""
    made: dict[str, frozenset[int]] = {}
    for file, text in texts.items():
        for name, node in _functions(ast.parse(text)):
            inside = (h.id for h in homework.holes
                      if h.file == file and f"{h.function}.".startswith(f"{name}."))  # fmt: skip
            hole = next(inside, OTHER)
            made[hole] = made.get(hole, frozenset()) | winnowed(words(node, known))
    return made


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Functions and methods by their dotted names; inner functions belong to the outer one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")


def winnowed(tokens: Sequence[str]) -> set[int]:
    """The smallest hash of each window of grams, so that both copies keep the same ones."""
    grams = [zlib.crc32(" ".join(tokens[i : i + GRAM]).encode())
             for i in range(len(tokens) - GRAM + 1)]  # fmt: skip
    return {min(grams[i : i + WINDOW]) for i in range(max(1, len(grams) - WINDOW + 1)) if grams}


def words(node: ast.AST, known: set[str]) -> list[str]:
    """A tree as words in which what a copy changes first does not show.

    known  attributes of the starter: the names that stay, as a copy must use them too
    """

    def of(*nodes: ast.AST | None) -> list[str]:
        return [word for n in nodes if n is not None for word in words(n, known)]

    match node:
        case ast.Name() | ast.arg():
            return ["v"]
        case ast.Constant():
            return ["c"]
        case ast.Attribute():
            return [*of(node.value), f".{node.attr}" if node.attr in known else "."]
        case ast.BinOp(op=ast.Add() | ast.Mult()):
            first, second = sorted((of(node.left), of(node.right)))
            return [type(node.op).__name__, *first, *second]
        case ast.Call():
            keywords = sorted(of(k.value) for k in node.keywords)
            return ["call", *of(node.func, *node.args), *(w for k in keywords for w in k)]
        case ast.AnnAssign():
            return ["Assign", *of(node.target, node.value)]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return ["def", *_block(node.body, known)]
    found = [type(node).__name__]
    for _, value in ast.iter_fields(node):
        inner = value if isinstance(value, list) else [value]
        if inner and isinstance(inner[0], ast.stmt):
            found += _block(inner, known)
        else:
            found += of(*(n for n in inner if isinstance(n, ast.AST)
                          and not isinstance(n, ast.expr_context)))  # fmt: skip
    return found


def _block(body: Sequence[ast.stmt], known: set[str]) -> list[str]:
    """Statements without docstrings, those that may change places in one order."""
    left = [(isinstance(n, ast.Assign | ast.AnnAssign | ast.AugAssign), words(n, known), _names(n))
            for n in body if not (isinstance(n, ast.Pass) or isinstance(n, ast.Expr)
                                  and isinstance(n.value, ast.Constant))]  # fmt: skip
    found: list[str] = []
    while left:
        free = []
        for i, (moves, text, names) in enumerate(left[:AHEAD]):
            if not moves:
                break
            if not any(_needs(names, before) for _, _, before in left[:i]):
                free.append((text, i))
        found += left.pop(min(free, default=([], 0))[1])[1]
    return found


def _needs(after: Names, before: Names) -> bool:
    """Whether two statements must keep their order: one writes what the other has."""
    (read, written), (had, made) = after, before
    return bool(made & (read | written) or written & had)


def _names(node: ast.stmt) -> Names:
    """The names that a statement reads, and those that it writes, also a part of."""
    found: Names = set(), set()
    for n in ast.walk(node):
        inner: ast.AST = n
        while isinstance(inner, ast.Attribute | ast.Subscript):
            inner = inner.value
        if isinstance(inner, ast.Name) and isinstance(n, ast.Name | ast.Attribute | ast.Subscript):
            found[isinstance(n.ctx, ast.Store)].add(inner.id)
            if isinstance(node, ast.AugAssign):
                found[0].add(inner.id)
    return found
