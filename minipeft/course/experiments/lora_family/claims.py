"""What is claimed of LoRA's family, read off the results of runs.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from minipeft.contract import attach
from minipeft.course.experiments.claims import ABSENT, HELD, Claim, Finding, compared, concordance
from minipeft.course.experiments.lora_family.runs import RANKS
from minipeft.course.experiments.runner import results
from minipeft.methods import LoRA, VeRA
from minipeft.models import build, preset

SENTIMENT, CONTENTS = "sentiment", "remap-values"
AS_GOOD = 2.0  # points that "as good as" may lack
Member = tuple[str, int]
LORA: Member = ("lora", 8)


def _seen(key: str, member: Member, task: str) -> Sequence[float]:
    """One outcome of a method of a rank, seed by seed."""
    return results("lora_family").where(key, task=task, method=member[0], r=member[1])


def _scores(a: Member, b: Member, task: str, margin: float = 0.0) -> Finding:
    """One member above another, and the numbers that they train."""
    few, many = (_seen("trainable", m, task)[0] for m in (a, b))
    first, second = (_seen("accuracy", m, task) for m in (a, b))
    return compared(first, second, " %", f"{few:,d} and {many:,d} numbers", margin)


def _over_the_best(member: Member) -> Finding:
    """A member where contents must change, above LoRA of the rank that does best there."""
    of = {r: float(np.mean(_seen("accuracy", ("lora", r), CONTENTS))) for r in RANKS["lora"]}
    return _scores(member, ("lora", max(of, key=lambda r: of[r])), CONTENTS)


def _early(task: str) -> Finding:
    """PiSSA below LoRA in training loss over the steps 11 to 20."""
    return compared(_seen("early", LORA, task), _seen("early", ("pissa", 8), task), " nats",
                    "each at its own best rate")  # fmt: skip


def _agreement(other: Member) -> Finding:
    """LoRA's lengths and directions change more together than another's."""
    return compared(_seen("agreement", LORA, CONTENTS), _seen("agreement", other, CONTENTS),
                    why="correlation over 24 matrices")  # fmt: skip


def _ten_times() -> Finding:
    """What LoRA and VeRA train on queries and values of RoBERTa-large, which is shaped as BERT."""
    counts = []
    for method in (LoRA(r=8), VeRA(r=256)):
        with attach(build(preset("bert-large"), init="shape"), method) as at:
            counts.append(at.count())
    lora, vera = counts
    return Finding(f"{lora:,d} against {vera:,d}: {lora / vera:.1f} times",
                   HELD if lora >= 10 * vera else ABSENT,
                   "LoRA with r = 8, VeRA with r = 256, counted")  # fmt: skip


def _codes(key: str, name: str, code: str) -> Sequence[float]:
    return results("lora_family_codes").where(key, method=name, code=code)


def _nearer(code: str) -> Finding:
    """LoftQ's start against that of QLoRA."""
    loftq, qlora = (float(np.mean(_codes("error", m, code))) for m in ("loftq", "qlora"))
    return Finding(f"{100 * loftq:.2g} against {100 * qlora:.2g} % of the weights' norm",
                   HELD if loftq < qlora else ABSENT, "counted, r = 8")  # fmt: skip


def _over_codes(code: str) -> Finding:
    loftq, qlora = (_codes("accuracy", m, code) for m in ("loftq", "qlora"))
    return compared(loftq, qlora, " %")


def _ranks(task: str) -> np.ndarray:
    """What AdaLoRA left of mean rank 8.  -> (seeds, blocks, matrices)"""
    return np.array(_seen("ranks", ("adalora", 8), task), dtype=float)


def agreeing(found: np.ndarray) -> list[float]:
    """Of each seed: the mean agreement of its ranks with those of the other seeds."""
    pairs = [[concordance(a, b) for b in found] for a in found]  # (seeds, seeds)
    np.fill_diagonal(tau := np.array(pairs), 0.0)
    return (tau.sum(axis=1) / (len(found) - 1)).tolist()


def _allocated(task: str) -> Finding:
    """Seeds send ranks to the same matrices."""
    given = _ranks(task)
    found = agreeing(given)
    return compared(found, [0.0] * len(found),
                    why=f"Kendall's tau over 24 matrices, from mean rank {given.mean(0).min():.1f} "
                    f"to {given.mean(0).max():.1f}")  # fmt: skip


def _where(high: Callable[[np.ndarray], np.ndarray], low: Callable[[np.ndarray], np.ndarray],
           task: str) -> Finding:  # fmt: skip
    """Some matrices are left more rank than others."""
    first, second = (part(_ranks(task)).mean(axis=(1, 2)).tolist() for part in (high, low))
    return compared(first, second)


