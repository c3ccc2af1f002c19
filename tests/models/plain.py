"""The four models once more in plain NumPy, with dropout's factors given from outside.

The factors are taken in the order in which a pass draws them: of the embeddings, then in each
block of the attention weights, of attention's output and of the MLP's, at last of BERT's pooled
place.
"""

import math
from contextlib import contextmanager

import numpy as np
import pytest

from minipeft.backend import dropout_factors
from minipeft.models import BERT, LLaMA, ViT
from minipeft.nn import layers


@contextmanager
def spied(*modules):
    """A list that takes the factors of every mask that is drawn from one of these modules."""
    drawn = []

    def draw(*args):
        drawn.append(dropout_factors(*args))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        for module in modules or (layers,):
            patch.setattr(module, "dropout_factors", draw)
        yield drawn


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x):
    return x / (1 + np.exp(-x))


class Plain:
    """A model's arrays, and its forward pass."""

    def __init__(self, model, factors):
        self.config, self.causal = model.config, model.causal
        self.post, self.gated = isinstance(model, BERT), isinstance(model, LLaMA)
        self.curve = silu if self.gated else gelu_tanh if model.causal else gelu
        self.arrays = {place.path: place.parameter.data for place in model.places()}
        self.factors = iter(factors)

    def drop(self, x):
        f = next(self.factors)
        assert f.shape == x.shape
        return x * f

    def linear(self, path, x):
        return x @ self.arrays[f"{path}.weight"].T + self.arrays.get(f"{path}.bias", 0.0)

    def norm(self, path, x):
        if not self.gated:
            x = x - x.mean(-1, keepdims=True)
        h = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config.eps)
        return h * self.arrays[f"{path}.weight"] + self.arrays.get(f"{path}.bias", 0.0)

    def turned(self, x):
        """Pairs of each head as complex numbers, times exp(i t).  (B, T, H, D)"""
        half = x.shape[3] // 2
        t = np.arange(x.shape[1])[:, None] / self.config.theta ** (np.arange(half) / half)
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * t)[:, None]
        return np.concatenate([z.real, z.imag], axis=3)

    def attention(self, path, x, mask):
        B, T, _ = x.shape
        heads = self.config.heads
        shared = self.config.value("kv_heads") or heads
        q, k, v = (
            self.linear(f"{path}.{n}_proj", x).reshape(B, T, heads if n == "q" else shared, -1)
            for n in "qkv"
        )
        if self.gated:
            q, k = self.turned(q), self.turned(k)
            k, v = (np.repeat(y, heads // shared, axis=2) for y in (k, v))
        scores = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[3])
        seen = np.ones((B, 1, T, T), bool) if mask is None else (mask[:, None, None] != 0)
        if self.causal:
            seen = seen & np.tril(np.ones((T, T), bool))
        p = np.where(seen, np.exp(scores - scores.max()), 0)
        p = self.drop(p / p.sum(-1, keepdims=True))
        return self.linear(f"{path}.o_proj", np.einsum("bhts,bshd->bthd", p, v).reshape(B, T, -1))

    def mlp(self, path, x):
        inner = self.linear(f"{path}.fc_in", x)
        if self.gated:
            inner = self.curve(self.linear(f"{path}.gate", x)) * inner
        else:
            inner = self.curve(inner)
        return self.linear(f"{path}.fc_out", inner)

    def block(self, path, x, mask):
        def attention(x):
            return self.drop(self.attention(f"{path}.attn", x, mask))

        def mlp(x):
            return self.drop(self.mlp(f"{path}.mlp", x))

        if self.post:
            x = self.norm(f"{path}.ln_1", x + attention(x))
            return self.norm(f"{path}.ln_2", x + mlp(x))
        x = x + attention(self.norm(f"{path}.ln_1", x))
        return x + mlp(self.norm(f"{path}.ln_2", x))

    def embeddings(self, x):
        get = self.arrays.get
        if "emb.tok.weight" not in self.arrays:  # (B, K, side, side): patches row by row
            p = self.config.patch
            cells = range(0, self.config.image, p)
            cut = [x[:, :, i : i + p, j : j + p].reshape(len(x), -1) for i in cells for j in cells]
            first = np.broadcast_to(get("emb.cls"), (len(x), 1, self.config.width))
            patches = self.linear("emb.patch", np.stack(cut, axis=1))
            return np.concatenate([first, patches], axis=1) + get("emb.pos")
        y = get("emb.tok.weight")[x]
        if not self.gated:
            y = y + get("emb.pos.weight")[: x.shape[1]]
        return self.norm("emb.ln", y + get("emb.seg.weight")[0]) if self.post else y

    def __call__(self, x, mask=None):
        """The logits of ids (B, T) or images."""
        x = self.drop(self.embeddings(x))
        for i in range(self.config.layers):
            x = self.block(f"blocks.{i}", x, mask)
        if not self.post:
            return self.linear("head", self.norm("ln_f", x))
        if "pooler.weight" in self.arrays:
            return self.linear("head", self.drop(np.tanh(self.linear("pooler", x[:, 0]))))
        return self.linear("head", self.norm("mlm.ln", gelu(self.linear("mlm.fc", x))))


def plain(model, x, factors, mask=None):
    """The logits of a model whose masks are these, all of which must be used."""
    found = Plain(model, factors)
    y = found(x, mask)
    assert next(found.factors, None) is None
    return y[:, 0] if isinstance(model, ViT) else y
