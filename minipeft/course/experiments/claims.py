"""What the slides and papers claim, where it is put to the test, and what came out.

    python -m minipeft.experiments claims

writes lectures/CLAIMS.md from data/results. Each topic declares its claims beside its
experiments; a claim reads committed results and says what they show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minipeft.course.experiments.runner import Experiment, results, version_of
from minipeft.course.experiments.statistics import difference
from minipeft.course.notebooks import folder
from minipeft.display.table import Table
from minipeft.ledger import get_paper
from minipeft.storage.files import write_atomic

HELD, ABSENT, CANNOT = "held", "did not appear", "cannot be shown"
OPPOSITE, UNDECIDED, CONTROL = "opposite", "undecided", "control"
DECISIONS = (HELD, OPPOSITE, UNDECIDED, CONTROL, CANNOT)
SEEDS = 5  # a claim is not decided on fewer
HEAD = """# Claims of the slides, and what was measured

Written by `python -m minipeft.experiments claims` from `data/results/`; do not edit it by hand.

The models here have under four million parameters and know a made world, so a claim can hold here
and fail elsewhere, or the other way round. A verdict rests on the 95 % interval of the mean paired
difference over at least five seeds (Student's t).

- **Held**: the interval lies above 0. Where one side is to be as good as the other within a margin,
  it lies above minus that margin.
- **Opposite**: the interval lies below 0, or below minus the margin; or a count contradicts the
  claim.
- **Undecided**: the interval contains 0, or minus the margin. The row says which differences it
  excludes.
- **Control**: the row was meant to fail, and did not hold.
- **Cannot be shown**: a model, a machine or a fair case is missing, and the row says which.

± is the standard error of a mean over seeds. A row without seeds was counted or timed. Lectures 04,
08 and 10 to 12 still print verdicts by two standard errors; there "did not appear" is opposite or
undecided.
"""
CODE = """## Results and their code

A run is stale if the files of its experiment have other code today. Unknown: the results were made
before their files recorded a version. Earlier, confirmed by 1 of 280 runs: one of them was made
anew by today's code and came out the same in every digit; the others were not.
"""


@dataclass(frozen=True)
class Finding:
    """What was measured, with its deviation; the verdict; and why, where one must know.

    verdict   as the lectures print it: held, did not appear, cannot be shown
    interval  of the difference, at 95 %; None where something was counted
    seeds     how many it rests on; 0 where there are none
    margin    how far below 0 the difference may be
    """

    value: str
    verdict: str
    why: str = ""
    interval: tuple[float, float] | None = None
    seeds: int = 0
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.verdict not in (HELD, ABSENT, CANNOT):
            raise ValueError(f"a verdict is {HELD!r}, {ABSENT!r} or {CANNOT!r}, "
                             f"got {self.verdict!r}")  # fmt: skip
        if self.verdict == CANNOT and not self.why:
            raise ValueError("what cannot be shown needs a reason")

    @property
    def decided(self) -> str:
        """Held, opposite, undecided or cannot be shown, by the interval where there is one."""
        if self.interval is None or self.verdict == CANNOT:
            return OPPOSITE if self.verdict == ABSENT else self.verdict
        low, high = self.interval
        if 0 < self.seeds < SEEDS or low <= -self.margin <= high:
            return UNDECIDED
        return HELD if low > -self.margin else OPPOSITE


@dataclass(frozen=True)
class Claim:
    """A claim of the course.

    text     what is claimed
    source   who claims it: a paper's table, a course's slides
    figure   where in its lecture: "figure 4", "section 6"
    measure  reads committed results; called when the list is written
    lecture  the notebook that puts it to the test, "08_lora"
    control  whether it is meant to fail
    """

    text: str
    source: str
    figure: str
    measure: Callable[[], Finding]
    lecture: str
    control: bool = False

    def decision(self, finding: Finding) -> str:
        """The verdict of the list of claims. A control that holds is held, for all to see."""
        failed = finding.decided in (OPPOSITE, UNDECIDED)
        return CONTROL if self.control and failed else finding.decided


def compared(
    a: Sequence[float], b: Sequence[float], unit: str = "", why: str = "", margin: float = 0.0
) -> Finding:
    """That a is above b, or at most a margin below: both means, their difference, the verdict."""
    d = difference(a, b)
    value = f"{shown(a)} against {shown(b)}{unit}: {d.mean:+.2g} ± {d.error:.2g}, {d.n} seeds"
    held = difference(a, [x - margin for x in b]).held
    return Finding(value, HELD if held else ABSENT, why, d.interval, d.n, margin)


def cannot(why: str) -> Callable[[], Finding]:
    """The measure of a claim that needs what is not here."""
    return lambda: Finding("", CANNOT, why)


def counted(value: str, agrees: bool, why: str = "counted") -> Finding:
    """What was counted, and whether it agrees with the claim."""
    return Finding(value, HELD if agrees else ABSENT, why)


def paper_row(table: str, i: int) -> Finding:
    """What a row of a paper's table counts here, and whether that is what the paper prints."""
    row = get_paper(table).rows[i].result()
    return counted(f"{row['exact']:,.0f}", row["agrees"] is not False, row["why"] or "counted")


def concordance(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau: of all pairs of places, how many have the same order in both less how many
    have the other; a tie counts for neither."""
    one, two = (np.sign(np.subtract.outer(x, x)) for x in (np.ravel(a), np.ravel(b)))
    return float((one * two).sum() / (len(one) * (len(one) - 1)))


def shown(values: Sequence[float]) -> str:
    """A mean to three digits."""
    return f"{float(np.mean(values)):.3g}"


def as_markdown(claims: Sequence[Claim], experiments: Sequence[Experiment] = ()) -> str:
    """The list of claims, lecture by lecture, and which code made the experiments' results."""
    found = [(claim, claim.measure()) for claim in claims]
    counts = Counter((claim.lecture, claim.decision(finding)) for claim, finding in found)
    lectures = sorted({claim.lecture for claim in claims})
    totals = {v: sum(counts[lecture, v] for lecture in lectures) for v in DECISIONS}
    rows: list[tuple[object, ...]] = []
    for lecture in lectures:
        of_it = [counts[lecture, v] for v in DECISIONS]
        rows.append((lecture, sum(of_it), *of_it))
    told = ", ".join(f"{n} {v}" for v, n in totals.items())
    summary = Table(("lecture", "claims", *DECISIONS), rows)
    blocks = [HEAD, f"{len(found)} claims: {told}.", summary.markdown()]
    names = ("claim", "who says so", "where", "measured", "seeds", "verdict")
    for lecture in lectures:
        rows = [
            (c.text, c.source, c.figure, finding.value, finding.seeds or "", _told(c, finding))
            for c, finding in found
            if c.lecture == lecture
        ]
        blocks.append(Table(names, rows, title=f"## [{lecture}]({lecture}.ipynb)").markdown())
    if experiments:
        rows = []
        for e in experiments:
            data = results(e.name)
            seeds = len(data.about["seeds"])
            minutes = f"{60 * data.about['hours']:.0f}"
            rows.append((e.name, len(data.runs), seeds, minutes, data.code(version_of(e))))
        made = Table(("results", "runs", "seeds", "core-minutes", "code that made them"), rows)
        blocks += [CODE, made.markdown()]
    return "\n\n".join(block.rstrip() for block in blocks) + "\n"


def _told(claim: Claim, finding: Finding) -> str:
    """The verdict in words: what an undecided one excludes, and why."""
    decision = claim.decision(finding)
    notes = []
    if decision == UNDECIDED and finding.interval is not None:
        low, high = finding.interval
        notes.append(f"excludes less than {low:+.2g} and more than {high:+.2g}")
    if claim.control and decision != CONTROL:
        notes.append("meant to fail")
    notes += [finding.why] * bool(finding.why)
    return f"**{decision}**" + (f": {'; '.join(notes)}" if notes else "")


def write(claims: Sequence[Claim], experiments: Sequence[Experiment] = ()) -> Path:
    """Write lectures/CLAIMS.md."""
    path, text = folder() / "CLAIMS.md", as_markdown(claims, experiments)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
