"""What is claimed of LoRA, put to the test in miniature: one function per claim.

The runs start from the shipped base, train on a task's train split and are scored on its test
split with a setting that was fixed before: batch 16, linear decline, the learning rate of the
sweep in rates/runs.py unless a setting says otherwise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.contract import Attached, Method, attach
from minipeft.course.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.trials import score_after
from minipeft.engine import Tensor, no_grad
from minipeft.methods import Full, LoRA
from minipeft.tasks import get_task
from minipeft.training.batches import task_batches
from minipeft.training.loop import fit
from minipeft.training.optim import SGD, AdamW
from minipeft.training.step import loss_of

Vector = np.ndarray

SEEDS = (0, 1, 2, 3, 4)
TEST = 300  # examples
BUDGETS = {  # steps
    "sentiment": (100,), "remap": (60,), "remap-new": (300,), "remap-route": (30, 60, 200),
    "remap-values": (300,),
}  # fmt: skip
APART = BUDGETS | {"remap-route": (60,)}  # at 200 steps all choices are at 98 to 100 %
ALPHA = 16.0
MATRICES = {  # as many numbers train in each: table 5 of the paper, and two rows of our own
    "q": 8, "k": 8, "v": 8, "o": 8, "qk": 4, "qv": 4, "vo": 4, "qkvo": 2,
}  # fmt: skip

# Hu et al. 2021, table 5 (GPT-3, 18M trainable) and table 6 (validation accuracy by rank)
PAPER_MATRICES = {
    "WikiSQL": {"q": 70.4, "k": 70.0, "v": 73.0, "o": 73.2, "qk": 71.4, "qv": 73.7, "qkvo": 73.7},
    "MultiNLI": {"q": 91.0, "k": 90.8, "v": 91.0, "o": 91.3, "qk": 91.3, "qv": 91.3, "qkvo": 91.7},
}
PAPER_RANKS = {
    "WikiSQL": {
        "q": (68.8, 69.6, 70.5, 70.4, 70.0),
        "qv": (73.4, 73.3, 73.7, 73.8, 73.5),
        "qkvo": (74.1, 73.7, 74.0, 74.0, 73.9),
    },
    "MultiNLI": {
        "q": (90.7, 90.9, 91.1, 90.7, 90.7),
        "qv": (91.3, 91.4, 91.3, 91.6, 91.4),
        "qkvo": (91.2, 91.7, 91.7, 91.5, 91.4),
    },
}
RANKS = (1, 2, 4, 8, 64)


def targets(letters: str) -> tuple[str, ...]:
    """("q_proj", "v_proj") of "qv"."""
    return tuple(f"{letter}_proj" for letter in letters)


def train(task: str, method: Method, steps: int, seed: int, n: int | None = None) -> Outcome:
    """Fit a method on the first n examples of a draw of its own; scores on the test split."""
    return score_after(base(), method, get_task(task), seed, "test", TEST, n=n, steps=steps)


# -- which matrices, which rank --------------------------------------------------------------------


_matrices = grid(
    outer="seed task steps",
    task=Axis(BUDGETS, fast="remap-route"), targets=always(MATRICES),
    r=lambda s: MATRICES[s["targets"]], seed=SEEDS,
    steps=lambda s: Axis(BUDGETS[s["task"]], fast=4),
)  # fmt: skip
_ranks = grid(
    outer="seed",
    task=("remap-route", "remap-values", "sentiment"), targets=always(("q", "qv", "qkvo")),
    r=always(RANKS), seed=SEEDS, steps=lambda s: Axis(APART[s["task"]][0], fast=4),
)  # fmt: skip


def adapt(s: Settings) -> Outcome:
    """LoRA of rank r on some of the attention's matrices."""
    method = LoRA(r=s["r"], alpha=ALPHA, targets=targets(s["targets"]), seed=s["seed"])
    return train(
        s["task"], method, s["steps"], s["seed"], n=None if s["task"] == "sentiment" else 10_000
    )


