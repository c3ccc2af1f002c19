"""LN tuning: train the norms' weights and biases, freeze everything else.

Paper    Zhao et al. 2023, "Tuning LayerNorm in attention": w * h + b, h centred and scaled
Kind     parameter composition
Unified  (w - w0) * z + b - b0, z the centred and scaled input; parallel; every norm; h + Δh
Touches  every norm: ln_1 and ln_2 of each block, ln_f, an embedding's
Adds     (2 * L + 1) * 2 * d per model; none is new
Merges   the trained values are the weights
Saves    the norms' weights and biases: whole values, no differences
Differs  nothing; an RMS norm, as LLaMA's, has a weight alone
Lecture  09_ia3                         Homework none yet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipeft.contract.method import Method, Where
from minipeft.nn import Parameter


@dataclass(frozen=True)
class LNTuning(Method):
    """Train the norms."""

    name: ClassVar[str] = "ln_tuning"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 3e-3

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        *_, part, _ = ["", *path.split(".")]
        return "ln" in part.split("_")  # as all norms are called: ln, ln_1, emb_ln
