"""GPT: golden values, config, masks and positions, a past, virtual tokens, ties, gradients."""

import dataclasses
import json

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, fused, grad_check, no_grad, ops, running
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig
from minipeft.nn import LayerNorm, Module, Parameter
from minipeft.nn.transformer import ACTIVATIONS
from tests.golden import CONFIG, IDS, columns, fill, golden_gpt, gpt2_shapes

SMALL = GPTConfig(vocab=11, context=9, width=8, layers=2, heads=2)
TOKENS = Rng(0).integers(0, 11, (3, 6))


def near(values, wanted):
    """Equal to the digits that are printed."""
    assert np.abs(np.subtract(values, wanted)).max() < 1e-7, [float(v) for v in values]


def large(config=SMALL, **settings):
    """A model in float64 with weights of O(0.3), so that every part matters."""
    model = GPT(config, dtype=np.float64, **settings)
    for i, p in enumerate(model.parameters()):
        p.data = p.data + 0.3 * Rng(9, i).normal(p.shape)
    return model


def close(a, b, atol=1e-12):
    a, b = (x.data if isinstance(x, Tensor) else x for x in (a, b))
    assert a.shape == b.shape and np.abs(a - b).max() < atol


# -- golden values --------------------------------------------------------------------------------


def test_golden_gpt2():
    model = golden_gpt()
    assert len(gpt2_shapes(CONFIG)) == 28
    y = model(IDS)
    assert y.shape == (2, 6, 50) and y.dtype == np.float64
    wanted = [-3.86025405, -4.05046820, -3.71225807, -0.57848717, 58.3745491, -13.7217429]
    near(columns(y.data), wanted)
    assert abs(fused.cross_entropy(model(IDS)[:, :-1], IDS[:, 1:]).item() - 7.011780846) < 1e-9


@pytest.mark.parametrize(
    ("mistake", "size"),
    [
        ("erf gelu", 4.1e-5),
        ("eps 1e-12", 2.3e-5),
        ("positions + 1", 0.27),
        ("q and v swapped", 0.159),
        ("c_proj not transposed", 5.1),
    ],
)
def test_golden_values_see_the_usual_mistakes(mistake, size, monkeypatch):
    right = golden_gpt()(IDS).data
    model = golden_gpt(eps=1e-12) if mistake == "eps 1e-12" else golden_gpt()
    if mistake == "erf gelu":
        monkeypatch.setitem(ACTIVATIONS, "gelu", fused.gelu_erf)
    if mistake == "positions + 1":
        model.emb.pos.weight.data = np.roll(model.emb.pos.weight.data, -1, axis=0)
    for block in model.blocks:
        if mistake == "q and v swapped":  # the weights alone
            q, v = block.attn.q_proj, block.attn.v_proj
            q.weight, v.weight = v.weight, q.weight
        if mistake == "c_proj not transposed":
            block.attn.o_proj.weight.data = block.attn.o_proj.weight.data.T
    wrong = model(IDS).data
    assert np.abs(wrong - right).max() == pytest.approx(size, rel=0.03)


def test_golden_prefix_is_a_past():
    n, d = 5, CONFIG.width
    rows = fill({"prompt_embeddings": (n, 2 * CONFIG.layers * d)}, start=100)["prompt_embeddings"]
    halves = rows.reshape(n, CONFIG.layers, 2, d)  # a row holds k, v of layer 0, k, v of layer 1, …
    past = [(halves[None, :, i, 0], halves[None, :, i, 1]) for i in range(CONFIG.layers)]
    y = golden_gpt()(IDS, past=past).data
    wanted = [-3.50604747, -4.02715403, -4.02287789, -0.17955111, 45.5168262, -16.5081222]
    near(columns(y), wanted)
    assert y.shape == (2, 6, 50)


class Rows(Module):
    """Ids past the table are rows of a trained matrix."""

    wraps = True

    def __init__(self, base, rows):
        self.base, self.virtual = base, len(rows)
        self.rows = Parameter(rows)

    def forward(self, ids):
        return fused.embedding(ops.concatenate([self.base.weight, self.rows]), ids)


