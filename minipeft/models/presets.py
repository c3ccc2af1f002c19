"""Named sizes: the shipped models, GPT-2, the rows of GPT-3's Table 2.1, BERT, RoBERTa and ViT.

The 13B row is printed with width 5140, which its 40 heads of 128 contradict; 5120 is used.
The XL row is printed with 24 heads of 128 = 3072, which its width 2048 contradicts; 16 heads
of 128 are used. RoBERTa's two first positions are never a word's: of its context 512 are used.
"""

from __future__ import annotations

from minipeft.checks import nearest
from minipeft.models.bert import BERTConfig
from minipeft.models.config import Config
from minipeft.models.gpt import GPTConfig
from minipeft.models.vit import ViTConfig


def _own(layers: int, width: int, heads: int) -> GPTConfig:
    return GPTConfig(vocab=2000, context=256, width=width, layers=layers, heads=heads)


def _gpt2(layers: int, width: int, heads: int) -> GPTConfig:
    return GPTConfig(vocab=50257, context=1024, width=width, layers=layers, heads=heads)


def _gpt3(layers: int, width: int, heads: int) -> GPTConfig:
    return GPTConfig(vocab=50257, context=2048, width=width, layers=layers, heads=heads)


def _bert(layers: int, width: int, heads: int) -> BERTConfig:
    return BERTConfig(vocab=30522, context=512, width=width, layers=layers, heads=heads)


def _roberta(layers: int, width: int, heads: int) -> BERTConfig:
    return BERTConfig(vocab=50265, context=514, width=width, layers=layers, heads=heads,
                      segments=1, eps=1e-5)  # fmt: skip


def _vit(layers: int, width: int, heads: int) -> ViTConfig:
    return ViTConfig(image=224, patch=16, channels=3, width=width, layers=layers, heads=heads,
                     classes=1000)  # fmt: skip


PRESETS: dict[str, Config] = {
    "tiny-gpt": _own(6, 96, 6),
    "gpt-0.2m": _own(4, 48, 3),
    "gpt-3.1m": _own(6, 192, 6),
    # one id more than the tokenizer has: the mask
    "tiny-bert": BERTConfig(vocab=2001, context=256, width=96, layers=6, heads=6),
    "tiny-vit": ViTConfig(image=16, patch=4, channels=1, width=64, layers=6, heads=4, classes=16),
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt3-small": _gpt3(12, 768, 12),
    "gpt3-medium": _gpt3(24, 1024, 16),
    "gpt3-large": _gpt3(24, 1536, 16),
    "gpt3-xl": _gpt3(24, 2048, 16),
    "gpt3-2.7b": _gpt3(32, 2560, 32),
    "gpt3-6.7b": _gpt3(32, 4096, 32),
    "gpt3-13b": _gpt3(40, 5120, 40),
    "gpt3-175b": _gpt3(96, 12288, 96),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
    "roberta-base": _roberta(12, 768, 12),
    "roberta-large": _roberta(24, 1024, 16),
    "vit-base": _vit(12, 768, 12),
    "vit-large": _vit(24, 1024, 16),
}


def preset(name: str) -> Config:
    """The config of a name; an unknown one is an error that names the nearest."""
    if name not in PRESETS:
        near = nearest(name, PRESETS)
        raise ValueError(f"no preset {name!r}; nearest is {near!r}, all: {', '.join(PRESETS)}")
    return PRESETS[name]
