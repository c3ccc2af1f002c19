"""What is claimed of in-context learning and fine-tuning: read off results, or counted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from minipeft.contract import attach
from minipeft.course.experiments.claims import Claim, Finding, cannot, compared, counted
from minipeft.course.experiments.icl import runs
from minipeft.course.experiments.icl.learning import drawn
from minipeft.course.experiments.runner import BASE, base, results
from minipeft.generation.incontext import in_context
from minipeft.ledger import predict
from minipeft.ledger.table import HALF, TRAINED
from minipeft.methods import Full

CMU = "CMU 10-423 lecture 11"
SOURCES = {"CMU": CMU, "FAIR": f"Mosbach et al. 2023; {CMU}", "PET": "Schick & Schütze 2021",
           "own": "the lecture's own question"}  # fmt: skip
MODELS = dict(zip(("0.2M", "0.9M", "3.1M"), runs.LADDER, strict=True))
OPT = ("125M", "350M", "1.3B", "2.7B", "6.7B", "13B", "30B")  # fine-tuned: the columns below
PRINTED = {  # hundredths; a row for models in context
    "RTE": "125M to 6.7B: 0 1 2 3 12 14 9; 13B: -4 -2 -1 0 9 11 5; 30B: -11 -9 -8 -8 2 3 -2",
    "MNLI": "125M, 350M: 0 0 2 1 10 11 7; 1.3B: -1 0 1 1 10 11 7; 2.7B: -1 0 1 1 9 10 7; "
    "6.7B: -1 -1 1 0 9 10 6; 13B: -3 -3 -2 -2 7 8 4; 30B: -7 -7 -5 -6 3 4 0",
}
DAYS = 6 * 300e9 / 8.64e19  # PF-days a parameter, with the 300B tokens of GPT-3
GPT3 = {"MNLI": (392_702, 40.6, 89.5), "RTE": (2_490, 69.0, 85.4)}  # examples; few-shot, tuned
PAIRS = """
Fine-tuning: the usual recipe works, 64 reviews | CMU | figure 5 | tuned 64 | shown 0
Fine-tuning still works where N is large: 256 reviews above 6 | CMU | figure 5 | tuned 256 | tuned 6
Where N is large: 256 lists above 20 | CMU | figure 5 | tuned 256 lists | tuned 20 lists
In context, without a backward pass: 6 reviews above none | CMU | figure 5 | shown 6 | shown 0
In context: "only API access" is needed, texts suffice | CMU | figure 2 | solved 1 | solved 0
N = ? 256 reviews, fine-tuned, above the 6 that fit | CMU | figure 5 | tuned 256 | shown 6
N = ? 256 lists above the 20 that fit | CMU | figure 5 | tuned 256 lists | shown 20 lists
Equal N, 20 lists: fine-tuning above in context | own | figure 5 | tuned 20 lists | shown 20 lists
20 lists in context are above none | own | figure 5 | shown 20 lists | shown 0 lists
Four solved words help to unscramble (0.2M) | CMU | figure 2 | solved 4 0.2M | solved 0 0.2M
Four solved words help to unscramble (0.9M) | CMU | figure 2 | solved 4 | solved 0
Four solved words help to unscramble (3.1M) | CMU | figure 2 | solved 4 3.1M | solved 0 3.1M
More solved words help more: 16 above 4 | CMU | figure 2 | solved 16 | solved 4
Words above a new linear head, 6 reviews | PET | figure 3 | tuned 6 | tuned 6 linear
Words above a new linear head, 64 reviews | PET | figure 3 | tuned 64 | tuned 64 linear
Words with meaning above words without, 6 reviews | own | figure 3 | tuned 6 natural | tuned 6
Shown, elsewhere: 3.1M above 0.2M | FAIR | figure 4 | shown 6 3.1M shift | shown 6 0.2M shift
Tuned, elsewhere: 3.1M above 0.2M | FAIR | figure 4 | tuned 6 3.1M shift | tuned 6 0.2M shift
"""
EACH = """
In domain, 6 reviews: tuned above shown (SIZE) | FAIR | figure 4 | tuned 6 SIZE | shown 6 SIZE
Elsewhere: tuned above shown (SIZE) | FAIR | figure 4 | tuned 6 SIZE shift | shown 6 SIZE shift
"""  # for each model


def printed(task: str) -> dict[str, list[int]]:
    """The slide's table: models in context -> hundredths, for each fine-tuned model of OPT."""
    rows = (row.split(": ") for row in PRINTED[task].split("; "))
    return {name: [int(n) for n in numbers.split()] for name, numbers in rows}


def of(told: str) -> list[float]:
    """Percent right, seed by seed: of "tuned 6 0.2M shift", "shown 20 lists", "solved 4", ...

    tuned, shown   on or after so many reviews, in the domain of training or with "shift" in the
                   other; of "lists"; with "linear" by a new head, with "natural" words
    solved         unscrambled after so many words
    """
    way, n, *more = told.split()
    model = next((MODELS[size] for size in more if size in MODELS), BASE)
    if way == "solved":
        return results("icl_unscramble").where("exact", base=model, k=int(n))
    kinds = {"lists": runs.LISTS, "linear": runs.LINEAR, "natural": runs.NATURAL}
    kind = next((kinds[word] for word in more if word in kinds), runs.REVIEWS)
    split = "shift" if "shift" in more else "test"
    return results(f"icl_{way}").where(split, **kind | {"n": int(n)}, base=model)


