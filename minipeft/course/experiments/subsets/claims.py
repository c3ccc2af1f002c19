"""What is claimed of top-K, probes, BitFit and forgetting, read off the results of runs.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from minipeft.course.experiments.claims import (
    ABSENT,
    CANNOT,
    HELD,
    Claim,
    Finding,
    compared,
    concordance,
    shown,
)
from minipeft.course.experiments.runner import BASE, results
from minipeft.course.experiments.subsets.runs import DEPTHS, UNTRAINED
from minipeft.ledger import get_paper

AS_GOOD = 2.0  # points that "as good as" may lack
WAYS = tuple((m, slower) for m in ("full", "top-2", "bitfit", "lora") for slower in (1, 3))


def _scores(a: str, b: str, task: str = "sentiment", margin: float = 0.0, why: str = "") -> Finding:
    """One subset above another, seed by seed."""
    data = results("subset_scores")
    first, second = (data.where("accuracy", task=task, method=m) for m in (a, b))
    return compared(first, second, " %", why, margin)


def _fewer(a: str, b: str) -> Finding:
    """As `_scores`, and how many numbers the two train."""
    few, many = (results("subset_scores").mean("trainable", method=m) for m in (a, b))
    return _scores(a, b, why=f"with {few:,.0f} numbers against {many:,.0f}")


def _where(task: str) -> Finding:
    """The last block above the third, trained alone."""
    data = results("subset_where")
    last, third = (data.where("accuracy", task=task, method=f"block-{i}") for i in (5, 2))
    return compared(last, third, " %")


def _probe(depth: int, name: str = BASE) -> Sequence[float]:
    """Accuracy of the probe at the last place on what leaves so many blocks, seed by seed."""
    return [
        row[depth] for row in results("subset_probe").where("last", task="sentiment", base=name)
    ]


def _above_probe(k: int) -> Finding:
    """Top-K above the probe on what enters its blocks."""
    top = results("subset_scores").where("accuracy", task="sentiment", method=f"top-{k}")
    return compared(top, _probe(len(DEPTHS) - k), " %")


def _pretrained(name: str) -> Finding:
    """On the base above the same on untrained blocks."""
    known = results("subset_scores").where("accuracy", task="sentiment", method=name)
    none = results("subset_untrained").where("accuracy", method=name)
    return compared(known, none, " %")


def _last(key: str, method: str, slower: int = 1, task: str = "remap-values") -> Sequence[float]:
    """What is seen after the last step, seed by seed."""
    data = results("subset_forgetting")
    return [row[-1] for row in data.where(key, task=task, method=method, slower=slower)]


def _forgets(a: str, b: str, task: str = "remap-values") -> Finding:
    """The first of two methods loses less of the held-out text."""
    return compared(_last("text", b, task=task), _last("text", a, task=task), " nats a token")


def _distance() -> Finding:
    """Over methods and rates, those that went farther from the base lost more of the text."""
    far, text = (np.array([_last(key, *way) for way in WAYS]) for key in ("moved", "text"))
    found = [concordance(a, b) for a, b in zip(far.T, text.T, strict=True)]  # seed by seed
    return compared(found, [0.0] * len(found), why="Kendall's tau of 4 methods at 2 rates")


def _kept(name: str) -> float:
    """Megabytes that the tape holds."""
    return results("subset_cost").mean("kept", method=name) / 1e6


def _depth() -> Finding:
    sizes = [_kept(f"top-{k}") for k in DEPTHS]
    held = all(a < b for a, b in zip(sizes, sizes[1:], strict=False))
    told = f"{', '.join(f'{s:.0f}' for s in sizes)} MB for K = 1 to 6, full {_kept('full'):.0f}"
    return Finding(told, HELD if held else ABSENT, "counted, 16 rows of 64")


def _gradients() -> Finding:
    """Of what top-2 saves, frozen numbers' gradients are the larger part."""
    count = [results("subset_cost").mean("trainable", method=m) for m in ("full", "top-2")]
    gradients, kept = 4e-6 * (count[0] - count[1]), _kept("full") - _kept("top-2")
    return Finding(f"top-2 saves {gradients:.1f} MB of gradients and {kept:.1f} MB of activations",
                   HELD if gradients > kept else ABSENT, "counted, 16 rows of 64")  # fmt: skip


