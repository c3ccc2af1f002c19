"""BERT: golden values, config, ids and segments, padding, virtual tokens, heads, gradients."""

import dataclasses

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, fused, grad_check, no_grad
from minipeft.models import BERT, BERTConfig
from minipeft.nn import LayerNorm, Module, Parameter
from minipeft.nn.transformer import ACTIVATIONS
from tests.golden import BERT_CONFIG, IDS, MASK, SEGMENTS, bert_shapes, columns, golden_bert

SMALL = BERTConfig(vocab=11, context=9, width=8, layers=2, heads=2, mlp=12)
LINEAR = dataclasses.replace(SMALL, head="linear", classes=3)
MEAN = dataclasses.replace(LINEAR, pool="mean")
TOKENS = Rng(0).integers(0, 11, (3, 6))
TYPES = Rng(1).integers(0, 2, (3, 6))


def large(config=SMALL, **settings):
    """A model in float64 with weights of O(0.3), so that every part matters."""
    model = BERT(config, dtype=np.float64, **settings)
    for i, p in enumerate(model.parameters()):
        p.data = p.data + 0.3 * Rng(9, i).normal(p.shape)
    return model


def close(a, b, atol=1e-12):
    a, b = (x.data if isinstance(x, Tensor) else x for x in (a, b))
    assert a.shape == b.shape and np.abs(a - b).max() < atol


# -- golden values --------------------------------------------------------------------------------

CLASSES = [-2.96838172, -2.75380246, -2.17900413, -2.16205556, -15.7603122, -15.0901098]
WORDS = [-0.06861400, -1.21882866, -2.20970176, 2.75253225, -32.9077161, -14.0712758]


def near(y, wanted):
    """Equal to the digits that are printed."""
    assert y.dtype == np.float64
    assert np.abs(np.subtract(columns(y), wanted)).max() < 1e-7, columns(y)


def test_golden_classifier():
    y = golden_bert(3)(IDS, segments=SEGMENTS, mask=MASK)
    assert y.shape == (2, 3)
    near(y.data, CLASSES)


def test_golden_masked_words():
    assert len(bert_shapes(BERT_CONFIG)) == 42
    y = golden_bert()(IDS, segments=SEGMENTS, mask=MASK)
    assert y.shape == (2, 6, 50)
    near(y.data, WORDS)


@pytest.mark.parametrize(
    "mistake", ["tanh gelu", "eps 1e-5", "no segments", "no mask", "q and v swapped", "pre-norm"]
)
def test_golden_values_see_the_usual_mistakes(mistake, monkeypatch):
    model = golden_bert(3, eps=1e-5) if mistake == "eps 1e-5" else golden_bert(3)
    if mistake == "tanh gelu":
        monkeypatch.setitem(ACTIVATIONS, "gelu_erf", fused.gelu)
    for block in model.blocks:
        if mistake == "q and v swapped":
            q, v = block.attn.q_proj, block.attn.v_proj
            q.weight, v.weight = v.weight, q.weight
        if mistake == "pre-norm":
            block.norm = "pre"
    segments = None if mistake == "no segments" else SEGMENTS
    mask = None if mistake == "no mask" else MASK
    wrong = model(IDS, segments=segments, mask=mask).data
    assert np.abs(np.subtract(columns(wrong), CLASSES)).max() > 2e-7


# -- config ---------------------------------------------------------------------------------------

