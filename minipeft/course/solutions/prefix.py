"""06_prefix: attention with a prefix as a gate, and a prefix that starts from words."""

import math

import numpy as np

from minipeft.engine import no_grad


def gated(q, K, V, P_k, P_v):
    """One head's attention with a prefix: (1 - lam) Attn(q, K, V) + lam Attn(q, P_k, P_v), and lam.

    Shapes  q (D,), K and V (S, D), P_k and P_v (n, D) -> (D,), a number
    """
    text = np.exp(K @ q / math.sqrt(len(q)))  # (S,), unnormalized weights
    mine = np.exp(P_k @ q / math.sqrt(len(q)))  # (n,)
    lam = mine.sum() / (mine.sum() + text.sum())
    y = (1 - lam) * (text @ V) / text.sum() + lam * (mine @ P_v) / mine.sum()
    return y, lam


def start_from(model, words):
    """Keys and values that the model makes of words: a row for each of their n tokens.

    Shapes  -> (n, 2 L d): keys of layer 0, values of layer 0, keys of layer 1 …
    """
    ids = np.array([model.tokenizer.encode(words)])  # (1, n)
    with no_grad():
        _, past = model(ids, return_past=True)
    return np.concatenate([x.data[0] for pair in past for x in pair], axis=1)
