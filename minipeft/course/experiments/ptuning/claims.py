"""What is claimed of P-tuning, read off the results of runs.py, counted, or quoted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from minipeft.course.experiments.claims import (
    ABSENT,
    HELD,
    Claim,
    Finding,
    cannot,
    compared,
    paper_row,
)
from minipeft.course.experiments.ptuning.runs import ASKED, CLOZE, ENCODERS, WAYS, best
from minipeft.course.experiments.ptuning.starts import STARTS
from minipeft.course.experiments.runner import results
from minipeft.course.experiments.statistics import difference, t_quantile
from minipeft.ledger import get_paper

LECTURE = "07b_ptuning"
_claim = partial(Claim, lecture=LECTURE)
LIU, OWN = "Liu et al. 2021", "the lecture's own question"
AS_GOOD = 2.0  # points that "as good as" may lack

# -- the slides' tables ----------------------------------------------------------------------------

ENCODER_COLUMNS = ("WiC", "CB acc", "CB F1", "BoolQ")
ENCODER_TABLE: dict[str, tuple[float, ...]] = {
    "lstm": (56.27, 81.70, 77.41, 75.41), "mlp": (55.25, 88.39, 84.24, 76.46),
    "embedding": (53.96, 82.59, 67.27, 76.87),
}  # fmt: skip
COLUMNS = ("BoolQ", "CB acc", "CB F1", "WiC", "RTE", "MultiRC EM", "MultiRC F1a", "WSC", "COPA")
SUPERGLUE: dict[str, dict[str, tuple[float, ...]]] = {  # model, way: the columns and the mean
    "BERT-base": {
        "CLS-FT": (72.9, 85.1, 73.9, 71.1, 68.4, 16.2, 66.3, 63.5, 67.0, 66.2),
        "PET-FT": (73.7, 87.5, 90.8, 67.9, 70.4, 13.7, 62.5, 60.6, 70.0, 67.1),
        "P-tuning": (73.9, 89.2, 92.1, 68.8, 71.1, 14.8, 63.3, 63.5, 72.0, 68.4),
    },
    "GPT2-base": {
        "CLS-FT": (71.2, 78.6, 55.8, 65.5, 67.8, 17.4, 65.8, 63.0, 64.4, 63.0),
        "PET-FT": (74.8, 87.5, 88.1, 68.0, 70.0, 23.5, 69.7, 66.3, 78.0, 70.2),
        "P-tuning": (75.0, 91.1, 93.2, 68.3, 70.8, 23.5, 69.8, 63.5, 76.0, 70.4),
    },
    "BERT-large": {
        "CLS-FT": (77.7, 94.6, 93.7, 74.9, 75.8, 24.7, 70.5, 68.3, 69.0, 72.5),
        "PET-FT": (77.2, 91.1, 93.5, 70.5, 73.6, 17.7, 67.0, 80.8, 75.0, 73.1),
        "P-tuning": (77.8, 96.4, 97.4, 72.7, 75.5, 17.1, 65.6, 81.7, 76.0, 74.6),
    },
    "GPT2-medium": {
        "CLS-FT": (71.0, 73.2, 51.2, 65.2, 72.2, 19.2, 65.8, 62.5, 66.0, 63.1),
        "PET-FT": (78.3, 96.4, 97.4, 70.4, 72.6, 32.1, 74.4, 73.0, 80.0, 74.9),
        "P-tuning": (78.9, 98.2, 98.7, 69.4, 75.5, 29.3, 74.2, 74.0, 81.0, 75.6),
    },
}


def average(row: Sequence[float]) -> float:
    """Over seven tasks: the two scores of CB count half each, and those of MultiRC."""
    boolq, cb_acc, cb_f1, wic, rte, em, f1a, wsc, copa = row[:9]
    return (boolq + (cb_acc + cb_f1) / 2 + wic + rte + (em + f1a) / 2 + wsc + copa) / 7


def above(model: str, way: str, other: str) -> int:
    """In how many of the nine printed columns one way is above another."""
    a, b = (SUPERGLUE[model][w][:9] for w in (way, other))
    return sum(x > y for x, y in zip(a, b, strict=True))


# -- what was measured -----------------------------------------------------------------------------


def encoded(task: str, encoder: str) -> list[float]:
    """Test scores of an encoder on a task, at the rate that is best on validation data."""
    found = results("ptuning_encoders")
    lr = best(found, ENCODERS[encoder], task=task, encoder=encoder)
    return found.where("test", task=task, encoder=encoder, lr=lr)


def placed(template: str) -> list[float]:
    """Test scores of `truth` with the pseudo-tokens in one of the places, at the shipped rate."""
    if template == "before":
        return results("ptuning_encoders").where("test", task="truth", encoder="mlp", lr=3e-3)
    return results("ptuning_places").where("test", template=template)


def done(way: str, task: str, base: str) -> list[float]:
    """Test scores of CLS-FT, PET-FT or P-tuning, at the better rate on validation data."""
    found, which = results("ptuning_ways"), {"way": way, "task": task, "base": base}
    return found.where("test", lr=best(found, WAYS[way], **which), **which)


def seen(name: str, rates: Sequence[float], **which: Any) -> list[float]:
    """For tables: test scores of the seeds, at the rate that is best on validation data."""
    found = results(name)
    return found.where("test", lr=best(found, rates, **which), **which)


def started(start: str) -> list[float]:
    """Test scores of plain embeddings from a start, or of the MLP, on `remap-route`."""
    found = results("ptuning_starts")
    lr = best(found, STARTS[start], start=start)
    return found.where("test", start=start, lr=lr)


def deviations(encoder: str) -> list[float]:
    """How far a seed ends from the median of its task's seeds, in points; mean of the tasks."""
    scores = np.array([encoded(task, encoder) for task, _ in ASKED])
    return list(np.abs(scores - np.median(scores, axis=1, keepdims=True)).mean(axis=0))


