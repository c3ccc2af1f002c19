"""What is claimed of adapters, read off the results of runs.py and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from minipeft.contract import attach
from minipeft.course.experiments.adapters.runs import SEEDS, STEPS, WIDE
from minipeft.course.experiments.claims import (
    ABSENT,
    HELD,
    Claim,
    Finding,
    cannot,
    compared,
    paper_row,
)
from minipeft.course.experiments.runner import results
from minipeft.ledger import get_paper
from minipeft.methods import Parallel, Prefix
from minipeft.models import build, preset

LECTURE = "05_adapters"
_claim = partial(Claim, lecture=LECTURE)
HOULSBY, DECK, DROP = "Houlsby et al. 2019", "CMU 10-423", "Rücklé et al. 2021"
HE, OWN = "He et al. 2022", "the lecture's own question"
AS_GOOD = 2.0  # points that "as good as" may lack
CLOSE = 5.0  # points below a method's best rate at which a rate still counts
COUNTED = {  # table -> (whose, how its rows of adapters begin)
    "e2e": ("Hu et al. 2021, table 3", "Adapter"),
    "glue": ("Hu et al. 2021, table 2", "Adpt"),
    "gpt3": ("Hu et al. 2021, table 4", "Adapter"),
}


def _scores(a: str, b: str, margin: float = 0.0, steps: int = STEPS) -> Finding:
    """One method above another on the test split, seed by seed; 300 steps are of the other task."""
    data = results("adapter_sizes")
    first, second = (data.where("accuracy", method=m, steps=steps) for m in (a, b))
    few, many = (data.mean("trainable", method=m) for m in (a, b))
    why = f"{few:,.0f} parameters against {many:,.0f}"
    return compared(first, second, " %", why, margin)


def breadth(method: str) -> list[int]:
    """How many of the rates end within CLOSE points of the method's best, seed by seed."""
    found = []
    for seed in SEEDS:
        scores = [
            results("adapter_wide").where("accuracy", method=method, lr=lr, seed=seed)[0]
            for lr in WIDE
        ]
        found.append(sum(score >= max(scores) - CLOSE for score in scores))
    return found


def _wider(a: str, b: str) -> Finding:
    return compared(breadth(a), breadth(b), f" of {len(WIDE)} rates",
                    f"rates half a decade apart, {STEPS} steps")  # fmt: skip


def without(key: str, i: int, drop_most: int = 0) -> Sequence[float]:
    """Accuracy without the adapters of block i, or of the first i blocks, seed by seed."""
    return [row[i] for row in results("adapter_removed").where(key, drop_most=drop_most)]


def _one_block() -> Finding:
    whole = without("first", 0)
    worst = min(range(6), key=lambda i: sum(without("without", i)))
    return compared(without("without", worst), whole, " %", f"block {worst} is missed most",
                    AS_GOOD)  # fmt: skip


def _drift(key: str, a: str, b: str, unit: str, lower: bool = False) -> Finding:
    """At the rate of each method, stopped at 95 %: a above b, or below where less is better."""
    data = results("adapter_drift")
    first, second = (data.where(key, method=m, times=1.0) for m in (a, b))
    return compared(second, first, unit) if lower else compared(first, second, unit)


def _few(a: str, b: str, split: str) -> Finding:
    data = results("adapter_few")
    return compared(data.where(split, method=a), data.where(split, method=b), " BLEU")


def speed(place: str) -> list[float]:
    """Steps until 95 % are right, seed by seed; ten more than there were where they never are."""
    found = results("adapter_places").where("steps_to_95", method=place)
    return [float(n or STEPS + 10) for n in found]


def _sooner(a: str, b: str) -> Finding:
    return compared(speed(b), speed(a), " steps", "how many fewer until 95 % are right")


