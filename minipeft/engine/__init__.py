"""The autograd engine: tensors, operations, and checks of their derivatives.

Lecture  01_autograd
"""

from minipeft.engine import array_ops, fused, ops, variants
from minipeft.engine.check import GradError, grad_check
from minipeft.engine.explain import explain_grad, jacobian
from minipeft.engine.graph import tape
from minipeft.engine.op import op
from minipeft.engine.recompute import recompute
from minipeft.engine.summation import einsum
from minipeft.engine.tensor import Tensor, context, grad, no_grad, running

__all__ = [
    "GradError",
    "Tensor",
    "array_ops",
    "context",
    "einsum",
    "explain_grad",
    "fused",
    "variants",
    "grad",
    "grad_check",
    "jacobian",
    "no_grad",
    "op",
    "ops",
    "recompute",
    "running",
    "tape",
]