# -- few examples ----------------------------------------------------------------------------------

SIZES = (16, 32, 64, 128, 256, 1000)


_small_data = grid(
    outer="seed n", method=always(("lora", "full")), n=SIZES, seed=SEEDS, steps=Axis(150, fast=4)
)


def few_examples(s: Settings) -> Outcome:
    """LoRA or full fine-tuning on n reviews; both see the same ones."""
    method = LoRA(seed=s["seed"]) if s["method"] == "lora" else Full()
    return train("sentiment", method, s["steps"], s["seed"], n=s["n"])


# -- spectra and subspaces -------------------------------------------------------------------------

SHOWN = "blocks.3.attn.v_proj"  # the part whose spectra are kept whole


def overlap(a: Vector, b: Vector, i: int, j: int) -> Vector:
    """How much of the span of a's first right-singular vectors lies in that of b's first.

    phi(i, j) = ||U_aᵀ U_b||² / min(i, j), Hu et al. 2021, sec. 7.2: 1 where one span holds the
    other, 0 where they are orthogonal; max(i, j) / d on average for random ones in R^d.
    Returns  (i, j): phi for every smaller pair of numbers of vectors too
    """
    cosines = _right(a)[:i] @ _right(b)[:j].T
    sums = np.square(cosines).cumsum(0).cumsum(1)
    return sums / np.minimum(np.arange(1, i + 1)[:, None], np.arange(1, j + 1))


def _right(a: Vector) -> Vector:
    """Right-singular vectors as rows, the strongest first."""
    return np.linalg.svd(a.astype(np.float64), full_matrices=False)[2]


def spectrum(a: np.ndarray) -> np.ndarray:
    """Singular values, the largest first."""
    return np.linalg.svd(a.astype(np.float64), compute_uv=False)


def energy_rank(a: np.ndarray, share: float = 0.9) -> int:
    """How many singular values hold that share of the squared Frobenius norm."""
    squares = np.square(spectrum(a)).cumsum()
    return int(np.searchsorted(squares, share * squares[-1])) + 1


def amplification(delta: np.ndarray, w: np.ndarray, r: int) -> float:
    """||ΔW|| / ||Uᵀ W Vᵀ|| with ΔW's top r directions: how much it adds to what W has there."""
    u, s, vt = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    return float(np.linalg.norm(s[:r]) / np.linalg.norm(u[:, :r].T @ w @ vt[:r].T))


_spectra = grid(
    outer="seed", task=("sentiment", "remap-values"), seed=SEEDS,
    steps=lambda s: Axis(APART[s["task"]][0], fast=4),
)  # fmt: skip


