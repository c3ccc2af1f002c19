"""Masked words: running text of which some words are hidden, for a BERT to fill in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.training.batches import IGNORE, Batch, TokenBatches, in_turn

MASKED, RANDOM = 0.8, 0.1  # shares of the hidden tokens; the rest stays as it is


class MaskedBatches:
    """Rows of text with some words hidden; what stood there is to be said (Devlin et al. 2019).

    Whole words are hidden, each with probability `rate`, at least one in a batch. Of their tokens
    80 % become the mask, 10 % a random token, and 10 % stay. Each row begins with the begin token
    (ours is the end token), whose place a classifier reads.

    last  the probability with which the last word of a line is hidden. What a line ends in is often
          the answer to what it says: a GPT foretells every one, a BERT at `rate` sees few of them
    Shapes  tokens.rows (N, T) -> ids, labels, mask (B, 1 + T)
    """

    def __init__(
        self, tokens: TokenBatches, tokenizer: Any, rate: float = 0.15, last: float = 0.0
    ) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {rate}")
        if not 0 <= last <= 1:
            raise ValueError(f"last must be in [0, 1], got {last}")
        self.rows, self.fill, self.rate, self.last = tokens.rows, tokens.fill, rate, last
        self.begin, self.mask_id = tokenizer.cls_id, tokenizer.mask_id
        self.special = [self.begin, tokenizer.end_id, self.fill, self.mask_id]
        self.plain = np.setdiff1d(np.arange(tokenizer.vocab_size), self.special)
        self.opens, self.closes = edges(tokenizer)
        texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
        self.breaks = np.array(["\n" in t or i == tokenizer.end_id for i, t in enumerate(texts)])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        return self._hide(in_turn(len(self), step, size, seed), Rng(seed, "mask", step))

    def collate(self, chosen: Sequence[int]) -> Batch:
        """The batch of the rows with these numbers, always with the same words hidden."""
        return self._hide(chosen, Rng(0, "mask", "rows", *map(int, chosen)))

    def words(self, rows: np.ndarray) -> np.ndarray:
        """Which word of its row a token is part of, from 0.  (B, T) ids -> (B, T)

        A word goes on where letter meets letter; a space, a line break and a sign begin another.
        """
        starts = ~(self.closes[rows[:, :-1]] & self.opens[rows[:, 1:]])
        return np.pad(starts.cumsum(axis=1), ((0, 0), (1, 0)))

    def line_ends(self, rows: np.ndarray) -> np.ndarray:
        """Whether a token is of the last word of its line; signs are no words.  (B, T) -> (B, T)"""
        words, lines = self.words(rows), self.breaks[rows].cumsum(axis=1)
        lettered = self.opens[rows] | self.closes[rows]
        row = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
        last = np.full((len(rows), int(lines.max()) + 1), -1)
        np.maximum.at(last, (row[lettered], lines[lettered]), words[lettered])
        return words == np.take_along_axis(last, lines, axis=1)

    def _hide(self, chosen: Sequence[int], rng: Rng) -> Batch:
        rows = self.rows[np.asarray(chosen)].astype(np.int64)
        rows = np.pad(rows, ((0, 0), (1, 0)), constant_values=self.begin)
        draws = np.take_along_axis(rng.uniform(rows.shape), self.words(rows), axis=1)
        if self.last:
            draws = np.where(self.line_ends(rows), draws * (self.rate / self.last), draws)
        draws[np.isin(rows, self.special)] = np.inf
        least = float(draws.min())
        if least == np.inf:
            raise ValueError(f"rows {list(chosen)[:8]} hold no word that could be hidden")
        hidden = draws <= max(self.rate, least)
        turn = rng.uniform(rows.shape)
        other = self.plain[rng.integers(0, len(self.plain), rows.shape)]
        ids = np.where(hidden & (turn < MASKED), self.mask_id, rows)
        ids = np.where(hidden & (turn >= MASKED) & (turn < MASKED + RANDOM), other, ids)
        return Batch(ids, np.where(hidden, rows, IGNORE), rows != self.fill)


def edges(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each token, whether a letter or digit opens it and whether one closes it.  (V,) twice

    A token that is part of a character counts as a letter; a space alone belongs to what follows.
    """
    texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    opens = [text[:1].isalnum() or text[:1] == "\ufffd" for text in texts]
    closes = [text[-1:].isalnum() or text[-1:] == "\ufffd" or text == " " for text in texts]
    return np.array(opens), np.array(closes)
