"""FacT: all weights of the blocks as one tensor, whose change is factored and shared.

Paper    Jie and Deng 2023, sec. 3: each d x d piece k of the blocks' weights becomes
         W0 + s V S_k U^T
Kind     parameter composition
Unified  V S U^T x; parallel; all Linears of attention and MLP; h + s Δh
Touches  Linear modules matching `targets` (default q, k, v, o, fc_in, fc_out of every block)
Adds     2 * d * r + 12 * L * r * r per model, form="tt"; 2 d r + 12 L r + r^3 with form="tk", where
         S_k is the sum of P_kj C_j; V = 0, so it starts as the identity
Merges   W0 + s V S_k U^T, piece by piece: fc_in's lie below each other, fc_out's side by side
Saves    U, V, S; with form="tk" U, V, P, C
Differs  the paper's W is (d_in, d_out), so it writes the transpose, U S V^T. No dropout between S
         and V, where its code has 0.1. A weight whose sides are no multiples of d, as a LLaMA's k,
         v and MLP, is cut out of pieces that stick out of it. P starts as if there were 12 L pieces
Lecture  14_vision                      Homework none yet
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.backend import xp_of
from minipeft.checks import one_of, real, setting, whole
from minipeft.contract.method import Method, Where
from minipeft.engine import Tensor, fused, no_grad, ops
from minipeft.methods.lora import DenseWrapper, weight_of
from minipeft.nn import Module, Parameter, init

PER_LAYER = 12  # square pieces of d x d: q, k, v, o, four of fc_in, four of fc_out


@dataclass(frozen=True)
class FacT(Method):
    """Two factors for all weights, and a small matrix for each square piece of them.

    r        rank
    form     "tt": tensor train, each piece has an S (r, r) of its own; "tk": Tucker, each has r
             numbers, by which it mixes r matrices that all share
    s        scale of the change
    targets  which Linear parts
    """

    name: ClassVar[str] = "fact"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-2

    r: int = setting(8, whole(1))
    form: str = setting("tt", one_of("tt", "tk"))
    s: float = setting(1.0, real())
    targets: str | tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "fc_in", "fc_out")
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> FactoredLinear:
        like, r, rng, d = weight_of(self, path, module, 1), self.r, where.rng, where.config.width
        if r > d:
            raise ValueError(f"FacT: r = {r} is above the model's width {d}, which U and V have")
        m, n = (math.ceil(side / d) for side in like.shape)  # how many pieces high and wide
        U = where.shared("U", lambda: init.uniform((d, r), like, rng, 1 / math.sqrt(d)))
        V = where.shared("V", lambda: init.zeros((d, r), like))
        if self.form == "tt":
            S = Parameter(init.uniform((m * r, n * r), like, rng, 1 / math.sqrt(n * r)))
            return FactoredLinear(module, U, V, S, None, (m, n), self.s)
        C = where.shared("C", lambda: init.uniform((r, r, r), like, rng, math.sqrt(3) / r))
        bound = math.sqrt(6 / (PER_LAYER * where.layers + r))
        P = Parameter(init.uniform((m * n, r), like, rng, bound))
        return FactoredLinear(module, U, V, P, C, (m, n), self.s)


class FactoredLinear(DenseWrapper):
    """y = W0 x + b + s V S U^T x, in m x n pieces of d x d.

    own     S (m r, n r), or P (m n, r) where C is shared: piece (i, j) has sum_c P[i n + j, c] C_c
    Shapes  x (..., d_in) -> (..., d_out), U and V (d, r), C (r, r, r) or None
    """

    def __init__(
        self, base: Module, U: Parameter, V: Parameter, own: Parameter, C: Parameter | None,
        pieces: tuple[int, int], s: float,
    ) -> None:  # fmt: skip
        super().__init__(base)
        self.U, self.V, self.pieces, self.s = U, V, pieces, s
        if C is None:
            self.S = own
        else:
            self.P, self.C = own, C

    def inner(self) -> Tensor:
        """The small matrices of all pieces.  -> (m r, n r)"""
        if "S" in vars(self):
            return self.S
        (m, n), r = self.pieces, self.U.shape[1]
        S = (self.P @ self.C.reshape(r, r * r)).reshape(m, n, r, r)
        return S.transpose(0, 2, 1, 3).reshape(m * r, n * r)

    def forward(self, x: Tensor) -> Tensor:
        (m, n), (d, r), front = self.pieces, self.U.shape, x.shape[:-1]
        y = self.base(x)
        d_in, d_out = x.shape[-1], y.shape[-1]
        if d_in < n * d:  # the last piece sticks out: what it reads there is 0
            rest = xp_of(y.data).zeros((*front, n * d - d_in), y.dtype)
            x = ops.concatenate([x, Tensor(rest)], axis=-1)
        down = x.reshape(*front, n, d) @ self.U  # (..., n, r)
        mixed = self.s * fused.linear(down.reshape(*front, n * r), self.inner())  # (..., m r)
        up = fused.linear(mixed.reshape(*front, m, r), self.V).reshape(*front, m * d)
        return y + (up if d_out == m * d else up[..., :d_out])

    def dense(self) -> Any:
        (m, n), (d, r), (d_out, d_in) = self.pieces, self.U.shape, self.base.weight.shape
        with no_grad():
            S = self.inner().data.reshape(m, r, n, r)
        U, V = self.U.data, self.V.data
        change = xp_of(U).einsum("ar,irjq,bq->iajb", V, S, U).reshape(m * d, n * d)
        return self.base.weight.data + self.s * change[:d_out, :d_in]