SIZES = {"vocab": 11, "context": 9, "width": 8, "layers": 2, "heads": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": 0}, "BERTConfig: segments must be a whole number >= 1, got 0"),
        ({"vocab": 1.5}, "vocab must be a whole number >= 1, got 1.5"),
        ({"mlp": 0}, "mlp must be a whole number >= 1 or None, got 0"),
        ({"heads": 3}, "width 8 does not divide into 3 heads; the nearest number that fits is 2"),
        ({"head": "lm"}, "head must be 'mlm' or 'linear', got 'lm'"),
        ({"head": "linear"}, "classes goes with head='linear'"),
        ({"classes": 3}, "classes goes with head='linear', and only with it; got head='mlm'"),
        ({"dropout": 1.0}, "dropout in"),
        ({"pool": "max"}, "pool must be 'first' or 'mean', got 'max'"),
        ({"eps": 0.0}, "eps > 0"),
        ({"segmnets": 2}, "no field 'segmnets'; nearest is 'segments'"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        BERTConfig.from_dict(SIZES | change)


def test_config_goes_to_a_dict_and_back():
    config = BERTConfig(**SIZES, mlp=12, segments=3, head="linear", classes=4, dropout=0.1)
    assert BERTConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="BERTConfig needs context, layers"):
        BERTConfig.from_dict({"vocab": 11, "width": 8, "heads": 2})


# -- the model ------------------------------------------------------------------------------------


def test_paths_are_those_of_gpt():
    leaves = [path for path, part in BERT(SMALL).named_modules() if hasattr(part, "weight")]
    assert leaves[:5] == ["emb.tok", "emb.pos", "emb.seg", "emb.ln", "blocks.0.ln_1"]
    assert leaves[-3:] == ["mlm.fc", "mlm.ln", "head"]
    block = [p.removeprefix("blocks.1.") for p in leaves if p.startswith("blocks.1.")]
    assert block == ["ln_1", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "ln_2",
                     "mlp.fc_in", "mlp.fc_out"]  # fmt: skip
    linear = [path for path, part in BERT(LINEAR).named_modules() if hasattr(part, "weight")]
    assert linear[-2:] == ["pooler", "head"]


@pytest.mark.parametrize(
    ("width", "layers", "heads", "total"),
    [(768, 12, 12, 109_482_240), (1024, 24, 16, 335_141_888)],
    ids=["base", "large"],
)
def test_totals_of_encoder_and_pooler(width, layers, heads, total):
    config = BERTConfig(30522, 512, width, layers, heads, head="linear", classes=2)
    model = BERT(config, init="shape")
    assert model.num_parameters() == total + 2 * width + 2
    with pytest.raises(RuntimeError, match="shapes but no values"):
        model(IDS)


def test_init():
    model = BERT(BERTConfig(100, 64, 128, 4, 4), dtype=np.float64)
    for path, p in model.named_parameters():
        if path.endswith("bias"):
            assert not p.data.any()
        elif "ln" in path.split(".")[-2]:
            assert (p.data == 1).all()
        else:
            assert p.data.std() == pytest.approx(0.02, rel=0.1), path
    assert BERT(SMALL)(TOKENS).dtype == np.float32
    with pytest.raises(ValueError, match="init must be 'normal' or 'shape', got 'zeros'"):
        BERT(SMALL, init="zeros")


def test_the_seed_decides_the_weights():
    same, other = BERT(SMALL, seed=1), BERT(SMALL, seed=2)
    y = BERT(SMALL, seed=1)(TOKENS).data
    assert np.array_equal(same(TOKENS).data, y) and not np.array_equal(other(TOKENS).data, y)


def test_eps_reaches_every_norm():
    model = BERT(dataclasses.replace(LINEAR, eps=0.125))
    assert [m.eps for _, m in model.named_modules() if isinstance(m, LayerNorm)] == [0.125] * 5


@pytest.mark.parametrize("config", [SMALL, LINEAR], ids=["mlm", "linear"])
def test_state_goes_out_and_in(config):
    source, target = large(config), BERT(config, init="shape", dtype=np.float64)
    state = source.state_dict()
    assert ("head.weight" in state) == (config is LINEAR) and "head.bias" in state
    target.load_state_dict(state)
    assert np.array_equal(source(TOKENS, TYPES).data, target(TOKENS, TYPES).data)
    with pytest.raises(ValueError, match=r"missing +emb\.seg\.weight"):
        target.load_state_dict({n: a for n, a in state.items() if n != "emb.seg.weight"})


# -- what goes in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[1, 2]], TypeError, r"ids must be an integer array \(B, T\), got list"),
        (np.ones((1, 2)), TypeError, "ids must be integers, got float64"),
        (np.ones(3, int), ValueError, r"at least one token, got shape \(3,\)"),
        (np.ones((2, 0), int), ValueError, r"at least one token, got shape \(2, 0\)"),
        (np.array([[1, 11]]), ValueError, "id 11 is outside the table of 11 rows"),
        (np.array([[-1, 1]]), ValueError, "id -1 is outside the table"),
        (np.zeros((1, 10), int), ValueError, "10 tokens do not fit into the context of 9"),
    ],
)
def test_wrong_ids_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        BERT(SMALL)(ids)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (TYPES + 1, "segments must be 0 to 1, got 1 to 2"),
        (TYPES - 1, "segments must be 0 to 1, got -1 to 0"),
        (TYPES[:, :5], r"of the ids' shape \(3, 6\), got int64 of shape \(3, 5\)"),
        (TYPES[:1], r"of the ids' shape \(3, 6\), got int64 of shape \(1, 6\)"),
        (TYPES * 1.0, "segments must be integers .* got float64"),
    ],
)
def test_wrong_segments_are_refused(segments, message):
    with pytest.raises(ValueError, match=message):
        BERT(SMALL)(TOKENS, segments=segments)


