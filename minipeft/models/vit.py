"""ViT: a pre-norm encoder over patches of an image, as vit-base is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng, is_array, xp_of
from minipeft.engine import Tensor, ops
from minipeft.models.config import Config
from minipeft.nn import (
    Block,
    Dropout,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    Parameter,
    Start,
    run_blocks,
    seen_of,
)
from minipeft.nn.init import normal, prototypes


@dataclass(frozen=True)
class ViTConfig(Config):
    """Sizes of a ViT. Unknown and inconsistent fields are refused.

    image, patch  side lengths in pixels; patch divides image
    head_width    of each head; width / heads by default
    qkv_bias      whether queries, keys and values have one
    activation    "gelu_erf", "gelu" or "relu"
    """

    image: int
    patch: int
    channels: int
    width: int
    layers: int
    heads: int
    classes: int
    mlp: int | None = None
    head_width: int | None = None
    qkv_bias: bool = True
    activation: str = "gelu_erf"
    dropout: float = 0.0
    eps: float = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image % self.patch:
            raise ValueError(f"ViTConfig: patch {self.patch} does not divide image {self.image}")
        if not isinstance(self.qkv_bias, bool):
            raise ValueError(
                f"ViTConfig: qkv_bias must be True or False, got {self.qkv_bias!r:.80}"
            )
        if self.activation not in ("gelu_erf", "gelu", "relu"):
            raise ValueError("ViTConfig: activation must be 'gelu_erf', 'gelu' or 'relu', got "
                             f"{self.activation!r:.80}")  # fmt: skip

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image // self.patch) ** 2


class ViT(Module):
    """A classifier of images (Dosovitskiy et al. 2021).

    x = [cls; W patches + b] + pos; x = block(x) for each; logits = head(ln_f(x)[0])
    Shapes  images (B, channels, image, image) floats -> (B, classes)
    Init    N(0, 0.02²), biases 0, norms (1, 0); init="shape" has shapes and no values
    """

    causal = False
    head_parts = ("head",)

    def __init__(
        self, config: ViTConfig, seed: int = 0, init: str = "normal", dtype: Any = np.float32
    ) -> None:
        like, new = prototypes(dtype, init)
        rng = Rng(seed, "vit")
        c = self.config = config
        self.start = Start()
        self.emb = PatchEmbeddings(c, rng, like)
        self.blocks = ModuleList(
            [
                Block(
                    c.width, c.heads, c.mlp or 4 * c.width, layers=c.layers, causal=False,
                    activation=c.activation, eps=c.eps, dropout=c.dropout,
                    head_width=c.head_width, bias=c.qkv_bias, rng=rng, like=like,
                )
                for _ in range(c.layers)
            ]
        )  # fmt: skip
        self.ln_f = LayerNorm(c.width, eps=c.eps, like=like)
        self.head = Linear(c.width, c.classes, rng=rng, like=new)
        self.head.new = True  # trained whole beside whatever a method trains

    def forward(self, images: Array, mask: Array | None = None) -> Tensor:
        """Logits. mask (B, 1 + N) is true where a position is real, the class token's first."""
        c = self.config
        if not is_array(images) or images.dtype.kind != "f":
            raise TypeError("images must be a float array (B, channels, image, image)")
        wanted = (c.channels, c.image, c.image)
        if images.ndim != 4 or images.shape[1:] != wanted or not len(images):
            raise ValueError(f"images must be (B, {c.channels}, {c.image}, {c.image}) with B >= 1, "
                             f"got {images.shape}")  # fmt: skip
        x = self.emb(images)  # (B, 1 + N, C)
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"mask must be {x.shape[:2]}, got {mask.shape}")
        _, mask, past = self.start(xp_of(images).zeros(x.shape[:2], int), mask)
        seen = seen_of(mask, past, *x.shape[:2])
        x = run_blocks(self.blocks, lambda: x, past, seen)
        return self.head(self.ln_f(x[:, 0]))


class PatchEmbeddings(Module):
    """Patches through one Linear, a class token in front, positions added.

    Shapes  images (B, K, image, image) -> (B, 1 + N, C); a patch is read as (channel, y, x)
    """

    def __init__(self, c: ViTConfig, rng: Rng, like: Array) -> None:
        self.patch_size = c.patch
        self.patch = Linear(c.channels * c.patch**2, c.width, rng=rng, like=like)
        self.cls = Parameter(normal((1, 1, c.width), like, rng, 0.02))
        self.pos = Parameter(normal((1, 1 + c.patches, c.width), like, rng, 0.02))
        self.drop = Dropout(c.dropout)

    def forward(self, images: Array) -> Tensor:
        B, K, side, _ = images.shape
        p, n = self.patch_size, side // self.patch_size
        images = images.astype(self.cls.dtype, copy=False)
        cut = images.reshape(B, K, n, p, n, p).transpose(0, 2, 4, 1, 3, 5)  # (B, n, n, K, p, p)
        x = self.patch(cut.reshape(B, n * n, K * p * p))  # (B, N, C)
        first = ops.broadcast_to(self.cls, shape=(B, 1, x.shape[2]))
        return self.drop(ops.concatenate([first, x], axis=1) + self.pos)
