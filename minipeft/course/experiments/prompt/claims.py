"""What is claimed of prompt tuning: read off the results of this folder, or counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from minipeft.course.experiments.claims import (
    ABSENT,
    CANNOT,
    HELD,
    Claim,
    Finding,
    cannot,
    compared,
    paper_row,
)
from minipeft.course.experiments.prefix.runs import best
from minipeft.course.experiments.prompt import runs
from minipeft.course.experiments.prompt.ensembling import MEMBERS, TOKENS
from minipeft.course.experiments.runner import BASE, results
from minipeft.ledger import get_paper
from minipeft.tasks import get_task

LECTURE = "07_prompt"
_claim = partial(Claim, lecture=LECTURE)
_pair = partial(compared, unit=" %")
LESTER, OWN = "Lester et al. 2021", "the lecture's own question"
CS769, DECK = "UW-Madison CS769", "the deck on PEFT methods"
AS_GOOD, MATTERS = 2.0, 5.0  # points that "as good as" may lack; that a wording must move
SHIFTS = (  # trained on SQuAD, tested on: F1 of model tuning and of prompt tuning, T5 XXL
    ("SQuAD", 94.9, 94.8), ("TextbookQA", 54.3, 66.8), ("BioASQ", 77.9, 79.1),
    ("RACE", 59.8, 60.7), ("RE", 88.4, 88.8), ("DuoRC", 68.9, 67.7), ("DROP", 68.9, 67.1),
)  # fmt: skip


def _at_best(experiment: str, rates: Sequence[float], **which: Any) -> list[float]:
    """Test scores, seed by seed, at the rate that is best on validation data."""
    found = results(experiment)
    return found.where("test", lr=best(found, rates, **which), **which)


def tokens(n: int, model: str = BASE, seeds: int = len(runs.SEEDS)) -> list[float]:
    """A prompt of n tokens that starts at random."""
    if model == BASE:
        return results("prompt_length").where("test", n=n, lr=runs.BEST_RATE[n])[:seeds]
    rates = runs.RATES[n][1:3] if model == runs.LADDER[0] else (runs.LARGE_RATES[n],)
    return _at_best("prompt_scale", rates, base=model, n=n)


def many(n: int) -> list[float]:
    """A prompt of n tokens on twenty seeds."""
    return tokens(n, seeds=len(runs.MORE_SEEDS))


def full(model: str) -> list[float]:
    """Full fine-tuning."""
    return results("prompt_scale").where("test", base=model, n=0)


def starting(name: str) -> list[float]:
    """Five tokens from one of the starts, each with the two rates that all were given."""
    if name == "random":
        return tokens(5)
    return _at_best("prompt_start", runs.START_RATES, start=name)


def examples(k: int, model: str = BASE) -> list[float]:
    """The frozen model with k solved examples before each question."""
    return results("prompt_shots").where("accuracy", base=model, k=k)


def _shown(k: int) -> Finding:
    return _pair(tokens(20), examples(k))


def gap(model: str) -> list[float]:
    """Full fine-tuning less a prompt of 20 tokens."""
    pairs = zip(full(model), tokens(20, model, 3), strict=True)
    return [trained - prompt for trained, prompt in pairs]


def searched() -> list[float]:
    """The best of 80 prompts of five words."""
    return results("prompt_search").where("best")


def shifted(split: str, method: str) -> list[float]:
    """Accuracy on a split of sentiment-shift, at the rate that is best where the word tells."""
    found, rates = results("prompt_shift"), runs.SHIFTED[method][1]
    return found.where(split, method=method, lr=best(found, rates, method=method))


def lost(method: str) -> list[float]:
    """What the shift costs: accuracy where the word tells less that where it lies."""
    pairs = zip(shifted("test", method), shifted("shift", method), strict=True)
    return [there - here for there, here in pairs]


def _shifted(split: str, a: str, b: str, margin: float = 0.0) -> Finding:
    return _pair(shifted(split, a), shifted(split, b), margin=margin)


def _together(by: str, one: Any) -> Finding:
    found = results("prompt_ensemble")
    return _pair(found.where(by), [float(one(s)) for s in found.where("single")])


def _wordings(task: str) -> Finding:
    (scores,) = results("prompt_wordings").where("accuracy", task=task)
    told = ", ".join(f"{score:.0f}" for score in scores) + " %"
    if max(scores) < 100 / len(get_task(task).patterns[0].words) + MATTERS:
        return Finding(told, CANNOT, "the frozen base is near chance in every wording")
    wide = max(scores) - min(scores) >= MATTERS
    return Finding(told, HELD if wide else ABSENT, "one frozen model")


def _stored() -> Finding:
    one = TOKENS * 96
    return Finding(f"{MEMBERS} prompts are {MEMBERS * one:,} parameters", HELD, "counted")


def _counted() -> Iterator[Claim]:
    for i, row in enumerate(get_paper("prompt").rows):
        if row.printed:
            text = f"A prompt trains {row.printed} parameters ({row.name})"
            yield _claim(text, LESTER if "T5" in row.name else "PEFT's own count", "section 2",
                         partial(paper_row, "prompt", i))  # fmt: skip


def _quoted() -> Iterator[Claim]:
    for name, model, prompt in SHIFTS:
        more, less = ("prompt", "model") if prompt > model else ("model", "prompt")
        text = f"{name}: {more} tuning is above {less} tuning ({model} and {prompt} F1)"
        yield _claim(text, f"{LESTER}, table 1; {DECK}", "section 9",
                     cannot("T5 XXL and these sets are not here; quoted"))  # fmt: skip


CLAIMS = (
    *_counted(),
    _claim("Longer is better: 5 tokens above 1", f"{LESTER}, figure 3a", "figure 2",
           lambda: _pair(many(5), many(1))),
    _claim("Longer is better: 20 tokens above 5", f"{LESTER}, figure 3a", "figure 2",
           lambda: _pair(many(20), many(5))),
    _claim("Beyond 20 tokens there is little to gain (T5 up to XL)", f"{LESTER}, figure 3a",
           "figure 2", cannot("not run here: 16 and 128 are in 06_prefix")),
    _claim("A start from the vocabulary is above a random one", f"{LESTER}, figure 3b; {DECK}",
           "section 4", lambda: _pair(starting("vocabulary"), starting("random"))),
    _claim("A start from labels is above a random one", f"{LESTER}, figure 3b; {DECK}",
           "section 4", lambda: _pair(starting("labels"), starting("random"))),
    _claim("A start from labels is above one from the vocabulary", f"{LESTER}, figure 3b; {DECK}",
           "section 4", lambda: _pair(starting("labels"), starting("vocabulary"))),
    _claim("A start from a text that describes the task is above a random one", OWN, "section 4",
           lambda: _pair(starting("text"), starting("random"))),
    _claim("The start no longer matters in the largest model (T5 XXL)", f"{LESTER}, figure 3b",
           "section 4", cannot("a model of 11 billion parameters is not here")),
    _claim("The gap to full fine-tuning shrinks with the model: larger at 0.2M than at 3.1M",
           f"{LESTER}, figure 1; {DECK}", "section 5",
           lambda: _pair(gap(runs.LADDER[0]), gap(runs.LADDER[2]))),
    _claim("At 3.1M 20 tokens are as good as full fine-tuning (2 points)", f"{LESTER}, figure 1",
           "section 5",
           lambda: _pair(tokens(20, runs.LADDER[2]), full(runs.LADDER[2]), margin=AS_GOOD)),
    _claim("In the largest model one token is enough (3.1M, 2 points below 20 tokens)",
           f"{LESTER}, figure 3a", "section 5",
           lambda: _pair(tokens(1, runs.LADDER[2]), tokens(20, runs.LADDER[2]), margin=AS_GOOD)),
    _claim("On SuperGLUE prompt tuning reaches model tuning at XXL (T5, 11 billion)",
           f"{LESTER}, figure 1; {DECK}", "section 5",
           cannot("T5 and SuperGLUE are not here")),
    _claim("A T5 needs 100 000 more steps of language modelling before prompts work",
           f"{LESTER}, figure 3c", "section 5",
           cannot("the bases here are language models from the start")),
    *(_claim(f"A trained prompt is above {k} solved examples before the question",
             f"{LESTER}, figure 1", "figure 3",
             partial(_shown, k)) for k in runs.SHOTS[1:]),
    _claim("Examples in the prompt help the larger model more (15 of them, 3.1M above 0.2M)",
           f"{LESTER}, figure 1 (GPT-3)", "figure 3",
           lambda: _pair(examples(15, runs.LADDER[2]), examples(15, runs.LADDER[0]))),
    _claim("The wording matters: 5 points between the best and the worst (sentiment)",
           f'{CS769}, "Why not skip the words?"', "section 6", lambda: _wordings("sentiment")),
    _claim("The wording matters: 5 points between the best and the worst (nli)",
           f'{CS769}, "Why not skip the words?"', "section 6", lambda: _wordings("nli")),
    _claim("Five trained vectors are above the best of 80 prompts of five words",
           f'{CS769}, "Why not skip the words?"', "section 6",
           lambda: _pair(tokens(5), searched())),
    _claim("The best words found are above no prompt", OWN, "section 6",
           lambda: _pair(searched(), examples(0))),
    _claim("Together five prompts are above the mean single one (mean of probabilities)",
           f"{LESTER}, table 3; {DECK}", "section 8", lambda: _together("mean", np.mean)),
    _claim("Together five prompts are above the mean single one (votes)",
           f"{LESTER}, table 3; {DECK}", "section 8", lambda: _together("vote", np.mean)),
    _claim("Together five prompts are above the best single one (votes)",
           f"{LESTER}, table 3", "section 8", lambda: _together("vote", np.max)),
    _claim("N prompts are stored, not N models: N l d parameters",
           f"{LESTER}, section 5.4; {DECK}", "section 8", _stored),
    _claim("Where the shortcut holds, a prompt is as good as full fine-tuning (2 points)",
           f"{LESTER}, table 1", "section 9", lambda: _shifted("test", "prompt", "full", AS_GOOD)),
    _claim("Where the shortcut lies, a prompt is above full fine-tuning",
           f"{LESTER}, table 1; {DECK}", "section 9", lambda: _shifted("shift", "prompt", "full")),
    _claim("The shift costs full fine-tuning more than a prompt", f"{LESTER}, table 1; {DECK}",
           "section 9", lambda: _pair(lost("full"), lost("prompt"))),
    _claim("The shift costs LoRA more than a prompt", OWN, "section 9",
           lambda: _pair(lost("lora"), lost("prompt"))),
    *_quoted(),
)  # fmt: skip