def _late(key: str) -> Finding:
    """What an adapter adds to a forward pass, for batches from large to small."""
    data = results("adapter_latency")
    cases = ((32, 128), (16, 64), (1, 32))
    over = [data.mean(f"{key}_over_base", batch=b, tokens=t) for b, t in cases]
    told = ", ".join(f"{x:+.0f} % at {b} x {t}" for x, (b, t) in zip(over, cases, strict=True))
    return Finding(told, HELD if 0 < over[0] < over[-1] else ABSENT,
                   "one machine's clock, medians without seeds")  # fmt: skip


def _slower() -> Finding:
    data = results("adapter_latency")
    lin, merged = (data.mean(f"{k}_over_base", batch=1, tokens=32) for k in ("lin", "merged"))
    return Finding(f"{lin:+.0f} % against {merged:+.0f} % over the base, one row of 32",
                   HELD if lin > merged + 1 else ABSENT, "one machine's clock")  # fmt: skip


def _turned(a: str, b: str, margin: float = 0.0) -> Finding:
    data = results("adapter_turned")
    return compared(data.where(a), data.where(b), " %", margin=margin)


def _counted() -> Iterator[Claim]:
    for table, (source, start) in COUNTED.items():
        paper = get_paper(table)
        about = paper.title.partition(":")[0]
        for i, row in enumerate(paper.rows):
            if start in row.name:
                text = f"{about}, {' '.join(row.name.split())} trains {row.printed}"
                yield _claim(text, source, "section 2", partial(paper_row, table, i))


def _mixed() -> Finding:
    """A prefix in attention and a parallel adapter at the MLP, on a model of shapes."""
    bert = build(preset("bert-base"), init="shape")
    prefix = attach(bert, Prefix(n=30, mlp=800))
    both = prefix.count() + attach(bert, Parallel(r=384), freeze=False).count()
    return Finding(f"{both:,}", HELD if f"{both / 1e6:.1f}" == "22.5" else ABSENT, "counted")


def _share() -> Finding:
    """Two products with d r weights beside the 12 d^2 of a block, in percent."""
    d = build(preset("gpt2-medium"), init="shape").config.width
    adapter = 2 * d * 224
    told = f"{100 * adapter / (12 * d * d):.1f} %"
    return Finding(f"r / 6 d = {told}", HELD if told == "3.6 %" else ABSENT, "counted")


