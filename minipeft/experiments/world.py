"""What the world must carry: for each lecture, the effect that it will stand on.

Every probe asks a frozen base, or trains it for a moment, and says in figures whether the effect
is there at all. Where a method is not the point, its bare computation stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import Rng
from minipeft.batches import ImageBatches, TaskBatches
from minipeft.checkpoint import load_model
from minipeft.engine import Tensor, no_grad, ops
from minipeft.experiments.activations import Watch, activations
from minipeft.experiments.baselines import bag_of_words, ridge
from minipeft.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.generate import score_many
from minipeft.methods import Full, Method, Where, Wrapper, attach
from minipeft.models import build
from minipeft.nn import Module, Parameter, init
from minipeft.tasks import MINI_VTAB, Example, Pattern, get_image_task, get_task
from minipeft.tasks.lexicon import LABELS
from minipeft.tasks.narrators import disputed, probes
from minipeft.tasks.world import World
from minipeft.train import evaluate, fit, mean_loss, task_batches

SEEDS = (0, 1, 2, 3, 4)
TEST = 200  # examples
PARTS = ("train", "validation", "test")
PAIRED = ("sentiment", "nli", "paraphrase", "acceptability")  # what BERT is asked to read


# -- examples in the context -----------------------------------------------------------------------


def shown(examples: Sequence[Example], asked: str) -> str:
    """A prompt that begins with solved examples."""
    return "\n".join([*(e.prompt + e.target for e in examples), asked])


def pattern_of(words: str, seed: int) -> int | Pattern:
    """The task's first pattern, or one whose label words mean nothing here."""
    if words == "natural":
        return 0
    one, two = Rng(seed, "words").permutation(len(LABELS))[:2]
    return Pattern("Input: {x}\nOutput:", (f" {LABELS[one]}", f" {LABELS[two]}"))


def in_context(s: Settings) -> Outcome:
    """k solved examples before each question: how often the answer is right."""
    model, seed = base(), s["seed"]
    pattern = pattern_of(s["words"], seed)
    test = get_task("sentiment").load("test", TEST, pattern=pattern)
    train = get_task("sentiment").load("train", max(2, s["k"]), seed, pattern)[: s["k"]]
    return {"accuracy": _accuracy(model, train, test)}


def order(s: Settings) -> Outcome:
    """The same four examples in ten orders; and what is answered to an input without content."""
    model, seed = base(), s["seed"]
    pattern = pattern_of(s["words"], seed)
    test = get_task("sentiment").load("test", TEST, pattern=pattern)
    train = get_task("sentiment").load("train", 4, seed, pattern)
    empty = test[0].prompt.replace(_text(test[0], pattern), "N/A")
    scores, calibrated, bias = [], [], []
    for i in range(10):
        mixed = [train[j] for j in Rng(seed, "order", i).permutation(4)]
        logs = _scores(model, mixed, test)  # (n, 2)
        free = np.array(score_many(model, [(shown(mixed, empty), test[0].options)])[0])
        labels = np.array([e.label for e in test])
        scores.append(100 * float((logs.argmax(1) == labels).mean()))
        calibrated.append(100 * float(((logs - free).argmax(1) == labels).mean()))
        bias.append(float(1 / (1 + np.exp(free[1] - free[0]))))
    return {
        "accuracy": float(np.mean(scores)),
        "spread": max(scores) - min(scores),
        "calibrated": float(np.mean(calibrated)),
        "calibrated_spread": max(calibrated) - min(calibrated),
        "content_free": float(np.mean(np.abs(np.array(bias) - 0.5)) + 0.5),
    }


def _text(example: Example, pattern: int | Pattern) -> str:
    """What stands in the prompt where the pattern has {x}."""
    template = (
        pattern if isinstance(pattern, Pattern) else get_task("sentiment").patterns[pattern]
    ).template
    before, after = template.split("{x}")
    return example.prompt.removeprefix(before).removesuffix(after)


def _scores(model: Any, train: Sequence[Example], test: Sequence[Example]) -> np.ndarray:
    return np.array(score_many(model, [(shown(train, e.prompt), e.options) for e in test]))


def _accuracy(model: Any, train: Sequence[Example], test: Sequence[Example]) -> float:
    labels = np.array([e.label for e in test])
    return 100 * float((_scores(model, train, test).argmax(1) == labels).mean())


