"""Scores of predictions and texts, 0-100 where that is usual.

BLEU, chrF, TER and ROUGE-L come from sacrebleu and rouge-score, so they can be compared with other
work; both are imported on first use. NIST and METEOR are not here: no library among the
dependencies has them, and NLTK's METEOR asks for a download of WordNet.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np


class MetricError(ValueError):
    """Scores asked of nothing, or of lists that do not belong together."""


def accuracy(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """Percent of predictions that equal their label."""
    _check("accuracy", predictions, "labels", labels)
    return 100.0 * sum(bool(p == y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def f1(
    predictions: Sequence[Any], labels: Sequence[Any], positive: Any = 1, macro: bool = False
) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of one class, or the mean over all classes, 0-100.

    macro  the mean over the classes that occur on either side; `positive` is not used
    A class that is neither predicted nor there counts as 0, as in scikit-learn.
    """
    _check("f1", predictions, "labels", labels)
    pairs = list(zip(predictions, labels, strict=True))
    scores = []
    for c in sorted({x for pair in pairs for x in pair}) if macro else [positive]:
        hits = sum(bool(p == c and y == c) for p, y in pairs)
        total = sum(bool(p == c) + bool(y == c) for p, y in pairs)
        scores.append(2.0 * hits / total if total else 0.0)
    return 100.0 * sum(scores) / len(scores)


def matthews(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """Matthews correlation of two classes or more (Gorodkin 2004), from -100 to 100.

    cov(p, y) / sqrt(cov(p, p) cov(y, y)) of the one-hot vectors; 0 where one side never varies
    """
    _check("matthews", predictions, "labels", labels)
    n, pairs = len(labels), list(zip(predictions, labels, strict=True))
    p, y = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    both = n * sum(bool(a == b) for a, b in pairs) - sum(p[c] * y[c] for c in p)
    spread = [n * n - sum(k * k for k in side.values()) for side in (p, y)]
    return 100.0 * both / math.sqrt(spread[0] * spread[1]) if all(spread) else 0.0


def mc1(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """Percent of questions whose right answer has the highest score of all (TruthfulQA)."""
    _check("mc1", scores, "labels", labels)
    return accuracy([int(np.argmax(row)) for row in scores], list(labels))


def mc2(scores: Sequence[Sequence[float]], true: Sequence[Sequence[bool]]) -> float:
    """Mean share of the answers' probability that lies on true ones, 0-100 (TruthfulQA).

    scores  log-probabilities of each question's answers; true  which of them are true
    """
    _check("mc2", scores, "rows of truth", true)
    for i, (row, right) in enumerate(zip(scores, true, strict=True)):
        if len(row) != len(right) or not any(right) or all(right):
            raise MetricError(f"mc2: question {i} needs one mark for each answer, true and false "
                              f"ones among them; got {len(row)} scores, {list(right)}")  # fmt: skip
    shares = []
    for row, right in zip(scores, true, strict=True):
        p = np.exp(np.asarray(row, dtype=np.float64) - max(row))
        shares.append(float(p[np.asarray(right, dtype=bool)].sum() / p.sum()))
    return 100.0 * sum(shares) / len(shares)


def slot_error(
    outputs: Sequence[str],
    slots: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]] | None = None,
) -> float:
    """(missing + added) / wanted values in percent: what a text leaves out or makes up.

    slots   the values that each text must hold, as whole words, in any case
    others  values that it must not hold, such as those of other records
    """
    _check_texts("slot_error", outputs, slots)
    missing = sum(not _holds(o, v) for o, row in zip(outputs, slots, strict=True) for v in row)
    added = 0
    if others is not None:
        _check("slot_error", outputs, "rows of others", others)
        added = sum(_holds(o, v) for o, row in zip(outputs, others, strict=True) for v in row)
    return 100.0 * (missing + added) / sum(map(len, slots))


