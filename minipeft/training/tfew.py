"""T-Few: losses that see the wrong options of an example too, and batches that hold them all.

Paper    Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than
         in-context learning", sec. 3.2: L = L_LM + L_UL + L_LN

    fit(model, OptionBatches(model, task, n=50), loss=TFew(), steps=…)
    evaluate(model, task, normalize=True)  # which ranks options by what L_LN trains
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.backend import xp_of
from minipeft.checks import Plain, real, setting
from minipeft.engine import Tensor, fused, ops, variants
from minipeft.engine.array_ops import logsumexp
from minipeft.models.inputs import answer_rows, pad
from minipeft.models.layout import added_positions
from minipeft.training.batches import IGNORE, Batch, TaskBatches, in_turn, task_of
from minipeft.training.step import upload

COMPAT = 1e-2  # what T-Few's code adds under the logarithm of 1 - p


@dataclass(frozen=True)
class TFew(Plain):
    """A loss for fit: L_LM and, by their weights, L_UL and L_LN of each example; their mean.

    L_LM = -mean_t log p(y_t)                          of the right option y
    L_UL = -Σ_n Σ_t log(1 - p(y_t^n)) / Σ_n T^n        of the wrong options y^n, T^n tokens long
    L_LN = -log(exp β(y) / Σ_n exp β(y^n))             of all; β = mean_t log p is per token
    unlikelihood  weight of L_UL; with 0, it is left out
    normalized    weight of L_LN; with 0, it is left out
    compat        as T-Few's code has it: L_LM and L_UL are means over a batch's tokens, 1 - p
                  + 0.01 is in the logarithm, and what is no token of a wrong option adds -log 1.01.
                  Threads, and batches that are accumulated, then change the loss
    """

    unlikelihood: float = setting(1.0, real(0))
    normalized: float = setting(1.0, real(0))
    compat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "__qualname__", repr(self))  # by which a training state knows it

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        if batch.more is None or "answers" not in batch.more:
            raise ValueError("TFew needs all options of each example: train on "
                             "OptionBatches(model, task)")  # fmt: skip
        said, wrong, lengths = self._read(model, batch)
        xp, (B, K) = xp_of(said.data), lengths.shape
        right = np.arange(K) == batch.labels[:, None]  # (B, K)
        option = np.repeat(np.arange(B * K), lengths.reshape(-1))  # of each token
        # L_LM, as weights of all tokens
        per_token = _shares(right, lengths, self.compat)
        loss = -ops.sum(said * _like(said, per_token.reshape(-1)[option]))
        if self.unlikelihood:
            share = _shares(~right & (lengths > 0), lengths, self.compat)
            share = share.reshape(-1)[option]
            if self.compat:
                wrong = ops.log(ops.exp(wrong) + COMPAT)
            unlikely = -ops.sum(wrong * _like(said, share[share > 0]))
            if self.compat:  # a constant
                tokens = int((share > 0).sum())
                others = B * K * int(lengths.max()) - tokens
                unlikely = unlikely - others * math.log1p(COMPAT) / tokens
            loss = loss + self.unlikelihood * unlikely
        if self.normalized:
            means = (option == np.arange(B * K)[:, None]) / np.maximum(lengths.reshape(-1, 1), 1)
            beta = ops.reshape(_like(said, means) @ said, shape=(B, K))
            absent = _like(said, np.where(lengths > 0, 0.0, -np.inf))
            loss = loss + self.normalized * fused.cross_entropy(
                beta + absent, xp.asarray(batch.labels)
            )
        return loss

    def _read(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, np.ndarray]:
        """log p of the options' N tokens, log(1 - p) of the M of wrong ones, and how many
        tokens each option has.  (N,), (M,), (B, K)"""
        assert batch.more is not None
        texts, answers, seen = (batch.more[name] for name in ("texts", "answers", "real"))
        B, K, T = texts.shape
        counts = answers != IGNORE  # (B, K, T)
        there = counts.any(-1)  # (B, K)
        wrong = np.broadcast_to(np.arange(K) != batch.labels[:, None], (B, K))[..., None] & counts
        mask = None if model.causal else seen[there]
        xp = xp_of(next(model.places()).parameter.data)
        ids, mask, at, labels, other = upload(
            xp, texts[there], mask, counts[there].nonzero(), answers[counts], wrong[counts]
        )
        logp = variants.log_softmax(model(ids, mask=mask, at=at))  # (N, V)
        said = logp[xp.arange(len(labels)), labels]
        # log(1 - p) from all other tokens: nothing cancels where p is near 1
        away = xp.zeros(logp.shape, logp.dtype)
        away[xp.arange(len(labels)), labels] = -np.inf
        other = other.nonzero()[0]
        return said, logsumexp(logp[other] + away[other], axis=1), counts.sum(-1)


def _shares(which: np.ndarray, lengths: np.ndarray, together: bool) -> np.ndarray:
    """The weight of a token of each option in a mean over those of `which`: of each example, and
    of all examples alike, or `together`.  (B, K) -> (B, K)"""
    tokens = which * lengths
    total = tokens.sum() if together else tokens.sum(1, keepdims=True) * len(lengths)
    return which / np.maximum(total, 1)


def _like(x: Tensor, array: np.ndarray) -> Any:
    """A host array beside x: of its kind, on its device."""
    return upload(xp_of(x.data), array.astype(x.dtype))[0]


class OptionBatches:
    """A task's examples with all their options, each as `score` reads it.

    Batch.more has texts, answers and real (B, K, T): ids, the options' tokens where they are
    predicted (IGNORE elsewhere; everywhere, of an option that is not there), and which ids are
    real. `ids` is the right option's text, and `labels` (B,) says which option that is.
    Raises  ValueError for a model with a linear head, an example without options, and what
            TaskBatches refuses
    """

    def __init__(
        self, model: Any, task: Any, split: str = "train", n: int | None = None,
        pattern: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        examples = task_of(task).load(split, n=n, seed=seed, pattern=pattern)
        head = model.config.value("head", "linear")
        if head == "linear":
            raise ValueError("OptionBatches needs a model that says words, this one has a linear "
                             "head: load it with head='lm' or 'mlm'")  # fmt: skip
        TaskBatches.of(model, examples)  # which looks at the examples
        tokenizer, context = model.tokenizer, model.config.context - added_positions(model)
        prompts = tokenizer.encode_many([e.prompt for e in examples])
        self.pad, self.labels = tokenizer.pad_id, [e.label for e in examples]
        self.rows: list[list[tuple[list[int], list[int]]]] = []
        for i, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
            if example.label is None or len(example.options) < 2:
                raise ValueError(f"example {i}, {example.prompt[:60]!r} …: T-Few's losses compare "
                                 "options, and there are none to choose from")  # fmt: skip
            options = tokenizer.encode_many(list(example.options))
            read: dict[int, tuple[list[int], list[int]]] = {}
            for row in answer_rows(model, prompt, options):
                for k in row.said:
                    labels = [IGNORE] * len(row.ids)
                    labels[row.first : row.first + len(options[k])] = options[k]
                    read[k] = row.ids, labels
                if len(row.ids) > context:
                    raise ValueError(f"example {i} has {len(row.ids)} tokens with an option, "
                                     f"the context holds {context}: "
                                     f"{example.prompt[:60]!r} …")  # fmt: skip
            self.rows.append([read[k] for k in range(len(options))])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        return self.collate(in_turn(len(self.rows), step, size, seed))

    def collate(self, chosen: Any) -> Batch:
        """The batch of the examples with these indices."""
        chosen = list(chosen)
        K = max(len(self.rows[i]) for i in chosen)
        nothing: tuple[list[int], list[int]] = ([], [])
        flat = [r for i in chosen for r in [*self.rows[i], *[nothing] * K][:K]]
        shape = (len(chosen), K, -1)
        texts = pad([ids for ids, _ in flat], self.pad).reshape(shape)
        answers = pad([labels for _, labels in flat], IGNORE).reshape(shape)
        seen = (pad([[1] * len(ids) for ids, _ in flat], 0) > 0).reshape(shape)
        labels = np.array([self.labels[i] for i in chosen])
        right = np.arange(len(chosen)), labels
        more = {"texts": texts, "answers": answers, "real": seen}
        return Batch(texts[right], labels, seen[right], np.asarray(chosen), more)
