"""The inputs of the tests of homework 6."""

import numpy as np


def _float(draw, exponent, fraction):
    return {"exponent": exponent, "fraction": fraction, "absmax": draw.uniform(0.25, 1)}


def float_e2m1(draw):
    return _float(draw, 2, 1)


def float_formats(draw):
    return _float(draw, draw.size(1, 4), draw.size(0, 3))


def _normal(draw, bits):
    return {"bits": bits, "absmax": draw.uniform(0.25, 1)}


def normal_four_bits(draw):
    return _normal(draw, 4)


def normal_any_bits(draw):
    return _normal(draw, draw.size(2, 6))


def quantize_codes(draw):
    n = draw.size(1, 90)
    small = 10.0 ** draw.uniform(-3, 0, n)  # many numbers near 0
    return {"x": draw.normal(n, scale=1.0) * small, "block": draw.size(1, 24)}


def quantize_blocks(draw):
    blocks, block, short = draw.size(1, 6), draw.size(1, 12), draw.size(0, 11)
    x = draw.normal(blocks, block)
    if blocks > 1:
        x[draw.integers(0, blocks)] = 0
    x = np.concatenate([x.reshape(-1), draw.normal(min(short, block - 1))])
    larger = not draw.edge and draw.integers(0, 4) == 0
    return {"x": x, "block": x.size + 3 if larger else block}


def quantize_halfway(draw):
    blocks, block = draw.size(1, 5), draw.size(1, 12)
    x = draw.integers(-2, 3, blocks, block) / 2
    z = draw.integers(-1, 2, blocks, block) * np.float64(np.float32(1 / 12)) / 2
    for made in (x, z):
        made[:, 0] = 2.0 * draw.integers(0, 2, blocks) - 1
        made *= 2.0 ** draw.integers(-3, 4, blocks, 1)
    return {"x": x.reshape(-1), "z": z.reshape(-1), "block": block}


def pack_bytes(draw):
    return {"q": draw.integers(0, 16, draw.size(1, 40))}


def pack_any_bits(draw):
    return {f"q{bits}": draw.integers(0, 2**bits, draw.size(1, 30)) for bits in (2, 3, 4, 8)}


def double_constants(draw):
    m = 1 if draw.edge else draw.choice((8, 32, 512))
    return {"absmax": draw.integers(64, 512, m) / 256}


def _weight(draw):
    n_out, n_in = (1 << draw.size(0, 3) for _ in range(2))
    W = draw.integers(1, 256, n_out, n_in) / 256
    return W * (2 * draw.integers(0, 2, n_out, n_in) - 1)


def double_weight(draw):
    return {"W": _weight(draw), "block": 1 << draw.size(0, 3)}


def _coded(draw):
    n_out, n_in, block = draw.size(1, 6), draw.size(1, 7), draw.size(1, 9)
    n = n_out * n_in
    lead = [draw.size(1, 4) for _ in range(draw.size(1, 3))]
    return lead, {
        "x": draw.normal(*lead, n_in),
        "b": draw.normal(n_out),
        "q": draw.integers(0, 16, n_out, n_in),
        "book": draw.uniform(-1, 1, 16),
        "absmax": draw.uniform(0.5, 2, -(-n // block)),
        "block": block,
    }


def decoded_forward(draw):
    return _coded(draw)[1]


def decoded_backward(draw):
    lead, inputs = _coded(draw)
    shape = inputs["q"].shape
    return {**inputs, "q2": draw.integers(0, 16, *shape), "g": draw.normal(*lead, shape[0])}


def qlora_step(draw):
    W, n, r = _weight(draw), draw.size(1, 5), draw.size(1, 3)
    n_out, n_in = W.shape
    return {
        "x": draw.normal(n, n_in),
        "W": W,
        "b": draw.normal(n_out),
        "A": draw.normal(r, n_in),
        "B": draw.normal(n_out, r),
        "scale": draw.uniform(0.5, 2),
        "block": 1 << draw.size(0, 3),
        "g": draw.normal(n, n_out),
    }
