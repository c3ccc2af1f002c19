"""Probes on the heads of a model: what a linear classifier reads there, and the direction it reads.

Paper    Li et al. 2023, "Inference-Time Intervention", secs. 3 and 4
Lecture  13_steering                    Homework hw8.1 (auc), hw8.2 (direction), hw8.3 (read_folds)

A probe sees x, what one head gives out at one position of a document, and says whether the
document is of the one kind (y = 1) or the other (y = 0). Each coordinate is standardized first, by
the mean and deviation of the training part alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from minipeft.backend import Rng
from minipeft.contract.targets import Targets
from minipeft.contract.watching import outputs

LEAST = 1e-6  # a deviation below it is that of a coordinate that never varies
STEPS = 30  # of Newton's method, which needs about ten


def read_heads(
    model: Any, batches: Iterable[Any], targets: Targets = "head_out"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What every head holds for each document, and the documents' kinds and questions.

    batches  with `more`: "kind" 1 or 0, "question" a number by which folds are made, "at" the
             position that is read; each (B,). minipeft.training.probing makes such batches
    Shapes   -> x (N, L, H, D) in float64, kind (N,), question (N,)
    """
    found: list[list[np.ndarray]] = [[], [], []]
    for batch, seen in outputs(model, batches, targets):
        if batch.more is None or not {"kind", "question", "at"} <= set(batch.more):
            raise ValueError("probes read batches with more= kind, question and at: see "
                             "minipeft.training.probing.probe_batches")  # fmt: skip
        rows = np.arange(len(batch.ids))
        x = np.stack([y[rows, batch.more["at"]] for y in seen.values()], axis=1)  # (B, L, H D)
        found[0].append(x.reshape(*x.shape[:2], model.config.heads, -1).astype(np.float64))
        found[1].append(batch.more["kind"])
        found[2].append(batch.more["question"])
    x, kind, question = map(np.concatenate, found)
    return x, kind, question


class Probe(NamedTuple):
    """p(y = 1) = 1 / (1 + exp(-z)), z = w ((x - mean) / width) + b"""

    mean: np.ndarray
    width: np.ndarray
    w: np.ndarray
    b: float

    def logits(self, x: np.ndarray) -> np.ndarray:
        """z of each row.  (N, D) -> (N,)"""
        z: np.ndarray = (x - self.mean) / self.width @ self.w + self.b
        return z


def fit_probe(x: np.ndarray, y: np.ndarray, l2: float = 1.0) -> Probe:
    """Logistic regression on standardized rows, by Newton's method.

    The w, b with the least sum of log(1 + exp(-s z)) + l2 |w|^2 / 2, s = 1 where y is 1, else -1
    Shapes  x (N, D), y (N,) of 0 and 1
    """
    x, y = _checked(x, y)
    mean, width = x.mean(0), x.std(0)
    width = np.where(width < LEAST, 1.0, width)
    z = np.concatenate([(x - mean) / width, np.ones((len(x), 1))], axis=1)  # (N, D + 1)
    penalty = np.full(z.shape[1], l2)
    penalty[-1] = 0.0  # of b
    w = np.zeros(z.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -30, 30)))
        slope = z.T @ (p - y) + penalty * w
        bend = (z * (p * (1 - p) + 1e-12)[:, None]).T @ z + np.diag(penalty)
        step = np.linalg.solve(bend, slope)
        w = w - step
        if np.abs(step).max() < 1e-10:
            break
    return Probe(mean, width, w[:-1], float(w[-1]))


def auc(scores: np.ndarray, y: np.ndarray) -> float:
    """How likely a row with y = 1 scores above one with y = 0; a tie counts as half."""
    one, zero = np.asarray(scores)[y == 1], np.asarray(scores)[y == 0]
    if not len(one) or not len(zero):
        raise ValueError(f"auc needs rows of both kinds, got {len(one)} of one and {len(zero)}")
    gap = one[:, None] - zero
    return float((gap > 0).mean() + (gap == 0).mean() / 2)


