"""What is claimed of IA3, T-Few and LN tuning, read off the results of runs.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from minipeft.contract import attach
from minipeft.course.experiments.claims import ABSENT, CANNOT, HELD, Claim, Finding, compared, shown
from minipeft.course.experiments.ia3.runs import SHARES
from minipeft.course.experiments.ia3.settings import (
    ARMS,
    CORE,
    FEW,
    RATE_OF_KIN,
    SHOTS,
    SWEPT,
    TASKS,
)
from minipeft.course.experiments.runner import base, results
from minipeft.course.experiments.world.context import shown as prompted
from minipeft.ledger import get_paper, predict
from minipeft.methods import IA3
from minipeft.models import build, preset
from minipeft.models.inputs import answer_rows
from minipeft.tasks import Example, get_task

AS_GOOD = 2.0  # points that "as good as" may lack
RAFT = {"T-Few": 75.8, "human": 73.5, "PET": 69.6, "SetFit": 66.9, "GPT-3": 62.7}
NEVER = 160  # steps: more than a run has


def counted(row: str, exact: int = 0) -> Finding:
    """What a row of T-Few's table says, or an exact count, against what the library counts."""
    found = next(r for r in get_paper("tfew").rows if r.name == row).result()
    told = f"{found['exact']:,.0f}; printed: {found['printed']}"
    held = found["exact"] == exact if exact else found["agrees"]
    return Finding(told, HELD if held else ABSENT, found["why"] or "counted")


def places() -> Finding:
    """The counts of GPT-2 small, medium and large at both places."""
    found, agree = [], []
    for name in ("gpt2", "gpt2-medium", "gpt2-large"):
        shape: Any = build(preset(name), init="shape")
        for factor, targets in ((6, IA3.targets), (7, ("q_proj", *IA3.targets))):
            with attach(shape, IA3(targets=targets)) as at:
                found.append(at.count())
            agree.append(found[-1] == factor * shape.config.width * shape.config.layers)
    told = ", ".join(f"{a:,} and {b:,}" for a, b in zip(found[::2], found[1::2], strict=True))
    return Finding(told, HELD if all(agree) else ABSENT, "counted on S, M and L")


def few(task: str, arm: str, key: str = "accuracy") -> Any:
    """Accuracy on one task, seed by seed; of prompts with the number of examples, of SHOTS, that
    is best on this task over all seeds."""
    found = results("ia3_tasks").where(key, task=task, arm=arm)
    if arm == ARMS[0]:
        by_k = np.array(found)  # (seeds, SHOTS)
        return by_k[:, by_k.mean(0).argmax()]
    return np.array(found)


def untouched(task: str) -> Any:
    """Accuracy without training and without examples, seed by seed."""
    found = results("ia3_tasks").where("accuracy", task=task, arm=ARMS[0])
    return np.array(found)[:, 0]


def over(tasks: Sequence[str], of: Any, *more: str) -> Any:
    """The mean over tasks of `few` or `untouched`, seed by seed."""
    return np.mean([of(task, *more) for task in tasks], 0)


def mixture() -> Finding:
    """The recipe from vectors of the mixture against a fresh start, mean of four tasks."""
    return compared(over(SWEPT, few, ARMS[2]), over(SWEPT, few, ARMS[1]), " %")


def recipe(task: str) -> Finding:
    """T-Few's recipe above the best number of examples in the prompt."""
    tasks = CORE if task == "all" else (task,)
    return compared(over(tasks, few, ARMS[1]), over(tasks, few, ARMS[0]), " %")


def raft(other: str) -> Finding:
    """A row of RAFT's table, quoted."""
    here = f"here, mean of six tasks: {shown(over(CORE, few, ARMS[1]))} %, prompts "
    return Finding(f"{RAFT['T-Few']} against {RAFT[other]} % in the paper; {here}"
                   f"{shown(over(CORE, few, ARMS[0]))} %", CANNOT,
                   "needs T0 with 11 billion parameters, and RAFT's eleven tasks")  # fmt: skip


