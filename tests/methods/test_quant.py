"""Quantized Linear parts: bytes that are really few, gradients past them, refusals by name."""

import dataclasses

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, fused, grad_check, no_grad, running
from minipeft.engine.graph import kept
from minipeft.ledger import measure, predict
from minipeft.methods import BitFit, LoRA, Quantize, TopK, codes
from minipeft.methods.quant import QuantLinear, codes_of, page_out
from minipeft.models import GPT, GPTConfig
from minipeft.nn import Linear, Parameter
from minipeft.storage.paged import is_paged
from minipeft.training.loop import fit
from tests.contract.throwaway import Subspace
from tests.methods.contract import Next

CONFIG = GPTConfig(vocab=30, context=16, width=32, layers=2, heads=2)
IDS = Rng(0).integers(0, 30, (2, 10))


def gpt(dtype=np.float32, **fields):
    return GPT(dataclasses.replace(CONFIG, **fields), dtype=dtype)


def linear(d_in=48, d_out=40, dtype=np.float64, bias=True):
    like = np.zeros(2, dtype)
    part = Linear(d_in, d_out, std=0.3, bias=bias, rng=Rng(0, "linear"), like=like)
    for p in part.parameters():
        p.requires_grad = False
    return part


def wrapped(part, **fields):
    m = Quantize(**fields)
    return QuantLinear(part, m.code, m.block, m.double, m.bf16)


# -- the layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("code", codes.BOOKS)
def test_it_computes_with_the_decoded_weight(code, double):
    part = linear(dtype=np.float32)
    made = wrapped(part, code=code, double=double)
    x = Tensor(np.asarray(Rng(1).normal((3, 48)), np.float32))
    q, absmax = codes.quantize(part.weight.data, code, 64)
    if double:
        table = codes.table("dynamic8", np.dtype(np.float32))
        absmax = codes.double_dequantize(*codes.double_quantize(absmax), table)
    weight = codes.dequantize(q, absmax, code, 64).reshape(40, 48)
    assert (made.weight.data == weight).all()
    wanted = fused.linear(x, Parameter(weight), part.bias).data
    assert (made(x).data == wanted).all()
    assert (made.merged()(x).data == wanted).all()
    assert not np.shares_memory(made.merged().bias.data, part.bias.data)


def test_gradients_reach_the_input_and_the_bias_but_no_weight():
    part = linear()
    part.bias.requires_grad = True
    made = wrapped(part)
    x = Parameter(Rng(1).normal((2, 3, 48)))
    assert grad_check(lambda: made(x), params=[x, part.bias]) < 1e-8
    made(x).sum().backward()
    assert part.weight.grad is None
    np.testing.assert_allclose(x.grad[0, 0], made.weight.data.sum(0), rtol=1e-12)


def test_the_tape_keeps_no_weight():
    made = wrapped(linear(dtype=np.float32))
    y = made(Parameter(np.ones((2, 48), np.float32)))
    (node,) = kept(y)
    assert node.operation == "linear_decoded" and node.bytes == 0


def test_a_linear_without_a_bias_and_a_short_block():
    part = linear(7, 5, np.float32, bias=False)
    made = wrapped(part, block=16)
    assert made(Tensor(np.ones((1, 7), np.float32))).shape == (1, 5) and made.merged().bias is None


def test_rounding_to_bfloat16():
    made = wrapped(linear(dtype=np.float32), bf16=True)
    weight = made.weight.data
    assert (codes.round_bf16(weight) == weight).all()
    assert not (wrapped(linear(dtype=np.float32)).weight.data == weight).all()


# -- bytes ----------------------------------------------------------------------------------------


def test_packed_storage_is_that_small():
    part = linear(256, 512, np.float32)
    for fields, bits in [
        ({}, 4.126953125),
        ({"double": False}, 4.5),
        ({"code": "int8", "block": 0, "double": False}, 8),
        ({"code": "nf3"}, 3.126953125),
        ({"code": "int2"}, 2.126953125),
    ]:
        made = wrapped(part, **fields)
        assert abs(8 * made.nbytes / part.weight.size - bits) < 0.001
        assert made.packed.dtype == np.uint8
        held = [a for _, _, a in made.arrays()]
        assert sum(a.nbytes for a in held) == made.nbytes
        assert all(a.base is None or a.base.size == a.size for a in held)  # no parts of more