class Prompt(Module):
    """Virtual tokens before the first, of no handle."""

    wraps, handle = True, None

    def __init__(self, base, ids):
        self.base, self.virtual, self.puts = base, ids, len(ids)

    def forward(self, ids, mask):
        rows = np.repeat(self.virtual[None], len(ids), axis=0)
        if mask is not None:
            mask = np.concatenate([np.ones(rows.shape, bool), mask != 0], axis=1)
        return self.base(np.concatenate([rows, ids], axis=1), mask)


def prompted(model, n=5, at_start=False):
    shape = {"prompt_embeddings": (n, model.config.width)}
    model.set("emb.tok", Rows(model.emb.tok, fill(shape, start=100)["prompt_embeddings"]))
    virtual = np.arange(model.config.vocab, model.config.vocab + n)
    if at_start:
        model.set("start", Prompt(model.start, virtual))
        return model
    return model, np.concatenate([np.repeat(virtual[None], 2, axis=0), IDS], axis=1)


def test_golden_prompt_is_virtual_tokens():
    model, ids = prompted(golden_gpt())
    y = model(ids, keep_virtual=True).data
    assert y.shape == (2, 11, 50)
    wanted = [-3.82086037, -4.06450894, -3.77790148, -0.50027490, 103.0385398, -15.8231574]
    near(columns(y), wanted)
    close(model(ids), y[:, 5:])
    close(prompted(golden_gpt(), at_start=True)(IDS), y[:, 5:])


# -- virtual tokens -------------------------------------------------------------------------------


def test_virtual_tokens_may_stand_anywhere_and_differ_between_rows():
    model, _ = prompted(golden_gpt())
    ids = np.array([[50, 3, 51, 1, 4], [1, 53, 2, 54, 6]])
    whole = model(ids, keep_virtual=True).data
    # what follows a token is said behind the virtual tokens that follow it
    close(model(ids), np.stack([whole[0, [2, 3, 4]], whole[1, [1, 3, 4]]]))


def test_rows_with_unlike_numbers_of_virtual_tokens_are_refused():
    model, _ = prompted(golden_gpt())
    with pytest.raises(ValueError, match=r"same number of virtual tokens; got \[1, 0\]"):
        model(np.array([[50, 1], [2, 3]]))


def test_virtual_tokens_enter_once_and_positions_go_on_after_them():
    model = prompted(golden_gpt(), at_start=True)
    whole = model(IDS).data
    first, past = model(IDS[:, :4], return_past=True)
    assert past[0][0].shape == (2, 5 + 4, 16)
    close(np.concatenate([first.data, model(IDS[:, 4:], past=past).data], axis=1), whole)


def test_places_are_counted_without_virtual_tokens():
    model = prompted(golden_gpt(), at_start=True)
    at = np.array([0, 1, 1]), np.array([5, 0, 3])
    close(model(IDS, at=at), model(IDS).data[at])


def test_a_mask_beside_virtual_tokens():
    model = prompted(golden_gpt(), at_start=True)
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2])
    close(model(IDS, mask=mask).data[1, :4], model(IDS[1:, :4]).data[0])


class Prefix(Module):
    """A past before the first token."""

    wraps = True

    def __init__(self, base, past):
        self.base, self.past = base, past

    def forward(self, ids, mask):
        return ids, mask, self.past


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_left_padding_behind_a_prompt_or_prefix_changes_nothing(kind):
    model = golden_gpt()
    if kind == "prompt":
        model = prompted(model, at_start=True)
    else:
        past = [tuple(0.3 * Rng(i, j).normal((1, 4, 16)) for j in "kv") for i in range(2)]
        model.set("start", Prefix(model.start, past))
    padded = np.concatenate([np.zeros((2, 3), int), IDS], axis=1)
    mask = np.array([[False] * 3 + [True] * 6] * 2)
    y, past = model(padded, mask=mask, return_past=True)
    close(y.data[:, 3:], model(IDS))
    whole = model(np.concatenate([IDS, [[7], [8]]], axis=1)).data[:, -1:]
    close(model(np.array([[7], [8]]), past=past), whole)  # it remembers the padding