def loss(a: str, b: str, key: str = "accuracy", other: str = "accuracy") -> Finding:
    """T-Few's losses on choice: the first above the second."""
    data = results("ia3_losses")
    return compared(data.where(key, loss=a), data.where(other, loss=b), " %")


def shorter() -> Finding:
    """More than half of the wrong answers have fewer tokens than the right one."""
    found = results("ia3_losses").where("shorter", loss="LM")
    return compared(found, [50.0] * len(found), " %", "of the wrong answers; LM loss")


@cache
def law(kind: str) -> np.ndarray:
    """The FLOPs of a row, "forward" or "backward", with IA3 attached: a polynomial in its length,
    of the second degree, as attention has a product of length times length."""
    lengths = (16, 64, 256)
    with attach(base(), IA3()):
        found = [predict(base(), batch=1, length=length).flops[kind] for length in lengths]
    return np.polyfit(lengths, found, 2)


def flops(task: str, steps: int = 100, batch: int = 8) -> tuple[dict[int, float], float]:
    """FLOPs of one question after k solved examples, by k of SHOTS, and of the recipe's training.

    Every option is a row of its own, as `score` reads it, and nothing is cached.
    """
    model, train = base(), get_task(task).load("train", FEW, 0)
    encode, encode_many = model.tokenizer.encode, model.tokenizer.encode_many

    def mean(kind: str, before: Sequence[Example] = ()) -> float:
        rows = [
            answer_rows(model, encode(prompted(before, e.prompt)), encode_many(list(e.options)))
            for e in train[-20:]
        ]
        return float(sum(np.polyval(law(kind), len(r.ids)) for of in rows for r in of)) / len(rows)

    asked = {k: mean("forward", train[:k]) for k in SHOTS}
    return asked, steps * batch * (mean("forward") + mean("backward"))


def cost() -> Finding:
    """What a question and the training cost, and from which number of questions on it pays."""
    costs = [flops(task) for task in CORE]
    asked = np.mean([list(by_k.values()) for by_k, _ in costs], 0)
    trained = np.mean([whole for _, whole in costs])
    even = trained / (asked[-1] - asked[0])
    told = (f"a question {asked[0] / 1e6:.0f} MFLOPs, with {SHOTS[-1]} examples "
            f"{asked[-1] / 1e6:.0f}; training {trained / 1e9:.0f} GFLOPs: even after "
            f"{even:,.0f} questions")  # fmt: skip
    return Finding(told, HELD if asked[0] < asked[-1] else ABSENT, "counted, nothing cached")


def lost(order: str, share: float) -> Any:
    """Accuracy after this share of elements was set back to 1, seed by seed."""
    return [row[SHARES.index(share)] for row in results("ia3_vectors").where(order)]


def without(kind: str) -> Finding:
    """Vectors of one place set back cost more than as many elements at random."""
    data = results("ia3_vectors")
    ours, null = ([row[kind] for row in data.where(key)] for key in ("without", "at_random"))
    return compared(null, ours, " %", "random elements against the place's own")


def kin(a: str, b: str, key: str = "accuracy", margin: float = 0.0) -> Finding:
    """One of the smallest methods above another, on the validation data of their brackets."""
    first, second = (
        [NEVER if x is None else x for x in results("ia3_kin_rates").where(key, **at)]
        for at in ({"method": m, "lr": RATE_OF_KIN[m]} for m in (a, b))
    )
    unit = {"accuracy": " %"}.get(key, " steps")
    return compared(first, second, unit, "validation data", margin)


def rates() -> Finding:
    """How many times LoRA's rate IA3 wants."""
    ratio = RATE_OF_KIN["ia3"] / RATE_OF_KIN["lora"]
    told = f"{RATE_OF_KIN['ia3']:g} against {RATE_OF_KIN['lora']:g}: {ratio:.0f} times"
    return Finding(told, HELD if 10 <= ratio <= 30 else ABSENT,
                   "the smallest rates within 1.5 points of the best, of three each; IA3's is the "
                   "lower edge")  # fmt: skip


