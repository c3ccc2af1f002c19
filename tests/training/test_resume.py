"""A training state that is not what it should be is refused by name, and changes nothing."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.methods import AdaLoRA, LoRA, QLoRA
from minipeft.storage.checkpoint import CheckpointError, load_arrays, save_arrays
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit
from tests.fuzz import in_time
from tests.tiny import Rows, gpt, tokenizer

KEYS = {"format", "version", "settings", "machine", "steps", "history"}
DEEP = "[" * 100_000 + "]" * 100_000


def started(*methods):
    """A model with methods attached, all of which train."""
    model = gpt()
    handles = [attach(model, method) for method in methods or (AdaLoRA(r=2),)]
    for handle in handles:
        for _, p in handle.trainable():
            p.requires_grad = True
    return model, handles


def run(model, file, steps=3, task=None, **settings):
    evaluation = {"evaluation": Evaluation(lambda m: {"loss": 1.0}, every=1, keep="loss")}
    task = task or Rows(tokenizer().vocab_size)
    return fit(model, task, steps=steps, lr=0.02, batch=2, quiet=True, checkpoint=file,
               **evaluation | settings)  # fmt: skip


def held(handles):
    """All that a run would change."""
    arrays = {f"{i}:{k}": p.data.tobytes() for i, h in enumerate(handles) for k, p in h.trainable()}
    for i, h in enumerate(handles):
        arrays |= {f"{i}::{k}": a.tobytes() for k, a in h.method.state(h).items()}
    return arrays


@pytest.fixture
def file(tmp_path):
    """The state of a run that ended."""
    run(started()[0], tmp_path / "whole.safetensors")
    return tmp_path / "whole.safetensors"


def rewritten(file, change):
    arrays, facts = load_arrays(file)
    change(arrays, facts)
    bad = file.with_name("bad.safetensors")
    save_arrays(bad, arrays, facts)
    return bad


def assert_refused(bad, message, **settings):
    model, handles = started()
    before = held(handles)
    with in_time(10), pytest.raises(CheckpointError, match=message) as caught:
        run(model, bad, **settings)
    assert str(bad) in str(caught.value) and len(str(caught.value)) < 2000
    assert held(handles) == before


def test_the_whole_file_goes_on(file):
    assert set(load_arrays(file)[1]) == KEYS
    model, handles = started()
    before = held(handles)
    history = run(model, file)
    assert len(history.loss) == 3 and held(handles) != before


def test_what_the_file_holds_is_not_written_again(file):
    left = file.with_name(f".{file.name}.0123abcd.tmp")  # by a writer that was killed
    left.write_text("half")
    before = file.stat().st_ino, file.read_bytes()
    run(started()[0], file)
    assert (file.stat().st_ino, file.read_bytes()) == before and not left.exists()


def test_a_run_that_is_stopped_before_its_next_step_tells_what_the_file_holds(file):
    class Stopping(Rows):
        def batch(self, step, size, seed):
            if step == 3:
                raise KeyboardInterrupt
            return super().batch(step, size, seed)

    bad = rewritten(file, lambda arrays, facts: facts.update(
        settings=json.dumps(json.loads(facts["settings"]) | {"steps": 4})))  # fmt: skip
    with pytest.raises(KeyboardInterrupt) as raised:
        run(started()[0], bad, steps=4, task=Stopping(tokenizer().vocab_size))
    assert raised.value.__notes__[0].startswith(f"3 steps are in {bad}")


@pytest.mark.parametrize("key", sorted(KEYS - {"version"}))
def test_a_state_that_lacks_a_key_is_refused(key, file):
    message = {"steps": "steps and its machine", "machine": "steps and its machine"}.get(key, key)
    assert_refused(rewritten(file, lambda arrays, facts: facts.pop(key)), message)


FACTS = {
    "settings nested": ({"settings": DEEP}, "settings is nested too deeply"),
    "settings cut": ({"settings": DEEP[:100_000]}, "settings is"),
    "settings no object": ({"settings": "[]"}, "settings must be an object"),
    "settings of others": ({"settings": json.dumps({"steps": "x" * 10_000})}, "another run"),
    "history nested": ({"history": '{"loss":' + DEEP + "}"}, "history is nested too deeply"),
    "history short": ({"history": '{"loss": [], "lr": [], "seconds": [], "evaluations": []}'},
                      "must hold the history of 3 steps"),
    "history of text": ({"history": '{"loss": ["a", "b", "c"], "lr": [], "seconds": [], '
                                    '"evaluations": []}'}, "must hold the history of 3 steps"),
    "evaluations": ({"history": '{"loss": [1, 1, 1], "lr": [1, 1, 1], "seconds": [1, 1, 1], '
                                '"evaluations": [{"step": 1}]}'}, "evaluations without 'loss'"),
    "evaluations of numbers": ({"history": '{"loss": [1, 1, 1], "lr": [], "seconds": [], '
                                           '"evaluations": ["x"]}'}, "must hold the history"),
    "evaluations are numbers": ({"history": '{"loss": [1, 1, 1], "lr": [], "seconds": [], '
                                            '"evaluations": [1]}'}, "evaluations without 'loss'"),
    "steps": ({"steps": "-1"}, "steps and its machine"),
    "steps of digits": ({"steps": "³"}, "steps and its machine"),
    "many steps": ({"steps": "9" * 5000}, "steps and its machine"),
    "version": ({"version": "7"}, "format version '7', this minipeft reads 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", FACTS)
def test_lying_facts_are_refused(case, file):
    change, message = FACTS[case]
    assert_refused(rewritten(file, lambda arrays, facts: facts.update(change)), message)


@pytest.mark.parametrize("lead", ["w:", "m:", "v:", "best:", "state:0:"])
def test_a_wrong_array_anywhere_changes_nothing(lead, file):
    names = [name for name in load_arrays(file)[0] if name.startswith(lead)]
    assert names
    for name in (names[0], names[-1]):
        for change in (lambda a: a[..., None], lambda a: a.astype(np.int32)):

            def edit(arrays, facts, name=name, change=change):
                arrays[name] = np.ascontiguousarray(change(arrays[name]))

            assert_refused(rewritten(file, edit), f"state of other parameters: {name}")
        assert_refused(rewritten(file, lambda a, f, n=name: a.pop(n)), name)
    assert_refused(rewritten(file, lambda a, f: a.update({f"{lead}new": np.ones(2)})), "new")


@dataclass(frozen=True)
class Moody(LoRA):
    """Refuses a state of which its number is 0."""

    name: ClassVar[str] = "moody"

    def state(self, at):
        return {"count": np.array([getattr(at, "count_", 1.0)])}

    def load_state(self, at, state):
        if state["count"][0] == 0:
            raise CheckpointError("moody.safetensors: a count of 0")
        at.count_ = float(state["count"][0])


def test_a_state_that_the_second_method_refuses_changes_not_the_first(tmp_path):
    methods = AdaLoRA(r=2), Moody(r=2, targets="fc_in")
    run(started(*methods)[0], tmp_path / "moody.safetensors")

    def edit(arrays, facts):
        arrays["state:1:count"][0] = 0

    bad = rewritten(tmp_path / "moody.safetensors", edit)
    model, handles = started(*methods)
    before = held(handles)
    with pytest.raises(CheckpointError, match="a count of 0"):
        run(model, bad)
    assert held(handles) == before


def test_fp4_of_an_older_state_is_the_table_that_it_was(tmp_path):
    """Before states had a version, "fp4" was bitsandbytes' table."""
    file = tmp_path / "state.safetensors"
    run(started(QLoRA(r=2, code="fp4-bnb"))[0], file)

    def older(arrays, facts):
        del facts["version"]
        facts["settings"] = facts["settings"].replace("fp4-bnb", "fp4")

    old = rewritten(file, older)
    with pytest.raises(CheckpointError, match="belongs to another run .*fp4-bnb.* there"):
        run(started(QLoRA(r=2, code="fp4"))[0], old)
    run(started(QLoRA(r=2, code="fp4-bnb"))[0], old)
