"""Prompts of solved examples: their order, their labels, a symbol, and how many fit."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.experiments.world.context import shown
from minipeft.generation.incontext import (
    LABELS,
    bare,
    fits,
    in_context,
    in_turn,
    option_scores,
    relabelled,
    with_inputs,
    with_symbol,
    with_words,
)
from minipeft.generation.scoring import score, score_many
from minipeft.methods import Prompt
from minipeft.tasks import Example, Pattern, get_task
from tests.tiny import ANIMALS, SOUNDS, Sounds, bert, gpt

WORDS = (" yes", " no", " maybe")
THREE = [Example(f"x{i} ->", WORDS[i % 3], WORDS, i % 3, (WORDS[i % 3],)) for i in range(3)]


def test_examples_stand_a_line_each_and_then_the_question():
    assert in_context(THREE, "x9 ->") == "x0 -> yes\nx1 -> no\nx2 -> maybe\nx9 ->"
    assert in_context(THREE, THREE[0], order=(2, 0, 1)) == (
        "x2 -> maybe\nx0 -> yes\nx1 -> no\nx0 ->"
    )
    assert in_context([], "x9 ->") == in_context([], "x9 ->", order=[]) == "x9 ->"
    assert in_context(THREE, "x9 ->") == shown(THREE, "x9 ->")


def test_any_pattern_and_label_words_drawn_anew():
    pattern = Pattern("Input: {x}\nOutput:", (" oak", " tin"))
    one, two = get_task("sentiment").load("train", 2, 0, pattern)
    text = in_context([one], two)
    assert text.count("Input: ") == 2 and f"Output: {one.target.strip()}\nInput: " in text
    assert text.endswith("\nOutput:")


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (1, 2, 3), (0, 1, 2, 3)])
def test_an_order_is_a_permutation(order):
    with pytest.raises(ValueError, match="a permutation of 0 … 2"):
        in_context(THREE, "x", order)


def test_correct_labels_are_the_given_ones_and_flipped_ones_never():
    many = THREE * 40
    assert relabelled(many, "correct") == many
    flipped = relabelled(many, "flipped", seed=1)
    counts = Counter((a.label, b.label) for a, b in zip(many, flipped, strict=True))
    assert len(counts) == 6 and all(a != b for a, b in counts)  # both wrong ones of each
    assert [e.label for e in many] == [0, 1, 2] * 40  # those given are left


def test_random_labels_are_drawn_evenly_from_all():
    found = relabelled(THREE * 400, "random", seed=3)
    share = np.bincount([e.label for e in found], minlength=3) / 1200
    assert abs(share - 1 / 3).max() < 0.05  # 3.7 standard errors
    right = np.mean([a.label == b.label for a, b in zip(found, THREE * 400, strict=True)])
    assert abs(right - 1 / 3) < 0.05
    assert found == relabelled(THREE * 400, "random", seed=3) != relabelled(THREE * 400, "random")


@pytest.mark.parametrize("how", LABELS)
@pytest.mark.parametrize("task", ["sentiment", "nli", "remap-route", "truth"])
def test_target_and_references_go_with_the_label(task, how):
    given = get_task(task).load("train", 12)
    for e, new in zip(given, relabelled(given, how), strict=True):
        assert new.target == new.options[new.label]
        assert (new.references or (new.target,))[0] == new.target
        assert (new.prompt, new.options, type(new)) == (e.prompt, e.options, type(e))
        assert how != "flipped" or new.target != e.target


def test_what_has_no_label_is_refused():
    with pytest.raises(ValueError, match="labels are one of correct, random, flipped, got 'wrong'"):
        relabelled(THREE, "wrong")
    for bad in (Example("a", " b"), Example("a", " b", (" b",), 0)):
        with pytest.raises(ValueError, match="example 1 has options"):
            relabelled([THREE[0], bad], "flipped")
    assert relabelled([], "random") == []


def test_a_symbol_stands_before_each_prompt_alone():
    found = with_symbol([*THREE, Example("a b", " c", pair=("a", "b"))], "§")
    assert [e.prompt for e in found] == ["§ x0 ->", "§ x1 ->", "§ x2 ->", "§ a b"]
    assert found[3].pair == ("§ a", "b") and found[0].pair == ()
    assert [e.target for e in found[:3]] == [e.target for e in THREE]
    with pytest.raises(ValueError, match="empty"):
        with_symbol(THREE, "")


def test_one_half_of_an_example_alone():
    shown, pattern = THREE[:2], Pattern("{x} ->", WORDS)
    assert in_context(bare(shown, pattern, "inputs"), "x9 ->") == "x0\nx1\nx9 ->"
    assert in_context(bare(shown, pattern, "labels"), "x9 ->") == "yes\nno\nx9 ->"
    nli, form = get_task("nli").load("train", 2), get_task("nli").patterns[0]
    assert [e.prompt for e in bare(nli, form, "inputs")] == [" ".join(e.pair) for e in nli]
    assert [e.target for e in nli] == [form.words[e.label] for e in nli]


def test_a_half_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="keep is 'inputs' or 'labels', got 'x'"):
        bare(THREE, Pattern("{x} ->"), "x")
    with pytest.raises(ValueError, match="example 0 does not have the pattern 'Say {x}'"):
        bare(THREE, Pattern("Say {x}"), "inputs")


def test_answers_and_inputs_that_do_not_belong():
    found = with_words(THREE * 20, (" oak", " tin"), seed=2)
    assert {e.target for e in found} == {" oak", " tin"}
    assert [(e.prompt, e.options, e.label) for e in found[:3]] == [
        (e.prompt, e.options, e.label) for e in THREE
    ]
    assert found == with_words(THREE * 20, (" oak", " tin"), 2) != with_words(THREE * 20, (" oak",))
    others = with_inputs(THREE, Pattern("{x} and {y} ->"), ["a", "{b}", "c\\1"])
    assert [e.prompt for e in others] == ["a and a ->", "{b} and {b} ->", "c\\1 and c\\1 ->"]
    assert [e.target for e in others] == list(WORDS)
    with pytest.raises(ValueError, match="one word"):
        with_words(THREE, ())
    with pytest.raises(ValueError, match="shorter"):
        with_inputs(THREE, Pattern("{x}"), ["a"])


def test_labels_in_a_row():
    pool = [replace(e, prompt=f"{i}") for i, e in enumerate(THREE * 3)]
    found = in_turn(pool, "2002")
    assert [(e.prompt, e.label) for e in found] == [("2", 2), ("0", 0), ("3", 0), ("5", 2)]
    assert in_turn(pool, "") == []
    for bad in ("0000", "3", "x"):
        with pytest.raises(ValueError, match=f"9 examples do not have the labels '{bad}'"):
            in_turn(pool, bad)


def test_scores_after_examples_are_those_of_the_prompt():
    model, shown = gpt(), sounds(2)
    asked = [Example(f"the {a}", SOUNDS[0], SOUNDS[:2], 0) for a in ANIMALS]
    found = option_scores(model, shown, asked)
    assert found.shape == (6, 2)
    wanted = score(model, "the cat meows\nthe dog barks\nthe fox", SOUNDS[:2])
    np.testing.assert_allclose(found[4], wanted, rtol=1e-10)


def sounds(n):
    return (Sounds().load("train") * n)[:n]


@pytest.mark.parametrize("kind", [gpt, lambda **k: bert(head="mlm", **k)], ids=["gpt", "mlm"])
@pytest.mark.parametrize("context", [14, 24, 31])
def test_as_many_fit_as_the_model_takes(kind, context):
    model, examples = kind(context=context), sounds(12)
    asked = Example("the hen", " clucks", (" clucks", " barks the cow. a cow"), 0)
    k = fits(model, examples, asked)
    assert 0 <= k < 12
    score(model, in_context(examples[:k], asked), asked.options)
    with pytest.raises(ValueError, match="does not fit"):
        score(model, in_context(examples[: k + 1], asked), asked.options)


def test_the_longest_of_several_questions_decides_and_methods_need_room():
    model, examples = gpt(), sounds(12)
    short, long = (Example(f"the {a}", SOUNDS[0], SOUNDS, 0) for a in (ANIMALS[0], "cat. " * 4))
    few, many = fits(model, examples, long), fits(model, examples, short)
    assert few < many and fits(model, examples, [short, long, short]) == few
    assert fits(model, examples[:2], short) == 2 and fits(model, [], short) == 0
    with attach(model, Prompt(n=9)):
        less = fits(model, examples, short)
        assert less < many
        score_many(model, [(in_context(examples[:less], short), short.options)])


def test_a_question_that_does_not_fit_alone_is_named():
    with pytest.raises(ValueError, match=r"needs \d+ tokens without any example; .* has 8"):
        fits(gpt(context=8), THREE, Example("the cat " * 9, " meows", SOUNDS, 0))
    with pytest.raises(ValueError, match="needs a question"):
        fits(gpt(), THREE, [])


def test_a_text_without_options_needs_room_for_its_answer():
    model = gpt(context=12)
    long = Example("the cat", " meows. the cow moos", (), None)
    assert fits(model, sounds(4), long) < fits(model, sounds(4), Example("the cat", " meows"))