def _holds(text: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def kl(log_p: Any, log_q: Any) -> float:
    """Mean of KL(p || q) = sum p (log p - log q) over all rows, in nats.

    Shapes  log_p, log_q (..., V) log-probabilities; each row of exp adds up to 1
    """
    p, q = (np.asarray(x, dtype=np.float64) for x in (log_p, log_q))
    if p.shape != q.shape or p.ndim < 1 or p.size == 0:
        raise MetricError(f"kl needs two arrays (..., V) of one shape, got {p.shape}, {q.shape}")
    for name, x in (("log_p", p), ("log_q", q)):
        if not np.allclose(np.exp(x).sum(-1), 1.0, atol=1e-4):
            raise MetricError(f"kl: the rows of exp({name}) must add up to 1; log_softmax first")
    with np.errstate(invalid="ignore"):
        terms = np.where(p == -np.inf, 0.0, np.exp(p) * (p - q))  # 0 log 0 = 0
    return float(terms.sum(-1).mean())


def calibration_error(
    confidences: Sequence[float], correct: Sequence[bool], bins: int = 10
) -> float:
    """Expected calibration error (Guo et al. 2017): mean |accuracy - confidence|, 0-100.

    Predictions are put into `bins` equal parts of (0, 1] by their confidence; the gaps between
    the parts' accuracy and mean confidence are weighted by their numbers.
    """
    _check("calibration_error", confidences, "outcomes", correct)
    c, hit = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if not (c.min() >= 0.0 and c.max() <= 1.0):
        raise MetricError(f"confidences must lie in 0 to 1, got {c.min()} to {c.max()}")
    if bins < 1:
        raise MetricError(f"bins must be 1 or more, got {bins}")
    part = np.searchsorted(np.arange(1, bins) / bins, c)  # an edge belongs to the part below
    gaps = [abs(float((hit[part == i] - c[part == i]).sum())) for i in range(bins)]
    return 100.0 * sum(gaps) / len(c)


def exact_match(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Percent of outputs equal to one of their references, white space at the ends aside."""
    _check_texts("exact_match", outputs, references)
    hits = sum(
        output.strip() in {reference.strip() for reference in group}
        for output, group in zip(outputs, references, strict=True)
    )
    return 100.0 * hits / len(outputs)


def perplexity(log_probs: Sequence[float]) -> float:
    """exp(-mean of the tokens' log-probabilities in nats): 1 is certain, V is guessing."""
    if len(log_probs) == 0:
        raise MetricError("perplexity needs at least one token's log-probability, got none")
    mean = -sum(float(p) for p in log_probs) / len(log_probs)
    if math.isnan(mean) or mean < -1e-9:
        raise MetricError(f"log-probabilities must be numbers <= 0, got the mean {-mean}")
    return math.exp(mean) if mean < 700 else math.inf


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 of sacrebleu (13a tokens, exponential smoothing), 0-100.

    outputs  n texts; references  n groups of one text or more, their sizes may differ
    """
    _check_texts("bleu", outputs, references)
    import sacrebleu

    score = sacrebleu.corpus_bleu(list(outputs), _columns(references)).score  # type: ignore[arg-type]
    return float(score)


def chrf(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2 of sacrebleu: F of character n-grams up to 6, 0-100."""
    _check_texts("chrf", outputs, references)
    import sacrebleu

    score = sacrebleu.corpus_chrf(list(outputs), _columns(references)).score  # type: ignore[arg-type]
    return float(score)


def ter(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus TER of sacrebleu: edits and shifts per 100 reference words; 0 is best."""
    _check_texts("ter", outputs, references)
    import sacrebleu

    score = sacrebleu.corpus_ter(list(outputs), _columns(references)).score  # type: ignore[arg-type]
    return float(score)


def _columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """sacrebleu's form: the first references of all texts, the second ones, and so on."""
    most = max(len(group) for group in references)
    return [[g[i] if i < len(g) else None for g in references] for i in range(most)]


def rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean F of the longest common subsequence of words, best reference of each, 0-100."""
    _check_texts("rouge_l", outputs, references)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    best = [
        scorer.score_multi(list(group), output)["rougeL"].fmeasure
        for output, group in zip(outputs, references, strict=True)
    ]
    return 100.0 * float(sum(best)) / len(best)


def _check(name: str, given: Sequence[Any], what: str, wanted: Sequence[Any]) -> None:
    if len(given) != len(wanted):
        raise MetricError(f"{name} needs as many {what} as outputs: {len(wanted)} != {len(given)}")
    if len(given) == 0:
        raise MetricError(f"{name} of nothing: both lists are empty")


def _check_texts(name: str, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    _check(name, outputs, "reference groups", references)
    for i, group in enumerate(references):
        if isinstance(group, str):
            raise MetricError(f"{name}: references[{i}] must be a list of texts, got one str")
        if len(group) == 0:
            raise MetricError(f"{name}: references[{i}] is empty, output {i} has no reference")
