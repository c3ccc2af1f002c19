"""What is claimed of the intrinsic dimension, read off the results of runs.py."""

from __future__ import annotations

from functools import partial

import numpy as np

from minipeft.course.experiments.claims import ABSENT, CANNOT, HELD, Claim, Finding, compared, shown
from minipeft.course.experiments.runner import BASE, results
from minipeft.course.experiments.subspaces import runs
from minipeft.course.experiments.subspaces.digit_net import DigitNet
from minipeft.methods.subspace import compression_bound

AT = runs.TEXT_DS[1]  # directions at which models are compared
EARLY = runs.CHECKPOINTS[2]
GUESSING = 90.0  # percent of error with ten digits


def _digits(d: int) -> Finding:
    """d directions reach 90 % of what all weights do."""
    grid = results("subspace_digits")
    full = grid.where("accuracy", d=0)
    found = grid.where("accuracy", d=d, projection="fastfood")
    why = f"the pictures are those of {grid.where('data', d=0)[0]!s}"
    return compared(found, [0.9 * x for x in full], " %", why)


def _text(a: str, b: str, d: int = AT) -> Finding:
    """One model above another in as many directions."""
    first, second = (runs.of_model(x).where("accuracy", base=x, d=d) for x in (a, b))
    return compared(first, second, " %", _before(a, b))


def _before(a: str, b: str, task: str = runs.TASK) -> str:
    """What two models can before any training: a score means little without it."""
    return "before any training " + " and ".join(f"{_frozen(x, task):.0f} %" for x in (a, b))


def _frozen(name: str, task: str = runs.TASK) -> float:
    return results("subspace_frozen").mean("accuracy", base=name, task=task)


def _route(a: str, b: str, d: int = runs.ROUTE_DS[0]) -> Finding:
    """The same on the task that the base cannot do before it is trained."""
    first, second = (results("subspace_route").where("accuracy", base=x, d=d) for x in (a, b))
    return compared(first, second, " %", _before(a, b, runs.ROUTE))


def _route_share(d: int) -> Finding:
    """d directions reach 90 % of what all weights do there."""
    grid = results("subspace_route")
    full = grid.where("accuracy", base=BASE, d=0)
    return compared(grid.where("accuracy", base=BASE, d=d), [0.9 * x for x in full], " %")


def _lost(small: str, large: str, d: int = AT) -> Finding:
    """The small model loses more against all its own weights than the large one against its."""
    first, second = (
        [a - b for a, b in zip(*(runs.of_model(x).where("accuracy", base=x, d=n) for n in (0, d)),
                               strict=True)]
        for x in (small, large)
    )  # fmt: skip
    return compared(first, second, " points lost")


def _untrained() -> Finding:
    """An untrained model, all of it trained, above guessing by 10 points."""
    found = runs.of_model(runs.CHECKPOINTS[0]).where("accuracy", base=runs.CHECKPOINTS[0], d=0)
    return compared(found, [60.0] * len(found), " %")


def _share(d: int) -> Finding:
    """d directions reach 90 % of what all weights of the last model do: so does none."""
    found = results("subspace_kin").where("accuracy", way="said", d=d)
    goal, frozen = 0.9 * runs.of_model(BASE).mean("accuracy", base=BASE, d=0), _frozen(BASE)
    told = f"{shown(found)} against {goal:.3g} %"
    if frozen > goal:
        return Finding(told, CANNOT, f"the base reaches {frozen:.3g} % before any training")
    return compared(found, [goal] * len(found), " %", "RoBERTa-Large is 400 times as large")


def _kin(a: str, b: str, d: int) -> Finding:
    first, second = (results("subspace_kin").where("accuracy", way=way, d=d) for way in (a, b))
    return compared(first, second, " %")


def _labels(d: int) -> Finding:
    """More true than shuffled labels are learnt by heart."""
    first, second = (results("subspace_labels").where("train", labels=x, d=d)
                     for x in ("true", "shuffled"))  # fmt: skip
    return compared(first, second, " %")