_claim = partial(Claim, lecture="08_lora")


def _both(text: str, source: str, figure: str, measure: Callable[[str], Finding]) -> list[Claim]:
    """The same claim on each of the two tasks."""
    tasks = ((SENTIMENT, "sentiment, 60 steps"), (CONTENTS, "contents must change"))
    return [_claim(f"{text} ({of})", source, figure, partial(measure, task)) for task, of in tasks]


LIU, KOPICZKO, MENG = "Liu et al. 2024", "Kopiczko et al. 2023", "Meng et al. 2024"
LI, ZHANG, BIDERMAN = "Li et al. 2023", "Zhang et al. 2023", "Biderman et al. 2024"
CLAIMS = (
    *_both("DoRA is ahead of LoRA of the same rank", f"{LIU}, table 1", "figure 14",
           lambda task: _scores(("dora", 8), LORA, task)),
    *_both("DoRA of half the rank is as good as LoRA, within 2 points", f"{LIU}, table 1",
           "figure 14", lambda task: _scores(("dora", 4), LORA, task, AS_GOOD)),
    _claim("LoRA changes lengths and directions together, full fine-tuning does not",
           f"{LIU}, sec. 3.2", "section 16", lambda: _agreement(("full", 0))),
    _claim("LoRA changes lengths and directions together, DoRA does not", f"{LIU}, sec. 3.2",
           "section 16", lambda: _agreement(("dora", 8))),
    _claim("VeRA trains ten times fewer numbers than LoRA (RoBERTa-large)",
           f"{KOPICZKO}, abstract", "section 16", _ten_times),
    *_both("VeRA is as good as LoRA, within 2 points", f"{KOPICZKO}, table 2", "figure 14",
           lambda task: _scores(("vera", 256), LORA, task, AS_GOOD)),
    *_both("PiSSA learns faster: its loss is lower after 20 steps", f"{MENG}, figure 2",
           "figure 15", _early),
    *_both("PiSSA ends ahead of LoRA", f"{MENG}, table 1", "figure 14",
           lambda task: _scores(("pissa", 8), LORA, task)),
    *_both("AdaLoRA is ahead of LoRA at the same mean rank in the end", f"{ZHANG}, table 1",
           "figure 14", lambda task: _scores(("adalora", 8), LORA, task)),
    *(_claim(f"{said} of rank {r} is ahead of LoRA of its best rank (contents must change)",
             "the lecture's own question", "figure 14", partial(_over_the_best, (name, r)))
      for said, name, r in (("DoRA", "dora", 8), ("VeRA", "vera", 256), ("PiSSA", "pissa", 8),
                            ("AdaLoRA", "adalora", 8), ("LoftQ", "loftq", 8))),
    *_both("Matrices want different ranks: AdaLoRA's seeds agree on which", f"{ZHANG}, figure 3",
           "figure 16", _allocated),
    *_both("Upper blocks are given more rank than lower ones", f"{ZHANG}, figure 3", "figure 16",
           lambda task: _where(lambda r: r[:, 3:], lambda r: r[:, :3], task)),
    *_both("Values and outputs are given more rank than queries and keys",
           "the lecture's own question", "figure 16",
           lambda task: _where(lambda r: r[..., 2:], lambda r: r[..., :2], task)),
    _claim("LoftQ's start is nearer to the weights than their codes (four bits)",
           f"{LI}, sec. 3", "figure 15", lambda: _nearer("nf4")),
    _claim("LoftQ's start is nearer to the weights than their codes (two bits)",
           f"{LI}, sec. 3", "figure 15", lambda: _nearer("nf2")),
    _claim("LoftQ ends ahead of QLoRA (sentiment, 60 steps, four bits)", f"{LI}, sec. 4",
           "figure 15", lambda: _over_codes("nf4")),
    _claim("LoftQ ends ahead of QLoRA (sentiment, 60 steps, three bits)", f"{LI}, sec. 4",
           "figure 15", lambda: _over_codes("nf3")),
    _claim("LoftQ ends ahead of QLoRA (sentiment, 60 steps, two bits)", f"{LI}, sec. 4",
           "figure 15", lambda: _over_codes("nf2")),
    _claim("LoRA learns less where much is to be learnt: full is ahead of r = 32", BIDERMAN,
           "figure 14", lambda: _scores(("full", 0), ("lora", 32), CONTENTS)),
    _claim("More rank learns more where much is to be learnt: r = 32 is ahead of r = 2",
           "the lecture's own question", "figure 14",
           lambda: _scores(("lora", 32), ("lora", 2), CONTENTS)),
)  # fmt: skip
