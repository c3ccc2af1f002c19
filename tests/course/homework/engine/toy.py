"""The toy's tests on an engine of one's own."""

from tape import Value, gradients, sigmoid


def exp_gradient(x, g):
    return {"y": Value(x).exp().data, "gx": gradients(Value.exp, g, x=x)["x"]}


def sigmoid_value(x):
    return {"y": sigmoid(Value(x)).data}


def sigmoid_gradient(x, g):
    return {"gx": gradients(sigmoid, g, x=x)["x"]}