def _few_kept() -> Finding:
    names = ("bitfit", "top-1")
    few, many = (results("subset_cost").mean("trainable", method=m) for m in names)
    told = (f"BitFit trains {few:,.0f} numbers and keeps {_kept('bitfit'):.0f} MB, "
            f"top-1 {many:,.0f} and {_kept('top-1'):.0f} MB")  # fmt: skip
    return Finding(told, HELD if _kept("bitfit") < _kept("top-1") else ABSENT, "counted")


def _cached() -> Finding:
    data, names = results("subset_cost"), ("top-1", "top-2")
    plain, cached = ([data.mean(key, method=m) for m in names] for key in ("step", "cached"))
    told = [f"{c:.0f} ms in place of {p:.0f}" for p, c in zip(plain, cached, strict=True)]
    held = all(c < p for p, c in zip(plain, cached, strict=True))
    return Finding(f"{told[0]} with K = 1, {told[1]} with K = 2", HELD if held else ABSENT,
                   "one machine's clock, medians without seeds")  # fmt: skip


def _computed(table: str, row: str) -> Finding:
    """What a paper's table says a subset trains."""
    found = next(r for r in get_paper(table).rows if r.name == row).result()
    return Finding(f"{found['exact']:,.0f}", HELD if found["agrees"] else ABSENT, "counted")


def _glue() -> Finding:
    data = results("subset_scores")
    told = ", ".join(f"{m} {shown(data.where('accuracy', task='sentiment', method=m))} %"
                     for m in ("full", "top-2", "bitfit"))  # fmt: skip
    return Finding(f"here on sentiment {told}", CANNOT,
                   "there is no GLUE here; adapters have their own lecture")  # fmt: skip


