"""Which dropout a step of fit draws: its own, its accumulated part's, its thread's."""

import threading
from collections import Counter, defaultdict

import numpy as np
import pytest

from minipeft.backend import Rng, dropout_factors
from minipeft.contract import attach
from minipeft.engine import context, running
from minipeft.methods import LoRA, lora
from minipeft.nn import layers
from minipeft.nn.finite import NonFiniteLoss
from minipeft.training.batches import IGNORE, Batch, task_batches
from minipeft.training.loop import fit, trainable
from minipeft.training.optim import Schedule
from minipeft.training.step import Workers, loss_of
from tests.models.plain import spied
from tests.tiny import Rows, Sounds, gpt, tokenizer

VOCAB = tokenizer().vocab_size
AT_ONCE = Schedule(warmup=0.0)
MASKS = 1 + 2 * 3 + 2 * 2  # of a pass: embeddings, three in each block, two adapters in each


class Same(Rows):
    """The same batch for every step, part and seed: what differs, dropout did."""

    def __init__(self):
        super().__init__(VOCAB, length=8)

    def batch(self, step, size, seed):
        return super().batch(0, size, 0)


def dropping(**fields):
    """A model with dropout everywhere and an adapter that has moved."""
    model = gpt(dropout=0.4, **fields)
    handle = attach(model, LoRA(r=2, dropout=0.4))
    for path, p in handle.trainable():
        p.data = p.data + 0.2 * Rng(3, path).normal(p.shape)
    return model


def masks_of(steps, **settings):
    """The masks of a run, as bytes."""
    with spied(layers, lora) as masks:
        fit(dropping(), Same(), steps=steps, lr=0.01, batch=4, quiet=True, **settings)
    return [m.tobytes() for m in masks]


@pytest.mark.parametrize(
    ("settings", "passes"),
    [({}, 1), ({"accumulate": 3}, 3), ({"threads": 2}, 2), ({"accumulate": 2, "threads": 3}, 6)],
    ids=["plain", "accumulated", "threads", "both"],
)
def test_every_step_part_and_thread_draws_masks_of_its_own(settings, passes):
    masks = masks_of(3, **settings)
    assert len(set(masks)) == len(masks) == 3 * passes * MASKS


def test_no_row_of_a_step_meets_another_row_s_mask():
    """Threads with two rows each: eight rows of two parts, each with its own embedding's mask."""
    with spied() as masks:
        fit(dropping(), Same(), steps=1, lr=0.01, batch=4, quiet=True, threads=2, accumulate=2)
    rows = np.concatenate([m for m in masks if m.shape == (2, 8, 16)]).reshape(-1, 128)
    assert len(rows) == 2 * 2 * 2 * 5 and len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"threads": 2}], ids=str)
def test_a_run_draws_the_same_masks_again_and_another_seed_others(settings):
    first, again, other = (Counter(masks_of(2, seed=s, **settings)) for s in (1, 1, 2))
    assert first == again and not first & other


@pytest.mark.parametrize("settings", [{}, {"threads": 2}, {"accumulate": 2}], ids=str)
def test_recomputed_blocks_draw_nothing_new(settings):
    plain, recomputed = (
        Counter(masks_of(2, **settings)),
        Counter(masks_of(2, **settings, recompute=True)),
    )
    assert plain.keys() == recomputed.keys() and set(plain.values()) == {1}
    assert Counter(recomputed.values())[2] == len(plain) * (MASKS - 1) // MASKS


def test_masks_depend_on_the_step_and_part_and_not_on_what_came_before():
    three, model = masks_of(3, accumulate=2), dropping()
    for part in range(2):
        with spied(layers, lora) as masks, running(rng=Rng(0, "dropout", 2, part)):
            loss_of(model, Same().batch(0, 4, 0))
        start = (2 * 2 + part) * MASKS
        assert [m.tobytes() for m in masks] == three[start : start + MASKS]


def test_gradients_of_an_accumulated_part_are_those_of_its_own_masks():
    """By hand: a step with two parts is the mean of two passes under their generators."""
    model, found = dropping(), []
    for part in range(2):
        with running(rng=Rng(5, "dropout", 0, part)):
            loss = loss_of(model, Same().batch(0, 4, 0))
        loss.backward()
        found.append(loss.item())
    wanted = {path: p.grad / 2 for path, p in trainable(model)}
    other = dropping()
    start = {path: p.data.copy() for path, p in trainable(other)}
    history = fit(other, Same(), steps=1, lr=0.5, optimizer="sgd", schedule=AT_ONCE, clip=None,
                  batch=4, seed=5, accumulate=2, quiet=True)  # fmt: skip
    assert history.loss == [pytest.approx(sum(found) / 2, rel=1e-12)] and found[0] != found[1]
    for path, p in trainable(other):
        np.testing.assert_allclose(p.data, start[path] - 0.5 * wanted[path], rtol=0, atol=1e-13)


