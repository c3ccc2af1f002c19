"""An engine of a student's own: a tape of arrays."""

import numpy as np


class Value:
    """An array, and how its gradient is handed on to what it was made of."""

    def __init__(self, data, parents=()):
        self.data, self.parents, self.grad = np.asarray(data, float), parents, None

    def __add__(self, other):
        return made(self.data + other.data, (self, lambda g: g), (other, lambda g: g))

    def __neg__(self):
        return made(-self.data, (self, lambda g: -g))

    def exp(self):
        y = np.exp(self.data)
        return made(y, (self, lambda g: g * y))

    def reciprocal(self):
        y = 1 / self.data
        return made(y, (self, lambda g: -g * y * y))

    def backward(self, g):
        """Give every value that this was made of its gradient."""
        self.grad = np.asarray(g, float)
        for value in reversed(order(self)):
            for parent, vjp in value.parents:
                part = vjp(value.grad)
                parent.grad = part if parent.grad is None else parent.grad + part


def made(data, *parents):
    return Value(data, parents)


def order(value, seen=None):
    """Each value behind those that it was made of."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return []
    seen.add(id(value))
    before = [v for parent, _ in value.parents for v in order(parent, seen)]
    return [*before, value]


def sigmoid(x):
    return ((-x).exp() + Value(np.ones_like(x.data))).reciprocal()
