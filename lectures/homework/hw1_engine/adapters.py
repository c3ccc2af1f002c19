"""How the tests call your code: arrays in, arrays out.

Each function takes the inputs of one test, calls what you wrote, and returns the results by name.
Where your class brings engines of its own, you write the bodies anew; what they take and return
stays. Else this file is not graded.
All arrays of numbers are float64. g is a cotangent: the gradient of the loss with respect to the
value, so each result is the gradient of sum(g * value).
"""


def unbroadcast_leading(g, shape):
    """Sum g over the axes along which `shape` was broadcast to g's shape.

    Shapes  g (..., *shape), shape a list of lengths -> {"sum": of that shape}
    """
    from minipeft.engine.op import unbroadcast

    return {"sum": unbroadcast(g, tuple(int(n) for n in shape))}


def unbroadcast_ones(g, shape):
    """The same, where `shape` also has axes of length 1 that are longer in g."""
    return unbroadcast_leading(g, shape)


def div_gradients(a, b, g):
    """The gradients of sum(g * a / b).  Shapes  all alike -> {"ga": of a's, "gb": of b's}"""
    from minipeft.engine import ops

    return _gradients(ops.div, {"ga": a, "gb": b}, g)


def div_broadcast(a, b, g):
    """The same, with a and b broadcast to g's shape; each gradient has its input's shape."""
    return div_gradients(a, b, g)


def linear_rows(x, W, b, g):
    """y = x Wᵀ + b, and the gradients of sum(g * y).

    Shapes  x (N, I), W (O, I), b (O,), g (N, O) -> {"y": (N, O), "gx": (N, I), "gw": (O, I),
            "gb": (O,)}
    """
    from minipeft.engine import fused

    W = W.copy()  # (O, I)
    y = fused.linear(x, W, b).data
    return {"y": y, **_gradients(fused.linear, {"gx": x, "gw": W, "gb": b}, g)}


def linear_batch(x, W, b, g):
    """The same with two leading axes.  Shapes  x (B, T, I), g (B, T, O), the rest as above"""
    return linear_rows(x, W, b, g)


def softmax_value(x, axis):
    """Softmax along an axis, without overflow for large x.  Shapes  x any -> {"y": of x's}"""
    from minipeft.engine import Tensor, fused

    return {"y": fused.softmax(Tensor(x), axis=axis).data}


def softmax_gradient(x, axis, g):
    """The gradient of sum(g * softmax(x)) with respect to x.  Shapes  x, g any -> {"gx": of x's}"""
    from minipeft.engine import fused

    return _gradients(lambda t: fused.softmax(t, axis=axis), {"gx": x}, g)


def layer_norm_gradients(x, w, b, eps, g):
    """The gradients of sum(g * y), y = (x - mean) / sqrt(var + eps) * w + b over the last axis.

    var divides by n.
    Shapes  x, g (B, T, n), w, b (n,) -> {"gx": (B, T, n), "gw": (n,), "gb": (n,)}
    """
    from minipeft.engine import fused

    return _gradients(lambda *t: fused.layer_norm(*t, eps=eps), {"gx": x, "gw": w, "gb": b}, g)


def graph_gradients(leaves, weights):
    """The gradient of the last value of a graph with respect to its leaves.

    Values 0 to k-1 are the leaves; value i from k on is the sum over j < i of weights[i, j] times
    value j, where the weight is not 0.
    Shapes  leaves (k,), weights (n, n) -> {"gradient": (k,)}
    """
    import numpy as np

    from minipeft.engine import Tensor
    from minipeft.engine.tensor import topological

    values = [Tensor(np.array([x]), requires_grad=True) for x in leaves]
    for row in weights[len(leaves) :]:
        parts = [w * value for w, value in zip(row, values, strict=False) if w]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        values.append(total)
    # your order, walked from its end: each node hands its sum on to its parents
    sums = {id(values[-1]._node): np.ones(1)}
    for node in reversed(topological(values[-1]._node)):
        g = sums.get(id(node), np.zeros(1))
        if not isinstance(node, Tensor):
            for parent, part in zip(node.parents, node.pull(g), strict=True):
                if parent is not None:
                    sums[id(parent)] = sums.get(id(parent), np.zeros(1)) + part
    return {"gradient": np.array([sums.get(id(v), np.zeros(1))[0] for v in values[: len(leaves)]])}


def deep_gradient(x, n, g):
    """The gradient of sum(g * y), where x was multiplied n times by 1.0001.

    Shapes  x, g (3,) -> {"gx": (3,)}
    """
    from minipeft.engine import Tensor

    leaf = y = Tensor(x, requires_grad=True)
    for _ in range(n):
        y = y * 1.0001
    y.backward(g)
    return {"gx": 0.0 * x if leaf.grad is None else leaf.grad}


def _gradients(f, inputs, g):
    """The gradients of f's inputs by their names: its own VJPs, without a walk."""
    from minipeft.engine import Tensor

    leaves = [Tensor(array, requires_grad=True) for array in inputs.values()]
    node = f(*leaves)._node
    parts = {id(leaf): part for leaf, part in zip(node.parents, node.pull(g), strict=True)}
    return {name: parts[id(leaf)] for name, leaf in zip(inputs, leaves, strict=True)}
