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
from minipeft.engine.changes import Changes, Elements
from minipeft.engine.operators import Operators


class Context(NamedTuple):
    """What a forward pass depends on besides its inputs. It is replaced, never written to.

    It lies in a ContextVar. So each asyncio task has its own, and a new thread begins with these
    defaults unless it is handed a context (`contextvars.copy_context().run`). A generator shares
    the context of the code that runs it, so it must not yield inside `running` or `no_grad`.
    """

    recording: bool = True  # build the graph?
    rng: Rng | None = None  # with none, dropout is the identity
    off: tuple[Any, ...] = ()  # attached handles whose branches are skipped
    rows: tuple[Any, ...] | None = None  # per row of the batch its handle, or None for the base
    recompute: bool = False  # keep no activations of a block: backward makes them again
    check: bool = False  # notice element writes between an operation and its backward?
    # stored states of this batch (minipeft/training/hidden.py): the lower blocks are skipped
    hidden: Any = None
    inside: Any = None  # the Module that was called first, inside its forward pass
    # runs every operation: (name, fn, its Tensors, their arrays, settings) -> what fn returns
    around: Callable[[str, Any, Any, Any, dict[str, Any]], Any] | None = None
    # in this pass: id(Parameter) -> the Tensor used instead, handle -> the generator of its dropout
    values: dict[Any, Any] | None = None
    opened: tuple[Any, ...] = ()  # the models' lists of handles whose values are in `values`
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
    check: bool = _SAME,
) -> AbstractContextManager[None]:
    """Say what forward passes depend on besides their inputs, inside a `with`.

    What is not named stays as the block around it has it; `off=()` or `rows=None` resets.
    rng        dropout is drawn from it; with none there is no dropout
    off        attached handles whose branches are skipped, or single wrappers of them
    rows       the adapter of each row of the batch: an attached handle, or None for the base
    recompute  keep no activations inside blocks: backward computes them again
    hidden     stored states of this batch, used instead of running the lower blocks
    check      keep a checksum of every array that an operation read or made, so that backward
               raises where elements were written since (`w.data[0] = 5`): slow, for debugging
    """
    named = {"rng": rng, "off": off, "rows": rows, "recompute": recompute, "hidden": hidden,
             "check": check}  # fmt: skip
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
    watch    pairs (what must not change before backward, its count of changes now) for the inputs
             that no operation made. Setting an operation's result adds a pair to its own node
    """

    __slots__ = ("dtype", "name", "needs", "parents", "pruned", "shape", "vjps", "watch")

    def __init__(self, name: str, inputs: Sequence[Any], needs: tuple[bool, ...], y: Array) -> None:
        self.name, self.needs = name, needs
        parents: list[Node | Tensor | None] = []
        pruned: list[Tensor] = []
        watch: list[tuple[Any, int]] = []
        for t, need in zip(inputs, needs, strict=True):
            made = isinstance(t, Tensor) and t._node
            parents.append((made or t) if need else None)
            if made is None:
                changes = t._changes or t.changes
                watch.append((changes, changes.now))
                if not need and t.owned:
                    pruned.append(t)
        self.parents, self.pruned, self.watch = tuple(parents), tuple(pruned), tuple(watch)
        self.shape, self.dtype = y.shape, y.dtype
        self.vjps: Any = None

    def check(self, inputs: Sequence[Any], y: Array) -> None:
        """Watch the elements of inputs and output too."""
        arrays = [(f"input {i}", _raw(x)) for i, x in enumerate(inputs)]
        found = [Elements(a, what) for what, a in (*arrays, ("the result", y)) if is_array(a)]
        self.watch += tuple((e, e.now) for e in found)

    def pull(self, g: Array) -> Sequence[Array | None]:
        """The gradients of the inputs, given the gradient g of the output."""
        if self.vjps is None:
            raise RuntimeError(
                f"backward went through {self.name!r} before, and its graph was freed behind it. "
                "Call backward(retain=True) the first time, or run the forward pass again"
            )
        for thing, before in self.watch:
            if thing.now != before:
                raise RuntimeError(
                    f"{thing} was changed between the forward pass and backward through "
                    f"{self.name!r}: its gradient would be of another function. Run the forward "
                    "pass again after the change"
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

    __slots__ = ("_changes", "_data", "_node", "grad", "made_by", "requires_grad")
    owned = False  # by a Module: a Parameter

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
        self._changes: Changes | None = None
        self._node: Node | None = None
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.made_by = ""

    @property
    def data(self) -> Array:
        """The array. It may be replaced by one of the same shape.

        Backward through a Tensor whose data was set (`t.data = a`, `t.data -= a`) after an
        operation used it raises. Written elements (`t.data[0] = 1`) are seen only inside
        `running(check=True)`; elsewhere backward gives the gradient of another function.
        """
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        if isinstance(array, np.generic):  # arithmetic of 0-d arrays gives scalars
            array = np.asarray(array)
        if not is_array(array):
            raise TypeError(f"data must be an array, got {type(array).__name__}")
        if array.shape != self._data.shape:
            raise ValueError(f"data must keep its shape {self.shape}, got {array.shape}")
        if self.requires_grad and array.dtype.kind != "f":
            raise TypeError(f"only floats have gradients; got data of dtype {array.dtype}")
        self._data = array
        self.changes.now += 1
        if self._node is not None:
            self._node.watch += ((self.changes, 0),)

    @property
    def changes(self) -> Changes:
        """How often data was set, as nodes see it."""
        if self._changes is None:
            self._changes = Changes(self)
        return self._changes

    @property
    def version(self) -> int:
        """How often data was set."""
        return 0 if self._changes is None else self._changes.now

    # -- backward ---------------------------------------------------------------------------

    def backward(
        self, g: Array | None = None, retain: bool = False, into: dict[int, Array] | None = None
    ) -> None:
        """Add d self / d leaf to `.grad` of every leaf that requires a gradient.

        g       the cotangent, of self's shape; 1 for a scalar
        retain  keep the graph for a second call; else it is freed on the way
        into    add them here instead, by id(leaf): threads keep theirs apart
        Raises  RuntimeError if nothing here requires a gradient, or the graph is used up
        """
        for leaf, total, owned in walk(self, g, retain, ()):
            if into is not None:
                if id(leaf) in into:
                    into[id(leaf)] += total
                else:
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
        """The array on the host; on the CPU it is the Tensor's own, no copy, as in PyTorch."""
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
    made = [t._node or t for t in wanted]
    keys = [id(m) for m in made]
    found: dict[int, Array] = {}
    for key, total, owned in walk(y, g, True, made):
        found[id(key)] = total if owned else total.copy()
    for i, t in enumerate(wanted):
        if keys[i] not in found:
            raise RuntimeError(
                f"y does not depend on wanted[{i}], shape {t.shape}, or it is frozen"
            )
    return [found[k].copy() if k in keys[:i] else found[k] for i, k in enumerate(keys)]


