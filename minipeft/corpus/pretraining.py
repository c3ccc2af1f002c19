"""How the shipped base models are made: the made world's text or pictures, one recipe each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minipeft.backend import to_numpy
from minipeft.checks import takes, whole
from minipeft.corpus.masking import MaskedBatches
from minipeft.corpus.stream import APART, LATER, documents
from minipeft.display.progress import Progress
from minipeft.engine import no_grad
from minipeft.models import build, preset
from minipeft.storage.checkpoint import save_model
from minipeft.storage.files import data_dir
from minipeft.storage.text import Tokenizer
from minipeft.tasks.shapes import Shapes
from minipeft.training.batches import Batch, ImageBatches, TokenBatches
from minipeft.training.evaluation import mean_loss
from minipeft.training.looks import Evaluation, History
from minipeft.training.loop import fit
from minipeft.training.optim import Schedule
from minipeft.world.town import World


@dataclass(frozen=True)
class Leg:
    """A further stretch of a pretraining, on another mix of the stream's kinds: one of LATER.

    megabytes, steps, lr  as in Recipe; no steps, no leg
    rate, last            of a BERT: the share of the words that are hidden, and of the last words
                          of lines. Where a line ends in a verdict, the words before it are the
                          evidence, and have to be seen
    first         (mix, length, steps): for the first steps rows of another mix, as many tokens:
                  something that is hard to find beside everything else
    """

    mix: str = ""
    megabytes: float = 0.0
    steps: int = 0
    lr: float = 0.0
    rate: float = 0.15
    last: float = 0.0
    first: tuple[str, int, int] = ("", 0, 0)


@dataclass(frozen=True)
class Recipe:
    """What a base model is pretrained on and how.

    megabytes    of text for one pass; steps * batch * length tokens are seen in all
    length       of most rows; every `long_every`-th step has rows of the whole context, half as
                 many: cheaper than long rows throughout, and the late positions learn too
    short        (length, steps): shorter rows, as many more, for the first steps; a BERT finds
                 out sooner that words depend on their neighbours where the rows are short
    rate         of a BERT: the share of the words that are hidden; 15 % is usual, more can be
                 better (Wettig et al. 2023)
    later        a second leg, from where the first has ended
    pictures     of shapes and strokes, for a model of images; there is no text then
    checkpoints  after how many steps the model is written too, the end apart
    """

    version: str = "v1"
    world: int = 0
    seed: int = 0
    megabytes: float = 80.0
    steps: int = 24_000
    batch: int = 16
    length: int = 128
    long_every: int = 8
    short: tuple[int, int] = (0, 0)
    rate: float = 0.15
    later: Leg = Leg()
    pictures: int = 0
    optimizer: str = "muon"
    lr: float = 0.02
    checkpoints: tuple[int, ...] = ()


RECIPES = {
    "tiny-gpt": Recipe(
        steps=28_000,
        checkpoints=(0, 500, 1500, 4500, 13_500),
        later=Leg("context", 60.0, 14_000, 0.015),
    ),
    "gpt-0.2m": Recipe(),
    "gpt-3.1m": Recipe(steps=10_000),
    "tiny-bert": Recipe(
        steps=16_000,
        batch=32,
        length=64,
        short=(32, 2000),
        rate=0.3,
        lr=0.01,
        later=Leg(
            "judgements", 40.0, 13_000, 0.005, rate=0.05, last=1.0, first=("comparisons", 52, 5000)
        ),
    ),
    "tiny-vit": Recipe(
        megabytes=0.0, length=0, long_every=0, pictures=100_000, batch=64, steps=4000
    ),
}
HELD_OUT_MEGABYTES = 0.25
HELD_OUT_PICTURES = 1000


class Rows(Protocol):
    """Rows that batches are made of."""

    rows: np.ndarray

    def __len__(self) -> int: ...
    def batch(self, step: int, size: int, seed: int) -> Batch: ...
    def collate(self, chosen: Any) -> Batch: ...


def train_tokenizer(
    world: World, megabytes: float = 8.0, vocab: int = 2000, quiet: bool = False
) -> Tokenizer:
    """The byte-level BPE of all shipped models, from the first text of the stream."""
    return Tokenizer.train(_texts(world, 0, "train", megabytes, quiet=quiet), vocab)


def _texts(
    world: World,
    seed: int,
    split: str,
    megabytes: float,
    shares: Mapping[str, float] | None = None,
    quiet: bool = True,
) -> list[str]:
    """Documents of a split until they hold that much text; told with quiet=False."""
    stream = documents(world, seed, split=split, shares=shares)
    left = megabytes * 1e6
    show = Progress("making text, kB", round(megabytes * 1e3), quiet=quiet)

    def more(doc: Any) -> bool:
        nonlocal left
        left -= len(doc.text)
        show.update(round(megabytes * 1e3 - left / 1e3))
        return left > 0

    texts = [doc.text for doc in takewhile(more, stream)]
    show.done()
    return texts


def rows(
    tokenizer: Tokenizer, world: World, seed: int, split: str, megabytes: float, length: int
) -> TokenBatches:
    """Text of a split, packed into rows of tokens."""
    ids = tokenizer.encode_many(_texts(world, seed, split, megabytes))
    return TokenBatches.pack(ids, length, tokenizer.end_id, tokenizer.pad_id)


class MixedLengths:
    """Batches of rows of one length and, every `every`-th step, of long ones with as many tokens.

    first, until  other rows for the first steps, as many tokens too
    """

    def __init__(
        self, rows: Rows, long: Rows, every: int, first: Rows | None = None, until: int = 0
    ) -> None:
        self.rows, self.long, self.every = rows, long, every
        self.first, self.until = first, until

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        if (step + 1) % self.every == 0:
            return self._as_many(self.long, step // self.every, size, seed)
        if self.first is not None and step < self.until:
            return self._as_many(self.first, step, size, seed)
        return self.rows.batch(step, size, seed)

    def _as_many(self, other: Rows, step: int, size: int, seed: int) -> Batch:
        """A batch of rows of another length with as many tokens."""
        ratio = other.rows.shape[1] / self.rows.rows.shape[1]
        return other.batch(step, max(1, round(size / ratio)), seed)


@takes(steps=whole(1))
def pretrain(
    name: str,
    path: str | Path | None = None,
    *,
    steps: int | None = None,
    checkpoint: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Make a base model by its recipe and write it, with its card; returns the card.

    path        the file; the shipped place unless told. The recipe's checkpoints are written
                beside it: NAME-STEPS.safetensors
    steps       fewer for a trial, and no second leg; the recipe's number makes the shipped model
    checkpoint  a file to save the state to, and to go on from; a second leg has its own beside it
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if steps is not None:
        recipe = replace(recipe, steps=steps, later=Leg())
    path = Path(path) if path is not None else data_dir() / "models" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    model = build(preset(name), seed=recipe.seed)
    train: Any
    if recipe.pictures:
        train, evaluation = _on_pictures(model, recipe)
    else:
        train, evaluation = _on_text(model, recipe, quiet=quiet)

    def watch(step: int) -> None:
        if step in recipe.checkpoints:
            told = {f"validation_{k}": round(v, 4) for k, v in evaluation(model).items()}
            told = _facts(f"{name}-{step}", name, recipe, step) | told
            save_model(
                model, path.with_name(f"{path.stem}-{step}.safetensors"), told, dtype="float16"
            )

    def leg(source: Any, steps: int, lr: float, state: Any, watch: Any = None) -> History:
        return fit(
            model, source, steps=steps, optimizer=recipe.optimizer, lr=lr, batch=recipe.batch,
            seed=recipe.seed, schedule=Schedule("linear", 0.02), watch=watch, checkpoint=state,
            evaluation=Evaluation(evaluation, every=max(1, steps // 40)), quiet=quiet,
        )  # fmt: skip

    began = time.time()
    history = leg(train, recipe.steps, recipe.lr, checkpoint, watch)
    passes = [recipe.steps * recipe.batch / len(train)]
    later = recipe.later
    if later.steps:
        second = replace(
            recipe, megabytes=later.megabytes, seed=recipe.seed + 1, short=(0, 0), rate=later.rate
        )
        source, _ = _on_text(model, second, later, quiet)
        state = Path(checkpoint).with_suffix(".later.safetensors") if checkpoint else None
        history = _joined(history, leg(source, later.steps, later.lr, state))
        passes.append(later.steps * recipe.batch / len(source))
    told = _facts(name, name, recipe, recipe.steps + later.steps)
    card = told | _story(history, time.time() - began)
    card["passes"] = [round(p, 2) for p in passes]
    save_model(model, path, card, dtype="float16")
    return card


def _joined(first: History, second: History) -> History:
    """Two legs as one run."""
    done = len(first.loss)
    later = [e | {"step": e["step"] + done} for e in second.evaluations]
    return History(
        first.loss + second.loss, first.lr + second.lr, first.seconds + second.seconds,
        first.evaluations + later,
    )  # fmt: skip


Judge = Callable[[Any], dict[str, float]]


def _on_text(
    model: Any, recipe: Recipe, leg: Leg = Leg(), quiet: bool = True
) -> tuple[MixedLengths, Judge]:
    """The text to train on, for the model's kind, and the loss on held-out text.

    leg  the mix, instead of all kinds of text, what is hidden, and what comes first. In a mix of
         APART each document is a row of its own; they are short, and there are no long rows
    """
    world, seed = World(recipe.world), recipe.seed
    tokenizer = Tokenizer.load(data_dir() / "tokenizer.json")
    context = model.config.context

    def packed(
        ids: list[list[int]], length: int, rate: float = 0.15, last: float = 0.0, mix: str = ""
    ) -> Rows:
        made = length if model.causal else length - 2  # a masked row begins with an end token
        make = TokenBatches.apart if mix in APART else TokenBatches.pack
        tokens = make(ids, made, tokenizer.end_id, tokenizer.pad_id)
        return tokens if model.causal else MaskedBatches(tokens, tokenizer, rate, last)

    def train(mix: str) -> list[list[int]]:
        shares = LATER.get(mix)
        texts = _texts(world, seed, "train", recipe.megabytes, shares, quiet)
        return tokenizer.encode_many(texts)

    ids, hiding = train(leg.mix), (recipe.rate, leg.last)
    usual = packed(ids, recipe.length, *hiding, leg.mix)
    long = usual if leg.mix in APART else packed(ids, context, *hiding)
    mix, length, until = leg.first if leg.first[0] else (leg.mix, *recipe.short)
    early = ids if mix == leg.mix else train(mix)
    first = packed(early, length, *hiding, mix) if until else None
    text = tokenizer.encode_many(_texts(world, seed, "validation", HELD_OUT_MEGABYTES))
    held = {"loss": packed(text, context)}
    if not model.causal:  # which reads rows of the usual length well, and whole contexts badly
        held = {"loss": packed(text, recipe.length), "long_loss": held["loss"]}
    return (
        MixedLengths(usual, long, recipe.long_every, first, until),
        lambda m: {name: mean_loss(m, rows, 32) for name, rows in held.items()},
    )


def _on_pictures(model: Any, recipe: Recipe) -> tuple[ImageBatches, Judge]:
    """The pictures to train on, and loss and accuracy on held-out ones."""
    train, held = (
        ImageBatches(images.pixels, images.labels)
        for images in (
            Shapes().load("train", recipe.pictures, recipe.seed),
            Shapes().load("validation", HELD_OUT_PICTURES, recipe.seed),
        )
    )

    def evaluation(m: Any) -> dict[str, float]:
        with no_grad():
            said = [to_numpy(m(held.pixels[i : i + 100]).data).argmax(axis=-1)
                    for i in range(0, len(held), 100)]  # fmt: skip
        right = float((np.concatenate(said) == held.labels).mean())
        return {"loss": mean_loss(m, held, 100), "accuracy": 100 * right}

    return train, evaluation


def _facts(name: str, of: str, recipe: Recipe, steps: int) -> dict[str, Any]:
    """Where a model comes from: its recipe, the command, and how much it has seen."""
    seen = steps * recipe.batch
    return {
        "name": name,
        "command": f"minipeft pretrain {of}",
        "recipe": asdict(recipe),
        "steps": steps,
    } | ({"pictures_seen": seen} if recipe.pictures else {"tokens_seen": seen * recipe.length})


def _story(history: History, seconds: float) -> dict[str, Any]:
    """How good a model got, and how long it took."""
    curve = [(int(e["step"]), round(e["loss"], 4)) for e in history.evaluations]
    chunk = max(1, len(history.loss) // 40)
    losses = [round(float(np.mean(history.loss[i : i + chunk])), 4)
              for i in range(0, len(history.loss), chunk)]  # fmt: skip
    last = {f"validation_{k}": round(v, 4) for k, v in history.evaluations[-1].items()}
    del last["validation_step"]
    return {
        "hours": round(math.fsum(history.seconds) / 3600, 2) or round(seconds / 3600, 2),
        **last,
        "validation_curve": curve,
        "training_curve": losses,
    }
