"""Inputs of the toy's cases."""


def exp_gradient(draw):
    shape = draw.size(1, 4), draw.size(1, 3)
    return {"x": draw.normal(*shape, scale=1.0), "g": draw.normal(*shape)}


def sigmoid_value(draw):
    return {"x": draw.normal(draw.size(1, 5), scale=2.0)}


def sigmoid_gradient(draw):
    n = draw.size(2, 5)
    return {"x": draw.normal(n, scale=2.0), "g": draw.normal(n)}
