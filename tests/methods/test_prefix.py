"""Prefix tuning: what a prefix is, how it starts, on which layers, and what a file keeps of it."""

import dataclasses

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.contract.watching import outputs
from minipeft.engine import fused, no_grad, running
from minipeft.methods import LoRA, Prefix, load_adapter
from minipeft.models import GPT, GPTConfig
from minipeft.storage.checkpoint import CheckpointError, load_arrays
from minipeft.training.batches import Batch
from tests.methods.contract import CASES, randomize, run, same
from tests.tiny import bert, gpt, tokenizer

WORDS = "the cat meows. a cat"
IDS = Rng(0).integers(2, tokenizer().vocab_size, (2, 5))


def moved(model, method, seed=7):
    handle = attach(model, method)
    randomize(handle, seed)
    return handle


def pairs(P, layers, width=16):
    """(keys, values) of each layer, each (1, n, width): P's rows go layer after layer."""
    flat = [P[None, :, i * width : (i + 1) * width] for i in range(2 * layers)]
    return list(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.parametrize("kind", [gpt, bert])
def test_a_prefix_is_its_keys_and_values_as_a_past(kind):
    model, plain = kind(), kind()
    P = moved(model, Prefix(n=3)).wrappers["start"].P.data
    assert same(run(model, IDS), run(plain, IDS, past=pairs(P, 2)))
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]) > 0
    found = run(model, IDS, mask=mask)
    assert np.abs(found[:1, 2:] - run(model, IDS[:1, 2:])).max() < 1e-12 * np.abs(found).max()


def test_a_prefix_is_gated_attention():
    """Attn(q, [Pk; K], [Pv; V]) = (1 - g) Attn(q, K, V) + g Attn(q, Pk, Pv), g the prefix's share
    of the softmax (He et al. 2021, eq. 4)."""
    rng = Rng(0)
    q, k, v = (rng.normal((2, 5, 6)) for _ in range(3))
    pk, pv = (np.broadcast_to(rng.normal((1, 3, 6)), (2, 3, 6)) for _ in range(2))

    def attend(k, v):
        return fused.attention(q, k, v, heads=1, causal=False).data

    def mass(k):
        return np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(6)).sum(-1, keepdims=True)

    g = mass(pk) / (mass(pk) + mass(k))
    whole = attend(np.concatenate([pk, k], axis=1), np.concatenate([pv, v], axis=1))
    assert np.abs(whole - (1 - g) * attend(k, v) - g * attend(pk, pv)).max() < 1e-14
    zero = attend(np.concatenate([0 * pk, k], axis=1), np.concatenate([0 * pv, v], axis=1))
    share = 3 / (3 + mass(k))  # a prefix of zeros is not nothing
    assert np.abs(zero - (1 - share) * attend(k, v)).max() < 1e-14


# -- the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 11])
def test_words_as_a_prefix_are_the_words_before_the_text(n):
    """Repeated or cut to n tokens; a decoder then reads on as if they stood there."""
    model = gpt()
    tokens = (tokenizer().encode(WORDS) * 9)[:n]
    whole = run(model, np.concatenate([np.tile(tokens, (2, 1)), IDS], axis=1))[:, n:]
    attach(model, Prefix(n=n, words=WORDS))
    assert np.abs(run(model, IDS) - whole).max() < 1e-12 * np.abs(whole).max()


def test_words_start_an_encoder_s_prefix_with_their_keys_and_values():
    model = bert(head="linear", classes=3)
    n = len(tokenizer().encode(WORDS))
    ids = np.array([tokenizer().encode(WORDS)])
    batch = Batch(ids, ids, ids >= 0)
    ((_, seen),) = outputs(model, [batch], ("k_proj", "v_proj"))
    wanted = np.concatenate([y[0] for y in seen.values()], axis=1)
    P = attach(model, Prefix(n=n, words=WORDS)).wrappers["start"].P.data
    assert P.shape == (n, 4 * 16) and np.abs(P - wanted).max() < 1e-12
    one = attach(bert(head="linear", classes=3), Prefix(n=n, words=WORDS, layers=(1,)))
    assert same(one.wrappers["start"].P.data, P[:, 2 * 16 :])


def test_words_are_read_by_what_is_attached_already():
    model = gpt()
    moved(model, LoRA(r=2, targets="k_proj"))
    with pytest.warns(UserWarning, match="goes on top of"):
        own = attach(model, Prefix(n=4, words=WORDS))
    assert not same(own.wrappers["start"].P.data,
                    attach(gpt(), Prefix(n=4, words=WORDS)).wrappers["start"].P.data)  # fmt: skip


def test_the_network_gives_the_words_at_the_start():
    """Exactly where it is as wide as the prefix is long, and else as near as it can."""
    wanted = attach(gpt(), Prefix(n=4, words=WORDS)).wrappers["start"].P.data
    away = []
    for width in (2, 4, 9):
        handle = attach(gpt(), Prefix(n=4, mlp=width, words=WORDS))
        with no_grad():
            made = handle.method.compute(handle)["start.P"].data
        away.append(np.abs(made - wanted).max())
    assert away[0] > 0.1 and max(away[1:]) < 1e-9


def test_the_random_start_has_the_spread_that_was_asked_for():
    P = attach(gpt(), Prefix(n=20, std=0.02)).wrappers["start"].P.data
    assert 0.018 < P.std() < 0.022
    assert attach(gpt(), Prefix(std=0.0)).wrappers["start"].P.data.any() == 0