def few(s: Settings) -> Outcome:
    """Sixteen examples: to train on, and as many as fit into the context to be shown."""
    model, task, seed = base(), get_task(s["task"]), s["seed"]
    train = task.load("train", 16, seed)
    test, shift = (task.load(split, TEST) for split in ("test", "shift"))
    most = 16
    while True:  # the longest question decides how many fit
        try:
            icl = {"icl": _accuracy(model, train[:most], test),
                   "icl_shift": _accuracy(model, train[:most], shift)}  # fmt: skip
            break
        except ValueError:
            most -= 2
    with attach(model, Full()):
        fit(model, TaskBatches.of(model, train), steps=60, seed=seed, quiet=True)
        tuned = {split: _accuracy(model, [], e) for split, e in (("test", test), ("shift", shift))}
    return {**icl, "icl_shots": most, "tuned": tuned["test"], "tuned_shift": tuned["shift"]}


def shortcut(s: Settings) -> Outcome:
    """Full fine-tuning where the writer tells the sign, asked where he lies."""
    model, seed = base(), s["seed"]
    task = get_task("sentiment-shift")
    frozen = {k: evaluate(model, task, k, n=TEST)["accuracy"] for k in ("test", "shift")}
    with attach(model, Full()):
        fit(model, task_batches(model, task, "train", 1000, 0, seed), steps=150, seed=seed,
            quiet=True)  # fmt: skip
        tuned = {k: evaluate(model, task, k, n=TEST)["accuracy"] for k in ("test", "shift")}
    return {"frozen": frozen["test"], "frozen_shift": frozen["shift"],
            "tuned": tuned["test"], "tuned_shift": tuned["shift"]}  # fmt: skip


# -- what the layers hold --------------------------------------------------------------------------


def layers(s: Settings) -> Outcome:
    """A linear classifier on each layer of the frozen base; beside it, fine-tuning in full."""
    model, task = base(s["base"]), get_task(s["task"])
    parts = {split: task.load(split, n) for split, n in
             (("train", 1000), ("validation", 300), ("test", 500))}  # fmt: skip
    states = {split: activations(model, [e.prompt for e in part], "blocks.*", s["pool"])
              for split, part in parts.items()}  # fmt: skip
    labels = {split: np.array([e.label for e in part]) for split, part in parts.items()}
    probe = [
        ridge(*((states[split][path], labels[split]) for split in PARTS))
        for path in states["train"]
    ]
    return {"probe": probe}


def tuned(s: Settings) -> Outcome:
    """Full fine-tuning on a thousand examples, words counted, and the frozen base."""
    model, task, seed = base(s["base"]), get_task(s["task"]), s["seed"]
    train, test = task.load("train", s["n"], seed), task.load("test", 500)
    frozen = evaluate(model, task, "test", n=500)["accuracy"]
    with attach(model, Full()) as at:
        fit(model, TaskBatches.of(model, train), steps=s["steps"], seed=seed, lr=s["lr"],
            batch=32, quiet=True)  # fmt: skip
        score = evaluate(model, task, "test", n=500)["accuracy"]
        moved = _moved(at)
    return {"frozen": frozen, "tuned": score, "words": bag_of_words(train, test), **moved}


def _moved(at: Any) -> dict[str, float]:
    """How far fine-tuning moved the blocks' matrices: |ΔW| / |W|, and elements by size."""
    pairs = [
        (p.data, at.clones[path].base.data)
        for path, p in at.trainable()
        if path.startswith("blocks.") and p.ndim == 2
    ]
    change = np.concatenate([(a - b).ravel() for a, b in pairs])
    start = np.concatenate([b.ravel() for _, b in pairs])
    return {
        "moved": float(np.linalg.norm(change) / np.linalg.norm(start)),
        "moved_a_tenth": float((np.abs(change) < 0.1 * start.std()).mean()),
        "correlation": float(np.corrcoef(start, start + change)[0, 1]),
    }


# -- generation, prompts, scoring ------------------------------------------------------------------


def overfit(s: Settings) -> Outcome:
    """Full fine-tuning on few records: the loss on them, and on others."""
    model, task, seed = base(), get_task("table-to-text"), s["seed"]
    train = task_batches(model, task, "train", s["n"], 0, seed)
    other = task_batches(model, task, "validation", TEST, 0)
    with attach(model, Full()):
        history = fit(
            model, train, steps=300, seed=seed, quiet=True, evaluate_every=20,
            evaluation=lambda m: {"other": mean_loss(m, other)},
        )  # fmt: skip
        there = mean_loss(model, train)
    curve = [e["other"] for e in history.evaluations]
    return {"train": there, "other": curve[-1], "best": min(curve)}


BLANK = "\0"  # a byte that no text holds: its places are the prompt's


@dataclass(frozen=True)
class Rows(Method):
    """k trained rows in front, put where the text has blanks."""

    name: ClassVar[str] = "rows"
    compose: ClassVar[str] = "input"
    identity: ClassVar[str] = "the rows are read as text is"

    blank: int = 0
    k: int = 10
    seed: int = 0
    targets: str | tuple[str, ...] = ("emb.tok",)

    def wrap(self, path: str, module: Any, where: Where) -> Front:
        like = module.weight.data
        rows = like[where.rng.integers(0, len(like), (self.k,))]
        return Front(module, Parameter(init.copy(rows)), self.blank)


