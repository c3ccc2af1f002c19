"""What is claimed of prompt tuning, put to the test: one function per claim.

Pilot (three seeds, validation, 180 steps of `remap-route`; the base has 0 %, full fine-tuning
100): 20 tokens from U(-0.5, 0.5) reach 84 to 100 % at 0.03, 70 to 100 at 0.1 and 27 to 55 at 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import Method
from minipeft.course.compare import judge, learnt
from minipeft.course.experiments.runner import BASE, Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import trial
from minipeft.course.experiments.world.context import shown
from minipeft.generation.scoring import score_many
from minipeft.methods import Full, LoRA, Prompt
from minipeft.tasks import get_task

SEEDS = (0, 1, 2, 3, 4)
TASK, STEPS, EXAMPLES = "remap-route", 400, 10_000
VALIDATION, TEST = 200, 200  # examples
RATES = {  # bracketed for each number of tokens
    1: (0.03, 0.1, 0.3), 5: (0.03, 0.1, 0.3, 1.0), 20: (0.01, 0.03, 0.1),
}  # fmt: skip
WORDS = " the third word of the list"
LABELS = (" fish", " water", " glass", " flower", " lamp")  # words that are answers of the task


def learn(model: Any, method: Method, s: Settings) -> Outcome:
    """Train on the route task; scores on validation data, on which rates are chosen, and test."""
    task = get_task(TASK)
    with trial(model, method, task, s["seed"], EXAMPLES) as it:
        history = it.fit(steps=s["steps"], lr=s["lr"], evaluation=judge(task))
        return {
            "validation": it.score("validation", VALIDATION)["accuracy"],
            "test": it.score("test", TEST)["accuracy"], "trainable": it.at.count(),
            "steps_to_95": learnt(history.evaluations),
        }  # fmt: skip


# -- length and start ------------------------------------------------------------------------------

LENGTHS, START_RATES = (1, 5, 20), (0.1, 0.3)
BEST_RATE = {1: 0.1, 5: 0.3, 20: 0.03}  # on five seeds; twenty were needed to compare lengths
MORE_SEEDS = tuple(range(20))
STARTS: dict[str, dict[str, Any]] = {
    "vocabulary": {"init": "vocab"}, "labels": {"labels": LABELS}, "text": {"text": WORDS},
}  # fmt: skip
_length = grid(
    outer="seed", n=LENGTHS, lr=lambda s: Axis(RATES[s["n"]], fast=0.1), seed=SEEDS,
    steps=Axis(STEPS, fast=4),
) + grid(
    outer="seed", n=Axis(LENGTHS, fast=()), lr=lambda s: BEST_RATE[s["n"]],
    seed=MORE_SEEDS[len(SEEDS) :], steps=STEPS,
)  # fmt: skip
_start = grid(
    outer="seed", start=always(STARTS), lr=Axis(START_RATES, fast=0.1), seed=SEEDS,
    steps=Axis(STEPS, fast=4),
)  # fmt: skip


def length(s: Settings) -> Outcome:
    """A prompt of n tokens, from U(-0.5, 0.5)."""
    return learn(base(), Prompt(n=s["n"], seed=s["seed"]), s)


def start(s: Settings) -> Outcome:
    """A prompt of five tokens that starts from one of the others."""
    return learn(base(), Prompt(n=5, seed=s["seed"], **STARTS[s["start"]]), s)


# -- scale -----------------------------------------------------------------------------------------

LADDER = ("gpt-0.2m", BASE, "gpt-3.1m")
FULL_RATE = {"gpt-0.2m": 3e-3, BASE: 1e-3, "gpt-3.1m": 1e-3}
SHOTS = (0, 5, 15)
LARGE_RATES = {1: 0.1, 5: 0.03, 20: 0.03}  # the better of 0.03 and 0.1 after 180 steps
_scale = grid(
    outer="seed", base=LADDER[0], n=LENGTHS, lr=lambda s: Axis(RATES[s["n"]][1:3], fast=0.1),
    seed=SEEDS, steps=Axis(STEPS, fast=4),
) + grid(
    outer="seed", base=Axis(LADDER[2], fast=()), n=LENGTHS, lr=lambda s: LARGE_RATES[s["n"]],
    seed=SEEDS, steps=STEPS,
) + grid(
    outer="seed", base=Axis(LADDER, fast=()), n=0, lr=lambda s: FULL_RATE[s["base"]],
    seed=SEEDS, steps=180,
)  # fmt: skip
_shots = grid(outer="seed", base=Axis(LADDER, fast=LADDER[0]), k=Axis(SHOTS, fast=5), seed=SEEDS)


def scale(s: Settings) -> Outcome:
    """A prompt of n tokens on a model of the ladder; n = 0 is full fine-tuning."""
    method = Prompt(n=s["n"], seed=s["seed"]) if s["n"] else Full()
    return learn(base(s["base"]), method, s)


def shots(s: Settings) -> Outcome:
    """Accuracy of the frozen model with k solved examples in front of each question."""
    task = get_task(TASK)
    train, test = task.load("train", max(1, s["k"]), s["seed"])[: s["k"]], task.load("test", TEST)
    return {"accuracy": picked(base(s["base"]), [(shown(train, e.prompt), e) for e in test])}


def picked(model: Any, asked: Sequence[tuple[str, Any]]) -> float:
    """Percent of (prompt, example) whose right option the model finds likeliest."""
    scores = score_many(model, [(prompt, e.options) for prompt, e in asked])
    right = [np.argmax(s) == e.label for s, (_, e) in zip(scores, asked, strict=True)]
    return 100 * float(np.mean(right))


# -- words instead of vectors ----------------------------------------------------------------------

CANDIDATES = 80
_search = grid(seed=SEEDS, candidates=Axis(CANDIDATES, fast=2), n=Axis(60, fast=4))
_wordings = grid(task=("sentiment", "nli"), n=Axis(300, fast=10))


def search(s: Settings) -> Outcome:
    """The best of many prompts of five frequent tokens, chosen on validation examples.

    best  its test accuracy; all: validation accuracies of all candidates
    """
    model, task, rng = base(), get_task(TASK), Rng(s["seed"], "search")
    validation, test = task.load("validation", s["n"]), task.load("test", TEST)
    tried: list[tuple[float, str]] = []
    while len(tried) < s["candidates"]:
        ids = [int(i) for i in rng.integers(0, 1500, (5,))]
        words = model.tokenizer.decode(ids)
        if model.tokenizer.encode(words) == ids:  # single bytes and split words are drawn again
            tried.append((picked(model, [(words + e.prompt, e) for e in validation]), words))
    words = max(tried)[1]
    return {"best": picked(model, [(words + e.prompt, e) for e in test]),
            "all": [score for score, _ in tried]}  # fmt: skip


def wordings(s: Settings) -> Outcome:
    """The frozen base with each of a task's own ways to ask."""
    task, found = get_task(s["task"]), []
    for pattern in range(len(task.patterns)):
        examples = task.load("test", s["n"], pattern=pattern)
        found.append(picked(base(), [(e.prompt, e) for e in examples]))
    return {"accuracy": found}


