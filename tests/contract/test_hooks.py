"""When fit and a forward pass call a method's hooks, in what order and with which numbers."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from minipeft.contract import Method, attach
from minipeft.engine import running
from minipeft.generation.sampling import generate
from minipeft.methods import LoRA
from minipeft.nn import init
from minipeft.training.batches import TaskBatches
from minipeft.training.loop import fit, trainable
from minipeft.training.optim import Schedule
from minipeft.training.resume import Checkpoint
from minipeft.training.step import loss_of
from tests.tiny import Rows, Sounds, gpt, tokenizer

VOCAB = tokenizer().vocab_size
log: list = []


@dataclass(frozen=True)
class Recorder(LoRA):
    """LoRA that writes down its hooks; its penalty is `penalty`, None for none."""

    name: ClassVar[str] = "recorder"

    tag: str = "a"
    penalty: float | None = None

    def compute(self, at):
        log.append((self.tag, "compute"))
        return {}

    def extra_loss(self, at):
        log.append((self.tag, "extra_loss"))
        if self.penalty is None:
            return None
        return sum((p * p).sum() for _, p in at.trainable()) * self.penalty

    def before_step(self, at, step, total):
        log.append((self.tag, "before_step", step, total))

    def after_step(self, at, step, total):
        log.append((self.tag, "after_step", step, total))


def recorded(*methods, model=None, **settings):
    """What the hooks of these methods say in a run, and the model."""
    model = model or gpt()
    for method in methods:
        attach(model, method)
    log.clear()
    settings = {"steps": 3, "lr": 0.1, "batch": 3, "quiet": True} | settings
    fit(model, settings.pop("task", Rows(VOCAB)), **settings)
    return list(log), model


def test_two_methods_are_called_in_the_order_of_attaching():
    """A step of two batches is two passes; the penalty counts once a step, with the first."""
    found, _ = recorded(Recorder(r=2), Recorder(r=2, tag="b"), accumulate=2)
    assert found == [
        entry
        for step in range(3)
        for entry in [
            *[(t, hook) for hook in ("compute", "extra_loss") for t in "ab"],
            *[(t, "compute") for t in "ab"],
            *[(t, hook, step, 3) for hook in ("before_step", "after_step") for t in "ab"],
        ]
    ]


def test_with_threads_each_part_is_a_pass_and_the_penalty_is_asked_for_once():
    found, _ = recorded(Recorder(r=2), Recorder(r=2, tag="b"), threads=3, steps=2)
    counts = Counter(entry[:2] for entry in found)
    wanted = {"compute": 6, "extra_loss": 2, "before_step": 2, "after_step": 2}
    assert counts == {(t, hook): n for t in "ab" for hook, n in wanted.items()}
    steps = [entry for entry in found if len(entry) == 4]
    assert steps == [(t, hook, step, 2) for step in (0, 1)
                     for hook in ("before_step", "after_step") for t in "ab"]  # fmt: skip


class Stop(Exception):
    """The power fails."""


class Failing(Rows):
    def batch(self, step, size, seed):
        if step == 5:
            raise Stop
        return super().batch(step, size, seed)


@pytest.mark.parametrize("hook", ["before_step", "after_step"])
def test_a_resumed_run_goes_on_counting_where_it_stopped(hook, tmp_path):
    settings = {"steps": 7, "checkpoint": Checkpoint(tmp_path / "state.safetensors", 2)}
    methods = [Recorder(r=2), Recorder(r=2, tag="b")]
    with pytest.raises(Stop):
        recorded(*methods, task=Failing(VOCAB), **settings)
    before = [entry[2:] for entry in log if entry[:2] == ("b", hook)]
    found, _ = recorded(*methods, **settings)
    assert before == [(i, 7) for i in range(5)]
    for t in "ab":
        assert [e[2:] for e in found if e[:2] == (t, hook)] == [(5, 7), (6, 7)]


def test_the_norms_of_ten_steps_are_noted_from_where_a_run_begins(tmp_path):
    """Before clipping; a resumed run notes its own first steps."""

    def noted(steps, **settings):
        model = gpt()
        handle = attach(model, Recorder(r=2))
        fit(model, settings.pop("task", Rows(VOCAB)), steps=steps, lr=0.1, batch=3, quiet=True,
            **settings)  # fmt: skip
        return handle.gradients

    assert {len(norms) for norms in noted(12, clip=1e-9).values()} == {10}
    norms = [noted(1, clip=clip) for clip in (None, 1e-9)]
    assert norms[0] == norms[1] and max(n[0] for n in norms[0].values()) > 1e-3
    settings = {"checkpoint": tmp_path / "state.safetensors"}
    with pytest.raises(Stop):
        noted(18, task=Failing(VOCAB), **settings)
    assert {len(norms) for norms in noted(18, **settings).values()} == {10}  # of 13


def test_what_no_gradient_reaches_has_a_norm_of_0():
    handle = attach(gpt(), LoRA(r=2))
    for _ in range(2):
        handle.observe()
    assert handle.gradients == {path: [0.0, 0.0] for path in handle.trained}


def test_what_a_later_method_froze_has_no_gradients_to_note():
    _, model = recorded(Recorder(r=2), LoRA(r=2, targets="fc_in"))
    lower, upper = model.handles
    assert not lower.gradients and {len(norms) for norms in upper.gradients.values()} == {3}
    assert all(row["gradient"] is None for row in lower.report().rows)


def test_before_a_step_there_are_clipped_gradients_and_after_it_the_weights_have_moved():
    """With SGD the step is -rate times what before_step saw."""
    seen = {}

    class Looking(Recorder):
        def before_step(self, at, step, total):
            seen["gradients"] = {path: p.grad.copy() for path, p in at.trainable()}
            seen["before"] = {path: p.data.copy() for path, p in at.trainable()}

        def after_step(self, at, step, total):
            seen["after"] = {path: p.data.copy() for path, p in at.trainable()}

    recorded(Looking(r=2), optimizer="sgd", clip=0.01, schedule=Schedule("constant", 0.0), steps=2)
    norm = np.sqrt(sum((g * g).sum() for g in seen["gradients"].values()))
    assert norm == pytest.approx(0.01, rel=1e-9)
    for path, g in seen["gradients"].items():
        moved = seen["after"][path] - seen["before"][path]
        np.testing.assert_allclose(moved, -0.1 * g, rtol=0, atol=1e-15)


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"threads": 2}], ids=str)
def test_the_penalties_of_all_methods_are_added_once_each(settings):
    """In the loss that is shown and in the gradient; a method without one adds nothing."""

    class Same(Rows):
        def batch(self, step, size, seed):
            return super().batch(0, size, 0)

    model = gpt()
    handles = [attach(model, Recorder(r=2, tag=tag, penalty=penalty))
               for tag, penalty in (("a", 2.0), ("b", None), ("c", 3.0))]  # fmt: skip
    plain = loss_of(model, Same(VOCAB).batch(0, 4, 0))
    plain.backward()
    sizes = [sum((p.data**2).sum() for _, p in h.trainable()) for h in handles]
    start = {path: (p.data.copy(), p.grad) for path, p in trainable(model)}
    for _, p in trainable(model):
        p.grad = None
    history = fit(model, Same(VOCAB), steps=1, lr=0.1, optimizer="sgd", batch=4, clip=None,
                  schedule=Schedule(warmup=0.0), quiet=True, **settings)  # fmt: skip
    assert history.loss[0] == pytest.approx(plain.item() + 2 * sizes[0] + 3 * sizes[2], rel=1e-12)
    for path, p in trainable(model):
        before, g = start[path]
        wanted = before - 0.1 * (g + 2 * 3.0 * before)
        np.testing.assert_allclose(p.data, wanted, rtol=0, atol=1e-13, err_msg=path)


def test_what_ended_or_is_off_is_not_called():
    model = gpt()
    a = attach(model, Recorder(r=2))
    b = attach(model, Recorder(r=2, tag="b"))
    ids = Rows(VOCAB).batch(0, 2, 0).ids
    log.clear()
    with running(off=[a]):
        model(ids)
    assert log == [("b", "compute")]
    b.detach()
    found, _ = recorded(model=model, steps=1)
    assert {entry[0] for entry in found} == {"a"}
    a.merge()
    log.clear()
    model(ids)
    assert not log


def test_every_pass_of_a_generation_is_a_forward_pass_and_no_step():
    model = gpt()
    attach(model, Recorder(r=2, penalty=1.0))
    log.clear()
    generate(model, "the cat", max_tokens=3)
    assert set(log) == {("a", "compute")} and 1 <= len(log) <= 3


passes: Counter = Counter()


@dataclass(frozen=True)
class Scaled(Method):
    """Every fc_in's weight w becomes n factor w + v, in the n-th pass."""

    name: ClassVar[str] = "scaled"
    compose: ClassVar[str] = "parameter"

    factor: float = 1.0

    def select(self, path, parameter, where):
        where.shared("v", lambda: init.zeros((1,), parameter.data))
        return path.endswith("fc_in.weight")

    def compute(self, at):
        passes[self] += 1
        factor, v = self.factor * passes[self], at.shared["v"]
        return {path: w * factor + v for path, w in at.computed.items()}