def test_segments_are_0_by_default():
    model = large()
    assert np.array_equal(model(TOKENS).data, model(TOKENS, segments=0 * TYPES).data)
    assert np.abs(model(TOKENS).data - model(TOKENS, segments=TYPES).data).max() > 1e-3


def test_every_place_sees_every_other():
    model = large()
    y = model(TOKENS).data
    for t in range(6):
        other = TOKENS.copy()
        other[:, t] = (other[:, t] + 1) % 11
        assert (np.abs(model(other).data - y).max(axis=(0, 2)) > 1e-6).all()


@pytest.mark.parametrize("filler", [0, 7])
@pytest.mark.parametrize("config", [SMALL, LINEAR], ids=["mlm", "linear"])
def test_a_padded_row_gives_what_it_gives_alone(config, filler):
    model, lengths = large(config), (6, 4, 1)
    padded, segments = np.full((3, 9), filler), np.full((3, 9), filler % 2)
    for row, n in enumerate(lengths):
        padded[row, :n], segments[row, :n] = TOKENS[row, :n], TYPES[row, :n]
    mask = np.arange(9)[None] < np.array(lengths)[:, None]
    y = model(padded, segments=segments, mask=mask).data
    for row, n in enumerate(lengths):
        alone = model(TOKENS[row : row + 1, :n], segments=TYPES[row : row + 1, :n]).data[0]
        close(y[row, :n] if config is SMALL else y[row], alone)
    without = model(padded, segments=segments).data
    assert np.abs(without[1] - y[1]).max() > 1e-3  # the mask matters


def test_logits_only_at_the_wanted_places():
    model = large()
    at = np.array([0, 2, 2]), np.array([5, 0, 5])
    y = model(TOKENS, at=at)
    assert y.shape == (3, 11)
    close(y, model(TOKENS).data[at])


# -- virtual tokens and a past --------------------------------------------------------------------


class Rows(Module):
    """Ids past the table are rows of a trained matrix."""

    wraps = True

    def __init__(self, base, rows):
        self.base, self.virtual = base, len(rows)
        self.rows = Parameter(rows)

    def forward(self, ids):
        return fused.embedding(Tensor(np.concatenate([self.base.weight.data, self.rows.data])), ids)


class Front(Module):
    """Virtual tokens, or a past, before the first token."""

    wraps = True

    def __init__(self, base, ids=None, past=None):
        self.base, self.ids, self.past = base, ids, past

    def forward(self, ids, mask):
        if self.ids is None:
            return ids, mask, self.past
        rows = np.repeat(self.ids[None], len(ids), axis=0)
        if mask is not None:
            mask = np.concatenate([np.ones(rows.shape, bool), mask != 0], axis=1)
        return self.base(np.concatenate([rows, ids], axis=1), mask)


def prompted(config):
    model = large(config)
    model.set("emb.tok", Rows(model.emb.tok, 0.3 * Rng(4).normal((3, 8))))
    return model


VIRTUAL = np.array([11, 12, 13])


@pytest.mark.parametrize("config", [SMALL, LINEAR], ids=["mlm", "linear"])
def test_a_prompt_in_front_is_virtual_tokens(config):
    model = prompted(config)
    ids = np.concatenate([np.repeat(VIRTUAL[None], 3, axis=0), TOKENS], axis=1)
    types = np.concatenate([np.zeros((3, 3), int), TYPES], axis=1)
    wanted = model(ids, segments=types).data
    mask = np.arange(6)[None] < np.array([6, 4, 5])[:, None]
    masked = model(ids, segments=types, mask=np.concatenate([mask[:, :1]] * 3 + [mask], 1)).data
    model.set("start", Front(model.start, VIRTUAL))
    close(model(TOKENS, segments=TYPES), wanted)
    close(model(TOKENS, segments=TYPES, mask=mask), masked)
    assert np.abs(wanted - large(config)(TOKENS, segments=TYPES).data).max() > 1e-3
    if config is SMALL:
        assert wanted.shape == (3, 6, 11)
        kept = model(TOKENS, segments=TYPES, keep_virtual=True).data
        assert kept.shape == (3, 9, 11)
        close(kept[:, 3:], wanted)
    with pytest.raises(ValueError, match="10 tokens do not fit into the context of 9"):
        model(np.zeros((1, 7), int))


