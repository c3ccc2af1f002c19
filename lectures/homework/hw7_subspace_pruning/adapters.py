"""How the tests call your code: arrays in, arrays out.

Each function takes the inputs of one test, calls what you wrote, and returns the results by name.
If you bring an engine of your own, write the bodies anew; what they take and return stays.
All numbers are float64 but for `n`, `at`, `look`, `order`, `size`, `rows`, `columns`, `groups`, `k`
and `steps` (integers) and `mask` (booleans).
"""


def transform_values(x):
    """H_n times each row of x, and x as it is after the call: the same as before.

    Shapes  x (r, n), n a power of two -> {"y": (r, n), "x": (r, n)}
    """
    from minipeft.methods.projection import transform

    return {"y": transform(x), "x": x}


def transform_long(n, at, values, look):
    """H_n times one long x that is 0 except at a few positions: x[at] = values.

    n is up to 16384, so the matrix H_n would take 2 GB.
    Shapes  at, values (k,), look (q,) -> {"y": (q,)}, the results at the positions `look`
    """
    import numpy as np

    from minipeft.methods.projection import transform

    x = np.zeros(n)
    x[at] = values
    return {"y": transform(x)[look]}


def fastfood_forward(z, signs, order, scales, size):
    """y = the first `size` entries of H G Π H B [z; 0], as section 2.2 of the handout has it.

    Shapes  z, signs (d,), order, scales (n,) -> {"y": (size,), "z": (d,)}, z as it is after the
            call: the same as before
    """
    from minipeft.engine import Tensor
    from minipeft.methods.projection import fastfood

    z = Tensor(z)
    return {"y": fastfood(z, signs, order, scales, size=size).data, "z": z.data}


def fastfood_backward(z, signs, order, scales, size, g):
    """The gradient of sum(g * y) with respect to z.  Shapes  g (size,) -> {"gz": (d,)}"""
    from minipeft.engine import Tensor
    from minipeft.methods.projection import fastfood

    z = Tensor(z, requires_grad=True)
    fastfood(z, signs, order, scales, size=size).backward(g)
    return {"gz": z.grad}


def _moved(theta, rows, columns, z, P, factors, groups):
    """The moved tensors, and the Parameters z and factors."""
    from minipeft.engine import Tensor, ops
    from minipeft.methods.subspace import Space
    from minipeft.nn import Module, Parameter

    class Given(Module):
        def forward(self, z):
            return ops.matmul(P, z)

    sizes = [int(n) for n in rows * columns]
    thetas, start = {}, 0
    for i, n in enumerate(sizes):
        thetas[f"tensor{i}"] = Tensor(theta[start : start + n].reshape(rows[i], columns[i]))
        start += n
    z, lam = Parameter(z), Parameter(factors) if len(factors) else None
    space = Space(z, lam, [Given()], sizes, [int(g) for g in groups])
    return list(space.moved(thetas).values()), z, lam


def subspace_forward(theta, rows, columns, z, P, factors, groups):
    """theta_i + lambda_i (P z)_i for each tensor i of a model.

    Tensor i has the shape (rows[i], columns[i]). theta and P z hold the tensors' entries one
    tensor after the other, each row by row. lambda_i = factors[groups[i]], or 1 where `factors`
    has length 0.
    Shapes  theta (D,), P (D, d), z (d,), factors (m,), rows, columns, groups (T,) ->
            {"theta": (D,)}, laid out as it came in
    """
    import numpy as np

    made, _, _ = _moved(theta, rows, columns, z, P, factors, groups)
    return {"theta": np.concatenate([t.data.reshape(-1) for t in made])}


def subspace_backward(theta, rows, columns, z, P, factors, groups, g):
    """The gradients of sum(g * result) with respect to z and to the factors.

    Shapes  g (D,) -> {"gz": (d,), "gfactors": (m,)}
    """
    import numpy as np

    from minipeft.engine import ops

    made, z, lam = _moved(theta, rows, columns, z, P, factors, groups)
    flat = ops.concatenate([t.reshape(-1) for t in made])
    flat.backward(g)
    none = np.zeros(len(factors))
    return {"gz": z.grad, "gfactors": none if lam is None or lam.grad is None else lam.grad}


