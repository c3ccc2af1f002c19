"""@op: one function on arrays becomes an operation on Tensors.

An op takes its arrays by position and its settings by keyword, and returns its value and one
VJP per array: a function from the gradient g of the output to the gradient of that input.

    @op
    def tanh(x):
        y = xp_of(x).tanh(x)
        return y, (lambda g: g * (1 - y * y),)

Only the VJPs of inputs that need a gradient are kept, so a frozen weight costs no dW and keeps
no activation alive. Where inputs share work (fused.py), the second value is one function
`vjp(g, needs)` that returns a tuple.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.backend import Array, is_array
from minipeft.engine.tensor import Node, Tensor, context


def op(fn: Callable[..., Any]) -> Callable[..., Tensor]:
    """Lift a function on arrays, which returns (y, VJPs), to Tensors."""
    name = fn.__name__.rstrip("_")

    @functools.wraps(fn)
    def apply(*args: Any, **settings: Any) -> Tensor:
        ctx = context()
        if ctx.values:  # a reparametrised Parameter is swapped for what was computed for it
            args = tuple(ctx.values.get(id(a), a) for a in args)
        arrays = tuple(map(_array, args))
        settings = {k: plain(v) for k, v in settings.items()}
        if ctx.around is None:
            y, vjps = fn(*arrays, **settings)
        else:
            y, vjps = ctx.around(name, fn, args, arrays, settings)
        out = Tensor(y if is_array(y) else np.asarray(y))  # 0-d results come as scalars
        out.made_by = name
        needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        if any(needs) and ctx.recording:
            node = Node(name, args, needs, out.data)
            if isinstance(vjps, tuple):  # one per input; those of left-out optional inputs go
                if len(vjps) < len(args):
                    raise TypeError(f"op {name!r} took {len(args)} arrays, gave {len(vjps)} VJPs")
                vjps = tuple(v if need else None for v, need in zip(vjps, needs, strict=False))
            node.vjps = vjps
            out._node, out.requires_grad = node, True
            if ctx.check:
                node.check(args, out.data)
        elif any(needs):
            out.made_by = f"{name} (under no_grad)"
        return out

    return apply


def _array(a: Any) -> Any:
    """The array of a Tensor."""
    return a.data if isinstance(a, Tensor) else plain(a)


def plain(a: Any) -> Any:
    """NumPy scalars become Python scalars, which do not promote."""
    return a.item() if isinstance(a, np.generic) else a


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum g over the axes along which `shape` was broadcast to g's shape.

    Shapes  g (..., a, b), shape e.g. (b,) or (a, 1) -> an array of that shape
    """
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        i + lead for i, n in enumerate(shape) if n == 1 and g.shape[i + lead] != 1
    )
    return g.sum(axis=axes, dtype=wide(g.dtype)).reshape(shape) if axes else g.reshape(shape)


def wide(dtype: Any) -> Any:
    """The dtype to add up in: float32 for float16, where 2048 + 1 is 2048 and 65 520 infinite."""
    return np.float32 if dtype == np.float16 else dtype
