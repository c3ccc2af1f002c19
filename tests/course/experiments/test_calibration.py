"""The measures behind the lecture on calibration: they repeat, leave the base, and can be read."""

from collections import Counter

import numpy as np
import pytest

from minipeft.course.experiments import EXPERIMENTS
from minipeft.course.experiments.calibration import claims, runs
from minipeft.course.experiments.runner import base
from minipeft.course.solutions import calibration as solutions
from minipeft.generation import incontext
from minipeft.generation.calibration import FORMS, contextual

NAMES = [name for name in EXPERIMENTS if name.startswith("calibration_")]
ONE = {"task": "sentiment", "words": "natural", "format": "", "base": "tiny-gpt", "seed": 2}
FAST = [(name, s) for name in NAMES for s in EXPERIMENTS[name].settings(True)]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(runs, "TEST", 6)
    monkeypatch.setattr(runs, "FREE", 4)


def seen(monkeypatch, how, **more):
    """The examples and questions that a change of labels is asked with."""
    found = []

    def scores(model, shown, asked):
        found.append((shown, asked))
        return np.zeros((len(asked), 2 + ("groups" in more.values())))

    monkeypatch.setattr(incontext, "option_scores", scores)
    outcome = runs.labels(ONE | {"how": how} | more)
    return found, outcome


@pytest.mark.parametrize("form", FORMS)
def test_calibration_by_hand_is_the_library_s(form):
    rng = np.random.default_rng(0)
    scores, free = rng.normal(size=(7, 3)) - 4, 2 * rng.normal(size=(3, 3)) - 4
    q = solutions.calibrate(scores, free, form)
    np.testing.assert_allclose(q, contextual(free, form)(scores), rtol=1e-12)


def test_biases_by_hand():
    answers, labels = np.array([[1, 1, 0], [0, 1, 1]]), np.array([[1, 1, 0], [0, 0, 0]])
    recency, majority = solutions.biases(answers, labels)
    assert recency == pytest.approx(2 / 6) and majority == pytest.approx(3 / 6)


@pytest.mark.parametrize(("name", "s"), FAST, ids=[f"{n}-{list(s.values())[:4]}" for n, s in FAST])
def test_a_fast_run_repeats_and_leaves_the_base(name, s):
    before = {path: p.data.copy() for path, p in base().named_parameters()}
    found = EXPERIMENTS[name].run(s)
    assert found == EXPERIMENTS[name].run(s)
    assert all(np.array_equal(p.data, before[path]) for path, p in base().named_parameters())


@pytest.mark.parametrize("task", ["sentiment", "groups"])
def test_what_is_shown_is_not_asked_and_each_part_is_balanced(task):
    pattern, *parts = runs.drawn(ONE | {"task": task})
    texts = [{e.prompt for e in part} for part in parts]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    for part in parts:
        counts = Counter(e.label for e in part)
        assert len(set(counts.values())) == 1 and len(counts) == len(pattern.words)
        assert all(e.options == pattern.words and e.target == e.options[e.label] for e in part)
    assert min(Counter(e.label for e in parts[0]).values()) == runs.SHOWN


def test_the_words_are_those_of_the_setting():
    first, second = (runs.drawn(ONE | {"words": f"{w} first"})[0].words for w in ("common", "rare"))
    assert first == second[::-1]
    assert first[0].strip() in runs.COMMON and first[1].strip() in runs.RARE
    new = runs.drawn(ONE | {"words": "new"})[0]
    assert not {w.strip() for w in new.words} & set(runs.WORDS[:10])
    assert new != runs.drawn(ONE | {"words": "new", "seed": 3})[0]
    own = runs.drawn(ONE | {"format": 2})[0]
    assert own.words == (" No", " Yes") and own.template.endswith("again?")


def test_a_context_is_measured_with_its_examples(monkeypatch):
    found = runs.context(ONE | {"labels": "0001"})
    assert set(found) == {"raw", "scale", "shift", "n/a", "margin", "share", "free"}
    assert sum(found["share"]) == pytest.approx(1) == sum(found["free"])
    assert found["scale"] == found["shift"]  # two options
    asked = []
    monkeypatch.setattr(runs, "score_many", lambda m, q: asked.extend(q) or [[-1.0, -2.0]] * len(q))
    runs.context(ONE | {"labels": "0001"})
    assert [prompt.count("Output:") for prompt, _ in asked] == [5, 5, 5]


def test_labels_are_changed_as_named(monkeypatch):
    ((shown, asked),), _ = seen(monkeypatch, "correct")
    assert [e.label for e in shown] == [0, 1] * 3 and len(asked) == 6
    ((flipped, _),), outcome = seen(monkeypatch, "flipped")
    assert [e.label for e in flipped] == [1, 0] * 3 and outcome["right"] == [0]
    draws, outcome = seen(monkeypatch, "random")
    assert len(draws) == 3 == len(outcome["each"])
    assert outcome["right"] == [sum(a.label == b.label for a, b in zip(shown, way, strict=True))
                                for way, _ in draws]  # fmt: skip
    ((none, _),), _ = seen(monkeypatch, "none")
    assert none == []
    ((others, _),), _ = seen(monkeypatch, "other words")
    assert not {e.target for e in others} & set(shown[0].options)
    ((inputs, _),), _ = seen(monkeypatch, "other inputs")
    assert not {e.prompt for e in inputs} & {e.prompt for e in shown}


def test_a_symbol_lies_in_the_questions_alone(monkeypatch):
    ((shown, asked),), _ = seen(monkeypatch, "symbol lies")
    assert all(e.prompt.startswith("# ") == (e.label == 1) for e in shown)
    assert all(e.prompt.startswith("# ") == (e.label == 0) for e in asked)
    ((shown, asked),), _ = seen(monkeypatch, "symbol", task="groups")
    assert all(e.prompt.startswith("# ") for e in (*shown, *asked)) and len(shown) == 6


def test_every_claim_can_be_read():
    for claim in claims.CLAIMS:
        finding = claim.measure()
        assert finding.verdict and (finding.value or finding.why), claim.text
    assert len({claim.text for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_a_case_has_the_orders_it_was_run_with():
    assert claims.orders("even") == list(runs.BALANCED)
    assert claims.orders("even, groups") == list(runs.GROUPED[:4])
    assert claims.orders("even, format 1") == list(runs.BALANCED[:2])
    assert claims.at("raw", "even, groups").shape == (4, 10)
    assert claims.at("share", "uneven").shape == (4, 5, 2)


def test_what_is_favoured_is_counted_from_the_shares(monkeypatch):
    shares = np.array([[[0.9, 0.1]], [[0.2, 0.8]], [[0.5, 0.5]]])  # (orders, seeds, classes)
    monkeypatch.setattr(claims, "orders", lambda case: ["0001", "1000", "0111"])
    monkeypatch.setattr(claims, "at", lambda outcome, case: shares)
    last = claims.favoured("uneven", "last")  # 0.1, 0.2 and 0.5 of the last label
    np.testing.assert_allclose(last, [100 * (0.8 / 3 - 0.5)])
    most = claims.favoured("uneven", "commonest")  # 0.9, 0.2 and 0.5
    np.testing.assert_allclose(most, [100 * (1.6 / 3 - 0.5)])
