"""How the tests call your code: arrays in, arrays out.

Each function takes the inputs of one test, calls what you wrote, and returns the results by name.
If you bring an engine of your own, write the bodies anew; what they take and return stays.
Arrays of numbers are float64, ids are whole numbers. Weights are (out, in): a layer computes
x Wᵀ + b.
"""

import numpy as np


def rows_value(ids, first, P, other):
    """y[b, t] = P[ids[b, t] - first] where first <= ids[b, t] < first + n, else other[b, t].

    Shapes  ids (B, T), P (n, d), other (B, T, d) -> {"y": (B, T, d)}
    """
    from minipeft.engine import Tensor
    from minipeft.methods.virtual import rows_of

    return {"y": rows_of(ids, first, Tensor(P), Tensor(other)).data}


def rows_backward(ids, first, P, other, g):
    """The gradients of sum(g * y) with respect to P and other.

    Shapes  g (B, T, d) -> {"gP": (n, d), "gother": (B, T, d)}
    """
    from minipeft.methods.virtual import rows_of

    P, other = _leaf(P), _leaf(other)
    _backward(rows_of(ids, first, P, other), g)
    return {"gP": _grad(P), "gother": _grad(other)}


def start_labels(E, labels, lengths, others, n):
    """n rows to start from: one for each label, as section 3 says, then rows of E[others].

    labels   the ids of all labels one behind another; lengths, how many ids each label has
    Shapes   E (V, d), labels (sum of lengths,), others (n,) -> {"P": (n, d)}
    """
    from minipeft.methods.prompt import start_rows

    ends = np.cumsum(lengths)
    each = [labels[end - k : end].tolist() for k, end in zip(lengths, ends, strict=True)]
    return {"P": start_rows(E, each, [], others, n)}


def start_text(E, text, n):
    """n rows to start from: those of a text's ids, from the start again where it is short.

    Shapes  E (V, d), text (T,) -> {"P": (n, d)}
    """
    from minipeft.methods.prompt import start_rows

    return {"P": start_rows(E, [], text.tolist(), np.arange(n), n)}


def put_before(ids, mask, before, first):
    """Ids first, first + 1, … between those of a text, and the mask that belongs to it.

    before   for each row, and each of the n new ids, the column of `ids` before which it stands
    Shapes   ids (B, T), mask (B, T) of 0 and 1, before (B, n)
             -> {"ids": (B, T + n), "mask": (B, T + n) of 0 and 1}
    """
    from minipeft.methods.virtual import put_in

    ids, mask = put_in(ids, mask, before, first)
    return {"ids": np.asarray(ids) * 1.0, "mask": np.asarray(mask) * 1.0}


def put_inside(ids, mask, before, first):
    """The same with any columns, from 0 to T.  Shapes  as above"""
    return put_before(ids, mask, before, first)


def put_without_mask(ids, before, first):
    """The same where all of the text is real.  Shapes  as above -> {"ids": (B, T + n)}"""
    from minipeft.methods.virtual import put_in

    ids, _ = put_in(ids, None, before, first)
    return {"ids": np.asarray(ids) * 1.0}


def past_value(past, new):
    """Keys (or values) of a past, and those of the text behind them.

    Shapes  past (1, P, C) for all rows or (B, P, C), new (B, T, C) -> {"y": (B, P + T, C)}
    """
    from minipeft.engine import Tensor
    from minipeft.nn import attention

    return {"y": attention._after(Tensor(past), Tensor(new)).data}


def past_backward(past, new, g):
    """The gradients of sum(g * y).

    Shapes  g (B, P + T, C) -> {"gpast": as past, "gnew": (B, T, C)}
    """
    from minipeft.nn import attention

    past, new = _leaf(past), _leaf(new)
    _backward(attention._after(past, new), g)
    return {"gpast": _grad(past), "gnew": _grad(new)}


