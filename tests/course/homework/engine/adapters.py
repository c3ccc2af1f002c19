"""The toy's tests on an engine of one's own."""

from tape import Value, sigmoid


def exp_gradient(x, g):
    leaf = Value(x)
    y = leaf.exp()
    y.backward(g)
    return {"y": y.data, "gx": leaf.grad}


def sigmoid_value(x):
    return {"y": sigmoid(Value(x)).data}


def sigmoid_gradient(x, g):
    leaf = Value(x)
    sigmoid(leaf).backward(g)
    return {"gx": leaf.grad}