def test_a_prefix_that_cannot_be_is_refused():
    for layers in ((2,), (-1,), ()):
        with pytest.raises(ValueError, match="layers must be some of 0 to 1"):
            attach(gpt(), Prefix(layers=layers))
    model = CASES["prefix"].model()  # no tokenizer
    with pytest.raises(ValueError, match="words need a model that reads text, with a tokenizer"):
        attach(model, Prefix(n=2, words=WORDS))
    assert Prefix.from_fields({"layers": "0,1"}) == Prefix(layers=(0, 1))
    with pytest.raises(ValueError, match="layers must be"):
        Prefix.from_fields({"layers": "first"})


def test_words_are_counted_on_shapes_alone():
    config = GPTConfig(vocab=61, context=24, width=24, layers=3, heads=3)
    model = GPT(config, init="shape")
    model.tokenizer = tokenizer()
    assert attach(model, Prefix(n=4, words=WORDS)).count() == 4 * 2 * 3 * 24


# -- on some layers -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]) > 0])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_other_layers_go_without(layer, mask):
    model, plain = gpt(), gpt()
    P = moved(model, Prefix(n=3, layers=(layer,))).wrappers["start"].P.data
    prefix, full = pairs(P, 1)[0], None
    positions = np.arange(3, 8)[None] + np.zeros((2, 1), int)
    if mask is not None:
        positions[0] -= 2
        full = np.concatenate([np.ones((2, 3), bool), mask], axis=1)
    x = plain.emb(IDS, np.maximum(positions, 0))
    for i, block in enumerate(plain.blocks):
        chosen = i == layer
        x = block(x, past=prefix if chosen else None, mask=full if chosen else mask)
    wanted = plain.head(plain.ln_f(x)).data
    found = run(model, IDS, mask=mask)
    seen = np.ones((2, 5), bool) if mask is None else mask
    assert np.abs(found - wanted)[seen].max() < 1e-12 * np.abs(wanted).max()


def test_all_layers_by_name_are_all_layers():
    model, other = gpt(), gpt()
    a, b = moved(model, Prefix(n=2)), moved(other, Prefix(n=2, layers=(1, 0)))
    assert same(run(model, IDS), run(other, IDS)) and a.count() == b.count()


def test_two_prefixes_stand_behind_one_another():
    model, plain = gpt(), gpt()
    first = moved(model, Prefix(n=2)).wrappers["start"].P.data
    with pytest.warns(UserWarning, match="goes on top of"):
        second = moved(model, Prefix(n=3), seed=8).wrappers["start"].P.data
    both = np.concatenate([first, second])
    assert same(run(model, IDS), run(plain, IDS, past=pairs(both, 2)))
    with pytest.warns(UserWarning, match="goes on top of"):
        attach(model, Prefix(n=1, layers=(0,)))
    with pytest.raises(ValueError, match="a prefix on some layers stands behind no other"):
        model(IDS)


# -- the network is dropped -----------------------------------------------------------------------


def test_a_file_has_the_prefix_alone_and_a_handle_with_a_network_takes_it(tmp_path):
    model = gpt()
    handle = moved(model, Prefix(n=3, mlp=8))
    y = run(model, IDS)
    handle.save(tmp_path / "a")
    arrays, _ = load_arrays(tmp_path / "a")
    assert {name: a.shape for name, a in arrays.items()} == {"start.P": (3, 2 * 2 * 16)}
    assert handle.method.mlp == 8 and same(run(model, IDS), y)  # which goes on training
    other = gpt()
    taken = attach(other, Prefix(n=3, mlp=8, seed=1))
    taken.load(tmp_path / "a")
    assert taken.method == Prefix(n=3) and taken.count() == 3 * 2 * 2 * 16
    assert same(run(other, IDS), y)
    with pytest.raises(CheckpointError, match="other settings: n is 4 here, 3 there"):
        attach(gpt(), Prefix(n=4, mlp=8)).load(tmp_path / "a")
    assert not same(run(other, IDS), run(gpt(), IDS))
    taken.detach()
    assert same(run(other, IDS), run(gpt(), IDS))


def test_what_was_trained_over_a_network_is_loaded_over_its_prefix(tmp_path):
    model = gpt()
    under = moved(model, Prefix(n=2, mlp=4))
    under.save(tmp_path / "under")
    with pytest.warns(UserWarning, match="goes on top of"):
        moved(model, LoRA(r=2)).save(tmp_path / "over")
    y, fresh = run(model, IDS), gpt()
    load_adapter(fresh, tmp_path / "under")
    load_adapter(fresh, tmp_path / "over")
    assert same(run(fresh, IDS), y)


@pytest.mark.parametrize("method", [Prefix(n=2, layers=(1,)), Prefix(n=2, mlp=4)], ids=str)
def test_recomputing_gives_the_same_gradients(method):
    model = gpt()
    handle, found = moved(model, method), []
    for settings in ({}, {"recompute": True}):
        with running(**settings):
            model(IDS).sum().backward()
        found.append({path: p.grad for path, p in handle.trainable()})
        for _, p in handle.trainable():
            p.grad = None
    for path, g in found[0].items():
        assert np.abs(g).max() > 0 and np.abs(found[1][path] - g).max() < 1e-12 * np.abs(g).max()


def test_a_cache_of_the_prefix_goes_on_without_the_method():
    model, plain = gpt(), gpt()
    moved(model, Prefix(n=3))
    whole = run(model, IDS)
    with no_grad():
        _, past = model(IDS[:, :2], return_past=True)
        rest = plain(IDS[:, 2:], past=past).data
    assert np.abs(rest - whole[:, 2:]).max() < 1e-12 * np.abs(whole).max()
    assert dataclasses.replace(Prefix(), mlp=3).settled() == Prefix()