def test_a_linear_head_reads_the_first_real_place_behind_a_prompt():
    """Not the first virtual one: the pooler sees what the last block made of the text's first."""
    model, seen = prompted(LINEAR), {}

    class Spy(Module):
        wraps = True

        def __init__(self, base, name):
            self.base, self.name = base, name

        def forward(self, x, **kwargs):
            y = self.base(x, **kwargs)
            seen[self.name] = x.data, y.data
            return y

    model.set("start", Front(model.start, VIRTUAL))
    model.set("pooler", Spy(model.pooler, "pooler"))
    model.set("blocks.1", Spy(model.blocks[1], "block"))
    model(TOKENS, segments=TYPES)
    last = seen["block"][1]
    assert last.shape == (3, 9, 8)
    close(seen["pooler"][0], last[:, 3])


@pytest.mark.parametrize("config", [SMALL, LINEAR], ids=["mlm", "linear"])
def test_padding_on_the_left_changes_nothing(config):
    model = large(config)
    padded, types = (np.concatenate([np.zeros((3, 2), int), x], axis=1) for x in (TOKENS, TYPES))
    mask = np.arange(8) >= np.array([[2], [4], [3]])
    found = model(padded, segments=types, mask=mask).data
    for row, first in enumerate((0, 2, 1)):
        cut = slice(row, row + 1), slice(first, None)
        wanted = model(TOKENS[cut], segments=TYPES[cut]).data[0]
        close(found[row] if config is LINEAR else found[row, 2 + first :], wanted)


def test_a_past_moves_positions_and_may_fill_the_context():
    """Keys and values that are hidden by the mask leave nothing behind."""
    model = large()
    past = [tuple(0.3 * Rng(i, j).normal((1, 3, 8)) for j in "kv") for i in range(2)]
    mask = np.concatenate([np.zeros((3, 3), bool), np.ones((3, 6), bool)], axis=1)
    hidden = model(TOKENS, past=past, mask=mask).data  # 3 + 6 fill the context of 9
    close(hidden, model(TOKENS))
    wanted = model(TOKENS, past=past).data
    model.emb.pos.weight.data[:3] = np.nan  # which the text then does not reach
    close(model(TOKENS, past=past), wanted)
    with pytest.raises(ValueError, match="10 tokens do not fit into the context of 9"):
        model(np.zeros((1, 7), int), past=past)
    assert model(np.zeros((1, 9), int)).shape == (1, 9, 11)


def test_virtual_tokens_in_front_are_of_the_first_segment():
    model, seen = prompted(SMALL), []

    class Spy(Module):
        wraps = True

        def __init__(self, base):
            self.base = base

        def forward(self, ids):
            seen.append(ids)
            return self.base(ids)

    model.set("start", Front(model.start, VIRTUAL))
    model.set("emb.seg", Spy(model.emb.seg))
    model(TOKENS, segments=TYPES)
    assert np.array_equal(seen[0], np.concatenate([np.zeros((3, 3), int), TYPES], axis=1))


def test_wanted_places_are_those_of_the_text_with_a_mask_too():
    model, at = prompted(SMALL), (np.array([0, 1, 2]), np.array([3, 0, 2]))
    mask = np.arange(6)[None] < np.array([6, 4, 5])[:, None]
    model.set("start", Front(model.start, VIRTUAL))
    y = model(TOKENS, segments=TYPES, mask=mask, at=at)
    assert y.shape == (3, 11)
    close(y, model(TOKENS, segments=TYPES, mask=mask).data[at])


def test_one_token_of_one_row_is_a_text():
    model = large()
    y = model(TOKENS[:1, :1])
    assert y.shape == (1, 1, 11)
    mask = np.array([[True] + [False] * 5])
    close(model(TOKENS[:1], mask=mask).data[:, :1], y)


def test_a_prefix_is_a_past():
    model = large()
    past = [tuple(0.3 * Rng(i, j).normal((1, 3, 8)) for j in "kv") for i in range(2)]
    wanted = model(TOKENS, past=past).data
    assert np.abs(wanted - model(TOKENS).data).max() > 1e-3
    model.set("start", Front(model.start, past=past))
    close(model(TOKENS), wanted)
    row = np.concatenate([TOKENS[:1, :4], [[0, 0]]], axis=1)
    mask = np.array([[True] * 4 + [False] * 2])
    close(model(row, mask=mask).data[:, :4], model(TOKENS[:1, :4]))
    with pytest.raises(ValueError, match="past has 1 layers, the model 2"):
        model(TOKENS, past=past[:1])


