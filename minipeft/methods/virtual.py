"""Virtual tokens: ids from V on, which stand before a text or in it, and whose rows train.

What prompt tuning and P-tuning share: a template that says where they stand, the wrapper of the
start that puts them there, and the wrapper of the embedding that knows them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from minipeft.backend import Array, xp_of
from minipeft.checks import setting, whole
from minipeft.contract.method import Method, Where, Wrapper
from minipeft.engine import Tensor, context, fused, ops
from minipeft.nn import Module, Parameter, init


class Mark(NamedTuple):
    """So many virtual tokens before or behind an anchor; with none, where the text begins."""

    n: int
    anchor: str
    behind: bool


@dataclass(frozen=True)
class VirtualTokens(Method):
    """Rows of trained embeddings for ids from V on, which stand before a text or in it.

    n         how many virtual tokens
    template  where they stand. "{}" is all of them before the text; "{}...{3} Answer:{2}" are 3
              before the words " Answer:" (where the text has them last), 2 behind, the others
              before the text. Of the words every row must have all
    """

    compose: ClassVar[str] = "input"
    by_row: ClassVar[bool] = True
    identity: ClassVar[str] = "virtual tokens are seen"

    n: int = setting(10, whole(1))
    template: str = "{}"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.marks()

    def marks(self) -> list[Mark]:
        """What the template says, in its order."""
        found: list[Mark] = []
        for i, piece in enumerate(self.template.split("...")):
            parts = re.fullmatch(r"(?:\{(\d*)\})?([^{}]*)(?:\{(\d*)\})?", piece)
            if parts is None or (i and not parts[2]):
                raise ValueError(f"{type(self).__name__}: template must be such as '{{}}' or '{{}}"
                                 f"...{{3}} Answer:{{2}}', got {self.template!r:.80}")  # fmt: skip
            counts = ((parts[1], False), (parts[3], True))
            found += [Mark(-1 if k == "" else int(k), parts[2], behind)
                      for k, behind in counts if k is not None]  # fmt: skip
        rest = self.n - sum(mark.n for mark in found if mark.n >= 0)
        open_marks = sum(mark.n < 0 for mark in found)
        if open_marks > 1 or rest < 0 or (rest and not open_marks):
            raise ValueError(f"{type(self).__name__}: template {self.template!r:.80} must hold "
                             f"n = {self.n} virtual tokens; one {{}} may be the rest")  # fmt: skip
        return [mark._replace(n=rest) if mark.n < 0 else mark for mark in found]

    @property
    def targets(self) -> str:
        """The start, the embedding, and what else `others` names."""
        return r"re:start|emb\.tok" + self.others()

    def others(self) -> str:
        """More alternatives of the pattern."""
        return ""

    def rows(self, module: Any, where: Where) -> Array:
        """What P starts from.  -> (n, d)"""
        raise NotImplementedError

    def wrap(self, path: str, module: Any, where: Where) -> Wrapper | None:
        if where.config.value("vocab") is None:
            raise ValueError(f"{type(self).__name__} puts virtual tokens between the ids of a text"
                             ", and this model reads pictures: take Prefix")  # fmt: skip
        if path == "start":
            return PutIn(module, self.n)
        first = where.config.vocab + module.virtual
        return Rows(module, Parameter(self.rows(module, where)), first)

    def prepare(self, at: Any) -> None:
        start, table = at.wrappers["start"], at.wrappers["emb.tok"]
        tokenizer = getattr(at.model, "tokenizer", None)
        start.first = table.first
        for n, anchor, behind in self.marks():
            if anchor and tokenizer is None and not init.is_shape_only(table.P.data):
                raise ValueError(f"{type(self).__name__}: to find {anchor!r:.40} in a text, the "
                                 "model needs a tokenizer")  # fmt: skip
            words = tokenizer.encode(anchor) if anchor and tokenizer else []
            start.marks.append((n, anchor, words, len(words) * behind))


def rows_of(ids: Array, first: int, P: Tensor, other: Any) -> Tensor:
    """Row i of P where an id is first + i, and elsewhere what stands in `other`.

    Shapes  ids (B, T), P (n, d), other (B, T, d) -> (B, T, d)
    """
    virtual = (ids >= first) & (ids < first + P.shape[0])
    number = xp_of(ids).where(virtual, ids - first, 0)
    return ops.where(virtual[..., None], fused.embedding(P, number), other)


class Rows(Wrapper):
    """Ids from `first` on are rows of P.  Shapes  ids (B, T) -> (B, T, d), P (n, d)"""

    def __init__(self, base: Module, P: Parameter, first: int) -> None:
        super().__init__(base)
        self.P, self.first = P, first

    @property
    def virtual(self) -> int:
        return self.base.virtual + self.P.shape[0]

    def forward(self, ids: Array) -> Tensor:
        values, end = context().values, self.first + self.P.shape[0]
        if values is not None:
            values[self] = ids  # for the wrappers of blocks
        others = xp_of(ids).where((ids < self.first) | (ids >= end), ids, 0)
        return rows_of(ids, self.first, self.P, self.base(others))


def put_in(ids: Array, mask: Array | None, before: Array, first: int) -> tuple[Array, Array | None]:
    """Ids first, first + 1, … between those of a text; padding stays padding.

    before  the column of `ids` before which each of them stands, T for behind the last; those of
            one column stand there in their order
    Shapes  ids (B, T), mask (B, T) or None, before (B, n) -> (B, T + n) both, None if it was None
    """
    xp, (B, n), T = xp_of(ids), before.shape, ids.shape[1]
    # what stands before the id of column i has a smaller key than it, in the marks' order
    keys = before * (n + 1) + xp.arange(n)
    own = xp.broadcast_to(xp.arange(T) * (n + 1) + n, (B, T))
    order = xp.concatenate([keys, own], axis=1).argsort(axis=1)
    virtual = xp.broadcast_to(xp.arange(first, first + n), (B, n))
    ids = xp.take_along_axis(xp.concatenate([virtual, ids], axis=1), order, axis=1)
    if mask is not None:
        there = xp.concatenate([xp.ones((B, n), dtype=bool), mask != 0], axis=1)
        mask = xp.take_along_axis(there, order, axis=1)
    return ids, mask


class PutIn(Wrapper):
    """Puts ids from `first` on where the marks say; padding on either side stays there."""

    def __init__(self, base: Module, n: int) -> None:
        super().__init__(base)
        self.first, self.puts = 0, n
        self.marks: list[tuple[int, str, list[int], int]] = []  # (n, anchor, its ids, columns on)

    def forward(self, ids: Array, mask: Array | None) -> Any:
        ids, mask, past = self.base(ids, mask)
        xp = xp_of(ids)
        seen = xp.ones(ids.shape, dtype=bool) if mask is None else mask != 0
        before = [
            xp.repeat(self._column(ids, seen, anchor, words)[:, None] + on, k, axis=1)
            for k, anchor, words, on in self.marks
        ]
        return *put_in(ids, mask, xp.concatenate(before, axis=1), self.first), past

    def _column(self, ids: Array, seen: Array, anchor: str, words: list[int]) -> Array:
        """Where the text begins, or the last of the columns where it has the words.  -> (B,)"""
        if not words:
            return seen.argmax(1)
        end = ids.shape[1] - len(words) + 1
        hit = xp_of(ids).ones((len(ids), max(end, 0)), dtype=bool)
        for i, word in enumerate(words if end > 0 else ()):
            hit &= (ids[:, i : i + end] == word) & seen[:, i : i + end]
        if end <= 0 or not bool(hit.any(1).all()):
            row = 0 if end <= 0 else int(hit.any(1).argmin())
            raise ValueError(f"template: row {row} of the batch does not have {anchor!r:.60}")
        return end - 1 - hit[:, ::-1].argmax(1)
