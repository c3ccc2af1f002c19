"""Metrics against hand-counted values; empty and unequal lists are named errors."""

import math
import subprocess
import sys

import numpy as np
import pytest

from minipeft.generation import metrics
from minipeft.generation.metrics import (
    MetricError,
    accuracy,
    bleu,
    calibration_error,
    chrf,
    exact_match,
    f1,
    kl,
    matthews,
    mc1,
    mc2,
    perplexity,
    rouge_l,
    slot_error,
    ter,
)


def test_accuracy_counts_in_percent():
    assert accuracy([1, 2, 3, 3], [1, 2, 3, 4]) == 75.0
    assert accuracy(np.array([0, 1]), np.array([0, 1])) == 100.0
    assert type(accuracy(np.array([0]), np.array([1]))) is float


def test_exact_match_takes_any_reference():
    assert exact_match([" a b", "c", "d"], [["x", "a b"], ["c "], ["D"]]) == pytest.approx(200 / 3)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    assert perplexity([math.log(1 / 50)] * 7) == pytest.approx(50)
    assert perplexity(np.array([0.0])) == 1.0
    assert perplexity([-1000.0]) == perplexity([-750.0]) == math.inf
    assert perplexity([-600.0, -700.0]) == pytest.approx(math.exp(650))


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


def test_f1_matches_a_count_by_hand():
    said, true = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]  # TP 2, FP 1, FN 1
    assert f1(said, true) == pytest.approx(400 / 6)
    assert f1(said, true, positive=0) == pytest.approx(400 / 6)
    # classes a, b, c: 2/3 of TP 1, FN 1; 2/3 of TP 1, FP 1; 1
    assert f1(list("abbc"), list("aabc"), macro=True) == pytest.approx(
        100 * (2 / 3 + 2 / 3 + 1) / 3
    )
    assert f1([0, 0], [0, 0]) == 0.0 and f1([0, 0], [0, 0], macro=True) == 100.0
    assert type(f1(np.array([1, 0]), np.array([1, 1]))) is float


def test_macro_f1_counts_a_class_that_stands_on_one_side_only():
    # a: TP 1 and one more, 2/3; the other class was never right, 0
    assert f1(["a", "b"], ["a", "a"], macro=True) == pytest.approx(100 / 3)  # b only predicted
    assert f1(["a", "a"], ["a", "b"], macro=True) == pytest.approx(100 / 3)  # b only a label
    assert f1(["a", "b"], ["b", "c"], macro=True) == 0.0


def test_f1_is_that_of_the_positive_class():
    said, true = ["yes", "yes", "no", "no"], ["yes", "no", "yes", "yes"]  # TP 1, FP 1, FN 2
    assert f1(said, true, positive="yes") == pytest.approx(200 / 5)
    assert f1(said, true, positive="no") == 0.0
    assert f1([2, 0, 2], [2, 2, 1], positive=2) == pytest.approx(50)
    assert f1([2, 0, 2], [2, 2, 1]) == 0.0  # class 1 unless told


def test_matthews_is_0_where_one_side_is_constant():
    for said, true in (([0, 1], [1, 1]), ([1, 1], [0, 1]), ([1, 1], [1, 1]), ([0, 0], [1, 1])):
        assert matthews(said, true) == 0.0
    assert matthews(["a"], ["a"]) == 0.0


def test_matthews_with_unequal_margins():
    # n 8, right 4; predicted 1 six times, true five times: (8*4 - 6*5 - 2*3) / sqrt(24 * 30)
    said, true = [1] * 6 + [0] * 2, [1, 1, 1, 0, 0, 0, 1, 1]
    assert matthews(said, true) == pytest.approx(100 * (24 - 36) / math.sqrt(24 * 30))


def test_matthews_matches_known_values():
    # TP 2, TN 3, FP 1, FN 1: (6 - 1) / sqrt(3 * 3 * 4 * 4)
    said, true = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]
    assert matthews(said, true) == pytest.approx(100 * 5 / 12)
    assert matthews(true, true) == pytest.approx(100)
    assert matthews([1 - y for y in true], true) == pytest.approx(-100)
    assert matthews([0] * 7, true) == 0.0
    # three classes: c = 4, s = 6, sum p t = 12; (24 - 12) / sqrt((36 - 14) (36 - 12))
    assert matthews([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]) == pytest.approx(1200 / math.sqrt(528))


def test_mc1_and_mc2():
    scores = [[-1.0, -2.0, -3.0], [-5.0, -4.0, -6.0]]
    assert mc1(scores, [0, 0]) == 50.0
    rows = [[math.log(0.2), math.log(0.1), math.log(0.1)], [-1000.0, -1000.0]]
    assert mc2(rows, [[True, False, False], [False, True]]) == pytest.approx(50.0)
    assert mc2(rows[:1], [[True, True, False]]) == pytest.approx(75.0)
    with pytest.raises(MetricError, match="mc2: question 0 needs one mark for each answer"):
        mc2([[-1.0, -2.0]], [[True, True]])


def test_slot_error_counts_what_is_missing_and_made_up():
    outputs, slots = (
        ["The Mill is a cheap pub.", "A café."],
        [["The Mill", "pub"], ["Café", "Thai"]],
    )
    assert slot_error(outputs, slots) == 25.0
    assert slot_error(outputs, slots, [["cheap"], ["inn"]]) == 50.0
    assert slot_error(["a pubs"], [["pub"]]) == 100.0  # whole words only