def _bound(d: int) -> Finding:
    """The bound for a net that d numbers describe is below the error of guessing."""
    grid = results("subspace_digits")
    asked = {"d": d, "projection": "fastfood"}
    m = int(grid.where("examples", **asked)[0]) or 1
    errors = [1 - float(np.ravel(x)[0]) / 100 for x in grid.where("rounded", **asked)]
    bounds = [100 * compression_bound(e, d, m) for e in errors]
    whole = 100 * compression_bound(0.0, DigitNet(*runs.NET).num_parameters(), m)
    told = f"at most {shown(bounds)} % error, {len(bounds)} seeds; all weights: {shown([whole])} %"
    return Finding(told, HELD if max(bounds) < GUESSING else ABSENT, seeds=len(bounds))


def _published() -> Finding:
    return Finding("not measured: see the table in section 13", CANNOT,
                   "there is no BERT and no RoBERTa here, no MRPC and no QQP")  # fmt: skip


_claim = partial(Claim, lecture="11_intrinsic_dimension")
LI, AGHA = "Li et al. 2018", "Aghajanyan et al. 2021"
SLIDES = "CMU 10-423; UW-Madison CS769"
CLAIMS = (
    _claim("750 directions reach 90 % of full training on MNIST", f"{LI}, sec. 3.1; {SLIDES}",
           "figure 2", lambda: _digits(750)),
    _claim("200 directions reach 90 % of full training on MNIST", "the check: they should not",
           "figure 2", lambda: _digits(200)),
    _claim("Pretraining lowers the dimension (its end against 1 500 steps)", f"{AGHA}, fig. 2",
           "figure 3", lambda: _text(BASE, EARLY)),
    _claim("Pretraining lowers the dimension (its end against none)", f"{AGHA}, fig. 2",
           "figure 3", lambda: _text(BASE, runs.CHECKPOINTS[0])),
    _claim("Pretraining lowers the dimension of a task that its end cannot do untrained (200)",
           "the check, on remap-route: its end against 4 500 steps", "figure 4",
           lambda: _route(BASE, "tiny-gpt-4500")),
    _claim("An untrained model learns the task with all its weights (10 points above guessing)",
           "the null", "figure 3", _untrained, control=True),
    _claim("Size lowers the dimension (3.1 against 0.2 million)", f"{AGHA}, fig. 3; {SLIDES}",
           "figure 4", lambda: _lost(runs.LADDER[0], runs.LADDER[2])),
    _claim("Size lowers the dimension (0.9 against 0.2 million)", f"{AGHA}, fig. 3; {SLIDES}",
           "figure 4", lambda: _lost(runs.LADDER[0], runs.LADDER[1])),
    _claim("Size lowers the dimension of such a task (3.1 against 0.9 million; 200)",
           "the check, on remap-route", "figure 4", lambda: _route(runs.LADDER[2], runs.LADDER[1])),
    _claim("Size lowers the dimension of such a task (0.9 against 0.2 million; 200)",
           "the check, on remap-route", "figure 4", lambda: _route(runs.LADDER[1], runs.LADDER[0])),
    _claim("SAID beats DID at as many numbers (200)", f"{AGHA}, table 1", "figure 5",
           lambda: _kin("said", "did", runs.LITTLE)),
    _claim("LoRA beats a random subspace of as many numbers (1 152)", "Hu et al. 2021, sec. 1",
           "figure 5", lambda: _kin("lora", "did", runs.MUCH)),
    _claim("200 numbers reach 90 % of full fine-tuning", f"{AGHA}, abstract; {SLIDES}",
           "section 11", lambda: _share(runs.LITTLE)),
    _claim("200 numbers reach 90 % of full fine-tuning where the base cannot do the task at all",
           "the check, on remap-route", "section 11", lambda: _route_share(runs.ROUTE_DS[0])),
    _claim("1 500 numbers reach 90 % of full fine-tuning where the base cannot do the task at all",
           "the check, on remap-route", "section 11", lambda: _route_share(runs.ROUTE_DS[-1])),
    _claim("The d90 of BERT and RoBERTa on MRPC and QQP", f"{AGHA}, table 1", "section 13",
           _published),
    _claim("A low dimension bounds the error on new data (750 directions)", f"{AGHA}, sec. 6",
           "figure 6", lambda: _bound(750)),
    _claim("Few directions cannot learn by heart: true against shuffled labels (300)", "the null",
           "figure 7", lambda: _labels(300)),
)  # fmt: skip