def fronted(kind, **head):
    """A model with a linear head or without, and a past, virtual tokens or both in front of it."""
    model = golden_gpt()
    if head:
        plain, model = model, large(dataclasses.replace(CONFIG, **head))
        state = plain.state_dict() | {"head.weight": model.head.weight.data}
        model.load_state_dict(state)
    if kind in ("prefix", "both"):
        past = [tuple(0.3 * Rng(i, j).normal((1, 4, 16)) for j in "kv") for i in range(2)]
        model.set("start", Prefix(model.start, past))
    return prompted(model, at_start=True) if kind in ("prompt", "both") else model


LEFT = np.array([[0, 0, 0, *IDS[0]], [0, 0, 0, 0, *IDS[1, :5]]])
LEFT_MASK = np.array([[False] * 3 + [True] * 6, [False] * 4 + [True] * 5])
RIGHT = np.array([[*IDS[0], 0, 0, 0], [*IDS[1, :5], 0, 0, 0, 0]])
in_front = pytest.mark.parametrize("kind", ["prompt", "prefix", "both"])


@in_front
def test_rows_padded_on_the_left_by_unlike_lengths_are_as_if_alone(kind):
    """The past's positions come first, then those of the virtual tokens, then the text's."""
    model = fronted(kind)
    y = model(LEFT, mask=LEFT_MASK).data
    close(y[0, 3:], model(IDS[:1]).data[0])
    close(y[1, 4:], model(IDS[1:, :5]).data[0])


@in_front
def test_in_front_of_the_text_positions_go_on_after_the_past(kind):
    """What stands where: 4 keys of the past have no embedding, virtual tokens have the next."""
    model, seen = fronted(kind), []

    class Spy(Module):
        wraps = True

        def __init__(self, base):
            self.base = base

        def forward(self, positions):
            seen.append(positions)
            return self.base(positions)

    model.set("emb.pos", Spy(model.emb.pos))
    before, n = (0 if kind == "prompt" else 4), (0 if kind == "prefix" else 5)
    model(IDS)
    assert seen[0].tolist() == [list(range(before, before + n + 6))]
    model(LEFT, mask=LEFT_MASK)
    first = before + n
    for row, padding in zip(seen[1].tolist(), (3, 4), strict=True):
        assert row[:n] == [*range(before, first)]
        assert row[n + padding :] == [*range(first, first + 9 - padding)]


@in_front
def test_a_linear_head_behind_a_past_or_prompt_reads_the_last_real_token(kind):
    model = fronted(kind, head="linear", classes=3)
    alone = [model(IDS[:1]).data[0], model(IDS[1:, :5]).data[0]]
    left = model(LEFT, mask=LEFT_MASK).data
    right = model(RIGHT, mask=LEFT_MASK[:, ::-1]).data
    for row in range(2):
        close(left[row], alone[row])
        close(right[row], alone[row])
    assert np.abs(model(RIGHT).data[1] - alone[1]).max() > 1e-3  # without a mask it is the last


@in_front
def test_wanted_places_are_those_of_the_text(kind):
    model, at = fronted(kind), (np.array([0, 1, 1]), np.array([5, 0, 5]))
    close(model(IDS, at=at), model(IDS).data[at])
    whole = model(IDS, keep_virtual=True).data
    assert whole.shape[1] == (6 if kind == "prefix" else 11)
    close(model(IDS, at=at, keep_virtual=True), whole[at])


def test_a_mask_over_a_padded_past_behind_a_prompt_holds_for_one_token_more():
    """One token a row, twice: the keys of the padding stay hidden, the prompt's stay seen."""
    model = fronted("both")
    _, past = model(LEFT, mask=LEFT_MASK, return_past=True)
    assert past[0][0].shape[1] == 4 + 5 + 9
    mask = np.concatenate([np.ones((2, 9), bool), LEFT_MASK], axis=1)
    assert np.array_equal(past.mask, mask)
    for tokens in (np.array([[7], [8]]), np.array([[9], [2]])):
        mask = np.concatenate([mask, np.ones((2, 1), bool)], axis=1)
        said = model(tokens, past=list(past), mask=mask).data  # of a plain list it is to be said
        y, past = model(tokens, past=past, return_past=True)
        assert np.array_equal(said, y.data)
    whole = [np.array([[*IDS[0], 7, 9]]), np.array([[*IDS[1, :5], 8, 2]])]
    for row in range(2):
        close(y.data[row, 0], model(whole[row]).data[0, -1])