def past_attention(x, Wq, Wk, Wv, Wo, k, v, heads, g):
    """Causal attention over a prefix and a text; the gradients of sum(g * y) for the prefix.

    Queries are x Wqᵀ; keys are k and behind them x Wkᵀ, values v and behind them x Wvᵀ, each of
    `heads` heads of width D = C / heads side by side; y = softmax(q kᵀ / sqrt(D)) v, heads side by
    side, times Woᵀ. Every query sees all of the prefix and the text up to itself. No biases.
    Shapes  x (B, T, C), Wq … Wo (C, C), k and v (1, P, C), g (B, T, C)
            -> {"y": (B, T, C), "gk": (1, P, C), "gv": (1, P, C)}
    """
    from minipeft.backend import Rng
    from minipeft.engine import Tensor
    from minipeft.nn import Attention, Parameter

    part = Attention(len(Wq), heads, causal=True, bias=False, out_bias=False, rng=Rng(0), like=Wq)
    for name, W in (("q_proj", Wq), ("k_proj", Wk), ("v_proj", Wv), ("o_proj", Wo)):
        getattr(part, name).weight = Parameter(W)
    k, v = _leaf(k), _leaf(v)
    y = part(Tensor(x), past=(k, v))
    _backward(y, g)
    return {"y": y.data, "gk": _grad(k), "gv": _grad(v)}


def pairs_all(P, chosen, layers):
    """The keys and values that a prefix's P holds, in the order that section 6 says.

    chosen   the layers that have a prefix, from small to large; the others have keys and values
             of 0
    Shapes   P (n, 2 L d), chosen (L,) -> {"k": (layers, n, d), "v": (layers, n, d)}
    """
    from minipeft.engine import Tensor

    k, v = _pairs(Tensor(P), chosen, layers)
    return {"k": k.data, "v": v.data}


def pairs_some(P, chosen, layers):
    """The same where some layers have no prefix.  Shapes  as above"""
    return pairs_all(P, chosen, layers)


def pairs_backward(P, chosen, layers, gk, gv):
    """The gradient of sum(gk * k) + sum(gv * v) with respect to P.

    Shapes  gk, gv (layers, n, d) -> {"gP": (n, 2 L d)}
    """
    from minipeft.engine import ops

    P = _leaf(P)
    k, v = _pairs(P, chosen, layers)
    _backward(ops.sum(k * gk) + ops.sum(v * gv), np.ones(()))
    return {"gP": _grad(P)}


def network_value(Q, W1, b1, W2, b2):
    """P = tanh(Q W1ᵀ + b1) W2ᵀ + b2.

    Shapes  Q (n, d), W1 (h, d), b1 (h,), W2 (m, h), b2 (m,) -> {"P": (n, m)}
    """
    from minipeft.engine import Tensor
    from minipeft.methods.prefix import network

    return {"P": network(*map(Tensor, (Q, W1, b1, W2, b2))).data}


def network_backward(Q, W1, b1, W2, b2, g):
    """The gradients of sum(g * P).

    Shapes  g (n, m) -> {"gQ": (n, d), "gW1": (h, d), "gb1": (h,), "gW2": (m, h), "gb2": (m,)}
    """
    from minipeft.methods.prefix import network

    leaves = [_leaf(t) for t in (Q, W1, b1, W2, b2)]
    _backward(network(*leaves), g)
    return dict(zip(("gQ", "gW1", "gb1", "gW2", "gb2"), map(_grad, leaves), strict=True))


def _leaf(array):
    from minipeft.engine import Tensor

    return Tensor(array, requires_grad=True)


def _backward(y, g):
    if y.requires_grad:
        y.backward(g)


def _grad(leaf):
    return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad


def _pairs(P, chosen, layers):
    """A Tensor of all layers' keys, and one of their values, each (layers, n, d)."""
    from minipeft.engine import ops
    from minipeft.methods.prefix import pairs_of

    pairs = pairs_of(P, tuple(chosen.tolist()), layers)
    if len(pairs) != layers:
        raise ValueError(f"pairs_of returned {len(pairs)} pairs; the model has {layers} layers")
    want = 1, P.shape[0], P.shape[1] // (2 * len(chosen))
    for layer, pair in enumerate(pairs):
        if pair is None:
            raise ValueError(f"pairs_of returned None for layer {layer}; it must return a pair")
        for name, t in zip(("keys", "values"), pair, strict=True):
            if t.shape != want:
                raise ValueError(f"layer {layer}'s {name} have the shape {t.shape}, wanted {want}")
    return [ops.concatenate([pair[i] for pair in pairs], axis=0) for i in range(2)]
