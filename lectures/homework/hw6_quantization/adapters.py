"""How the tests call your code: arrays in, arrays out.

Each function takes the inputs of one test, calls what you wrote, and returns the results by name.
If you bring an engine of your own, write the bodies anew; what they take and return stays.
Numbers are float64 but for codes (`q`, `q2`, ...), which are integers.
"""


def _rows(values, absmax):
    """A codebook, and below it what the codes stand for in a block with this constant."""
    import numpy as np

    return None if values is None else np.asarray(values) * np.asarray([[1.0], [absmax]])


def float_e2m1(exponent, fraction, absmax):
    """The values of a small float by code, over the largest: as they are, and times absmax.

    A code has one bit of sign (the highest), then `exponent` bits, then `fraction` bits.
    Shapes  absmax a number -> {"table": (2, 2^(1 + exponent + fraction))}
    """
    from minipeft.methods.codes import small_float

    return {"table": _rows(small_float(exponent, fraction), absmax)}


def float_formats(exponent, fraction, absmax):
    """The same as float_e2m1 for other numbers of bits."""
    return float_e2m1(exponent, fraction, absmax)


def normal_four_bits(bits, absmax):
    """NormalFloat's codebook, ascending: as it is, and times absmax.

    Shapes  absmax a number -> {"table": (2, 2^bits)}
    """
    from minipeft.methods.codes import normal_float

    return {"table": _rows(normal_float(bits), absmax)}


def normal_any_bits(bits, absmax):
    """The same as normal_four_bits for other numbers of bits."""
    return normal_four_bits(bits, absmax)


def quantize_codes(x, block):
    """Codes of x in three codebooks, and the constants, which are the same for all three.

    Shapes  x (n,) -> {"nf4": (n,), "fp4": (n,), "int4": (n,), "absmax": (blocks,)}
    """
    from minipeft.methods.codes import quantize

    found = {name: quantize(x, name, block) for name in ("nf4", "fp4", "int4")}
    return {**{name: q for name, (q, _) in found.items()}, "absmax": found["nf4"][1]}


def quantize_blocks(x, block):
    """int4 codes, where the last block may be short, a block all zeros, `block` larger than n.

    Shapes  x (n,) -> {"q": (n,), "absmax": (blocks,)}
    """
    from minipeft.methods.codes import quantize

    q, absmax = quantize(x, "int4", block)
    return {"q": q, "absmax": absmax}


def quantize_halfway(x, z, block):
    """Codes of x in the codebook (-1, 0, 1) with their constants, and codes of z in fp4.

    Many numbers are halfway between two values. That of 0 in fp4 is 0, never 8.
    Shapes  x (n,), z (n,) -> {"q": (n,), "absmax": (blocks,), "fp4": (n,)}
    """
    from minipeft.methods.codes import quantize

    q, absmax = quantize(x, "int2", block)
    return {"q": q, "absmax": absmax, "fp4": quantize(z, "fp4", block)[0]}


def pack_bytes(q):
    """Codes of 4 bits, two to a byte.  Shapes  q (n,) -> {"bytes": (ceil(n / 2),)}"""
    import numpy as np

    from minipeft.methods.codes import pack

    return {"bytes": pack(q.astype(np.uint8), 4)}


def pack_any_bits(q2, q3, q4, q8):
    """Codes of 2, 3, 4 and 8 bits in words of 8, 12, 8 and 8 bits.

    Shapes  qb (n_b,) -> {"words2": (ceil(n_2 / 4),), "words3": (ceil(n_3 / 4),),
            "words4": (ceil(n_4 / 2),), "words8": (n_8,)}
    """
    import numpy as np

    from minipeft.methods.codes import pack_words

    by_bits = {2: q2, 3: q3, 4: q4, 8: q8}
    return {f"words{b}": pack_words(q.astype(np.uint8), b) for b, q in by_bits.items()}


