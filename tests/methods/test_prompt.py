"""Prompt tuning: where virtual tokens stand, what they start from, and rows in every layer."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import no_grad, ops, running
from minipeft.methods import Prompt
from minipeft.models import GPT
from tests.methods.contract import CASES, CONFIG, randomize, run, same
from tests.tiny import bert, gpt, tokenizer

VOCAB = tokenizer().vocab_size
IDS = Rng(0).integers(2, VOCAB, (2, 5))
V = list(range(VOCAB, VOCAB + 9))  # ids of virtual tokens
CAT, HEN = (tokenizer().encode(word)[0] for word in (" cat", " hen"))


def moved(model, method, seed=7):
    handle = attach(model, method)
    randomize(handle, seed)
    return handle


def put(model, ids, mask=None):
    """What the start makes of ids and mask."""
    with no_grad():
        ids, mask, past = model.start(np.array(ids), None if mask is None else np.array(mask) > 0)
    assert past is None
    return ids.tolist(), None if mask is None else mask.astype(int).tolist()


# -- what a model reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [gpt, bert])
def test_the_model_reads_the_rows_and_then_the_text(kind):
    model, plain = kind(), kind()
    P = moved(model, Prompt(n=3)).wrappers["emb.tok"].P
    E = plain.emb.tok.weight
    x = ops.concatenate([ops.broadcast_to(P.data[None], shape=(2, 3, 16)), E[IDS]], axis=1)
    x = x + plain.emb.pos.weight[np.arange(8)]
    if kind is bert:
        x = plain.emb.ln(x + plain.emb.seg.weight[0])
    for block in plain.blocks:
        x = block(x)
    y = plain.head(plain.mlm(x) if kind is bert else plain.ln_f(x)).data
    assert np.abs(run(model, IDS) - y[:, 3:]).max() < 1e-12 * np.abs(y).max()
    assert np.abs(run(model, IDS, keep_virtual=True) - y).max() < 1e-12 * np.abs(y).max()


def test_a_text_as_a_prompt_is_the_text_before_the_text():
    """Repeated or cut to n tokens."""
    words = "the cat meows."
    for n in (2, 4, 9):
        tokens, model = (tokenizer().encode(words) * 9)[:n], gpt()
        whole = run(model, np.concatenate([np.tile(tokens, (2, 1)), IDS], axis=1))[:, n:]
        attach(model, Prompt(n=n, text=words))
        assert np.abs(run(model, IDS) - whole).max() < 1e-12 * np.abs(whole).max()


def test_in_every_layer_rows_stand_for_what_the_block_before_gave():
    model, plain = gpt(), gpt()
    handle = moved(model, Prompt(3, "{1}... cat{2}", deep=True))
    ids = np.array([[5, CAT, 7, 8]])
    with_ids = np.array([[V[0], 5, CAT, V[1], V[2], 7, 8]])
    rows = [w.P.data for path, w in handle.wrappers.items() if path != "start"]
    assert [path for path, _ in handle.trainable()] == ["emb.tok.P", "blocks.1.P"]
    x = plain.emb(np.minimum(with_ids, VOCAB - 1), np.arange(7)[None]).data
    x[0, [0, 3, 4]] = rows[0] + plain.emb.pos.weight.data[[0, 3, 4]]
    x = plain.blocks[0](x).data.copy()
    x[0, [0, 3, 4]] = rows[1]
    y = plain.head(plain.ln_f(plain.blocks[1](x))).data[:, [1, 4, 5, 6]]
    assert np.abs(run(model, ids) - y).max() < 1e-12 * np.abs(y).max()


@pytest.mark.parametrize("method", [Prompt(n=2), Prompt(n=2, deep=True)], ids=str)
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


# -- where they stand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "template", "wanted"),
    [
        (2, "{}", [V[0], V[1], 5, CAT, 7, HEN, CAT, 8]),
        (3, "{}... hen{2}", [V[0], 5, CAT, 7, HEN, V[1], V[2], CAT, 8]),
        (3, "{1}...{2} hen{}", [V[0], 5, CAT, 7, V[1], V[2], HEN, CAT, 8]),
        (3, "... cat{}", [5, CAT, 7, HEN, CAT, V[0], V[1], V[2], 8]),  # the last one
        (4, "{1}...{1} hen{1}...{1} cat", [V[0], 5, CAT, 7, V[1], HEN, V[2], V[3], CAT, 8]),
        (2, "{1}... hen cat{1}", [V[0], 5, CAT, 7, HEN, CAT, V[1], 8]),
        (1, " hen{}", [5, CAT, 7, HEN, V[0], CAT, 8]),
    ],
)
def test_a_template_says_where_virtual_tokens_stand(n, template, wanted):
    model = gpt()
    attach(model, Prompt(n, template))
    assert put(model, [[5, CAT, 7, HEN, CAT, 8]]) == ([wanted], None)


def test_padding_stays_where_it_is():
    model = gpt()
    attach(model, Prompt(3, "{}... hen{1}"))
    pad = 1
    ids = [[pad, pad, HEN, 9], [HEN, pad, pad, pad], [HEN, 7, 8, HEN]]
    mask = [[0, 0, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    found, seen = put(model, ids, mask)
    assert found == [
        [pad, pad, V[0], V[1], HEN, V[2], 9],
        [V[0], V[1], HEN, V[2], pad, pad, pad],
        [V[0], V[1], HEN, V[2], 7, 8, HEN],  # the last one is hidden
    ]
    assert seen == [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]]


def test_words_that_are_not_in_a_text_are_an_error():
    model = gpt()
    attach(model, Prompt(2, "{1}... hen{1}"))
    model(np.array([[HEN]]))
    with pytest.raises(ValueError, match="row 1 of the batch does not have ' hen'"):
        model(np.array([[HEN, 5], [5, 6]]))
    with pytest.raises(ValueError, match="row 0 of the batch does not have ' hen'"):
        model(np.array([[5]]))
    other = gpt()
    attach(other, Prompt(2, "{1}... hen cat{1}"))
    with pytest.raises(ValueError, match="row 0 of the batch does not have ' hen cat'"):
        other(np.array([[HEN]]))
    with pytest.raises(ValueError, match="to find ' hen' in a text, the model needs a tokenizer"):
        attach(CASES["prompt"].model(), Prompt(2, "{1}... hen{1}"))


@pytest.mark.parametrize(
    ("n", "template"),
    [(3, "{2}"), (1, "{2}"), (2, "{}...{} hen"), (2, ""), (2, "{}..."), (2, "{a}"),
     (2, "{1}{1}x{1}"), (2, "{} hen}"), (2, "...{2}")],
)  # fmt: skip
def test_a_template_that_cannot_be_is_refused(n, template):
    with pytest.raises(ValueError, match="Prompt: template"):
        Prompt(n, template)


def test_two_prompts_have_ids_of_their_own():
    """The later one comes first."""
    model = gpt()
    moved(model, Prompt(n=2))
    with pytest.warns(UserWarning, match="goes on top of"):
        moved(model, Prompt(n=1, seed=1))
    assert put(model, [[5, 6]]) == ([[V[2], V[0], V[1], 5, 6]], None)
    assert run(model, IDS).shape == (2, 5, VOCAB)


# -- the start ------------------------------------------------------------------------------------


def rows(model, **settings):
    return attach(model, Prompt(**settings)).wrappers["emb.tok"].P.data


def test_the_uniform_start_is_two_sided():
    P = rows(gpt(), n=20)
    assert -0.5 <= P.min() < -0.45 and 0.45 < P.max() <= 0.5 and abs(P.mean()) < 0.05


def test_a_start_from_the_vocabulary_draws_none_twice():
    model = gpt()
    E = model.emb.tok.weight.data
    P = rows(model, n=20, init="vocab")
    found = [int(np.abs(E - row).sum(1).argmin()) for row in P]
    assert same(P, E[found]) and len(set(found)) == 20
    assert not same(P, rows(gpt(), n=20, init="vocab", seed=1))
    tiny = CASES["prompt"].model()  # 11 tokens
    P = rows(tiny, n=30, init="vocab")
    assert len({row.tobytes() for row in P[:11]}) == 11 and same(P[11:22], P[:11])


def test_only_frequent_tokens_are_drawn(monkeypatch):
    monkeypatch.setattr("minipeft.methods.prompt.FREQUENT", 5)
    model = gpt()
    E = model.emb.tok.weight.data
    P = rows(model, n=5, init="vocab")
    assert sorted(int(np.abs(E - row).sum(1).argmin()) for row in P) == [0, 1, 2, 3, 4]


def test_a_label_starts_from_the_mean_of_its_tokens():
    model = gpt()
    E = model.emb.tok.weight.data
    P = rows(model, n=4, labels=(" cat", "the hen"))
    assert same(P[0], E[CAT])
    tokens = tokenizer().encode("the hen")
    assert len(tokens) > 1 and np.abs(P[1] - E[tokens].mean(0)).max() < 1e-15
    assert all((np.abs(E - row).sum(1) == 0).any() for row in P[2:])  # from the vocabulary
    assert same(rows(gpt(), n=1, labels=(" cat", "the hen")), P[:1])


def test_words_need_a_tokenizer_and_one_way():
    with pytest.raises(ValueError, match="not from both, and needs a model with a tokenizer"):
        attach(CASES["prompt"].model(), Prompt(n=2, text="the cat"))
    with pytest.raises(ValueError, match="from labels or from a text, not from both"):
        attach(gpt(), Prompt(n=2, text="the cat", labels=("a",)))
    shape = GPT(CONFIG, init="shape")
    assert attach(shape, Prompt(n=2, text="the cat", template="{1}... cat{1}")).count() == 2 * 8
