"""A short training does what its parts do, one after the other."""

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.course.experiments.trials import score_after, trial
from minipeft.methods import LoRA
from minipeft.training.batches import task_batches
from minipeft.training.evaluation import evaluate
from minipeft.training.loop import fit
from tests.tiny import Sounds, gpt

TASK = Sounds()


class Drawn(Sounds):
    """Notes the seeds that its splits are drawn with."""

    def __init__(self):
        self.seeds = []

    def load(self, split, n=None, seed=0, pattern=0):
        self.seeds.append((split, seed))
        return super().load(split, n, seed, pattern)


@pytest.fixture
def model():
    return gpt(dtype=np.float32, spread=0.1)


@pytest.mark.parametrize("draw", [None, 0])
def test_a_score_is_that_of_attach_fit_and_evaluate(model, draw):
    found = score_after(model, LoRA(r=2, seed=3), TASK, 3, "test", 20, n=12, draw=draw, steps=6,
                        lr=1e-2)  # fmt: skip
    assert not model.handles
    source = task_batches(model, TASK, "train", 12, 0, 3 if draw is None else draw)
    with attach(model, LoRA(r=2, seed=3)) as at:
        history = fit(model, source, steps=6, lr=1e-2, seed=3, quiet=True)
        score = evaluate(model, TASK, "test", n=20)
        assert found == {
            "accuracy": score["accuracy"], "loss": score["loss"],
            "train_loss": np.mean(history.loss), "trainable": at.count(),
        }  # fmt: skip


def test_the_method_is_attached_until_the_end(model):
    with trial(model, LoRA(r=2), TASK, seed=1, n=4) as it:
        before = it.score("validation", 10)
        assert model.handles == [it.at] and len(it.source) == 4
        assert len(it.fit(steps=2, lr=1e-2).loss) == 2
        assert it.score("validation", 10)["loss"] != before["loss"]
    assert not model.handles
    with pytest.raises(RuntimeError, match="stop"), trial(model, LoRA(r=2), TASK, seed=1):
        raise RuntimeError("stop")
    assert not model.handles


def test_the_seed_draws_the_examples_unless_told():
    for draw, seeds in ((None, [("train", 5)]), (0, [("train", 0)])):
        task = Drawn()
        with trial(gpt(dtype=np.float32), LoRA(r=2), task, seed=5, draw=draw):
            assert task.seeds == seeds
