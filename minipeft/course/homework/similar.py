"""Look-alikes: pairs of hand-ins that share more than independent right answers do.

Winnowing (Schleimer, Wilkerson and Aiken 2003) over the syntax tree. Names, literals, annotations,
comments and layout are not looked at; operands that commute, keywords, and statements of which none
needs the other have one order. What the starter has is taken off, and so is what a fifth of the
class has: the equation in the docstring has few translations.
"""

from __future__ import annotations

import ast
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minipeft.course.homework.assignment import Assignment
from minipeft.course.homework.submissions import Refused, opened
from minipeft.display.table import Table

GRAM, WINDOW = 10, 4  # any GRAM + WINDOW - 1 tokens that two share leave a print in both
ENOUGH = 12  # prints that a pair must share, about 30 tokens; short answers are alike by nature
SHARE = 0.5  # of the prints of the smaller of both
COMMON, FEW = 0.2, 5  # a print of more than this part of a class, and of more than so many
LARGEST = 200_000  # letters of a file
AHEAD = 12  # statements that are looked at for the next one
OTHER = "other"
REFERENCE = "the reference"
Function = ast.FunctionDef | ast.AsyncFunctionDef
Prints = dict[str, frozenset[int]]  # a hole's id, or OTHER -> the prints of its code
CHAINED = (ast.Assign, ast.AnnAssign, ast.AugAssign)


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


@dataclass(frozen=True)
class Found:
    """The pairs, those that share most first, and which hand-ins were not read, and why."""

    pairs: tuple[Pair, ...]
    unread: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        rows = [(p.first, p.second, f"{100 * p.share:.0f} %", p.shared, ", ".join(p.holes))
                for p in self.pairs]  # fmt: skip
        lines = [f"not read: {name}: {why}" for name, why in self.unread]
        if not rows:
            return "\n".join(["No two look alike.", *lines])
        title = "Look-alikes: read both before you judge. share: of the smaller one's own code"
        head = ("first", "second", "share", "prints", "where")
        return Table(head, rows, "llrrl", title, "\n".join(lines)).text()