@cache
def flops(length: int) -> tuple[int, int]:
    """Forward and backward, of one text through tiny-gpt."""
    with attach(base(), Full()):
        found = predict(base(), batch=1, length=length).flops
    return found["forward"], found["backward"]


@cache
def cost() -> tuple[int, int, int, float]:
    """Tokens of a call without and with six reviews; FLOPs of training on them; calls until then.

    After so many calls the training is paid back by shorter prompts.
    """
    train, asked = (drawn(runs.REVIEWS | {"seed": 0}, split, 6) for split in ("train", "test"))
    short, long = (
        round(np.mean([len(base().tokenizer.encode(in_context(shown, e))) for e in asked]))
        for shown in ([], train)
    )
    training = runs.FEW["sentiment-shift"] * 6 * sum(flops(short + 1))
    return short, long, training, training / (flops(long)[0] - flops(short)[0])


def _pair(told: str, other: str) -> Finding:
    n = min(len(of(told)), len(of(other)))
    return compared(of(told)[:n], of(other)[:n], " %")


SIZES = (
    ("GPT-2", "1.5B", "about 10B"), ("GPT-3", "175B", "300B"), ("PaLM", "540B", "780B"),
    ("Chinchilla", "70B", "1.4T"), ("LaMDA", "137B", "1.56T"), ("LLaMA", "65B", "1.4T"),
    ("LLaMA-2", "70B", "2T"), ("LLaMA-3", "405B", "15T"),
)  # fmt: skip


def _rows() -> Iterator[tuple[str, str, str, Any]]:
    for row in filter(
        None, (PAIRS + "".join(EACH.replace("SIZE", size) for size in MODELS)).split("\n")
    ):
        text, source, figure, a, b = row.split(" | ")
        yield text, SOURCES[source], figure, lambda a=a, b=b: _pair(a, b)
    for name, (n, few, tuned) in GPT3.items():
        yield (f"GPT-3 on {name}: {few} % few-shot, {tuned} % fine-tuned on {n:,} examples", CMU,
               "section 6", cannot("GPT-3 is not here; quoted"))  # fmt: skip
    for name, parameters, tokens in SIZES:
        yield (f"{name} has {parameters} parameters and read {tokens} tokens", CMU, "section 7",
               cannot("it is not here; quoted"))  # fmt: skip
    for task in PRINTED:
        for name, x in printed(task).items():
            yield (f"{task}, OPT {name} in context: {x[0]:+d} points beside 125M fine-tuned, "
                   f"{x[5]:+d} beside 13B, {x[6]:+d} beside 30B", SOURCES["FAIR"], "section 5",
                   cannot("OPT is not here; quoted"))  # fmt: skip
        table = np.array([*printed(task).values()])
        up = (table[:, 5] > table[:, 0]).all() and (table[-1] < table[0]).all()
        yield (f'The values printed for {task} are "ICL less FT"', f"{SOURCES['FAIR']}, caption",
               "section 5", lambda up=up: counted("they rise with the fine-tuned model and fall "
               "with the one in context", not up, "so they are FT less ICL"))  # fmt: skip
    for text, figure, measure in COUNTED:
        yield text, CMU, figure, measure


COUNTED: tuple[tuple[str, str, Any], ...] = (
    ('Fine-tuning: you "might not have access to the weights"', "section 1",
     cannot("a matter of licences")),
    ('In context: the examples "might not fit into the context"', "section 2",
     lambda: counted("of 256 tokens: {} reviews or {} lists fit".format(*runs.FULL), True)),
    ("Fine-tuning: a step takes 3 times the time of a forward pass", "section 7", lambda: counted(
        f"{sum(flops(128)) / flops(128)[0]:.2f} times the FLOPs",
        flops(128)[1] == 2 * flops(128)[0])),
    ("Fine-tuning: it takes 3 times the memory", "section 7", lambda: counted(
        f"{TRAINED} bytes a parameter with Adam against {HALF}, before any activation",
        TRAINED == 3 * HALF)),
    ("In context: O(N²), so that cost grows faster than the prompt", "section 7", lambda: counted(
        f"twice the prompt: {flops(256)[0] / flops(128)[0]:.2f} times the FLOPs",
        flops(256)[0] > 2 * flops(128)[0], "counted; attention alone 4 times")),
    ("Training pays where calls are many: within 10 000 calls (6 reviews)", "figure 6",
     lambda: counted(f"after {cost()[3]:.0f} calls", cost()[3] < 10_000)),
    ("GPT-3 with 175B parameters took 50 PF-days", "section 7",
     lambda: counted(f"6 N D: 2.65B {2.65e9 * DAYS:.0f}, 175B {175e9 * DAYS:,.0f} PF-days", False)),
)  # fmt: skip
CLAIMS = tuple(Claim(*row, "03_finetuning_and_icl") for row in _rows())