def test_shapes_alone_take_the_same_bytes():
    for code, block, double in [("nf4", 64, True), ("int3", 5, False), ("int8", 0, True)]:
        method = Quantize(code, block, double)
        real, shape = gpt(), GPT(CONFIG, init="shape")
        sizes = [
            sorted((n, a.shape, str(a.dtype)) for _, n, a in model.arrays())
            for model in (attach(real, method).model, attach(shape, method).model)
        ]
        assert sizes[0] == sizes[1] != []
        assert all(not any(a.strides) for _, _, a in shape.arrays())


def test_the_ledger_counts_the_codes():
    def build(init="normal"):
        model = GPT(GPTConfig(vocab=99, context=64, width=64, layers=2, heads=2), init=init)
        attach(model, Quantize())
        attach(model, LoRA(r=4))
        return model

    found = predict(build("shape"), batch=16, length=64)
    found.compare(measure(build, batch=16, length=64))
    assert {k: v for k, v in found.differences().items() if abs(v) > 0.1} == {}
    plain = GPT(GPTConfig(vocab=99, context=64, width=64, layers=2, heads=2), init="shape")
    attach(plain, LoRA(r=4))
    extra = found.predicted["weights"] - predict(plain, batch=16, length=64).predicted["weights"]
    assert extra == sum(w.nbytes for w in codes_of(build().handles[0]).values())
    (row,) = [r for r in found.operations if r["operation"] == "linear_decoded"]
    assert row["kept"] == row["measured"] == 0 and row["calls"] == 12


def paged_build(init="normal"):
    model = GPT(GPTConfig(vocab=99, context=64, width=64, layers=2, heads=2))
    below = attach(model, Quantize())
    attach(model, LoRA(r=4))
    page_out(below)
    return model


def test_float_weights_can_leave_memory():
    found = predict(paged_build(), batch=16, length=64)
    found.compare(measure(paged_build, batch=16, length=64))
    assert {k: v for k, v in found.differences().items() if abs(v) > 0.1} == {}
    plain = GPT(GPTConfig(vocab=99, context=64, width=64, layers=2, heads=2))
    attach(plain, LoRA(r=4))
    more = predict(plain, batch=16, length=64).predicted["weights"] - found.predicted["weights"]
    floats = 4 * 2 * 12 * 64 * 64
    assert floats * (1 - 0.14) < more < floats * (1 - 0.128)


def test_what_left_memory_comes_back_to_the_bit():
    model = gpt()
    before, y = model.state_dict(), model(IDS).data
    at = attach(model, Quantize())
    z = model(IDS).data
    assert page_out(at) == 4 * 2 * 12 * 32 * 32
    assert all(is_paged(w.base.weight.data) for w in at.wrappers.values())
    with running(off=[at]):
        assert (model(IDS).data == y).all()
    assert (model(IDS).data == z).all()
    at.detach()
    assert (model(IDS).data == y).all()
    assert all(a.tobytes() == before[path].tobytes() for path, a in model.state_dict().items())
    attach(model, TopK(k=1))  # they can train again
    fit(model, Next(), steps=2, lr=0.01, batch=2, quiet=True)


def test_what_cannot_leave_memory():
    model = gpt()
    at = attach(model, Quantize(targets="head"))  # whose weight is the embedding too
    assert page_out(at) == 0 and not is_paged(model.head.weight.data)
    with pytest.raises(ValueError, match="page_out: this 'lora' has no codes"):
        page_out(attach(model, LoRA(r=2)))
    with pytest.raises(ValueError, match="page_out: this model has shapes but no values"):
        page_out(attach(GPT(CONFIG, init="shape"), Quantize()))


# -- with other methods ---------------------------------------------------------------------------


def test_biases_train_beside_codes():
    model = gpt(np.float64)
    attach(model, Quantize())
    at = attach(model, BitFit())
    params = [p for _, p in at.trainable()]
    assert grad_check(lambda: model(IDS), params=params) < 1e-8


def test_rows_with_other_adapters_share_the_codes():
    model = gpt()
    attach(model, Quantize())
    at = attach(model, LoRA(r=2))
    for path, p in at.trainable():
        p.data = 0.3 * np.asarray(Rng(3, path).normal(p.shape), np.float32)
    with no_grad():
        with running(rows=[at, None]):
            mixed = model(IDS).data
        own = model(IDS).data
        with running(off=[at]):
            base = model(IDS).data
    np.testing.assert_allclose(mixed[0], own[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], base[1], atol=1e-5)
    assert abs(own[1] - base[1]).max() > 1e-3


