"""Calibration against cases counted by hand; its two forms; what is refused."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.generation.calibration import (
    CONTENT_FREE,
    FORMS,
    calibrated,
    content_free,
    contextual,
    mean_margin,
    normalized,
)  # fmt: skip
from minipeft.generation.incontext import in_context
from minipeft.generation.scoring import score, score_many
from minipeft.tasks import Example, Pattern, get_task
from tests.tiny import gpt

P = Pattern("the {x}", (" meows", " barks"))
LOG = np.log


def case(seed):
    """Scores of 1 to 6 inputs and 2 to 5 options, in nats."""
    rng = Rng(seed, "case")
    n, classes = int(rng.integers(1, 7)), int(rng.integers(2, 6))
    return 3 * rng.normal((n, classes)) - 5, 2 * rng.normal((40, classes)) - 5


def test_a_case_by_hand():
    free = LOG([[0.12, 0.04], [0.02, 0.02]])  # means 0.07 and 0.03: p_cf = 0.7, 0.3
    scale, shift = contextual(free), contextual(free, "shift")
    np.testing.assert_allclose(scale.share, [0.7, 0.3])
    np.testing.assert_allclose(scale.W, [1 / 0.7, 1 / 0.3])
    np.testing.assert_allclose([*scale.b, *shift.W, *shift.b], [0, 0, 1, 1, -0.7, -0.3])
    scores = LOG([0.06, 0.04])  # p = 0.6, 0.4
    np.testing.assert_allclose(scale(scores), [0.6 / 0.7, 0.4 / 0.3])
    np.testing.assert_allclose(shift(scores), [-0.1, 0.1])


def test_probabilities_are_averaged_before_they_are_normalized():
    """Normalized one by one they would give (0.75 + 0.5) / 2 = 0.625; of logs the mean 0.634."""
    assert contextual(LOG([[0.12, 0.04], [0.02, 0.02]])).share[0] == pytest.approx(0.7)


def test_three_options_by_hand_where_the_forms_differ():
    free, p = LOG([[0.8, 0.15, 0.05]]), LOG([0.55, 0.31, 0.14])
    scale, shift = contextual(free)(p), contextual(free, "shift")(p)
    np.testing.assert_allclose(scale, [0.6875, 31 / 15, 2.8])
    np.testing.assert_allclose(shift, [-0.25, 0.16, 0.09])
    assert (scale.argmax(), shift.argmax()) == (2, 1)


def test_mean_margin_by_hand():
    p = np.array([[0.9, 0.1], [0.5, 0.5]])  # margins -log 9 and 0: the mean is -log 3
    found = mean_margin(LOG(p) - 4)  # only their ratio counts
    np.testing.assert_allclose(found.share, [0.75, 0.25])
    assert found(LOG([[0.76, 0.24], [0.74, 0.26]])).argmax(-1).tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(30))
def test_of_two_options_both_forms_choose_the_same(seed):
    free, scores = (s[:, :2] for s in case(seed))
    answers = [contextual(free, form)(scores).argmax(-1) for form in FORMS]
    p = normalized(scores)[:, 1]
    assert answers[0].tolist() == answers[1].tolist()
    assert answers[0].tolist() == (p > contextual(free).share[1]).astype(int).tolist()


@pytest.mark.parametrize("seed", range(30))
def test_what_holds_of_any_scores(seed):
    free, scores = case(seed)
    for form in FORMS:
        once = contextual(free, form)
        np.testing.assert_allclose(once.share.sum(), 1)
        np.testing.assert_allclose(contextual(free - 3, form).share, once.share)  # a common factor
        np.testing.assert_allclose(once(scores - 700), once(scores))
        even = np.full((1, free.shape[1]), -2.0)  # no bias: nothing changes
        same = contextual(even, form)(scores).argmax(-1)
        assert same.tolist() == scores.argmax(-1).tolist()
    found = np.log(mean_margin(scores)(scores)).mean(0)
    np.testing.assert_allclose(found, found[0])  # no option is ahead on average


def test_very_unlikely_options_keep_their_ratio():
    far = LOG([[0.7, 0.3]]) - 5000  # exp would be 0
    np.testing.assert_allclose(contextual(far).share, [0.7, 0.3])
    np.testing.assert_allclose(mean_margin(far).share, [0.7, 0.3])
    np.testing.assert_allclose(normalized(far), [[0.7, 0.3]])


def test_an_impossible_option_is_divided_by_no_zero():
    for form in FORMS:
        q = contextual([[-1.0, -np.inf]], form)(LOG([[0.5, 0.5]]))
        assert np.isfinite(q).all() and q.argmax() == 1
    assert contextual([[-1.0, -np.inf]]).W[1] == 1e12
    assert np.isfinite(mean_margin([[-1.0, -np.inf]]).W).all()


@pytest.mark.parametrize("make", [contextual, mean_margin])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([[0.0, np.nan]], "log-probabilities"),
        ([[0.0, np.inf]], "log-probabilities"),
        ([[-np.inf, -np.inf]], "not all of them -inf"),
        ([[-1.0], [-2.0]], r"two options at least, got \(2, 1\)"),
        ([-1.0, -2.0], r"\(inputs, options\).* got \(2,\)"),
        (np.zeros((0, 2)), r"got \(0, 2\)"),
        (-1.0, r"got \(\)"),
    ],
)
def test_what_is_refused(make, bad, said):
    with pytest.raises(ValueError, match=said):
        make(bad)


def test_scores_must_be_of_the_same_options():
    one = contextual([[-1.0, -2.0]])
    with pytest.raises(ValueError, match="for 2 options, the scores are of 3"):
        one([[-1.0, -2.0, -3.0]])
    with pytest.raises(ValueError, match="log-probabilities"):
        one([[-1.0, np.nan]])
    with pytest.raises(ValueError, match="one of scale, shift, got 'diagonal'"):
        contextual([[-1.0, -2.0]], "diagonal")


def test_no_content_goes_through_the_same_pattern_and_examples():
    shown = [Example("the cat", " meows", P.words, 0)]
    asked = content_free(P, shown)
    assert [prompt for prompt, _ in asked] == [f"the cat meows\nthe {x}" for x in CONTENT_FREE]
    assert {options for _, options in asked} == {P.words}
    nli = get_task("nli").patterns[0]
    assert content_free(nli, inputs=["N/A"])[0][0] == "Text: N/A\nClaim: N/A\nAnswer:"


def test_a_generation_and_no_inputs_are_refused():
    with pytest.raises(ValueError, match="two words at least"):
        content_free(get_task("table-to-text").patterns[0])
    with pytest.raises(ValueError, match="one input at least"):
        content_free(P, inputs=())


@pytest.mark.parametrize("form", FORMS)
def test_a_model_s_answers_are_those_by_hand(form):
    model = gpt()
    shown = [Example("the cat", " meows", P.words, 0)]
    asked = [Example(f"the {x}", P.words[0], P.words, 0) for x in ("dog", "hen", "cow", "owl")]
    found = calibrated(model, P, shown, asked, form, ("N/A", ""))
    free = np.mean(
        [np.exp(score(model, f"the cat meows\nthe {x}", P.words)) for x in ("N/A", "")], 0
    )
    p_cf = free / free.sum()
    p = np.exp(score_many(model, [(in_context(shown, e), e.options) for e in asked]))
    assert found.tolist() == (p[:, 1] / p.sum(1) > p_cf[1]).astype(int).tolist()
    with pytest.raises(ValueError, match="the questions have the options"):
        calibrated(model, P, shown, [Example("the fox", " a", (" a", " b"), 0)])


def test_the_bias_is_asked_for_with_the_examples_and_the_inputs_given(monkeypatch):
    asked = []

    def scored(model, questions):
        asked.extend(prompt for prompt, _ in questions)
        return [[-1.0, -2.0]] * len(questions)

    for module in ("calibration", "incontext"):
        monkeypatch.setattr(f"minipeft.generation.{module}.score_many", scored)
    shown = [Example("the cat", " meows", P.words, 0)]
    calibrated(None, P, shown, [Example("the fox", " barks", P.words, 1)], inputs=["?", "-"])
    assert asked == ["the cat meows\nthe ?", "the cat meows\nthe -", "the cat meows\nthe fox"]