CLAIMS = (
    *_counted(),
    _claim("Adapters are as good as full fine-tuning (re-routing, r = 16, 2 points)",
           f"{HOULSBY}, figure 1; {DECK}", "figure 2",
           lambda: _scores("adapter-16", "full", AS_GOOD)),
    _claim("So are those of r = 1 (2 points)", f"{HOULSBY}, 0.5 to 8 % of the parameters",
           "figure 2", lambda: _scores("adapter-1", "full", AS_GOOD)),
    _claim("Adapters beat the last block with far fewer parameters (re-routing)",
           f"{HOULSBY}, figure 3; {DECK}", "figure 2", lambda: _scores("adapter-1", "top-1")),
    _claim("Adapters beat the last two blocks", f"{HOULSBY}, figure 3; {DECK}", "figure 2",
           lambda: _scores("adapter-1", "top-2")),
    _claim("Adapters beat the last block (new contents, 300 steps)", f"{HOULSBY}, figure 3",
           "section 5", lambda: _scores("adapter-4", "top-1", steps=300)),
    _claim("Adapters work over more rates than full fine-tuning", f"{HOULSBY}, section 3.6; {DECK}",
           "figure 3", lambda: _wider("adapter-8", "full")),
    _claim("So does LoRA", OWN, "figure 3",
           lambda: _wider("lora", "full")),
    _claim("Adapters work over more rates than LoRA", OWN, "figure 3",
           lambda: _wider("adapter-8", "lora")),
    _claim("It works even though the grey modules are frozen: an adapter undoes a rotation",
           DECK, "section 4", lambda: _turned("adapter", "turned")),
    _claim("It undoes it whole (2 points)", OWN, "section 4",
           lambda: _turned("adapter", "base", AS_GOOD)),
    _claim("The adapters of any one block can be taken out after training (2 points)",
           f"{HOULSBY}, figure 6", "figure 4", _one_block),
    _claim("Adapters of lower blocks matter less: without block 0 above without block 5",
           f"{HOULSBY}, figure 6", "figure 4",
           lambda: compared(without("without", 0), without("without", 5), " %")),
    _claim("All of them matter: with all above with none", f"{HOULSBY}, figure 6", "figure 4",
           lambda: compared(without("first", 0), without("first", 6), " %")),
    _claim("Without the adapters of the first two blocks, training that left some out is ahead",
           DROP, "figure 4", lambda: compared(without("first", 2, 5), without("first", 2), " %")),
    _claim("Such training costs nothing with all of them in (2 points)", DROP, "figure 4",
           lambda: compared(without("first", 0, 5), without("first", 0), " %", margin=AS_GOOD)),
    _claim("At 95 % right, adapters have moved the states less than full fine-tuning",
           f"{DECK}; He et al. 2021", "figure 5",
           lambda: _drift("cosine", "adapter-8", "full", " (cosine)")),
    _claim("At 95 % right, adapters have forgotten less than full fine-tuning", DECK, "figure 5",
           lambda: _drift("text", "adapter-8", "full", " nats a token", lower=True)),
    _claim("At 95 % right, adapters have forgotten less than LoRA", OWN,
           "figure 5", lambda: _drift("text", "adapter-8", "lora", " nats a token", lower=True)),
    *(_claim(f"With 50 records adapters beat {b} ({split} categories)", source, "section 9",
             partial(_few, "adapter-8", b, split))
      for b, source in (("full", f"{DECK}; Li and Liang 2021, figure 3"), ("lora", OWN))
      for split in ("seen", "unseen")),
    _claim("An adapter's share of the time grows as batch and length fall (Adapter^L)",
           "Hu et al. 2021, table 1", "section 10", lambda: _late("lin")),
    _claim("An adapter's share of the time grows as batch and length fall (Adapter^H)",
           "Hu et al. 2021, table 1", "section 10", lambda: _late("houlsby")),
    _claim("An adapter costs time that merged LoRA does not", "Hu et al. 2021, table 1",
           "section 10", _slower),
    _claim("A parallel adapter learns sooner than a sequential one (beside and behind the MLP)",
           f"{HE}, table 3", "section 11", lambda: _sooner("parallel", "pfeiffer")),
    _claim("Scaling by 4 helps a parallel adapter", f"{HE}, table 5", "section 11",
           lambda: _sooner("parallel-4", "parallel")),
    _claim("Beside the MLP is better than beside attention", f"{HE}, table 4", "section 11",
           lambda: _sooner("parallel", "parallel-attn")),
    _claim("Adapters' scores on E2E and GLUE, and GPT-3's on WikiSQL, MNLI and SAMSum",
           "Hu et al. 2021, tables 2 to 4", "section 2",
           cannot("models and data are not here; the tables are quoted")),
    _claim("Adapter^L of GPT-2 medium, r = 224, adds 3.6 % to the FLOPs", OWN, "section 10",
           _share),
    _claim("Mix-and-Match (prefix of 30, parallel adapters) trains 22.5M of BERT-base",
           f"{HE}, table 6; counted by the library of adapters", "section 11", _mixed),
    _claim("AdapterDrop: 39 % faster for 8 tasks, training up to 60 % faster, sharing one adapter "
           "saves 66 %", DROP, "section 7",
           cannot("serving eight tasks at once is not built; sharing is not either")),
    _claim("BERT-large with adapters is within 0.4 points of full fine-tuning on GLUE, with 3.6 %",
           HOULSBY, "section 5", cannot("BERT-large and GLUE are not here")),
)  # fmt: skip