def double_constants(absmax):
    """Quantize constants by section 3.2 of the handout, and decode them again.

    Shapes  absmax (m,) -> {"absmax": (m,), decoded, "nested": (ceil(m / 256),), "offset": ()}
    """
    import numpy as np

    from minipeft.methods import codes

    q, nested, offset = codes.double_quantize(absmax.astype(np.float32))
    table = codes.table("dynamic8", np.dtype(np.float32))
    back = codes.double_dequantize(q, nested, offset, table)
    return {"absmax": back, "nested": nested, "offset": np.asarray(offset)}


def double_weight(W, block):
    """A weight as NF4 codes with double quantization, packed, and decoded again.

    Shapes  W (d_out, d_in) -> {"W": (d_out, d_in)}
    """
    from minipeft.methods.quant import QuantLinear
    from minipeft.nn import Linear, Parameter

    layer = QuantLinear(Linear.of(Parameter(W), None), "nf4", block, True, False)
    return {"W": layer.weight.data}


def _decoder(shape, q, book, absmax, block):
    """A function that decodes what is stored, and the store."""
    import numpy as np

    stored = {"q": q}

    def decode(like):
        constants = np.repeat(absmax, block)[: q.size]
        return (book[stored["q"].reshape(-1)] * constants).reshape(shape).astype(like.dtype)

    return decode, stored


def decoded_forward(x, b, q, book, absmax, block):
    """y = x w^T + b, where w = book[q] times absmax of its block; blocks run along the rows of q.

    Shapes  x (..., d_in), b (d_out,), q (d_out, d_in), book (16,), absmax (blocks,) ->
            {"y": (..., d_out)}
    """
    from minipeft.engine import Tensor, variants

    decode, _ = _decoder(q.shape, q, book, absmax, block)
    y = variants.linear_decoded(Tensor(x), Tensor(b), decode=decode, shape=q.shape)
    return {"y": y.data}


def decoded_backward(x, b, q, book, absmax, block, q2, g):
    """The gradients of sum(g * y) with respect to x and b.

    After the forward pass, which reads q, the stored codes are replaced by q2. The gradient of x
    is that of the codes which are stored when it is computed: so with w decoded from q2.
    Shapes  g (..., d_out), q2 as q -> {"gx": (..., d_in), "gb": (d_out,)}
    """
    import numpy as np

    from minipeft.engine import Tensor, variants

    decode, stored = _decoder(q.shape, q, book, absmax, block)
    x, b = Tensor(x, requires_grad=True), Tensor(b, requires_grad=True)
    y = variants.linear_decoded(x, b, decode=decode, shape=q.shape)
    stored["q"] = q2
    y.backward(g)
    return {k: np.zeros_like(t.data) if t.grad is None else t.grad
            for k, t in {"gx": x, "gb": b}.items()}  # fmt: skip


def qlora_step(x, W, b, A, B, scale, block, g):
    """y = x w^T + b + scale (x A^T) B^T, w decoded from W's NF4 codes with double quantization.

    Also the gradients of sum(g * y) with respect to x, A and B.
    Shapes  x (n, d_in), W (d_out, d_in), b (d_out,), A (r, d_in), B (d_out, r), g (n, d_out) ->
            {"y": (n, d_out), "gx": (n, d_in), "gA": (r, d_in), "gB": (d_out, r)}
    """
    import numpy as np

    from minipeft.engine import Tensor
    from minipeft.methods.qlora import QLoRALinear
    from minipeft.methods.quant import QuantLinear
    from minipeft.nn import Linear, Parameter

    base = QuantLinear(Linear.of(Parameter(W), Parameter(b)), "nf4", block, True, False)
    x, A, B = Tensor(x, requires_grad=True), Parameter(A), Parameter(B)
    y = QLoRALinear(base, A, B, scale, 0.0, "")(x)
    y.backward(g)
    grads = {k: np.zeros_like(t.data) if t.grad is None else t.grad
             for k, t in {"gx": x, "gA": A, "gB": B}.items()}  # fmt: skip
    return {"y": y.data, **grads}
