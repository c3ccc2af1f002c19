"""What is claimed of examples in the context and of calibration: read off results, or counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from minipeft.course.experiments.calibration import runs
from minipeft.course.experiments.claims import Claim, Finding, cannot, compared, counted
from minipeft.course.experiments.runner import BASE, results

LECTURE = "03b_calibration"
ZHAO, LU, MIN, WEI = "Zhao et al. 2021", "Lu et al. 2022", "Min et al. 2022", "Wei et al. 2023"
SEC4, SEC5, TABLE = f"{ZHAO}, section 4", f"{ZHAO}, section 5", f"{ZHAO}, table 1"
DECK, OWN = "the deck on PEFT methods", "the lecture's own question"
ONE: dict[str, Any] = {"task": "sentiment", "words": "natural", "format": "", "base": BASE}
SMALL, _, LARGE = runs.LADDER
KINDS: dict[str, dict[str, Any]] = {  # what -> the settings that are not those of ONE
    "": {}, "new words": {"words": "new"}, "groups": {"task": "groups"},
    **{f"format {i}": {"format": i} for i in range(4)}, SMALL: {"base": SMALL},
    LARGE: {"base": LARGE}}  # fmt: skip
SIDES = {"even": (*runs.BALANCED, *runs.GROUPED[:4]), "uneven": (*runs.UNEVEN, *runs.GROUPED[4:10]),
         "one-sided": (*runs.ONE_SIDED, *runs.GROUPED[10:]), "four": runs.BALANCED[:4],
         "six": runs.LONGER}  # fmt: skip
MAIN = ("even", "even, new words", "even, groups")
UNEVEN = ("uneven", "uneven, new words", "uneven, groups")
ONE_SIDED = ("one-sided", "one-sided, new words", "one-sided, groups")
FORMATS = [f"{side}, format {i}" for i in range(4) for side in ("even", "one-sided")]
CASES = (*MAIN, *UNEVEN, *ONE_SIDED, *FORMATS)
FOUR = ("four patterns",)
Measure = Callable[[str], Any]  # a case -> the larger one, the smaller one, perhaps a margin


def orders(case: str) -> list[str]:
    """The labels in a row that a case was run with."""
    side, _, kind = case.partition(", ")
    made, which = results("calibration_contexts").runs, ONE | KINDS[kind]
    had = [r["settings"]["labels"] for r in made if r["settings"].items() >= which.items()]
    return [labels for labels in SIDES[side] if labels in had]


def at(outcome: str, case: str) -> np.ndarray:
    """An outcome of a case's runs.  -> (orders, seeds), of shares (orders, seeds, classes)"""
    found, which = results("calibration_contexts"), ONE | KINDS[case.partition(", ")[2]]
    return np.array([found.where(outcome, labels=labels, **which) for labels in orders(case)])


def spread(case: str, outcome: str = "raw") -> np.ndarray:
    """Points between the best and the worst order, seed by seed."""
    return np.asarray(np.ptp(at(outcome, case), axis=0))


def formats(outcome: str) -> np.ndarray:
    """Points between the best and the worst of the task's patterns, seed by seed."""
    return np.asarray(np.ptp([at(outcome, c).mean(0) for c in FORMATS[::2]], axis=0))


def favoured(case: str, by: str, outcome: str = "share") -> np.ndarray:
    """How many points more than its part the "last" or the "commonest" label is answered."""
    found = []
    for labels, answered in zip(orders(case), at(outcome, case), strict=True):  # (seeds, classes)
        label = labels[-1] if by == "last" else max("012", key=labels.count)
        found.append(100 * (answered[:, int(label)] - 1 / answered.shape[1]))
    return np.asarray(np.mean(found, axis=0))


def common() -> np.ndarray:
    """How many points more than half the word that is common in pretraining is answered."""
    found = results("calibration_contexts")
    both = [np.array(found.where("share", words=f"{word} first"))[:, i].reshape(-1, 2).mean(1)
            for i, word in enumerate(("common", "rare"))]  # fmt: skip
    return 100 * (np.mean(both, axis=0) - 0.5)


def told(how: str, kind: str = "") -> list[float]:
    """Percent right with six examples that are changed in a way."""
    return results("calibration_labels").where("accuracy", how=how, **(ONE | KINDS[kind]))


def _means(a: str, b: str) -> Measure:
    return lambda case: (at(a, case).mean(0), at(b, case).mean(0))


def _told(a: str, b: str, margin: float = 0.0) -> Measure:
    return lambda kind: (told(a, kind), told(b, kind), margin)


def _same() -> Finding:
    found = results("calibration_contexts")
    scale, shift = (found.where(form, task="sentiment") for form in ("scale", "shift"))
    return counted(f"{sum(np.equal(scale, shift))} of {len(scale)} contexts", scale == shift)


def _most() -> Finding:
    gain = max((at("scale", case) - at("raw", case)).max() for case in CASES)
    return counted(f"at most {gain:.0f} points", gain >= 30, "over all contexts and seeds")


def _sets() -> Finding:
    found = results("world_probes").where("accuracy", probe="in_context", words="natural", k=4)
    said = ", ".join(f"{x:.1f}" for x in found) + " %"
    return counted(said, max(found) - min(found) >= 5, "five sets, the same questions")


def _pair(measure: Measure, case: str) -> Finding:
    first, second, *margin = measure(case)
    unit = " points" if np.ndim(second) == 0 else " %"
    return compared(list(first), list(np.broadcast_to(second, np.shape(first))), unit, "", *margin)


