"""The autograd engine: tensors, operations, and checks of their derivatives."""

from minipeft.engine import fused, ops
from minipeft.engine.check import GradError, grad_check, jacobian
from minipeft.engine.graph import tape
from minipeft.engine.op import op
from minipeft.engine.tensor import Tensor, context, grad, no_grad, running

__all__ = [
    "GradError",
    "Tensor",
    "context",
    "fused",
    "grad",
    "grad_check",
    "jacobian",
    "no_grad",
    "op",
    "ops",
    "running",
    "tape",
]
