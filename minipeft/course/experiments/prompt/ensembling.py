"""Several prompts of one task that answer together.

Pilot (two seeds, validation, 80 steps of `remap-route`, five tokens): 10 and 14 % at 0.03, 16 and
76 at 0.1. So members differ much; they get 100 steps, which leaves room above the mean one.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from minipeft.contract import attach
from minipeft.course.experiments.prompt.runs import EXAMPLES, SEEDS, TASK, TEST
from minipeft.course.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, grid
from minipeft.course.experiments.trials import trial
from minipeft.generation.ensemble import ensemble
from minipeft.methods import Prompt
from minipeft.tasks import get_task

MEMBERS, TOKENS, STEPS, RATE = 5, 5, 100, 0.1
_settings = grid(
    members=Axis(MEMBERS, fast=2), n=TOKENS, lr=RATE, seed=SEEDS, steps=Axis(STEPS, fast=4)
)


def together(s: Settings) -> Outcome:
    """Prompts from unlike starts, trained one by one on the same examples in unlike orders.

    single  each one's test accuracy; mean, vote: that of all together
    """
    model, task, trained, single = base(), get_task(TASK), [], []
    seeds = range(s["members"] * s["seed"], s["members"] * (s["seed"] + 1))
    for seed in seeds:
        with trial(model, Prompt(n=s["n"], seed=seed), task, seed, EXAMPLES, s["seed"]) as it:
            it.fit(steps=s["steps"], lr=s["lr"])
            single.append(it.score("test", TEST)["accuracy"])
            trained.append(it.at.wrappers["emb.tok"].P.data)
    test = task.load("test", TEST)
    questions, found = [(e.prompt, e.options) for e in test], {}
    with ExitStack() as attached:
        methods = [Prompt(n=s["n"], seed=seed) for seed in seeds]
        handles = [attached.enter_context(attach(model, m, freeze=False)) for m in methods]
        for handle, P in zip(handles, trained, strict=True):
            handle.wrappers["emb.tok"].P.data = P
        for by in ("mean", "vote"):
            shares = ensemble(model, handles, questions, by)
            right = [np.argmax(x) == e.label for x, e in zip(shares, test, strict=True)]
            found[by] = 100 * float(np.mean(right))
    return {"single": single, **found}


EXPERIMENTS = (
    Experiment(
        "prompt_ensemble", "Are five prompts together better than one?", _settings, together
    ),
)