def top_mask(scores, k):
    """Where the k largest scores are.

    Shapes  scores (o, i) -> {"mask": (o, i), of booleans; "bytes": what it takes, o times i;
            "scores": (o, i), as they are after the call: the same as before}
    """
    from minipeft.methods.masks import top

    mask = top(scores, k)
    return {"mask": mask, "bytes": getattr(mask, "nbytes", 0), "scores": scores}


def top_equal(scores, k):
    """The mask of top_mask, where many scores are equal.  scores (o, i) -> {"mask": (o, i)}"""
    from minipeft.methods.masks import top

    return {"mask": top(scores, k)}


def _masked(x, W, b, S, mask, c):
    """A masked Linear called on x: its output, x as a Tensor, and the layer."""
    from minipeft.engine import Tensor
    from minipeft.methods.movement import ScoredLinear
    from minipeft.nn import Linear, Parameter

    layer = ScoredLinear(Linear.of(Parameter(W), Parameter(b)), True, c)
    layer.S.data, layer.mask = S, mask
    x = Tensor(x, requires_grad=True)
    return layer(x), x, layer


def masked_forward(x, W, b, S, mask, c):
    """y = x (M * W)^T + b, M the mask; S and c do not change y.

    Shapes  x (n, d_in), W, S, mask (d_out, d_in), b (d_out,), c a number -> {"y": (n, d_out)}
    """
    return {"y": _masked(x, W, b, S, mask, c)[0].data}


def masked_backward(x, W, b, S, mask, c, g):
    """The gradients of sum(g * y), that of S as if M were c S.

    Shapes  g (n, d_out) -> {"gx": (n, d_in), "gW": (d_out, d_in), "gS": (d_out, d_in),
            "gb": (d_out,)}
    """
    import numpy as np

    y, x, layer = _masked(x, W, b, S, mask, c)
    y.backward(g)
    grad = {"gx": x.grad, "gW": layer.W.grad, "gS": layer.S.grad, "gb": layer.b.grad}
    like = {"gx": x.data, "gW": W, "gS": W, "gb": b}
    return {k: np.zeros_like(like[k]) if a is None else a for k, a in grad.items()}


def schedule(first, last, t, warm, cool):
    """The schedule at each time of t.  Shapes  t (q,), the others numbers -> {"value": (q,)}"""
    import numpy as np

    from minipeft.methods.masks import cubic

    return {"value": np.array([cubic(first, last, float(one), warm, cool) for one in t])}


def movement_training(x, target, W, b, v, warm, cool, c, lr, steps):
    """Movement pruning of one Linear layer, as section 3.3 of the handout has it.

    All scores begin at 0 and all weights are kept. In step s = 0, 1, ..., steps - 1:
      M = the k largest scores, y = x (M * W)^T + b, loss = sum((y - target)^2) / (2 n);
      W, S and b each make a step of plain gradient descent of rate lr, all from gradients of
      before the step, that of S by the straight-through rule with c;
      then k = max(1, round((1 - q (1 - v)) d_out d_in)), where q goes from 0 to 1 by equation (6):
      q = cubic(0, 1, (s + 1) / steps, warm, cool).
    At the end M is chosen once more.
    Shapes  x (n, d_in), target (n, d_out), W (d_out, d_in), b (d_out,) ->
            {"W": (d_out, d_in), "S": (d_out, d_in), "b": (d_out,), "mask": (d_out, d_in)}
    """
    from minipeft.contract import attach
    from minipeft.engine import Tensor, ops
    from minipeft.methods.movement import Movement
    from minipeft.nn import Linear, Module, Parameter

    class Net(Module):
        def __init__(self):
            self.layer = Linear.of(Parameter(W), Parameter(b))

        def forward(self, x):
            return self.layer(x)

    net, n = Net(), len(x)
    handle = attach(net, Movement(v=v, warm=warm, cool=cool, c=c, targets=("layer",)))
    for step in range(steps):
        error = net(Tensor(x)) - target
        (ops.sum(error * error) * (0.5 / n)).backward()
        for name, p in handle.trainable():
            if p.grad is None:
                raise ValueError(f"{name} got no gradient: see hw7.5")
            p.data, p.grad = p.data - lr * p.grad, None
        handle.after_step(step, steps)
    net(Tensor(x))
    layer = handle.wrappers["layer"]
    return {"W": layer.W.data, "S": layer.S.data, "b": layer.b.data, "mask": layer.mask}