def test_what_compute_gives_holds_in_the_pass_that_begins():
    model, ids = gpt(), np.array([[3, 4, 5]])
    still = model(ids).data
    attach(model, Scaled())
    passes.clear()
    found = [model(ids).data for _ in range(3)]
    assert np.array_equal(found[0], still)
    plain = gpt()
    for block in plain.blocks:
        block.mlp.fc_in.weight.data = block.mlp.fc_in.weight.data * 3
    np.testing.assert_allclose(found[2], plain(ids).data, rtol=0, atol=1e-12)


def test_the_second_of_two_methods_computes_from_what_the_first_has_computed():
    model, ids = gpt(), np.array([[3, 4, 5]])
    for factor, v in ((2.0, 0.5), (5.0, 0.25)):
        for _, p in attach(model, Scaled(factor)).trainable():
            p.data = p.data + v
    passes.clear()
    plain = gpt()
    for block in plain.blocks:
        block.mlp.fc_in.weight.data = 5 * (2 * block.mlp.fc_in.weight.data + 0.5) + 0.25
    np.testing.assert_allclose(model(ids).data, plain(ids).data, rtol=0, atol=1e-11)


def test_stored_hidden_states_do_not_skip_hooks():
    source = TaskBatches(gpt(), Sounds().load("train"))
    method = Recorder(r=2, targets="re:blocks\\.1\\..*_proj")
    plain, _ = recorded(method, task=source, steps=8, batch=2)
    stored, _ = recorded(method, task=source, steps=8, batch=2, cached=True)
    assert plain == stored and len(plain) == 8 * 4


