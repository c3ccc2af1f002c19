"""How likely a model finds a text after a prompt, in nats.

`score` is how a language model classifies: it picks the class whose label words it finds
likeliest after the prompt (a verbalizer), or the likeliest answer of a multiple choice. A masked
language model has masks after the prompt, one for each token of the longest continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.checks import one_each, takes, whole
from minipeft.engine import no_grad, running
from minipeft.engine.blas import blas_threads, threads_for
from minipeft.models.inputs import answer_rows, need_lm, pad, prompt_ids
from minipeft.models.layout import added_positions
from minipeft.nn.finite import check_logits


def score(
    model: Any, prompt: str, continuations: Sequence[str], normalize: bool = False
) -> list[float]:
    """log p(continuation | prompt) of each, in nats; with normalize=True per token."""
    return score_many(model, [(prompt, continuations)], normalize=normalize)[0]


@takes(batch=whole(1))
def score_many(
    model: Any,
    questions: Sequence[tuple[str, Sequence[str]]],
    normalize: bool = False,
    batch: int = 64,
    adapters: Sequence[Any] | None = None,
) -> list[list[float]]:
    """`score` for many (prompt, continuations). One-token continuations share one forward pass.

    A masked model scores the tokens at its masks, the end tokens after a shorter continuation
    among them; with normalize=True without those.
    adapters  of each question the attached handle that answers it, or None for the base; with
              none named, all that are attached answer together
    """
    if model.config.head != "mlm":
        need_lm(model, "scoring")
    added = added_positions(model, adapters or None)
    rows: list[Row] = []
    scores = [[0.0] * len(options) for _, options in questions]
    by_question = one_each("adapters", adapters, questions)
    for q, ((prompt, options), by) in enumerate(zip(questions, by_question, strict=True)):
        if isinstance(options, str):
            raise TypeError(f"score needs a list of continuations, got one str: {options[:40]!r}")
        if not options or any(not o for o in options):
            raise ValueError(f"score needs continuations that are not empty, got {list(options)!r}")
        encoded = model.tokenizer.encode_many(list(options))
        asked = prompt_ids(model, prompt, room=max(len(e) for e in encoded) + added)
        for ids, first, said in answer_rows(model, asked, encoded):
            reads = []
            for k in range(max(len(tokens) for tokens in said.values())):
                live = [i for i in said if k < len(encoded[i]) or not normalize]
                reads.append((first + k, [(q, i, said[i][k], len(encoded[i])) for i in live]))
            rows.append((ids, reads, by))
    rows.sort(key=lambda row: len(row[0]))  # sorted by length: less padding
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        with running(rows=[by for *_, by in part]) if adapters else running():
            _score_rows(model, part, scores, normalize)
    return scores


# ids, what to read: (position, [(question, option, token, tokens of the option)]), and the adapter
Row = tuple[list[int], list[tuple[int, list[tuple[int, int, int, int]]]], Any]


def _score_rows(model: Any, rows: list[Row], scores: list[list[float]], normalize: bool) -> None:
    """Add the log-probabilities that the rows give to the scores."""
    xp = xp_of(model.parameters()[0].data)
    where = [(r, position) for r, (_, reads, _) in enumerate(rows) for position, _ in reads]
    at = tuple(xp.asarray(np.array(column)) for column in zip(*where, strict=True))
    ids = pad([ids for ids, *_ in rows], model.tokenizer.pad_id)
    mask = None if model.causal else xp.asarray(pad([[1] * len(t) for t, *_ in rows], 0) > 0)

    def run() -> Any:
        return model(xp.asarray(ids), mask=mask, at=at).data

    # what is not finite raises
    with no_grad(), blas_threads(threads_for(model, *ids.shape)), np.errstate(all="ignore"):
        logits = to_numpy(run()).astype(np.float64)
    check_logits(model, logits, run)
    top = logits.max(axis=1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    picked = [tokens for _, reads, _ in rows for _, tokens in reads]
    for line, wanted in zip(logp, picked, strict=True):
        for q, option, token, length in wanted:
            scores[q][option] += float(line[token]) / (length if normalize else 1)