def test_the_context_has_room_for_virtual_tokens_too():
    model = prompted(golden_gpt(), at_start=True)
    model(np.zeros((1, 27), int))
    with pytest.raises(ValueError, match="33 tokens do not fit into the context of 32"):
        model(np.zeros((1, 28), int))


# -- config ---------------------------------------------------------------------------------------

SIZES = {"vocab": 11, "context": 9, "width": 8, "layers": 2, "heads": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
        ({"vocab": -3}, "vocab must be a whole number >= 1, got -3"),
        ({"layers": 2.0}, "layers must be a whole number >= 1, got 2.0"),
        ({"heads": True}, "heads must be a whole number >= 1, got True"),
        ({"context": "9"}, "context must be a whole number >= 1, got '9'"),
        ({"mlp": 0}, "mlp must be a whole number >= 1 or None, got 0"),
        ({"heads": 3}, "width 8 does not divide into 3 heads; the nearest number that fits is 2"),
        ({"width": 7, "heads": 6}, "into 6 heads; the nearest number that fits is 7"),
        ({"head": "linaer"}, "head must be 'lm' or 'linear', got 'linaer'"),
        ({"head": "linear"}, "classes goes with head='linear'"),
        ({"classes": 3}, "classes goes with head='linear'"),
        ({"head": "linear", "classes": 1}, "classes must be >= 2, got 1"),
        ({"dropout": 1.0}, "dropout in"),
        ({"dropout": -0.1}, "dropout in"),
        ({"eps": 0.0}, "eps > 0"),
        ({"eps": float("inf")}, "eps > 0; got 0.0, inf"),
        ({"eps": float("nan")}, "eps > 0; got 0.0, nan"),
        ({"dropout": "0.1"}, r"dropout in \[0, 1\) and eps > 0; got '0.1'"),
        ({"width": np.float64(8)}, "width must be a whole number >= 1, got 8.0"),
        ({"heads": np.bool_(True)}, "heads must be a whole number >= 1, got True"),
        ({"widht": 8}, "no field 'widht'; nearest is 'width'"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig.from_dict(SIZES | change)


def test_numbers_of_numpy_become_python_s():
    given = {k: np.int64(n) for k, n in SIZES.items()} | {"dropout": np.float32(0.25)}
    config = GPTConfig(**given, mlp=np.int32(12), head="linear", classes=np.uint8(3))
    assert config == GPTConfig(**SIZES, mlp=12, head="linear", classes=3, dropout=0.25)
    assert {type(v) for v in config.to_dict().values()} == {int, float, str}
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_config_names_what_is_missing():
    with pytest.raises(ValueError, match="GPTConfig needs layers, heads"):
        GPTConfig.from_dict({"vocab": 11, "context": 9, "width": 8})


def test_config_goes_to_a_dict_and_back():
    config = GPTConfig(**SIZES, mlp=12, head="linear", classes=3, dropout=0.1)
    assert GPTConfig.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 9


# -- the model ------------------------------------------------------------------------------------


def test_paths_of_a_block():
    leaves = [path for path, _ in GPT(SMALL).blocks[1].named_modules() if path]
    assert leaves == ["ln_1", "attn", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.drop",
                      "attn.head_out", "attn.o_proj", "ln_2", "mlp", "mlp.fc_in", "mlp.fc_out",
                      "drop"]  # fmt: skip
    assert not any("bias" in path for path, _ in GPT(SMALL).named_modules())


def test_init_follows_gpt2():
    model = GPT(GPTConfig(vocab=100, context=64, width=128, layers=8, heads=4), dtype=np.float64)
    for path, p in model.named_parameters():
        if path.endswith("bias"):
            assert not p.data.any()
        elif "ln_" in path:
            assert (p.data == 1).all()
        else:
            residual = "o_proj" in path or "fc_out" in path
            assert p.data.std() == pytest.approx(0.005 if residual else 0.02, rel=0.05), path


def test_the_seed_decides_the_weights():
    same, other = GPT(SMALL, seed=1), GPT(SMALL, seed=2)
    y = GPT(SMALL, seed=1)(TOKENS).data
    assert np.array_equal(same(TOKENS).data, y) and not np.array_equal(other(TOKENS).data, y)
    assert y.dtype == np.float32
    assert GPT(SMALL, dtype=np.float64)(TOKENS).dtype == np.float64
    with pytest.raises(ValueError, match="init must be 'normal' or 'shape', got 'zeros'"):
        GPT(SMALL, init="zeros")


def test_mlp_width_is_a_field():
    model = GPT(dataclasses.replace(SMALL, mlp=5))
    assert model.blocks[0].mlp.fc_in.weight.shape == (5, 8)
    assert GPT(SMALL).blocks[0].mlp.fc_in.weight.shape == (32, 8)


def test_eps_reaches_every_norm():
    model = GPT(dataclasses.replace(SMALL, eps=0.125))
    assert [m.eps for _, m in model.named_modules() if isinstance(m, LayerNorm)] == [0.125] * 5


def test_logits_come_from_the_tied_table_without_bias():
    model = large()
    seen = []

    class Spy(Module):
        wraps = True

        def __init__(self, base):
            self.base = base

        def forward(self, x):
            seen.append(self.base(x))
            return seen[-1]

    model.set("ln_f", Spy(model.ln_f))
    y = model(TOKENS)
    assert model.head.weight is model.emb.tok.weight and model.head.bias is None
    close(y, seen[0].data @ model.emb.tok.weight.data.T)


# -- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[1, 2]], TypeError, r"ids must be an integer array \(B, T\), got list"),
        (np.ones((1, 2)), TypeError, "ids must be integers, got float64"),
        (np.ones((1, 2), bool), TypeError, "ids must be integers, got bool"),
        (np.ones(3, int), ValueError, r"at least one token, got shape \(3,\)"),
        (np.ones((2, 0), int), ValueError, r"at least one token, got shape \(2, 0\)"),
        (np.ones((0, 2), int), ValueError, r"at least one token, got shape \(0, 2\)"),
        (np.array([[1, 11]]), ValueError, "id 11 is outside the table of 11 rows"),
        (np.array([[-1, 1]]), ValueError, "id -1 is outside the table"),
        (np.zeros((1, 10), int), ValueError, "10 tokens do not fit into the context of 9"),
    ],
)
def test_wrong_ids_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        GPT(SMALL)(ids)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64])
def test_any_integers_are_ids(dtype):
    model = large()
    assert np.array_equal(model(TOKENS.astype(dtype)).data, model(TOKENS).data)


