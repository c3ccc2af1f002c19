"""What is claimed of pruning, put to the test in miniature: one function per claim.

All ways to prune share a task, a number of steps and a schedule: nothing goes in the first fifth,
then more and more, and the last three tenths are trained with what is left. Each trains at the
rate that did best in `pruning_rates`. Only the soft kind cannot be swept so, as it keeps fewer
weights the faster it learns. The tickets are found in the paper's net for digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.contract import Attached, Method, attach
from minipeft.course.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, always, grid
from minipeft.course.experiments.subspaces.digit_net import DigitNet, accuracy, pictures
from minipeft.course.experiments.trials import trial
from minipeft.methods import Full, Magnitude, Movement
from minipeft.methods.magnitude import prune_further, random_masks, rewind
from minipeft.methods.masks import kept, parts, top
from minipeft.tasks import get_task
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit
from minipeft.training.optim import Schedule

MODEL, TASK = "tiny-gpt", "sentiment"
SEEDS = (0, 1, 2, 3, 4)
STEPS, TEST = 400, 300
WARM, COOL, PRUNINGS = 0.2, 0.3, 20
PENALTIES, MIDDLE = (10.0, 100.0, 1000.0), 100.0  # of the soft kind
PACE = 200.0  # how many times as fast as weights soft scores learn
RATE = {  # by share of the weights kept
    "magnitude": {0.5: 3e-3, 0.15: 1e-2, 0.03: 3e-2},
    "movement": {0.5: 3e-3, 0.15: 1e-2, 0.03: 3e-3},
    "random": {0.15: 3e-2, 0.03: 1e-1},
    "at once": {0.15: 1e-2},
}
SOFT_RATE = 1e-3
WHOLE_RATE = Full.lr  # where nothing is pruned
KEPT = (0.5, 0.15, 0.03)
READER, READER_RATE = "tiny-bert", 1e-3  # as in reader_probes; others are tried at 15 % kept
READER_WAYS = ("magnitude", "movement")
WAYS = {"magnitude": KEPT, "movement": KEPT, "random": (0.15, 0.03), "at once": (0.15,)}

# Sanh et al. 2020, table 2, BERT-base, 10 % and 3 % of the weights kept, without distillation
PAPER = {
    "SQuAD, F1": {"magnitude": (80.1, 59.6), "movement": (84.3, 78.0), "soft": (84.9, 82.3)},
    "MNLI": {"magnitude": (78.3, 69.4), "movement": (80.1, 76.5), "soft": (81.2, 79.5)},
}


def rate_of(way: str, share: float) -> float:
    """The rate that was best for a way to prune at the nearest share."""
    swept = RATE.get(way, {share: SOFT_RATE})
    return swept[min(swept, key=lambda s: abs(s - share))]


def chosen(way: str, share: float = 1.0, lam: float = 100.0) -> Method:
    """The method that prunes in that way, to a share of the weights or under a penalty."""
    if way == "soft":
        return Movement(mode="soft", lam=lam, c=PACE, warm=WARM, cool=COOL)
    if way == "movement":
        return Movement(v=share, warm=WARM, cool=COOL)
    gradual = PRUNINGS if way == "magnitude" else 0
    return Magnitude(s=1 - share, n=gradual, t0=WARM, t1=1 - COOL)


def train(way: str, method: Method, s: Settings, split: str = "test") -> Outcome:
    """Fine-tune under a mask; scores, and which weights are left."""
    rate = WHOLE_RATE if s.get("kept") == 1.0 else rate_of(way, s.get("kept", 0.0))
    with trial(base(s.get("base", MODEL)), method, get_task(TASK), s["seed"]) as it:
        at = it.at
        if way == "random":
            random_masks(at, s["seed"])
        history = it.fit(steps=s["steps"], lr=s.get("lr", rate))
        score, left = it.score(split, TEST), kept(at)
        masks = {path: w.mask for path, w in parts(at).items()}
        largest = {path: top(abs(w.base.weight.data), max(1, int(w.mask.sum())))
                   for path, w in parts(at).items()}  # fmt: skip
        size = sum(m.size for m in masks.values())
    return score | {
        "train_loss": float(np.mean(history.loss[-20:])),
        "kept": sum(int(m.sum()) for m in masks.values()) / size,
        "least": min(left.values()),
        "most": max(left.values()),
        "as_large": float(np.mean([(masks[p] & largest[p]).sum() / masks[p].sum()
                                   for p in masks])),
    }  # fmt: skip


# -- the rates -------------------------------------------------------------------------------------

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
READER_RATES = (3e-4, 1e-3, 3e-3, 1e-2)


_rates = grid(
    way=WAYS, kept=lambda s: WAYS[s["way"]], lr=RATES, seed=SEEDS[:2], steps=Axis(STEPS, fast=2)
)
_reader_rates = grid(
    base=READER, way=READER_WAYS, kept=0.15, lr=READER_RATES, seed=SEEDS[:2],
    steps=Axis(STEPS, fast=2),
)  # fmt: skip


def rates(s: Settings) -> Outcome:
    """A way to prune at a learning rate; its score on validation data."""
    return train(s["way"], chosen(s["way"], s["kept"]), s, split="validation")


# -- how many can go, and who chooses --------------------------------------------------------------


def _shares(s: Settings) -> tuple[float, ...]:
    """Those that a way is tried at; that of magnitude also with all weights kept."""
    return ((1.0,) if s["way"] == "magnitude" else ()) + WAYS[s["way"]]


_kept = grid(
    outer="seed", way=always(WAYS), kept=Axis(_shares, fast=0.15), seed=SEEDS,
    steps=Axis(STEPS, fast=2),
)  # fmt: skip


def share_kept(s: Settings) -> Outcome:
    """Fine-tune while all but a share of the weights of the blocks go."""
    return train(s["way"], chosen(s["way"], s["kept"]), s)


_reader = grid(
    outer="seed", base=READER, way=READER_WAYS, kept=_shares, seed=SEEDS, lr=READER_RATE,
    steps=Axis(STEPS, fast=2),
)  # fmt: skip
_soft = grid(
    lam=PENALTIES, seed=lambda s: SEEDS if s["lam"] == MIDDLE else SEEDS[:3],
    steps=Axis(STEPS, fast=2),
)  # fmt: skip


def soft(s: Settings) -> Outcome:
    """Soft movement: the penalty decides how many weights are left, and where."""
    return train("soft", chosen("soft", lam=s["lam"]), s)


# -- how far fine-tuning moves a weight ------------------------------------------------------------

EDGES = np.linspace(-6.0, 2.0, 33)  # of log10 |w - w0| / |w0|


_moves = grid(seed=SEEDS, steps=Axis(STEPS, fast=2))


def moves(s: Settings) -> Outcome:
    """Fine-tune all weights of the blocks, none pruned, and compare them with where they began.

    counts  a histogram of log10 |w - w0| / |w0| over EDGES
    same    of the largest weights of each matrix (KEPT of them), the share that were before
    """
    with trial(base(MODEL), Magnitude(s=0.0), get_task(TASK), s["seed"]) as it:
        it.fit(steps=s["steps"], lr=WHOLE_RATE)
        pairs = [(w.base.weight.data, w.W.data) for w in parts(it.at).values()]
    counts = np.zeros(len(EDGES) - 1)
    for before, after in pairs:
        ratio = abs(after - before) / np.maximum(abs(before), 1e-12)
        logs = np.log10(np.maximum(ratio, 1e-12))
        counts += np.histogram(np.clip(logs, EDGES[0], EDGES[-1]), EDGES)[0]
    first, last = (np.concatenate([pair[i].reshape(-1) for pair in pairs]) for i in (0, 1))
    size = first.size
    return {
        "counts": (counts / size).tolist(),
        "signs": float(np.mean(np.sign(first) != np.sign(last))),
        "tenth": float(np.mean(abs(last - first) > 0.1 * abs(first))),
        "norm": float(np.linalg.norm(last - first) / np.linalg.norm(first)),
        "same": [
            float(np.mean([_shared(before, after, share) for before, after in pairs]))
            for share in KEPT
        ],
    }


def _shared(before: np.ndarray, after: np.ndarray, share: float) -> float:
    """Of the share of largest weights afterwards, how many were among the largest before."""
    k = max(1, round(share * before.size))
    return float((top(abs(before), k) & top(abs(after), k)).sum() / k)


# -- lottery tickets -------------------------------------------------------------------------------

ROUNDS, CUT = 10, 0.36  # two of the paper's rounds at once: 0.8² of the weights are left
CONTROLS = (2, 4, 6, 8, 10)  # rounds after which the controls are trained
LENET = (784, 300, 100, 10)
LAST = "layers.2"  # is cut by half as much, as in the paper
LEARNT, EVERY = 90.0, 20  # percent on validation data, asked for every so many steps


_tickets = grid(seed=SEEDS, steps=Axis(1000, fast=20), n=Axis(8000, fast=400))


def tickets(s: Settings) -> Outcome:
    """Train, prune, rewind, again and again; at some rounds also what the ticket is not.

    again   the same masks, other first weights
    random  the same first weights, as many kept in each part, but any
    """
    source, (data, validation, test) = pictures(s["n"])
    net, seed = DigitNet(*LENET, seed=s["seed"]), s["seed"]
    other = dict(DigitNet(*LENET, seed=seed + 100).named_parameters())
    out: dict[str, Any] = {"data": source, "left": [], "rounds": list(CONTROLS)}

    judged = Evaluation(lambda m: {"accuracy": accuracy(m, validation)}, every=EVERY)

    def run(name: str) -> None:
        """Train with the masks as they are; the test score and when LEARNT was reached."""
        history = fit(net, data, steps=s["steps"], lr=1.2e-3, batch=60,
                      schedule=Schedule("constant", 0.0), clip=None, seed=seed, quiet=True,
                      evaluation=judged)  # fmt: skip
        out.setdefault(name, []).append(accuracy(net, test))
        soon = [e["step"] for e in history.evaluations if e["accuracy"] >= LEARNT]
        out.setdefault(f"{name}_steps", []).append(soon[0] if soon else s["steps"])

    with attach(net, Magnitude(s=0.0, targets="all-linear")) as at:
        start = {path: p.base.data for path, p in at.trainable() if p.base is not None}
        fresh = {path: other[path.replace(".W", ".weight").replace(".b", ".bias")].data
                 for path in start}  # fmt: skip
        size = sum(w.W.size for w in parts(at).values())
        for number in range(ROUNDS + 1):
            if number:
                prune_further(at, CUT, other={LAST: CUT / 2})
            if number in CONTROLS:
                masks = {path: w.mask for path, w in parts(at).items()}
                rewind(at, fresh)
                run("again")
                random_masks(at, seed)
                rewind(at)
                run("random")
                for path, w in parts(at).items():
                    w.mask = masks[path]
            rewind(at)
            run("ticket")
            out["left"].append(sum(int(w.mask.sum()) for w in parts(at).values()) / size)
    return out


# -- a riddle ------------------------------------------------------------------------------------


def colleague(at: Attached) -> None:
    """Breaks movement pruning: the lecture asks what is wrong. Read this afterwards.

    The scores of the first parts of all MLPs do not train, as when an optimizer was given the
    weights alone.
    """
    for path, w in parts(at).items():
        if path.endswith("fc_in"):
            w.S.requires_grad = False


EXPERIMENTS = (
    Experiment("pruning_rates", "Which learning rate does each way to prune want?", _rates, rates,
               (MODEL,)),
    Experiment("pruning_kept", "How many weights can go, and who should choose them?", _kept,
               share_kept, (MODEL,)),
    Experiment("pruning_reader_rates", "And at which is a BERT pruned?", _reader_rates, rates,
               (READER,)),
    Experiment("pruning_reader", "And of a BERT?", _reader, share_kept, (READER,)),
    Experiment("pruning_soft", "How many weights does each penalty leave, and where?", _soft, soft,
               (MODEL,)),
    Experiment("pruning_moves", "How far does fine-tuning move a weight?", _moves, moves, (MODEL,)),
    Experiment("pruning_tickets", "Are the weights that are left better than others?", _tickets,
               tickets, ()),
)  # fmt: skip
