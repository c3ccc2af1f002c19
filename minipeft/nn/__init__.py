"""Modules and the transformer block.

Shape letters, the same in every file: B batch, T query length, S key length, C model width,
H heads (K of keys and values), D head width, F MLP width, V vocabulary, r rank, n virtual tokens.
"""

from minipeft.nn import init
from minipeft.nn.attention import Attention, Past, seen_of
from minipeft.nn.layers import Dropout, Embedding, LayerNorm, Linear, Tap
from minipeft.nn.module import Module, ModuleList, Parameter, Place
from minipeft.nn.start import Start
from minipeft.nn.transformer import MLP, Block, run_blocks
from minipeft.nn.tree import Summary

__all__ = [
    "run_blocks",
    "MLP",
    "Attention",
    "Block",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "Past",
    "Place",
    "Start",
    "Summary",
    "Tap",
    "init",
    "seen_of",
]
