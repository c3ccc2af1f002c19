"""T-Few's losses against their closed forms, and batches with all options of their examples."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng, to_numpy
from minipeft.contract import attach
from minipeft.engine import no_grad
from minipeft.generation.scoring import score
from minipeft.methods import IA3
from minipeft.nn import Module, Parameter
from minipeft.storage.checkpoint import CheckpointError
from minipeft.tasks.base import Example
from minipeft.training.batches import IGNORE, Batch
from minipeft.training.evaluation import evaluate
from minipeft.training.loop import fit, trainable
from minipeft.training.resume import Checkpoint
from minipeft.training.tfew import OptionBatches, TFew
from tests import fakecupy
from tests.tiny import bert, gpt, llama

OPTIONS = (" moos", " barks. a cow sleeps", " hoots. the owl")
EXAMPLES = [
    Example(prompt, options[k], options, k)
    for prompt, options, k in (
        ("the cow", OPTIONS, 0),
        ("the dog", OPTIONS[:2], 1),
        ("a small owl", OPTIONS, 2),
        ("an owl", OPTIONS[::-1], 0),
        ("a cow", (OPTIONS[1], OPTIONS[0]), 1),
    )
]


class Asks:
    """A task of given examples."""

    name, kind, metric, also = "asks", "classification", "accuracy", ()

    def __init__(self, examples):
        self.examples = examples

    def load(self, split, n=None, seed=0, pattern=0):
        return self.examples[:n]


TASK = Asks(EXAMPLES)
MODELS = {"gpt": gpt, "bert": bert, "llama": llama}
L_LM, L_UL, L_LN = TFew(0, 0), TFew(1, 0), TFew(0, 1)


def all_of(model):
    source = OptionBatches(model, TASK)
    return source.collate(range(len(source)))


def value(loss, model, batch):
    with no_grad():
        return loss(model, batch).item()


# --- what a batch holds ------------------------------------------------------------------------


def test_a_batch_holds_every_option_where_its_tokens_are_predicted():
    model = gpt()
    batch, encode = all_of(model), model.tokenizer.encode
    texts, answers, seen = (batch.more[name] for name in ("texts", "answers", "real"))
    assert texts.shape == answers.shape == seen.shape and texts.shape[:2] == (5, 3)
    assert batch.labels.tolist() == [0, 1, 2, 0, 1] and batch.rows.tolist() == [0, 1, 2, 3, 4]
    for i, example in enumerate(EXAMPLES):
        head = encode(example.prompt)
        for k in range(3):
            said = encode(example.options[k]) if k < len(example.options) else []
            ids = [*head, *said[:-1]] if said else []
            assert texts[i, k][seen[i, k]].tolist() == ids
            at = np.flatnonzero(answers[i, k] != IGNORE)
            assert answers[i, k][at].tolist() == said
            assert at.tolist() == list(range(len(head) - 1, len(head) - 1 + len(said)))
        assert (batch.ids[i] == texts[i, example.label]).all()
        assert (batch.mask[i] == seen[i, example.label]).all()


def test_batches_are_drawn_as_those_of_a_task():
    source = OptionBatches(gpt(), TASK)
    rows = np.concatenate([source.batch(step, 2, 7).rows for step in range(5)])
    assert len(source) == 5 and sorted(rows[:5]) == sorted(rows[5:]) == [0, 1, 2, 3, 4]
    assert rows.tolist() != np.concatenate([source.batch(s, 2, 8).rows for s in range(5)]).tolist()


# --- the losses, from the scores of the options ------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_losses_follow_from_the_scores_of_the_options(kind):
    """L_LM and L_LN from log-probabilities per token, which `score` gives."""
    model = MODELS[kind]()
    beta = [score(model, e.prompt, e.options, normalize=True) for e in EXAMPLES]
    right = [b[e.label] for b, e in zip(beta, EXAMPLES, strict=True)]
    chosen = [r - math.log(sum(map(math.exp, b))) for r, b in zip(right, beta, strict=True)]
    batch = all_of(model)
    lm = value(L_LM, model, batch)
    assert lm == pytest.approx(-np.mean(right), rel=1e-10)
    assert value(L_LN, model, batch) - lm == pytest.approx(-np.mean(chosen), rel=1e-10)
    unlikely = value(L_UL, model, batch) - lm
    mixed = value(TFew(unlikelihood=0.3, normalized=2.0), model, batch)
    assert mixed == pytest.approx(lm + 0.3 * unlikely - 2 * np.mean(chosen), rel=1e-10)
    assert value(TFew(), model, batch) == pytest.approx(lm + unlikely - np.mean(chosen), rel=1e-10)


# --- on logits that are given ------------------------------------------------------------------


class Table(Module):
    """A model whose logits are its parameters.  z (rows, T, V)"""

    causal = True

    def __init__(self, z):
        self.z = Parameter(z)

    def forward(self, ids, mask=None, at=None):
        assert len(ids) == len(self.z.data)
        return self.z[at]


def given(scale=1.0, dtype=np.float64):
    """Two examples: of options with 1, 3 and 2 tokens, the second right; with 2 and 1, the first;
    and the probabilities of their tokens, option by option."""
    lengths, labels, V = [[1, 3, 2], [2, 1, 0]], np.array([1, 0]), 6
    rng = Rng(4)
    answers = np.full((2, 3, 5), IGNORE)
    for i, k in np.ndindex(2, 3):
        n = lengths[i][k]
        answers[i, k, 1 : 1 + n] = rng.integers(0, V, n)
    z = (scale * rng.normal((5, 5, V))).astype(dtype)
    texts = np.zeros((2, 3, 5), int)
    more = {"texts": texts, "answers": answers, "real": texts == 0}
    batch = Batch(texts[[0, 1], labels], labels, texts[:, 0] == 0, more=more)
    p = np.exp(z.astype(float)) / np.exp(z.astype(float)).sum(-1, keepdims=True)
    flat = answers.reshape(6, 5)[:5]
    tokens = [[(t, flat[o, t]) for t in range(5) if flat[o, t] != IGNORE] for o in range(5)]
    return Table(z), batch, p, tokens


SHARES = {  # of each of the five options: its example's right one, or a wrong one, and 1 / tokens
    # that the mean is over; of each example, as the paper has it, or of both together
    False: {"right": {1: 1 / 3, 3: 1 / 2}, "wrong": {0: 1 / 3, 2: 1 / 3, 4: 1 / 1}, "B": 2},
    True: {"right": {1: 1 / 5, 3: 1 / 5}, "wrong": {0: 1 / 4, 2: 1 / 4, 4: 1 / 4}, "B": 1},
}


@pytest.mark.parametrize("compat", [False, True])
def test_losses_and_gradients_have_their_closed_forms(compat):
    """dz of -log p: p - 1 at the token; of -log(1 - p): p at the token, -p p_v / (1 - p) elsewhere.

    compat puts 1 - p + 0.01 there, and counts -log 1.01 for the 2 * 3 * 3 - 4 other places.
    """
    model, batch, p, tokens = given()
    share, more = SHARES[compat], 0.01 if compat else 0.0
    lm, d_lm, ul, d_ul = 0.0, np.zeros_like(p), 0.0, np.zeros_like(p)
    for o, w in share["right"].items():
        for t, y in tokens[o]:
            lm -= w / share["B"] * math.log(p[o, t, y])
            d_lm[o, t] += w / share["B"] * (p[o, t] - np.eye(6)[y])
    for o, w in share["wrong"].items():
        for t, y in tokens[o]:
            rest = 1 - p[o, t, y] + more
            ul -= w / share["B"] * math.log(rest)
            d_ul[o, t] += w / share["B"] * p[o, t, y] / rest * (np.eye(6)[y] - p[o, t])
    if compat:
        ul -= (2 * 3 * 3 - 4) * math.log(1.01) / 4
    beta = [np.mean([math.log(p[o, t, y]) for t, y in tokens[o]]) for o in range(5)]
    ln, d_ln = 0.0, np.zeros_like(p)
    for options, right in (([0, 1, 2], 1), ([3, 4], 3)):
        total = sum(math.exp(beta[o]) for o in options)
        ln -= (beta[right] - math.log(total)) / 2
        for o in options:
            d_beta = (math.exp(beta[o]) / total - (o == right)) / 2
            for t, y in tokens[o]:
                d_ln[o, t] += d_beta * (np.eye(6)[y] - p[o, t]) / len(tokens[o])
    for loss, wanted, grad in (
        (TFew(0, 0, compat), lm, d_lm),
        (TFew(1, 0, compat), lm + ul, d_lm + d_ul),
        (TFew(0, 1, compat), lm + ln, d_lm + d_ln),
        (TFew(0.5, 2, compat), lm + 0.5 * ul + 2 * ln, d_lm + 0.5 * d_ul + 2 * d_ln),
    ):
        model.z.grad = None
        got = loss(model, batch)
        got.backward()
        assert got.item() == pytest.approx(wanted, rel=1e-12)
        np.testing.assert_allclose(model.z.grad, grad, rtol=1e-10, atol=1e-13)


def test_a_wrong_option_that_is_all_but_sure_has_a_loss_in_float32():
    """1 - p is 0 there, and log(1 - p) still is what the other tokens leave."""
    model, batch, p, tokens = given()
    z = np.zeros_like(model.z.data)
    for o in (0, 2, 4):
        for t, y in tokens[o]:
            z[o, t, y] = 40.0
    model.z.data = z.astype(np.float32)
    got = L_UL(model, batch)
    lm = value(L_LM, model, batch)
    assert got.dtype == np.float32
    assert got.item() - lm == pytest.approx(40 - math.log(5), rel=1e-5)
    got.backward()
    assert np.isfinite(model.z.grad).all()
    assert model.z.grad[4, 1, tokens[4][0][1]] == pytest.approx(0.5, rel=1e-5)


# --- in training and evaluation ----------------------------------------------------------------


def parts_of(monkeypatch, **settings):
    """The loss of a step on five examples, and its gradients."""
    model, found = gpt(), {}
    attach(model, IA3())
    whole = all_of(model)

    class Source:
        def batch(self, step, size, seed):
            if "accumulate" not in settings:
                return whole
            return whole.part(slice(0, 2) if step == 0 else slice(2, 5))

    def seen(params, norm):
        found.update({path: p.grad.copy() for path, p in params})

    monkeypatch.setattr("minipeft.training.loop.clip_gradients", seen)
    done = fit(model, Source(), steps=1, lr=0.1, batch=5, loss=TFew(), quiet=True, **settings)
    return done.loss[0], found


@pytest.mark.parametrize("settings", [{"threads": 2}, {"threads": 3}, {"accumulate": 2}], ids=str)
def test_parts_of_a_step_add_up_to_it(monkeypatch, settings):
    loss, alone = parts_of(monkeypatch)
    other, parts = parts_of(monkeypatch, **settings)
    assert other == pytest.approx(loss, rel=1e-12)
    assert max(abs(g).max() for g in alone.values()) > 1e-3
    for path, g in alone.items():
        np.testing.assert_allclose(parts[path], g, rtol=1e-9, atol=1e-13, err_msg=path)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("loss", [TFew(), TFew(compat=True)], ids=repr)
def test_a_device_gives_the_loss_and_gradients_of_the_host(kind, loss):
    found = []
    for place in ("cpu", "cuda"):
        with fakecupy.device():
            model = MODELS[kind]()
            model.to(place)
            handle = attach(model, IA3())
            got = loss(model, all_of(model))
            got.backward()
            found.append([got.item(), *(to_numpy(p.grad) for _, p in handle.trainable())])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", MODELS)
def test_what_trains_by_it_ranks_the_right_option_first(kind):
    model = MODELS[kind]()
    attach(model, IA3())
    before = evaluate(model, TASK, "train", normalize=True)["accuracy"]
    history = fit(model, OptionBatches(model, TASK), steps=60, lr=0.1, batch=5, loss=TFew(),
                  quiet=True)  # fmt: skip
    assert history.loss[-1] < 0.65 * history.loss[0]
    assert before < 100 and evaluate(model, TASK, "train", normalize=True)["accuracy"] == 100


def test_ranking_by_token_is_that_of_the_scores_by_token():
    model = gpt()
    got, picked = [], []
    for normalize in (False, True):
        got.append(evaluate(model, TASK, "train", normalize=normalize)["accuracy"])
        scores = [score(model, e.prompt, e.options, normalize) for e in EXAMPLES]
        picked.append([int(np.argmax(s)) for s in scores])
        right = np.mean([k == e.label for k, e in zip(picked[-1], EXAMPLES, strict=True)])
        assert got[-1] == pytest.approx(100 * right)
    assert picked[0] != picked[1] and got[0] == evaluate(model, TASK, "train")["accuracy"]
    shortest = [min(range(len(e.options)), key=lambda k, e=e: len(e.options[k])) for e in EXAMPLES]
    assert picked[0] == shortest  # a sum over fewer tokens is larger


def test_a_state_knows_the_weights_of_the_loss(tmp_path):
    model = gpt()
    attach(model, IA3())
    source, file = OptionBatches(model, TASK), Checkpoint(tmp_path / "state")
    settings = {"steps": 2, "lr": 0.1, "batch": 3, "checkpoint": file, "quiet": True}
    fit(model, source, loss=TFew(), **settings)
    with pytest.raises(CheckpointError, match=r"loss: 'TFew\(unlikelihood=1.0, normalized=1.0, "):
        fit(model, source, loss=TFew(normalized=0.5), **settings)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([*EXAMPLES, Example("the hen", " clucks")], "example 5, 'the hen' …: T-Few's"),
        ([Example("the hen", " moos", (" moos",), 0)], "there are none to choose from"),
        (
            [Example("the hen", " a", (" a", " a cow" * 30), 0)],
            "example 0 has .* the context holds",
        ),
        ([Example("the hen", " moos", OPTIONS, 1)], "label 1 stands for the option"),
    ],
)
def test_examples_without_a_choice_are_refused(examples, message):
    with pytest.raises(ValueError, match=message):
        OptionBatches(gpt(), Asks(examples))


def test_a_linear_head_and_a_batch_without_options_are_refused():
    with pytest.raises(ValueError, match="needs a model that says words, this one has a linear"):
        OptionBatches(gpt(head="linear", classes=3), TASK)
    model = gpt()
    attach(model, IA3())
    with pytest.raises(ValueError, match="TFew needs all options of each example: train on Option"):
        fit(model, TASK, steps=1, lr=0.1, batch=2, loss=TFew(), quiet=True)
    with pytest.raises(ValueError, match="TFew: unlikelihood must be a finite number >= 0, got -1"):
        TFew(unlikelihood=-1)
    assert not any(p.grad is not None for _, p in trainable(model))
