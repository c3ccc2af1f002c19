"""What is claimed of pruning, read off the results of runs.py."""

from __future__ import annotations

from functools import partial

import numpy as np

from minipeft.course.experiments.claims import CANNOT, Claim, Finding, compared
from minipeft.course.experiments.pruning.runs import CUT, KEPT, MIDDLE, ROUNDS
from minipeft.course.experiments.runner import results

AS_GOOD = 2.0  # points that "as good as" may lack
MOST, SOME, LEAST = KEPT
HALF, FEW, LAST = (f"{100 * share:.0f} %" for share in (MOST, LEAST, (1 - CUT) ** ROUNDS))


def _ways(a: str, b: str, kept: float, margin: float = 0.0, name: str = "pruning_kept") -> Finding:
    """One way to prune above another, with as many weights left."""
    grid = results(name)
    first, second = (grid.where("accuracy", way=way, kept=kept) for way in (a, b))
    return compared(first, second, " %", margin=margin)


def _half() -> Finding:
    grid = results("pruning_kept")
    return compared(grid.where("accuracy", way="magnitude", kept=MOST),
                    grid.where("accuracy", kept=1.0), " %", margin=AS_GOOD)  # fmt: skip


def _soft() -> Finding:
    """Soft scores, under the middle penalty, above hard ones that keep about as many."""
    found = results("pruning_soft")
    why = f"the penalty leaves {100 * found.mean('kept', lam=MIDDLE):.0f} %"
    hard = results("pruning_kept").where("accuracy", way="movement", kept=SOME)
    return compared(found.where("accuracy", lam=MIDDLE), hard, " %", why)


def _same() -> Finding:
    """Nine tenths of the largest weights were the largest before."""
    shares = [100 * float(np.ravel(x)[-1]) for x in results("pruning_moves").where("same")]
    return compared(shares, [90.0] * len(shares), " %")


def _ticket(control: str, margin: float = 0.0, key: str = "") -> Finding:
    """The last ticket above a control, or the whole net; sooner where key is "_steps"."""
    found = results("pruning_tickets")
    at = 0 if control == "whole" else -1
    ours = [float(np.ravel(x)[-1]) for x in found.where(f"ticket{key}")]
    other = "ticket" if control == "whole" else control
    theirs = [float(np.ravel(x)[at]) for x in found.where(f"{other}{key}")]
    if key:
        return compared(theirs, ours, " steps")
    return compared(ours, theirs, " %", margin=margin)


def _published() -> Finding:
    return Finding("not measured: see the table in section 13", CANNOT,
                   "there is no BERT-base here, no SQuAD and no MNLI")  # fmt: skip


def _speed() -> Finding:
    return Finding("a dense product with 97 % zeros takes as long as one without", CANNOT,
                   "there is no sparse product here; zeros are multiplied like other "
                   "numbers")  # fmt: skip


_claim = partial(Claim, lecture="12_pruning")
SANH, LOTTERY = "Sanh et al. 2020", "Frankle and Carbin 2019"
SLIDES = "IIT Kharagpur CS60010"
CLAIMS = (
    _claim(f"{HALF} of the weights, the largest, are as good as all (2 points)",
           f"Han et al. 2015; {SLIDES}", "figure 5", _half),
    _claim("Step by step beats at once (15 % kept)", "Zhu and Gupta 2017", "figure 5",
           lambda: _ways("magnitude", "at once", SOME)),
    _claim("Fine-tuning hardly moves weights: of the largest, nine tenths are the same",
           f"{SANH}, sec. 3", "figure 3", _same),
    _claim(f"Where {HALF} are kept, size is as good as movement (2 points)",
           f"{SANH}, fig. 2", "figure 5", lambda: _ways("magnitude", "movement", MOST, AS_GOOD)),
    _claim("Movement beats size where 15 % are kept", f"{SANH}, fig. 2", "figure 5",
           lambda: _ways("movement", "magnitude", SOME)),
    _claim(f"Movement beats size where {FEW} are kept", f"{SANH}, table 2; {SLIDES}",
           "figure 5", lambda: _ways("movement", "magnitude", LEAST)),
    _claim(f"Movement beats a random mask where {FEW} are kept", "the null", "figure 5",
           lambda: _ways("movement", "random", LEAST)),
    _claim("Movement beats a random mask where 15 % are kept", "the null", "figure 5",
           lambda: _ways("movement", "random", SOME)),
    _claim(f"Movement beats size where {FEW} are kept, on tiny-bert", f"{SANH}, table 2; {SLIDES}",
           "figure 5", lambda: _ways("movement", "magnitude", LEAST, name="pruning_reader")),
    _claim("Soft movement beats hard at about as many weights", f"{SANH}, table 2", "figure 6",
           _soft),
    _claim("The scores of BERT-base on SQuAD and MNLI", f"{SANH}, table 2", "section 13",
           _published),
    _claim("Pruned models are faster", "an expectation", "section 1", _speed),
    _claim("A ticket beats the same mask from another start", LOTTERY, "figure 7",
           lambda: _ticket("again")),
    _claim("A ticket beats a random mask", LOTTERY, "figure 7", lambda: _ticket("random")),
    _claim("A ticket learns sooner than the same mask from another start", LOTTERY, "figure 7",
           lambda: _ticket("again", key="_steps")),
    _claim(f"A ticket of {LAST} of the weights is as good as the net "
           "(2 points)", LOTTERY, "figure 7", lambda: _ticket("whole", AS_GOOD)),
)  # fmt: skip
