"""Top-K: train the last k blocks, freeze all below.

Paper    none: the classic baseline; FT-Top2 in Li & Liang 2021, table 1, has k = 2
Kind     parameter composition
Unified  (W - W0) x + b - b0; parallel; every module of the last k blocks; h + Δh
Touches  every parameter of blocks L - k … L - 1; with ln_f=True also the final norm
Adds     k * (12 * d * d + 13 * d) + ln_f * 2 * d per model; none is new
Merges   the trained values are the weights
Saves    the parameters of the k blocks
Differs  a tied head stays frozen: training it would train the embedding at the bottom too
Lecture  04_topk                        Homework none yet

Nothing below block L - k trains, so backward stops there and no activation below is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipeft.checks import setting, whole
from minipeft.contract.method import Method, Where
from minipeft.nn import Parameter


@dataclass(frozen=True)
class TopK(Method):
    """Train the last k blocks.

    k     how many blocks
    ln_f  train the final norm too
    """

    name: ClassVar[str] = "topk"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 3e-3

    k: int = setting(2, whole(1))
    ln_f: bool = False

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        if self.k > where.layers:
            raise ValueError(f"TopK: k = {self.k} is more than the model's {where.layers} blocks")
        if where.layer is None:
            return self.ln_f and path.startswith("ln_f.")
        return where.layer >= where.layers - self.k
