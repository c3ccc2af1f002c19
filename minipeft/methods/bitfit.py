"""BitFit: train the bias vectors, freeze every matrix.

Paper    Ben Zaken et al. 2022, sec. 3: y = W x + b, with W frozen
Kind     parameter composition
Unified  b - b0; parallel; what every Linear and every norm gives out; h + Δh
Touches  every bias, those of the norms included; terms="qm": of q_proj and fc_in only
Adds     11 * d * L + d per model; none is new
Merges   the trained values are the weights
Saves    the biases
Differs  nothing; a key's bias has no effect (softmax cancels it): its gradient is rounding noise
Lecture  04_topk                        Homework none yet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minipeft.checks import one_of, setting
from minipeft.contract.method import Method, Where
from minipeft.nn import Parameter


@dataclass(frozen=True)
class BitFit(Method):
    """Train biases.

    terms  "all", or "qm" for the query and the MLP's first layer (the paper's small variant)
    """

    name: ClassVar[str] = "bitfit"
    compose: ClassVar[str] = "parameter"
    lr: ClassVar[float] = 3e-3

    terms: str = setting("all", one_of("all", "qm"))

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        *_, part, name = ["", *path.split(".")]
        return name == "bias" and (self.terms == "all" or part in ("q_proj", "fc_in"))
