"""Probes of the world that ask the frozen base: examples in the context, their order, scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.course.experiments.runner import Outcome, Settings, base
from minipeft.generation.scoring import score_many
from minipeft.tasks import Example, Pattern, get_task
from minipeft.world.lexicon import LABELS

TEST = 200  # examples


def shown(examples: Sequence[Example], asked: str) -> str:
    """A prompt that begins with solved examples."""
    return "\n".join([*(e.prompt + e.target for e in examples), asked])


def pattern_of(words: str, seed: int) -> int | Pattern:
    """The task's first pattern, or one whose label words mean nothing here."""
    if words == "natural":
        return 0
    one, two = Rng(seed, "words").permutation(len(LABELS))[:2]
    return Pattern("Input: {x}\nOutput:", (f" {LABELS[one]}", f" {LABELS[two]}"))


def in_context(s: Settings) -> Outcome:
    """k solved examples before each question: how often the answer is right."""
    model, seed = base(), s["seed"]
    pattern = pattern_of(s["words"], seed)
    test = get_task("sentiment").load("test", TEST, pattern=pattern)
    train = get_task("sentiment").load("train", max(2, s["k"]), seed, pattern)[: s["k"]]
    return {"accuracy": accuracy(model, train, test)}


def order(s: Settings) -> Outcome:
    """The same four examples in ten orders; and what is answered to an input without content."""
    model, seed = base(), s["seed"]
    pattern = pattern_of(s["words"], seed)
    test = get_task("sentiment").load("test", TEST, pattern=pattern)
    train = get_task("sentiment").load("train", 4, seed, pattern)
    empty = test[0].prompt.replace(_text(test[0], pattern), "N/A")
    scores, calibrated, bias = [], [], []
    for i in range(10):
        mixed = [train[j] for j in Rng(seed, "order", i).permutation(4)]
        logs = _scores(model, mixed, test)  # (n, 2)
        free = np.array(score_many(model, [(shown(mixed, empty), test[0].options)])[0])
        labels = np.array([e.label for e in test])
        scores.append(100 * float((logs.argmax(1) == labels).mean()))
        calibrated.append(100 * float(((logs - free).argmax(1) == labels).mean()))
        bias.append(float(1 / (1 + np.exp(free[1] - free[0]))))
    return {
        "accuracy": float(np.mean(scores)),
        "spread": max(scores) - min(scores),
        "calibrated": float(np.mean(calibrated)),
        "calibrated_spread": max(calibrated) - min(calibrated),
        "content_free": float(np.mean(np.abs(np.array(bias) - 0.5)) + 0.5),
    }


def _text(example: Example, pattern: int | Pattern) -> str:
    """What stands in the prompt where the pattern has {x}."""
    template = (
        pattern if isinstance(pattern, Pattern) else get_task("sentiment").patterns[pattern]
    ).template
    before, after = template.split("{x}")
    return example.prompt.removeprefix(before).removesuffix(after)


def _scores(model: Any, train: Sequence[Example], test: Sequence[Example]) -> np.ndarray:
    return np.array(score_many(model, [(shown(train, e.prompt), e.options) for e in test]))


def accuracy(model: Any, train: Sequence[Example], test: Sequence[Example]) -> float:
    """Right answers in percent, with the train examples shown before each question."""
    labels = np.array([e.label for e in test])
    return 100 * float((_scores(model, train, test).argmax(1) == labels).mean())


def scoring(s: Settings) -> Outcome:
    """Options of unequal length: sums of log-probabilities, and means."""
    model, examples = base(), get_task("choice").load("test", 400)
    tokens = np.array([[len(model.tokenizer.encode(o)) for o in e.options] for e in examples])
    label, at = np.array([e.label for e in examples]), np.arange(len(examples))
    found: Outcome = {"right_is_shortest": _shortest(tokens, label)}
    for name, normalize in (("sum", False), ("mean", True)):
        asked = [(e.prompt, e.options) for e in examples]
        said = np.array(score_many(model, asked, normalize=normalize)).argmax(1)
        found[name] = 100 * float((said == label).mean())
        found[f"{name}_shortest"] = _shortest(tokens, said)
        wrong = said != label
        shorter = (tokens[at, said] < tokens[at, label])[wrong]
        found[f"{name}_wrong_is_shorter"] = 100 * float(shorter.mean()) if wrong.any() else 0.0
    return found


def _shortest(tokens: np.ndarray, chosen: np.ndarray) -> float:
    """How often the chosen option is one of the shortest, in percent."""
    return 100 * float((tokens[np.arange(len(tokens)), chosen] == tokens.min(1)).mean())
