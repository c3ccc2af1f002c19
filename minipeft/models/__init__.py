"""The models: a config, the model, its heads."""

from minipeft.models.gpt import GPT, GPTConfig
from minipeft.models.presets import PRESETS, preset

MODELS = {"gpt": (GPT, GPTConfig)}

__all__ = ["GPT", "MODELS", "PRESETS", "GPTConfig", "preset"]