class Front(Wrapper):
    """emb[ids], but P[i] at the i-th blank of a row."""

    def __init__(self, base: Module, rows: Parameter, blank: int) -> None:
        super().__init__(base)
        self.rows, self.blank = rows, blank

    def forward(self, ids: Any) -> Tensor:
        here = ids == self.blank
        number = np.where(here, here.cumsum(axis=1) - 1, 0)
        y: Tensor = self.base(ids)
        return ops.where(here[..., None], self.rows[number], y)


def prompt(s: Settings) -> Outcome:
    """Ten trained rows before the text, the model frozen."""
    model, task, seed = base(), get_task(s["task"]), s["seed"]
    blank = model.tokenizer.encode(BLANK)[0]

    def led(split: str, n: int) -> list[Example]:
        return [replace(e, prompt=10 * BLANK + e.prompt) for e in task.load(split, n, s["seed"])]

    with attach(model, Rows(blank, seed=seed)):
        fit(model, TaskBatches.of(model, led("train", 2000)), steps=300, lr=3e-2, seed=seed,
            quiet=True)  # fmt: skip
        score = _accuracy(model, [], led("test", TEST))
    return {"frozen": _accuracy(model, [], task.load("test", TEST)), "prompt": score}


def scoring(s: Settings) -> Outcome:
    """Options of unequal length: sums of log-probabilities, and means."""
    model, examples = base(), get_task("choice").load("test", 400)
    tokens = np.array([[len(model.tokenizer.encode(o)) for o in e.options] for e in examples])
    label, at = np.array([e.label for e in examples]), np.arange(len(examples))
    found: Outcome = {"right_is_shortest": _shortest(tokens, label)}
    for name, normalize in (("sum", False), ("mean", True)):
        asked = [(e.prompt, e.options) for e in examples]
        said = np.array(score_many(model, asked, normalize=normalize)).argmax(1)
        found[name] = 100 * float((said == label).mean())
        found[f"{name}_shortest"] = _shortest(tokens, said)
        wrong = said != label
        shorter = (tokens[at, said] < tokens[at, label])[wrong]
        found[f"{name}_wrong_is_shorter"] = 100 * float(shorter.mean()) if wrong.any() else 0.0
    return found


def _shortest(tokens: np.ndarray, chosen: np.ndarray) -> float:
    """How often the chosen option is one of the shortest, in percent."""
    return 100 * float((tokens[np.arange(len(tokens)), chosen] == tokens.min(1)).mean())


# -- a base that has read nothing ------------------------------------------------------------------


def untrained(s: Settings) -> Outcome:
    """Full fine-tuning of a base that has read nothing, beside one that has."""
    found = {}
    task, seed = get_task(s["task"]), s["seed"]
    fresh = build(base().config, seed=seed)
    fresh.tokenizer = base().tokenizer
    for name, model in (("untrained", fresh), ("pretrained", base())):
        with attach(model, Full()):
            fit(model, task, steps=400, n=10_000, seed=seed, quiet=True)
            found[name] = evaluate(model, task, "test", n=500)["accuracy"]
    return found


# -- truth, pictures -------------------------------------------------------------------------------


def heads(s: Settings) -> Outcome:
    """Where truth can be read: at the end of a statement, head by head, on other entities.

    The statements are of the facts that the text has judged, one of each entity: so no entity is
    on both sides.
    """
    model = base()
    pairs = probes(World(0), disputed(World(0)))
    texts = [people.removeprefix("People say that ") + value + "."
             for _, people, true, myth in pairs for value in (true, myth)]  # fmt: skip
    labels = np.tile([1, 0], len(pairs))
    subject = np.repeat([hash_of(people) for _, people, _, _ in pairs], 2)
    train = subject < 0.5
    states = activations(model, texts, "attn.head_out", pool="last")
    each = {}
    for path, x in states.items():
        per_head = x.reshape(len(x), model.config.heads, -1)
        for h in range(per_head.shape[1]):
            y = per_head[:, h]
            y = (y - y[train].mean(0)) / (y[train].std(0) + 1e-6)
            direction = y[train & (labels == 1)].mean(0) - y[train & (labels == 0)].mean(0)
            score = y[~train] @ direction
            right = labels[~train] == 1
            # the chance that a true statement scores above a false one
            ranks = np.argsort(np.argsort(score))
            n1, n0 = right.sum(), (~right).sum()
            each[f"{path}.{h}"] = float((ranks[right].sum() - n1 * (n1 - 1) / 2) / (n1 * n0))
    return {"best": max(each.values()), "median": float(np.median(list(each.values()))), **each}


