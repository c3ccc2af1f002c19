"""Full fine-tuning: every parameter of the model trains.

Paper    none: what the cheaper methods are measured against
Kind     parameter composition
Unified  (W - W0) x + b - b0; parallel; every module; h + Δh
Touches  every parameter of the base, embeddings included
Adds     V * d + T * d + L * (12 * d * d + 13 * d) + 2 * d per model; none is new
Merges   the trained values are the weights
Saves    every parameter: one whole copy of the model per task
Differs  nothing
Lecture  04_topk                        Homework none yet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipeft.contract.method import Method, Where
from minipeft.nn import Parameter


@dataclass(frozen=True)
class Full(Method):
    """Train everything."""

    name: ClassVar[str] = "full"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 3e-4

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        return True
