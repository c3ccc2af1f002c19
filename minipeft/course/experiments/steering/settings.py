"""The grids of the experiments on steering, and the rates that their bracket has chosen."""

from __future__ import annotations

from typing import Any

from minipeft.course.experiments.settings import Axis, grid

SEEDS = (0, 1, 2, 3, 4)  # each draws the pairs anew
HEAD, ALPHA, N, SHOTS = (2, 0), 5.0, 30, 10  # block and head; how many pairs, solved questions
QUESTIONS = {"validation": 200, "test": 332, "transfer": 400}
BESIDE = ("sentiment", "choice", "remap", "summary")  # tasks that the base has learnt
KINDS = (("context", 10), ("context", 3), ("marked", 0), ("statement", 0))
WAYS = [{"way": way, "shots": shots} for way, shots in KINDS]
ALPHAS = (-5.0, 0.0, 3.0, 5.0, 8.0, 15.0, 25.0)
TRIED = ((1, "probe", "mean", 5.0), (1, "mean", "probe", 5.0), (8, "mean", "mean", 5.0),
         (8, "mean", "mean", 1.0))  # fmt: skip
FOUND = [{"k": k, "theta": theta, "rank": rank, "alpha": a} for k, theta, rank, a in TRIED]
SIZES = {"known": (1, 10), "found": (10, 300)}  # of pairs, by how the head is chosen
PAIRS = [{"n": n, "head": head} for head, sizes in SIZES.items() for n in sizes]
RATES = {"full": (1e-4, 3e-4, 1e-3, 3e-3), "lora": (1e-3, 3e-3, 1e-2, 3e-2)}
RATE = {"full": 1e-3, "lora": 1e-2}  # the best of steering_rates
WHOLE = [{"splits": ["test", "transfer"]}]
TEST: dict[str, Any] = {"split": "test", "seed": SEEDS}
TUNED: dict[str, Any] = {"outer": "seed", "steps": Axis(60, fast=2)}

alpha = grid(outer="seed", n=N, alpha=Axis(ALPHAS, fast=5.0), split="test", free=1, seed=SEEDS)
alpha += grid(n=N, alpha=Axis(ALPHAS[2:5], fast=()), split="validation", seed=SEEDS[:3])
ways = grid(outer="seed", of=Axis(WAYS, fast=WAYS[2:3]), n=Axis(100, fast=8), seed=SEEDS)
heads = grid(outer="seed", n=N, of=FOUND, **TEST)
random = grid(outer="seed", alpha=(ALPHA, 10.0), n=Axis(4, fast=2), seed=SEEDS)
pairs = grid(outer="seed", of=PAIRS, alpha=ALPHA, **TEST)
rates = grid(by=tuple(RATES), lr=lambda s: RATES[s["by"]], seed=SEEDS[:3],
             of=[{"splits": ["validation"]}], **TUNED)  # fmt: skip
against = grid(by=Axis("base", fast=()), seed=0, of=WHOLE)
against += grid(by=Axis(("steering", "full", "lora"), fast="full"), seed=SEEDS, of=WHOLE,
                lr=lambda s: RATE.get(s["by"], 0.0), **TUNED)  # fmt: skip
against += grid(outer="seed", by=Axis(("shots", "shots+steering"), fast=()), seed=SEEDS,
                of=[{"splits": ["test"]}])  # fmt: skip
