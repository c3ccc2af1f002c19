"""The grids of the experiments on IA3, and the rates that their brackets have chosen."""

from __future__ import annotations

from minipeft.course.experiments.settings import Axis, always, grid

SEEDS = (0, 1, 2, 3, 4)
FOLDS = (  # what is learnt in pretraining on a mixture is tried on the tasks of the other fold
    ("sentiment", "acceptability", "remap-new", "remap-route"),
    ("nli", "paraphrase", "choice", "truth"),
)
TASKS = FOLDS[0] + FOLDS[1]
FEW, SHOTS = 50, (0, 1, 2, 4)  # examples to train on, as RAFT gives, and in the context

# T-Few's losses on choice
LOSSES = ("LM", "LM + LN", "LM + UL", "LM + UL + LN")
LOSS_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
BEST, MOVED = 1e-3, 1e-2  # of all losses: the lower edge, where little moves; and the one run
loss_rates = grid(
    loss=LOSSES, lr=LOSS_RATES, seed=SEEDS[:3], steps=Axis(80, fast=2), split="validation",
    test=Axis(200, fast=8),
)  # fmt: skip
losses = grid(
    outer="seed", loss=always(LOSSES), lr=MOVED, seed=SEEDS, steps=Axis(80, fast=2),
    split="test", test=Axis(300, fast=8),
)  # fmt: skip

# one recipe for every task
RECIPE_RATES, MIXED_RATES = (3e-3, 1e-2, 3e-2), (1e-3, 3e-3, 1e-2)
RECIPE, MIXED = 1e-2, 1e-3  # of the recipe; and of pretraining, where it is the lower edge
SWEPT = ("sentiment", "acceptability", "truth", "remap-route")
ARMS = ("prompted", "T-Few", "T-Few, pretrained")
MIXING = 200  # steps
recipe_rates = grid(
    task=SWEPT, arm=ARMS[1], lr=RECIPE_RATES, seed=SEEDS[:3], steps=Axis(100, fast=2),
    mixed=0, mixed_lr=0, split="validation", test=Axis(100, fast=8),
) + grid(
    outer="mixed_lr seed", task=SWEPT, arm=ARMS[2], lr=RECIPE, seed=0,
    steps=Axis(100, fast=2), mixed=Axis(MIXING, fast=2), mixed_lr=MIXED_RATES,
    split="validation", test=Axis(100, fast=8),
)  # fmt: skip
EDGES = ("paraphrase", "choice")  # tiny-gpt cannot learn the one, and nearly solves the other
CORE = tuple(task for task in TASKS if task not in EDGES)
tasks = grid(
    outer="seed", task=Axis(CORE, fast=TASKS[1]), arm=always(ARMS[:2]), lr=RECIPE, seed=SEEDS,
    steps=Axis(100, fast=2), mixed=0, mixed_lr=0, split="test", test=Axis(200, fast=8),
) + grid(
    outer="seed", task=EDGES, arm=ARMS[:2], lr=RECIPE, seed=SEEDS, steps=Axis(100, fast=2),
    mixed=0, mixed_lr=0, split="test", test=Axis(200, fast=8),
) + grid(
    outer="seed", task=Axis(SWEPT, fast=()), arm=ARMS[2], lr=RECIPE, seed=SEEDS, steps=100,
    mixed=MIXING, mixed_lr=MIXED, split="test", test=200,
)  # fmt: skip

# what is in the vectors
vectors = grid(
    task="remap-route", lr=3e-2, seed=SEEDS, steps=Axis(150, fast=4), test=Axis(200, fast=8)
)

# kin
KIN = {  # and the rates that are tried
    "ia3": (1e-2, 3e-2, 1e-1), "ln_tuning": (1e-3, 3e-3, 1e-2), "bitfit": (3e-4, 1e-3, 3e-3),
    "lora": (1e-3, 3e-3, 1e-2),
}  # fmt: skip
RATE_OF_KIN = {"ia3": 1e-2, "ln_tuning": 3e-3, "bitfit": 1e-3, "lora": 3e-3}  # IA3's: the edge
kin_rates = grid(
    method=KIN, lr=lambda s: KIN[s["method"]], seed=SEEDS[:3], steps=Axis(150, fast=4),
    split="validation", test=Axis(200, fast=8),
)  # fmt: skip
kin = grid(
    outer="seed", method=always(KIN), lr=lambda s: RATE_OF_KIN[s["method"]], seed=SEEDS[:2],
    steps=Axis(150, fast=4), split="test", test=Axis(200, fast=8),
)  # fmt: skip