def _raw(x: Any) -> Any:
    return x._data if isinstance(x, Tensor) else x


def topological(root: Any) -> list[Any]:
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


def walk(
    y: Tensor, g: Any, retain: bool, wanted: Sequence[Any]
) -> Iterator[tuple[Any, Array, bool]]:
    """Yield (leaf or wanted node, its gradient, whether the array is ours alone).

    A VJP returns a new array or a view of the g it was given. Such a view, or an array that
    repeats its elements (stride 0) or is read-only, is never written to: its first sum makes a
    new array, which the walk owns, and later ones are added in place.
    """
    xp = xp_of(y._data)
    # there must be something to differentiate, and a cotangent to begin with: 1 for a scalar
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
    # from y to the leaves: a node's turn comes when all that used its output have added to its sum
    root = y._node or y
    wanted_ids = {id(w) for w in wanted}
    sums: dict[int, tuple[Array, bool]] = {id(root): (g, False)}
    order = topological(root)
    while order:
        node = order.pop()
        g, owned = sums.pop(id(node))
        # a leaf's gradient is complete
        if isinstance(node, Tensor):
            if not wanted or id(node) in wanted_ids:
                yield node, g, owned
            continue
        if id(node) in wanted_ids:
            yield node, g, False
        # the node's VJPs give a gradient for each input, of the input's shape and dtype
        mine: list[Array] = []  # what this node made anew: no two share memory
        for parent, part in zip(node.parents, node.pull(g), strict=True):
            if parent is None:
                continue
            if part is not None and not is_array(part):
                part = xp.asarray(part)  # arithmetic of 0-d arrays gives scalars
            if part is None or part.shape != parent.shape:
                got = "nothing" if part is None else f"shape {part.shape}"
                raise RuntimeError(
                    f"the VJP of {node.name!r} returned {got} for an input of shape {parent.shape}"
                )
            if part.dtype != parent.dtype:
                part = part.astype(parent.dtype)
            # it begins the input's sum, or is added to it: in place, if the walk owns the sum
            key = id(parent)
            if key not in sums:
                owned = not xp.may_share_memory(part, g)
                if owned:
                    if mine and any(xp.may_share_memory(part, a) for a in mine):
                        part = part.copy()
                    mine.append(part)
                    owned = 0 not in part.strides and getattr(part.flags, "writeable", True)
                sums[key] = part, owned
            elif sums[key][1]:
                total = sums[key][0]
                total += part
            else:
                total = sums[key][0] + part
                sums[key] = (total if is_array(total) else xp.asarray(total)), True
        # what the node kept for backward is freed
        if not retain:
            node.parents, node.vjps = (), None


VJP = Callable[[Array], Array]