# -- another domain --------------------------------------------------------------------------------

SHIFTED: dict[str, tuple[Method, tuple[float, ...]]] = {  # and their rates
    "full": (Full(), (3e-4, 1e-3)), "lora": (LoRA(), (3e-3, 1e-2)),
    "prompt": (Prompt(n=20), (0.03, 0.1)),
}  # fmt: skip
_shift = grid(
    outer="seed", method=always(SHIFTED), lr=lambda s: Axis(SHIFTED[s["method"]][1], fast=1e-3),
    seed=SEEDS, steps=Axis(150, fast=4),
)  # fmt: skip


def shift(s: Settings) -> Outcome:
    """Train where a word gives the answer away; test there, and where it lies."""
    task = get_task("sentiment-shift")
    with trial(base(), SHIFTED[s["method"]][0], task, s["seed"]) as it:
        it.fit(steps=s["steps"], lr=s["lr"])
        return {
            split: it.score(split, 200)["accuracy"] for split in ("validation", "test", "shift")
        }


EXPERIMENTS = (
    Experiment("prompt_length", "How long should a prompt be?", _length, length),
    Experiment("prompt_start", "From what should a prompt start?", _start, start),
    Experiment("prompt_scale", "Does prompt tuning need a large model?", _scale, scale,
               (LADDER[0], BASE, LADDER[2])),
    Experiment("prompt_shots", "Is prompting with examples as good?", _shots, shots,
               (LADDER[0], BASE, LADDER[2])),
    Experiment("prompt_search", "Can words be found that do what trained vectors do?", _search,
               search),
    Experiment("prompt_wordings", "How much does the wording matter?", _wordings, wordings),
    Experiment("prompt_shift", "Who relies on a shortcut?", _shift, shift),
)  # fmt: skip
