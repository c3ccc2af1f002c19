"""Sampling over a KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import numpy as np

from minipeft.backend import Rng, to_numpy, xp_of
from minipeft.checks import real, takes, whole
from minipeft.engine import no_grad, running
from minipeft.engine.blas import blas_threads, threads_for
from minipeft.models.inputs import need_lm, prompt_ids
from minipeft.models.layout import added_positions
from minipeft.nn.finite import check_logits


def generate(
    model: Any,
    prompt: str,
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: str | None = None,
) -> str:
    """Continue a prompt until the end token, `stop`, or max_tokens.

    temperature  0 takes the likeliest token; else logits are divided by it and sampled
    top_k        sample among the k likeliest tokens only
    top_p        sample among the likeliest tokens that together have probability p
                 (Holtzman et al. 2020)
    Returns  the new text, without the prompt and without `stop`
    Raises   ValueError for an empty prompt, one that does not fit into the context, or settings
             out of range; NonFinite that names where NaN or infinity began
    """
    return generate_many(
        model, [prompt], max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        seed=seed, stop=stop,
    )[0]  # fmt: skip


@takes(
    batch=whole(1), max_tokens=whole(1), temperature=real(0, hint="0 is greedy"), top_k=whole(1),
    top_p=real(above=0, most=1), seed=whole(0),
)  # fmt: skip
def generate_many(
    model: Any,
    prompts: Sequence[str],
    *,
    batch: int = 32,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: str | None = None,
    rows: Sequence[Any] | None = None,
) -> list[str]:
    """`generate` for many prompts, sorted by length; prompt i draws from (seed, i).

    The text of a prompt does not depend on the others, but for rounding.
    rows    per prompt the adapter that continues it: an attached handle, or None for the base
    """
    need_lm(model, "generation")
    if isinstance(prompts, str):
        raise TypeError(f"generate_many takes a list of prompts, got one str: {prompts[:40]!r}")
    if rows is not None and len(rows) != len(prompts):
        raise ValueError(f"rows names {len(rows)} adapters, there are {len(prompts)} prompts")
    added = added_positions(model, rows)
    ids = [prompt_ids(model, p, room=1 + added) for p in prompts]
    texts = [""] * len(ids)
    for chosen in _groups([len(p) for p in ids], batch, model.config.context - max_tokens - added):
        rngs = [Rng(seed, "generate", i) for i in chosen]
        mixed = running(rows=[rows[i] for i in chosen]) if rows is not None else nullcontext()
        with mixed, blas_threads(threads_for(model, len(chosen), length=1)):
            new = _decode(
                model, [ids[i] for i in chosen], max_tokens, temperature, top_k, top_p, rngs, stop
            )
        for i, out in zip(chosen, new, strict=True):
            text = model.tokenizer.decode(out)
            texts[i] = text.split(stop)[0] if stop else text
    return texts


def _groups(lengths: list[int], batch: int, free: int) -> Iterator[list[int]]:
    """Indices of the prompts that are decoded together, at most `batch`.

    Padding takes room in the context, so prompts that may fill it, which are longer than
    `free`, go only with those of their own length.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for _, group in groupby(order, key=lambda i: max(lengths[i], free)):
        alike = list(group)
        yield from (alike[i : i + batch] for i in range(0, len(alike), batch))


def _decode(
    model: Any, prompts: list[list[int]], max_tokens: int, temperature: float, top_k: int | None,
    top_p: float | None, rngs: list[Rng], stop: str | None,
) -> list[list[int]]:  # fmt: skip
    """New ids per prompt. Prompts are padded on the left, so that all rows end together."""
    xp = xp_of(model.parameters()[0].data)
    width = max(len(p) for p in prompts)
    ids = np.full((len(prompts), width), model.tokenizer.pad_id)
    mask = np.zeros((len(prompts), width), bool)
    for row, p in enumerate(prompts):
        ids[row, width - len(p) :], mask[row, width - len(p) :] = p, True
    seen = None if mask.all() else xp.asarray(mask)  # of the prompts; the past remembers it
    out: list[list[int]] = [[] for _ in prompts]
    live = np.ones(len(prompts), bool)
    past: Any = None

    def run() -> Any:
        mask = seen if past is None else None
        return model(xp.asarray(ids), past=past, mask=mask, return_past=True)

    with no_grad(), np.errstate(all="ignore"):  # what is not finite raises
        for _ in range(max_tokens):
            logits, after = run()
            last = to_numpy(logits.data[:, -1]).astype(np.float64)
            check_logits(model, last, run)
            past = after
            for row in np.flatnonzero(live).tolist():
                token = _pick(last[row], temperature, top_k, top_p, rngs[row])
                if token == model.tokenizer.end_id:
                    live[row] = False
                    continue
                out[row].append(token)
                if stop and stop in model.tokenizer.decode(out[row]):
                    live[row] = False
            if not live.any() or past[0][0].shape[1] >= model.config.context:
                break
            ids = np.array([[o[-1] if o else model.tokenizer.pad_id] for o in out])
    return out


def _pick(logits: np.ndarray, temperature: float, top_k: Any, top_p: Any, rng: Rng) -> int:
    """One token, drawn from what top_k and top_p leave of the distribution.  logits (V,)"""
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[:top_k]
    p = np.exp((logits[order] - logits[order[0]]) / temperature)
    p /= p.sum()
    if top_p is not None:
        p = p[: int(np.searchsorted(np.cumsum(p), top_p)) + 1]
    return int(order[rng.weighted(p.tolist())])
