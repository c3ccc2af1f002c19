"""The one door from text to ids: which special tokens go where, for every kind of model.

A causal model reads a prompt as it is, and writes an answer and the end token after it. An
encoder reads a text behind the begin token; where its tokenizer has a separator of its own (BERT's
[SEP]), that ends each text: [CLS] a [SEP] b [SEP]. A masked language model has a mask for each
token of an answer, and then the separator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class AnswerRow(NamedTuple):
    """A row of ids, the position whose logits give an answer's first token, and the answers.

    said  the number of an option -> its tokens, all as many; one row may ask for several options
    """

    ids: list[int]
    first: int
    said: dict[int, list[int]]


def answer_rows(
    model: Any, prompt: Sequence[int], options: Sequence[Sequence[int]], ends: bool = False
) -> list[AnswerRow]:
    """The rows of ids in whose logits the options after a prompt are found.

    ends  whether a causal model has to write the end token too
    A masked model has a mask for each token of the longest option, so that the row's length does
    not give the right one away; end tokens follow a shorter option.
    """
    tokenizer, longest = model.tokenizer, max(len(option) for option in options)
    end = tokenizer.end_id
    if model.config.head == "mlm":
        said = {i: [*o, *[end] * (longest - len(o))] for i, o in enumerate(options)}
        masks = [mask_id(model)] * longest
        ids = [tokenizer.cls_id, *prompt, *masks, tokenizer.sep_id]
        return [AnswerRow(ids, 1 + len(prompt), said)]
    said = {i: [*o, end] if ends else [*o] for i, o in enumerate(options)}
    if longest + ends == 1:  # one row for all options
        return [AnswerRow([*prompt], len(prompt) - 1, said)]
    return [AnswerRow([*prompt, *s[:-1]], len(prompt) - 1, {i: s}) for i, s in said.items()]


def texts_of(model: Any, examples: Sequence[Any]) -> list[list[list[int]]]:
    """The ids of each example's texts: its pair, where a linear head reads two, or its prompt."""
    tokenizer = model.tokenizer
    two = model.config.head == "linear" and not model.causal
    two = two and tokenizer.sep_id != tokenizer.cls_id  # ours has none of its own
    texts = [e.pair if two and e.pair else (e.prompt,) for e in examples]
    ids = iter(tokenizer.encode_many([text for parts in texts for text in parts]))
    return [[next(ids) for _ in parts] for parts in texts]


def text_ids(model: Any, texts: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """A text or a pair as a linear head reads it, and how many ids are of the first segment."""
    if model.causal:
        return [*texts[0]], len(texts[0])
    begin, separator = model.tokenizer.cls_id, model.tokenizer.sep_id
    behind = [] if separator == begin else [separator]
    first, *second = [[*text, *behind] for text in texts]
    return [begin, *first, *sum(second, [])], 1 + len(first)


def mask_id(model: Any) -> int:
    """The id of a hidden token.

    Raises  ValueError where the model's vocabulary has no room for it
    """
    found, vocab = model.tokenizer.mask_id, model.config.vocab
    if found >= vocab:
        raise ValueError(
            f"the tokenizer's mask has id {found}, which is outside the model's vocabulary of "
            f"{vocab}: a file without a mask token takes the first id after its own, and the model "
            f"needs vocab={found + 1} at least"
        )
    return found


def need_lm(model: Any, what: str) -> None:
    """Raises  ValueError for a model whose head gives no next token"""
    if model.config.head != "lm":
        raise ValueError(f"{what} needs a language model's head, this one is {model.config.head!r}")


def prompt_ids(model: Any, prompt: str, room: int) -> list[int]:
    """The prompt's ids, checked to leave room in the context for what follows, and for an
    encoder's begin token and separator."""
    ids = model.tokenizer.encode(prompt)
    if not ids:
        raise ValueError("the prompt is empty: there is nothing to continue")
    room += 0 if model.causal else 2
    if len(ids) + room > model.config.context:
        raise ValueError(f"the prompt has {len(ids)} tokens; with {room} more it does not fit into "
                         f"the context of {model.config.context}: shorten it")  # fmt: skip
    return ids


def pad(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """Rows of ids to one array, padded on the right.  -> (B, T)"""
    out = np.full((len(rows), max(len(r) for r in rows)), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
