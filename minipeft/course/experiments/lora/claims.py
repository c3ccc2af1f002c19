"""What is claimed of LoRA, read off the results of runs.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.course.experiments.claims import ABSENT, CANNOT, HELD, Claim, Finding, compared, shown
from minipeft.course.experiments.lora.runs import RANKS, energy_rank
from minipeft.course.experiments.runner import results
from minipeft.course.experiments.statistics import difference
from minipeft.ledger import get_paper

ROUTE = {"task": "remap-route", "steps": 60}  # after 200 all choices are level
VALUES = {"task": "remap-values", "steps": 300}
SENTIMENT = {"task": "sentiment", "steps": 100}
AS_GOOD = 2.0  # points that "as good as" may lack


def _examples(n: int, margin: float = 0.0) -> Finding:
    """LoRA above full fine-tuning, from n reviews."""
    data = results("lora_small_data")
    lora, full = (data.where("accuracy", method=m, n=n) for m in ("lora", "full"))
    return compared(lora, full, " %", margin=margin)


def _matrices(a: str, b: str, task: dict[str, Any], why: str = "") -> Finding:
    """One choice of matrices above another, at equal cost."""
    grid = results("lora_matrices")
    first, second = (grid.where("accuracy", targets=x, **task) for x in (a, b))
    return compared(first, second, " %", why)


def _ranks(task: str, letters: str) -> Finding:
    """Rank 1 as good as the largest."""
    low, high = (results("lora_ranks").where("accuracy", task=task, targets=letters, r=r)
                 for r in (RANKS[0], RANKS[-1]))  # fmt: skip
    return compared(low, high, " %", margin=AS_GOOD)


def _query_alone() -> Finding:
    """q, v above q, in the mean over the ranks."""
    data = results("lora_ranks")
    both, alone = (data.curve("accuracy", "r", RANKS, task="sentiment", targets=x)[1].mean(axis=1)
                   for x in ("qv", "q"))  # fmt: skip
    return compared(both.tolist(), alone.tolist(), " %", "in the mean over the ranks 1 to 64")


def _scaling(optimizer: str, rslora: bool, steady: bool) -> Finding:
    """From r = 4 to r = 64 the first change stays within a factor of two, or it does not."""
    data = results("lora_rslora")
    few, many = (np.array(data.where("change", optimizer=optimizer, rslora=rslora, r=r))
                 for r in (4, 64))  # fmt: skip
    ratio = many / few
    moved, two = np.abs(np.log2(ratio)).tolist(), [1.0] * len(ratio)
    d = difference(two, moved) if steady else difference(moved, two)
    return Finding(f"from r = 4 to r = 64 times {_mean(ratio)}", HELD if d.held else ABSENT,
                   interval=d.interval, seeds=d.n)  # fmt: skip


def _drift() -> Finding:
    """W - W0 is 0 after merging and subtracting adapters in turn."""
    data = results("lora_merge_drift")
    ends = {t: [e[-1] for e in data.where("error", dtype=t, adapters=8)]
            for t in ("float32", "float16")}  # fmt: skip
    told = "; ".join(f"{_mean(e)} in {t}" for t, e in ends.items())
    exact = all(not any(e) for e in ends.values())
    return Finding(f"largest error after 1000 rounds of 8 adapters: {told}",
                   HELD if exact else ABSENT,
                   "exact on paper, but each trip is rounded")  # fmt: skip


def _latency() -> Finding:
    told = [", ".join(f"{run['outcome'][f'{k}_over_base']:+.1f}"
                      for run in results("lora_latency").runs)
            for k in ("merged", "unmerged")]  # fmt: skip
    return Finding(f"merged {told[0]} % of the base's time, unmerged {told[1]} %, by rising batch",
                   HELD, "merged, it is the base's own operations; the rest is one machine's "
                   "clock, medians without seeds")  # fmt: skip


def _speed() -> Finding:
    sweep = results("learning_rates")
    full, lora = (sweep.where("step_seconds", method=m) for m in ("full", "lora"))
    gain = 100 * (1 - float(np.mean(lora)) / float(np.mean(full)))
    return Finding(f"here a step takes {gain:.0f} % less time, mean of {len(lora)} runs", CANNOT,
                   "the claim is of GPT-3 on GPUs; ours are 0.9M parameters on a CPU")  # fmt: skip


def _directions(key: str) -> Sequence[float]:
    return results("lora_spectra").where(f"rank90_{key}", task="sentiment")


def _weights() -> Finding:
    """W0 is as narrow as the update."""
    finding = compared([-n for n in _directions("w0")], [-n for n in _directions("full")])
    chance = energy_rank(Rng(0, "chance").normal((96, 96)))
    value = f"{_mean(_directions('w0'))} of 96 directions hold 90 % of W0, {chance} of a random one"
    why = "what is low is the rank of the update, the row above"
    return replace(finding, value=value, why=why)


def _overlap(key: str, floor: float) -> Finding:
    """phi(1, 1) above a value."""
    phi = [float(np.ravel(x)[0]) for x in results("lora_spectra").where(key, task="sentiment")]
    return compared(phi, [floor] * len(phi))


def _amplification() -> Finding:
    found = results("lora_spectra").where("amplification", task="sentiment")
    return compared(found, [1.0] * len(found), " times", "the paper's 21.5 is of GPT-3")


def _computed(row: str) -> str:
    """What the table of GPT-3's memory has in a row."""
    return next(r for r in get_paper("vram").rows if r.name == row).result()["computed"]


