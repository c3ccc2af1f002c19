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

from minipeft.course.experiments.runner import difference
from minipeft.course.notebooks import folder
from minipeft.storage.files import write_atomic

HELD, ABSENT, CANNOT = "held", "did not appear", "cannot be shown"
HEAD = """# Claims of the slides, and what was measured

Written by `python -m minipeft.experiments claims` from `data/results/`; do not edit it by hand.

The models here have under four million parameters and know a made world, so a claim can hold here
and fail elsewhere, or the other way round. **Held**: the mean paired difference over at least five
seeds is more than twice its standard error. **Did not appear**: it is not, or the other side is
ahead. **Cannot be shown**: a model, a machine or a fair case is wanting, and the row says which.
± is the standard error of a mean over seeds.
"""


@dataclass(frozen=True)
class Finding:
    """What was measured, with its deviation; the verdict; and why, where one must know."""

    value: str
    verdict: str
    why: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in (HELD, ABSENT, CANNOT):
            raise ValueError(f"a verdict is {HELD!r}, {ABSENT!r} or {CANNOT!r}, "
                             f"got {self.verdict!r}")  # fmt: skip
        if self.verdict == CANNOT and not self.why:
            raise ValueError("what cannot be shown needs a reason")


@dataclass(frozen=True)
class Claim:
    """A claim of the course.

    text     what is claimed
    source   who claims it: a paper's table, a course's slides
    figure   where in its lecture: "figure 4", "section 6"
    measure  reads committed results; called when the list is written
    lecture  the notebook that puts it to the test, "08_lora"
    """

    text: str
    source: str
    figure: str
    measure: Callable[[], Finding]
    lecture: str


def compared(
    a: Sequence[float], b: Sequence[float], unit: str = "", why: str = "", margin: float = 0.0
) -> Finding:
    """That a is above b, or at most a margin below: both means, their difference, the verdict."""
    d = difference(a, b)
    value = f"{shown(a)} against {shown(b)}{unit}: {d.mean:+.2g} ± {d.error:.2g}, {d.n} seeds"
    held = difference(a, [x - margin for x in b]).held
    return Finding(value, HELD if held else ABSENT, why)


def concordance(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau: of all pairs of places, how many have the same order in both less how many
    have the other; a tie counts for neither."""
    one, two = (np.sign(np.subtract.outer(x, x)) for x in (np.ravel(a), np.ravel(b)))
    return float((one * two).sum() / (len(one) * (len(one) - 1)))


def shown(values: Sequence[float]) -> str:
    """A mean to three digits."""
    return f"{float(np.mean(values)):.3g}"


def as_markdown(claims: Sequence[Claim]) -> str:
    """The list of claims, lecture by lecture."""
    found = [(claim, claim.measure()) for claim in claims]
    counts = Counter(finding.verdict for _, finding in found)
    told = ", ".join(f"{counts[v]} {v}" for v in (HELD, ABSENT, CANNOT))
    blocks = [HEAD, f"{len(found)} claims: {told}."]
    for lecture in sorted({claim.lecture for claim in claims}):
        lines = [f"## [{lecture}]({lecture}.ipynb)", "",
                 "| claim | who says so | where | measured | verdict |",
                 "| --- | --- | --- | --- | --- |"]  # fmt: skip
        for claim, finding in found:
            if claim.lecture == lecture:
                verdict = f"**{finding.verdict}**" + (f": {finding.why}" if finding.why else "")
                cells = (claim.text, claim.source, claim.figure, finding.value, verdict)
                lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(block.rstrip() for block in blocks) + "\n"


def write(claims: Sequence[Claim]) -> Path:
    """Write lectures/CLAIMS.md."""
    path, text = folder() / "CLAIMS.md", as_markdown(claims)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
