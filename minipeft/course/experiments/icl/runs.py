"""In-context learning beside fine-tuning, at equal n and beyond what a prompt holds.

256 positions hold 6 reviews with a writer beside a question, or 20 lists of `remap-route`. The
rates are those that `icl_rates` finds best on validation data of the domain that is trained on:
three seeds, four rates, for each model; the smallest of those within two points. They are found
at n = 6 (reviews) and 20 (lists), and used for every n.
"""

from __future__ import annotations

from typing import Any

from minipeft.course.experiments.icl.learning import shown, tuned, unscrambled
from minipeft.course.experiments.runner import BASE, Experiment, Settings
from minipeft.course.experiments.settings import Axis, Grid, grid

SMALL, LARGE = "gpt-0.2m", "gpt-3.1m"
LADDER = (SMALL, BASE, LARGE)
SEEDS, MORE = tuple(range(5)), tuple(range(10))
FEW, MANY = {"sentiment-shift": 40, "remap-route": 60}, 150  # steps; MANY from 256 examples on
FULL = 6, 20  # reviews and lists that a prompt holds
REVIEWS: Settings = {"task": "sentiment-shift", "words": "new", "n": FULL[0], "head": "lm"}
LISTS: Settings = {"task": "remap-route", "words": "natural", "n": FULL[1], "head": "lm"}
LINEAR, NATURAL = REVIEWS | {"head": "linear"}, REVIEWS | {"words": "natural"}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RATE = {  # the best of those, by task; of LINEAR by its head
    "sentiment-shift": {SMALL: 1e-3, BASE: 3e-4, LARGE: 3e-4},
    "remap-route": {SMALL: 3e-3, BASE: 1e-3, LARGE: 3e-4}, "linear": {BASE: 3e-4},
}  # fmt: skip


def tried(s: Settings) -> tuple[float, ...]:
    """Four rates; those of lists are higher, but for the largest model."""
    first = int(s["of"]["task"] == "remap-route" and s["base"] != LARGE)
    return RATES[first : first + 4]


def _runs(of: Any, lr: Any, bases: Any = BASE, seed: Any = SEEDS, fast: bool = False) -> Grid:
    """lr: a function of the settings, or None where nothing trains."""
    training = {} if lr is None else {"lr": lr, "steps": lambda s: Axis(
        MANY if s["of"]["n"] >= 256 else FEW[s["of"]["task"]], fast=2)}  # fmt: skip
    splits = {"sentiment-shift": "test shift", "remap-route": "test"}
    return grid(
        outer="seed of", of=Axis(of, fast=of[:1] if fast else ()), base=Axis(bases, fast=SMALL),
        splits=lambda s: "validation" if lr is tried else splits[s["of"]["task"]], seed=seed,
        **training,
    )  # fmt: skip


def _sized(of: Settings, *sizes: int) -> list[Settings]:
    return [of | {"n": n} for n in sizes]


def _best(s: Settings) -> float:
    return RATE.get(s["of"]["head"], RATE[s["of"]["task"]])[s["base"]]


_rates = _runs([REVIEWS, LISTS], tried, LADDER, SEEDS[:3], True)
_rates += _runs([LINEAR], tried, BASE, SEEDS[:3])
_shown = _runs([REVIEWS, LISTS], None, LADDER, MORE, True)
_shown += _runs([*_sized(REVIEWS, 0, 2, 4), *_sized(LISTS, 0, 5)], None)
_tuned = _runs([REVIEWS, LISTS], _best, LADDER, MORE, True)
_tuned += _runs([*_sized(REVIEWS, 2, 16, 64, 256), *_sized(LISTS, 5, 64, 256)], _best)
_tuned += _runs([*_sized(LINEAR, 6, 64), *_sized(NATURAL, 6, 64)], _best)
_again = [*_sized(REVIEWS, 64, 256), *_sized(LISTS, 256), *_sized(LINEAR, 6, 64)]
_tuned += _runs(_again, _best, BASE, MORE[5:])
SHOTS = (0, 1, 4, 16)
_words = grid(outer="seed", base=Axis(LADDER, fast=SMALL), k=Axis(SHOTS, fast=1), seed=SEEDS)

EXPERIMENTS = (
    Experiment("icl_rates", "At which rate does a model learn from a few examples?", _rates, tuned,
               LADDER),
    Experiment("icl_shown", "What do examples in the prompt teach?", _shown, shown, LADDER),
    Experiment("icl_tuned", "What do as many examples teach, trained on?", _tuned, tuned, LADDER),
    Experiment("icl_unscramble", "Do solved words help to unscramble another?", _words,
               unscrambled, LADDER),
)  # fmt: skip
