"""How the tests call your code: arrays in, arrays out.

Each function takes the inputs of one test, calls what you wrote, and returns the results by name.
If you bring a library of your own, write the bodies anew; what they take and return stays.
All arrays are float64. Weights are (out, in): a layer computes x Wᵀ + b.
"""


def mask_causal(scores, causal):
    """The softmax over the keys of the scores that the causal mask leaves.

    Shapes  scores (B, T, S), T queries, S >= T keys -> {"p": (B, T, S)}
    """
    return {"p": _masked(scores, causal, None)}


def mask_padding(scores, causal, mask):
    """The same with a padding mask, and the causal one if `causal`; 0 where a query sees nothing.

    Shapes  scores (B, T, S), mask (B, S), true where a key is real -> {"p": (B, T, S)}
    """
    return {"p": _masked(scores, causal, mask)}


def attention_forward(q, k, v, heads, causal, mask, factors):
    """Attention with dropout's factors on the weights, as section 3 of the handout has it.

    heads   H, of the queries; the heads lie side by side in the last axis
    Shapes  q (B, T, H D), k, v (B, S, K D), K a divisor of H (here K = H), mask (B, S), true where
            a key is real, factors (B, H, T, S) -> {"y": (B, T, H D)}
    """
    from minipeft.engine import Tensor, fused

    given = {"heads": heads, "causal": causal, "mask": mask, "factors": factors}
    return {"y": fused.attention(Tensor(q), Tensor(k), Tensor(v), **given).data}


def attention_backward(q, k, v, heads, causal, mask, factors, g):
    """The gradients of sum(g * y).

    Shapes  as above, g as y -> {"gq": as q, "gk": as k, "gv": as v}
    """
    from minipeft.engine import Tensor, fused

    leaves = [Tensor(t, requires_grad=True) for t in (q, k, v)]
    given = {"heads": heads, "causal": causal, "mask": mask, "factors": factors}
    fused.attention(*leaves, **given).backward(g)
    return dict(zip(("gq", "gk", "gv"), (leaf.grad for leaf in leaves), strict=True))


def attention_plain(q, k, v, heads, g):
    """Value and gradients with no mask at all (not causal either) and no factors; large scores.

    Shapes  as above -> {"y": (B, T, H D), "gq": as q, "gk": as k, "gv": as v}
    """
    from minipeft.engine import Tensor, fused

    leaves = [Tensor(t, requires_grad=True) for t in (q, k, v)]
    y = fused.attention(*leaves, heads=heads, causal=False)
    y.backward(g)
    found = dict(zip(("gq", "gk", "gv"), (leaf.grad for leaf in leaves), strict=True))
    return {"y": y.data, **found}


def attention_groups(q, k, v, heads, causal, mask, factors, g):
    """The gradients, where K < H: head i of k and v serves the H / K heads of q from i H / K on."""
    return attention_backward(q, k, v, heads, causal, mask, factors, g)


def block_pre(x, heads, mask, **weights):
    """A causal transformer block with norm = "pre".

    mask     (B, T), true where a position is real
    weights  ln_1_w, ln_1_b, ln_2_w, ln_2_b (C,); q_w, k_w, v_w, o_w (C, C) of the attention and
             its output, with q_b, k_b, v_b, o_b (C,); in_w (F, C), in_b, out_w (C, F), out_b of the
             MLP, whose activation is GELU in the tanh form; eps of the norms is 1e-5
    Shapes   x (B, T, C) -> {"y": (B, T, C)}
    """
    return {"y": _block("pre", x, heads, mask, weights)}


def block_post(x, heads, mask, **weights):
    """The same with norm = "post"."""
    return {"y": _block("post", x, heads, mask, weights)}


def loss_value(logits, labels, smoothing):
    """Cross-entropy, the mean over the labels that are not -100.

    Shapes  logits (2, N, V), labels (2, N) -> {"loss": ()}
    """
    from minipeft.engine import Tensor, fused

    return {"loss": fused.cross_entropy(Tensor(logits), labels, smoothing=smoothing).data}


def loss_backward(logits, labels, smoothing, g):
    """The gradient of g * loss.  Shapes  as above, g a number -> {"gx": as logits}"""
    import numpy as np

    from minipeft.engine import Tensor, fused

    logits = Tensor(logits, requires_grad=True)
    fused.cross_entropy(logits, labels, smoothing=smoothing).backward(np.asarray(g))
    return {"gx": logits.grad}


def pick_top_k(logits, temperature, top_k):
    """The distribution from which the next token is drawn.  Shapes  logits (V,) -> {"p": (V,)}"""
    return {"p": _distribution(logits, temperature, top_k, None)}


def pick_top_p(logits, temperature, top_k, top_p):
    """The same with top_p; top_k = 0 stands for none.  Shapes  logits (V,) -> {"p": (V,)}"""
    return {"p": _distribution(logits, temperature, top_k or None, top_p)}


def pick_greedy(logits):
    """The token at temperature 0, and its logit.

    Shapes  logits (V,) -> {"token": (), "logit": ()}
    """
    from minipeft.backend import Rng
    from minipeft.generation.sampling import _pick

    token = _pick(logits, 0.0, None, None, Rng(0))
    return {"token": token, "logit": logits[token]}


def _masked(scores, causal, mask):
    import numpy as np

    from minipeft.engine.fused import MASKED, _mask_bias

    bias = _mask_bias(scores[:, :, :1], scores.shape[2], causal, mask)
    if bias is None:
        bias = np.zeros((1, 1, 1, 1))
    a = scores + np.broadcast_to(bias, (len(scores), 1, *scores.shape[1:]))[:, 0]
    e = np.exp(a - a.max(axis=2, keepdims=True)) * (a > MASKED / 2)
    return e / np.maximum(e.sum(axis=2, keepdims=True), 1e-300)


def _block(norm, x, heads, mask, weights):
    from minipeft.backend import Rng
    from minipeft.engine import Tensor
    from minipeft.nn import Block, Parameter

    width, inner = x.shape[2], len(weights["in_b"])
    block = Block(width, heads, inner, layers=1, causal=True, norm=norm, rng=Rng(0), like=x)
    parts = {"ln_1": block.ln_1, "ln_2": block.ln_2, "in": block.mlp.fc_in,
             "out": block.mlp.fc_out}  # fmt: skip
    parts |= {name: getattr(block.attn, f"{name}_proj") for name in "qkvo"}
    for name, part in parts.items():
        part.weight = Parameter(weights[f"{name}_w"])
        part.bias = Parameter(weights[f"{name}_b"])
    return block(Tensor(x), mask=mask).data


class _Asked:
    """Stands for the random generator: it remembers the weights and draws what it is told."""

    def __init__(self, place):
        self.place, self.weights = place, []

    def weighted(self, weights):
        self.weights = [float(w) for w in weights]
        return self.place


def _distribution(logits, temperature, top_k, top_p):
    import numpy as np

    from minipeft.generation.sampling import _pick

    p, place, n = np.zeros(len(logits)), 0, 1
    while place < n:
        asked = _Asked(place)
        token = _pick(logits, temperature, top_k, top_p, asked)
        n = len(asked.weights)
        p[token] += asked.weights[place] / sum(asked.weights)
        place += 1
    return p
