"""How the tests call your code: arrays in, arrays out.

Each function takes the inputs of one test, calls what you wrote, and returns the results by name.
If you bring an engine of your own, write the bodies anew; what they take and return stays.
All arrays are float64. Weights are (out, in): a layer computes x Wᵀ + b.
"""


def low_rank_forward(y, x, a, b, scale):
    """out = y + scale (x aᵀ) bᵀ.

    Shapes  y (B, T, O), x (B, T, I), a (r, I), b (O, r) -> {"out": (B, T, O)}
    """
    from minipeft.engine import Tensor, fused

    return {"out": fused.add_low_rank(*map(Tensor, (y, x, a, b)), scale=scale).data}


def low_rank_backward(y, x, a, b, scale, g):
    """The gradients of sum(g * out) with respect to y, x, a and b.

    Shapes  as above, g (B, T, O) -> {"gy": (B, T, O), "gx": (B, T, I), "ga": (r, I), "gb": (O, r)}
    """
    from minipeft.engine import Tensor, fused

    leaves = [Tensor(t, requires_grad=True) for t in (y, x, a, b)]
    fused.add_low_rank(*leaves, scale=scale).backward(g)
    return dict(zip(("gy", "gx", "ga", "gb"), (leaf.grad for leaf in leaves), strict=True))


def lora_merge(W, A, B, scale):
    """The one weight that does what W and the branch do together.

    Shapes  W (d_out, d_in), A (r, d_in), B (d_out, r) -> {"W": (d_out, d_in)}
    """
    from minipeft.methods.lora import LoRALinear
    from minipeft.nn import Parameter

    layer = LoRALinear(_linear(W), Parameter(A), Parameter(B), scale, 0.0, "")
    return {"W": layer.dense()}


def principal_parts(W, r, scale):
    """A and B whose scale * B A is the matrix of rank r nearest to W.

    The singular values are shared out as section 4 of the handout says. Since the sign of a
    singular vector is free, what is compared does not depend on it.
    Shapes  W (d_out, d_in) -> {"product": scale * B A (d_out, d_in), "rows": A Aᵀ (r, r),
            "columns": Bᵀ B (r, r)}
    """
    from minipeft.methods.lora import principal

    A, B = principal(W, r, scale)
    return {"product": scale * (B @ A), "rows": A @ A.T, "columns": B.T @ B}


def adapter_forward(x, W_down, b_down, W_up, b_up, act):
    """A(x) = W_up act(W_down x + b_down) + b_up, without the residual and without a norm.

    act     "gelu" (with the exact erf) or "swish": x / (1 + exp(-x))
    Shapes  x (B, T, d), W_down (r, d), W_up (d, r) -> {"y": (B, T, d)}
    """
    from minipeft.engine import Tensor

    return {"y": _bottleneck(W_down, b_down, W_up, b_up, act)(Tensor(x)).data}


def adapter_norm(x, W_down, b_down, W_up, b_up, act, w, b):
    """The same with a layer norm of weight w and bias b, where section 5 of the handout says.

    Shapes  w, b (d,), the rest as above -> {"y": (B, T, d)}
    """
    from minipeft.engine import Tensor

    return {"y": _bottleneck(W_down, b_down, W_up, b_up, act, w, b)(Tensor(x)).data}


def adapter_backward(x, W_down, b_down, W_up, b_up, act, g):
    """The gradients of sum(g * A(x)), without a norm.

    Shapes  g (B, T, d) -> {"gx": (B, T, d), "gW_down": (r, d), "gb_down": (r,), "gW_up": (d, r),
            "gb_up": (d,)}
    """
    from minipeft.engine import Tensor

    part, x = _bottleneck(W_down, b_down, W_up, b_up, act), Tensor(x, requires_grad=True)
    part(x).backward(g)
    return {
        "gx": x.grad, "gW_down": part.down.weight.grad, "gb_down": part.down.bias.grad,
        "gW_up": part.up.weight.grad, "gb_up": part.up.bias.grad,
    }  # fmt: skip


def dora_norm(W, A, B, scale, g_rows, g_columns):
    """The lengths of W + scale B A: of its rows (axis = 1) and of its columns (axis = 0).

    gA_rows is the gradient of sum(g_rows * rows) with respect to A, gA_columns likewise.
    Shapes  W (d_out, d_in), A (r, d_in), B (d_out, r), g_rows (d_out,), g_columns (d_in,)
            -> {"rows": (d_out,), "columns": (d_in,), "gA_rows": as A, "gA_columns": as A}
    """
    found = {}
    for name, axis, g in (("rows", 1, g_rows), ("columns", 0, g_columns)):
        layer = _dora(W, None, A, B, scale, axis)
        n = layer.norm()
        found[name] = n.data
        if n.shape == g.shape:
            n.backward(g)
        found["gA_" + name] = A * 0 if layer.A.grad is None else layer.A.grad
    return found


def dora_forward(x, W, b, A, B, m, scale, axis):
    """y = x W'ᵀ + b with W' = (m / n) (W + scale B A), n its lengths; where n is 0, m / n is m.

    m / n multiplies the rows of W + scale B A for axis = 1, its columns for axis = 0.
    Shapes  x (T, d_in), b (d_out,), m as n -> {"y": (T, d_out)}
    """
    from minipeft.engine import Tensor

    return {"y": _dora(W, b, A, B, scale, axis, m)(Tensor(x)).data}


def dora_backward(x, W, b, A, B, m, scale, axis, g):
    """The gradients of sum(g * y), with n taken for a constant in the backward pass.

    Shapes  g (T, d_out) -> {"gx": (T, d_in), "gA": (r, d_in), "gB": (d_out, r), "gm": as m}
    """
    return _dora_gradients(x, _dora(W, b, A, B, scale, axis, m), g)


def dora_exact(x, W, b, A, B, m, scale, axis, g):
    """The same gradients, through n too.  Shapes  as above"""
    return _dora_gradients(x, _dora(W, b, A, B, scale, axis, m, exact=True), g)


def _linear(W, b=None):
    from minipeft.nn import Linear, Parameter

    return Linear.of(Parameter(W), None if b is None else Parameter(b))


def _bottleneck(W_down, b_down, W_up, b_up, act, w=None, b=None):
    from minipeft.methods.adapter import ACTS, Bottleneck
    from minipeft.nn import LayerNorm, Parameter

    ln = None
    if w is not None:
        ln = LayerNorm(len(w), like=w)
        ln.weight, ln.bias = Parameter(w), Parameter(b)
    return Bottleneck(_linear(W_down, b_down), _linear(W_up, b_up), ACTS[act], ln)


def _dora(W, b, A, B, scale, axis, m=None, exact=False):
    from minipeft.methods.dora import DoRALinear
    from minipeft.methods.lora import LoRALinear
    from minipeft.nn import Parameter

    lora = LoRALinear(_linear(W, b), Parameter(A), Parameter(B), scale, 0.0, "")
    layer = DoRALinear(lora, axis, exact)
    if m is not None:
        layer.m = Parameter(m)
    return layer


def _dora_gradients(x, layer, g):
    import numpy as np

    from minipeft.engine import Tensor

    x = Tensor(x, requires_grad=True)
    layer(x).backward(g)
    found = {"gx": x, "gA": layer.A, "gB": layer.B, "gm": layer.m}
    return {k: np.zeros(t.shape) if t.grad is None else t.grad for k, t in found.items()}