_claim = partial(Claim, lecture="04_topk")
CMU, HOULSBY, ZAKEN = "CMU 10-423", "Houlsby et al. 2019", "Ben Zaken et al. 2022"
CLAIMS = (
    _claim("The last two blocks of GPT-2 medium are 25.19M numbers",
           "Li and Liang 2021; Hu et al. 2021, table 3", "section 5",
           lambda: _computed("e2e", "M  FT-Top2*")),
    _claim("BitFit trains 0.1M numbers of RoBERTa-base", "Hu et al. 2021, table 2", "section 5",
           lambda: _computed("glue", "base  BitFit")),
    _claim("With stop gradient the tape grows with K alone", CMU, "figure 2", _depth),
    _claim("What freezing saves is the frozen numbers' gradients", CMU, "figure 2", _gradients),
    _claim("Who trains few numbers keeps few activations", "the lecture's own question", "figure 2",
           _few_kept),
    _claim("More blocks are better: all of the model above the last block (sentiment)",
           f"{HOULSBY}, figure 3; {CMU}", "figure 3", lambda: _scores("full", "top-1")),
    _claim("All six blocks are as good as full fine-tuning (sentiment, 2 points)",
           "the lecture's own question", "figure 3",
           lambda: _scores("top-6", "full", margin=AS_GOOD)),
    _claim("Small methods in all layers beat the last block (sentiment, BitFit)",
           f"{HOULSBY}, figure 3; {CMU}", "figure 3", lambda: _fewer("bitfit", "top-1")),
    _claim("Small methods in all layers beat the last block (sentiment, LoRA)",
           f"{HOULSBY}, figure 3; {CMU}", "figure 3", lambda: _fewer("lora", "top-1")),
    _claim("Small methods in all layers beat the last block (inference, LoRA)",
           f"{HOULSBY}, figure 3; {CMU}", "figure 3", lambda: _scores("lora", "top-1", "nli")),
    _claim("BitFit is as good as full fine-tuning (sentiment, 2 points)", ZAKEN, "figure 3",
           lambda: _scores("bitfit", "full", margin=AS_GOOD)),
    _claim("BitFit is as good as full fine-tuning (inference, 2 points)", ZAKEN, "figure 3",
           lambda: _scores("bitfit", "full", "nli", AS_GOOD)),
    _claim("The biases of queries and of the MLP's first layer are as good as all (2 points)",
           ZAKEN, "figure 3", lambda: _scores("bitfit-qm", "bitfit", margin=AS_GOOD)),
    _claim("Norms alone are as good as full fine-tuning (sentiment, 2 points)",
           "Zhao et al. 2023", "figure 3", lambda: _scores("norms", "full", margin=AS_GOOD)),
    _claim("Frozen blocks hold what the task needs: the probe after four above that before them",
           f"{CMU}, the question why top-K works", "figure 4",
           lambda: compared(_probe(4), _probe(0), " %")),
    _claim("Pretraining put it there: the probe after four blocks above that of untrained ones",
           "the lecture's own null", "figure 4",
           lambda: compared(_probe(4), _probe(4, UNTRAINED), " %")),
    _claim("The last blocks let go of it: the probe after four blocks above that after six",
           "Alain and Bengio 2016", "figure 4", lambda: compared(_probe(4), _probe(6), " %")),
    _claim("Top-4 does more than read what enters it", "the lecture's own question", "figure 4",
           lambda: _above_probe(4)),
    _claim("Top-2 does more than read what enters it", "the lecture's own question", "figure 4",
           lambda: _above_probe(2)),
    _claim("Top-2 needs a pretrained base", "the lecture's own null", "figure 4",
           lambda: _pretrained("top-2")),
    _claim("Full fine-tuning needs a pretrained base, in 100 steps", "the lecture's own null",
           "figure 4", lambda: _pretrained("full")),
    _claim("What a task needs sits at the top: the last block above the third (sentiment)",
           "said as the reason for top-K", "figure 5", lambda: _where("sentiment")),
    _claim("What a task needs sits at the top: the last block above the third (new contents)",
           "said as the reason for top-K", "figure 5", lambda: _where("remap-values")),
    _claim("Frozen blocks that run once make a step faster", "the lecture's own question",
           "figure 6", _cached),
    _claim("A third of the learning rate forgets less (full fine-tuning, held-out text)",
           "the lecture's own question", "figure 7",
           lambda: compared(_last("text", "full"), _last("text", "full", 3), " nats a token")),
    _claim("Few trained numbers protect: BitFit forgets less than full (new contents)",
           "UW-Madison CS769, its table of methods", "figure 7",
           lambda: _forgets("bitfit", "full")),
    _claim("Few trained numbers protect: BitFit forgets less than full (sentiment)",
           "UW-Madison CS769, its table of methods", "figure 8",
           lambda: _forgets("bitfit", "full", "sentiment")),
    _claim("LoRA forgets less than full fine-tuning (new contents)", "Biderman et al. 2024",
           "figure 7", lambda: _forgets("lora", "full")),
    _claim("LoRA forgets less than full fine-tuning (sentiment)", "Biderman et al. 2024",
           "figure 8", lambda: _forgets("lora", "full", "sentiment")),
    _claim("The farther the weights go, the more is forgotten", "the lecture's own question",
           "figure 7", _distance),
    _claim("Frozen lower blocks keep other tasks: top-2 above full on the known mapping",
           "the lecture's own question", "figure 8",
           lambda: compared(_last("remap", "top-2"), _last("remap", "full"), " %")),
    _claim("Adapters come within 0.4 % of full fine-tuning on GLUE, with 3.6 % of the numbers",
           f"{HOULSBY}, abstract", "figure 3", _glue),
)  # fmt: skip