# -- who sees whom --------------------------------------------------------------------------------


def test_no_logit_sees_a_later_token():
    model = large()
    y = model(TOKENS).data
    for t in range(6):
        other = TOKENS.copy()
        other[:, t] = (other[:, t] + 1) % 11
        z = model(other).data
        assert np.array_equal(z[:, :t], y[:, :t])
        assert (np.abs(z[:, t:] - y[:, t:]).max(axis=(0, 2)) > 1e-6).all()


@pytest.mark.parametrize("filler", [0, 7])
def test_padding_on_the_right_changes_nothing(filler):
    model = large()
    padded = np.full((3, 9), filler)
    padded[:, :6] = TOKENS
    mask = np.arange(9)[None] < np.full((3, 1), 6)
    close(model(padded, mask=mask).data[:, :6], model(TOKENS))


@pytest.mark.parametrize("filler", [0, 7])
def test_padding_on_the_left_changes_nothing(filler):
    model = large()
    padded = np.full((3, 9), filler)
    padded[:, 3:] = TOKENS
    mask = np.arange(9)[None] >= np.full((3, 1), 3)
    close(model(padded, mask=mask).data[:, 3:], model(TOKENS))
    shifted = model(padded).data[:, 3:]
    assert np.abs(shifted - model(TOKENS).data).max() > 1e-3  # padding that nobody named is text


def test_the_argument_that_went_says_where_positions_come_from_now():
    with pytest.raises(TypeError, match=r"positions has moved: the model counts them over mask="):
        large()(TOKENS, positions=np.zeros((3, 6), int))