@dataclass(frozen=True)
class Neighbours(Method):
    """Each query's weight is computed as its own plus the key's, and the key's likewise."""

    name: ClassVar[str] = "neighbours"
    compose: ClassVar[str] = "parameter"

    def select(self, path, parameter, where):
        return path.endswith(("q_proj.weight", "k_proj.weight"))

    def compute(self, at):
        other = {"q_proj": "k_proj", "k_proj": "q_proj"}
        names = {path: path.split(".")[-2] for path in at.computed}
        return {path: p + at.computed[path.replace(names[path], other[names[path]])]
                for path, p in at.computed.items()}  # fmt: skip


def test_parameters_are_computed_from_what_stood_there_before_the_pass():
    """Whichever is computed first, the other sees its frozen value, as merging does."""
    model = gpt()
    frozen = {path: p.data.copy() for path, p in model.named_parameters()}
    attach(model, Neighbours())
    found = loss_of(model, Rows(VOCAB).batch(0, 3, 0)).item()
    plain = gpt()
    for path, p in plain.named_parameters():
        if path.endswith(("q_proj.weight", "k_proj.weight")):
            first = path.replace("k_proj", "q_proj")
            p.data = frozen[first] + frozen[first.replace("q_proj", "k_proj")]
    wanted = loss_of(plain, Rows(VOCAB).batch(0, 3, 0)).item()
    assert found == pytest.approx(wanted, rel=1e-12)
