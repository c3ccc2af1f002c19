"""LLaMA: equations, config, tied and untied heads, rotary places, a past, padding, gradients."""

import dataclasses
import json

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, fused, grad_check
from minipeft.ledger import predict
from minipeft.models import OUTLINES, LLaMA, LLaMAConfig, build, outline
from minipeft.nn import LayerNorm, Module
from minipeft.nn.gated import RMSNorm
from tests.methods import contract
from tests.models.plain import plain

SIZES = {"vocab": 11, "context": 9, "width": 8, "layers": 2, "heads": 4, "mlp": 12}
SMALL = LLaMAConfig(**SIZES, kv_heads=2)
TOKENS = Rng(0).integers(0, 11, (3, 6))


def large(config=SMALL, **settings):
    """A model in float64 with weights of O(0.3), so that every part matters."""
    model = LLaMA(config, dtype=np.float64, **settings)
    for i, p in enumerate(model.parameters()):
        p.data = p.data + 0.3 * Rng(9, i).normal(p.shape)
    return model


def close(a, b, atol=1e-12):
    a, b = (x.data if isinstance(x, Tensor) else x for x in (a, b))
    assert a.shape == b.shape and np.abs(a - b).max() < atol


# -- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{}, {"kv_heads": None}, {"kv_heads": 1}, {"tied": True}, {"head_width": 6}, {"eps": 0.3},
     {"head_width": 6, "theta": 3.0}, {"head_width": 2, "heads": 3, "kv_heads": 3}],
    ids=str,
)  # fmt: skip
def test_it_is_its_equations(change):
    """Once more in NumPy, with the turn of a pair as a product of complex numbers."""
    model = large(dataclasses.replace(SMALL, **change))
    ones = np.ones((3, 6, 8)), np.ones((3, model.config.heads, 6, 6))
    stream, weights = ones
    factors = [stream, *[weights, stream, stream] * 2]
    mask = np.arange(6) < np.array([[6], [4], [5]])
    for m in (None, mask):
        close(model(TOKENS, mask=m), plain(model, TOKENS, factors, m), 1e-11)


def test_paths_of_a_block():
    model = LLaMA(SMALL)
    leaves = [path for path, _ in model.blocks[1].named_modules() if path]
    assert leaves == ["ln_1", "attn", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.drop",
                      "attn.head_out", "attn.o_proj", "ln_2", "mlp", "mlp.gate", "mlp.fc_in",
                      "mlp.fc_out", "drop"]  # fmt: skip
    top = [path for path, part in model.named_modules() if path and "blocks." not in path]
    assert top == ["start", "emb", "emb.tok", "emb.drop", "blocks", "ln_f", "head"]
    assert {path.rpartition(".")[2] for path, _ in model.named_parameters()} == {"weight"}
    assert not any(isinstance(part, LayerNorm) for _, part in model.named_modules())


def test_every_weight_starts_alike():
    config = LLaMAConfig(vocab=100, context=64, width=128, layers=4, heads=4, mlp=200, kv_heads=1)
    for path, p in LLaMA(config, dtype=np.float64).named_parameters():
        if "ln_" in path:
            assert (p.data == 1).all()
        else:
            assert p.data.std() == pytest.approx(0.02, rel=0.05), path


def test_settings_reach_every_part():
    model = LLaMA(dataclasses.replace(SMALL, eps=0.125, theta=7.0, dropout=0.25))
    norms = [part for _, part in model.named_modules() if isinstance(part, RMSNorm)]
    assert [n.eps for n in norms] == [0.125] * 5
    assert [block.attn.theta for block in model.blocks] == [7.0] * 2
    assert [b.drop.p for b in model.blocks] == [b.attn.drop.p for b in model.blocks] == [0.25] * 2


def test_the_seed_decides_the_weights():
    y = LLaMA(SMALL, seed=1)(TOKENS).data
    assert np.array_equal(build(SMALL, seed=1)(TOKENS).data, y) and y.dtype == np.float32
    assert not np.array_equal(LLaMA(SMALL, seed=2)(TOKENS).data, y)


def of(o):
    """The config of an outline's sizes."""
    return LLaMAConfig(vocab=o.vocab, context=2048, width=o.width, layers=o.layers, heads=o.heads,
                       mlp=o.mlp)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in OUTLINES if name.startswith("llama")])
def test_its_shapes_are_those_of_the_outline(name):
    model = LLaMA(of(OUTLINES[name]), init="shape")
    shapes = {path: p.shape for path, p in model.named_parameters()}
    assert shapes == {path: p.shape for path, p in outline(name).named_parameters()}


