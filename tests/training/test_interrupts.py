"""A run that is stopped: no gradient stays, no whole step is lost, and no half one is saved."""

import io
import signal
import threading
from contextlib import redirect_stdout

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.engine import ops
from minipeft.methods import LoRA
from minipeft.nn.finite import NonFinite, NonFiniteLoss
from minipeft.storage.checkpoint import load_arrays
from minipeft.training import loop as train
from minipeft.training import resume
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit
from minipeft.training.optim import AdamW
from minipeft.training.resume import Checkpoint, unbroken
from minipeft.training.step import loss_of
from tests.short_runs import VOCAB, lora, run, same, values
from tests.tiny import Rows, gpt


def gradients(model):
    """Paths of what holds a gradient."""
    return [path for path, p in model.named_parameters() if p.grad is not None]


def leave_gradients(model):
    """What a user's own loss.backward() leaves, at frozen Parameters too."""
    loss_of(model, Rows(VOCAB).batch(9, 3, 9)).backward()
    for p in model.parameters():
        p.grad = np.ones_like(p.data) if p.grad is None else p.grad


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"threads": 2}])
def test_gradients_left_by_others_do_not_count(settings):
    whole, wanted = run(**settings)
    model, _ = lora()
    leave_gradients(model)
    seen = []
    history, got = run(model=model, watch=lambda done: seen.append(gradients(model)), **settings)
    assert history.loss == whole.loss and same(got, wanted)
    assert seen == [[]] * 5 and not gradients(model)


def test_gradients_of_another_model_do_not_count():
    def pair():
        """Two models with one table of tokens, which trains in both."""
        one, other = gpt(0), gpt(1)
        other.emb.tok.weight = one.emb.tok.weight
        return one, other

    one, other = pair()
    wanted = run(model=other)[1]
    one, other = pair()
    with pytest.raises(KeyboardInterrupt):
        run(model=one, accumulate=2, task=Stopping(at=3))
    for p in other.parameters():
        assert p.grad is None
    for model in pair():
        leave_gradients(model)
    one, other = pair()
    leave_gradients(one)
    assert same(run(model=other)[1], wanted)


def test_gradients_that_an_evaluation_leaves_do_not_count():
    def evaluation(model):
        leave_gradients(model)
        return {"x": 1.0}

    whole, wanted = run(evaluation=Evaluation(lambda m: {"x": 1.0}, every=1))
    history, got = run(evaluation=Evaluation(evaluation, every=1), watch=lambda step: None)
    assert history.loss == whole.loss and same(got, wanted)


class Stopping(Rows):
    """Batches, until the user has waited long enough."""

    def __init__(self, at, error=KeyboardInterrupt):
        super().__init__(VOCAB)
        self.at, self.error = at, error

    def batch(self, step, size, seed):
        if step == self.at:
            raise self.error
        return super().batch(step, size, seed)


class Hooks(LoRA):
    """LoRA with hooks that a test sets."""

    def extra_loss(self, at):
        return ops.sum(at.trained["blocks.0.attn.q_proj.B"] * 0.0)


