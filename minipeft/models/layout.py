"""The layout of a sequence in a forward pass: the past, what methods add, and the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minipeft.backend import Array, xp_of
from minipeft.engine import Tensor, context
from minipeft.models.config import check_ids
from minipeft.nn import Past, seen_of


class Layout(NamedTuple):
    """What a text model runs on, once methods have added to it.

    ids        (B, T) the given ones, with virtual tokens (ids >= V) before, in or behind them
    past       keys and values in front of all, or None
    seen       (B, P + T) true where a position is real, or None where all are
    positions  (B or 1, T) their numbers, counted over the real ones from the past's first on
    text       (B, T) true at a given id that is no virtual token; None where all are such
    """

    ids: Array
    past: Past | None
    seen: Array | None
    positions: Array
    text: Array | None


def lay_out(model: Any, ids: Array, mask: Array | None, past: Any) -> Layout:
    """Let methods begin the sequence, unless it goes on from a past, and number its positions.

    mask  (B, T) true where an id is real, or (B, P + T) for the past's positions too
    """
    check_ids(ids)
    xp, config, given = xp_of(ids), model.config, ids.shape[1]
    if past is None:
        ids, mask, past = model.start(ids, mask)
    elif len(past) != config.layers:
        raise ValueError(f"past has {len(past)} layers, the model {config.layers}")
    B, T = ids.shape
    before = past[0][0].shape[1] if past else 0
    if before + T > config.context:
        added = before + T - given
        extra = f" ({added} of them before or around the text)" if added else ""
        raise ValueError(f"{before + T} tokens do not fit into the context of "
                         f"{config.context}{extra}: shorten the text")  # fmt: skip
    seen = seen_of(mask, past, B, T)
    if seen is None:
        positions = xp.arange(before, before + T)[None]
    else:
        column = xp.arange(before + T)  # for a masked position, whose number nobody uses
        positions = xp.where(seen, seen.cumsum(1) - 1, column)[:, before:]
    text = None
    if model.emb.tok.virtual or T > given:
        text = (ids >= 0) & (ids < config.vocab)
        ids = xp.maximum(ids, 0)  # EMPTY, which is masked
    return Layout(ids, past, seen, positions, text)


def text_only(x: Tensor, text: Array, causal: bool = False) -> Tensor:
    """The positions of the text, without those of virtual tokens.  (B, T, C) -> (B, T - n, C)

    causal  what follows a token is said by the last position before the next one, which is that
            of a virtual token where some stand between the two
    """
    counts = text.sum(1)
    if int(counts.min()) != int(counts.max()):
        raise ValueError("rows of a batch must hold the same number of virtual tokens; "
                         f"got {(~text).sum(1).tolist()}")  # fmt: skip
    rows, columns = positions_of(text)
    if causal:
        last = 0 * columns[:, :1] + text.shape[1] - 1
        columns = xp_of(text).concatenate([columns[:, 1:] - 1, last], axis=1)
    return x[rows, columns]


def positions_of(text: Array) -> tuple[Array, Array]:
    """(rows, columns) of the text's positions, each (B, T - n)."""
    rows, columns = text.nonzero()
    return rows.reshape(len(text), -1), columns.reshape(len(text), -1)


def last_real(ids: Array, seen: Array | None) -> tuple[Array, Array]:
    """(rows, columns) of the last real position of each row, be it a virtual token's."""
    xp, (B, T) = xp_of(ids), ids.shape
    hidden = 0 if seen is None else seen[:, ::-1].argmax(1)  # behind it
    return xp.arange(B), xp.full(B, T - 1) - hidden


def first_real(ids: Array, seen: Array | None, text: Array | None) -> tuple[Array, Array]:
    """(rows, columns) of each row's first real position of the text."""
    return xp_of(ids).arange(len(ids)), _real_text(ids, seen, text).argmax(1)


def mean_real(x: Tensor, ids: Array, seen: Array | None, text: Array | None) -> Tensor:
    """The mean over each row's real positions of the text.  (B, T, C) -> (B, C)"""
    real = _real_text(ids, seen, text)
    share = (real / real.sum(1, keepdims=True)).astype(x.dtype)
    return (x * share[:, :, None]).sum(axis=1)


def _real_text(ids: Array, seen: Array | None, text: Array | None) -> Array:
    """True at the real ids of the text.  (B, T)"""
    xp, (B, T) = xp_of(ids), ids.shape
    real = xp.ones((B, T), dtype=bool) if seen is None else seen[:, seen.shape[1] - T :]
    return real if text is None else real & text


def added_positions(model: Any, rows: Sequence[Any] | None = None) -> int:
    """How many positions attached methods add before, in or behind a text: they need room too.

    rows  the adapters of a batch's rows, of which the one that adds most counts
    """
    part, added, off = model.start, [], context().off  # added: (handle, how many)
    while part.wraps:
        if part not in off and part.handle not in off:
            added.append((part.handle, part.puts))
        part = part.base
    if rows is None:
        return sum(n for _, n in added)
    return max(sum(n for by, n in added if by is handle) for handle in rows)
