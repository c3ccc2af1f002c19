"""The models: a config, the model, its heads."""

from minipeft.models.bert import BERT, BERTConfig
from minipeft.models.gpt import GPT, GPTConfig
from minipeft.models.presets import PRESETS, preset
from minipeft.models.vit import ViT, ViTConfig

MODELS = {"gpt": (GPT, GPTConfig), "bert": (BERT, BERTConfig), "vit": (ViT, ViTConfig)}

__all__ = [
    "BERT",
    "GPT",
    "MODELS",
    "PRESETS",
    "BERTConfig",
    "GPTConfig",
    "ViT",
    "ViTConfig",
    "preset",
]
