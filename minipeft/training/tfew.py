"""T-Few: losses that see the wrong options of an example too, and batches that hold them all.

Paper    Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than
         in-context learning", sec. 3.2: L = L_LM + L_UL + L_LN
Lecture  09_ia3                         Homework hw5.3 (unsaid), hw5.4 (token_mean), hw5.5 (ranked)

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
        B, K = lengths.shape
        right = np.arange(K) == batch.labels[:, None]  # (B, K)
        option = np.repeat(np.arange(B * K), lengths.reshape(-1))  # of each token
        loss = -token_mean(said, option, right, lengths, self.compat)
        if self.unlikelihood:
            if self.compat:
                wrong = ops.log(ops.exp(wrong) + COMPAT)
            option_of_wrong = option[~right.reshape(-1)[option]]  # (M,)
            unlikely = -token_mean(wrong, option_of_wrong, ~right, lengths, self.compat)
            if self.compat:  # a constant
                tokens = len(option_of_wrong)
                others = B * K * int(lengths.max()) - tokens
                unlikely = unlikely - others * math.log1p(COMPAT) / tokens
            loss = loss + self.unlikelihood * unlikely
        if self.normalized:
            loss = loss + self.normalized * ranked(said, option, lengths, batch.labels)
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
        other = other.nonzero()[0]
        return said, unsaid(logp[other], labels[other]), counts.sum(-1)


def unsaid(logp: Tensor, tokens: Any) -> Tensor:
    """log(1 - p) of a token in each row, from all other tokens: where p is near 1, 1 - p cancels.

    Shapes  logp (N, V) log-probabilities, tokens (N,) ids -> (N,)
    """
    xp = xp_of(logp.data)
    away = xp.zeros(logp.shape, logp.dtype)  # (N, V)
    away[xp.arange(len(tokens)), tokens] = -np.inf
    return logsumexp(logp + away, axis=1)


def token_mean(
    values: Tensor, option: np.ndarray, which: np.ndarray, lengths: np.ndarray,
    together: bool = False,
) -> Tensor:  # fmt: skip
    """The mean value of the tokens of some options: in each example, and then of the examples.

    option    of each token the option that it is of, counted through the batch: example * K + k
    which     true for the options that are meant; tokens of others count nothing
    together  one mean over all tokens meant of the batch instead
    Shapes    values (N,), option (N,), which (B, K), lengths (B, K) in tokens -> ()
    """
    tokens = which * lengths  # (B, K)
    total = tokens.sum() if together else tokens.sum(1, keepdims=True) * len(lengths)
    share = which / np.maximum(total, 1)  # (B, K)
    return ops.sum(values * _like(values, share.reshape(-1)[option]))


def ranked(said: Tensor, option: np.ndarray, lengths: np.ndarray, labels: np.ndarray) -> Tensor:
    """L_LN: the cross-entropy of the right options, where beta is the logit of each.

    beta is the mean log p of an option's tokens; an option without tokens is not there
    Shapes  said (N,) log p of the tokens, option (N,) as in `token_mean`, lengths (B, K),
            labels (B,) the right options -> ()
    """
    means = (option == np.arange(lengths.size)[:, None]) / np.maximum(lengths.reshape(-1, 1), 1)
    beta = ops.reshape(_like(said, means) @ said, shape=lengths.shape)  # (B, K)
    absent = _like(said, np.where(lengths > 0, 0.0, -np.inf))  # (B, K)
    return fused.cross_entropy(beta + absent, xp_of(said.data).asarray(labels))


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
