"""How the tests call your code: arrays in, arrays out, one function per test.

If you bring an engine of your own, write these functions anew: parameters and results stay.
"""

import numpy as np


def ia3_output(x, W, b, l, g):  # noqa: E741
    """A Linear with weight W and bias b, whose output l scales; reads is False.

    Shapes   x (B, T, d_in), W (d_out, d_in), b (d_out,), l (d_out,), g (B, T, d_out)
    Returns  y, and the gradients gx and gl for the cotangent g (of the sum of g y)
    """
    return _scaled(x, W, b, l, g, reads=False)


def ia3_input(x, W, b, l, g):  # noqa: E741
    """A Linear with weight W and bias b, whose input l scales; reads is True.

    Shapes   x (B, T, d_in), W (d_out, d_in), b (d_out,), l (d_in,), g (B, T, d_out)
    Returns  y, and the gradients gx and gl for the cotangent g
    """
    return _scaled(x, W, b, l, g, reads=True)


def _scaled(x, W, b, l, g, reads):  # noqa: E741
    from minipeft.engine import Tensor
    from minipeft.methods.ia3 import Scaled
    from minipeft.nn import Linear, Parameter

    part = Scaled(Linear.of(Parameter(W), Parameter(b)), Parameter(l), reads)
    x = Tensor(x, requires_grad=True)
    y = part.forward(x)
    y.backward(g)
    return {"y": y.data, "gx": _grad(x), "gl": _grad(part.l)}


def _grad(leaf):
    """The gradient of a leaf; zeros if it has none."""
    return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad


def folded_output(W, b, l):  # noqa: E741
    """The plain Linear that does what l does on the output of W and b.

    Shapes   W (d_out, d_in), b (d_out,), l (d_out,)
    Returns  W and b; W_given and b_given, the arrays that your code was given, after it has run
    """
    return _folded(W, b, l, reads=False)


def folded_input(W, b, l):  # noqa: E741
    """The plain Linear that does what l does on the input of W and b.

    Shapes   W (d_out, d_in), b (d_out,), l (d_in,)
    Returns  as folded_output
    """
    return _folded(W, b, l, reads=True)


def _folded(W, b, l, reads):  # noqa: E741
    from minipeft.methods.ia3 import folded

    W, b = W.copy(), b.copy()  # which may be written into
    made = folded(W, b, l, reads)
    return {"W": made[0], "b": made[1], "W_given": W, "b_given": b}


def folded_bare(W, l_out, l_in):
    """A Linear without a bias: b is None, for an output's l_out and for an input's l_in.

    Shapes   W (d_out, d_in), l_out (d_out,), l_in (d_in,)
    Returns  W_out and W_in; b_out and b_in, which are (0,) where your b is None
    """
    from minipeft.methods.ia3 import folded

    W_out, b_out = folded(W.copy(), None, l_out, False)
    W_in, b_in = folded(W.copy(), None, l_in, True)
    bare = {"b_out": b_out, "b_in": b_in}
    bare = {name: np.zeros(0) if b is None else b for name, b in bare.items()}
    return {"W_out": W_out, "W_in": W_in, **bare}


def unlikely(logits, tokens, g):
    """log(1 - p) of tokens[i] under the softmax of row i.

    Shapes   logits (N, V), tokens (N,) whole numbers, g (N,)
    Returns  y (N,) and glogits (N, V), the gradient for the cotangent g
    """
    from minipeft.engine import Tensor, variants
    from minipeft.training.tfew import unsaid

    leaf = Tensor(logits, requires_grad=True)
    with np.errstate(all="ignore"):
        y = unsaid(variants.log_softmax(leaf), tokens)
        y.backward(g)
    return {"y": y.data, "glogits": _grad(leaf)}


def unlikely_sure(logits, tokens, g):
    """As `unlikely`, where most tokens have p all but 1."""
    return unlikely(logits, tokens, g)


def mean_of_examples(values, option, which, lengths, together, g):
    """The mean of the values of the tokens that are meant: of each example, then of the examples.

    Shapes   values (N,); option (N,), example * K + k of each token; which (B, K), 1 where an
             option is meant; lengths (B, K) in tokens, 0 of an option that is not there; g a number
    Returns  y, a number, and gvalues (N,), the gradient for the cotangent g
    """
    from minipeft.engine import Tensor
    from minipeft.training.tfew import token_mean

    leaf = Tensor(values, requires_grad=True)
    y = token_mean(leaf, option, which > 0, lengths, together)
    y.backward(np.asarray(g))
    return {"y": y.data, "gvalues": _grad(leaf)}


def mean_together(values, option, which, lengths, together, g):
    """As `mean_of_examples`, with together=True: one mean over all tokens of the batch meant."""
    return mean_of_examples(values, option, which, lengths, together, g)


def ranked_options(said, option, lengths, labels, g):
    """L_LN: the mean over examples of the cross-entropy of the right option, logits beta (B, K).

    Shapes   said (N,) log p of the tokens; option (N,), example * K + k of each token; lengths
             (B, K) in tokens, 0 of an option that is not there; labels (B,); g a number
    Returns  y, a number, and gsaid (N,), the gradient for the cotangent g
    """
    from minipeft.engine import Tensor
    from minipeft.training.tfew import ranked

    leaf = Tensor(said, requires_grad=True)
    y = ranked(leaf, option, lengths, labels)
    y.backward(np.asarray(g))
    return {"y": y.data, "gsaid": _grad(leaf)}


def ranked_absent(said, option, lengths, labels, g):
    """As `ranked_options`; some options are not there."""
    return ranked_options(said, option, lengths, labels, g)


def calibrate_scale(free, scores):
    """The calibration of the form "scale", W = diag(p_cf)^-1 and b = 0.

    Shapes   free (inputs, n) log p of the options after each content-free input; scores (Q, n)
             log p of the options after Q questions
    Returns  W (n,) the diagonal, b (n,), share (n,) = p_cf, and q (Q, n) = W p + b, p normalized
             over the options
    """
    return _calibrated(free, scores, "scale")


def calibrate_shift(free, scores):
    """The calibration of the form "shift", W = I and b = -p_cf; else as `calibrate_scale`."""
    return _calibrated(free, scores, "shift")


def calibrate_least(free, scores):
    """As `calibrate_scale`; one option's p_cf is below 1e-12, and 1e-12 is taken."""
    return _calibrated(free, scores, "scale")


def _calibrated(free, scores, form):
    from minipeft.generation.calibration import contextual

    with np.errstate(all="ignore"):
        found = contextual(free, form)
        return {"W": found.W, "b": found.b, "share": found.share, "q": found(scores)}
