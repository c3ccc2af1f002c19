"""IA3: keys, values and the MLP's inner activations, each times a trained number of its own.

Paper    Liu et al. 2022, sec. 3.3: softmax(Q (l_k * K)^T / sqrt(D)) (l_v * V), (l_ff * f(W1 x)) W2
Kind     function composition
Unified  (l - 1) * h; sequential; keys, values and the MLP's inner activations; h + Δh
Touches  Linear modules matching `targets` (default k_proj, v_proj, fc_out): what they give out,
         or, of those in `inputs` (default fc_out), what they read
Adds     (2 * d + 4 * d) * L per model; l = 1, so it starts as the identity
Merges   an output's l scales the rows of W and the bias with them, an input's the columns of W
Saves    l
Differs  the paper's places are the default; PEFT has others. On a GPT-2 it scales queries too,
         targets=("q_proj", "k_proj", "v_proj", "fc_out"); on a BERT what the o_proj reads,
         targets=("k_proj", "v_proj", "o_proj", "fc_out"), inputs=("o_proj", "fc_out").
         T-Few's code scales fc_in behind the gate of a gated MLP: the same product
Lecture  09_ia3                         Homework hw5.1 (forward), hw5.2 (folded)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.checks import nearest
from minipeft.contract.method import Method, Where
from minipeft.engine import Tensor
from minipeft.methods.lora import DenseWrapper, weight_of
from minipeft.nn import Linear, Module, Parameter, init


@dataclass(frozen=True)
class IA3(Method):
    """Vectors that scale activations.

    targets  which Linear parts: each has one vector
    inputs   leaf names of parts whose input is scaled, in place of their output
    seed     draws nothing; it tells apart two at the same places, for rows of one batch
    """

    name: ClassVar[str] = "ia3"
    compose: ClassVar[str] = "function"
    by_row: ClassVar[bool] = True
    lr: ClassVar[float] = 3e-2

    targets: str | tuple[str, ...] = ("k_proj", "v_proj", "fc_out")
    inputs: tuple[str, ...] = ("fc_out",)
    seed: int = 0

    def wrap(self, path: str, module: Module, where: Where) -> Scaled:
        like = weight_of(self, path, module, 1)  # (d_out, d_in)
        reads = path.rpartition(".")[2] in self.inputs
        l = Parameter(init.ones((like.shape[int(reads)],), like))  # noqa: E741
        return Scaled(module, l, reads)

    def prepare(self, at: Any) -> None:
        leaves = {path.rpartition(".")[2] for path, _ in at.model.named_modules()}
        for name in self.inputs:
            if name not in leaves:
                raise ValueError(f"IA3: inputs: {name!r:.80} is the name of no part of the model; "
                                 f"nearest is {nearest(name, leaves)!r}")  # fmt: skip


class Scaled(DenseWrapper):
    """y = l (W x + b), or, if `reads`, y = W (l x) + b.

    Shapes  x (..., d_in) -> (..., d_out); l (d_out,), or (d_in,) if `reads`
    """

    def __init__(self, base: Module, l: Parameter, reads: bool) -> None:  # noqa: E741  (the paper's)
        super().__init__(base)
        self.l, self.reads = l, reads

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.l * x) if self.reads else self.base(x) * self.l

    def dense(self) -> Any:
        return folded(self.base.weight.data, None, self.l.data, self.reads)[0]

    def merged(self) -> Linear:
        plain = super().merged()
        if plain.bias is not None:
            found = folded(plain.weight.data, plain.bias.data, self.l.data, self.reads)
            plain.bias.data = found[1]
        return plain


def folded(W: Any, b: Any, l: Any, reads: bool) -> tuple[Any, Any]:  # noqa: E741
    """The weight and the bias of the Linear that does what `Scaled` does: new arrays.

    b is None where there is no bias, and stays None
    Shapes  W (d_out, d_in), b (d_out,), l (d_out,), or (d_in,) if `reads`
    """
    if reads:
        return W * l, b
    return W * l[:, None], None if b is None else b * l
