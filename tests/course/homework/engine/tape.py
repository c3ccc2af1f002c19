"""An engine of a student's own: a tape of arrays."""

import numpy as np


class Value:
    """An array, what it was made of, and how a gradient is handed on to each of that."""

    def __init__(self, data, *parents):
        self.data, self.parents, self.grad = np.asarray(data, float), parents, None

    def __add__(self, other):
        other = value(other)
        return Value(self.data + other.data, (self, lambda g: g), (other, lambda g: g))

    def __mul__(self, other):
        a, b = self.data, value(other).data
        return Value(a * b, (self, lambda g: g * b), (value(other), lambda g: g * a))

    def __pow__(self, n):
        return Value(self.data**n, (self, lambda g: g * n * self.data ** (n - 1)))

    def __matmul__(self, other):
        a, b = self.data, other.data  # b has two axes
        return Value(a @ b, (self, lambda g: g @ b.T), (other, lambda g: rows(a).T @ rows(g)))

    def exp(self):
        y = np.exp(self.data)
        return Value(y, (self, lambda g: g * y))

    def sum(self, axis):
        whole = np.zeros_like(self.data)
        return Value(self.data.sum(axis=axis, keepdims=True), (self, lambda g: g + whole))

    def turned(self):
        return Value(self.data.T, (self, lambda g: g.T))

    def backward(self, g):
        """Give every value that this was made of its gradient."""
        self.grad = np.asarray(g, float)
        for node in reversed(order(self)):
            for parent, vjp in node.parents:
                part = unbroadcast(vjp(node.grad), parent.data.shape)
                parent.grad = part if parent.grad is None else parent.grad + part


def value(x):
    return x if isinstance(x, Value) else Value(x)


def rows(x):
    return x.reshape(-1, x.shape[-1])


def unbroadcast(g, shape):
    """g summed over the axes along which `shape` was broadcast."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def order(last):
    """Each value behind those that it was made of, without recursion."""
    found, seen, left = [], set(), [(last, False)]
    while left:
        node, ready = left.pop()
        if ready:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            left += [(node, True), *((parent, False) for parent, _ in node.parents)]
    return found


def sigmoid(x):
    return ((x * -1).exp() + 1) ** -1


def softmax(x, axis):
    e = (x + -x.data.max(axis=axis, keepdims=True)).exp()
    return e * e.sum(axis) ** -1


def layer_norm(x, w, b, eps):
    n = x.data.shape[-1]
    centred = x + x.sum(-1) * (-1 / n)
    var = (centred * centred).sum(-1) * (1 / n)
    return centred * (var + eps) ** -0.5 * w + b


def gradients(f, g, **inputs):
    """What f's inputs get of g, by their names; 0 where nothing comes."""
    leaves = {name: Value(array) for name, array in inputs.items()}
    f(*leaves.values()).backward(g)
    return {name: np.zeros_like(leaf.data) if leaf.grad is None else leaf.grad
            for name, leaf in leaves.items()}  # fmt: skip
