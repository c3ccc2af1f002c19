"""A throwaway method that puts virtual tokens before and into a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import xp_of
from minipeft.contract import Method, Where, Wrapper
from minipeft.engine import fused, ops
from minipeft.nn import Module, Parameter, init


@dataclass(frozen=True)
class Prompt(Method):
    """Virtual tokens: n before the text, or one before it and the others behind its token `at`.

    Adds     n * d per model
    """

    name: ClassVar[str] = "throwaway_prompt"
    compose: ClassVar[str] = "input"
    by_row: ClassVar[bool] = True
    identity: ClassVar[str] = "virtual tokens are seen"
    lr: ClassVar[float] = 3e-2

    n: int = 3
    at: int = 0  # how many of the text's tokens stand between the first and the others
    targets: tuple[str, ...] = ("start", "emb.tok")
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper:
        if path == "start":
            return PromptStart(module, self.n, self.at)
        first = where.config.vocab + module.virtual
        like = module.weight.data
        return PromptRows(module, first, init.normal((self.n, like.shape[1]), like, where.rng, 1.0))

    def prepare(self, at: Any) -> None:
        at.wrappers["start"].first = at.wrappers["emb.tok"].first


class PromptRows(Wrapper):
    """Ids from `first` on are rows of its own."""

    def __init__(self, base: Module, first: int, rows: Any) -> None:
        super().__init__(base)
        self.rows, self.first = Parameter(rows), first

    @property
    def virtual(self) -> int:
        return self.base.virtual + len(self.rows.data)

    def forward(self, ids: Any) -> Any:
        mine = (ids >= self.first) & (ids < self.first + len(self.rows.data))
        xp = xp_of(ids)
        below = self.base(xp.where(mine, 0, ids))
        rows = fused.embedding(self.rows, xp.where(mine, ids - self.first, 0))
        return ops.where(mine[..., None], rows, below)


class PromptStart(Wrapper):
    """ids -> virtual, the first `at` of them, virtual …, the rest; padding on the left stays."""

    def __init__(self, base: Module, n: int, at: int) -> None:
        super().__init__(base)
        self.n, self.at, self.first, self.puts = n, at, 0, n

    def forward(self, ids: Any, mask: Any) -> Any:
        ids, mask, past = self.base(ids, mask)
        xp, (B, T) = xp_of(ids), ids.shape
        seen = xp.ones((B, T), dtype=bool) if mask is None else mask != 0
        virtual, true = xp.arange(self.first, self.first + self.n), xp.ones(self.n, dtype=bool)
        new, out = [], []
        for row in range(B):  # a text may begin behind padding
            begin = int(seen[row].argmax())
            cut = begin + min(self.at, T - begin)
            for to, given, put in ((new, ids[row], virtual), (out, seen[row], true)):
                to.append([given[:begin], put[:1], given[begin:cut], put[1:], given[cut:]])
        new, out = (xp.stack([xp.concatenate(parts) for parts in rows]) for rows in (new, out))
        return new, None if mask is None else out, past
