"""What is claimed of quantization and QLoRA, read off the results of runs.py."""

from __future__ import annotations

from functools import partial

import numpy as np

from minipeft.backend import Rng
from minipeft.course.experiments.claims import ABSENT, CANNOT, HELD, Claim, Finding, compared
from minipeft.course.experiments.quantization.runs import BASE, LADDER
from minipeft.course.experiments.runner import results
from minipeft.ledger import get_paper
from minipeft.methods import codes

AS_GOOD = 2.0  # points that "as good as" may lack


def _kl(code: str, block: int = 64, double: bool = True) -> np.ndarray:
    """KL per token on resampled documents, in nats.  -> (draws,)"""
    found = results("quant_loss").where("kl_boot", base=BASE, code=code, block=block, double=double)
    return np.array(found[0])


def _less(a: np.ndarray, b: np.ndarray, why: str = "") -> Finding:
    """KL of a below b's, in 97.5 % of the draws."""
    low, high = np.percentile(b - a, (2.5, 97.5))
    value = (f"{a.mean():.3g} against {b.mean():.3g} nats a token: {low:.2g} … {high:.2g} less "
             f"in 95 % of {len(a)} draws of the documents")  # fmt: skip
    return Finding(value, HELD if low > 0 else ABSENT, why, (low, high))


def _outliers() -> Finding:
    data = results("quant_outliers")
    whole, small = (data.where("kl", code="nf4", block=b, factor=16) for b in (0, 16))
    return compared(whole, small, " nats a token")


def _same_function() -> Finding:
    data = results("quant_outliers")
    large, none = (data.where("kl", code="nf4", block=64, factor=f) for f in (64, 1))
    return compared(none, large, " nats a token",
                    "two models that compute the same function lose differently")  # fmt: skip


def _zero_shot(a: str, b: str, margin: float = 0.0) -> Finding:
    """Mean accuracy of one code above another's, in the mean over the ladder, seed by seed."""
    data = results("quant_zero_shot")
    means = [np.mean([data.where("mean", base=m, code=c) for m in LADDER], axis=0) for c in (a, b)]
    return compared(means[0].tolist(), means[1].tolist(), " %", margin=margin)


def _larger() -> Finding:
    """The largest model in four bits above the next in 16, whose Linears take as many."""
    data = results("quant_zero_shot")
    few, many = (data.where("mean", base=b, code=c)
                 for b, c in ((LADDER[-1], "nf4"), (LADDER[-2], "float")))  # fmt: skip
    bits = [data.mean("bits_linear", base=b, code=c) / 1e6
            for b, c in ((LADDER[-1], "nf4"), (LADDER[-2], "float"))]  # fmt: skip
    return compared(few, many, " %", f"{bits[0]:.3g} and {bits[1]:.3g} million bits of Linears")


def _equally_often() -> Finding:
    q, _ = codes.quantize(Rng(0).normal((2**16,)).astype(np.float32), "nf4", 64)
    p = np.bincount(q, minlength=16) / len(q)
    bits = float(-(p * np.log2(p)).sum())
    return Finding(f"the codes are used in {100 * p.min():.1f} to {100 * p.max():.1f} % of cases "
                   f"and carry {bits:.2f} of 4 bits", ABSENT,
                   "a number divided by its block's largest is not normal")  # fmt: skip


def _trained(
    a: tuple[str, str], b: tuple[str, str], task: str = "sentiment", margin: float = 0.0
) -> Finding:
    """(method, outcome) above another, seed by seed."""
    data = results("quant_training")
    first, second = (data.where(key, task=task, method=m) for m, key in (a, b))
    return compared(first, second, " %", margin=margin)


def _computed(row: str) -> str:
    """What the table of QLoRA's memory has in a row."""
    return next(r for r in get_paper("qlora").rows if r.name == row).result()["computed"]


def _fits(size: str) -> Finding:
    told = f"{_computed(f'{size}  training')}, {_computed(f'{size}  training, paged')} with paging"
    return Finding(f"by the ledger {told}, without activations", CANNOT,
                   "there is no GPU and no LLaMA here: the bill is computed, not run")  # fmt: skip


_claim = partial(Claim, lecture="10_quantization")


def _saves() -> Finding:
    value = f"{_computed('and constants in 8 bits')}; {_computed('saved in 65B')} of 65B"
    return Finding(value, HELD, "counted")


def _elo() -> Finding:
    return Finding("not measured", CANNOT, "it needs large models and judges")


