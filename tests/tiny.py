"""A tokenizer, models and tasks so small that a test may train them."""

from functools import cache

import numpy as np

from minipeft.backend import Rng
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, LLaMA, LLaMAConfig
from minipeft.storage.text import Tokenizer
from minipeft.tasks.base import Example
from minipeft.training.batches import Batch, ImageBatches

ANIMALS = ("cat", "dog", "cow", "hen", "fox", "owl")
SOUNDS = (" meows", " barks", " moos", " clucks", " barks", " hoots")


@cache
def tokenizer():
    """One token for each word of the texts below, or nearly."""
    lines = [f"the {a}{s}. a {a} sleeps." for a, s in zip(ANIMALS, SOUNDS, strict=True)]
    return Tokenizer.train(lines * 3, 320)


def gpt(seed=0, *, context=24, dtype=np.float64, spread=0.3, **fields):
    """A GPT whose weights are large, so that its logits differ; with the tokenizer."""
    config = GPTConfig(vocab=tokenizer().vocab_size, context=context, width=16, layers=2, heads=2,
                       **fields)  # fmt: skip
    model = GPT(config, dtype=dtype)
    for path, p in model.named_parameters():
        p.data = p.data + (spread * Rng(seed, path).normal(p.shape)).astype(dtype)
    model.tokenizer = tokenizer()
    return model


def bert(seed=0, *, context=24, dtype=np.float64, spread=0.3, **fields):
    """The same for a BERT: its table has a row for the mask."""
    config = BERTConfig(vocab=tokenizer().mask_id + 1, context=context, width=16, layers=2, heads=2,
                        **fields)  # fmt: skip
    model = BERT(config, dtype=dtype)
    for path, p in model.named_parameters():
        p.data = p.data + (spread * Rng(seed, path).normal(p.shape)).astype(dtype)
    model.tokenizer = tokenizer()
    return model


def llama(seed=0, *, context=24, dtype=np.float64, spread=0.3, **fields):
    """The same for a LLaMA, whose four heads share two of keys and values."""
    config = LLaMAConfig(vocab=tokenizer().vocab_size, context=context, width=16, layers=2, heads=4,
                         kv_heads=2, mlp=24, **fields)  # fmt: skip
    model = LLaMA(config, dtype=dtype)
    for path, p in model.named_parameters():
        p.data = p.data + (spread * Rng(seed, path).normal(p.shape)).astype(dtype)
    model.tokenizer = tokenizer()
    return model


def clouds(n, side):
    """Pictures of ten classes, each a cloud about a point: n to train on, 100 and 100 for later."""
    centres = Rng(0, "centres").normal((10, 1, side, side))

    def part(name, size):
        labels = np.arange(size) % 10
        pixels = centres[labels] + Rng(0, name).normal((size, 1, side, side))
        return ImageBatches((0.5 * pixels).astype(np.float32), labels)

    return part("train", n), part("validation", 100), part("test", 100)


class Sounds:
    """Which sound an animal makes: a task of classification, or of generation."""

    name, kind, metric, also = "sounds", "classification", "accuracy", ()

    def __init__(self, kind="classification"):
        self.kind, self.metric = kind, "bleu" if kind == "generation" else "accuracy"

    def load(self, split, n=None, seed=0, pattern=0):
        words = tuple(dict.fromkeys(SOUNDS))
        lead = ("the ", "a ")[pattern]
        found = [
            Example(lead + a, s, words, words.index(s)) if self.kind == "classification"
            else Example(lead + a, s, references=(s,))
            for a, s in zip(ANIMALS, SOUNDS, strict=True)
        ]  # fmt: skip
        return found[:n]


class Rows:
    """Batches of random rows of tokens, as many labels in each."""

    def __init__(self, vocab, length=6):
        self.vocab, self.length = vocab, length

    def batch(self, step, size, seed):
        rows = Rng(seed, "rows").integers(2, self.vocab, (999, self.length + 1))
        rows = rows[step * size : (step + 1) * size]
        return Batch(rows[:, :-1], rows[:, 1:], rows[:, 1:] > 0)


@cache
def wordpiece():
    """A tokenizer such as BERT's, with its special tokens, of the texts above."""
    from tokenizers import BertWordPieceTokenizer

    inner = BertWordPieceTokenizer()
    lines = [f"the {a}{s}. a {a} sleeps." for a, s in zip(ANIMALS, SOUNDS, strict=True)]
    inner.train_from_iterator(lines, vocab_size=120, min_frequency=1, show_progress=False)
    return Tokenizer(inner._tokenizer)


PAIRS = [  # does the animal make the sound? Of unlike lengths
    Example(f"{who}{s}?", (" no", " yes")[s == own], (" no", " yes"), int(s == own), pair=(who, s))
    for who, own in zip(("a cat", *ANIMALS[1:4], "the fox", ANIMALS[5]), SOUNDS, strict=True)
    for s in dict.fromkeys((own, *SOUNDS[:2]))
]


def encoder(head="linear", context=24, dtype=np.float64, **fields):
    """A BERT that reads pairs, as the published ones are; with its tokenizer."""
    if head == "linear":
        fields = {"classes": 2} | fields
    config = BERTConfig(vocab=wordpiece().vocab_size, context=context, width=16, layers=2, heads=2,
                        head=head, **fields)  # fmt: skip
    model = BERT(config, dtype=dtype)
    for path, p in model.named_parameters():
        p.data = p.data + (0.3 * Rng(0, path).normal(p.shape)).astype(dtype)
    model.tokenizer = wordpiece()
    return model