def _fewer() -> Finding:
    return Finding(f"{_computed('parameters, fewer')}, q and v with r = 4, counted", HELD,
                   "rounded up")  # fmt: skip


def _memory() -> Finding:
    return Finding(f"by the ledger {_computed('FT')} -> {_computed('LoRA')}, without activations",
                   CANNOT, "there is no GPT-3 here, and the paper gives no account of "
                   "1.2 TB")  # fmt: skip


def _mean(values: Any) -> str:
    """A mean with its standard error."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{shown(values)} ± {error:.2g} ({len(values)} seeds)"


_claim = partial(Claim, lecture="08_lora")
HU = "Hu et al. 2021"
CLAIMS = (
    _claim("Training 2 % of the numbers is as good as training all (1000 reviews, 2 points)",
           f"{HU}, tables 2 to 4", "figure 11", lambda: _examples(1000, AS_GOOD)),
    _claim("With few examples LoRA is ahead of full fine-tuning (16 reviews)",
           f"{HU}, app. F; CMU 10-423", "figure 11", lambda: _examples(16)),
    _claim("With few examples LoRA is ahead of full fine-tuning (128 reviews)",
           f"{HU}, app. F; CMU 10-423", "figure 11", lambda: _examples(128)),
    _claim("10 000 times fewer parameters train in GPT-3", f"{HU}, abstract", "section 6", _fewer),
    _claim("GPT-3's memory in training falls from 1.2 TB to 350 GB", f"{HU}, sec. 4.2", "section 6",
           _memory),
    _claim("Training is 25 % faster", f"{HU}, sec. 4.2", "section 7", _speed),
    _claim("q, v beat q, k at equal cost (sentiment)", f"{HU}, table 5", "figure 5",
           lambda: _matrices("qv", "qk", SENTIMENT)),
    _claim("q, v beat q, k at equal cost (attention must move, 60 steps)", f"{HU}, table 5",
           "figure 4", lambda: _matrices("qv", "qk", ROUTE)),
    _claim("q and v are the best pair (against v, o; contents must change)",
           f"{HU}, table 5, caption", "figure 4",
           lambda: _matrices("qv", "vo", VALUES, "v, o was not tried in the paper")),
    _claim("q and v are the best pair (against v, o; attention must move, 60 steps)",
           f"{HU}, table 5, caption", "figure 4", lambda: _matrices("qv", "vo", ROUTE)),
    _claim("q and k are the ones to adapt where attention must move (60 steps; against v, o)",
           "the lecture's own guess", "figure 4",
           lambda: _matrices("qk", "vo", ROUTE)),
    _claim("Four matrices at a low rank beat one at a high rank "
           "(attention must move, 60 steps; against v)", f"{HU}, sec. 7.1", "figure 4",
           lambda: _matrices("qkvo", "v", ROUTE)),
    _claim("Four matrices at a low rank beat one at a high rank (contents must change; against o)",
           f"{HU}, sec. 7.1", "figure 4",
           lambda: _matrices("qkvo", "o", VALUES, "at this cost o lacks the rank that q, k take")),
    _claim("Rank 1 is as good as rank 64 (sentiment, q, v, 2 points)", f"{HU}, table 6", "figure 6",
           lambda: _ranks("sentiment", "qv")),
    _claim("Rank 1 is as good as rank 64 (attention must move, q, v, 2 points)",
           f"{HU}, table 6", "figure 6", lambda: _ranks("remap-route", "qv")),
    _claim("q alone is behind q, v at any rank (sentiment)", f"{HU}, table 6", "figure 6",
           _query_alone),
    _claim("With alpha/r high ranks hardly change anything at first (gradient descent)",
           "Kalajdzievski 2023", "figure 7", lambda: _scaling("sgd", False, False)),
    _claim("With alpha/r high ranks hardly change anything at first (Adam)",
           "Kalajdzievski 2023", "figure 7", lambda: _scaling("adamw", False, False)),
    _claim("With alpha/sqrt(r) the first change is the same at all ranks (gradient descent)",
           "Kalajdzievski 2023", "figure 7", lambda: _scaling("sgd", True, True)),
    _claim("With alpha/sqrt(r) the first change is the same at all ranks (Adam)",
           "Kalajdzievski 2023", "figure 7", lambda: _scaling("adamw", True, True)),
    _claim("W - B A takes the adapter out again", "CMU 10-423", "figure 8", _drift),
    _claim("No additional latency, once merged", f"{HU}, table 1", "figure 10", _latency),
    _claim("The update is of low rank, full fine-tuning's too: W0 needs more directions",
           f"{HU}, sec. 1", "figure 12",
           lambda: compared(_directions("w0"), _directions("full"), " of 96 hold 90 %")),
    _claim("Weights are already low-rank", "UW-Madison CS769", "figure 12", _weights),
    _claim("r = 1 and r = 8 share their first direction (phi above chance)", f"{HU}, sec. 7.2",
           "figure 13", lambda: _overlap("one_in_eight", 1 / 96)),
    _claim("r = 8 and r = 64 share their first direction (phi above 0.5)", f"{HU}, sec. 7.2",
           "figure 13", lambda: _overlap("eight_in_wide", 0.5)),
    _claim("The update turns up what W0 has but uses little", f"{HU}, sec. 7.3", "figure 13",
           _amplification),
)  # fmt: skip
