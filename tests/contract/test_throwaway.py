"""What the throwaway methods show of the contract beyond the checks that every method passes."""

import numpy as np

from minipeft.contract import attach
from minipeft.engine import no_grad, running
from minipeft.methods import IA3, load_adapter
from tests.contract.throwaway import Offsets, Steering
from tests.methods.contract import CASES, CLOSE, Case, randomize, run, same


def test_the_path_of_a_shared_array_is_that_of_its_first_place():
    model, handle = CASES["throwaway_fact"].attached()
    named = dict(handle.trainable())
    first = "blocks.0.attn.q_proj"
    assert [path for path in named if not path.endswith(".C")] == [f"{first}.U", f"{first}.V"]
    assert all(w.U is named[f"{first}.U"] for w in handle.wrappers.values())
    assert handle.slot == "" and len(handle.wrappers) == 4


def test_scales_and_shifts_merge_without_a_bias_and_give_one_where_it_is_needed():
    case = Case(IA3(), kind="vit")
    model = case.model(qkv_bias=False)
    handles = [attach(model, IA3()), attach(model, Steering("v_proj"))]
    for handle in handles:
        randomize(handle)
    y = run(model, case.inputs())
    for handle in handles:
        handle.merge()
    assert abs(run(model, case.inputs()) - y).max() <= CLOSE * abs(y).max()
    attn = model.blocks[0].attn
    assert attn.k_proj.bias is None and np.abs(attn.v_proj.bias.data).max() > 0
    assert attn.v_proj.bias.requires_grad


def test_what_a_network_made_is_kept_without_it(tmp_path):
    """Collapsed after training: vectors that train themselves, in a file of their own."""
    case = CASES["throwaway_produced"]
    model, handle = case.attached()
    y, names = run(model, case.inputs()), [path for path, _ in handle.trainable()]
    assert names == [f"throwaway_produced.{name}" for name in ("E", "W1", "b1", "W2", "b2")]
    with no_grad():
        values = handle.method.compute(handle)
    handle.detach()
    plain = attach(model, Offsets())
    for path, w in plain.wrappers.items():
        w.v.data = values[f"{path}.v"].data
    assert same(run(model, case.inputs()), y)
    plain.save(tmp_path / "a")
    fresh = case.model()
    load_adapter(fresh, tmp_path / "a", {Offsets.name: Offsets})
    assert same(run(fresh, case.inputs()), y)


def test_a_network_gets_the_gradients_of_all_that_it_makes():
    """With and without blocks that are computed again, and by a difference of its input."""
    case = CASES["throwaway_produced"]
    model, handle = case.attached()
    found = []
    for settings in ({}, {"recompute": True}):
        with running(**settings):
            model(case.inputs()).sum().backward()
        found.append({path: p.grad for path, p in handle.trainable()})
        for _, p in handle.trainable():
            p.grad = None
    assert all(np.allclose(g, found[1][path], 1e-10, 1e-13) for path, g in found[0].items())
    assert all(
        np.abs(row).max() > 1e-6 for row in found[0]["throwaway_produced.E"]
    )  # of each block


def test_one_of_two_networks_may_merge_while_the_other_goes_on():
    case = CASES["throwaway_produced"]
    model, lower = case.attached()
    upper = attach(model, case.other())
    randomize(upper, seed=8)
    y = run(model, case.inputs())
    assert all(wrapper.base.handle is lower for wrapper in upper.wrappers.values())
    for handle in (lower, upper):
        handle.merge()
        assert abs(run(model, case.inputs()) - y).max() <= CLOSE * abs(y).max()
    assert not model.attached() and not hasattr(model, "throwaway_produced")
