"""Outlines: the parts of models that are not built here, by name and size, with no forward pass.

An outline is counted and takes methods, as any model of shapes does. Its parts bear the names
that the models of this library have, so the same targets fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minipeft.backend import Array, Rng
from minipeft.checks import nearest
from minipeft.nn import Block, Embedding, LayerNorm, Linear, Module, ModuleList, Parameter
from minipeft.nn.init import prototype, zeros


@dataclass(frozen=True)
class OutlineConfig:
    """Sizes. kind: "llama", "deberta" or "t5", which has `layers` blocks on each side."""

    kind: str
    vocab: int
    width: int
    layers: int
    heads: int
    mlp: int


OUTLINES = {
    "llama-7b": OutlineConfig("llama", 32_000, 4096, 32, 32, 11_008),
    "llama-13b": OutlineConfig("llama", 32_000, 5120, 40, 40, 13_824),
    "llama-33b": OutlineConfig("llama", 32_000, 6656, 60, 52, 17_920),
    "llama-65b": OutlineConfig("llama", 32_000, 8192, 80, 64, 22_016),
    "deberta-xxl": OutlineConfig("deberta", 128_100, 1536, 48, 24, 6144),
    "t0-3b": OutlineConfig("t5", 32_128, 2048, 24, 32, 5120),
    "t0-11b": OutlineConfig("t5", 32_128, 4096, 24, 64, 10_240),
}
BUCKETS = 512  # relative positions of DeBERTa, 256 on each side
BIASES = 32  # buckets of relative positions of T5, with a number for each head
KERNEL = 3  # of its convolution over neighbouring places


class Outline(Module):
    """Parts by name and size.

    llama    no biases, norms with a weight alone, a gated MLP, a head that is not tied
    deberta  the encoder of version 2: no positions in the embedding; one table of relative
             positions, whose keys and queries are made by the blocks' own; one convolution
    t5       version 1.1, of which T0 is: an encoder and a decoder with gated MLPs, no biases but
             one of relative positions on each side; a decoder's block also attends across
    """

    def __init__(self, config: OutlineConfig) -> None:
        self.config, like, c = config, prototype(shape_only=True), config
        self.emb = _group(tok=_embedding(c.vocab, c.width, like))
        if c.kind == "llama":
            self.blocks = ModuleList([_gated_block(c, like) for _ in range(c.layers)])
            self.ln_f = _part(like, weight=(c.width,))
            self.head = _linear(c.width, c.vocab, like)
            return
        if c.kind == "t5":
            self.encoder, self.decoder = _side(c, like, False), _side(c, like, True)
            self.head = _linear(c.width, c.vocab, like)
            return
        self.emb_ln = LayerNorm(c.width, like=like)
        self.blocks = ModuleList(
            [
                Block(c.width, c.heads, c.mlp, layers=c.layers, causal=False, norm="post",
                      rng=Rng(0), like=like)
                for _ in range(c.layers)
            ]
        )  # fmt: skip
        self.relative = _embedding(BUCKETS, c.width, like)
        self.relative_ln = LayerNorm(c.width, like=like)
        self.conv = _part(like, weight=(c.width, c.width, KERNEL), bias=(c.width,))
        self.conv_ln = LayerNorm(c.width, like=like)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("an outline has names and sizes and no forward pass: "
                           "it can be counted, not run")  # fmt: skip


def outline(name: str) -> Outline:
    """The outline of a name; an unknown one is an error that names the nearest."""
    if name not in OUTLINES:
        near = nearest(name, OUTLINES)
        raise ValueError(f"no outline {name!r}; nearest is {near!r}, all: {', '.join(OUTLINES)}")
    return Outline(OUTLINES[name])


def _side(c: OutlineConfig, like: Array, decodes: bool) -> Module:
    """One side of a T5."""

    def block() -> Module:
        across = {"ln_cross": _part(like, weight=(c.width,)), "cross": _attention(c, like)}
        return _group(**vars(_gated_block(c, like)), **across if decodes else {})

    return _group(
        bias=_part(like, weight=(BIASES, c.heads)),
        blocks=ModuleList([block() for _ in range(c.layers)]),
        ln_f=_part(like, weight=(c.width,)),
    )


def _attention(c: OutlineConfig, like: Array) -> Module:
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return _group(**{name: _linear(c.width, c.width, like) for name in names})


def _gated_block(c: OutlineConfig, like: Array) -> Module:
    return _group(
        ln_1=_part(like, weight=(c.width,)),
        attn=_attention(c, like),
        ln_2=_part(like, weight=(c.width,)),
        mlp=_group(
            gate=_linear(c.width, c.mlp, like),
            fc_in=_linear(c.width, c.mlp, like),
            fc_out=_linear(c.mlp, c.width, like),
        ),
    )


def _group(**parts: Module) -> Module:
    made = Module()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def _linear(d_in: int, d_out: int, like: Array) -> Linear:
    return Linear(d_in, d_out, bias=False, like=like)


def _embedding(rows: int, width: int, like: Array) -> Embedding:
    return Embedding(rows, width, rng=Rng(0), like=like)


def _part(like: Array, **shapes: tuple[int, ...]) -> Module:
    made = Module()
    for name, shape in shapes.items():
        setattr(made, name, Parameter(zeros(shape, like)))
    return made
