"""Scores of predictions and texts, 0-100 where that is usual.

BLEU and ROUGE-L come from sacrebleu and rouge-score, so they can be compared with other work;
both are imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class MetricError(ValueError):
    """Scores asked of nothing, or of lists that do not belong together."""


def accuracy(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """Percent of predictions that equal their label."""
    _check("accuracy", predictions, "labels", labels)
    return 100.0 * sum(bool(p == y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


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

    most = max(len(group) for group in references)
    columns = [[g[i] if i < len(g) else None for g in references] for i in range(most)]
    return float(sacrebleu.corpus_bleu(list(outputs), columns).score)  # type: ignore[arg-type]


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
