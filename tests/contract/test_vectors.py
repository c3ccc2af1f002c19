"""Weights as vectors: what every method that merges adds to its base."""

import numpy as np
import pytest

from minipeft import BitFit, LoRA, attach
from minipeft.contract import NotMergeable
from minipeft.contract.vectors import add, delta, load_vector, move, save_vector, scale
from minipeft.storage.checkpoint import CheckpointError
from tests.methods.contract import CASES, randomize, run, same
from tests.tiny import gpt


@pytest.mark.parametrize("name", CASES)
def test_the_base_moved_by_a_vector_is_the_merged_model(name):
    case = CASES[name]
    model, handle = case.attached(np.float64)
    y = run(model, case.inputs())
    if case.stuck:
        with pytest.raises(NotMergeable, match=case.stuck):
            delta(handle)
        return
    vector = delta(handle, quantized=case.quantized)
    assert same(run(model, case.inputs()), y)  # it only looks
    plain = case.model(np.float64)
    move(plain, vector)
    assert abs(run(plain, case.inputs()) - y).max() <= 1e-11 * abs(y).max()
    assert abs(run(plain, case.inputs()) - run(case.model(np.float64), case.inputs())).max() > 1e-4


def two():
    model = gpt()
    found = []
    for method in (LoRA(r=2), BitFit()):
        with attach(model, method) as at:
            randomize(at)
            found.append(delta(at))
    return model, found


def test_vectors_add_up_and_the_opposite_takes_away():
    model, (a, b) = two()
    both = add(a, b)
    assert set(both) == set(a) | set(b)
    for path in both:
        assert np.allclose(both[path], a.get(path, 0.0) + b.get(path, 0.0), 0, 1e-12)
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    move(model, both)
    assert any(abs(p.data - before[path]).max() > 0.01 for path, p in model.named_parameters())
    move(model, scale(both, -1))
    assert all(np.allclose(p.data, before[path], 0, 1e-12) for path, p in model.named_parameters())
    assert all(half.dtype == a[path].dtype for path, half in scale(a, 0.5).items())


def test_a_vector_goes_to_a_file_and_back(tmp_path):
    _, (a, _) = two()
    file = tmp_path / "a.safetensors"
    save_vector(a, file)
    back = load_vector(file)
    assert back.keys() == a.keys() and all(same(back[path], a[path]) for path in a)
    model = gpt()
    with attach(model, LoRA(r=2)) as at:
        at.save(file)
    with pytest.raises(CheckpointError, match="holds no vector of minipeft"):
        load_vector(file)


def test_what_does_not_fit_changes_nothing():
    model, (a, _) = two()
    first = next(iter(a))
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    for wrong, why in (
        ({**a, "nowhere.weight": np.ones(2)}, "nowhere.weight .*no such parameter"),
        ({**a, first: np.ones(3)}, r"has \(3,\) in the vector; the model has shape"),
    ):
        with pytest.raises(ValueError, match=why):
            move(model, wrong)
        assert all(same(p.data, before[path]) for path, p in model.named_parameters())
    with pytest.raises(ValueError, match="of different bases"):
        add(a, {first: np.ones(3)})
    for factor in (np.nan, np.inf, "2", True):
        with pytest.raises(ValueError, match="scale: factor"):
            scale(a, factor)
    with attach(model, BitFit()) as at, pytest.raises(RuntimeError, match="merge or detach it"):
        move(model, delta(at))


def test_a_handle_that_ended_has_no_vector():
    model = gpt()
    at = attach(model, LoRA(r=2))
    at.detach()
    with pytest.raises(RuntimeError, match="cannot delta"):
        delta(at)


def test_what_does_not_merge_has_no_vector():
    case = CASES["qlora"]
    _, handle = case.attached(np.float64)
    with pytest.raises(NotMergeable):
        delta(handle)
