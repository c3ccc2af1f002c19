"""einsum: sums of products, named by letters, as products of matrices.

Nothing is differentiated here: transposes, reshapes, sums and matmul know how.
"""

from __future__ import annotations

import math
from typing import Any

from minipeft.engine import ops
from minipeft.engine.tensor import Tensor


def einsum(subscripts: str, *xs: Any) -> Tensor:
    """Sums of products of elements, whose axes have letters: einsum("ij,jk->ik", a, b) is a @ b.

    The letters that stand right of -> remain; without it those that occur once, in the order of
    the alphabet. Two operands at a time, from the left, become one by a product of matrices.
    Raises  ValueError for "...", for a letter twice in one operand (a diagonal) or in the
            result, and where a letter has two sizes
    """
    terms, out = _subscripts(subscripts, [x.shape for x in xs])
    y, letters = xs[0], terms[0]
    for i, x in enumerate(xs[1:], 1):
        y, letters = _product(y, letters, x, terms[i], set(out).union(*terms[i + 1 :]))
    y, letters = _summed(y, letters, set(out))
    return ops.transpose(y, axes=[letters.index(c) for c in out])


def _subscripts(text: str, shapes: list[tuple[int, ...]]) -> tuple[list[str], str]:
    """The letters of each operand, and of the result."""
    left, arrow, out = text.replace(" ", "").partition("->")
    terms = left.split(",")
    every = "".join(terms)
    if "." in text:
        raise ValueError(f"einsum({text!r}): '...' is not known here; give each axis a letter")
    if [len(t) for t in terms] != [len(shape) for shape in shapes]:
        raise ValueError(f"einsum({text!r}) does not fit operands of shapes {shapes}: each needs "
                         "a letter for each axis")  # fmt: skip
    size: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for c, n in zip(term, shape, strict=True):
            if not c.isalpha():
                raise ValueError(f"einsum({text!r}): {c!r} is no letter")
            if term.count(c) > 1:
                raise ValueError(f"einsum({text!r}): {c!r} twice in {term!r} would be a diagonal, "
                                 "which is not known here")  # fmt: skip
            if size.setdefault(c, n) != n:
                raise ValueError(f"einsum({text!r}): {c!r} has size {size[c]} and size {n}")
    if not arrow:
        out = "".join(c for c in sorted(size) if every.count(c) == 1)
    if len(set(out)) < len(out) or not set(out) <= set(size):
        raise ValueError(f"einsum({text!r}): the letters of the result must differ, and each must "
                         "stand in an operand")  # fmt: skip
    return terms, out


def _summed(x: Any, letters: str, wanted: set[str]) -> tuple[Any, str]:
    """Sum over the axes whose letters nobody wants."""
    axes = [i for i, c in enumerate(letters) if c not in wanted]
    return ops.sum(x, axis=axes) if axes else x, "".join(c for c in letters if c in wanted)


def _product(a: Any, la: str, b: Any, lb: str, wanted: set[str]) -> tuple[Any, str]:
    """Two operands as one: matrices (rows, inner) and (inner, columns), one pair for each
    element of the axes that both have and that remain."""
    a, la = _summed(a, la, wanted | set(lb))
    b, lb = _summed(b, lb, wanted | set(la))
    size = dict(zip(la + lb, a.shape + b.shape, strict=True))
    both = [c for c in la if c in lb]
    batch, inner = [c for c in both if c in wanted], [c for c in both if c not in wanted]
    rows, columns = [c for c in la if c not in both], [c for c in lb if c not in both]

    def matrices(x: Any, letters: str, first: list[str], second: list[str]) -> Tensor:
        ordered = ops.transpose(x, axes=[letters.index(c) for c in (*batch, *first, *second)])
        sizes = [math.prod(size[c] for c in part) for part in (first, second)]
        return ops.reshape(ordered, shape=[size[c] for c in batch] + sizes)

    y = ops.matmul(matrices(a, la, rows, inner), matrices(b, lb, inner, columns))
    left = [*batch, *rows, *columns]
    return ops.reshape(y, shape=[size[c] for c in left]), "".join(left)
