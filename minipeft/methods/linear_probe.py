"""Linear probe: train a new head, and nothing of the base.

Paper    Alain & Bengio 2016: softmax(W h + b), h what the frozen base gives out
Kind     parameter composition
Unified  outside: no h of the base changes, only a new head reads the last one
Touches  the head of a model with head="linear", which every method trains
Adds     0 * d per model; the new head is counted apart, as for all methods
Merges   the trained values are the weights
Saves    the head
Differs  nothing; a BERT's head reads its pooler, which stays as it was drawn where the
         file of the base holds none
Lecture  03_finetuning_and_icl          Homework none yet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipeft.contract.method import Method


@dataclass(frozen=True)
class LinearProbe(Method):
    """Train the head alone."""

    name: ClassVar[str] = "linear_probe"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 3e-2
