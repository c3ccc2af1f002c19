"""Start: where a sequence begins, so that a method can put something before, in or behind it."""

from __future__ import annotations

from typing import Any

from minipeft.backend import Array, xp_of
from minipeft.engine import ops
from minipeft.nn.attention import Past, seen_of
from minipeft.nn.module import Module

EMPTY = -1  # an id that stands for nothing, where another row of the batch has more


class Start(Module):
    """Where a sequence begins, before the first block and with no past: input methods wrap it.

    Shapes  ids (B, T), mask (B, T) or None -> ids, mask and a Past, or None
    """

    def forward(self, ids: Array, mask: Array | None) -> tuple[Array, Array | None, Any]:
        return ids, mask, None

    def together(self, parts: list[Any], order: list[int]) -> tuple[Array, Array | None, Any]:
        """Rows that began apart in one batch: the shorter are filled up on the left, unseen.

        parts  (ids, mask, past) of some rows each; order, the batch's row of each of theirs
        """
        xp = xp_of(parts[0][0])
        back = xp.argsort(xp.asarray(order))
        T = max(ids.shape[1] for ids, _, _ in parts)
        pasts = [past for _, _, past in parts if past]
        P = max((past[0][0].shape[1] for past in pasts), default=0)
        rows, seen, before = [], [], []  # of each part: ids, and which places are real
        for ids, mask, past in parts:
            n, t = ids.shape
            full = seen_of(mask, past, n, t)
            full = xp.ones((n, t + _length(past)), dtype=bool) if full is None else full
            rows.append(_fill_left(ids, T - t, EMPTY))
            seen.append(_fill_left(full[:, full.shape[1] - t :], T - t, False))
            before.append(_fill_left(full[:, : full.shape[1] - t], P - _length(past), False))
        joined = xp.concatenate(rows)[back], xp.concatenate(seen)[back]
        if not pasts:
            return *joined, None
        pairs = []
        for layer in range(len(pasts[0])):
            pair = []
            for i in range(2):
                like = pasts[0][layer][i]
                none = xp.zeros((1, 0, like.shape[2]), dtype=like.dtype)
                given = [past[layer][i] if past else none for _, _, past in parts]
                pair.append(_stack(given, [len(r) for r in rows], P)[back])
            pairs.append(tuple(pair))
        return *joined, Past(pairs, xp.concatenate(before)[back])


def _length(past: Any) -> int:
    return past[0][0].shape[1] if past else 0


def _fill_left(x: Array, n: int, fill: Any) -> Array:
    """(B, T) -> (B, n + T)"""
    return xp_of(x).pad(x, ((0, 0), (n, 0)), constant_values=fill)


def _stack(given: list[Any], counts: list[int], length: int) -> Any:
    """Keys or values of some rows each, filled up on the left with zeros.  -> (B, P, C)"""
    full = []
    for x, n in zip(given, counts, strict=True):
        xp = xp_of(x.data if hasattr(x, "requires_grad") else x)
        zeros = xp.zeros((n, length - x.shape[1], x.shape[2]), dtype=x.dtype)
        full.append(ops.concatenate([zeros, ops.broadcast_to(x, shape=(n, *x.shape[1:]))], axis=1))
    return ops.concatenate(full, axis=0)
