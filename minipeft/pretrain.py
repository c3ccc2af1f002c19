"""How the shipped base models are made: the made world's text, one recipe per model."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from minipeft.batches import Batch, TokenBatches
from minipeft.checkpoint import save_model
from minipeft.files import data_dir
from minipeft.models import GPT, preset
from minipeft.tasks.stream import documents
from minipeft.tasks.world import World
from minipeft.text import Tokenizer
from minipeft.train import History, fit, mean_loss


@dataclass(frozen=True)
class Recipe:
    """What a base model is pretrained on and how.

    megabytes  of text for one pass; steps * batch * length tokens are seen in all
    length     of most rows; every `long_every`-th step has rows of the whole context, half as
               many: cheaper than long rows throughout, and the late positions learn too
    """

    version: str = "v0"
    world: int = 0
    seed: int = 0
    megabytes: float = 80.0
    steps: int = 24_000
    batch: int = 16
    length: int = 128
    long_every: int = 8
    optimizer: str = "muon"
    lr: float = 0.02


RECIPES = {"tiny-gpt": Recipe()}
HELD_OUT_MEGABYTES = 0.25


def train_tokenizer(world: World, megabytes: float = 8.0, vocab: int = 2000) -> Tokenizer:
    """The byte-level BPE of all shipped models, from the first text of the stream."""
    return Tokenizer.train(_texts(world, 0, "train", megabytes), vocab)


def _texts(world: World, seed: int, split: str, megabytes: float) -> list[str]:
    """Documents of a split until they hold that much text."""
    left = megabytes * 1e6

    def more(doc: Any) -> bool:
        nonlocal left
        left -= len(doc.text)
        return left > 0

    return [doc.text for doc in takewhile(more, documents(world, seed, split=split))]


def rows(
    tokenizer: Tokenizer, world: World, seed: int, split: str, megabytes: float, length: int
) -> TokenBatches:
    """Text of a split, packed into rows of tokens."""
    ids = tokenizer.encode_many(_texts(world, seed, split, megabytes))
    return TokenBatches.pack(ids, length, tokenizer.end_id, tokenizer.pad_id)


class MixedLengths:
    """Batches of short rows and, every `every`-th step, of long ones with as many tokens."""

    def __init__(self, short: TokenBatches, long: TokenBatches, every: int) -> None:
        self.short, self.long, self.every = short, long, every

    def __len__(self) -> int:
        return len(self.short)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        if (step + 1) % self.every:
            return self.short.batch(step, size, seed)
        ratio = round(self.long.rows.shape[1] / self.short.rows.shape[1])
        return self.long.batch(step // self.every, max(1, size // ratio), seed)


def pretrain(
    name: str,
    path: str | Path | None = None,
    *,
    steps: int | None = None,
    checkpoint: str | Path | None = None,
    quiet: bool = False,
    out: TextIO | None = None,
) -> dict[str, Any]:
    """Make a base model by its recipe and write it, with its card; returns the card.

    path        the file; the shipped place unless told
    steps       fewer for a trial; the recipe's number makes the shipped model
    checkpoint  a file to save the state to, and to go on from
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    steps = steps or recipe.steps
    path = Path(path) if path is not None else data_dir() / "models" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    world = World(recipe.world)
    tokenizer = Tokenizer.load(data_dir() / "tokenizer.json")
    model = GPT(preset(name), seed=recipe.seed)
    texts = tokenizer.encode_many(_texts(world, recipe.seed, "train", recipe.megabytes))
    short, long = (
        TokenBatches.pack(texts, length, tokenizer.end_id, tokenizer.pad_id)
        for length in (recipe.length, model.config.context)
    )
    train = MixedLengths(short, long, recipe.long_every)
    held = rows(
        tokenizer, world, recipe.seed, "validation", HELD_OUT_MEGABYTES, model.config.context
    )
    began = time.time()
    history = fit(
        model, train, steps=steps, optimizer=recipe.optimizer, lr=recipe.lr, batch=recipe.batch,
        seed=recipe.seed, decline="linear", warmup=0.02,
        evaluate_every=max(1, steps // 40), evaluation=lambda m: {"loss": mean_loss(m, held, 32)},
        checkpoint=checkpoint, quiet=quiet, out=out,
    )  # fmt: skip
    card = _card(name, recipe, steps, train, history, time.time() - began)
    save_model(model, path, card, dtype="float16")
    return card


def _card(
    name: str, recipe: Recipe, steps: int, train: MixedLengths, history: History, seconds: float
) -> dict[str, Any]:
    """What a reader may ask of a model: where it comes from and how good it got."""
    curve = [(int(e["step"]), round(e["loss"], 4)) for e in history.evaluations]
    chunk = max(1, len(history.loss) // 40)
    losses = [round(float(np.mean(history.loss[i : i + chunk])), 4)
              for i in range(0, len(history.loss), chunk)]  # fmt: skip
    return {
        "name": name,
        "command": f"minipeft pretrain {name}",
        "recipe": asdict(recipe) | {"steps": steps},
        "tokens_seen": steps * recipe.batch * recipe.length,
        "passes": round(steps * recipe.batch / len(train), 2),
        "hours": round(math.fsum(history.seconds) / 3600, 2) or round(seconds / 3600, 2),
        "validation_loss": curve[-1][1],
        "validation_curve": curve,
        "training_curve": losses,
    }