def test_mc2_is_the_mean_over_questions():
    rows = [[math.log(0.6), math.log(0.2)], [math.log(0.1), math.log(0.3)], [-3.0, -3.0]]
    marks = [[True, False], [True, False], [False, True]]
    assert mc2(rows, marks) == pytest.approx(100 * (0.75 + 0.25 + 0.5) / 3)


@pytest.mark.parametrize(
    ("text", "value", "there"),
    [
        ("A superpub.", "pub", False),  # the end of a longer word
        ("Pubs are shut.", "pub", False),  # its beginning
        ("The PUB: open", "pub", True),
        ("It costs £20.50!", "£20.50", True),
        ("It costs £20x50!", "£20.50", False),  # a dot is a dot
        ("It costs 120.50", "20.50", False),
        ("They teach C++, well", "C++", True),  # a value may end in a sign
        ("The (old) mill", "(old)", True),
        ("An old mill", "(old)", False),
        ("a café-bar", "café", True),
        ("un café", "caf", False),
        ("four stars", "our star", False),
        ("", "pub", False),
    ],
)
def test_slot_error_sees_whole_words_and_takes_signs_as_they_are(text, value, there):
    assert slot_error([text], [[value]]) == (0.0 if there else 100.0)
    wanted = 100.0 * (1 + there)  # "zz" is missing, and the value is added where it stands
    assert slot_error([text], [["zz"]], [[value]]) == wanted


def test_slot_error_is_over_all_wanted_values():
    # 1 of 3 and 1 of 1 missing, one made up: 3 / 4, whatever the texts' own shares
    assert slot_error(["a b", "c"], [["a", "b", "x"], ["y"]], [["b"], ["z"]]) == 75.0


def test_kl_matches_a_sum_by_hand():
    p, q = np.log([[0.5, 0.5], [1.0 - 1e-12, 1e-12]]), np.log([[0.25, 0.75], [0.5, 0.5]])
    by_hand = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)]
    assert kl(p, q) == pytest.approx(sum(by_hand) / 2, abs=1e-9)
    assert kl(q, q) == 0.0
    assert kl(np.array([0.0, -np.inf]), np.log([0.5, 0.5])) == pytest.approx(math.log(2))
    assert kl(np.log([0.5, 0.5]), np.array([0.0, -np.inf])) == math.inf
    with pytest.raises(
        MetricError, match=r"two arrays \(..., V\) of one shape, got \(2,\), \(3,\)"
    ):
        kl(np.log([0.5, 0.5]), np.log([0.5, 0.25, 0.25]))
    with pytest.raises(MetricError, match=r"rows of exp\(log_q\) must add up to 1"):
        kl(np.log([0.5, 0.5]), np.array([0.5, 0.5]))


def test_calibration_error_matches_a_count_by_hand():
    # two bins of two: |0.5 - 0.85| and |1 - 0.6|, weighted 1/2 each
    assert calibration_error([0.8, 0.9, 0.6, 0.6], [1, 0, 1, 1], bins=10) == pytest.approx(
        100 * (0.2 + 0.9 + 0.8) / 4
    )
    assert calibration_error([0.85, 0.85, 0.6, 0.6], [1, 0, 1, 1]) == pytest.approx(37.5)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0
    assert calibration_error([0.7, 0.9], [1, 0], bins=1) == pytest.approx(30.0)
    with pytest.raises(MetricError, match="confidences must lie in 0 to 1"):
        calibration_error([1.5], [1])


@pytest.mark.parametrize("bins", [*range(1, 31), 100])
def test_an_edge_of_calibration_belongs_to_the_part_below_it(bins):
    for i in range(1, bins + 1):
        edge, inside = i / bins, (i - 0.5) / bins
        together = 100 * abs(1 - edge - inside) / 2  # one part: the gaps may cancel
        assert calibration_error([edge, inside], [1, 0], bins) == pytest.approx(together)
        if i < bins:
            above = (i + 0.5) / bins
            apart = 100 * (1 - edge + above) / 2
            assert calibration_error([edge, above], [1, 0], bins) == pytest.approx(apart)
    assert calibration_error([0.0, 0.5 / bins], [0, 1], bins) == pytest.approx(
        50 * (1 - 0.5 / bins)
    )


def test_the_parts_of_calibration_weigh_by_their_numbers():
    # three in one part with the gap |3 - 2.85|, one in another with 0.35
    got = calibration_error([0.95, 0.95, 0.95, 0.35], [1, 1, 1, 0])
    assert got == pytest.approx(100 * (0.15 + 0.35) / 4)


def test_ter_counts_edits_and_chrf_characters():
    references = [["the cat sat on the mat", "the cat sat on a mat"], ["b b b b"]]
    assert ter(["the cat sat on a mat"], [references[0][:1]]) == pytest.approx(100 / 6)
    assert ter(["the cat sat on a mat", "b b b b"], references) == 0.0
    assert chrf(["the cat sat on a mat", "b b b b"], references) == pytest.approx(100)
    # n-grams of one to three characters: 2 of 3, 1 of 2 and none are right, on both sides
    assert chrf(["abc"], [["abd"]]) == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize(
    "metric", [accuracy, exact_match, bleu, rouge_l, f1, matthews, mc1, mc2, slot_error, chrf, ter]
)
def test_lists_must_have_one_length_above_zero(metric):
    with pytest.raises(MetricError, match=f"{metric.__name__} needs as many .*: 2 != 1"):
        metric(["a"], [["a"], ["b"]])
    with pytest.raises(MetricError, match=f"{metric.__name__} of nothing"):
        metric([], [])


@pytest.mark.parametrize("metric", [exact_match, bleu, rouge_l, chrf, ter])
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
