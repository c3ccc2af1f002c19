"""A loss of one's own takes the place of the cross-entropy, and sees all options of an example."""

import re

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import Tensor, fused, ops
from minipeft.nn.finite import NonFiniteLoss
from minipeft.storage.checkpoint import CheckpointError, load_arrays
from minipeft.training.batches import Batch
from minipeft.training.loop import fit
from minipeft.training.resume import Checkpoint
from minipeft.training.step import loss_of
from tests.short_runs import VOCAB, lora, run, same
from tests.tiny import Rows


class Choices:
    """Examples with all their options: which of three letters to say follows from the prompt."""

    letters = np.array([2, 3, 4])

    def batch(self, step, size, seed):
        rng = Rng(seed, "choices", step)
        right = rng.integers(0, 3, size)
        prompts = rng.integers(5, VOCAB, (size, 4))
        prompts[:, 1] = 10 + right
        ends = np.broadcast_to(self.letters[:, None], (size, 3, 1))
        texts = np.concatenate([np.repeat(prompts[:, None], 3, axis=1), ends], axis=2)
        return Batch(prompts, right, np.ones(prompts.shape, bool), more={"texts": texts})


def choose(model, batch):
    """-log of the right option's share in the probabilities of all: one label an example."""
    texts = batch.more["texts"]
    B, K, T = texts.shape
    flat = texts.reshape(B * K, T)
    logs = fused.log_softmax(model(flat[:, :-1])[:, -1])  # (B K, V)
    scores = logs[np.arange(B * K), flat[:, -1]].reshape(B, K)
    return fused.cross_entropy(scores, batch.labels)


def right(model):
    """The share of new examples whose right option is the likeliest."""
    batch = Choices().batch(0, 100, 99)
    logits = model(batch.ids).data[:, -1][:, Choices.letters]
    return (logits.argmax(axis=1) == batch.labels).mean()


def test_a_loss_that_sees_all_options_trains():
    model, _ = lora()
    before = right(model)
    history = fit(model, Choices(), steps=60, lr=0.05, batch=16, loss=choose, quiet=True)
    assert before < 0.6 and right(model) > 0.9
    assert history.loss[0] > 0.5 and np.mean(history.loss[-10:]) < 0.3


@pytest.mark.parametrize("settings", [{"threads": 2}, {"threads": 3}, {"accumulate": 2}])
def test_threads_and_accumulated_batches_weigh_by_labels(settings):
    """Of seven rows a part has more than another, and its options with it."""

    class Whole(Choices):
        def batch(self, step, size, seed):
            whole = super().batch(0, 7, seed)
            if "accumulate" not in settings:
                return whole
            return whole.part(slice(0, 5) if step % 2 == 0 else slice(5, 7))

    def gradients(**settings):
        model, found = lora()[0], {}
        source = Whole() if settings else Choices()

        def seen(params, norm):
            found.update({path: p.grad.copy() for path, p in params})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("minipeft.training.loop.clip_gradients", seen)
            history = fit(model, source, steps=1, lr=0.1, batch=7, loss=choose, quiet=True,
                          **settings)  # fmt: skip
        return history.loss[0], found

    loss, alone = gradients()
    other, parts = gradients(**settings)
    assert other == pytest.approx(loss, rel=1e-12) and alone.keys() == parts.keys()
    assert max(abs(g).max() for g in alone.values()) > 1e-3
    for path, g in alone.items():
        np.testing.assert_allclose(parts[path], g, rtol=1e-9, atol=1e-13, err_msg=path)


def test_the_cross_entropy_as_a_loss_gives_the_same_bits():
    whole, wanted = run(threads=2)
    history, got = run(threads=2, loss=lambda model, batch: loss_of(model, batch))
    assert history.loss == whole.loss and same(got, wanted)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"loss": "cross-entropy"}, ValueError, "loss= must be a function of the model and a bat"),
        ({"loss": choose, "smoothing": 0.1}, ValueError, "smoothing= is for the cross-entropy"),
        ({"loss": choose, "cached": True}, ValueError, "cached=True holds hidden states for the"),
        ({"loss": lambda m, b: 1.0}, TypeError, "must return a Tensor of one number, got 1.0"),
        ({"loss": lambda m, b: m(b.ids)}, TypeError, "must return a Tensor of one number, got"),
        ({"loss": lambda m, b: Tensor(1.0)}, RuntimeError, "depends on no trainable leaf"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        run(**settings)


def test_where_a_loss_of_ones_own_goes_bad_is_told():
    with pytest.raises(NonFiniteLoss, match="not finite at step 0 .*log"):
        run(loss=lambda model, batch: ops.mean(ops.log(0.0 * model(batch.ids))))


def test_a_state_belongs_to_its_loss_and_its_options(tmp_path):
    file = tmp_path / "state"

    def stop(done):
        if done == 3:
            raise KeyboardInterrupt

    settings = {"steps": 5, "task": Choices(), "checkpoint": Checkpoint(file, 2)}
    whole, wanted = run(**settings | {"checkpoint": None}, loss=choose)
    with pytest.raises(KeyboardInterrupt):
        run(**settings, loss=choose, watch=stop)
    with pytest.raises(CheckpointError, match="loss: 'choose' there, None here"):
        run(**settings)

    class Other(Choices):
        letters = Choices.letters[::-1]

    with pytest.raises(CheckpointError, match="belongs to another run .*data: "):
        run(**settings | {"task": Other()}, loss=choose)
    history, got = run(**settings, loss=choose)
    assert history.loss == whole.loss and same(got, wanted)
    run(2, checkpoint=tmp_path / "plain")
    assert "loss" not in load_arrays(tmp_path / "plain")[1]["settings"]
    with pytest.raises(CheckpointError, match="loss: None there, '.*<lambda>' here"):
        run(2, checkpoint=tmp_path / "plain", loss=lambda m, b: loss_of(m, b))


def test_the_parts_of_a_batch_hold_all_it_has():
    whole = Choices().batch(0, 5, 0)
    part = whole.part(slice(1, 3))
    assert (part.ids == whole.ids[1:3]).all() and (part.labels == whole.labels[1:3]).all()
    assert (part.more["texts"] == whole.more["texts"][1:3]).all() and part.rows is None
    assert Rows(VOCAB).batch(0, 3, 0).part(slice(0, 2)).more is None
