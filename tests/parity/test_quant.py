"""Codes, constants and a layer's results against bitsandbytes; bfloat16 against PyTorch."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor
from minipeft.methods import Quantize, codes
from minipeft.methods.quant import QuantLinear
from minipeft.nn import Linear, Parameter

BLOCKS = (64, 128, 256)


@pytest.fixture(scope="module")
def bnb(torch):
    return pytest.importorskip("bitsandbytes", reason="parity: bitsandbytes is not installed")


def normal(*shape):
    return np.asarray(Rng(0, "w").normal(shape), np.float32)


def theirs(torch, bnb, x, name, block, double=False):
    """Packed codes and their state; what they call fp4 is our fp4-bnb."""
    packed, state = bnb.functional.quantize_4bit(
        torch.from_numpy(x),
        blocksize=block,
        quant_type=name.removesuffix("-bnb"),
        compress_statistics=double,
    )
    return packed.numpy().ravel(), state


def test_books(torch, bnb):
    x = normal(64, 64)
    for name in ("nf4", "fp4-bnb"):
        _, state = theirs(torch, bnb, x, name, 64)
        np.testing.assert_allclose(codes.book(name), state.code.numpy(), atol=2e-7)
    _, state = theirs(torch, bnb, x, "nf4", 64, double=True)
    np.testing.assert_allclose(codes.book("dynamic8"), state.state2.code.numpy(), atol=1e-7)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", ["nf4", "fp4-bnb"])
def test_four_bit_codes(torch, bnb, name, block):
    x = normal(512, 512)
    packed, state = theirs(torch, bnb, x, name, block)
    q, absmax = codes.quantize(x, name, block)
    assert (state.absmax.numpy() == absmax).all()
    got = codes.unpack(packed, 4, x.size)
    if name == "fp4-bnb":  # theirs writes -0 for some zeros
        got = np.where(got == 8, 0, got)
    assert (got == q).all()
    if name == "nf4":
        assert (packed == codes.pack(q, 4)).all()
    back = codes.decode(packed, absmax, codes.table(name, np.float32), x.shape, block)
    wanted = bnb.functional.dequantize_4bit(torch.from_numpy(packed)[:, None], state).numpy()
    np.testing.assert_allclose(back, wanted, atol=2e-7 * absmax.max())


def test_double_quantization(torch, bnb):
    x = normal(512, 512)
    _, state = theirs(torch, bnb, x, "nf4", 64, double=True)
    _, absmax = codes.quantize(x, "nf4", 64)
    q, nested, offset = codes.double_quantize(absmax)
    assert offset == pytest.approx(state.offset.item(), rel=1e-6)
    np.testing.assert_allclose(nested, state.state2.absmax.numpy(), rtol=1e-6)
    apart = abs(q.astype(int) - state.absmax.numpy().astype(int))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.005  # theirs is not always the nearest


@pytest.mark.parametrize("double", [False, True])
def test_a_linear_layer(torch, bnb, double):
    weight, bias = normal(48, 64), normal(48)
    x = normal(5, 64)
    layer = bnb.nn.Linear4bit(
        64, 48, compute_dtype=torch.float32, compress_statistics=double, quant_type="nf4"
    )
    layer.weight = bnb.nn.Params4bit(
        torch.from_numpy(weight), requires_grad=False, compress_statistics=double, quant_type="nf4"
    )
    layer.bias = torch.nn.Parameter(torch.from_numpy(bias))
    layer = layer.to("cpu")
    told = torch.from_numpy(x).requires_grad_()
    y = layer(told)
    y.sum().backward()
    base = Linear.of(Parameter(weight), Parameter(bias))
    m = Quantize(double=double)
    mine, here = QuantLinear(base, m.code, m.block, m.double, m.bf16), Parameter(x)
    z = mine(here)
    z.sum().backward()
    close = 2e-2 if double else 1e-5  # a constant may lie one code off
    np.testing.assert_allclose(z.data, y.detach().numpy(), atol=close * abs(z.data).max())
    np.testing.assert_allclose(here.grad, told.grad.numpy(), atol=close * abs(here.grad).max())
    assert isinstance(z, Tensor) and base.weight.grad is None


def test_bfloat16(torch):
    x = np.concatenate([normal(10_000), [0, -0.0, np.inf, 1e-40, 3.4e38]]).astype(np.float32)
    wanted = torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()
    assert (codes.round_bf16(x) == wanted).all()