@pytest.mark.parametrize("shape", [(3, 1), (2, 6), (3, 5), (6,), (3, 7)])
def test_a_mask_says_of_each_id_whether_it_is_real(shape):
    with pytest.raises(ValueError, match=r"mask must be \(B, T\) = \(3, 6\); got"):
        large()(TOKENS, mask=np.ones(shape, bool))


def test_rows_do_not_see_each_other():
    model = large()
    whole = model(TOKENS).data
    for b in range(3):
        close(model(TOKENS[b : b + 1]).data[0], whole[b])


# -- past and places ------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1, 1), (2, 4), (5, 1), (3, 2, 1)])
def test_pieces_with_a_past_equal_the_whole(pieces):
    model = large()
    logits, past, start = [], None, 0
    for n in pieces:
        y, past = model(TOKENS[:, start : start + n], past=past, return_past=True)
        logits.append(y.data)
        start += n
        assert len(past) == 2 and past[0][0].shape == past[1][1].shape == (3, start, 8)
    close(np.concatenate(logits, axis=1), model(TOKENS))


def test_a_past_of_one_row_serves_a_batch():
    model = large()
    _, past = model(TOKENS[:1, :3], return_past=True)
    y = model(TOKENS[:, 3:], past=past).data
    for b in range(3):
        row = np.concatenate([TOKENS[:1, :3], TOKENS[b : b + 1, 3:]], axis=1)
        close(y[b], model(row).data[0, 3:])


def test_a_padded_past_keeps_its_mask():
    model = large()
    padded = np.concatenate([np.zeros((3, 2), int), TOKENS], axis=1)
    mask = np.arange(8)[None] >= np.full((3, 1), 2)
    _, past = model(padded[:, :5], mask=mask[:, :5], return_past=True)
    wanted = model(TOKENS).data[:, 3:]
    close(model(padded[:, 5:], past=past), wanted)
    close(model(padded[:, 5:], past=past, mask=mask[:, 5:]), wanted)
    close(model(padded[:, 5:], past=list(past), mask=mask), wanted)


def test_a_past_must_fit():
    model = large()
    _, past = model(TOKENS, return_past=True)
    with pytest.raises(ValueError, match="past has 1 layers, the model 2"):
        model(TOKENS, past=past[:1])
    with pytest.raises(ValueError, match="10 tokens do not fit into the context of 9"):
        model(TOKENS[:, :4], past=past)


def test_a_past_and_what_follows_may_fill_the_context_to_the_last_position():
    model = large()
    assert model(np.zeros((1, 9), int)).shape == (1, 9, 11)
    for n in range(1, 7):
        _, past = model(TOKENS[:, :n], return_past=True)
        rest = Rng(5).integers(0, 11, (3, 9 - n))
        y, past = model(rest, past=past, return_past=True)
        close(y, model(np.concatenate([TOKENS[:, :n], rest], axis=1)).data[:, n:])
        with pytest.raises(ValueError, match="10 tokens do not fit into the context of 9"):
            model(TOKENS[:, :1], past=past)


def test_one_token_of_one_row_is_the_first_of_a_text():
    model = large()
    close(model(TOKENS[:1, :1]).data[0], model(TOKENS).data[0, :1])
    assert model(TOKENS[:1, :1], mask=np.ones((1, 1), bool)).shape == (1, 1, 11)


def test_a_past_on_the_tape_gets_gradients():
    model = large()
    _, past = model(TOKENS[:, :3], return_past=True)
    leaves = [Tensor(t.data, requires_grad=True) for pair in past for t in pair]

    def f(*parts):
        return model(TOKENS[:, 3:], past=[parts[:2], parts[2:]])

    assert grad_check(f, *leaves) < 1e-8


def test_logits_only_at_the_wanted_places():
    model = large()
    at = np.array([0, 2, 2]), np.array([5, 0, 5])
    y = model(TOKENS, at=at)
    assert y.shape == (3, 11)
    close(y, model(TOKENS).data[at])


# -- linear head ----------------------------------------------------------------------------------


