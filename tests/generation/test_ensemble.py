"""Adapters that answer together: each as if alone, their mean, their votes, what is refused."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import running
from minipeft.generation.ensemble import ensemble
from minipeft.generation.scoring import score_many
from minipeft.methods import LoRA, Prompt, PTuning
from tests.tiny import SOUNDS, bert, gpt, llama

LONG = (" meows", " barks the cow", " sleeps.")  # of unlike lengths in tokens
ASKED = [("the cat", SOUNDS), ("the dog barks. a dog", LONG), ("a hen", SOUNDS[:2]), ("the", LONG)]


def several(model, by=0.3):
    """Prompts of unlike lengths, an encoder's and a LoRA, all moved."""
    methods = [Prompt(n=1, seed=1), Prompt(n=5, seed=2), Prompt(n=3, seed=3), PTuning(n=2, h=3)]
    handles = [attach(model, m) for m in [*methods, LoRA(r=2)]]
    for i, handle in enumerate(handles):
        for path, p in handle.trainable():
            p.data = p.data + by * Rng(i, path).normal(p.shape)
    return handles


def alone(model, handle, handles, **settings):
    """The scores of one of the handles, or of the base, while the others are off."""
    with running(off=[h for h in handles if h is not handle]):
        return score_many(model, ASKED, **settings)


def softmax(scores):
    p = np.exp(np.array(scores) - max(scores))
    return p / p.sum()


def assert_near(found, wanted):
    assert [len(f) for f in found] == [len(w) for w in wanted]
    for f, w in zip(found, wanted, strict=True):
        np.testing.assert_allclose(f, w, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "kind", [gpt, llama, lambda: bert(head="mlm")], ids=["gpt", "llama", "mlm"]
)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("batch", [3, 64])
def test_each_question_is_answered_by_its_adapter_alone(kind, normalize, batch):
    model = kind()
    handles = several(model)
    chosen = [handles[1], None, handles[4], handles[0]]
    found = score_many(model, ASKED, normalize, batch, adapters=chosen)
    single = [alone(model, by, handles, normalize=normalize) for by in chosen]
    assert_near(found, [single[i][i] for i in range(4)])
    assert abs(single[0][0][0] - single[1][0][0]) > 1e-3


@pytest.mark.parametrize(
    "kind", [gpt, llama, lambda: bert(head="mlm")], ids=["gpt", "llama", "mlm"]
)
@pytest.mark.parametrize("batch", [3, 64])
def test_an_ensemble_is_the_mean_of_its_members(kind, batch):
    model = kind()
    handles = several(model)
    single = [alone(model, h, handles) for h in handles]
    wanted = [np.mean([softmax(s[q]) for s in single], axis=0) for q in range(4)]
    found = ensemble(model, handles, ASKED, batch=batch)
    assert_near(found, wanted)
    assert all(sum(shares) == pytest.approx(1) for shares in found)
    assert_near(ensemble(model, handles[1:2], ASKED), [softmax(s) for s in single[1]])


def test_per_token_where_asked():
    model = gpt()
    handles = several(model)
    single = [alone(model, h, handles, normalize=True) for h in handles]
    wanted = [np.mean([softmax(s[q]) for s in single], axis=0) for q in range(4)]
    assert_near(ensemble(model, handles, ASKED, normalize=True), wanted)


def test_votes_are_counted():
    model = gpt()
    handles = several(model, by=3.0)
    single = [alone(model, h, handles) for h in handles]
    votes = [np.bincount([int(np.argmax(s[q])) for s in single], minlength=len(ASKED[q][1])) / 5
             for q in range(4)]  # fmt: skip
    assert_near(ensemble(model, handles, ASKED, by="vote"), votes)
    assert any(0 < share < 1 for question in votes for share in question)  # they do not all agree


def test_who_is_not_asked_does_not_act():
    model = gpt()
    handles = several(model)
    before = ensemble(model, handles[:2], ASKED)
    handles[2].wrappers["emb.tok"].P.data *= 7
    assert ensemble(model, handles[:2], ASKED) == before


def test_without_adapters_named_an_outer_choice_by_row_is_kept():
    model = gpt()
    handles = several(model)
    with running(rows=[handles[1]] * 2):
        found = score_many(model, [("the cat", SOUNDS[:2]), ("the dog", SOUNDS[:2])])
    wanted = [alone(model, handles[1], handles)[0][:2]]
    assert_near(found[:1], wanted)


def test_room_is_what_the_longest_member_needs():
    model = gpt(context=12)
    short, long = (attach(model, Prompt(n=n)) for n in (2, 11))
    asked = [("the cat", SOUNDS[:2])]
    tokens = len(model.tokenizer.encode("the cat"))
    room = 12 - tokens
    assert 2 < room < 11
    ensemble(model, [short], asked)
    with pytest.raises(ValueError, match=f"{tokens} tokens; with .* more it does not fit"):
        ensemble(model, [short, long], asked)


def test_what_is_refused():
    model = gpt()
    one = attach(model, Prompt(n=2))
    with pytest.raises(ValueError, match="by is one of mean, vote, got 'median'"):
        ensemble(model, [one], ASKED, by="median")
    with pytest.raises(ValueError, match="one attached adapter at least"):
        ensemble(model, [], ASKED)
    with pytest.raises(ValueError, match="adapters must have one entry for each of 4, got 1"):
        score_many(model, ASKED, adapters=[one])
    other = attach(gpt(seed=1), Prompt(n=2))
    with pytest.raises(ValueError, match="not attached to this model"):
        ensemble(model, [other], ASKED)
    one.detach()


def test_no_question_no_answer():
    model = gpt()
    assert ensemble(model, [attach(model, Prompt(n=2))], []) == []
