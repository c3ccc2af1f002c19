"""Lecture 09: attention and MLP of IA3, its merge, and T-Few's losses of one example."""

import numpy as np


def ia3_attention(q, k, v, l_k, l_v):
    """softmax(q (l_k k)^T / sqrt(D)) (l_v v), causal, for H heads at once.

    q, k, v (H, T, D), l_k, l_v (H, 1, D) -> (H, T, D)
    """
    k, v = l_k * k, l_v * v
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])  # (H, T, T)
    future = np.triu(np.ones(scores.shape[1:], dtype=bool), 1)
    scores = np.where(future, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def ia3_merge(W, b, scale, reads):
    """The (W, b) of one Linear that does what W, b and the vector l do together.

    scale  l: (in,) if it reads, else (out,)
    reads  whether l scales what the Linear reads: W (l x) + b; if not, l (W x + b)
    W (out, in), b (out,)
    """
    if reads:
        return W * scale, b
    return scale[:, None] * W, scale * b


def tfew_losses(said, right):
    """(L_LM, L_UL, L_LN) of one example.

    said   a list with an array for each option: log p of its tokens
    right  the index of the right option
    """
    lm = -said[right].mean()
    wrong = np.concatenate([s for n, s in enumerate(said) if n != right])
    ul = -np.log(1 - np.exp(wrong)).mean()
    beta = np.array([s.mean() for s in said])
    ln = np.log(np.exp(beta).sum()) - beta[right]
    return lm, ul, ln
