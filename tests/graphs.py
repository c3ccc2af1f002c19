"""Random graphs of operations, for differences and for other frameworks to judge.

A graph has one to three leaves of few elements, of one, or of none, or without axes, and a dozen
operations or more. Every tensor but the last ones is used three to six times. What the graph
computes is written for a library L, which is ours or stands for another framework.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from minipeft.backend import Rng
from minipeft.engine import Tensor, fused, no_grad, ops

OURS = SimpleNamespace(**vars(fused) | vars(ops), array=lambda a: a)
SHAPES = ((), (), (1,), (1, 1), (3,), (4,), (2, 3), (2, 1), (1, 3), (2, 2, 2), (0,), (0, 3), (3, 0))
SIZE, LARGE, GAP = 48, 12.0, 0.02  # elements and values of a tensor; how far from a kink


class Kind(NamedTuple):
    """An operation: how many tensors it takes, its settings for such arrays, what it does.

    settings(rng, *arrays) is None where it does not apply to them
    """

    tensors: int
    settings: Callable[..., dict | None]
    run: Callable[..., Any]


class Step(NamedTuple):
    kind: str
    inputs: tuple[int, ...]  # numbers of leaves, then of earlier steps
    settings: dict


class Graph(NamedTuple):
    leaves: list[np.ndarray]
    steps: list[Step]
    ends: list[int]  # what no step uses
    weights: list[float]  # theirs in the sum
    scalar: bool  # one number, or all elements of the ends

    def __str__(self):
        n = len(self.leaves)
        lines = [f"  {i}: leaf {a.tolist()}, shape {a.shape}" for i, a in enumerate(self.leaves)]
        lines += [f"  {n + i}: {s.kind}{s.inputs} {s.settings}" for i, s in enumerate(self.steps)]
        return "\n".join([*lines, f"  ends {self.ends}, scalar {self.scalar}"])


def values(graph, L, leaves):
    """Every tensor of a graph, and last its result."""
    made = list(leaves)
    for step in graph.steps:
        run = KINDS[step.kind].run
        made.append(run(L, *[made[i] for i in step.inputs], **step.settings))
    if graph.scalar:
        total = None
        for i, weight in zip(graph.ends, graph.weights, strict=True):
            part = made[i] * weight if made[i].ndim == 0 else L.sum(made[i]) * weight
            total = part if total is None else total + part
        return [*made, total + total * total * 0.1 + L.tanh(total)]
    return [*made, L.concatenate([L.reshape(made[i], shape=(-1,)) for i in graph.ends])]


def draw(seed):
    """A random graph."""
    rng = Rng(seed, "graph")
    leaves = [rng.normal(rng.choice(SHAPES)) for _ in range(rng.integers(1, 4))]
    leaves = [np.asarray(a) for a in leaves]
    made, steps = [Tensor(a) for a in leaves], []
    uses = [0] * len(made)

    def grow(first, others):
        """One more step, which takes the tensor of this number, and others below that number."""
        for _ in range(100):
            name = rng.choice(NAMES)
            kind = KINDS[name]
            for _ in range(1 if kind.tensors == 1 else 5):
                more = [rng.integers(0, others) for _ in range(kind.tensors - 1)]
                inputs = tuple(rng.shuffle([first, *more]))
                settings = kind.settings(rng, *[made[i].data for i in inputs])
                if settings is not None:
                    break
            else:
                continue
            y = kind.run(OURS, *[made[i] for i in inputs], **settings)
            if y.size > SIZE or not (np.abs(y.data) < LARGE).all():
                continue
            made.append(y)
            uses.append(0)
            steps.append(Step(name, inputs, settings))
            for i in set(inputs):
                uses[i] += inputs.count(i)
            return
        raise AssertionError(f"nothing applies to shape {made[first].shape}")

    with no_grad():
        for _ in range(rng.integers(2, 5)):
            grow(min(range(len(made)), key=uses.__getitem__), len(made))
        inner = len(made)  # what comes after is used by the result alone
        for i in range(inner):
            for _ in range(rng.integers(3, 7) - uses[i]):
                grow(i, inner)
    ends = [i for i, n in enumerate(uses) if n == 0]
    weights = rng.uniform((len(ends),), 0.1, 0.5).tolist()
    return Graph(leaves, steps, ends, weights, bool(rng.integers(0, 2)))


# -- settings ------------------------------------------------------------------------------------


def none(rng, *xs):
    return {}


def small(limit):
    return lambda rng, x: {} if (np.abs(x) < limit).all() else None


def away_from_zero(rng, x, *others):
    x = x - others[0] if others else x
    return {} if (np.abs(x) > GAP).all() else None


def fit(rng, x, y):
    """Shapes that broadcast."""
    try:
        n = np.prod(np.broadcast_shapes(x.shape, y.shape))
    except ValueError:
        return None
    return {} if n <= SIZE else None


def fit_away(rng, x, y):
    return None if fit(rng, x, y) is None else away_from_zero(rng, x, y)


def fit_exponent(rng, x, y):
    return fit(rng, x, y) if (np.abs(y) < 2).all() and (np.abs(x) < 2).all() else None


def axes(rng, x):
    """All axes, one, from either end, or several."""
    if x.ndim == 0:
        return None if rng.integers(0, 2) else rng.choice([0, -1])
    some = tuple(rng.choices(range(x.ndim), rng.integers(1, x.ndim + 1)))
    return rng.choice([None, rng.integers(-x.ndim, x.ndim), some])


def reduced(rng, x):
    return {"axis": axes(rng, x), "keepdims": bool(rng.integers(0, 2))}


def axis_tuple(x, axis):
    return tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)


def reduced_some(rng, x):
    """Where each result is made of something."""
    s = reduced(rng, x)
    over = [x.shape[a] for a in axis_tuple(x, s["axis"])] if x.ndim else [1]
    return s if np.prod(over) > 0 else None


def reduced_far_apart(rng, x):
    """Where no two elements, of which the larger is wanted, are close."""
    near = np.diff(np.sort(x, axis=None))
    return reduced_some(rng, x) if (near > GAP).all() else None


def reduced_far_from_zero(rng, x):
    return None if away_from_zero(rng, x) is None else reduced_some(rng, x)


def one_axis(rng, x):
    return {"axis": rng.integers(-x.ndim, x.ndim)} if x.ndim else None


def one_axis_some(rng, x):
    s = one_axis(rng, x)
    return s if s and x.shape[s["axis"]] else None


def new_shape(rng, x):
    """Another shape of as many elements, one size of it perhaps left to be found."""
    fitting = [s for s in (*SHAPES, (4, 2), (2, 1, 3), (6,), (8,), (3, 1, 1), (1, 1, 1))
               if np.prod(s) == x.size]  # fmt: skip
    shape = list(rng.choice([*fitting, x.shape, x.shape[::-1]]))
    if shape and x.size and rng.integers(0, 2):
        shape[rng.integers(0, len(shape))] = -1
    return {"shape": tuple(shape)}


def new_order(rng, x):
    return {"axes": tuple(int(a) - x.ndim * rng.integers(0, 2) for a in rng.permutation(x.ndim))}


def two_axes(rng, x):
    return {k: rng.integers(-x.ndim, x.ndim) for k in "ab"} if x.ndim else None


def one_of_size_one(rng, x):
    ones = [i for i, n in enumerate(x.shape) if n == 1]
    return {"axis": rng.choice([None, *ones])}


def wider(rng, x):
    """Leading axes, and axes of size 1 drawn out, to nothing as well."""
    lead = tuple(rng.integers(0, 3, (rng.integers(0, 3),)).tolist())
    return {"shape": (*lead, *(rng.integers(0, 4) if n == 1 else n for n in x.shape))}


def margins(rng, x):
    widths = [tuple(rng.integers(0, 3, (2,)).tolist()) for _ in x.shape]
    return {"widths": widths, "value": rng.uniform()} if x.ndim else None


def basic_index(rng, x):
    """Numbers, slices of any step, None and ..."""
    parts: list[Any] = []
    for n in x.shape[: rng.integers(0, x.ndim + 1)]:
        step = rng.choice([1, 1, 2, -1, -2])
        cut = slice(*(rng.choice([None, rng.integers(-3, 4)]) for _ in range(2)), step)
        parts.append(rng.integers(-n, n) if n and rng.integers(0, 3) == 0 else cut)
    if rng.integers(0, 3) == 0:
        parts.insert(rng.integers(0, len(parts) + 1), None)
    if rng.integers(0, 3) == 0:
        parts.append(...)
    return {"index": parts[0] if len(parts) == 1 else tuple(parts)}


def array_index(rng, x):
    """Integer arrays, in which numbers repeat, and a mask."""
    if not x.size or not x.ndim:
        return None
    if rng.integers(0, 3) == 0:
        return {"index": rng.uniform(x.shape) < 0.5}
    shape = rng.choice([(), (3,), (2, 2), (0,)])
    some = [rng.integers(-n, n, shape) for n in x.shape[: rng.integers(1, x.ndim + 1)]]
    return {"index": tuple(some) if len(some) > 1 else some[0]}


def joined(rng, *xs):
    first = xs[0]
    if not first.ndim or any(x.ndim != first.ndim for x in xs):
        return None
    axis = rng.integers(0, first.ndim)
    rest = {x.shape[:axis] + x.shape[axis + 1 :] for x in xs}
    return {"axis": axis - first.ndim * rng.integers(0, 2)} if len(rest) == 1 else None


def stacked(rng, *xs):
    if len({x.shape for x in xs}) > 1:
        return None
    return {"axis": rng.integers(-xs[0].ndim - 1, xs[0].ndim + 1)}


def cut(rng, x):
    s = one_axis(rng, x)
    if s is None:
        return None
    n = x.shape[s["axis"]]
    sections = rng.choice([k for k in (1, 2, 3) if n % k == 0] + [[n // 2], [1, 1]])
    return s | {"sections": sections}


def products(rng, x, y):
    if not x.ndim or not y.ndim or not fit_matmul(x.shape, y.shape):
        return None
    return {}


def fit_matmul(a, b):
    inner = b[-2] if len(b) > 1 else b[0]
    try:
        np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        return False
    return a[-1] == inner


def factor(rng, x):
    """A matrix for the last axis.  (2, C)"""
    return {"c": rng.normal((2, x.shape[-1]))} if x.ndim else None


def last_two(x):
    return {"a": -1, "b": -min(2, x.ndim)}


def constant(rng, x):
    return {"c": np.asarray(rng.normal(rng.choice([x.shape, x.shape[1:], (1, *x.shape)])))}


def number(rng, x):
    kind = rng.choice([float, np.float64, np.float32])
    return {"c": kind(rng.uniform((), 0.5, 2.0)), "left": bool(rng.integers(0, 2))}


def exponent(rng, x):
    return {"p": rng.choice([0, 1, 2, 3, 4, -1, 0.5, 2.5, -1.5])} if (np.abs(x) < 2).all() else None


def condition(rng, x, y):
    s = fit(rng, x, y)
    return None if s is None else {"c": rng.uniform(np.broadcast_shapes(x.shape, y.shape)) < 0.5}


def affine(rng, x):
    if not x.ndim or x.shape[-1] < 2 or (x.size and x.std(axis=-1).min() < 0.3):
        return None
    n = x.shape[-1]
    return {"w": rng.normal((n,)), "b": rng.normal((n,))}


def rows_of_table(rng, x):
    if x.ndim != 2 or not x.shape[0]:
        return None
    return {"ids": rng.integers(0, x.shape[0], rng.choice([(), (3,), (2, 2)]))}


def labels(rng, x):
    if x.ndim != 2 or not x.size:
        return None
    return {"labels": rng.integers(0, x.shape[1], (x.shape[0],))}


def heads(rng, q, k=None, v=None):
    """(B, T, C) and the same number of keys and values."""
    k, v = (q, q) if k is None else (k, v)
    if not q.ndim == k.ndim == v.ndim == 3 or k.shape != v.shape or not q.size or not k.size:
        return None
    if q.shape[::2] != k.shape[::2] or q.shape[1] > k.shape[1]:
        return None
    several = rng.choice([h for h in (1, 2) if q.shape[2] % h == 0])
    return {"heads": several, "causal": bool(rng.integers(0, 2))}


def turned(rng, x):
    return {"shift": rng.integers(-3, 4), **one_axis(rng, x)} if x.ndim else None


def repeated(rng, x):
    return {"repeats": rng.integers(0, 4), **one_axis(rng, x)} if x.ndim else None


def diagonal(rng, x):
    return {"k": rng.integers(-1, 2)} if x.ndim > 1 else None


def sides(f):
    """With a constant on either side of an operator."""
    return lambda L, x, c, left: f(c, x) if left else f(x, c)


KINDS = {
    # arithmetic
    "add": Kind(2, fit, lambda L, x, y: x + y),
    "sub": Kind(2, fit, lambda L, x, y: x - y),
    "mul": Kind(2, fit, lambda L, x, y: x * y),
    "div": Kind(2, fit, lambda L, x, y: x / (y * y + 1)),
    "pow": Kind(2, fit_exponent, lambda L, x, y: (x * x + 1) ** y),
    "neg": Kind(1, none, lambda L, x: -x),
    "square": Kind(1, none, lambda L, x: x * x),
    "power": Kind(1, exponent, lambda L, x, p: (x * x + 1) ** p),
    "cube": Kind(1, none, lambda L, x: x**3),
    "add a number": Kind(1, number, sides(lambda a, b: a + b)),
    "subtract a number": Kind(1, number, sides(lambda a, b: a - b)),
    "times a number": Kind(1, number, sides(lambda a, b: a * b)),
    "over a number": Kind(1, number, lambda L, x, c, left: c / (x * x + 1) if left else x / c),
    "times an array": Kind(1, constant, lambda L, x, c: x * L.array(c)),
    "an array times": Kind(1, constant, lambda L, x, c: L.array(c) * x),
    "minus an array": Kind(1, constant, lambda L, x, c: x - L.array(c)),
    "an array minus": Kind(1, constant, lambda L, x, c: L.array(c) - x),
    "maximum": Kind(2, fit_away, lambda L, x, y: L.maximum(x, y)),
    "minimum": Kind(2, fit_away, lambda L, x, y: L.minimum(x, y)),
    "where": Kind(2, condition, lambda L, x, y, c: L.where(L.array(c), x, y)),
    # elementwise
    "exp": Kind(1, small(2), lambda L, x: L.exp(x)),
    "log": Kind(1, none, lambda L, x: L.log(x * x + 1)),
    "sqrt": Kind(1, none, lambda L, x: L.sqrt(x * x + 1)),
    "sin": Kind(1, none, lambda L, x: L.sin(x) + L.cos(x)),
    "log1p": Kind(1, small(0.9), lambda L, x: L.log1p(x) + L.expm1(x)),
    "tanh": Kind(1, none, lambda L, x: L.tanh(x)),
    "sigmoid": Kind(1, none, lambda L, x: L.sigmoid(x)),
    "softplus": Kind(1, none, lambda L, x: L.softplus(x)),
    "erf": Kind(1, none, lambda L, x: L.erf(x)),
    "gelu": Kind(1, none, lambda L, x: L.gelu(x)),
    "gelu_erf": Kind(1, none, lambda L, x: L.gelu_erf(x)),
    "abs": Kind(1, away_from_zero, lambda L, x: L.abs(x)),
    "relu": Kind(1, away_from_zero, lambda L, x: L.relu(x)),
    "clip": Kind(1, lambda rng, x: away_from_zero(rng, np.abs(x) - 0.5),
                 lambda L, x: L.clip(x, low=-0.5, high=0.5)),
    # reductions
    "sum": Kind(1, reduced, lambda L, x, **s: L.sum(x, **s)),
    "mean": Kind(1, reduced_some, lambda L, x, **s: L.mean(x, **s)),
    "var": Kind(1, reduced_some, lambda L, x, **s: L.var(x, **s)),
    "max": Kind(1, reduced_far_apart, lambda L, x, **s: L.max(x, **s)),
    "min": Kind(1, reduced_far_apart, lambda L, x, **s: L.min(x, **s)),
    "logsumexp": Kind(1, reduced_some, lambda L, x, **s: L.logsumexp(x, **s)),
    "norm": Kind(1, reduced_far_from_zero, lambda L, x, **s: L.norm(x, **s)),
    "prod": Kind(1, reduced_some, lambda L, x, **s: L.prod(x, **s)),
    "cumsum": Kind(1, one_axis, lambda L, x, axis: L.cumsum(x, axis=axis)),
    "softmax": Kind(1, one_axis_some, lambda L, x, axis: L.softmax(x, axis=axis)),
    "log_softmax": Kind(1, one_axis_some, lambda L, x, axis: L.log_softmax(x, axis=axis)),
    # shapes
    "reshape": Kind(1, new_shape, lambda L, x, shape: L.reshape(x, shape=shape)),
    "transpose": Kind(1, new_order, lambda L, x, axes: L.transpose(x, axes=axes)),
    "swapaxes": Kind(1, two_axes, lambda L, x, a, b: L.swapaxes(x, a=a, b=b)),
    "squeeze": Kind(1, one_of_size_one, lambda L, x, axis: L.squeeze(x, axis=axis)),
    "expand_dims": Kind(1, stacked, lambda L, x, axis: L.expand_dims(x, axis=axis)),
    "broadcast_to": Kind(1, wider, lambda L, x, shape: L.broadcast_to(x, shape=shape)),
    "pad": Kind(1, margins, lambda L, x, **s: L.pad(x, **s)),
    "flip": Kind(1, one_axis, lambda L, x, axis: L.flip(x, axis=axis)),
    "roll": Kind(1, turned, lambda L, x, **s: L.roll(x, **s)),
    "repeat": Kind(1, repeated, lambda L, x, **s: L.repeat(x, **s)),
    "tril": Kind(1, diagonal, lambda L, x, k: L.tril(x, k=k)),
    # indexing and joining
    "basic index": Kind(1, basic_index, lambda L, x, index: L.getitem(x, index=index)),
    "array index": Kind(1, array_index, lambda L, x, index: L.getitem(x, index=index)),
    "concatenate": Kind(2, joined, lambda L, *xs, axis: L.concatenate(xs, axis=axis)),
    "concatenate alone": Kind(1, joined, lambda L, x, axis: L.concatenate([x] * 3, axis=axis)),
    "stack": Kind(2, stacked, lambda L, *xs, axis: L.stack(xs, axis=axis)),
    "stack alone": Kind(1, stacked, lambda L, x, axis: L.stack([x] * 3, axis=axis)),
    "split": Kind(1, cut, lambda L, x, **s: L.concatenate(L.split(x, **s)[::-1], axis=s["axis"])),
    # products and what is fused
    "matmul": Kind(2, products, lambda L, x, y: x @ y),
    "times a matrix": Kind(1, factor, lambda L, x, c: x @ L.array(c.T)),
    "a matrix times": Kind(1, factor, lambda L, x, c: L.array(c) @ L.swapaxes(x, **last_two(x))),
    "gram": Kind(1, one_axis, lambda L, x, axis: x @ L.swapaxes(x, **last_two(x))),
    "linear": Kind(1, factor, lambda L, x, c: L.linear(x, L.array(c))),
    "layer_norm": Kind(1, affine, lambda L, x, w, b: L.layer_norm(x, L.array(w), L.array(b))),
    "embedding": Kind(1, rows_of_table, lambda L, x, ids: L.embedding(x, L.array(ids))),
    "cross_entropy": Kind(1, labels, lambda L, x, labels: L.cross_entropy(x, L.array(labels))),
    "attention": Kind(3, heads, lambda L, q, k, v, **s: L.attention(q, k, v, **s)),
    "attention alone": Kind(1, heads, lambda L, x, **s: L.attention(x, x, x, **s)),
}  # fmt: skip
NAMES = tuple(KINDS)
