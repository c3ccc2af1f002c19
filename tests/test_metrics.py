"""Metrics against hand-counted values; empty and unequal lists are named errors."""

import math
import subprocess
import sys

import numpy as np
import pytest

from minipeft import metrics
from minipeft.metrics import MetricError, accuracy, bleu, exact_match, perplexity, rouge_l


def test_accuracy_counts_in_percent():
    assert accuracy([1, 2, 3, 3], [1, 2, 3, 4]) == 75.0
    assert accuracy(np.array([0, 1]), np.array([0, 1])) == 100.0
    assert type(accuracy(np.array([0]), np.array([1]))) is float


def test_exact_match_takes_any_reference():
    assert exact_match([" a b", "c", "d"], [["x", "a b"], ["c "], ["D"]]) == pytest.approx(200 / 3)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    assert perplexity([math.log(1 / 50)] * 7) == pytest.approx(50)
    assert perplexity(np.array([0.0])) == 1.0
    assert perplexity([-1000.0]) == math.inf


@pytest.mark.parametrize("wrong", [[], [0.5], [math.nan]])
def test_perplexity_refuses_what_are_no_log_probabilities(wrong):
    with pytest.raises(MetricError, match="log-probabilit"):
        perplexity(wrong)


def test_bleu_matches_a_count_by_hand():
    # 5 words of 6: n-gram precisions 5/6, 3/5, 2/4, 1/3; lengths equal, so no penalty
    by_hand = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu(["the cat sat on a mat"], [["the cat sat on the mat"]]) == pytest.approx(by_hand)


def test_bleu_takes_groups_of_different_sizes():
    outputs = ["the cat sat on the mat", "a dog ran over the hill today"]
    references = [["one two three four", outputs[0]], [outputs[1]]]
    assert bleu(outputs, references) == pytest.approx(100)
    assert bleu(outputs, [references[0][:1], references[1]]) < 90


def test_rouge_l_matches_a_count_by_hand():
    # longest common subsequence "a c" of 3 and 4 words: P 2/3, R 2/4, F 4/7
    assert rouge_l(["a b c"], [["a x c y"]]) == pytest.approx(400 / 7)
    assert rouge_l(["a b c", "d"], [["a x c y", "a b c"], ["e"]]) == pytest.approx(50)


@pytest.mark.parametrize("metric", [accuracy, exact_match, bleu, rouge_l])
def test_lists_must_have_one_length_above_zero(metric):
    with pytest.raises(MetricError, match=f"{metric.__name__} needs as many .*: 2 != 1"):
        metric(["a"], [["a"], ["b"]])
    with pytest.raises(MetricError, match=f"{metric.__name__} of nothing"):
        metric([], [])


@pytest.mark.parametrize("metric", [exact_match, bleu, rouge_l])
def test_references_must_be_groups(metric):
    with pytest.raises(MetricError, match=r"references\[0\] must be a list"):
        metric(["a"], ["a"])
    with pytest.raises(MetricError, match=r"references\[1\] is empty"):
        metric(["a", "b"], [["a"], []])


def test_scoring_libraries_are_imported_on_use():
    code = (
        f"import sys; import {metrics.__name__}; "
        "assert not {'sacrebleu', 'rouge_score'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