def test_each_thread_has_its_rows_and_a_stream_of_its_own():
    """Which rows a thread gets and what it draws follow from its number, not from its speed."""
    seen, true = defaultdict(list), dropout_factors
    model, data = dropping(), Rows(VOCAB, 8).batch(0, 5, 0)

    def draw(rng, *args):
        seen[threading.get_ident()].append(rng.path)
        return true(rng, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "dropout_factors", draw)
        with Workers(model, trainable(model), 3, False, False, loss_of) as workers:
            workers.gradients(data, Rng(0, "dropout", 7, 1))
    paths = {path for found in seen.values() for path in found}
    assert paths == {("dropout", 7, 1, "part", i) for i in range(3)}


def test_threads_and_accumulated_parts_give_the_step_of_the_whole():
    """Plain gradient steps, whose length shows a share that was left out."""

    def step(**settings):
        model = gpt()
        attach(model, LoRA(r=2))
        fit(model, Rows(VOCAB), steps=1, lr=0.5, optimizer="sgd", schedule=AT_ONCE, clip=None,
            quiet=True, **settings)  # fmt: skip
        return np.concatenate([p.data.ravel() for _, p in trainable(model)])

    whole = step(batch=8)
    for settings in ({"threads": 2}, {"accumulate": 2}, {"threads": 3, "accumulate": 2}):
        size = 8 // settings.get("accumulate", 1)
        np.testing.assert_allclose(step(batch=size, **settings), whole, rtol=0, atol=1e-13)


def test_a_loss_that_is_not_finite_is_looked_for_with_the_masks_of_its_step():
    model = dropping()
    model.ln_f.weight.data = model.ln_f.weight.data * np.nan
    with spied(layers, lora) as masks, pytest.raises(NonFiniteLoss):
        fit(model, Same(), steps=2, lr=0.1, batch=4, quiet=True)
    first, second = masks[:MASKS], masks[MASKS:]
    assert [m.tobytes() for m in first] == [m.tobytes() for m in second]


@pytest.mark.parametrize("kept", [slice(0, 2), slice(2, 4), slice(3, 5), slice(7, 8)], ids=str)
def test_parts_in_which_no_label_counts_are_left_out(kept):
    """Threads, and batches of a step, that get rows with nothing to learn."""
    data = Rows(VOCAB).batch(0, 8, 0)
    labels = np.full_like(data.labels, IGNORE)
    labels[kept] = data.labels[kept]

    class Source:
        def batch(self, step, size, seed):
            rows = slice(step * size, (step + 1) * size)
            return Batch(data.ids[rows], labels[rows], data.mask[rows])

    def step(**settings):
        model = gpt()
        attach(model, LoRA(r=2))
        loss = fit(model, Source(), steps=1, lr=0.5, optimizer="sgd", schedule=AT_ONCE, clip=None,
                   quiet=True, **settings).loss  # fmt: skip
        return np.concatenate([loss, *(p.data.ravel() for _, p in trainable(model))])

    whole = step(batch=8)
    for settings in ({"batch": 8, "threads": 4}, {"batch": 2, "accumulate": 4},
                     {"batch": 4, "threads": 3, "accumulate": 2}):  # fmt: skip
        np.testing.assert_allclose(step(**settings), whole, rtol=1e-12, atol=1e-13)


# -- what reaches the loss -------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"threads": 2}, {"accumulate": 2}, {"recompute": True}])
@pytest.mark.parametrize("task", ["rows", "targets"])
def test_smoothing_reaches_the_loss_and_its_gradient(task, settings):
    """Every batch is the same, so a step's loss is the batch's whatever it is cut into."""
    data = (Rows(VOCAB) if task == "rows" else task_batches(gpt(), Sounds(), "train", 4, 0)).batch(
        0, 4, 0
    )

    class Source:
        def batch(self, step, size, seed):
            return data

    def step(smoothing):
        model = gpt()
        attach(model, LoRA(r=2))
        loss = fit(model, Source(), steps=1, lr=0.5, optimizer="sgd", schedule=AT_ONCE, clip=None,
                   batch=4, quiet=True, smoothing=smoothing, **settings).loss[0]  # fmt: skip
        return loss, np.concatenate([p.data.ravel() for _, p in trainable(model)])

    logits = gpt()(data.ids).data[data.labels != IGNORE]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = logp[np.arange(len(logp)), data.labels[data.labels != IGNORE]]
    (_, start), (half, middle), (most, end) = step(0.0), step(0.25), step(0.5)
    assert half == pytest.approx(-0.75 * picked.mean() - 0.25 * logp.mean(), rel=1e-12)
    assert most == pytest.approx(-0.5 * picked.mean() - 0.5 * logp.mean(), rel=1e-12)
    assert np.abs(middle - start).max() > 1e-4  # and the gradient is linear in the smoothing
    np.testing.assert_allclose(end - middle, middle - start, rtol=1e-6, atol=1e-12)


def test_a_step_leaves_nothing_in_the_context():
    model, ctx = dropping(), context()
    fit(model, Same(), steps=2, lr=0.01, batch=4, quiet=True, recompute=True)
    assert ctx.rng is ctx.rows is ctx.hidden is ctx.values is ctx.around is None
    assert ctx.off == () and not ctx.recompute and not ctx.inside and ctx.recording
    still = model(Same().batch(0, 2, 0).ids).data
    assert np.array_equal(model(Same().batch(0, 2, 0).ids).data, still)
