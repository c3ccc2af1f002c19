"""Weights as vectors: what every method that merges adds to its base."""

import numpy as np
import pytest

from minipeft import BitFit, LoRA, attach
from minipeft.contract import NotMergeable
from minipeft.contract.vectors import (
    add,
    cosine,
    delta,
    difference,
    load_vector,
    move,
    moved,
    negate,
    norm,
    random_like,
    save_vector,
    scale,
)
from minipeft.storage.checkpoint import CheckpointError, save_model
from tests.methods.contract import CASES, randomize, run, same
from tests.tiny import gpt, llama


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


def tuned(model, seed=1):
    """A copy of a tiny model whose weights were moved at random."""
    other, rng = gpt(), np.random.default_rng(seed)
    vector = {path: 0.1 * rng.normal(size=p.shape) for path, p in model.named_parameters()}
    move(other, vector)
    return other


def test_the_difference_of_two_checkpoints_leads_from_one_to_the_other(tmp_path):
    model = gpt()
    other = tuned(model)
    vector = difference(other, model)
    saved = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for one, file in zip((other, model), saved, strict=True):
        save_model(one, file)
    from_files = difference(*saved)
    assert from_files.keys() == vector.keys()
    assert all(np.allclose(from_files[path], vector[path], 0, 1e-6) for path in vector)
    move(model, vector)
    assert all(np.allclose(p.data, dict(other.named_parameters())[path].data, 0, 1e-14)
               for path, p in model.named_parameters())  # fmt: skip


@pytest.mark.parametrize("name", ["lora", "bitfit", "full", "ia3"])
def test_the_difference_to_a_merged_model_is_the_delta(name):
    case = CASES[name]
    _, handle = case.attached(np.float64)
    vector = delta(handle)
    handle.merge()
    apart = difference(handle.model, case.model(np.float64))
    for path, change in apart.items():
        assert np.allclose(change, vector.get(path, 0.0), 0, 1e-12)
    assert norm(apart) > 0.1


def test_models_of_two_kinds_have_no_difference():
    with pytest.raises(ValueError, match=r"only one .* has \w+\..*of different bases"):
        difference(gpt(), llama())
    with pytest.raises(ValueError, match="difference: .* has shape .* of different bases"):
        difference(gpt(), gpt(context=32))
    model = gpt()
    with attach(model, BitFit()), pytest.raises(RuntimeError, match="take the delta"):
        difference(model, gpt())


def test_negation_and_angles():
    _, (a, b) = two()
    flat = {path: x.ravel() for path, x in a.items()}
    assert norm(a) == pytest.approx(np.linalg.norm(np.concatenate([*flat.values()])), rel=1e-12)
    assert cosine(a, a) == pytest.approx(1) and cosine(a, negate(a)) == pytest.approx(-1)
    assert cosine(a, b) == 0  # they share no parameter
    both = add(a, b)
    assert cosine(both, scale(a, 3)) == pytest.approx(norm(a) / norm(both))
    with pytest.raises(ValueError, match="cosine: .* of different bases"):
        cosine(a, {path: x[:1] for path, x in a.items()})
    with pytest.raises(ValueError, match="zeros"):
        cosine(a, scale(a, 0))


def test_a_moved_model_is_put_back_to_the_bit():
    model, (a, _) = two()
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    path = next(iter(a))
    with pytest.raises(ZeroDivisionError), moved(model, a, -0.7) as same_model:
        assert same_model is model
        now = dict(model.named_parameters())[path].data
        assert np.allclose(now, before[path] - 0.7 * a[path], 0, 1e-12)
        raise ZeroDivisionError
    assert all(same(p.data, before[path]) for path, p in model.named_parameters())
    with pytest.raises(ValueError, match="no such parameter"), moved(model, {"x": np.ones(2)}):
        pass


def test_a_file_knows_its_base(tmp_path):
    model, (a, _) = two()
    file = tmp_path / "a.safetensors"
    save_vector(a, file, base=model)
    assert load_vector(file, base=model).keys() == a.keys() == load_vector(file).keys()
    with pytest.raises(CheckpointError, match="is of another base"):
        load_vector(file, base=tuned(model))


def test_a_random_vector_has_the_lengths_of_another():
    _, (a, _) = two()
    null = random_like(a, seed=1)
    assert null.keys() == a.keys() and abs(cosine(null, a)) < 0.5
    for path, x in a.items():
        assert np.linalg.norm(null[path]) == pytest.approx(np.linalg.norm(x), rel=1e-9)
        assert null[path].dtype == x.dtype and null[path].shape == x.shape
    path = max(a, key=lambda path: abs(a[path]).max())
    assert not np.allclose(random_like(a, seed=2)[path], null[path])
    zeros = {path: np.zeros(3)}
    assert not random_like(zeros)[path].any()
