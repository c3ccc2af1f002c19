"""P-tuning: virtual tokens anywhere in a text, whose embeddings a small network makes.

Paper    Liu et al. 2021 ("GPT Understands, Too"), eq. 5: h_i = MLP([LSTM(h_0:i); LSTM(h_i:n)])
Kind     input composition
Unified  softmax(q P_k^T) P_v, as prompt tuning, with P from a network; before the text or inside
         it; what each head gives out; (1 - g) h + g Δh, g the softmax's share of P
Touches  the start of a sequence, which gets ids from V on; the embedding, where these are rows
Adds     n * d + h * (2 * d + h + 2) + d per model, with the MLP; n * d with encoder="embedding"
Merges   nothing: it changes the input
Saves    P (n, d), what the network makes in the end
Differs  the networks are those of PEFT: an MLP of three layers, or a bidirectional LSTM of two and
         an MLP of two, of hidden width h; without dropout. The tokens stand as in prompt tuning
Lecture  07b_ptuning                    Homework hw4.1, hw4.3
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from minipeft.backend import Array, Rng, xp_of
from minipeft.checks import one_of, setting, whole
from minipeft.contract.method import Where
from minipeft.engine import Tensor, fused, ops
from minipeft.methods.virtual import VirtualTokens
from minipeft.nn import Parameter, init

LAYERS, WAYS = (0, 1), ("f", "b")  # of the LSTM: forward and backward


@dataclass(frozen=True)
class PTuning(VirtualTokens):
    """Virtual tokens that a network makes while it trains; the file holds what it made.

    n         how many
    template  where they stand: "{}" is before the text; "{}...{3} Answer:{2}" are 3 before the
              words " Answer:", 2 behind them, and the others before the text
    encoder   the network: "mlp"; "lstm", in which each token knows the others; "embedding"
    h         its hidden width
    """

    name: ClassVar[str] = "ptuning"
    lr: ClassVar[float] = 3e-3

    encoder: str = setting("mlp", one_of("mlp", "lstm", "embedding"))
    h: int = setting(128, whole(1))

    def rows(self, module: Any, where: Where) -> Array:
        return init.normal((self.n, where.config.width), where.like, where.rng, 1.0)

    def settled(self) -> PTuning:
        return replace(self, encoder="embedding", h=PTuning.h)

    def prepare(self, at: Any) -> None:
        super().prepare(at)
        if self.encoder == "embedding":
            return
        where, P = at.where("encoder"), at.wrappers["emb.tok"].P
        P.requires_grad = False
        at.computed["emb.tok.P"] = P
        at.shared["E"] = Parameter(init.copy(P.data))
        for name, (shape, bound) in self._shapes(where.config.width).items():
            drawn = init.uniform(shape, where.like, Rng(self.seed, self.name, name), bound)
            at.shared[name] = Parameter(drawn)

    def _shapes(self, d: int) -> dict[str, tuple[tuple[int, ...], float]]:
        """Of each array of the network: its shape, and U(-bound, bound) that it starts from."""
        h, found = self.h, {}
        if self.encoder == "lstm":
            for layer in LAYERS:
                for way in WAYS:
                    wide = 2 * h if layer else d
                    made = {"Wx": (4 * h, wide), "Wh": (4 * h, h), "bx": (4 * h,), "bh": (4 * h,)}
                    for name, shape in made.items():
                        found[f"{name}_{layer}{way}"] = shape, 1 / math.sqrt(h)
        sizes = [2 * h, 2 * h, d] if self.encoder == "lstm" else [d, h, h, d]
        for i, (d_in, d_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            found[f"W{i}"] = (d_out, d_in), 1 / math.sqrt(d_in)
            found[f"b{i}"] = (d_out,), 1 / math.sqrt(d_in)
        return found

    def compute(self, at: Any) -> dict[str, Tensor]:
        if self.encoder == "embedding":
            return {}
        w, x, last = at.shared, at.shared["E"], 1 if self.encoder == "lstm" else 2
        if self.encoder == "lstm":
            for layer in LAYERS:
                parts = [[w[f"{name}_{layer}{way}"] for name in ("Wx", "Wh", "bx", "bh")]
                         for way in WAYS]  # fmt: skip
                x = ops.concatenate([lstm(x, *p, back=i == 1) for i, p in enumerate(parts)], axis=1)
        for i in range(last + 1):
            x = fused.linear(x, w[f"W{i}"], w[f"b{i}"])
            x = ops.relu(x) if i < last else x
        return {"emb.tok.P": x}


def lstm(x: Tensor, Wx: Tensor, Wh: Tensor, bx: Tensor, bh: Tensor, *, back: bool) -> Tensor:
    """One layer in one direction, as torch has it: gates i, f, g, o one under another.

    c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c)    Hochreiter, Schmidhuber 1997
    Shapes  x (n, d), Wx (4 h, d), Wh (4 h, h), bx and bh (4 h,) -> (n, h)
    """
    n, size = x.shape[0], Wh.shape[1]
    read, out = fused.linear(x, Wx, bx), []  # (n, 4 h)
    h: Any = xp_of(x.data).zeros((1, size), dtype=x.dtype)
    c: Any = h
    for t in reversed(range(n)) if back else range(n):
        gates = read[t : t + 1] + fused.linear(h, Wh, bh)
        i, f, g, o = (gates[:, k * size : (k + 1) * size] for k in range(4))
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        out.append(h)
    return ops.concatenate(out[::-1] if back else out, axis=0)