def hash_of(text: str) -> float:
    """A number from 0 to 1 that is the same for one text each time."""
    return float(Rng(0, "entity", text).uniform((1,))[0])


def pictures(s: Settings) -> Outcome:
    """A linear classifier on the frozen ViT, and full fine-tuning."""
    task, seed = get_image_task(s["task"]), s["seed"]
    parts = {split: task.load(split, seed=seed) for split in task.splits}
    model = load_model("tiny-vit", head="linear", classes=len(task.classes), seed=seed)
    states = {split: _pooled(model, part.pixels) for split, part in parts.items()}
    probe = ridge(*((states[k], parts[k].labels) for k in ("train", "validation", "test")))
    with attach(model, Full()):
        train = ImageBatches(parts["train"].pixels, parts["train"].labels)
        fit(model, train, steps=300, lr=TUNED["lr"], batch=32, seed=seed, quiet=True)
        with no_grad():
            said = np.concatenate([model(parts["test"].pixels[i : i + 100]).data.argmax(-1)
                                   for i in range(0, len(parts["test"]), 100)])  # fmt: skip
    return {"probe": probe, "tuned": 100 * float((said == parts["test"].labels).mean())}


def _pooled(model: Any, pixels: np.ndarray) -> np.ndarray:
    """What the head of a ViT sees.  (N, C)"""
    found = []
    with attach(model, Watch("ln_f")) as at, no_grad():
        for i in range(0, len(pixels), 100):
            model(pixels[i : i + 100])
            y = at.wrappers["ln_f"].seen
            found.append(y if y.ndim == 2 else y[:, 0])
    return np.concatenate(found)


# -- as experiments --------------------------------------------------------------------------------

PROBES: dict[str, Callable[[Settings], Outcome]] = {
    "in_context": in_context, "order": order, "few": few, "shortcut": shortcut, "layers": layers,
    "tuned": tuned, "overfit": overfit, "prompt": prompt, "scoring": scoring,
    "untrained": untrained, "heads": heads, "pictures": pictures,
}  # fmt: skip
TUNED: Settings = {"n": 1000, "steps": 400, "lr": 1e-3}


def _world(fast: bool) -> list[Settings]:
    s: list[Settings] = [{"probe": "scoring"}, {"probe": "heads"}]
    if fast:
        return s
    for seed in SEEDS:
        for words in ("natural", "new"):
            s += [{"probe": "in_context", "words": words, "k": k, "seed": seed}
                  for k in (0, 1, 2, 4)]  # fmt: skip
            s += [{"probe": "order", "words": words, "seed": seed}]
        s += [{"probe": "few", "task": t, "seed": seed} for t in ("sentiment-shift", "nli-shift")]
    s += _layers("tiny-gpt")
    for seed in SEEDS[:3]:
        s += _tuned("tiny-gpt", ("sentiment", "nli"), seed)
        s += [{"probe": "overfit", "n": n, "seed": seed} for n in (50, 1000)]
        s += [{"probe": "prompt", "task": t, "seed": seed} for t in ("remap", "remap-new")]
        s += [{"probe": "shortcut", "seed": seed}]
        s += [{"probe": "untrained", "task": t, "seed": seed} for t in ("sentiment", "paraphrase")]
    return s


def _reading(fast: bool) -> list[Settings]:
    s = _layers("tiny-bert")
    return s[-1:] if fast else s + [x for i in SEEDS[:3] for x in _tuned("tiny-bert", PAIRED, i)]


def _seeing(fast: bool) -> list[Settings]:
    s = [{"probe": "pictures", "task": t, "seed": i} for i in SEEDS[:3] for t in MINI_VTAB]
    return s[:1] if fast else s


def _layers(name: str) -> list[Settings]:
    return [{"probe": "layers", "base": name, "task": t, "pool": pool}
            for t in ("sentiment", "nli") for pool in ("mean", "last")]  # fmt: skip


def _tuned(name: str, tasks: Sequence[str], seed: int) -> list[Settings]:
    return [{"probe": "tuned", "base": name, "task": t, "seed": seed, **TUNED} for t in tasks]


def _probe(s: Settings) -> Outcome:
    return PROBES[s["probe"]](s)


EXPERIMENTS = (
    Experiment(
        "world_probes", "Does the world carry what the lectures on GPT will show?", _world, _probe
    ),
    Experiment(
        "reader_probes", "Does BERT read more than words, once tuned?", _reading, _probe,
        bases=("tiny-bert",),
    ),
    Experiment(
        "picture_probes", "Is ViT tuned in full well above a line on its frozen features?",
        _seeing, _probe, bases=("tiny-vit",),
    ),
)  # fmt: skip