_claim = partial(Claim, lecture="09_ia3")
LIU, DECK = "Liu et al. 2022", "the deck on PEFT methods"
CLAIMS = (
    *(_claim(f"IA3 trains L (d_k + d_v + d_ff) + L (2 d_k + 2 d_v + d_ff) parameters: {n:,} {of}",
             f"{LIU}; {DECK}", "section 2", partial(counted, row, n * size))
      for n, of, row, size in ((540_672, "of T0-3B", "(IA)^3", 1),
                               (1_081_344, "of T0-11B", "(IA)^3 of T0-11B", 4))),
    _claim("The vectors of T0-11B take 4.2 MB", LIU, "section 2",
           lambda: counted("(IA)^3 of T0-11B")),
    _claim("IA3 trains 6 d L parameters of a GPT-2, at PEFT's places 7 d L", f"{LIU}; PEFT",
           "section 2", places),
    _claim("Norms alone are 250K parameters of T0-3B", LIU, "section 9",
           lambda: counted("LayerNorm")),
    _claim("BitFit, with the norms, adds 1.3M parameters to T0-3B", LIU, "section 9",
           lambda: counted("BitFit (with LayerNorm)")),
    *(_claim(f"On RAFT T-Few is above {other}", f"{LIU}, table 2; {DECK}", "figure 3",
             partial(raft, other)) for other in RAFT if other != "T-Few"),
    _claim("One recipe, unchanged, is above prompting with examples (mean of six tasks)", LIU,
           "figure 3", partial(recipe, "all")),
    *(_claim(f"One recipe, unchanged, is above prompting with examples ({task})", LIU, "figure 3",
             partial(recipe, task))
      for task in TASKS),
    _claim("Examples in the prompt help (mean of six tasks, the best number for each)",
           "Brown et al. 2020", "figure 3",
           lambda: compared(over(CORE, few, ARMS[0]), over(CORE, untouched), " %")),
    _claim("Vectors pretrained on a mixture of other tasks are a better start", LIU, "figure 3",
           mixture),
    _claim("Answers ranked by log p per token are above answers ranked by the sum (choice)",
           LIU, "figure 2", partial(loss, "LM", "LM", "mean", "sum")),
    _claim("By the sum, most wrong answers are shorter than the right one", LIU, "figure 2",
           shorter),
    *(_claim(f"{told} (choice)", f"{LIU}, its ablation", "figure 2",
             partial(loss, name, "LM"))
      for name, told in {
          "LM + LN": "The length-normalized loss helps", "LM + UL": "The unlikelihood loss helps",
          "LM + UL + LN": "All three losses are above cross-entropy alone"}.items()),
    _claim("A trained model is cheaper to ask than one that reads examples", f"{LIU}, the title",
           "figure 4", cost),
    _claim("The elements farthest from 1 matter most: 30 % of them set back cost more than 30 % at "
           "random", f"{DECK}, the question which parameters matter", "figure 6",
           lambda: compared(lost("random", 0.3), lost("largest", 0.3), " %")),
    _claim("The 30 % nearest to 1 can go (2 points)", f"{DECK}, the question which parameters "
           "matter", "figure 6",
           lambda: compared(lost("smallest", 0.3), results("ia3_vectors").where("whole"), " %",
                            margin=AS_GOOD)),
    *(_claim(f"The vectors of {kind} matter more than as many elements at random", LIU,
             "figure 6", partial(without, kind)) for kind in ("k_proj", "v_proj", "fc_out")),
    _claim("IA3 wants a rate 10 to 30 times LoRA's", "said of IA3", "section 9", rates),
    _claim("IA3 is as good as LoRA (remap-route, 2 points)", f"{LIU}, figure 2", "section 9",
           lambda: kin("ia3", "lora", margin=AS_GOOD)),
    _claim("IA3 learns more slowly than LoRA (steps to 95 %)", "said of IA3", "section 9",
           lambda: kin("ia3", "lora", "steps_to_95")),
    _claim("LN tuning is as good as IA3 (remap-route, 2 points)", "Zhao et al. 2023", "section 9",
           lambda: kin("ln_tuning", "ia3", margin=AS_GOOD)),
    _claim("IA3 is above BitFit (remap-route)", f"{LIU}, figure 2", "section 9",
           lambda: kin("ia3", "bitfit")),
)  # fmt: skip