PLACES = {  # where Ctrl-C arrives: an object and its function
    "the second batch's forward pass": (train.Workers, "_work", 4),
    "clipping": (train, "clip_gradients", 2),
    "a hook before the step": (Hooks, "before_step", 2),
    "the optimizer": (AdamW, "_update", 7),
    "a hook after the step": (Hooks, "after_step", 2),
    "the save": (resume, "save_arrays", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_gradient_stays_wherever_a_run_is_stopped(place, monkeypatch, tmp_path):
    owner, name, when = PLACES[place]
    usual, calls = getattr(owner, name), []

    def stopped(*args, **kwargs):
        calls.append(name)
        if len(calls) == when:
            raise KeyboardInterrupt
        return usual(*args, **kwargs)

    monkeypatch.setattr(owner, name, stopped)
    model = gpt()
    attach(model, Hooks(r=2))
    with pytest.raises(KeyboardInterrupt):
        run(5, model, accumulate=2, checkpoint=Checkpoint(tmp_path / "state", every=2))
    assert len(calls) >= when and not gradients(model)


def test_a_loss_that_is_not_finite_leaves_no_gradient():
    model, _ = lora()

    class Later(Rows):
        def batch(self, step, size, seed):
            if step == 3:
                model.ln_f.weight.data = model.ln_f.weight.data * np.nan
            return super().batch(step, size, seed)

    with pytest.raises(NonFiniteLoss, match="at step 1"):
        run(4, model, Later(VOCAB), accumulate=2)
    assert not gradients(model)


# -- the state ------------------------------------------------------------------------------------


def start():
    return lora(dropout=0.1)[0]


TRAINED = len(values(start()))  # Parameters


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_was_done_is_saved_when_a_run_is_stopped(error, optimizer, tmp_path):
    file, settings = tmp_path / "state", {"optimizer": optimizer}
    whole, wanted = run(7, start(), **settings)
    settings["checkpoint"] = file
    with pytest.raises(error) as raised:
        run(7, start(), Stopping(5, error), **settings)
    wanted_note = f"5 steps are in {file}: the same call, or command, goes on from there"
    assert raised.value.__notes__ == [wanted_note]
    assert load_arrays(file)[1]["steps"] == "5"
    history, got = run(7, start(), **settings)
    assert history.loss == whole.loss and same(got, wanted)


def interrupt_in(monkeypatch, owner, name, when):
    """Send this process a SIGINT in the how-manieth call of a function, which then goes on."""
    usual, calls = getattr(owner, name), []

    def here(*args, **kwargs):
        calls.append(name)
        if len(calls) in when:
            signal.raise_signal(signal.SIGINT)
        return usual(*args, **kwargs)

    monkeypatch.setattr(owner, name, here)


@pytest.mark.parametrize(
    ("owner", "name", "when", "steps"),
    [
        (train, "loss_of", 1, 0),
        (train, "loss_of", 4, 3),  # in the forward pass: the step has changed nothing yet
        (train, "clip_gradients", 4, 4),  # later: it is done first
        (AdamW, "_update", 3 * TRAINED + 2, 4),
    ],
)
def test_ctrl_c_in_the_middle_of_a_step_saves_a_whole_one(
    owner, name, when, steps, monkeypatch, tmp_path
):
    file, before = tmp_path / "state", signal.getsignal(signal.SIGINT)
    whole, wanted = run(7, start())
    with monkeypatch.context() as patch:
        interrupt_in(patch, owner, name, [when])
        with pytest.raises(KeyboardInterrupt):
            run(7, start(), checkpoint=file)
    assert signal.getsignal(signal.SIGINT) is before
    if steps:
        assert load_arrays(file)[1]["steps"] == str(steps)
    else:
        assert not file.exists()
    history, got = run(7, start(), checkpoint=file)
    assert history.loss == whole.loss and same(got, wanted)
    assert len(history.loss) == len(history.lr) == len(history.seconds) == 7


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_step_that_failed_in_the_middle_is_not_saved(error, monkeypatch, tmp_path):
    file = tmp_path / "state"
    whole, wanted = run(7, start())
    update, calls = AdamW._update, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3 * TRAINED + 2:
            raise error
        update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "_update", failing)
        with pytest.raises(error):
            run(7, start(), checkpoint=Checkpoint(file, every=2))
    assert load_arrays(file)[1]["steps"] == "2"
    history, got = run(7, start(), checkpoint=file)
    assert history.loss == whole.loss and same(got, wanted)


@pytest.mark.parametrize("stopped", [True, False])
def test_ctrl_c_while_the_state_is_written_leaves_a_whole_file(stopped, monkeypatch, tmp_path):
    """The second one, after a first that stopped the run; or one while a due state is saved."""
    from safetensors import numpy as format

    file = tmp_path / "state"
    whole, wanted = run(7, start())
    task, every = (Stopping(5), 500) if stopped else (None, 5)
    with monkeypatch.context() as patch:
        interrupt_in(patch, format, "save_file", [1])
        with pytest.raises(KeyboardInterrupt) as raised:
            run(7, start(), task, checkpoint=Checkpoint(file, every))
    assert raised.value.__notes__[0].startswith("5 steps are in")
    assert load_arrays(file)[1]["steps"] == "5"
    assert [f.name for f in tmp_path.iterdir()] == ["state"]
    history, got = run(7, start(), checkpoint=file)
    assert history.loss == whole.loss and same(got, wanted)


def test_an_evaluation_that_was_stopped_is_made_later(tmp_path):
    def judged(stop=0):
        """Settings with an evaluation that is stopped the how-manieth time, and its scores."""
        found = []

        def evaluation(model):
            found.append(float(sum(np.abs(w).sum() for w in values(model).values())))
            if len(found) == stop:
                raise KeyboardInterrupt
            return {"loss": found[-1]}

        return {"evaluation": Evaluation(evaluation, every=2, keep="loss")}, found

    whole, wanted = run(6, start(), **judged()[0])
    for stop in (1, 2, 3):
        file, watched = tmp_path / f"state{stop}", []
        with pytest.raises(KeyboardInterrupt):
            run(6, start(), checkpoint=file, **judged(stop)[0])
        settings, found = judged()
        history, got = run(6, start(), checkpoint=file, watch=watched.append, **settings)
        assert history.evaluations == whole.evaluations and len(history.evaluations) == 3
        assert same(got, wanted) and watched == list(range(2 * stop, 7)) and len(found) == 4 - stop
        run(6, start(), checkpoint=file, **settings)
        assert len(found) == 4 - stop  # the last one was saved too


def test_the_best_weights_are_put_back_when_a_run_is_stopped(tmp_path):
    seen = []

    def evaluation(model):
        seen.append(values(model))
        return {"loss": abs(len(seen) - 2)}  # best at the second step

    settings = {"evaluation": Evaluation(evaluation, every=1, keep="loss")}
    whole, wanted = run(7, start(), **settings)
    for file in (None, tmp_path / "state"):
        del seen[:]
        model = start()
        with pytest.raises(KeyboardInterrupt):
            run(7, model, Stopping(4), checkpoint=file, **settings)
        assert len(seen) == 4 and same(values(model), seen[1])
    history, got = run(7, start(), checkpoint=file, **settings)  # it goes on from the last ones
    assert history.loss == whole.loss and same(got, wanted)
    assert history.evaluations == whole.evaluations and len(seen) == 7


def test_a_state_that_is_not_finite_replaces_no_good_one(tmp_path):
    file = tmp_path / "state"
    model = start()

    def spoil(step):
        if step == 3:
            p = dict(model.named_parameters())["blocks.0.attn.q_proj.A"]
            p.data = p.data * np.inf

    with pytest.raises(NonFiniteLoss) as raised:
        run(6, model, watch=spoil, checkpoint=Checkpoint(file, every=2))
    assert raised.value.__notes__[0].startswith("2 steps are in")
    assert load_arrays(file)[1]["steps"] == "2"
    model = start()
    with pytest.raises(NonFinite, match="after step 3 the state holds NaN or infinity in w:blocks"):
        run(6, model, watch=spoil, checkpoint=Checkpoint(tmp_path / "other", every=1))
    assert load_arrays(tmp_path / "other")[1]["steps"] == "2"


def test_a_disk_that_is_full_does_not_hide_why_a_run_was_stopped(monkeypatch, tmp_path):
    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(resume, "save_arrays", full)
    with pytest.raises(KeyboardInterrupt) as raised:
        run(7, start(), Stopping(5), checkpoint=tmp_path / "state")
    assert raised.value.__notes__ == ["The state was not saved: no space left on device"]


def test_a_run_in_a_thread_saves_too(tmp_path):
    caught = []

    def work():
        try:
            run(7, start(), Stopping(5, ValueError), checkpoint=tmp_path / "state")
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught and load_arrays(tmp_path / "state")[1]["steps"] == "5"


def test_a_line_that_changes_is_left_as_it_stands(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(train.Progress.update.__globals__["time"], "monotonic", lambda: next(clock))
    out = Terminal()
    with pytest.raises(KeyboardInterrupt), redirect_stdout(out):
        fit(start(), Stopping(3), steps=7, lr=0.02)
    text = out.getvalue()
    assert "training  3/7" in text and text.endswith("\n") and text.count("\n") == 1


def test_ctrl_c_waits_for_the_end_of_a_block_and_does_what_it_always_does():
    done = []
    with pytest.raises(KeyboardInterrupt), unbroken():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("block")
    assert done == ["block"]
    before = signal.signal(signal.SIGINT, lambda *_: done.append("mine"))
    try:
        with unbroken():
            signal.raise_signal(signal.SIGINT)
            done.append("block")
        assert done == ["block", "block", "mine"]
        with unbroken():
            pass
        signal.raise_signal(signal.SIGINT)
        assert done[3:] == ["mine"]
    finally:
        signal.signal(signal.SIGINT, before)


# -- where the state goes -------------------------------------------------------------------------


def test_a_state_that_cannot_be_written_is_told_before_the_first_step(tmp_path, monkeypatch):
    steps = []
    for file, message in (
        (tmp_path / "none" / "state", "the folder .*none does not exist"),
        (tmp_path, "it is a folder; name a file in it"),
    ):
        with pytest.raises(OSError, match=f"cannot write {file}: {message}"):
            run(3, start(), checkpoint=file, watch=steps.append)

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "touch", forbidden)
    with pytest.raises(PermissionError, match="Permission denied in the folder"):
        run(3, start(), checkpoint=tmp_path / "state", watch=steps.append)
    assert not steps