OVER = "accuracy"  # of the adapter beside its codes
DETTMERS = "Dettmers et al. 2023"
FP4 = {"fp4": "FP4 (E2M1)", "fp4-bnb": "FP4 as bitsandbytes has it"}
CLAIMS = (
    _claim("Blocks keep an outlier's damage to themselves (NF4, columns 16 times larger)",
           "UW-Madison CS769", "figure 2", _outliers),
    _claim("What a model loses in codes is a matter of the function it computes",
           "the lecture's own question", "figure 2", _same_function),
    _claim("NF4 is information-theoretically optimal: every code is used equally often",
           f"{DETTMERS}, sec. 3", "figure 4", _equally_often),
    _claim("Double quantization brings 4.5 bits to 4.127 and saves 3 GB of 65B",
           f"{DETTMERS}, sec. 3; UW-Madison CS769", "section 8", _saves),
    _claim("Double quantization loses nothing (less than a tenth of NF4's KL)",
           f"{DETTMERS}, sec. 4; UW-Madison CS769", "section 9",
           lambda: _less(_kl("nf4"), 1.1 * _kl("nf4", double=False))),
    *(_claim(f"NF4 loses less than {told} (KL per token)",
             f"{DETTMERS}, sec. 4; UW-Madison CS769", "figure 6",
             partial(lambda c: _less(_kl("nf4"), _kl(c)), code)) for code, told in FP4.items()),
    _claim("NF4 loses less than int4 (KL per token)", f"{DETTMERS}, sec. 4", "figure 6",
           lambda: _less(_kl("nf4"), _kl("int4"))),
    _claim("Blocks of 64 lose less than one constant for a weight (NF4)",
           "UW-Madison CS769", "figure 6",
           lambda: _less(_kl("nf4", double=False), _kl("nf4", 0, False))),
    _claim("NF4 is as good as 16 bits (five tasks untrained, 2 points)",
           f"{DETTMERS}, figure 3", "figure 7", lambda: _zero_shot("nf4", "float", AS_GOOD)),
    *(_claim(f"NF4 is ahead of {told} at equal bits (five tasks untrained)",
             f"{DETTMERS}, figure 3; UW-Madison CS769", "figure 7",
             partial(_zero_shot, "nf4", code)) for code, told in FP4.items()),
    _claim("Four bits are the best: three are behind (five tasks untrained)",
           "Dettmers and Zettlemoyer 2023", "figure 7", lambda: _zero_shot("nf4", "nf3")),
    _claim("At equal bits more weights of four bits beat fewer of sixteen",
           "Dettmers and Zettlemoyer 2023", "figure 7", _larger),
    _claim("QLoRA over NF4 is as good as LoRA over floats (sentiment, 2 points)",
           f"{DETTMERS}, sec. 4; UW-Madison CS769", "figure 8",
           lambda: _trained(("qlora nf4", OVER), ("lora", OVER), margin=AS_GOOD)),
    _claim("QLoRA over NF4 is as good as LoRA over floats (contents must change, 2 points)",
           f"{DETTMERS}, sec. 4; UW-Madison CS769", "figure 8",
           lambda: _trained(("qlora nf4", OVER), ("lora", OVER), "remap-values", AS_GOOD)),
    *(_claim(f"Training over {told} ends behind NF4 (sentiment)", f"{DETTMERS}, sec. 4", "figure 8",
             partial(_trained, ("qlora nf4", OVER), (f"qlora {code}", OVER)))
      for code, told in FP4.items()),
    _claim("LoftQ's start helps where codes are coarse (sentiment, two bits)",
           "Li et al. 2023", "figure 8",
           lambda: _trained(("loftq nf2", OVER), ("qlora nf2", OVER))),
    _claim("Rounding the sum to codes again loses what was learnt (sentiment, two bits)",
           "the lecture's own question", "figure 9",
           lambda: _trained(("qlora nf2", OVER), ("qlora nf2", "requantize"))),
    _claim("Rounding the sum to codes again loses what was learnt (sentiment, NF4)",
           "the lecture's own question", "figure 9",
           lambda: _trained(("qlora nf4", OVER), ("qlora nf4", "requantize"))),
    _claim("Training over codes beats rounding what was trained in floats (sentiment, three bits)",
           "the lecture's own question", "figure 9",
           lambda: _trained(("qlora nf3", OVER), ("lora", "after_nf3"))),
    _claim("A 65B model is fine-tuned in 48 GB", f"{DETTMERS}, abstract; UW-Madison CS769",
           "figure 10", lambda: _fits("65B")),
    _claim("A 33B model is fine-tuned in 24 GB", f"{DETTMERS}, sec. 1; UW-Madison CS769",
           "figure 10", lambda: _fits("33B")),
    _claim("Guanaco 65B reaches 99.3 % of ChatGPT; its Elo is 1022",
           f"{DETTMERS}; UW-Madison CS769", "section 16", _elo),
)  # fmt: skip
