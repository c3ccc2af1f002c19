"""Tensor: an array that remembers how it was made, and the walk that differentiates it.

`y.backward()` walks the recorded graph from y to the leaves and leaves gradients in their
`.grad`. A graph node holds its inputs' nodes, not their arrays: an array lives on only where
some derivative needs it. Gradients of inner nodes live in the walk alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from minipeft.backend import Array, Rng, is_array, to_numpy, xp_of
from minipeft.engine.operators import Operators


class Context(NamedTuple):
    """What a forward pass depends on besides its inputs. It is replaced, never written to.

    It lies in a ContextVar. So each asyncio task has its own, and a new thread begins with these
    defaults unless it is handed a context (`contextvars.copy_context().run`). A generator shares
    the context of whoever runs it, so it must not yield inside `running` or `no_grad`.
    """

    recording: bool = True  # build the graph?
    rng: Rng | None = None  # with none, dropout is the identity
    off: tuple[Any, ...] = ()  # attached handles whose branches are skipped
    rows: tuple[Any, ...] | None = None  # per row of the batch its handle, or None for the base
    recompute: bool = False  # keep no activations of a block: backward makes them again
    hidden: Any = None  # stored states of this batch (minipeft/hidden.py): lower blocks are skipped
    inside: bool = False  # inside the outermost Module call?
    trace: Callable[[str, Array, tuple[Any, ...]], None] | None = None  # sees every operation
    shapes: Any = None  # a Meter, which runs operations on shapes alone (meter.py)
    values: dict[int, Tensor] | None = None  # id(Parameter) -> what stands for it in this pass
    outer: Context | None = None  # what holds again where this one ends


_CONTEXT = ContextVar("minipeft", default=Context())  # noqa: B039  (it cannot be written to)
_SAME: Any = object()  # a setting that was not named


def context() -> Context:
    """The context that holds here."""
    return _CONTEXT.get()


@contextmanager
def changed(**fields: Any) -> Iterator[None]:
    """Other values for some fields of the context inside the block; the rest stays.

    Raises  RuntimeError where a block that began inside this one is still open at its end, or
            this one ends after the block around it
    """
    outer = context()
    mine = outer._replace(outer=outer, **fields)
    _CONTEXT.set(mine)
    try:
        yield
    finally:
        now: Context | None = context()
        if now is mine:
            _CONTEXT.set(outer)
        else:
            while now is not None and now is not mine:
                now = now.outer
            if now is mine:  # end what is still open inside with it
                _CONTEXT.set(outer)
            name = "no_grad()" if "recording" in fields else f"running({', '.join(fields)})"
            raise RuntimeError(
                f"{name} was left out of order: a generator was suspended inside `running` or "
                "`no_grad` when the block around it ended, or was resumed inside another. Yield "
                "outside of such blocks: end them first, or make a list"
            )


def running(
    *,
    rng: Rng | None = _SAME,
    off: Sequence[Any] = _SAME,
    rows: Sequence[Any] | None = _SAME,
    recompute: bool = _SAME,
    hidden: Any = _SAME,
) -> AbstractContextManager[None]:
    """Say what forward passes depend on besides their inputs, inside a `with`.

    What is not named stays as the block around it has it; `off=()` or `rows=None` resets.
    rng        dropout is drawn from it; with none there is no dropout
    off        attached handles whose branches are skipped
    rows       the adapter of each row of the batch: an attached handle, or None for the base
    recompute  keep no activations inside blocks: backward computes them again
    hidden     stored states that stand for what the lower blocks make of this batch
    """
    named = {"rng": rng, "off": off, "rows": rows, "recompute": recompute, "hidden": hidden}
    fields = {name: value for name, value in named.items() if value is not _SAME}
    for name in ("off", "rows"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    return changed(**fields)


def no_grad() -> AbstractContextManager[None]:
    """Record nothing inside a `with`: forward passes keep no activations."""
    return changed(recording=False)


class Node:
    """One recorded operation: where its gradient goes, and how.

    parents  per input: a Node, a leaf Tensor, or None where no gradient is needed
    vjps     per input a function g -> gradient (None where not needed), or, for fused ops,
             one function (g, needs) -> gradients; None once the walk has freed it
    watch    (Parameter, version) pairs: what must not change before backward
    """

    __slots__ = ("dtype", "name", "needs", "parents", "pruned", "shape", "vjps", "watch")

    def __init__(self, name: str, inputs: Sequence[Any], needs: tuple[bool, ...], y: Array) -> None:
        self.name, self.needs = name, needs
        self.parents = tuple(
            (t._node or t) if need else None for t, need in zip(inputs, needs, strict=True)
        )
        self.pruned = tuple(
            t for t, need in zip(inputs, needs, strict=True)
            if not need and isinstance(t, Tensor) and t.version is not None
        )  # fmt: skip
        self.watch = tuple(
            (t, t.version) for t in inputs if isinstance(t, Tensor) and t.version is not None
        )
        self.shape, self.dtype = y.shape, y.dtype
        self.vjps: Any = None

    def pull(self, g: Array) -> Sequence[Array | None]:
        """The gradients of the inputs, given the gradient g of the output."""
        if self.vjps is None:
            raise RuntimeError(
                f"backward went through {self.name!r} before, and its graph was freed behind it. "
                "Call backward(retain=True) the first time, or run the forward pass again"
            )
        for parameter, version in self.watch:
            if parameter.version != version:
                raise RuntimeError(
                    f"a parameter of shape {parameter.shape} was changed between the forward pass "
                    f"and backward through {self.name!r}: its gradient would be of another "
                    "function. Run the forward pass again after the change"
                )
        if callable(self.vjps):
            return self.vjps(g, self.needs)
        return [vjp(g) if need else None for vjp, need in zip(self.vjps, self.needs, strict=True)]


class Tensor(Operators):
    """An array on NumPy or CuPy with a place in a recorded computation.

    Lists and Python floats become float32; arrays and NumPy scalars keep their dtype. Only
    leaves (tensors that no operation made) keep `.grad`; `grad(y, [t])` gives the gradient of an
    inner one.
    """

    __slots__ = ("_data", "_node", "grad", "made_by", "requires_grad")
    version: int | None = None  # Parameters count their changes

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor(data) got a Tensor; use t.detach() for a new leaf on its array")
        if not is_array(data):
            given, data = data, np.asarray(data)
            if data.dtype == np.float64 and not isinstance(given, np.generic):
                data = data.astype(np.float32)
        if data.dtype.kind not in "biuf":
            raise TypeError(f"Tensor(data) needs real numbers; got dtype {data.dtype}")
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"only floats have gradients; got dtype {data.dtype}")
        self._data = data
        self._node: Node | None = None
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.made_by = ""

    @property
    def data(self) -> Array:
        """The array. It may be replaced by one of the same shape."""
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        if array.shape != self._data.shape:
            raise ValueError(f"data of shape {array.shape} put where shape {self.shape} stands")
        self._data = array

    # -- backward ---------------------------------------------------------------------------

    def backward(
        self, g: Array | None = None, retain: bool = False, into: dict[int, Array] | None = None
    ) -> None:
        """Add d self / d leaf to `.grad` of every leaf that requires a gradient.

        g       the cotangent, of self's shape; 1 for a scalar
        retain  keep the graph for a second call; else it is freed on the way
        into    put the gradients here instead, by id(leaf): threads keep theirs apart
        Raises  RuntimeError if nothing here requires a gradient, or the graph is used up
        """
        for leaf, total, owned in _walk(self, g, retain, ()):
            if into is not None:
                into[id(leaf)] = total if owned else total.copy()
            elif leaf.grad is None:
                leaf.grad = total if owned else total.copy()
            else:
                leaf.grad += total

    def detach(self) -> Tensor:
        """A new leaf on the same array: gradients stop here."""
        return Tensor(self._data)

    # -- what an array has ------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    def numpy(self) -> np.ndarray:
        """The array on the host."""
        return to_numpy(self._data)

    def __repr__(self) -> str:
        history = f", made by {self._node.name}" if self._node else ""
        history = history or (", requires_grad" if self.requires_grad else "")
        body = np.array2string(self.numpy(), precision=4, threshold=64, prefix="Tensor(")
        return f"Tensor({body}, shape={self.shape}, {self.dtype}{history})"


def grad(y: Tensor, wanted: Sequence[Tensor], g: Array | None = None) -> list[Array]:
    """d y / d t for each wanted tensor, inner ones too; no `.grad` is touched.

    Keeps the graph. Raises RuntimeError if y does not depend on one of them.
    """
    found: dict[int, Array] = {}
    for key, total, owned in _walk(y, g, True, [t._node or t for t in wanted]):
        found[id(key)] = total if owned else total.copy()
    for i, t in enumerate(wanted):
        if id(t._node or t) not in found:
            raise RuntimeError(
                f"y does not depend on wanted[{i}], shape {t.shape}, or it is frozen"
            )
    return [found[id(t._node or t)] for t in wanted]


def _raw(x: Any) -> Any:
    return x._data if isinstance(x, Tensor) else x


def _topological(root: Any) -> list[Any]:
    """Nodes and leaves below root, inputs before outputs. An explicit stack: no depth limit."""
    order: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if isinstance(node, Node):
                stack.extend((p, False) for p in node.parents if p is not None)
    return order


def _walk(
    y: Tensor, g: Any, retain: bool, wanted: Sequence[Any]
) -> Iterator[tuple[Any, Array, bool]]:
    """Yield (leaf or wanted node, its gradient, whether the array is ours alone).

    A VJP returns a new array or a view of the g it was given. Such a view, or one that repeats
    its elements (stride 0), is never written to: its first sum makes a new array, which the walk
    owns, and later ones are added in place.
    """
    xp = xp_of(y._data)
    if not y.requires_grad:
        why = f"its last operation, {y.made_by}, had" if y.made_by else "it is a leaf that has"
        raise RuntimeError(
            f"nothing to differentiate: this Tensor depends on no trainable leaf; {why} no input "
            "that requires a gradient. Is everything frozen (attach a method), detached, or was "
            "the forward pass run under no_grad()?"
        )
    if g is None:
        if y.size != 1:
            raise RuntimeError(f"backward of shape {y.shape} needs a cotangent g of that shape")
        g = xp.ones_like(y._data)
    else:
        g = _raw(g)
        if type(g) is not type(y._data) or g.dtype != y.dtype:
            g = xp.asarray(g, dtype=y.dtype)
        if g.shape != y.shape:
            raise ValueError(f"the cotangent has shape {g.shape}, the Tensor {y.shape}")
    root = y._node or y
    wanted_ids = {id(w) for w in wanted}
    sums: dict[int, tuple[Array, bool]] = {id(root): (g, False)}
    order = _topological(root)
    while order:
        node = order.pop()
        g, owned = sums.pop(id(node))
        if isinstance(node, Tensor):
            if not wanted or id(node) in wanted_ids:
                yield node, g, owned
            continue
        if id(node) in wanted_ids:
            yield node, g, False
        for parent, part in zip(node.parents, node.pull(g), strict=True):
            if parent is None:
                continue
            if part is not None and not is_array(part):
                part = xp.asarray(part)  # 0-d results come as scalars
            if part is None or part.shape != parent.shape:
                got = "nothing" if part is None else f"shape {part.shape}"
                raise RuntimeError(
                    f"the VJP of {node.name!r} returned {got} for an input of shape {parent.shape}"
                )
            if part.dtype != parent.dtype:
                part = part.astype(parent.dtype)
            key = id(parent)
            if key not in sums:
                sums[key] = (part, 0 not in part.strides and not xp.may_share_memory(part, g))
            elif sums[key][1]:
                total = sums[key][0]
                total += part
            else:
                sums[key] = (sums[key][0] + part, True)
        if not retain:
            node.parents, node.vjps = (), None


VJP = Callable[[Array], Array]
