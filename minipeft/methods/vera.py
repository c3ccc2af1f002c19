"""VeRA: every module shares two frozen random matrices and trains two vectors of its own.

Paper    Kopiczko et al. 2023, eq. 2: h = W0 x + Lambda_b B Lambda_d A x
Kind     parameter composition
Unified  b * B (d * A x), A and B random and shared; parallel; queries and values; h + Δh
Touches  Linear modules matching `targets` (default q_proj, v_proj)
Adds     r + d_out per module; b = 0, so it starts as the identity, d = d_initial
Merges   W0 + diag(b) B diag(d) A
Saves    b, d; A and B are drawn again from the seed, and a digest says whether they are the same
Differs  modules of several widths read what they need of A's columns and B's rows, as in PEFT;
         A is U(±sqrt(6 / d_in)) by each module's d_in, which in PEFT is the largest of all.
         PEFT saves A and B. r may be above the rank of a weight: there are r + d_out numbers.
         `fused` parts share d, as an adapter on a joint q, k, v matrix does
Lecture  08_lora                        Homework none yet
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import Rng
from minipeft.checks import setting, whole
from minipeft.contract.method import Method, Where
from minipeft.engine import Tensor, fused
from minipeft.methods.lora import DenseWrapper, group_of, weight_of
from minipeft.nn import Module, Parameter, init
from minipeft.storage.checkpoint import CheckpointError


@dataclass(frozen=True)
class VeRA(Method):
    """Two trained vectors around two shared random matrices.

    r          rank of the random matrices; as it costs one number a module, it may be large
    d_initial  what d starts from
    targets    which Linear parts
    fused      leaf names of parts of one module that share d, and read neighbouring rows of B;
               of unequal widths each begins at a multiple of its own
    """

    name: ClassVar[str] = "vera"
    compose: ClassVar[str] = "parameter"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-1

    r: int = setting(256, whole(1))
    d_initial: float = 0.1
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")
    fused: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.d_initial) and self.d_initial):
            raise ValueError(f"VeRA: d_initial must be finite and not 0, got {self.d_initial!r}")

    def wrap(self, path: str, module: Module, where: Where) -> VeRALinear:
        like, leaf = weight_of(self, path, module, 1), path.rpartition(".")[2]
        d_out, d_in = like.shape
        group = group_of(path, self.fused).replace(".", "_")
        first = self.fused.index(leaf) * d_out if leaf in self.fused else 0
        last = first + d_out
        A = where.shared(f"A_{d_in}", lambda: self._drawn("A", d_in, like, d_in).T)
        B = where.shared(f"B_{first}_{last}", lambda: self._drawn("B", last, like, self.r)[first:])
        d = where.shared(group, lambda: init.full((self.r,), like, self.d_initial))
        A.requires_grad = B.requires_grad = False
        return VeRALinear(module, A, B, Parameter(init.zeros((d_out,), like)), d, last)

    def _rng(self, name: str) -> Rng:
        """The random table of a matrix, the same for all modules."""
        return Rng(self.seed, self.name, name)

    def _drawn(self, name: str, rows: int, like: Any, fan_in: int) -> Any:
        """The first rows of a table, by He et al. 2015.  (rows, r)"""
        return init.uniform((rows, self.r), like, self._rng(name), math.sqrt(6 / fan_in))

    def state(self, at: Any) -> dict[str, np.ndarray]:
        """A digest of the integers that A and B are made of."""
        rows = {"A": max(w.A.shape[1] for w in at.wrappers.values()),
                "B": max(w.last for w in at.wrappers.values())}  # fmt: skip
        digest = hashlib.sha256()
        for name, n in rows.items():
            digest.update(self._rng(name).raw(n * self.r).astype("<u8").data)
        return {"digest": np.frombuffer(digest.digest(), np.uint8)}

    def load_state(self, at: Any, state: dict[str, np.ndarray]) -> None:
        if (state["digest"] != self.state(at)["digest"]).any():
            raise CheckpointError(f"VeRA: A and B as this version draws them from seed {self.seed} "
                                  "are not those that b and d were trained with")  # fmt: skip


class VeRALinear(DenseWrapper):
    """y = W0 x + bias + b (B (d (A x))).

    last    how many rows of B's table were drawn
    Shapes  x (..., d_in) -> (..., d_out), A (r, d_in), B (d_out, r), b (d_out,), d (r,)
    """

    def __init__(
        self, base: Module, A: Parameter, B: Parameter, b: Parameter, d: Parameter, last: int
    ) -> None:
        super().__init__(base)
        self.A, self.B, self.b, self.d, self.last = A, B, b, d, last

    def forward(self, x: Tensor) -> Tensor:
        down = fused.linear(x, self.A) * self.d  # (..., r)
        return self.base(x) + fused.linear(down, self.B) * self.b

    def dense(self) -> Any:
        up = self.B.data * self.b.data[:, None]  # (d_out, r)
        return self.base.weight.data + up @ (self.A.data * self.d.data[:, None])