HOW = ("", "new words", "groups")
OWN_TOO = (*HOW, "format 0")
ROWS: tuple[tuple[str, str, str, Any, Measure], ...] = (  # text, who, where, cases
    ("The order alone moves the accuracy by 5 points", f"{LU}; {ZHAO}; {DECK}", "figure 2",
     (*MAIN, f"four, {LARGE}"), lambda c: (spread(c), 5.0)),
    ("Six examples do not lessen the spread over orders (2 points)", f"{LU}; {ZHAO}", "section 2",
     ("six", "six, new words"), lambda c: (spread(c), spread(c.replace("six", "four")), 2.0)),
    ("The format moves the accuracy by 5 points", f"{ZHAO}; {DECK}", "section 2", FOUR,
     lambda _: (formats("raw"), 5.0)),
    ("Recency: the last label is answered too often", SEC4, "figure 3", MAIN,
     lambda c: (favoured(c, "last"), 0.0)),
    ("Majority: the commonest label is answered too often", SEC4, "figure 3", UNEVEN,
     lambda c: (favoured(c, "commonest"), 0.0)),
    ("Common token: a word that is common in pretraining is answered too often", SEC4, "figure 3",
     MAIN[1:2], lambda _: (common(), 0.0)),
    ("Inputs without content show recency: p_cf leans to the last label", SEC5, "figure 3", MAIN,
     lambda c: (favoured(c, "last", "free"), 0.0)),
    ("Calibration without content raises the accuracy", TABLE, "figure 5", CASES,
     _means("scale", "raw")),
    ("The mean margin of unlabelled inputs raises the accuracy", OWN, "figure 5", CASES,
     _means("margin", "raw")),
    ("Calibration without content lessens the spread over orders", TABLE, "section 5", MAIN,
     lambda c: (spread(c), spread(c, "scale"))),
    ("The mean margin lessens the spread over orders", OWN, "section 5", MAIN,
     lambda c: (spread(c), spread(c, "margin"))),
    ("Calibration without content raises the worst order", TABLE, "section 5", MAIN,
     lambda c: (at("scale", c).min(0), at("raw", c).min(0))),
    ("Calibration without content lessens the spread over formats", f"{ZHAO}, figure 5",
     "section 5", FOUR, lambda _: (formats("raw"), formats("scale"))),
    ("Three inputs without content are better than N/A alone", SEC5, "section 5",
     (*MAIN, *ONE_SIDED), _means("scale", "n/a")),
    ("For classes W = 1 / p_cf is better than b = -p_cf", SEC5, "section 4",
     (MAIN[2], UNEVEN[2], ONE_SIDED[2]), _means("scale", "shift")),
    ("Random labels are as good as correct ones (5 points)", f"{MIN}, figure 1; {DECK}", "figure 6",
     OWN_TOO, _told("random", "correct", 5.0)),
    ("Random labels are better than no examples", f"{MIN}, figure 1", "figure 6", OWN_TOO,
     _told("random", "none")),
    ("Flipped labels tell: they lower the accuracy", DECK, "figure 6", OWN_TOO,
     _told("correct", "flipped")),
    *((f"{what} matters: random labels are better than {how}", f"{MIN}, section 5", "section 7",
       HOW, _told("random", how.removesuffix(" alone"))) for what, how in (
        ("The kind of input", "other inputs"), ("The set of labels", "other words"),
        ("The format", "inputs alone"), ("The format", "labels alone"))),
    ("A symbol that means nothing changes nothing (2 points)", DECK, "section 7", HOW,
     _told("symbol", "correct", 2.0)),
    ("A symbol is not taken for the label that it went with (2 points)", OWN, "section 7", HOW,
     _told("symbol lies", "symbol", 2.0)),
    ("A larger model follows flipped labels more", WEI, "section 7", ("3.1M against 0.9M",),
     lambda _: (told("flipped"), told("flipped", LARGE))),
)  # fmt: skip
COUNTED: tuple[tuple[str, str, str, Callable[[], Finding]], ...] = (
    ("Another set of examples moves the accuracy by 5 points", ZHAO, "section 2", _sets),
    ("Of two options both forms choose the same", OWN, "section 4", _same),
    ("Calibration gains up to 30 points", f"{ZHAO}, abstract", "figure 5", _most),
    ("The order takes GPT-3 from 54 to 93 % on SST-2", f"{ZHAO}, section 1", "section 2",
     cannot("GPT-3 is not here; quoted")),
    ("The entropy of its answers tells a good order", LU, "section 2", cannot("not built here")),
    ("The best order for one model is not the best for another", LU, "section 2",
     cannot("the orders of reviews differ by too little here for one to be the best")),
    ("For generation b = -p_cf is better than W = 1 / p_cf", SEC5, "section 4",
     cannot("the tasks of generation here have no options to weigh")),
    ("Random labels cost 12 models, up to 175 billion parameters, 0 to 5 points", MIN, "section 7",
     cannot("these models are not here; quoted")),
)  # fmt: skip


def _claims() -> Iterator[Claim]:
    for text, who, where, cases, measure in ROWS:
        for case in cases:
            said = f"{text} ({case or 'words with a meaning'})"
            yield Claim(said, who, where, partial(_pair, measure, case), LECTURE)
    yield from (Claim(*row, LECTURE) for row in COUNTED)


CLAIMS = tuple(_claims())