def test_a_step_of_7b_is_foretold_from_shapes():
    model = LLaMA(of(OUTLINES["llama-7b"]), init="shape")
    found = predict(model, batch=1, length=16)
    c = model.config
    linears = c.layers * (4 * c.width**2 + 3 * c.width * c.mlp) + c.width * c.vocab
    assert found.flops["forward"] == 2 * 16 * linears + c.layers * 4 * 16 * 16 * c.width


# -- config ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
        ({"mlp": 2.0}, "mlp must be a whole number >= 1, got 2.0"),
        ({"mlp": None}, "mlp must be a whole number >= 1, got None"),
        ({"heads": 3}, "width 8 does not divide into 3 heads"),
        ({"kv_heads": 3}, "kv_heads must divide the 4 heads, got 3"),
        ({"kv_heads": 0}, "kv_heads must divide the 4 heads, got 0"),
        ({"kv_heads": 2.0}, "kv_heads must divide the 4 heads, got 2.0"),
        ({"kv_heads": True}, "kv_heads must divide the 4 heads, got True"),
        ({"kv_heads": 8}, "kv_heads must divide the 4 heads, got 8"),
        ({"heads": 8}, "a head's width must be even, for rotary positions, got 1"),
        ({"head_width": 3}, "a head's width must be even, for rotary positions, got 3"),
        ({"head_width": 0}, "head_width must be a whole number >= 1 or None, got 0"),
        ({"theta": 0.0}, "theta must be a number > 0, got 0.0"),
        ({"theta": float("inf")}, "theta must be a number > 0, got inf"),
        ({"theta": float("nan")}, "theta must be a number > 0, got nan"),
        ({"theta": "1e4"}, "theta must be a number > 0, got '1e4'"),
        ({"theta": True}, "theta must be a number > 0, got True"),
        ({"tied": 1}, "tied must be True or False, got 1"),
        ({"head": "mlm"}, "head must be 'lm' or 'linear', got 'mlm'"),
        ({"head": "linear"}, "classes goes with head='linear'"),
        ({"kv_haeds": 2}, "no field 'kv_haeds'; nearest is 'kv_heads'"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=f"LLaMAConfig.*{message}"):
        LLaMAConfig.from_dict(SIZES | change)


def test_config_goes_to_a_file_and_back():
    config = LLaMAConfig(**SIZES, kv_heads=np.int64(2), theta=np.float32(5e5), tied=True)
    assert type(config.kv_heads) is int and type(config.theta) is float
    assert LLaMAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert LLaMAConfig.from_dict(SIZES | {"theta": 500_000}).theta == 500_000


def test_a_past_is_as_wide_as_the_config_says():
    for change, width in (({}, 4), ({"kv_heads": None}, 8), ({"head_width": 6}, 12)):
        config = dataclasses.replace(SMALL, **change)
        _, past = LLaMA(config)(TOKENS, return_past=True)
        assert config.key_width == width
        assert [t.shape for pair in past for t in pair] == [(3, 6, width)] * 4


# -- heads ----------------------------------------------------------------------------------------


def test_the_head_is_the_embedding_only_where_it_is_tied():
    apart, tied = (large(dataclasses.replace(SMALL, tied=t)) for t in (False, True))
    assert apart.head.weight is not apart.emb.tok.weight
    assert tied.head.weight is tied.emb.tok.weight
    assert apart.num_parameters() - tied.num_parameters() == 11 * 8
    assert ("head.weight" in apart.state_dict()) and "head.weight" not in tied.state_dict()
    for model in (apart, tied):
        assert not model.head.new and model.head.bias is None
        fused.cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:]).backward()
        assert all(np.abs(p.grad).max() > 1e-6 for p in model.parameters())


def test_a_linear_head_reads_the_last_real_token():
    model = large(dataclasses.replace(SMALL, head="linear", classes=4))
    y = model(TOKENS)
    assert y.shape == (3, 4) and model.head.new
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2, [False] * 3 + [True] * 3])
    padded = model(TOKENS, mask=mask).data
    close(padded[0], y.data[0])
    close(padded[1], model(TOKENS[1:2, :4]).data[0])
    close(padded[2], model(TOKENS[2:, 3:]).data[0])
    with pytest.raises(ValueError, match="at= names positions .* a linear head"):
        model(TOKENS, at=(np.array([0]), np.array([1])))


# -- places ---------------------------------------------------------------------------------------


def test_no_logit_sees_a_later_token():
    model = large()
    y = model(TOKENS).data
    for t in range(6):
        other = TOKENS.copy()
        other[:, t] = (other[:, t] + 1) % 11
        z = model(other).data
        assert np.array_equal(z[:, :t], y[:, :t])
        assert (np.abs(z[:, t:] - y[:, t:]).max(axis=(0, 2)) > 1e-6).all()


