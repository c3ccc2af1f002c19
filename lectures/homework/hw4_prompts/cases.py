"""Inputs of homework 4's cases: ids of texts, rows of embeddings, keys and values."""

import numpy as np


def rows_value(draw):
    """Ids of the text, of P, and behind P's; at least one of P's, and the one right behind."""
    B, T, d, n = draw.size(1, 3), draw.size(1, 6), draw.size(1, 5), draw.size(1, 4)
    first = draw.integers(5, 12)
    ids = draw.integers(0, first + n + 4, B, T)
    ids[:, ::2] = draw.integers(first, first + n, *ids[:, ::2].shape)
    ids[0, 1:2] = first + n
    return {"ids": ids, "first": first, "P": draw.normal(n, d), "other": draw.normal(B, T, d)}


def rows_backward(draw):
    found = rows_value(draw)
    return {**found, "g": draw.normal(*found["other"].shape)}


def start_labels(draw):
    """Labels of one to four ids each; at times more of them than rows."""
    V, d, labels = draw.integers(12, 20), draw.size(1, 5), draw.size(2, 5)
    lengths = draw.integers(1, 5, labels)
    n = max(1, labels + draw.choice([-2, -1, 2, 3, 4]))
    return {
        "E": draw.normal(V, d), "labels": draw.integers(0, V, int(lengths.sum())),
        "lengths": lengths, "others": draw.permutation(V)[:n], "n": n,
    }  # fmt: skip


def start_text(draw):
    """Texts that are shorter and longer than n, often less than half as long."""
    V, T, d = draw.integers(12, 20), draw.size(1, 5), draw.size(1, 5)
    n = draw.size(1, T) if draw.integers(0, 3) == 0 else 2 * T + draw.size(1, 3)
    return {"E": draw.normal(V, d), "text": draw.permutation(V)[:T], "n": n}


def put_before(draw):
    """All of them where the text begins, in rows that are padded on the left."""
    B, T, n = draw.size(1, 4), draw.size(2, 7), draw.size(1, 4)
    first = draw.integers(20, 40)
    starts = draw.integers(0, T, B)
    starts[0] = draw.integers(1, T)
    mask = np.arange(T) >= starts[:, None]
    return {
        "ids": draw.integers(0, first, B, T), "mask": mask.astype(np.int64),
        "before": np.repeat(starts[:, None], n, axis=1), "first": first,
    }  # fmt: skip


def put_inside(draw):
    """Anywhere, behind the last column too, in any order."""
    B, T, n = draw.size(1, 4), draw.size(1, 6), draw.size(2, 5)
    first = draw.integers(20, 40)
    ends = draw.integers(1, T + 1, B)
    mask = np.arange(T) < ends[:, None]
    return {
        "ids": draw.integers(0, first, B, T), "mask": mask.astype(np.int64),
        "before": draw.integers(0, T + 1, B, n), "first": first,
    }  # fmt: skip


def put_without_mask(draw):
    found = put_inside(draw)
    del found["mask"]
    return found


def _past(draw, shared):
    C, B = draw.size(1, 5), draw.size(1, 4)
    return {"past": draw.normal(1 if shared else B, draw.size(1, 4), C),
            "new": draw.normal(B, draw.size(1, 5), C)}  # fmt: skip


def past_value(draw):
    """A past for each row, or one that all share."""
    return _past(draw, shared=draw.integers(0, 2) > 0)


def past_backward(draw):
    """A past that all rows share, or one for each."""
    found = _past(draw, shared=draw.integers(0, 4) > 0)
    (_, P, C), (B, T, _) = found["past"].shape, found["new"].shape
    return {**found, "g": draw.normal(B, P + T, C)}


def past_attention(draw):
    B, T, heads, D = draw.size(1, 3), draw.size(1, 5), draw.size(1, 3), draw.size(1, 3)
    P, C = draw.size(1, 4), heads * D
    return {
        "x": draw.normal(B, T, C, scale=1.0),
        **{name: draw.normal(C, C, scale=0.7) for name in ("Wq", "Wk", "Wv", "Wo")},
        "k": draw.normal(1, P, C, scale=1.0), "v": draw.normal(1, P, C, scale=1.0),
        "heads": heads, "g": draw.normal(B, T, C),
    }  # fmt: skip


def pairs_all(draw):
    layers = draw.size(1, 4)
    n, d = draw.size(1, 4), draw.size(1, 4)
    return {"P": draw.normal(n, 2 * layers * d), "chosen": np.arange(layers), "layers": layers}


def pairs_some(draw, least=1):
    """Some layers have none, the first among them; at least `least` have one."""
    layers = draw.size(1 + least, 5)
    most = 1 + draw.permutation(layers - 1)
    chosen = np.sort(most[: draw.size(least, layers - 1)])
    n, d = draw.size(1, 4), draw.size(1, 4)
    return {"P": draw.normal(n, 2 * len(chosen) * d), "chosen": chosen, "layers": layers}


def pairs_backward(draw):
    found = pairs_some(draw, least=2)
    n, columns = found["P"].shape
    shape = found["layers"], n, columns // (2 * len(found["chosen"]))
    return {**found, "gk": draw.normal(*shape), "gv": draw.normal(*shape)}


def network_value(draw):
    n, d, h, m = draw.size(1, 5), draw.size(1, 5), draw.size(1, 6), draw.size(1, 7)
    return {
        "Q": draw.normal(n, d, scale=1.0), "W1": draw.normal(h, d, scale=0.7), "b1": draw.normal(h),
        "W2": draw.normal(m, h, scale=0.7), "b2": draw.normal(m),
    }  # fmt: skip


def network_backward(draw):
    found = network_value(draw)
    return {**found, "g": draw.normal(len(found["Q"]), len(found["b2"]))}