def at_edge(task: str, *encoders: str) -> str:
    """Says of which encoders the chosen rate is the first or the last that was tried."""
    found, edge = results("ptuning_encoders"), []
    for encoder in encoders:
        rates = ENCODERS[encoder]
        lr = best(found, rates, task=task, encoder=encoder)
        edge += [f"{encoder} {lr:g}"] * (lr in (rates[0], rates[-1]))
    return f"rate at the edge of those tried: {', '.join(edge)}" if edge else ""


def _encoders(task: str, a: str, b: str) -> Finding:
    return compared(encoded(task, a), encoded(task, b), " %", at_edge(task, a, b))


def _beaten() -> Finding:
    """The encoder that is best on the mean of the tasks, against what is best elsewhere."""
    scores = {e: {task: encoded(task, e) for task, _ in ASKED} for e in ENCODERS}
    first = max(scores, key=lambda e: float(np.mean(list(scores[e].values()))))
    pairs = [(task, e) for task, _ in ASKED for e in ENCODERS if e != first]
    differences = {(t, e): difference(scores[e][t], scores[first][t]) for t, e in pairs}
    (task, rival), d = max(differences.items(), key=lambda pair: pair[1].mean)
    half = t_quantile(d.n - 1, 1 - 0.05 / len(pairs)) * d.error
    value = (f"{first} is best on the mean; {rival} is nearest to beating it, on {task}: "
             f"{d.mean:+.2g} ± {d.error:.2g}, {d.n} seeds")  # fmt: skip
    return Finding(value, HELD if d.mean > half else ABSENT,
                   f"the largest of {len(pairs)} differences; Bonferroni's interval",
                   (d.mean - half, d.mean + half), d.n)  # fmt: skip


def _places(a: str, b: str) -> Finding:
    return compared(placed(a), placed(b), " %", "`truth`, at the shipped rate")


def _ways(a: str, b: str, which: dict[str, str], margin: float = 0.0) -> Finding:
    return compared(done(a, **which), done(b, **which), " %", "two rates tried for each", margin)


def _averages() -> Finding:
    rows = [row for ways in SUPERGLUE.values() for row in ways.values()]
    right = sum(abs(average(row) - row[9]) < 0.1 for row in rows)  # columns are rounded, too
    held = HELD if right == len(rows) else ABSENT
    return Finding(f"{right} of {len(rows)} averages", held, "counted from the printed columns")


def _columns(other: str) -> Finding:
    found = {model: above(model, "P-tuning", other) for model in SUPERGLUE}
    held = HELD if min(found.values()) == 9 else ABSENT
    told = ", ".join(f"{model} {n}" for model, n in found.items())
    return Finding(f"above in so many of 9 columns: {told}", held, "counted from the printed rows")


