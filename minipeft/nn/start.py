"""Start: where a sequence begins, so that a method can put something before, in or behind it."""

from __future__ import annotations

from typing import Any

from minipeft.backend import Array, xp_of
from minipeft.engine import Tensor, ops
from minipeft.nn.attention import Past, seen_of
from minipeft.nn.module import Module

EMPTY = -1  # the id of padding, where another row of the batch has more


class Start(Module):
    """Where a sequence begins, before the first block and with no past: input methods wrap it.

    Shapes  ids (B, T), mask (B, T) or None -> ids, mask and a Past, or None
    """

    def forward(self, ids: Array, mask: Array | None) -> tuple[Array, Array | None, Any]:
        return ids, mask, None

    def together(self, parts: list[Any], order: list[int]) -> tuple[Array, Array | None, Any]:
        """Rows that began apart become one batch: shorter ones are padded on the left, and masked.

        parts  (ids, mask, past) of some rows each; order, the batch's row of each of theirs
        """
        xp = xp_of(parts[0][0])
        back = xp.argsort(xp.asarray(order))

        def join(pieces: list[Any], fill: Any = 0.0) -> Tensor:
            n = max(x.shape[1] for x in pieces)
            widths = [((0, 0), (n - x.shape[1], 0), *((0, 0),) * (x.ndim - 2)) for x in pieces]
            full = [ops.pad(x, widths=w, value=fill) for x, w in zip(pieces, widths, strict=True)]
            return ops.concatenate(full)[back]

        # ids, and which positions are real: of the past, and of the ids
        before, seen = [], []
        for ids, mask, past in parts:
            n, t = ids.shape
            P = past[0][0].shape[1] if past else 0
            full = seen_of(mask, past, n, t)
            full = xp.ones((n, P + t), dtype=bool) if full is None else full
            before.append(full[:, :P])
            seen.append(full[:, P:])
        rows, real = join([ids for ids, _, _ in parts], EMPTY).data, join(seen, False).data
        # keys and values, layer by layer
        like = next((past for _, _, past in parts if past), None)
        if like is None:
            return rows, real, None
        given = [(past, len(m)) for (_, _, past), m in zip(parts, before, strict=True)]
        pairs: list[Any] = [
            tuple(join([_rows(past, layer, i, like, n) for past, n in given]) for i in range(2))
            for layer in range(len(like))
        ]
        return rows, real, Past(pairs, join(before, False).data)


def _rows(past: Any, layer: int, i: int, like: Any, n: int) -> Any:
    """A layer's keys (i = 0) or values of n rows; none where there is no past.  -> (n, P, C)"""
    x = past[layer][i] if past else ops.getitem(like[layer][i], index=(slice(1), slice(0)))
    return ops.broadcast_to(x, shape=(n, *x.shape[1:]))
