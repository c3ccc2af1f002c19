"""What frozen models answer after solved examples: order, biases, calibration, and labels.

Pilot (120 questions or fewer, other seeds). Chance is 50 %, for groups 33. Four balanced examples
give 85 to 92 % on sentiment, with words that mean something and without; examples of one class 83
to 90 with, 50 without. The words of three groups, called by their names, are told apart in 33 to
90 %, by the groups; with other names mostly at chance, so these are not run. Neither are nli (33 to
39 %), paraphrase (48 to 55) and acceptability (44 to 61), near chance in all their patterns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.course.experiments.runner import BASE, Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, Grid, grid
from minipeft.generation import incontext as ic
from minipeft.generation.calibration import content_free, contextual, mean_margin
from minipeft.generation.scoring import score_many
from minipeft.tasks import Example, Pattern, get_task
from minipeft.world.grammar import Draw
from minipeft.world.lexicon import CATEGORIES
from minipeft.world.lexicon import LABELS as WORDS

SEEDS = (0, 1, 2, 3, 4)
LADDER = ("gpt-0.2m", BASE, "gpt-3.1m")
GENERAL = Pattern("Input: {x}\nOutput:")
TEST, FREE, SHOWN = 100, 40, 6  # questions; inputs for the mean margin; examples of a class
COMMON, RARE = WORDS[10:18], WORDS[-20:]  # how often a word was a label in pretraining: 1 / rank
BALANCED = ("0011", "1100", "0101", "1010", "0110", "1001")
UNEVEN, ONE_SIDED = ("0001", "1000", "1110", "0111"), ("0000", "1111")
LONGER = ("000111", "111000", "010101", "101010")
THREE = ("001122", "220011", "112200", "012012")  # of three classes: balanced; the last one-sided
GROUPED = (*THREE, "000012", "120000", "111102", "021111", "222201", "012222",
           "000000", "111111", "222222")  # fmt: skip
HOWS = ("none", *ic.LABELS, "inputs", "labels", "other inputs", "other words", "symbol",
        "symbol lies")  # fmt: skip


def _part(words: Any = ("natural", "new"), seed: Any = SEEDS, task: str = "sentiment",
          format: Any = "", base: Any = BASE, fast: Any = (), **axis: Any) -> Grid:  # fmt: skip
    """A part of a grid. axis: what changes, labels or how; fast: its values in a fast run"""
    ((name, values),) = axis.items()
    return grid(outer="seed", task=task, words=words, format=format, **{name: Axis(values, fast)},
                base=base, seed=seed)  # fmt: skip


_contexts = (
    _part(labels=(*BALANCED, *UNEVEN, *ONE_SIDED), fast="0011")
    + _part("natural", range(10), "groups", labels=GROUPED, fast="001122")
    + _part(("common first", "rare first"), labels=BALANCED[4:])
    + _part("natural", format=(0, 1, 2, 3), labels=(*BALANCED[:2], *ONE_SIDED), fast="0000")
    + _part(labels=LONGER)
    + _part("natural", base=(LADDER[0], LADDER[2]), labels=BALANCED[:4])
)
_labels = (
    _part(how=HOWS, fast="inputs")
    + _part("natural", range(10), "groups", how=HOWS, fast=HOWS)
    + _part("natural", format=0, how=HOWS[:4])
    + _part("natural", base=(LADDER[0], LADDER[2]), how=("correct", "flipped"))
)


def drawn(s: Settings) -> tuple[Pattern, list[Example], list[Example], list[Example]]:
    """The pattern; examples to show; unlabelled inputs; questions."""
    task, draw, groups = get_task("sentiment"), Draw(Rng(s["seed"], "calibration")), []
    pattern = GENERAL if s["format"] == "" else task.patterns[s["format"]]
    words = pattern.words or task.patterns[0].words
    if s["task"] == "groups":
        groups = draw.sample([c for c in CATEGORIES if len(CATEGORIES[c]) > 15], 3)
        words = tuple(f" {name}" for name in groups)
    elif s["words"] == "new":
        words = tuple(f" {w}" for w in draw.sample(WORDS[10:], 2))
    elif s["words"] != "natural":
        words = f" {draw.pick(COMMON)}", f" {draw.pick(RARE)}"
        words = words if s["words"] == "common first" else words[::-1]
    pattern = Pattern(pattern.template, words)
    if not groups:
        parts = ("train", 2 * SHOWN), ("validation", FREE), ("test", TEST)
        train, free, test = (task.load(split, n, s["seed"], pattern) for split, n in parts)
        return pattern, train, free, test
    made = [[Example(pattern.template.format(x=x), words[c], words, c)
             for x in draw.shuffle(CATEGORIES[name])] for c, name in enumerate(groups)]  # fmt: skip
    train, free, test = ([e for c in made for e in c[a:b]] for a, b in ((0, 6), (6, 9), (9, 16)))
    return pattern, train, free, test


def right(q: np.ndarray, asked: Sequence[Example]) -> float:
    """Percent of the questions whose right option has the largest q."""
    return 100 * float(np.mean(q.argmax(1) == [e.label for e in asked]))


def context(s: Settings) -> Outcome:
    """Examples with given labels in a row: percent right without and with calibration, the bias.

    share  how often each class is answered; free: p_cf
    """
    (pattern, pool, unlabelled, test), model = drawn(s), base(s["base"])
    shown = ic.in_turn(pool, s["labels"])
    q, free = (ic.option_scores(model, shown, asked) for asked in (test, unlabelled))
    empty = np.array(score_many(model, content_free(pattern, shown)))  # (inputs, classes)
    scale = contextual(empty)
    by = {"scale": scale, "shift": contextual(empty, "shift"), "n/a": contextual(empty[:1]),
          "margin": mean_margin(free)}  # fmt: skip
    share = np.bincount(q.argmax(1), minlength=q.shape[1]) / len(q)
    return {"raw": right(q, test), **{name: right(c(q), test) for name, c in by.items()},
            "share": share.tolist(), "free": scale.share.tolist()}  # fmt: skip


def labels(s: Settings) -> Outcome:
    """Six balanced examples that are changed in one way (random labels: three draws), or none."""
    (pattern, pool, _, test), how, seed = drawn(s), s["how"], s["seed"]
    shown = ic.in_turn(pool, "010101" if len(pattern.words) == 2 else "012012")
    ways = [[] if how == "none" else shown]
    if how in ic.LABELS:
        draws = range(3 if how == "random" else 1)
        ways = [ic.relabelled(shown, how, 3 * seed + i) for i in draws]
    elif how in ("inputs", "labels"):
        ways = [ic.bare(shown, pattern, how)]
    elif how == "other inputs":
        texts = get_task("acceptability").load("train", SHOWN, seed, Pattern("{x}", ("a", "b")))
        given = ic.relabelled(shown, "random", seed)
        ways = [ic.with_inputs(given, pattern, [e.prompt for e in texts])]
    elif how == "other words":
        others = [f" {w}" for w in WORDS[10:] if f" {w}" not in pattern.words]
        others = Rng(seed, "others").shuffle(others)[: len(pattern.words)]
        ways = [ic.with_words(shown, others, seed)]
    elif how == "symbol":
        ways, test = [ic.with_symbol(shown, "#")], ic.with_symbol(test, "#")
    elif how == "symbol lies":  # in the examples it stands with all classes but the first
        ways = [[ic.with_symbol([e], "#")[0] if e.label else e for e in shown]]
        test = [e if e.label else ic.with_symbol([e], "#")[0] for e in test]
    each = [right(ic.option_scores(base(s["base"]), way, test), test) for way in ways]
    kept = [sum(a.label == b.label for a, b in zip(shown, way, strict=False)) for way in ways]
    return {"accuracy": float(np.mean(each)), "each": each, "right": kept}


EXPERIMENTS = (
    Experiment("calibration_contexts", "What do the order and labels of examples do?", _contexts,
               context, LADDER),
    Experiment("calibration_labels", "Does a model learn from the labels of examples?", _labels,
               labels, LADDER),
)  # fmt: skip
