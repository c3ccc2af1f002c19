"""Runs of a few steps on a small GPT with LoRA."""

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.methods import LoRA
from minipeft.training import loop as train
from minipeft.training.loop import fit
from tests.tiny import Rows, gpt, tokenizer

VOCAB = tokenizer().vocab_size


def lora(seed=0, **fields):
    """A small GPT with LoRA attached whose B is not 0, and the handle."""
    model = gpt(seed, **fields)
    handle = attach(model, LoRA(r=2, seed=seed))
    for path, p in handle.trainable():
        p.data = (0.1 * Rng(seed, "start", path).normal(p.shape)).astype(p.dtype)
    return model, handle


def values(model):
    """What trains, by path."""
    return {path: p.data.copy() for path, p in train.trainable(model)}


def run(steps=4, model=None, task=None, **settings):
    """A short run; its history and what it trained."""
    model = model or lora()[0]
    settings = {"lr": 0.02, "batch": 3, "quiet": True} | settings
    history = fit(model, task or Rows(VOCAB), steps=steps, **settings)
    return history, values(model)


def same(a, b):
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)