def similar(
    homework: Assignment, hand_ins: Mapping[str, Path], starter: Mapping[str, str],
    reference: Mapping[str, str], earlier: Mapping[str, Path] | None = None,
    share: float = SHARE, enough: int = ENOUGH,
) -> Found:  # fmt: skip
    """Compare hand-ins with each other, with the reference, and with those of earlier terms.

    hand_ins  name -> folder or zip;  earlier  the same, of which no two are compared
    starter, reference  the cut and the solved tree, file -> text
    """
    files = sorted({hole.file for hole in homework.holes})
    known = {n.attr for f in files for n in ast.walk(ast.parse(starter[f]))
             if isinstance(n, ast.Attribute)}  # fmt: skip
    given = frozenset().union(*_prints(homework, starter, files, known).values())
    seen: dict[str, Prints] = {}
    unread = []
    for name, path in {**hand_ins, **(earlier or {})}.items():
        try:
            seen[name] = _prints(homework, _read(path, files), files, known)
        except (Refused, SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
            unread.append((name, f"{type(error).__name__}: {error!s:.120}"))
    counts = Counter(p for name in hand_ins for p in set().union(*seen.get(name, {}).values()))
    most = max(FEW, COMMON * len(hand_ins))
    drop = given | {p for p, n in counts.items() if n > most}
    seen[REFERENCE] = _prints(homework, reference, files, known)
    own = {name: {k: v - drop for k, v in prints.items()} for name, prints in seen.items()}
    new, old = (
        [n for n in hand_ins if n in own],
        [REFERENCE, *(e for e in earlier or () if e in own)],
    )
    compared = [*((a, b) for i, a in enumerate(new) for b in new[i + 1 :]),
                *((a, b) for a in new for b in old)]  # fmt: skip
    pairs = [_pair(a, b, own[a], own[b]) for a, b in compared]
    pairs = [p for p in pairs if p.share >= share and p.shared >= enough]
    return Found(tuple(sorted(pairs, key=lambda p: (-p.share, -p.shared, p[:2]))), tuple(unread))


def _pair(a: str, b: str, first: Prints, second: Prints) -> Pair:
    alls = [frozenset().union(*prints.values()) for prints in (first, second)]
    shared, least = alls[0] & alls[1], min(map(len, alls))
    where = Counter({hole: len(prints & shared) for hole, prints in first.items()})
    holes = tuple(hole for hole, n in where.most_common() if n)
    return Pair(a, b, len(shared) / least if least else 0.0, len(shared), holes)


def _read(path: Path, files: Iterable[str]) -> dict[str, str]:
    """A hand-in's files with holes; a file that lies elsewhere is found by its name."""
    texts = {}
    with opened(path) as folder:
        for name in files:
            there = [folder / name, *sorted(folder.rglob(Path(name).name))]
            file = next((f for f in there if f.is_file()), None)
            if file is None:
                continue
            if file.stat().st_size > LARGEST:
                raise Refused(f"{name} has more than {LARGEST:,} letters")
            texts[name] = file.read_text(encoding="utf-8", errors="replace")
    if not texts:
        raise Refused(f"none of {', '.join(files)} is in it")
    return texts


# -- prints ---------------------------------------------------------------------------------------


def _prints(
    homework: Assignment, texts: Mapping[str, str], files: Sequence[str], known: set[str]
) -> Prints:
    """The prints of each function of some files, by the hole that it belongs to."""
    made: dict[str, set[int]] = {}
    for file in files:
        for name, node in _functions(ast.parse(texts.get(file, ""))):
            inside = (h.id for h in homework.holes
                      if h.file == file and f"{h.function}.".startswith(f"{name}."))  # fmt: skip
            hole = next(inside, OTHER)
            made.setdefault(hole, set()).update(winnowed(list(Tokens(known).of(node))))
    return {hole: frozenset(prints) for hole, prints in made.items()}


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


class Tokens:
    """A tree as words in which what a copy changes first does not show.

    known  attributes of the starter: the names that stay, as a copy must use them too
    """

    def __init__(self, known: set[str]) -> None:
        self.known = known

    def of(self, node: ast.AST) -> Iterator[str]:
        """The words of a node and all below it."""
        match node:
            case ast.Name() | ast.arg():
                yield "v"
            case ast.Constant():
                yield "c"
            case ast.Attribute():
                yield from self.of(node.value)
                yield f".{node.attr}" if node.attr in self.known else "."
            case ast.BinOp(op=ast.Add() | ast.Mult()):
                yield type(node.op).__name__
                yield from sum(sorted(map(self.words, (node.left, node.right))), [])
            case ast.Call():
                yield "call"
                keywords = sorted(self.words(k.value) for k in node.keywords)
                yield from sum([*map(self.words, (node.func, *node.args)), *keywords], [])
            case ast.AnnAssign():
                yield "Assign"
                yield from (w for n in (node.target, node.value) if n for w in self.of(n))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield "def"
                yield from self.block(node.body)
            case _:
                yield type(node).__name__
                for _, value in ast.iter_fields(node):
                    if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                        yield from self.block(value)
                    else:
                        inner = value if isinstance(value, list) else [value]
                        for n in inner:
                            if isinstance(n, ast.AST) and not isinstance(n, ast.expr_context):
                                yield from self.of(n)

    def words(self, node: ast.AST) -> list[str]:
        return list(self.of(node))

    def block(self, body: Sequence[ast.stmt]) -> Iterator[str]:
        """Statements, those that may change places in one order."""
        left = [n for n in body if not (isinstance(n, ast.Pass) or isinstance(n, ast.Expr)
                                        and isinstance(n.value, ast.Constant))]  # fmt: skip
        words = [self.words(n) for n in left]
        names = [_names(n) for n in left]
        order = list(range(len(left)))
        while order:
            free: list[int] = []
            for at, i in enumerate(order[:AHEAD]):
                if not isinstance(left[i], CHAINED):
                    break
                if not any(_needs(names[i], names[j]) for j in order[:at]):
                    free.append(i)
            chosen = min(free, key=lambda i: words[i], default=order[0])
            order.remove(chosen)
            yield from words[chosen]


Names = tuple[set[str], set[str]]


def _needs(after: Names, before: Names) -> bool:
    """Whether two statements must keep their order: one writes what the other has."""
    (read, written), (had, made) = after, before
    return bool(made & (read | written) or written & had)


def _names(node: ast.stmt) -> Names:
    """The names that a statement reads, and those that it writes, also a part of."""
    read: set[str] = set()
    written: set[str] = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name):
            (read if isinstance(n.ctx, ast.Load) else written).add(n.id)
        elif isinstance(n, ast.Attribute | ast.Subscript) and isinstance(n.ctx, ast.Store):
            inner: ast.AST = n.value
            while isinstance(inner, ast.Attribute | ast.Subscript):
                inner = inner.value
            written |= {inner.id} if isinstance(inner, ast.Name) else set()
    return read | written if isinstance(node, ast.AugAssign) else read, written