def folds(question: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """n masks of held-out rows: all rows of a question are held out together, each once.

    Raises  ValueError where there are fewer questions than folds
    """
    asked = np.unique(question)
    if len(asked) < n:
        raise ValueError(f"{n} folds need as many questions, got {len(asked)}")
    mixed = asked[Rng(seed, "folds").permutation(len(asked))]
    return [np.isin(question, mixed[i::n]) for i in range(n)]


class Held(NamedTuple):
    """What is read from questions that nothing was fitted on, head by head: means over the folds.

    Shapes  auc (H,) 0 to 1; of a probe also accuracy (H,) in percent and nats (H,), else 0
    """

    auc: np.ndarray
    accuracy: np.ndarray
    nats: np.ndarray

    def best(self, k: int) -> list[int]:
        """The k heads with the largest AUC; of equal ones that with the least nats first."""
        return [int(i) for i in np.lexsort((self.nats, -self.auc.round(6)))[:k]]


def held_out(
    x: np.ndarray, y: np.ndarray, question: np.ndarray, kind: str = "probe", n: int = 4,
    seed: int = 0,
) -> Held:  # fmt: skip
    """For each head, find a direction on all questions but one fold's, and read those with it.

    kind    "probe": a probe, or "mean": the line between the two means
    Shapes  x (N, H, D), y and question (N,)
    """
    return read_folds(x, y, folds(question, n, seed), kind)


def read_folds(x: np.ndarray, y: np.ndarray, parts: list[np.ndarray], kind: str) -> Held:
    """`held_out` on given folds: of each head what is read from the held-out rows.

    kind    "mean": AUC of the rows along the direction found on the others; "probe": AUC, accuracy
            and nats of a probe that was fitted on the others
    Shapes  x (N, H, D), y (N,), parts masks (N,), true where a row is held out
    """
    found = np.zeros((3, x.shape[1]))  # (3, H)
    for held in parts:
        there, sign = y[held], np.where(y[held] == 1, -1, 1)
        for h in range(x.shape[1]):
            if kind == "mean":
                found[0, h] += auc(x[held, h] @ direction(x[~held, h], y[~held])[0], there)
                continue
            z = fit_probe(x[~held, h], y[~held]).logits(x[held, h])
            right, nats = (z > 0) == (there == 1), np.logaddexp(0, sign * z)
            found[:, h] += (auc(z, there), 100 * right.mean(), nats.mean())
    return Held(*(found / len(parts)))


def direction(
    x: np.ndarray, y: np.ndarray, kind: str = "mean", rng: Rng | None = None
) -> tuple[np.ndarray, float]:
    """theta, of length 1, that points from y = 0 to y = 1; and sigma, the deviation of x along it.

    kind    "mean": from the mean of the rows with y = 0 to that of those with y = 1 (the paper's
            mass mean shift); "probe": a probe's weights, in the units of x; "random": by rng
    Shapes  x (N, D), y (N,) -> theta (D,)
    """
    x, y = _checked(x, y)
    if kind == "mean":
        theta = x[y == 1].mean(0) - x[y == 0].mean(0)
    elif kind == "probe":
        probe = fit_probe(x, y)
        theta = probe.w / probe.width
    else:
        theta = (rng or Rng(0, "direction")).normal((x.shape[1],))
    length = float(np.linalg.norm(theta))
    if length < LEAST:
        raise ValueError("the two kinds of documents have the same mean here: no direction")
    theta = theta / length
    return theta, float((x @ theta).std())


def _checked(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As float64; y must be 0 and 1, both there."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    if x.ndim != 2 or y.shape != (len(x),) or set(np.unique(y)) != {0, 1}:
        raise ValueError(f"wanted x (N, D) and y (N,) of 0 and 1, both there; got x {x.shape}, "
                         f"y {y.shape} with {np.unique(y)[:4]}")  # fmt: skip
    return x, y