def spectra(s: Settings) -> Outcome:
    """Train in full, and by LoRA of rank 1, 8 (twice) and 64; compare the updates' directions.

    A of one seed is the beginning of a larger A of the same seed, so every run draws another.
    """
    model, parts = base(), [f"blocks.{i}.attn.{m}_proj" for i in range(6) for m in "qv"]
    source = task_batches(model, get_task(s["task"]), "train", None, 0, seed=s["seed"])
    before = {path: model.get(path).weight.data.copy() for path in parts}

    def run(method: Method) -> tuple[dict[str, Vector], dict[str, Vector]]:
        with attach(model, method) as at:
            fit(model, source, steps=s["steps"], seed=s["seed"], quiet=True)
            if isinstance(method, Full):
                return {p: model.get(p).weight.data - before[p] for p in parts}, {}
            made = {p: at.wrappers[p] for p in parts}
            a = {p: w.A.data.copy() for p, w in made.items()}
            return {p: w.scale * (w.B.data @ w.A.data) for p, w in made.items()}, a

    seed = 10 * s["seed"]
    full, _ = run(Full())
    one, a_one = run(LoRA(r=1, seed=seed + 1))
    eight, a_eight = run(LoRA(r=8, seed=seed + 2))
    other, _ = run(LoRA(r=8, seed=seed + 3))
    wide, a_wide = run(LoRA(r=64, seed=seed + 4))

    def mean(f: Callable[[str], Any]) -> Any:
        return np.mean([f(p) for p in parts], axis=0).tolist()

    return {
        "w0": spectrum(before[SHOWN]).tolist(),
        "full": spectrum(full[SHOWN]).tolist(),
        "lora": spectrum(eight[SHOWN])[:8].tolist(),
        "lora_wide": spectrum(wide[SHOWN])[:64].tolist(),
        "rank90_w0": mean(lambda p: energy_rank(before[p])),
        "rank90_full": mean(lambda p: energy_rank(full[p])),
        "rank90_lora": mean(lambda p: energy_rank(eight[p])),
        "rank90_wide": mean(lambda p: energy_rank(wide[p])),
        "one_in_eight": mean(lambda p: overlap(one[p], eight[p], 1, 8)[0]),
        "one_in_eight_a": mean(lambda p: overlap(a_one[p], a_eight[p], 1, 8)[0]),
        "eight_in_wide": mean(lambda p: overlap(eight[p], wide[p], 8, 8)),
        "eight_in_wide_a": mean(lambda p: overlap(a_eight[p], a_wide[p], 8, 8)),
        "seeds": mean(lambda p: overlap(eight[p], other[p], 8, 8)),
        "eight_in_full": mean(lambda p: overlap(eight[p], full[p], 8, 8)),
        "amplification": mean(lambda p: amplification(eight[p], before[p], 4)),
        "amplification_wide": mean(lambda p: amplification(wide[p], before[p], 4)),
    }


# -- scaling ---------------------------------------------------------------------------------------


_rslora = grid(
    optimizer=always(("sgd", "adamw")), rslora=always((False, True)), r=always((1, 4, 16, 64)),
    seed=SEEDS,
)  # fmt: skip


def first_update(s: Settings) -> Outcome:
    """How much the first step changes the adapted parts' outputs on the batch it was made from.

    change  root mean square of s B A x over one batch, over that of W0 x, in the mean over parts
    """
    model = base()
    batch = task_batches(model, get_task("sentiment"), "train", 64, 0).batch(0, 16, s["seed"])
    method = LoRA(r=s["r"], alpha=ALPHA, rslora=s["rslora"], seed=s["seed"])
    with attach(model, method) as at:
        seen: dict[str, Vector] = {}
        for path, wrapper in at.wrappers.items():
            _listen(wrapper, path, seen)
        loss_of(model, batch).backward()
        optimizer = (
            SGD(at.trainable(), lr=1.0)
            if s["optimizer"] == "sgd"
            else AdamW(at.trainable(), lr=1e-3)
        )
        optimizer.step()
        ratios = []
        for path, wrapper in at.wrappers.items():
            w: Any = wrapper
            x = seen[path].reshape(-1, w.base.d_in)
            added = w.scale * (x @ w.A.data.T) @ w.B.data.T
            ratios.append(float(np.linalg.norm(added) / np.linalg.norm(x @ w.base.weight.data.T)))
            vars(w).pop("forward", None)
    return {"change": float(np.mean(ratios))}


def _listen(wrapper: Any, path: str, seen: dict[str, Vector]) -> None:
    """Keep the input of a wrapper's next forward pass."""
    forward = wrapper.forward

    def listening(x: Tensor) -> Tensor:
        seen[path] = x.data.copy()
        return forward(x)

    wrapper.forward = listening


# -- merging ---------------------------------------------------------------------------------------


def cycle(
    weight: Vector, updates: list[Vector], dtype: str, rounds: int, marks: tuple[int, ...] = ()
) -> list[float]:
    """W ← W + BA, W ← W - BA for each update in turn, all of it `rounds` times.

    Returns  the largest |W - W0| after each number of rounds in `marks` (the last by default)
    """
    w0 = weight.astype(dtype)
    w, errors = w0.copy(), []
    for done in range(1, rounds + 1):
        for update in updates:
            w += update.astype(dtype)
            w -= update.astype(dtype)
        if done in (marks or (rounds,)):
            errors.append(float(np.abs(w.astype(np.float64) - w0.astype(np.float64)).max()))
    return errors