def test_a_linear_head_reads_the_last_real_token():
    config = dataclasses.replace(SMALL, head="linear", classes=4)
    model = large(config)
    y = model(TOKENS)
    assert y.shape == (3, 4) and model.head.bias is None and model.head.new
    assert model.head.weight is not model.emb.tok.weight
    assert model.num_parameters() == GPT(SMALL).num_parameters() + 4 * 8
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2, [False] * 3 + [True] * 3])
    padded = model(TOKENS, mask=mask).data
    close(padded[0], y.data[0])
    close(padded[1], model(TOKENS[1:2, :4]).data[0])
    close(padded[2], model(TOKENS[2:, 3:]).data[0])


def test_a_linear_head_learns_from_every_block():
    model = large(dataclasses.replace(SMALL, head="linear", classes=4))
    fused.cross_entropy(model(TOKENS), np.array([0, 1, 3])).backward()
    for path, p in model.named_parameters():
        if not path.endswith("k_proj.bias"):  # softmax does not see it
            assert np.abs(p.grad).max() > 1e-6, path


# -- ties and gradients ---------------------------------------------------------------------------


def test_the_tied_table_is_counted_and_saved_once():
    model = GPT(SMALL)
    names = list(model.state_dict())
    assert "emb.tok.weight" in names and "head.weight" not in names
    assert len(names) == len(model.parameters()) == 2 + 2 * 16 + 2
    places = [p.path for p in model.places() if p.parameter is model.emb.tok.weight]
    assert places == ["emb.tok.weight", "head.weight"]
    shown = [row[0] for row in model.summary().rows]
    assert shown == names


def test_the_tied_table_gets_the_gradients_of_both_ends():
    model = large()
    loss = fused.cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:])
    loss.backward()
    both = model.emb.tok.weight.grad
    apart = large()
    apart.head.weight = Parameter(apart.emb.tok.weight.data.copy())
    fused.cross_entropy(apart(TOKENS[:, :-1]), TOKENS[:, 1:]).backward()
    ends = apart.emb.tok.weight.grad, apart.head.weight.grad
    close(both, ends[0] + ends[1])
    assert min(np.abs(end).max() for end in ends) > 1e-3


def test_gradients_of_the_whole_model():
    model = large()
    labels = np.where(np.arange(5) == 1, -100, TOKENS[:, 1:])
    mask = np.array([[True] * 5, [True] * 5, [False] + [True] * 4])
    worst = grad_check(
        lambda: fused.cross_entropy(model(TOKENS[:, :-1], mask=mask), labels, smoothing=0.1),
        params=model.parameters(),
    )
    assert worst < 1e-8
    deep = large(dataclasses.replace(SMALL, layers=4, head="linear", classes=3))
    assert grad_check(lambda: deep(TOKENS), params=deep.parameters()) < 1e-8


def test_a_frozen_model_records_nothing():
    model = large()
    for p in model.parameters():
        p.requires_grad = False
    assert not model(TOKENS).requires_grad
    with no_grad():
        assert not large()(TOKENS).requires_grad


# -- dropout --------------------------------------------------------------------------------------


def test_dropout_needs_a_generator_and_is_seeded():
    config = dataclasses.replace(SMALL, dropout=0.2)
    model, plain = large(config), large()
    assert np.array_equal(model(TOKENS).data, plain(TOKENS).data)
    with running(rng=Rng(0)):
        first, second = model(TOKENS).data, model(TOKENS).data
        assert np.array_equal(plain(TOKENS).data, large()(TOKENS).data)
    with running(rng=Rng(0)):
        assert np.array_equal(model(TOKENS).data, first)
    assert not np.array_equal(first, second)
    assert np.array_equal(model(TOKENS).data, plain(TOKENS).data)


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_a_linear_head_is_not_asked_for_places(kind):
    head = {"head": "linear", "classes": 3}
    sizes = {"vocab": 11, "context": 9, "width": 8, "layers": 1, "heads": 2}
    model = {
        "gpt": lambda: GPT(GPTConfig(**sizes, **head)),
        "bert": lambda: BERT(BERTConfig(**sizes, **head)),
    }[kind]()
    assert model(TOKENS).shape == (3, 3)
    with pytest.raises(ValueError, match="at= names positions .* a linear head"):
        model(TOKENS, at=(np.array([0]), np.array([1])))
