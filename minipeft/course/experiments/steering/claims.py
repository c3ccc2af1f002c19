"""What is claimed of steering: read off the results of this folder, or counted."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from minipeft.course.experiments.claims import Claim, Finding, cannot, compared, counted
from minipeft.course.experiments.runner import results
from minipeft.course.experiments.steering.settings import BESIDE, FOUND

LECTURE = "13_steering"
OWN, ITI, BOTH = "own question", "Li et al. 2023", "Li et al. 2023; UW-Madison CS769"
TOP = (3.0, 5.0, 8.0)  # of which each draw takes the largest that costs at most NATS
NATS, NEAR, TRUE = 0.1, 3.0, 60.0  # nats a token; points that "as good" may lack; percent
HEADER = ("model", "true and informative", "true", "MC1", "CE", "KL")
TABLES = (  # the columns of HEADER, in percent and nats; LLaMA learnt from 5 % of the questions
    "Alpaca 32.5 32.7 27.8 2.56 0|Alpaca+ITI 65.1 66.6 31.9 2.92 .61|Vicuna 51.5 55.6 33.3 2.63 0"
    "|Vicuna+ITI 74.0 88.6 38.9 3.36 1.41|LLaMA-7B 30.5 31.6 25.7 2.16 0"
    "|LLaMA-7B,tuned 36.1 47.1 24.2 2.10 .01|LLaMA-7B,few-shot 49.5 49.5 32.5"
    "|LLaMA-7B+ITI 43.5 49.1 25.9 2.48 .40|LLaMA-7B,few-shot+ITI 51.4 53.5 32.5"
)


def at(alpha: float, outcome: str = "fact") -> list[float]:
    """One head that leans by alpha, on test questions."""
    return results("steering_alpha").where(outcome, split="test", alpha=alpha)


def rise(alpha: float) -> list[float]:
    """What it costs in nats per token of pretraining text."""
    return [float(x - y) for x, y in zip(at(alpha, "ce"), at(0.0, "ce"), strict=True)]


def chosen(outcome: str = "fact") -> list[float]:
    """The same with each draw's largest alpha that costs at most NATS."""
    return [max((a, at(a, outcome)[i]) for a in TOP if rise(a)[i] <= NATS)[1] for i in range(5)]


def by(name: str, outcome: str = "test_fact") -> list[float]:
    """One way to spend the pairs; the base's one run stands for each seed."""
    return results("steering_against").where(outcome, by=name) * (5 if name == "base" else 1)


def way(name: str, outcome: str = "answer", shots: int = 0) -> list[float]:
    """Documents of one kind, 100 pairs."""
    return results("steering_ways").where(outcome, way=name, shots=shots)


def found(i: int) -> list[float]:
    """Another number of heads, direction, ranking or alpha."""
    return results("steering_heads").where("fact", **FOUND[i])


def few(n: int, head: str) -> list[float]:
    """n pairs, with the head that they point to or the known one."""
    return results("steering_pairs").where("fact", n=n, head=head)


def null(alpha: float = 5.0) -> list[float]:
    """Random directions: the mean of each draw's."""
    return [float(np.mean(x)) for x in results("steering_random").where("fact", alpha=alpha)]


def _null() -> Finding:
    p, mean = at(0.0)[0], float(np.mean(null()))
    half = 1.96 * float(np.sqrt(p * (100 - p) / 332))
    return counted(f"{mean:.1f} % over 20; base {p:.1f} ± {half:.1f}", abs(mean - p) <= half)


def moved(name: str, task: str) -> list[float]:
    """How far the score of another task moved, in points."""
    return [abs(x - y) for x, y in zip(by(name, task), by("base", task), strict=True)]


