"""Beam search: the likeliest text rather than the likeliest next token, over a KV cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import to_numpy, xp_of
from minipeft.checks import real, takes, whole
from minipeft.engine import no_grad
from minipeft.engine.blas import blas_threads, threads_for
from minipeft.models.inputs import need_lm, prompt_ids
from minipeft.models.layout import added_positions
from minipeft.nn.finite import check_logits

FORBIDDEN = -1e30  # log p below which nothing is drawn


@takes(beams=whole(1), max_tokens=whole(1), length_penalty=real(), no_repeat=whole(0))
def beam_search(
    model: Any,
    prompt: str,
    *,
    beams: int = 4,
    max_tokens: int = 64,
    length_penalty: float = 1.0,
    no_repeat: int = 0,
    stop: str | None = None,
) -> list[tuple[str, float]]:
    """The best continuations that a search with `beams` hypotheses finds, the best first.

    score = log p(text, end | prompt) / (number of tokens, the end counted) ** length_penalty

    beams           hypotheses that are kept at each step
    length_penalty  0 prefers short texts, 1 goes by the mean per token
    no_repeat       no run of so many tokens may occur twice in a text; 0 sets no limit
    stop            a text that holds this is done; the text is cut before it
    Returns  at most `beams` (text, score), of texts that ended or reached max_tokens
    Raises   ValueError for an empty prompt, one that does not fit, or settings out of range
    """
    need_lm(model, "beam search")
    if beams > model.config.vocab:
        raise ValueError(f"beams must be at most {model.config.vocab}, as many as there are tokens "
                         f"to begin a text with; 4 to 10 are usual, got {beams}")  # fmt: skip
    tokenizer, end = model.tokenizer, model.tokenizer.end_id
    asked = prompt_ids(model, prompt, room=1 + added_positions(model))
    xp = xp_of(model.parameters()[0].data)
    texts: list[list[int]] = [[]]  # the hypotheses: texts that may go on
    sums = np.zeros(1)  # log p of each
    done: list[tuple[float, list[int]]] = []
    ids, past = np.array([asked]), None

    def close(tokens: list[int], total: float, length: int) -> None:
        done.append((total / length**length_penalty, tokens))

    def run() -> Any:
        return model(xp.asarray(ids), past=past, return_past=True)

    cores = threads_for(model, beams, length=1)
    with no_grad(), blas_threads(cores), np.errstate(all="ignore"):  # what is not finite raises
        for n in range(1, max_tokens + 1):
            logits, after = run()
            last = to_numpy(logits.data[:, -1]).astype(np.float64)  # (texts, V)
            check_logits(model, last, run)
            past = after
            last -= last.max(axis=1, keepdims=True)
            logp = last - np.log(np.exp(last).sum(axis=1, keepdims=True))
            for row, tokens in enumerate(texts):
                logp[row, _repeats(tokens, no_repeat)] = -np.inf
                if logp[row].max() < FORBIDDEN:  # nothing may follow: it counts as it stands
                    close(tokens, float(sums[row]), max(1, n - 1))
            total = sums[:, None] + logp
            best = np.argsort(-total, axis=None, kind="stable")[: 2 * beams]
            rows: list[int] = []
            tokens_of: list[list[int]] = []
            values: list[float] = []
            for row, token in zip(*np.unravel_index(best, total.shape), strict=True):
                text, value = [*texts[row], int(token)], float(total[row, token])
                if value < FORBIDDEN or len(rows) == beams:
                    continue
                if token == end:
                    close(text[:-1], value, n)
                elif stop and stop in tokenizer.decode(text):
                    close(text, value, n)
                else:
                    rows.append(int(row))
                    tokens_of.append(text)
                    values.append(value)
            texts, sums = tokens_of, np.array(values)
            full = past[0][0].shape[1] >= model.config.context
            if not texts or full or _decided(done, sums, n, max_tokens, beams, length_penalty):
                break
            order = xp.asarray(rows)
            past = past.rows(order)
            ids = np.array([[text[-1]] for text in texts])
    for text, value in zip(texts, sums.tolist(), strict=True):
        close(text, float(value), n)  # cut short, it counts as it stands
    done.sort(key=lambda d: -d[0])
    found = []
    for score, tokens in done[:beams]:
        words = tokenizer.decode(tokens)
        found.append((words.split(stop)[0] if stop else words, score))
    return found


def _repeats(tokens: list[int], n: int) -> list[int]:
    """The tokens that would end a run of n tokens which the text holds already."""
    if n < 1 or len(tokens) < n - 1:
        return []
    tail = tokens[len(tokens) - n + 1 :]
    runs = (tokens[i : i + n] for i in range(len(tokens) - n + 1))
    return [run[-1] for run in runs if run[:-1] == tail]


def _decided(
    done: list[tuple[float, list[int]]], sums: np.ndarray, n: int, most: int, beams: int,
    penalty: float,
) -> bool:  # fmt: skip
    """Whether no hypothesis can still come among the best: log p only falls."""
    if len(done) < beams:
        return False
    worst = sorted((d[0] for d in done), reverse=True)[beams - 1]
    hope = float(sums.max())  # <= 0; a longer text divides it by more
    return worst >= hope / (most if penalty > 0 else n) ** penalty
