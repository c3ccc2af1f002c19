"""For looking: a gradient's path back from the loss, all derivatives at once, every operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.backend import Array, is_array, to_numpy, xp_of
from minipeft.display.table import Table
from minipeft.engine.tensor import Node, Tensor, changed, context, topological, walk


def explain_grad(
    y: Tensor, parameter: Tensor, name: str = "the parameter", g: Array | None = None
) -> str:
    """Follow the gradient of y back to a leaf, along the shortest path, operation by operation.

    Call it after the forward pass and before backward(), which frees the graph.
    g        the cotangent, of y's shape; 1 for a scalar
    Returns  why there is no gradient (nothing recorded, frozen, not reached), or a table of the
             operations on the path with the norm of the gradient at their outputs; the first
             that is exactly 0 is pointed out
    """
    if y._node is None:
        return "nothing was recorded: no input requires a gradient, or no_grad() was on"
    order = topological(y._node)  # inputs before outputs
    if not parameter.requires_grad:
        users = [n.name for n in order if isinstance(n, Node)
                 and any(t is parameter for t in n.pruned)]  # fmt: skip
        used = f"its VJP was dropped in {', '.join(users)}" if users else "no operation met it"
        return f"{name} is frozen (requires_grad is False), so it gets no gradient; {used}"
    steps: dict[int, float] = {id(parameter): 0}  # how far each node is from the parameter
    for node in order:
        if isinstance(node, Node):
            near = [steps.get(id(p), math.inf) for p in node.parents if p is not None]
            steps[id(node)] = 1 + min(near, default=math.inf)
    if not math.isfinite(steps[id(y._node)]):
        return (
            f"no recorded operation leads from {name} to the result. Either this forward pass did "
            "not use it, or its use was detached, or made under no_grad(), or something else "
            "is used instead (an attached method computes a value for it)"
        )
    way: list[Any] = [y._node]
    while way[-1] is not parameter:
        parents = [p for p in way[-1].parents if p is not None]
        way.append(min(parents, key=lambda p: steps.get(id(p), math.inf)))
    norms = {id(n): float(xp_of(t).linalg.norm(t.reshape(-1))) for n, t, _ in walk(y, g, True, way)}
    rows = [
        (n.name if isinstance(n, Node) else name, str(n.shape), f"{norms[id(n)]:.2e}") for n in way
    ]
    lines = [Table(("operation", "output", "|gradient|"), rows, "llr").text()]
    zero = next((i for i, n in enumerate(way) if norms[id(n)] == 0), None)
    if zero == 0:
        lines.append("The cotangent itself is zero.")
    elif zero is not None:
        before = way[zero - 1].name
        lines.append(f"The gradient is exactly zero from here on: {before} passes none to its "
                     f"input {rows[zero][0]}. Is another of its inputs zero?")  # fmt: skip
    return "\n".join(lines)


def jacobian(f: Callable[[Tensor], Tensor], x: Any) -> np.ndarray:
    """All first derivatives of f at x, one row per output: for looking, not for training.

    Shapes  x (n...), f(x) (m...) -> (m..., n...)
    """
    leaf = Tensor(x.data if isinstance(x, Tensor) else np.asarray(x), requires_grad=True)
    y = f(leaf)
    rows = np.zeros((y.size, *leaf.shape), leaf.dtype)
    for i in range(y.size):
        g = np.zeros(y.size, dtype=y.dtype)
        g[i] = 1
        found: dict[int, Any] = {}
        y.backward(xp_of(y.data).asarray(g.reshape(y.shape)), retain=True, into=found)
        if id(leaf) in found:
            rows[i] = to_numpy(found[id(leaf)])
    return rows.reshape(y.shape + leaf.shape)


def watching(look: Callable[[str, Array, tuple[Any, ...]], None]) -> Any:
    """A context in which `look` sees every operation's name, value and Tensors, as it is done."""
    outer = context().around

    def around(name: str, fn: Any, args: Any, arrays: Any, settings: Any) -> Any:
        run = outer(name, fn, args, arrays, settings) if outer else fn(*arrays, **settings)
        look(name, run[0] if is_array(run[0]) else np.asarray(run[0]), args)
        return run

    return changed(around=around)