# -- heads and gradients --------------------------------------------------------------------------


def test_the_tied_table_has_a_bias_of_its_own():
    model = large()
    assert model.head.weight is model.emb.tok.weight and model.head.bias.shape == (11,)
    moved = large()
    moved.head.bias.data = moved.head.bias.data + np.arange(11)
    close(moved(TOKENS).data - model(TOKENS).data, np.broadcast_to(np.arange(11.0), (3, 6, 11)))


def test_a_linear_head_reads_the_first_place():
    model = large(LINEAR)
    assert model.head.new and not model.pooler.new
    y = model(TOKENS, segments=TYPES)
    first = []

    class Spy(Module):
        wraps = True

        def __init__(self, base):
            self.base = base

        def forward(self, x):
            first.append(x)
            return self.base(x)

    model.set("pooler", Spy(model.pooler))
    model(TOKENS, segments=TYPES)
    x, (pooler, head) = first[0].data, (model.pooler.base, model.head)
    pooled = np.tanh(x @ pooler.weight.data.T + pooler.bias.data)
    close(y, pooled @ head.weight.data.T + head.bias.data)


def test_a_mean_is_taken_over_the_real_places_of_the_text():
    """Not over padding, on whichever side, nor over virtual tokens; no pooler is in the way."""
    model, hidden = large(MEAN), []

    class Spy(Module):
        wraps = True

        def __init__(self, base):
            self.base = base

        def forward(self, x, **kwargs):
            hidden.append(self.base(x, **kwargs))
            return hidden[-1]

    model.set("blocks.1", Spy(model.blocks[1]))
    assert not hasattr(model, "pooler")
    w, b = model.head.weight.data, model.head.bias.data
    y = model(TOKENS, segments=TYPES)
    close(y, hidden[-1].data.mean(1) @ w.T + b)
    for mask in (
        np.arange(6) < np.array([[6], [4], [1]]),
        np.arange(6) >= np.array([[2], [0], [5]]),
    ):
        y = model(TOKENS, segments=TYPES, mask=mask)
        rows = [x[seen].mean(0) for x, seen in zip(hidden[-1].data, mask, strict=True)]
        close(y, np.array(rows) @ w.T + b)
    model.set("emb.tok", Rows(model.emb.tok, 0.3 * Rng(4).normal((3, 8))))
    model.set("start", Front(model.start, VIRTUAL))
    y = model(TOKENS, segments=TYPES, mask=mask)
    rows = [x[3:][seen].mean(0) for x, seen in zip(hidden[-1].data, mask, strict=True)]
    close(y, np.array(rows) @ w.T + b)
    model = large(MEAN)
    model.set("blocks.1", Spy(model.blocks[1]))
    past = [tuple(0.3 * Rng(i, j).normal((1, 3, 8)) for j in "kv") for i in range(2)]
    model.set("start", Front(model.start, past=past))
    y = model(TOKENS, segments=TYPES, mask=mask)
    rows = [x[seen].mean(0) for x, seen in zip(hidden[-1].data, mask, strict=True)]
    close(y, np.array(rows) @ w.T + b)
    assert MEAN.to_dict()["pool"] == "mean" and SMALL.pool == "first"


@pytest.mark.parametrize("config", [SMALL, LINEAR, MEAN], ids=["mlm", "linear", "mean"])
def test_gradients_of_the_whole_model(config):
    model = large(config)
    mask = np.arange(6)[None] < np.array([6, 4, 5])[:, None]
    labels = np.where(mask & (TOKENS > 3), TOKENS, -100) if config is SMALL else np.array([0, 2, 1])

    def loss():
        return fused.cross_entropy(model(TOKENS, TYPES, mask=mask), labels, smoothing=0.1)

    assert grad_check(loss, params=model.parameters()) < 1e-8
    loss().backward()
    for path, p in model.named_parameters():
        if not path.endswith("k_proj.bias"):  # softmax does not see it
            assert np.abs(p.grad).max() > 1e-6, path


def test_a_frozen_model_records_nothing():
    model = large()
    with no_grad():
        assert not model(TOKENS).requires_grad
    for p in model.parameters():
        p.requires_grad = False
    assert not model(TOKENS).requires_grad
