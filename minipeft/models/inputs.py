"""From text to what a model reads: the ids of a prompt, room for an answer, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def pad(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """Rows of ids to one array, padded on the right.  -> (B, T)"""
    out = np.full((len(rows), max(len(r) for r in rows)), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def blanks(
    prompt: Sequence[int], options: Sequence[Sequence[int]], tokenizer: Any
) -> tuple[list[int], int, list[list[int]]]:
    """A prompt with a mask for each token of its longest option; shorter ones end earlier.

    Returns  the end token, the prompt, n masks and the end token; the first mask's place; and n
             ids for each option, filled up with end tokens
    """
    n, end = max(len(option) for option in options), tokenizer.end_id
    ids = [end, *prompt, *[tokenizer.mask_id] * n, end]
    return ids, 1 + len(prompt), [[*option, *[end] * (n - len(option))] for option in options]


def need_lm(model: Any, what: str) -> None:
    """Raises  ValueError for a model whose head gives no next token"""
    if model.config.head != "lm":
        raise ValueError(f"{what} needs a language model's head, this one is {model.config.head!r}")


def prompt_ids(model: Any, prompt: str, room: int) -> list[int]:
    """The prompt's ids, checked to leave room in the context."""
    ids = model.tokenizer.encode(prompt)
    if not ids:
        raise ValueError("the prompt is empty: there is nothing to continue")
    if len(ids) + room > model.config.context:
        raise ValueError(f"the prompt has {len(ids)} tokens; with {room} more it does not fit into "
                         f"the context of {model.config.context}: shorten it")  # fmt: skip
    return ids
