"""QLoRA: LoRA over weights that are stored in four bits.

Paper    Dettmers et al. 2023, eqs. 5-6: y = decoded(c1, c2, W) x + (alpha/r) B A x
Kind     parameter composition
Unified  B A x; parallel; every Linear but the head, stored as codes; h + s Δh, s = alpha / r
Touches  Linear modules matching `targets` (default all but the head)
Adds     r * (d_in + d_out) per module; A ~ N(0, 1/d_in), B = 0, so it starts as the codes
Merges   W + (alpha/r) B A as floats, or rounded to the codes' values again, once told which
Saves    A, B; the codes are made anew from the same base
Differs  r = 8 as in the other methods here; the paper trains r = 64, alpha = 16 with dropout 0.1
         (7B) or 0.05 (65B). Products stay in the model's float type; bf16=True rounds the decoded
         weights to the paper's
Lecture  10_quantization                Homework hw6.6; hw6.d on merging

attach(model, Quantize()) and then attach(model, LoRA(targets="all-linear")) is the same in two
handles. The gradient of x passes through the decoded weight; codes and constants get none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minipeft.checks import setting
from minipeft.contract.method import Where
from minipeft.methods.lora import LoRA, LoRALinear
from minipeft.methods.quant import BLOCKS, CODE, merged_over_codes, quantized, refuse_trained
from minipeft.nn import Linear, Module


@dataclass(frozen=True)
class QLoRA(LoRA):
    """A low-rank update over quantized Linear parts.

    r        rank
    alpha    the update is scaled by alpha / r
    targets  which Linear parts
    fused    leaf names of parts of one module that share one A
    rslora   scale by alpha / sqrt(r) instead
    dropout  of the branch's input
    init     of A, as in LoRA
    code     codebook of the weights, as in Quantize: "nf4", "fp4", "fp4-bnb", "int4", …
    block    how many weights share one constant; 0 for the whole weight
    double   quantize the constants too
    bf16     round the decoded weights to bfloat16
    """

    name: ClassVar[str] = "qlora"
    identity: ClassVar[str] = "codes are coarser than the weights that they stand for"

    targets: str | tuple[str, ...] = "all-linear"
    code: str = setting("nf4", CODE)
    block: int = setting(64, BLOCKS)
    double: bool = True
    bf16: bool = False

    def wrap(self, path: str, module: Module, where: Where) -> QLoRALinear:
        base = quantized(self, path, module)
        lora = super().wrap(path, base, where)
        return QLoRALinear(base, lora.A, lora.B, lora.scale, lora.dropout, lora.group)

    def prepare(self, at: Any) -> None:
        super().prepare(at)
        refuse_trained(at)


class QLoRALinear(LoRALinear):
    """LoRA around a QuantLinear.  Shapes  x (..., d_in) -> (..., d_out)"""

    def merged(self) -> Linear:
        return merged_over_codes(self, super().merged)
