"""Inputs of homework 3's cases: matrices of O(0.3), so that no term hides behind another."""


def _low_rank(draw):
    n_in, n_out = draw.size(1, 6), draw.size(1, 5)
    r = draw.size(1, 3)
    lead = (draw.size(1, 3), draw.size(1, 4))
    return {
        "y": draw.normal(*lead, n_out), "x": draw.normal(*lead, n_in), "a": draw.normal(r, n_in),
        "b": draw.normal(n_out, r), "scale": draw.uniform(1.5, 4.0),
    }  # fmt: skip


def low_rank_forward(draw):
    return _low_rank(draw)


def low_rank_backward(draw):
    found = _low_rank(draw)
    return {**found, "g": draw.normal(*found["y"].shape)}


def lora_merge(draw):
    d_out, d_in, r = draw.size(1, 6), draw.size(1, 5), draw.size(1, 3)
    return {"W": draw.normal(d_out, d_in), "A": draw.normal(r, d_in), "B": draw.normal(d_out, r),
            "scale": draw.uniform(1.5, 4.0)}  # fmt: skip


def principal_parts(draw):
    d_out, d_in = draw.size(1, 7), draw.size(1, 6)
    r = draw.integers(1, max(2, min(d_out, d_in)))
    return {"W": draw.normal(d_out, d_in), "r": r, "scale": draw.uniform(1.5, 4.0)}


def _adapter(draw):
    d, r = draw.size(2, 6), draw.size(1, 4)
    return {
        "x": draw.normal(draw.size(1, 3), draw.size(1, 4), d), "W_down": draw.normal(r, d),
        "b_down": draw.normal(r), "W_up": draw.normal(d, r), "b_up": draw.normal(d),
    }  # fmt: skip


def adapter_forward(draw):
    return {**_adapter(draw), "act": draw.choice(("gelu", "swish"))}


def adapter_norm(draw):
    found = _adapter(draw)
    d = found["x"].shape[-1]
    return {**found, "act": "gelu", "w": 1 + draw.normal(d), "b": draw.normal(d)}


def adapter_backward(draw):
    found = _adapter(draw)
    return {**found, "act": "gelu", "g": draw.normal(*found["x"].shape)}


def _dora(draw):
    d_out, d_in, r = draw.size(2, 5), draw.size(2, 6), draw.size(1, 3)
    return {
        "W": draw.normal(d_out, d_in), "A": draw.normal(r, d_in), "B": draw.normal(d_out, r),
        "scale": draw.uniform(1.5, 4.0), "axis": draw.integers(0, 2),
    }  # fmt: skip


def dora_norm(draw):
    found = _dora(draw)
    del found["axis"]
    d_out, d_in = found["W"].shape
    return {**found, "g_rows": draw.normal(d_out), "g_columns": draw.normal(d_in)}


def _dora_layer(draw):
    found = _dora(draw)
    d_out, d_in = found["W"].shape
    m = draw.uniform(0.5, 2.0, d_in if found["axis"] == 0 else d_out)
    return {**found, "b": draw.normal(d_out), "m": m, "x": draw.normal(draw.size(1, 4), d_in)}


def dora_forward(draw):
    """Row 0 has no length: W and B are 0 there, and W' is to be 0 and not NaN."""
    found = {**_dora_layer(draw), "axis": 1}
    found["m"] = draw.uniform(0.5, 2.0, len(found["W"]))
    found["W"][0], found["B"][0] = 0, 0
    return found


def dora_backward(draw):
    """Row (or column) 0 has no length here too: no gradient may be NaN."""
    found = _dora_layer(draw)
    if found["axis"] == 1:
        found["W"][0], found["B"][0] = 0, 0
    else:
        found["W"][:, 0], found["A"][:, 0] = 0, 0
    return {**found, "g": draw.normal(len(found["x"]), len(found["W"]))}


def dora_exact(draw):
    return dora_backward(draw)