F3, F4, S8, S9, S10, S11 = (
    "figure 3",
    "figure 4",
    "section 8",
    "section 9",
    "section 10",
    "section 11",
)
FREE, ON, TEN, TUNING = "free_both", "transfer_fact", ("answer", 10), "Full fine-tuning moves"
ROWS: tuple[Any, ...] = (  # text, source, where, a and b; "as good" within a margin of points
    ("One head, alpha 5: at least 60 % facts", OWN, F3, lambda: (at(5.0), [TRUE] * 5)),
    ("Alpha 3, 5 or 8, by a cost of 0.1 nats: 60 % facts", OWN, F3, lambda: (chosen(), [TRUE] * 5)),
    ("At alpha 5 it costs at most 0.1 nats", OWN, F3, lambda: ([0.0] * 5, rise(5.0)), NATS),
    ("Steering raises MC1", BOTH, F3, lambda: (at(5.0), at(0.0))),
    ("Steering raises MC2", ITI, F3, lambda: (at(5.0, "mc2"), at(0.0, "mc2"))),
    ("It raises true and informative", BOTH, F3, lambda: (at(5.0, FREE), at(0.0, FREE))),
    ("To the other side, alpha -5, facts fall", OWN, F3, lambda: (at(0.0), at(-5.0))),
    ("Alpha 25 is too far: below 5", BOTH, F3, lambda: (at(5.0, FREE), at(25.0, FREE))),
    ("KL grows with alpha: 15 above 5", ITI, F3, lambda: (at(15.0, "kl"), at(5.0, "kl"))),
    ("The mean shift is above random directions", ITI, F4, lambda: (at(5.0), null())),
    ("It is above random ones at alpha 10", OWN, F4, lambda: (at(5.0), null(10.0))),
    ("30 pairs do what 300 do (3 points)", BOTH, S8, lambda: (at(5.0), few(300, "found")), NEAR),
    ("One pair helps, if the head is known", OWN, S8, lambda: (few(1, "known"), at(0.0))),
    ("Steering is above few-shot", BOTH, S9, lambda: (by("steering"), by("shots"))),
    ("Both together are above few-shot", BOTH, S9, lambda: (by("shots+steering"), by("shots"))),
    ("Steering is above full fine-tuning", BOTH, S9, lambda: (by("steering"), by("full"))),
    ("Steering is above LoRA", OWN, S9, lambda: (by("steering"), by("lora"))),
    ("It carries over to animals, things", ITI, S9, lambda: (by("steering", ON), by("base", ON))),
    *((f"{TUNING} {t} more than steering", OWN, S9,
       lambda t=t: (moved("full", t), moved("steering", t))) for t in BESIDE),
    ("The mean shift is above a probe's weights", ITI, S10, lambda: (at(5.0), found(0))),
    ("A probe ranks heads as well (3 points)", BOTH, S10, lambda: (found(1), at(5.0)), NEAR),
    ("8 heads are above 1, both at alpha 5", BOTH, S10, lambda: (found(2), at(5.0))),
    ("8 heads at alpha 1 are above 1 at 5", OWN, S10, lambda: (found(3), at(5.0))),
    ("A head with a perfect probe steers", BOTH, S10, lambda: (way("marked"), at(0.0))),
    ("A statement's end gives a direction", ITI, S10, lambda: (way("statement"), at(0.0))),
    ("As a bias it does the same (3 points)", ITI, S11,
     lambda: (way("context", "all", 10), way("context", *TEN)), NEAR),
)  # fmt: skip


def _pair(pair: Any, margin: float = 0.0) -> Finding:
    a, b = pair()
    return compared(a, b, "", "", margin)


_claim = partial(Claim, lecture=LECTURE)
CLAIMS = (
    *(_claim(text, source, where, partial(_pair, *rest)) for text, source, where, *rest in ROWS),
    _claim("Random directions in the same head do nothing", ITI, F4, _null),
    _claim("Nothing is trained: K (D + 1) numbers are measured", BOTH, "section 5",
           lambda: counted("17 numbers, and which head", True)),
    *(_claim(f"Table 1: {row}", BOTH, S9, cannot("these models are not here; quoted"))
      for row in TABLES.split("|")),
)  # fmt: skip
