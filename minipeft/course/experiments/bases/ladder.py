"""What size and steps do: held-out loss over the ladder and the checkpoints, and few bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from minipeft.backend import Rng
from minipeft.corpus.pretraining import HELD_OUT_MEGABYTES, rows
from minipeft.course.experiments.runner import Experiment, Outcome, Settings, base
from minipeft.course.experiments.settings import Axis, grid
from minipeft.engine import no_grad
from minipeft.nn import Linear
from minipeft.storage.checkpoint import load_model
from minipeft.training.batches import TokenBatches
from minipeft.training.evaluation import mean_loss
from minipeft.world.town import World

LADDER = ("gpt-0.2m", "tiny-gpt", "gpt-3.1m")
CHECKPOINTS = ("tiny-gpt-0", "tiny-gpt-500", "tiny-gpt-1500", "tiny-gpt-4500", "tiny-gpt-13500")


def held_out(s: Settings) -> Outcome:
    """Loss on held-out text, in nats a token."""
    model = base(s["base"])
    return {"loss": mean_loss(model, _text_rows(model), 32), "parameters": model.num_parameters()}


def _text_rows(model: Any) -> TokenBatches:
    length = model.config.context
    return rows(model.tokenizer, World(0), 0, "validation", HELD_OUT_MEGABYTES, length)


def rounding(s: Settings) -> Outcome:
    """Every matrix of the blocks to round-to-nearest weights, 64 to a scale: KL to the model."""
    model, rounded = base(s["base"]), load_model(s["base"])
    for path, module in rounded.named_modules():
        if path.startswith("blocks.") and isinstance(module, Linear):
            module.weight.data = nearest_levels(module.weight.data, s["bits"])
    data, parts = _text_rows(model).rows[:64, :-1], []
    with no_grad():
        for i in range(0, len(data), 16):
            p, q = (_log_softmax(m(data[i : i + 16]).data) for m in (model, rounded))
            parts.append((np.exp(p) * (p - q)).sum(-1).mean(-1))  # of each row
    kl = np.concatenate(parts)
    means = [kl[Rng(0, "boot", i).integers(0, len(kl), kl.shape)].mean() for i in range(200)]
    return {"kl": float(kl.mean()), "error": float(np.std(means))}


def nearest_levels(w: np.ndarray, bits: int, block: int = 64) -> np.ndarray:
    """Weights rounded to 2^bits - 1 even levels between -absmax and absmax of their block."""
    flat = np.pad(w.ravel(), (0, -w.size % block)).reshape(-1, block)
    top = 2 ** (bits - 1) - 1
    scale = np.abs(flat).max(1, keepdims=True) / top
    scale[scale == 0] = 1
    return (np.rint(flat / scale) * scale).ravel()[: w.size].reshape(w.shape).astype(w.dtype)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


_settings = grid(probe="held_out", base=(*LADDER, *CHECKPOINTS)) + grid(
    probe="rounding", base=Axis(LADDER, fast=()), bits=(4, 3)
)


def _probe(s: Settings) -> Outcome:
    return held_out(s) if s["probe"] == "held_out" else rounding(s)


EXPERIMENTS = (
    Experiment(
        "ladder", "Does the loss fall with size and with steps, and what do few bits cost?",
        _settings, _probe, bases=(*LADDER, *CHECKPOINTS),
    ),
)  # fmt: skip