def test_dequantizing_for_good_leaves_what_is_on_top():
    model = gpt(np.float64)
    before = attach(model, Quantize())
    at = attach(model, LoRA(r=2))
    at.wrappers["blocks.0.attn.q_proj"].B.data += 0.3
    y = model(IDS).data
    before.merge()
    assert abs(model(IDS).data - y).max() < 1e-12
    at.merge()
    assert abs(model(IDS).data - y).max() < 1e-12


def test_order_is_kept():
    model = gpt()
    attach(model, LoRA(r=2))
    with pytest.raises(ValueError, match="q_proj has 'lora' around it.*detach 'lora', quantize"):
        attach(model, Quantize())
    assert [h.method.name for h in model.handles] == ["lora"]


def test_twice_is_refused():
    model = gpt()
    attach(model, Quantize(targets="q_proj"))
    with pytest.raises(ValueError, match="blocks.0.attn.q_proj is quantized already, by 'quant'"):
        attach(model, Quantize("fp4"))
    attach(model, LoRA(r=2))
    with pytest.raises(ValueError, match="blocks.0.attn.q_proj is quantized already"):
        attach(model, Quantize("fp4"))


@pytest.mark.parametrize("other", [TopK(k=1), Subspace()], ids=lambda m: m.name)
def test_a_weight_that_trains_or_is_computed_has_no_codes(other):
    model = gpt()
    with (
        attach(model, other),
        pytest.raises(ValueError, match=f"q_proj.weight, which '{other.name}"),
    ):
        attach(model, Quantize())
    attach(model, Quantize())
    with pytest.raises(ValueError, match="q_proj.weight, which 'quant' replaces: merge or"):
        attach(model, other)
    assert [h.method.name for h in model.handles] == ["quant"]


def test_wrong_settings_are_refused():
    for fields, told in [
        ({"code": "nf5"}, "Quantize: code must be 'nf4', 'nf3', .*got 'nf5'"),
        ({"block": -1}, "Quantize: block must be a whole number >= 0 .0 takes the whole"),
        ({"block": 2.5}, "got 2.5"),
        ({"block": True}, "got True"),
    ]:
        with pytest.raises(ValueError, match=told):
            Quantize(**fields)
    model = gpt()
    with pytest.raises(ValueError, match="Quantize: blocks.0.ln_1 is a LayerNorm; it must be"):
        attach(model, Quantize(targets="ln_1"))
    weight = model.blocks[1].mlp.fc_in.weight
    weight.data = weight.data.astype(np.float64)
    for bad in (np.nan, np.inf, 1e200):
        weight.data[3, 4] = bad
        told = rf"weight of blocks.1.mlp.fc_in: element {3 * weight.shape[1] + 4} is {bad:g}, and"
        with pytest.raises(ValueError, match=told.replace("+", r"\+")):
            attach(model, Quantize())
        assert not model.handles


# -- errors by block size -------------------------------------------------------------------------


def test_smaller_blocks_err_less_and_outliers_cost_their_block():
    x = np.asarray(Rng(0, "w").normal((64, 512)), np.float32)

    def rmse(weight, code, block):
        part = Linear.of(Parameter(weight, requires_grad=False), None)
        made = wrapped(part, code=code, block=block, double=False).weight.data
        return float(np.sqrt(((made - weight) ** 2).mean()))

    errors = [rmse(x, "nf4", block) for block in (16, 64, 256, 0)]
    assert errors == sorted(errors)
    assert rmse(x, "nf4", 64) < rmse(x, "fp4", 64) < rmse(x, "int4", 64)
    assert rmse(x, "int4", 64) < rmse(x, "fp4-bnb", 64)
    assert rmse(x, "int8", 64) < rmse(x, "nf4", 64) < rmse(x, "nf3", 64)
    spoilt = x.copy()
    spoilt[0, 0] = 50
    assert rmse(spoilt, "nf4", 64) < 1.2 * rmse(x, "nf4", 64) and rmse(spoilt, "nf4", 0) > 0.9
