"""Inputs of homework 2's cases: scores of O(1), so that a softmax is neither flat nor one-hot."""

import numpy as np


def mask_causal(draw):
    """At least two keys of a past, so that no two ways to align the mask give the same."""
    T = draw.size(1, 3) if draw.edge else draw.size(2, 4)
    S = T + (0 if draw.edge else draw.integers(2, 5))
    return {"scores": draw.normal(draw.size(1, 3), T, S, scale=1.0), "causal": True}


def mask_padding(draw):
    """One row of the batch begins with padding, one ends with it."""
    B, T = draw.size(1, 3), draw.size(1, 4)
    B, T = (B, T) if draw.edge else (B + 1, T + 1)
    S = T + (0 if draw.edge else draw.integers(2, 4))
    mask = draw.integers(0, 2, B, S) == 1
    mask[0, 0], mask[-1, -1] = draw.edge, draw.edge
    return {"scores": draw.normal(B, T, S, scale=1.0), "causal": draw.uniform(0.0, 1.0) < 0.6,
            "mask": mask}  # fmt: skip


def _attention(draw, groups=1):
    B, K, D = draw.size(1, 2), draw.size(1, 3), draw.size(1, 4)
    if groups > 1 and not draw.edge:
        B = K = draw.size(2, 3)  # so that a bias without its axis broadcasts, to what is wrong
    H = K * groups
    T = draw.size(1, 4)
    S = T + (0 if draw.edge else draw.integers(0, 3))
    mask = draw.integers(0, 4, B, S) > 0
    return {
        "q": draw.normal(B, T, H * D, scale=1.0), "k": draw.normal(B, S, K * D, scale=1.0),
        "v": draw.normal(B, S, K * D, scale=1.0), "heads": H, "causal": draw.choice((True, False)),
        "mask": mask, "factors": 1.25 * (draw.uniform(0.0, 1.0, B, H, T, S) < 0.8),
    }  # fmt: skip


def attention_forward(draw):
    """In the first row of the batch the first query sees nothing, or no query does."""
    found = _attention(draw)
    T, S = found["q"].shape[1], found["k"].shape[1]
    if not draw.edge:
        found["mask"][0, : S - T + 1 if found["causal"] else S] = False
    return found


def attention_backward(draw):
    found = _attention(draw)
    return {**found, "g": draw.normal(*found["q"].shape, scale=1.0)}


def attention_plain(draw):
    """All keys of a head moved by one vector: scores far from 0, and near each other."""
    found = attention_backward(draw)
    for name in ("causal", "mask", "factors"):
        del found[name]
    return {**found, "k": found["k"] + 3000 * draw.normal(found["k"].shape[2], scale=1.0)}


def attention_groups(draw):
    found = _attention(draw, groups=2)
    return {**found, "g": draw.normal(*found["q"].shape, scale=1.0)}


def _block(draw):
    H, D = draw.size(1, 3), draw.size(2, 3)
    C, F = H * D, draw.size(1, 6)
    B, T = draw.size(1, 2), draw.size(1, 4)
    T += not draw.edge
    made = {"x": draw.normal(B, T, C, scale=1.0), "heads": H, "mask": np.ones((B, T), bool)}
    made["mask"][0, 0] = False
    for name in ("ln_1", "ln_2"):
        made |= {f"{name}_w": 1 + draw.normal(C), f"{name}_b": draw.normal(C)}
    for name in ("q", "k", "v", "o"):
        made |= {f"{name}_w": draw.normal(C, C), f"{name}_b": draw.normal(C)}
    return {
        **made, "in_w": draw.normal(F, C), "in_b": draw.normal(F), "out_w": draw.normal(C, F),
        "out_b": draw.normal(C),
    }  # fmt: skip


def block_pre(draw):
    return _block(draw)


def block_post(draw):
    return _block(draw)


def _loss(draw):
    N, V = draw.size(1, 5), draw.size(1, 6)
    N, V = (N, V) if draw.edge else (N + 1, V + 1)
    labels = draw.integers(0, V, 2, N)
    if not draw.edge:
        labels[0, draw.integers(0, N)] = -100
    far = 1000.0 * (1 - 2 * draw.integers(0, 2, 2, N, 1))  # exp overflows; the softmax is the same
    return {"logits": draw.normal(2, N, V, scale=2.0) + far, "labels": labels,
            "smoothing": draw.choice((0.1, 0.2))}  # fmt: skip


def loss_value(draw):
    """One entry has a softmax that is rounded to 0."""
    found = _loss(draw)
    found["logits"][1, 0, 0] -= 800.0
    return found


def loss_backward(draw):
    found = _loss(draw)
    if draw.integers(0, 2):
        found["smoothing"], found["labels"] = 0.0, np.maximum(found["labels"], 0)
    return {**found, "g": draw.uniform(1.5, 3.0)}


def _logits(draw):
    V = draw.size(1, 8)
    return draw.normal(V if draw.edge else V + 3, scale=1.5)


def pick_top_k(draw):
    logits = _logits(draw)
    return {"logits": logits, "temperature": draw.uniform(0.4, 2.5),
            "top_k": draw.integers(1, len(logits)) if len(logits) > 1 else 1}  # fmt: skip


def pick_top_p(draw):
    """top_k = 0 stands for none; else top_p is such that the sum to 1 after top_k matters."""
    logits, temperature = _logits(draw), draw.uniform(0.6, 2.0)
    top_k, top_p = 0, draw.uniform(0.3, 0.9)
    if len(logits) > 2 and draw.choice((True, True, False)):
        top_k = draw.integers(2, len(logits))
        p = -np.sort(-np.exp(logits / temperature))
        sums = np.cumsum(p / p.sum())[:top_k]
        last = draw.integers(0, top_k - 1)  # the place of the last token that is kept
        high = sums[last] / sums[-1]
        low = max(sums[last], sums[last - 1] / sums[-1] if last else 0.0)
        top_p = float(low + (high - low) * draw.uniform(0.2, 0.8))
    return {"logits": logits, "temperature": temperature, "top_k": top_k, "top_p": top_p}


def pick_greedy(draw):
    return {"logits": _logits(draw)}