def test_the_order_of_earlier_tokens_matters():
    model = large()
    swapped = TOKENS[:1].copy()
    swapped[0, 0], swapped[0, 1] = 3, 7
    y = model(swapped).data[0, -1]
    swapped[0, 0], swapped[0, 1] = 7, 3
    assert np.abs(model(swapped).data[0, -1] - y).max() > 1e-3


def test_padding_on_either_side_changes_nothing():
    model = large()
    y = model(TOKENS).data
    for at in (0, 3):
        padded = np.full((3, 9), 7)
        padded[:, at : at + 6] = TOKENS
        mask = (np.arange(9) >= at) & (np.arange(9) < at + 6)
        z = model(padded, mask=np.repeat(mask[None], 3, axis=0)).data
        close(z[:, at : at + 6], y)


def test_rows_of_unequal_lengths_are_as_if_alone():
    model, lengths = large(), (9, 2, 5)
    ids = Rng(4).integers(0, 11, (3, 9))
    mask = np.arange(9) >= 9 - np.array(lengths)[:, None]
    y, past = model(ids, mask=mask, return_past=True)
    for row, n in enumerate(lengths):
        close(y.data[row, 9 - n :], model(ids[row : row + 1, 9 - n :]).data[0])
    first, past = model(ids[:, :7], mask=mask[:, :7], return_past=True)
    for t in (7, 8):  # and go on by one token from what was padded
        z, past = model(ids[:, t : t + 1], past=past, return_past=True)
        close(z.data[:, 0], y.data[:, t])


def test_keys_of_a_past_have_turned():
    model = large()
    whole = model(TOKENS).data
    for n in range(1, 6):
        first, past = model(TOKENS[:, :n], return_past=True)
        second, past = model(TOKENS[:, n:], past=past, return_past=True)
        close(np.concatenate([first.data, second.data], axis=1), whole)
        assert past[0][0].shape == (3, 6, 4)
    _, alone = model(TOKENS[:, 1:2], return_past=True)
    assert np.array_equal(alone[0][1].data, past[0][1].data[:, 1:2])  # values have not
    assert np.abs(alone[0][0].data - past[0][0].data[:, 1:2]).max() > 1e-3


def test_what_does_not_fit_is_refused():
    model = large()
    _, past = model(TOKENS, return_past=True)
    with pytest.raises(ValueError, match="10 tokens do not fit into the context of 9"):
        model(TOKENS[:, :4], past=past)
    with pytest.raises(ValueError, match="past has 1 layers, the model 2"):
        model(TOKENS, past=past[:1])
    with pytest.raises(ValueError, match="id 11 is outside the table of 11 rows"):
        model(np.array([[1, 11]]))


def test_only_the_attention_is_told_of_positions():
    """Whoever stands around a norm or an MLP needs no word of them."""
    model, told = large(), []

    class Spy(Module):
        wraps = True

        def __init__(self, base):
            self.base = base

        def forward(self, x, **settings):
            told.append(settings.get("positions"))
            return self.base(x, **settings)

    for path in ("blocks.1.ln_1", "blocks.1.mlp", "blocks.1.attn", "ln_f"):
        model.set(path, Spy(model.get(path)))
    model(TOKENS)
    assert told[0] is told[2] is told[3] is None and told[1].tolist() == [[*range(6)]]


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"tied": True, "kv_heads": 1}], ids=str)
def test_gradients_of_the_whole_model(change):
    model = large(dataclasses.replace(SMALL, **change))
    labels = np.where(np.arange(5) == 1, -100, TOKENS[:, 1:])
    mask = np.array([[True] * 5, [True] * 5, [False] + [True] * 4])
    worst = grad_check(
        lambda: fused.cross_entropy(model(TOKENS[:, :-1], mask=mask), labels, smoothing=0.1),
        params=model.parameters(),
    )
    assert worst < 1e-8


def test_a_past_on_the_tape_gets_gradients():
    model = large()
    _, past = model(TOKENS[:, :3], return_past=True)
    leaves = [Tensor(t.data, requires_grad=True) for pair in past for t in pair]

    def f(*parts):
        return model(TOKENS[:, 3:], past=[parts[:2], parts[2:]])

    assert grad_check(f, *leaves) < 1e-8


def test_it_runs_on_every_backend(backend):
    case = dataclasses.replace(contract.on("llama", "lora"), xp=backend)
    contract.training_leaves_the_base_alone(case, None)
    contract.generation_and_no_grad_see_the_method(case, None)
