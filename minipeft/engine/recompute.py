"""Recomputation: spend a second forward pass to keep no activations (gradient checkpointing)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from minipeft.backend import Array, xp_of
from minipeft.engine.changes import Changes
from minipeft.engine.explain import watching
from minipeft.engine.tensor import Node, Tensor, changed, context


def recompute(f: Callable[..., Tensor], *args: Any, **settings: Any) -> Tensor:
    """f(*args, **settings), of which only the inputs are kept; backward runs f again.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    Every Tensor from outside that f uses is an input: its arguments, Parameters, and what
    attached methods computed for Parameters. Dropout draws the same numbers again.
    """
    ctx = context()
    if not ctx.recording or ctx.check:  # to check is to keep what was there
        return f(*args, **settings)
    rng, values = copy.deepcopy(ctx.rng), ctx.values
    same = {"off": ctx.off, "rows": ctx.rows, "hidden": ctx.hidden, "inside": ctx.inside,
            "opened": ctx.opened}  # fmt: skip
    outside: dict[int, Tensor] = {}  # what f uses and needs a gradient; not f's own results
    met: dict[int, tuple[Changes, int]] = {}  # frozen or not: f will read it again

    def watch(name: str, y: Array, inputs: tuple[Any, ...]) -> None:
        tensors = [t for t in inputs if isinstance(t, Tensor)]
        outside.update((id(t), t) for t in tensors if t.requires_grad)
        met.update((id(t.changes), (t.changes, t.changes.now)) for t in tensors)

    with changed(recording=False), watching(watch):
        out = f(*args, **settings)
    inputs = tuple(outside.values())
    if out.requires_grad or not inputs:  # f gave back what it got, or nothing needs a gradient
        return out
    out = Tensor(out.data)

    def vjp(g: Array, needs: tuple[bool, ...]) -> list[Array]:
        fresh = {key: Tensor(t.data, requires_grad=True) for key, t in outside.items()}
        made = {key: fresh.get(id(t), t) for key, t in (values or {}).items()}
        found: dict[int, Array] = {}
        again = copy.deepcopy(rng), made | fresh
        with changed(recording=True, recompute=False, rng=again[0], values=again[1], **same):
            f(*args, **settings).backward(g, into=found)
        leaves = [fresh[id(t)] for t in inputs]
        zeros = (xp_of(g).zeros_like(t.data) for t in leaves)
        return [found.get(id(t), zero) for t, zero in zip(leaves, zeros, strict=True)]

    node = Node("recompute", inputs, (True,) * len(inputs), out.data)
    node.vjps, node.watch = vjp, tuple(met.values())
    out._node, out.requires_grad, out.made_by = node, True, "recompute"
    return out
