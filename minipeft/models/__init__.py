"""The models: a config, the model, its heads."""

from typing import Any

from minipeft.models.bert import BERT, BERTConfig
from minipeft.models.config import Config
from minipeft.models.gpt import GPT, GPTConfig
from minipeft.models.llama import LLaMA, LLaMAConfig
from minipeft.models.outlines import OUTLINES, Outline, OutlineConfig, outline
from minipeft.models.presets import PRESETS, preset
from minipeft.models.vit import ViT, ViTConfig

MODELS = {
    "gpt": (GPT, GPTConfig), "bert": (BERT, BERTConfig), "vit": (ViT, ViTConfig),
    "llama": (LLaMA, LLaMAConfig),
}  # fmt: skip


def build(config: Config, **settings: Any) -> Any:
    """The model that a config describes; settings: seed, init, dtype."""
    model = next(model for model, of in MODELS.values() if type(config) is of)
    return model(config, **settings)


__all__ = [
    "BERT",
    "GPT",
    "LLaMA",
    "MODELS",
    "OUTLINES",
    "Outline",
    "OutlineConfig",
    "PRESETS",
    "BERTConfig",
    "GPTConfig",
    "LLaMAConfig",
    "ViT",
    "ViTConfig",
    "build",
    "outline",
    "preset",
]
