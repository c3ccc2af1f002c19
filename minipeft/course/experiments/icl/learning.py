"""The same n examples, shown in the prompt or trained on: the runs behind the comparison.

Pilot (two seeds, validation, 6 to 8 reviews with label words without meaning; 50 % is chance):
untrained 50 %; shown 50 (gpt-0.2m), 88 (tiny-gpt), 50 to 78 (gpt-3.1m); trained for 60 steps 90 to
95 in all sizes, with nothing left in the loss, and 10 to 80 where the writers' names lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments.runner import Outcome, Settings, base
from minipeft.engine import no_grad
from minipeft.generation.incontext import in_context
from minipeft.generation.metrics import exact_match
from minipeft.generation.sampling import generate_many
from minipeft.generation.scoring import score_many
from minipeft.methods import Full
from minipeft.storage.checkpoint import load_model
from minipeft.tasks import Example, Pattern, get_task
from minipeft.training.batches import TaskBatches
from minipeft.training.loop import fit
from minipeft.world.lexicon import LABELS

TEST = 50  # examples of a split
TOKENS = 16  # of an unscrambled word


def pattern_of(words: str, seed: int) -> int | Pattern:
    """The task's first pattern, or one whose label words have no meaning here."""
    if words == "natural":
        return 0
    one, two = Rng(seed, "words").permutation(len(LABELS))[:2]
    return Pattern("Input: {x}\nOutput:", (f" {LABELS[one]}", f" {LABELS[two]}"))


def drawn(s: Settings, split: str, n: int) -> list[Example]:
    """n examples of a split; those of "train" are the seed's own."""
    seed = s["seed"] if split == "train" else 0
    return get_task(s["task"]).load(split, n, seed, pattern_of(s["words"], s["seed"]))


def right(model: Any, asked: Sequence[Example], shown: Sequence[Example] = ()) -> float:
    """Percent of questions that are answered rightly, after solved examples.

    The answer is the likeliest option; of a linear head the likeliest class.
    """
    if model.config.head == "linear":
        data = TaskBatches(model, asked).collate(range(len(asked)))
        with no_grad():
            scores = model(data.ids, **data.given()).data
    else:
        scores = score_many(model, [(in_context(shown, e), e.options) for e in asked])
    return 100 * float(
        np.mean([np.argmax(x) == e.label for x, e in zip(scores, asked, strict=True)])
    )


def shown(s: Settings) -> Outcome:
    """n solved examples before each question, and nothing trained."""
    examples = drawn(s, "train", max(2, s["n"]))[: s["n"]]
    return {x: right(base(s["base"]), drawn(s, x, TEST), examples) for x in s["splits"].split()}


def tuned(s: Settings) -> Outcome:
    """All weights trained on n examples, and nothing shown. loss: of the last step."""
    linear = s.get("head") == "linear"
    model = load_model(s["base"], "linear", 2, seed=s["seed"]) if linear else base(s["base"])
    source = TaskBatches(model, drawn(s, "train", s["n"]))
    with attach(model, Full()):
        history = fit(model, source, steps=s["steps"], lr=s["lr"], batch=min(8, s["n"]),
                      seed=s["seed"], quiet=True)  # fmt: skip
        scores = {x: right(model, drawn(s, x, TEST)) for x in s["splits"].split()}
    return scores | {"loss": history.loss[-1]}


def unscrambled(s: Settings) -> Outcome:
    """Scrambled words after k solved ones: how often the word is right.

    letters  how often the answer has the letters that were given, in any order
    """
    task = get_task("unscramble")
    examples, test = task.load("train", max(1, s["k"]), s["seed"]), task.load("test", TEST)
    prompts = [in_context(examples[: s["k"]], e) for e in test]
    said = generate_many(base(s["base"]), prompts, max_tokens=TOKENS, stop="\n")
    same = [sorted(a.split()) == sorted(e.target.split()) for a, e in zip(said, test, strict=True)]
    answers = [a.strip() for a in said]
    whole = exact_match(answers, [[r.strip() for r in e.references] for e in test])
    return {"exact": whole, "letters": 100 * float(np.mean(same))}
