"""The tape as text: what was recorded, what it keeps in memory, and what was pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from minipeft.backend import is_array
from minipeft.display.table import Table
from minipeft.engine.tensor import Node, Tensor, topological


class Kept(NamedTuple):
    """One recorded operation, and the bytes that it keeps for backward.

    pruned  how many frozen parameters it met, whose VJPs were dropped
    """

    operation: str
    shape: tuple[int, ...]
    bytes: int
    pruned: int = 0


def held(node: Node, seen: set[int] | None = None) -> int:
    """Bytes of the activations that a node's VJPs keep alive; arrays in `seen` count once.

    Parameters that the closures hold are not counted: they live in the model anyway.
    """
    seen = set() if seen is None else seen
    vjps = node.vjps if isinstance(node.vjps, tuple) else (node.vjps,)
    parameters = (t for t in (*node.parents, *node.pruned) if isinstance(t, Tensor) and t.owned)
    skip = {id(_owner(t.data)) for t in parameters}
    total = 0
    for array in (a for vjp in vjps if vjp is not None for a in _closure_arrays(vjp, set())):
        owner = _owner(array)
        if id(owner) not in seen and id(owner) not in skip:
            seen.add(id(owner))
            total += int(owner.nbytes)
    return total


def _owner(array: Any) -> Any:
    """The array whose memory a view shows."""
    while is_array(getattr(array, "base", None)):
        array = array.base
    return array


def _closure_arrays(fn: Any, visited: set[int]) -> list[Any]:
    """The arrays that a function's closure refers to, through inner functions too."""
    if id(fn) in visited:
        return []
    visited.add(id(fn))
    found: list[Any] = []
    for cell in getattr(fn, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if is_array(item):
                found.append(item)
            elif callable(item):
                found += _closure_arrays(item, visited)
    return found


def tape(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The recorded graph below y, last operation first, as a table.

    names   e.g. dict(model.named_parameters()): parameters are then shown by name
    Columns operation, output shape, bytes kept for backward, inputs that get a gradient
            (operations by their number), and frozen parameters whose VJP was dropped
    """
    if y._node is None:
        return "(nothing recorded: no input requires a gradient, or no_grad() was on)"
    called = {id(p): name for name, p in (names or {}).items()}
    order = topological(y._node)[::-1]
    number = {id(n): i for i, n in enumerate(n for n in order if isinstance(n, Node))}

    def label(t: Any) -> str:
        if isinstance(t, Node):
            return f"#{number[id(t)]}"
        return called.get(id(t), f"leaf {t.shape}")

    seen: set[int] = set()
    rows = []
    total = 0
    for node in order:
        if isinstance(node, Node):
            kept = held(node, seen)
            total += kept
            into = ", ".join(label(p) for p in node.parents if p is not None)
            cut = ", ".join(label(t) for t in node.pruned)
            name = f"#{number[id(node)]}"
            rows.append((name, node.name, str(node.shape), f"{kept:,}", into, cut))
    rows.append(("", f"{len(number)} operations", "", f"{total:,}", "bytes", ""))
    header = ("", "operation", "shape", "keeps", "gradient to", "pruned")
    return Table(header, rows, "lllrl").text()


def kept(y: Tensor) -> list[Kept]:
    """What each recorded operation below y keeps for backward, inputs before outputs.

    An array that two operations hold counts once, at the one that backward reaches first.
    """
    seen: set[int] = set()
    nodes = [] if y._node is None else topological(y._node)[::-1]
    return [
        Kept(n.name, n.shape, held(n, seen), len(n.pruned)) for n in nodes if isinstance(n, Node)
    ][::-1]


def operations(y: Tensor) -> list[str]:
    """Names of the recorded operations below y, in the order in which they ran."""
    return [] if y._node is None else [n.name for n in topological(y._node) if isinstance(n, Node)]
