"""Contextual calibration: take off what a prompt makes a model answer whatever is asked.

Zhao et al. 2021, sec. 5: the bias of a context is what the model answers to an input without
content, q = W p + b with

    W = diag(p_cf)^-1, b = 0    "scale"        or    W = I, b = -p_cf    "shift"

p is normalized over the options; p_cf is the mean of the probabilities (not normalized) that the
content-free inputs give to the options, normalized once. Of two options both forms choose the
same one: the second if its p is above its p_cf.

Beside it stands a calibration that needs inputs instead of N/A, but no labels: the mean margin,
which divides by the geometric mean of the p of unlabelled inputs.

Lecture  03b_calibration                Homework hw5.6 (contextual)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.generation.incontext import filled, in_context, option_scores
from minipeft.generation.scoring import score_many
from minipeft.tasks.base import Example, Pattern

CONTENT_FREE = ("N/A", "", "[MASK]")
FORMS = ("scale", "shift")
LEAST = 1e-12  # a share of probability is divided by no less


@dataclass(frozen=True, eq=False)
class Calibration:
    """q = W p + b with a diagonal W.

    share  (n,) p_cf, or what stands in its place: the p that an unbiased answer must exceed
    """

    W: np.ndarray
    b: np.ndarray
    share: np.ndarray

    def __call__(self, scores: Any) -> np.ndarray:
        """q of each option; the largest is the answer.

        Shapes  scores (..., n) log-probabilities as `score_many` gives them -> (..., n)
        """
        logs = _checked(scores, "scores")
        if logs.shape[-1] != len(self.W):
            raise ValueError(f"the calibration is for {len(self.W)} options, "
                             f"the scores are of {logs.shape[-1]}")  # fmt: skip
        return self.W * normalized(logs) + self.b


def normalized(scores: Any) -> np.ndarray:
    """Log-probabilities of options as probabilities that sum to 1.  (..., n) -> (..., n)"""
    logs = _checked(scores, "scores")
    p = np.exp(logs - logs.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def contextual(free: Any, form: str = "scale") -> Calibration:
    """The calibration that takes off what content-free inputs are answered.

    free  (inputs, n) log-probabilities of the options after each, as `score_many` gives them
    form  "scale": W = diag(p_cf)^-1, b = 0; "shift": W = I, b = -p_cf
    """
    if form not in FORMS:
        raise ValueError(f"a form is one of {', '.join(FORMS)}, got {form!r}")
    logs = _checked(free, "content-free scores", rows=True)
    p = np.exp(logs - logs.max()).mean(0)  # a factor common to all goes with the sum
    share = np.maximum(p / p.sum(), LEAST)
    one, zero = np.ones_like(share), np.zeros_like(share)
    return (
        Calibration(1 / share, zero, share) if form == "scale" else Calibration(one, -share, share)
    )


def mean_margin(scores: Any) -> Calibration:
    """The calibration that makes the mean log-odds of unlabelled inputs zero.

    For two options that is: answer the second if its margin log p_2 - log p_1 is above the mean
    margin. It takes for granted that the inputs are about balanced.
    scores  (inputs, n) log-probabilities of the options after each, as `score_many` gives them
    """
    p = normalized(_checked(scores, "scores", rows=True))
    logs = np.log(np.maximum(p, LEAST)).mean(0)
    share = np.maximum(np.exp(logs - logs.max()), LEAST)
    share /= share.sum()
    return Calibration(1 / share, np.zeros_like(share), share)


def content_free(
    pattern: Pattern, examples: Sequence[Example] = (), inputs: Sequence[str] = CONTENT_FREE
) -> list[tuple[str, tuple[str, ...]]]:
    """What to ask a model for `contextual`: the same pattern and examples, and no content.

    contextual(score_many(model, content_free(pattern, examples)))
    """
    if len(pattern.words) < 2:
        raise ValueError("calibration needs a pattern with two words at least: a text that is "
                         f"generated has no options to weigh, got {pattern}")  # fmt: skip
    if not inputs:
        raise ValueError("content_free needs one input at least")
    return [(in_context(examples, filled(pattern, text)), pattern.words) for text in inputs]


def calibrated(
    model: Any, pattern: Pattern, examples: Sequence[Example], asked: Sequence[Example],
    form: str = "scale", inputs: Sequence[str] = CONTENT_FREE,
) -> np.ndarray:  # fmt: skip
    """The number of the option that the model chooses for each question, once calibrated.

    pattern   of the examples and the questions alike
    """
    calibration = contextual(score_many(model, content_free(pattern, examples, inputs)), form)
    wrong = [e.options for e in asked if e.options != pattern.words]
    if wrong:
        raise ValueError(f"the questions have the options {wrong[0]}, the pattern {pattern.words}")
    return calibration(option_scores(model, examples, asked)).argmax(-1)


def _checked(scores: Any, what: str, rows: bool = False) -> np.ndarray:
    """Log-probabilities as an array whose last axis is the options."""
    logs = np.asarray(scores, dtype=np.float64)
    if logs.ndim < 1 or logs.shape[-1] < 2 or (rows and (logs.ndim != 2 or not len(logs))):
        wanted = "(inputs, options)" if rows else "(..., options)"
        raise ValueError(f"{what} are {wanted} with two options at least, got {logs.shape}")
    if np.isnan(logs).any() or np.isposinf(logs).any() or np.isneginf(logs).all(-1).any():
        raise ValueError(f"{what} are log-probabilities, not all of them -inf; got {logs}")
    return logs