def random_updates(weight: Vector, count: int, seed: int, size: float = 0.1) -> list[Vector]:
    """Rank-8 updates of `size` times the weight's norm."""
    d_out, d_in = weight.shape
    made = []
    for i in range(count):
        rng = Rng(seed, "update", i)
        update = rng.normal((d_out, 8)) @ rng.normal((8, d_in))
        made.append(update * (size * float(np.linalg.norm(weight)) / float(np.linalg.norm(update))))
    return made


ROUNDS = (1, 3, 10, 30, 100, 300, 1000)


_drift = grid(
    dtype=always(("float64", "float32", "float16")), adapters=always((1, 8)), seed=SEEDS,
    rounds=Axis(1000, fast=10),
)  # fmt: skip


def drift(s: Settings) -> Outcome:
    """Merge and subtract adapters in turn on a real weight."""
    weight = base().get(SHOWN).weight.data
    updates = random_updates(weight, s["adapters"], s["seed"])
    marks = tuple(m for m in ROUNDS if m <= s["rounds"])
    return {"rounds": marks, "error": cycle(weight, updates, s["dtype"], s["rounds"], marks)}


# -- latency ---------------------------------------------------------------------------------------


_latency = grid(batch=(1, 32), tokens=lambda s: (1, 128) if s["batch"] == 1 else 128)


def latency(s: Settings) -> Outcome:
    """Milliseconds of a forward pass: base, LoRA beside it, LoRA merged; medians, interleaved."""
    model = base()
    ids = Rng(0, "latency").integers(0, model.config.vocab, (s["batch"], s["tokens"]))
    times: dict[str, list[float]] = {"base": [], "unmerged": [], "merged": []}

    def clock(name: str) -> None:
        for _ in range(20 if s["batch"] == 1 else 1):
            began = time.perf_counter()
            model(ids)
            times[name].append(time.perf_counter() - began)

    with no_grad():
        for seed in range(31):
            clock("base")
            at = attach(model, LoRA(seed=seed))
            clock("unmerged")
            at.merge(keep=True)
            clock("merged")
            at.detach()
    # the fastest half of each: what else the machine did is left out
    fast = {k: statistics.median(sorted(v)[: len(v) // 2]) * 1e3 for k, v in times.items()}
    return fast | {
        f"{k}_over_base": 100 * (fast[k] / fast["base"] - 1) for k in ("unmerged", "merged")
    }


# -- a riddle ------------------------------------------------------------------------------------


def colleague(at: Attached) -> None:
    """Breaks an adapter: the lecture asks what is wrong with it. Read this afterwards.

    The A of two parts is lost, as when a file that lacks arrays is loaded as zeros.
    """
    for path in list(at.wrappers)[1::3]:
        lost: Any = at.wrappers[path]
        lost.A.data = np.zeros_like(lost.A.data)


EXPERIMENTS = (
    Experiment("lora_matrices", "Which matrices should LoRA change, at equal cost?", _matrices,
               adapt),
    Experiment("lora_ranks", "Which rank is enough?", _ranks, adapt),
    Experiment("lora_small_data", "LoRA or full fine-tuning, from 16 examples to 1000?",
               _small_data, few_examples),
    Experiment("lora_spectra", "Is the update of low rank, and do runs agree on its directions?",
               _spectra, spectra),
    Experiment("lora_rslora", "How does the first step depend on r and on the scaling?", _rslora,
               first_update),
    Experiment("lora_merge_drift", "How far does W wander when adapters are merged in and out?",
               _drift, drift),
    Experiment("lora_latency", "What does an adapter cost in a forward pass?", _latency, latency,
               timed=("base", "unmerged", "merged", "unmerged_over_base", "merged_over_base")),
)  # fmt: skip