# -- the claims ------------------------------------------------------------------------------------


def _counted() -> Iterator[Claim]:
    for i, row in enumerate(get_paper("ptuning").rows):
        if row.printed:
            yield _claim(f"{row.name}: 20 pseudo-tokens train {row.printed} parameters",
                         "counted by PEFT", "section 4",
                         partial(paper_row, "ptuning", i))  # fmt: skip


def _quoted() -> Iterator[Claim]:
    for encoder, row in ENCODER_TABLE.items():
        told = ", ".join(f"{c} {x:g}" for c, x in zip(ENCODER_COLUMNS, row, strict=True))
        yield _claim(f"Encoder {encoder}: {told}", f"{LIU}, table of encoders", "section 5",
                     cannot("SuperGLUE and a pretrained BERT are not here"))  # fmt: skip
    for model, ways in SUPERGLUE.items():
        for way, printed in ways.items():
            named = zip((*COLUMNS, "mean"), printed, strict=True)
            told = ", ".join(f"{c} {x:g}" for c, x in named)
            yield _claim(f"{model}, {way}: {told}", f"{LIU}, SuperGLUE", "section 7",
                         cannot("SuperGLUE and these models are not here"))  # fmt: skip


def _measured() -> Iterator[Claim]:
    for task, _ in ASKED:
        for a, b in (("mlp", "embedding"), ("lstm", "embedding"), ("mlp", "lstm")):
            yield _claim(f"{a} is above {b} ({task})", f"{LIU}, table of encoders", "section 5",
                         partial(_encoders, task, a, b))  # fmt: skip
    for which in CLOZE:
        where = f"{which['task']}, {which['base']}"
        for other in ("CLS-FT", "PET-FT"):
            yield _claim(f"P-tuning is above {other} ({where})", f"{LIU}, SuperGLUE", "section 7",
                         partial(_ways, "P-tuning", other, which))  # fmt: skip
            measure = partial(_ways, "P-tuning", other, which, AS_GOOD)
            yield _claim(f"P-tuning is as good as {other} (2 points; {where})", f"{LIU}, SuperGLUE",
                         "section 7", measure)  # fmt: skip
        yield _claim(f"PET-FT is above CLS-FT ({where})", f"{LIU}, SuperGLUE", "section 7",
                     partial(_ways, "PET-FT", "CLS-FT", which))  # fmt: skip


CLAIMS = (
    *_counted(),
    *_measured(),
    _claim("No encoder wins everywhere", f"{LIU}, table of encoders", "section 5", _beaten),
    *(_claim(f"Encoders reduce the spread of seeds: {encoder} against plain embeddings",
             f"{LIU}, section 3", "section 5",
             partial(lambda e: compared(deviations("embedding"), deviations(e), " points",
                                        "distance from the seeds' median, mean of the tasks"),
                     encoder)) for encoder in ("mlp", "lstm")),
    _claim("Plain embeddings do better from the MLP's start than from N(0, 1) (remap-route)", OWN,
           "figure 3", lambda: compared(started("the MLP's"), started("N(0, 1)"), " %",
                                      "2 and 4 rates tried")),
    _claim("From the MLP's start they are as good as the MLP (2 points; remap-route)", OWN,
           "figure 3",
           lambda: compared(started("the MLP's"), started("MLP trains"), " %",
                            "the MLP at its shipped rate", AS_GOOD)),
    _claim("Half before the question and half before its anchor is better than all before it",
           f"{LIU}, section 3", "section 6", partial(_places, "around", "before")),
    _claim("All before the anchor is better than all before the question", OWN, "section 6",
           partial(_places, "anchor", "before")),
    _claim("Half before the question and half before its anchor is better than all before the "
           "anchor", OWN, "section 6", partial(_places, "around", "anchor")),
    _claim("The averages of the SuperGLUE tables are those of their columns", OWN, "section 7",
           _averages),
    *(_claim(f"P-tuning is above {other} in every printed column", OWN, "section 7",
             partial(_columns, other)) for other in ("CLS-FT", "PET-FT")),
    *_quoted(),
)  # fmt: skip
