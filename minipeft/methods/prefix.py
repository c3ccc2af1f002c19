"""Prefix tuning: trained keys and values before the text, in every layer.

Paper    Li and Liang 2021, eq. 3: h_i = P[i] where a position i is in the prefix, P = MLP(Q)
Kind     input composition
Unified  softmax(q P_k^T) P_v; parallel; what each head gives out; (1 - g) h + g Δh, g the softmax's
         share of the prefix
Touches  the start of the sequence, by a past; the attention of layers that `layers` leaves out
Adds     2 * L * d * n per model; N(0, std^2), so it takes a share of every softmax at once
Merges   nothing: it changes the input. As keys and values it can go into a cache
Saves    P (n, 2 L d), row by row keys and values of layer after layer; the MLP is dropped
Differs  where `words` start a prefix with an MLP, its last layer is solved for; the paper trains
         it for 500 steps. As there, the text's positions begin behind the prefix
Lecture  06_prefix                      Homework hw4.4-hw4.6
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from minipeft.backend import Array, xp_of
from minipeft.checks import real, setting, whole
from minipeft.contract.method import Method, Where, Wrapper
from minipeft.engine import Tensor, fused, no_grad, ops, running
from minipeft.nn import Module, Parameter, Past, init

NET = ("Q", "W1", "b1", "W2", "b2")


@dataclass(frozen=True)
class Prefix(Method):
    """Keys and values that stand before every text.

    n        how many positions
    mlp      hidden width of the network that makes them while they train, and is dropped in the
             file; 0 trains them as they are
    layers   which layers have a prefix; all by default
    words    a text whose keys and values they start from, repeated or cut to n tokens
    std      of the random start, without `words`
    """

    name: ClassVar[str] = "prefix"
    compose: ClassVar[str] = "input"
    by_row: ClassVar[bool] = True
    identity: ClassVar[str] = "the prefix takes a share of every softmax"
    lr: ClassVar[float] = 1e-1

    n: int = setting(5, whole(1))
    mlp: int = setting(0, whole(0))
    layers: tuple[int, ...] | None = None
    words: str = ""
    std: float = setting(0.02, real(0))
    seed: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """Where a sequence starts, and what hides the prefix from a layer."""
        return ("start",) if self.layers is None else ("start", "attn")

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper | None:
        chosen = range(where.layers) if self.layers is None else sorted({*self.layers})
        if not chosen or not 0 <= chosen[0] <= chosen[-1] < where.layers:
            raise ValueError(f"Prefix: layers must be some of 0 to {where.layers - 1}, the "
                             f"model's, got {self.layers}")  # fmt: skip
        if path != "start":
            return None if where.layer in chosen else Unseen(module, self.n)
        columns = 2 * len(chosen) * where.config.key_width
        P = init.normal((self.n, columns), where.like, where.rng, self.std)
        return PrefixStart(module, Parameter(P, not self.mlp), tuple(chosen), where.layers)

    def prepare(self, at: Any) -> None:
        where, P = at.where("start"), at.wrappers["start"].P
        if self.words and not init.is_shape_only(where.like):
            P.data = self._of_words(at)
        if self.mlp:
            at.computed["start.P"] = P
            at.shared |= {name: Parameter(a) for name, a in self._network(where, P.data).items()}

    def _of_words(self, at: Any) -> Array:
        """The keys and values that the frozen model makes of the words.  -> (n, 2 L d)"""
        model, xp = at.model, xp_of(at.wrappers["start"].P.data)
        if getattr(model, "tokenizer", None) is None:
            raise ValueError("Prefix: words need a model that reads text, with a tokenizer")
        tokens = model.tokenizer.encode(self.words)
        ids = xp.asarray([(tokens * self.n)[: self.n]])
        with no_grad(), running(off=[at]):
            _, past = model(ids, return_past=True)
        chosen = [past[layer] for layer in at.wrappers["start"].chosen]
        return xp.concatenate([y.data[0, -self.n :] for pair in chosen for y in pair], axis=1)

    def _network(self, where: Where, P: Array) -> dict[str, Array]:
        """What makes P: a row for each position, and an MLP.  Q (n, d), W1 (h, d), W2 (2 L d, h)"""
        like, rng, d, h, xp = where.like, where.rng, where.config.width, self.mlp, xp_of(P)
        Q = init.normal((self.n, d), like, rng, 1.0)
        W1, b1 = (init.uniform(s, like, rng, 1 / math.sqrt(d)) for s in ((h, d), (h,)))
        W2, b2 = (
            init.uniform(s, like, rng, 1 / math.sqrt(h)) for s in ((P.shape[1], h), P.shape[1:])
        )
        if self.words and not init.is_shape_only(like):
            hidden = network(Q, W1, b1, xp.eye(h, dtype=Q.dtype), 0 * b1).data  # (n, h)
            W2, b2 = (xp.linalg.pinv(hidden) @ P).T, xp.zeros_like(b2)
        return dict(zip(NET, (Q, W1, b1, W2, b2), strict=True))

    def compute(self, at: Any) -> dict[str, Tensor]:
        if not self.mlp:
            return {}
        return {"start.P": network(*(at.shared[name] for name in NET))}

    def settled(self) -> Prefix:
        return replace(self, mlp=0)


def network(Q: Any, W1: Any, b1: Any, W2: Any, b2: Any) -> Tensor:
    """What makes P: a Linear layer, tanh, and a Linear layer, of each row of Q.

    Shapes  Q (n, d), W1 (h, d), b1 (h,), W2 (m, h), b2 (m,) -> (n, m)
    """
    return fused.linear(fused.linear(Q, W1, b1).tanh(), W2, b2)


def pairs_of(P: Tensor, chosen: tuple[int, ...], layers: int) -> list[Any]:
    """The keys and values that P holds, a pair for each layer of the model.

    A row of P has the keys and the values of the first chosen layer, those of the next, and so on.
    chosen  the layers that have a prefix, in their order; the others have keys and values of 0
    Shapes  P (n, 2 L d), L how many are chosen -> pairs (k, v), each (1, n, d)
    """
    n, m = P.shape[0], 2 * len(chosen)
    kv = P.reshape(n, m, -1).transpose(1, 0, 2)  # (2 L, n, d)
    none = xp_of(P.data).zeros((1, n, kv.shape[2]), dtype=kv.dtype)  # (1, n, d)
    pairs: list[Any] = [(none, none)] * layers
    for i, layer in enumerate(chosen):
        pairs[layer] = kv[2 * i : 2 * i + 1], kv[2 * i + 1 : 2 * i + 2]  # (1, n, d)
    return pairs


class PrefixStart(Wrapper):
    """A prefix as the past of a sequence that has none.  Shapes  P (n, 2 L d)"""

    def __init__(self, base: Module, P: Parameter, chosen: tuple[int, ...], layers: int) -> None:
        super().__init__(base)
        self.P, self.chosen, self.total = P, chosen, layers
        self.puts = P.shape[0]

    def forward(self, ids: Array, mask: Array | None) -> Any:
        ids, mask, past = self.base(ids, mask)
        pairs = pairs_of(self.P, self.chosen, self.total)
        if past is not None:  # of a prefix that was attached before
            if len(self.chosen) < self.total:
                raise ValueError("a prefix on some layers stands behind no other: detach the other")
            pairs = [tuple(ops.concatenate(two, axis=1) for two in zip(a, b, strict=True))
                     for a, b in zip(past, pairs, strict=True)]  # fmt: skip
        return ids, mask, Past(pairs)


class Unseen(Wrapper):
    """Attention that does not see the first n real positions of its past, which are the prefix.

    Shapes  x (B, T, C), past (k, v) of (B or 1, P, d), mask (B, P + T) -> (B, T, C)
    """

    def __init__(self, base: Module, n: int) -> None:
        super().__init__(base)
        self.n = n

    def forward(self, x: Tensor, past: Any = None, mask: Array | None = None, **more: Any) -> Any:
        if past is not None:
            if mask is None:
                seen = (x.shape[0], past[0].shape[1] + x.shape[1])
                mask = xp_of(x.data).ones(seen, dtype=bool)
            mask = mask & (mask.cumsum(1) > self.n)
        return self.base(x, past=past, mask=mask, **more)
