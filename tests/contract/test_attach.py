"""attach and its handle: what is refused, how methods stack, and when the hooks are called."""

import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import Method, attach
from minipeft.engine import no_grad, running
from minipeft.methods import METHODS, BitFit, Full, LoRA, Quantize, TopK, load_adapter
from minipeft.models import GPT
from minipeft.nn import Linear, Module
from minipeft.storage.checkpoint import CheckpointError, save_model
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from tests.contract.throwaway import Masked, Subspace
from tests.methods.contract import CASES, CONFIG, Next, assert_restored, randomize, same, snapshot
from tests.methods.contract import run as output

IDS = CASES["lora"].inputs()


@pytest.fixture
def model():
    return CASES["lora"].model()


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("adapters/a.safetensors", TypeError, r"load_adapter\(model, path\)"),
        (LoRA, TypeError, "got LoRA; a class needs its brackets"),
        (8, TypeError, "a method such as LoRA.*got int"),
        (LoRA(targets="query"), ValueError, "'query' matches no part"),
        (LoRA(r=4, targets=("q_proj", "ln_1")), ValueError, "ln_1 is a LayerNorm; it must be a L"),
        (LoRA(r=4, targets="tok"), ValueError, "emb.tok is a Embedding; it must be a Linear"),
        (LoRA(r=9, targets="all-linear"), ValueError, "r = 9 is above the rank of blocks.0.attn.q"),
        (TopK(k=9), ValueError, "k = 9 is more than the model's 2 blocks"),
    ],
)
def test_a_wrong_method_is_refused_and_nothing_changes(model, method, error, message):
    before = snapshot(model)
    with pytest.raises(error, match=message):
        attach(model, method)
    assert_restored(model, before)
    assert not model.handles


def test_only_a_model_takes_a_method():
    with pytest.raises(TypeError, match="attach takes a model, got str"):
        attach("tiny-gpt", LoRA())


def test_the_same_method_twice_is_refused(model):
    attach(model, LoRA(r=2))
    with pytest.raises(ValueError, match=r"LoRA\(r=2.*is attached to this model already: detach"):
        attach(model, LoRA(r=2))
    attach(model, LoRA(r=2, seed=1))


def test_ended_handles_say_so(model, tmp_path):
    handle = attach(model, LoRA(r=2))
    handle.detach()
    for act in (lambda: handle.save(tmp_path / "a"), lambda: handle.load("a"), handle.merge):
        with pytest.raises(RuntimeError, match="this adapter was detached before"):
            act()
    with pytest.raises(RuntimeError, match="cannot detach: this adapter was detached before"):
        handle.detach()
    assert repr(handle).endswith("detached)")


# --- stacking ----------------------------------------------------------------------------------


def test_what_was_attached_last_goes_first(model):
    before = snapshot(model)
    first = attach(model, LoRA(r=2))
    randomize(first)
    middle, y = snapshot(model), output(model, IDS)
    second = attach(model, LoRA(r=2, targets=("q_proj", "fc_in"), seed=1))
    third = attach(model, BitFit())
    with pytest.raises(
        RuntimeError, match="'lora' was attached before 'bitfit': what was attached"
    ):
        first.detach()
    third.detach()
    with pytest.raises(RuntimeError, match="'lora' was attached before 'lora'"):
        first.detach()
    second.detach()
    assert_restored(model, middle)
    assert same(output(model, IDS), y)
    first.detach()
    assert_restored(model, before)


def test_the_upper_method_trains_and_the_lower_is_kept(model, tmp_path):
    lower = attach(model, LoRA(r=2))
    randomize(lower)
    kept = {path: p.data.copy() for path, p in lower.trainable()}
    upper = attach(model, TopK(k=1))
    fit(model, Next(), steps=2, lr=0.01, batch=2, quiet=True)
    assert len(kept) == 8 and lower.count() == 2 * 2 * 2 * 16
    assert all(same(p.data, kept[path]) for path, p in lower.trainable())
    assert upper.total == lower.total == GPT(CONFIG).num_parameters()
    lower.save(tmp_path / "lower")
    upper.detach()
    assert all(p.requires_grad for _, p in lower.trainable())
    y = output(model, IDS)
    lower.load(tmp_path / "lower")
    assert same(output(model, IDS), y)


def test_methods_in_one_model_add_up(model):
    base = output(model, IDS)
    pairs = [(LoRA(r=2), Masked()), (BitFit(), Subspace())]
    pairs += [(LoRA(r=2), LoRA(r=2, seed=1)), (Masked(), Subspace()), (Full(), LoRA(r=2))]
    for methods in pairs:
        handles = []
        for method in methods:
            handles.append(attach(model, method))
            randomize(handles[-1])
        both = output(model, IDS)
        with running(off=handles):
            assert same(output(model, IDS), base), methods
        for on in handles:
            with running(off=[on]):
                assert not same(output(model, IDS), both), methods
                assert not same(output(model, IDS), base), methods
        for handle in reversed(handles):
            handle.detach()
        assert same(output(model, IDS), base), methods


def test_what_is_computed_cannot_be_trained_by_another(model):
    attach(model, Subspace())
    before = snapshot(model)
    with pytest.raises(
        ValueError, match="'bitfit' would change blocks.0.* 'throwaway_subspace' rep"
    ):
        attach(model, BitFit())
    assert_restored(model, before)


# --- with ------------------------------------------------------------------------------------


def test_with_detaches_at_the_end_and_after_an_error(model):
    before = snapshot(model)
    with pytest.raises(KeyError), attach(model, LoRA(r=2)) as handle:
        assert handle.model is model
        raise KeyError
    assert_restored(model, before)
    with attach(model, LoRA(r=2)) as handle:
        handle.detach()
    with attach(model, LoRA(r=2)) as handle:
        handle.merge()
    assert not model.handles


def test_a_part_set_by_hand_is_not_lost_in_silence(model):
    handle = attach(model, LoRA(r=2))
    model.set("blocks.0.attn.q_proj", Linear(8, 8))
    with pytest.raises(RuntimeError, match="'q_proj' was set to something else since"):
        handle.detach()


# --- the forward pass and the hooks ------------------------------------------------------------


@dataclass(frozen=True)
class Counting(Method):
    """Counts what is called on it; computes every weight of the blocks."""

    name: ClassVar[str] = "counting"
    compose: ClassVar[str] = "parameter"
    calls: ClassVar[Counter] = Counter()

    def select(self, path, parameter, where):
        where.shared("v", lambda: np.zeros(1))
        return path.endswith("weight") and where.layer is not None

    def compute(self, at):
        self.calls["compute"] += 1
        return {path: theta + at.shared["v"] for path, theta in at.computed.items()}

    def after_step(self, at, step, total):
        self.calls[f"step {step} of {total}"] += 1

    def extra_loss(self, at):
        self.calls["extra_loss"] += 1
        return (dict(at.trainable())["counting.v"] + 1.0).sum() * 100.0


def test_hooks_are_called_once_a_pass_and_once_a_step(model):
    handle = attach(model, Counting())
    calls = Counting.calls
    calls.clear()
    model(IDS)
    assert len(handle.computed) == 16 and set(calls.values()) == {1}
    with no_grad():
        model(IDS)
    assert set(calls.values()) == {2} and "compute" in calls
    model.blocks[1](model.emb(IDS, np.arange(8)[None]))  # two calls from outside, of parts
    assert set(calls.values()) == {4}
    with running(off=[handle]):
        model(IDS)
    assert set(calls.values()) == {4}
    calls.clear()
    history = fit(model, Next(), steps=3, lr=0.0, batch=2, accumulate=2, quiet=True)
    assert calls["compute"] == 6  # once a batch
    assert calls["extra_loss"] == 3
    assert [calls[f"step {i} of 3"] for i in range(3)] == [1, 1, 1]
    plain = (
        loss_of(model, Next().batch(0, 2, 0)).item() + loss_of(model, Next().batch(1, 2, 0)).item()
    )
    assert history.loss[0] == pytest.approx(100 + plain / 2)


def test_a_part_called_alone_sees_what_is_computed(model):
    x = model.emb(IDS, np.arange(8)[None])
    base = model.blocks[0](x).data
    handle = attach(model, Subspace())
    randomize(handle)
    assert not same(model.blocks[0](x).data, base)
    with running(off=[handle]):
        assert same(model.blocks[0](x).data, base)
    handle.detach()
    assert same(model.blocks[0](x).data, base)


def test_a_computed_parameter_is_never_stale(model):
    handle = attach(model, Subspace())
    ((_, v),) = handle.trainable()
    seen = []
    for value in (0.0, 0.1, 0.2):
        v.data = np.full(v.shape, value)
        seen.append(output(model, IDS))
    assert not same(seen[0], seen[1]) and not same(seen[1], seen[2])
    y = model(IDS)
    v.data = v.data + 1
    with pytest.raises(RuntimeError, match="was changed between the forward pass and backward"):
        y.sum().backward()


def test_a_hook_that_fails_leaves_no_pass_open(model):
    class Failing(Counting):
        name = "failing"

        def compute(self, at):
            raise ZeroDivisionError

    base = output(model, IDS)
    handle = attach(model, Failing())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            model(IDS)
    handle.detach()
    assert same(output(model, IDS), base)


# --- random streams, shared parameters ---------------------------------------------------------


def test_places_have_their_own_streams_named_by_the_seed():
    def drawn(method, layers=2):
        at = attach(GPT(replace(CONFIG, layers=layers)), method)
        return {path: p.data for path, p in at.trainable() if path.endswith("A")}

    first = drawn(LoRA(r=2))
    assert all(same(a, first[path]) for path, a in drawn(LoRA(r=2, targets="all-linear")).items()
               if path in first)  # fmt: skip
    assert all(same(a, drawn(LoRA(r=2), layers=3)[path]) for path, a in first.items())
    assert all(not same(a, first[path]) for path, a in drawn(LoRA(r=2, seed=1)).items())
    assert len({a.tobytes() for a in first.values()}) == len(first)


def test_a_shared_vector_stands_at_the_root_and_counts_once(model):
    handle = attach(model, Subspace(n=5))
    ((path, v),) = handle.trainable()
    assert path == "throwaway_subspace.v" and v.shape == (5,)
    assert dict(model.named_parameters())[path] is v
    assert "throwaway_subspace.v" not in model.base_arrays()
    again = attach(model, Subspace(n=4))
    assert [name for name, _ in again.trainable()] == ["throwaway_subspace_.v"]


# --- what is printed ---------------------------------------------------------------------------


def test_a_handle_prints_what_trains(model):
    handle = attach(model, LoRA(r=2))
    total = GPT(CONFIG).num_parameters()
    assert f": 128 of {total:,} train, {100 * 128 / total:.3f} %)" in repr(handle)
    wide = attach(GPT(replace(CONFIG, head="linear", classes=3)), LoRA(r=2))
    assert ": 128 + 24 of a new head of " in repr(wide)


def test_a_broken_adapter_is_diagnosed_by_its_report():
    model = GPT(CONFIG)
    handle = attach(model, LoRA(r=2))
    for path, p in handle.trainable():
        if path.startswith("blocks.0.") and path.endswith("A"):
            p.data = np.zeros_like(p.data)  # A = B = 0: both gradients vanish for ever
    handle.start = {path: p.data.copy() for path, p in handle.trainable()}
    fit(model, Next(), steps=4, lr=0.01, batch=2, quiet=True)
    report = handle.report()
    assert sorted(report.never_moved) == [f"blocks.0.attn.{x}_proj.{M}" for x in "qv" for M in "AB"]
    rows = {row["path"]: row for row in report.rows}
    assert rows["blocks.0.attn.q_proj.A"]["gradient"] == 0.0
    assert rows["blocks.1.attn.q_proj.B"]["gradient"] > 0
    assert rows["blocks.1.attn.q_proj.B"]["update"] > 0.01
    assert "4 of 8 arrays never moved" in str(report) and "never moved" in report._repr_html_()
    lines = str(report).splitlines()
    assert lines[0] == repr(handle) and "</table><p>4 of 8 arrays" in report._repr_html_()
    assert lines[1] == (
        "trained                 shape  count  mean |gradient| (4 steps)     |update|"
    )


def test_what_moved_by_little_has_moved(model):
    handle = attach(model, LoRA(r=2))
    path, p = next(iter(handle.trainable()))
    p.data += 1e-9  # in its place
    report = handle.report()
    assert path not in report.never_moved and len(report.never_moved) == len(handle.trained) - 1


# --- a model too large for this machine --------------------------------------------------------


def test_all_methods_attach_to_gpt3_in_little_memory():
    code = """
import tracemalloc
tracemalloc.start()  # the system's own peak would count what the parent process holds
from minipeft import METHODS, attach
from minipeft.models import GPT
from minipeft.models.presets import preset
model = GPT(preset("gpt3-175b"), init="shape")
for name, method in METHODS.items():
    if name == "linear_probe":  # it needs a new head
        continue
    with attach(model, method()) as handle:
        trains = name not in ("quant", "steering")
        assert handle.count() >= trains and handle.total == 174_604_259_328
        print(name)
print(tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *names, peak = done.stdout.split()
    assert names == [name for name in METHODS if name != "linear_probe"]
    assert int(peak) < 300e6


def test_a_shape_only_model_cannot_run_or_be_saved(tmp_path):
    model = GPT(CONFIG, init="shape")
    handle = attach(model, LoRA(r=2))
    assert all(p.data.strides == (0, 0) for _, p in handle.trainable())
    with pytest.raises(RuntimeError, match="has shapes but no values"):
        model(IDS)
    with pytest.raises(RuntimeError, match="shape but no values"):
        handle.save(tmp_path / "a")


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"r": "4", "alpha": "8"}, LoRA(r=4, alpha=8.0)),
        ({"targets": "q_proj,v_proj"}, LoRA()),
        ({"targets": "all-linear"}, LoRA(targets="all-linear")),
        ({"targets": ["fc_in"]}, LoRA(targets=("fc_in",))),
        ({"fused": "q_proj"}, LoRA(fused=("q_proj",))),
        ({"fused": ""}, LoRA()),
        ({"rslora": "yes", "seed": 3.0}, LoRA(rslora=True, seed=3)),
        ({"rslora": False, "dropout": 0}, LoRA()),
    ],
)
def test_settings_from_text_and_json(values, wanted):
    made = LoRA.from_fields(values)
    assert made == wanted and [type(v) for v in vars(made).values()] == [
        type(v) for v in vars(wanted).values()
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 4}, "no setting 'rank'; nearest is 'r"),
        ({"r": "four"}, "r must be int, got 'four'"),
        ({"r": 2.5}, "r must be int, got 2.5"),
        ({"r": True}, "r must be int, got True"),
        ({"r": None}, "r must be int, got None"),
        ({"r": "inf"}, "r must be int, got 'inf'"),
        ({"rslora": "maybe"}, "rslora must be bool, got 'maybe'"),
        ({"targets": 3}, "targets must be"),
        ({"init": ["a"]}, "init must be str"),
        ({"alpha": "nan"}, "alpha must be a finite number"),
    ],
)
def test_a_wrong_setting_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        LoRA.from_fields(values)


def test_a_method_without_settings_says_so():
    with pytest.raises(ValueError, match="Full has no setting 'r'"):
        Full.from_fields({"r": 1})


def test_a_list_is_a_tuple():
    assert LoRA(targets=["q_proj", "v_proj"]) == LoRA() and hash(LoRA(targets=["q_proj"]))


def test_streams_do_not_depend_on_the_order_of_attaching(model):
    attach(model, LoRA(r=2, targets="fc_in"))
    second = attach(model, LoRA(r=2))
    fresh = attach(CASES["lora"].model(), LoRA(r=2))
    pairs = zip(second.trainable(), fresh.trainable(), strict=True)
    assert all(same(a.data, b.data) for (_, a), (_, b) in pairs)


def test_a_model_is_any_module():
    class Two(Module):
        def __init__(self):
            self.left, self.right = Linear(3, 3, rng=Rng(0)), Linear(3, 2, rng=Rng(1))

        def forward(self, x):
            return self.right(self.left(x))

    handle = attach(Two(), LoRA(r=1, targets="left"))
    assert handle.count() == 6 and list(handle.wrappers) == ["left"]


# --- stacks by mistake, models in models, parts at two places -----------------------------------


def test_a_cell_that_is_run_again_is_told_what_stays(model):
    attach(model, LoRA(r=1))
    with pytest.warns(UserWarning, match="'lora' goes on top of 'lora': what was attached before"):
        second = attach(model, LoRA(r=2))
    with pytest.warns(UserWarning, match="'bitfit' goes on top of 'lora', 'lora': "):
        third = attach(model, BitFit())
    assert ", over lora)" in repr(second) and repr(third).endswith(", over lora, lora)")
    third.detach()
    assert repr(third).endswith(", detached)")


@pytest.mark.parametrize("below", [None, Quantize()])
def test_what_trains_nothing_is_stood_on_without_a_word(below):
    model = GPT(replace(CONFIG, head="linear", classes=3))  # its head is trained by both
    if below is not None:
        attach(model, below)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = attach(model, LoRA(r=2))
    assert repr(handle).endswith(", over quant)") == (below is not None)


class Around(Module):
    """A user's own Module around a model."""

    def __init__(self, gpt, second=None):
        self.scale, self.gpt, self.second = 2.0, gpt, second

    def forward(self, ids):
        y = self.gpt(ids) * self.scale
        return y if self.second is None else y + self.second(ids)


@pytest.mark.parametrize("name", ["lora", "subspace", "movement", "full", "throwaway_subspace"])
def test_a_model_inside_a_users_own_module_keeps_its_hooks(name):
    case = CASES[name]
    model, handle = case.attached()
    wanted = output(model, IDS)
    assert not same(wanted, output(case.model(), IDS))
    outer = Around(model)
    assert same(outer(IDS).data, 2 * wanted)
    with running(off=[handle]):
        assert same(outer(IDS).data, 2 * output(case.model(), IDS))
    model(IDS).sum().backward()
    alone = {path: p.grad.copy() for path, p in handle.trainable()}
    for _, p in handle.trainable():
        p.grad = None
    for ways in ({}, {"recompute": True}):
        with running(**ways):
            outer(IDS).sum().backward()
        for path, p in handle.trainable():
            assert abs(p.grad - 2 * alone[path]).max() <= 1e-12 * abs(alone[path]).max(), path
            p.grad = None


def test_two_models_in_one_module_have_their_own_hooks():
    (one, a), (two, b) = (CASES["subspace"].attached() for _ in range(2))
    randomize(b, seed=5)
    y = output(one, IDS), output(two, IDS)
    assert not same(*y)
    outer = Around(one, two)
    assert same(outer(IDS).data, 2 * y[0] + y[1])
    z = attach(outer, LoRA(r=2, targets="re:gpt.*q_proj"))  # now all three stand in one list
    assert same(outer(IDS).data, 2 * y[0] + y[1]) and same(output(one, IDS), y[0])
    randomize(z)
    assert not same(output(one, IDS), y[0]) and same(output(two, IDS), y[1])
    with pytest.raises(RuntimeError, match="'subspace' was attached before 'lora'"):
        a.detach()
    for handle in (z, b, a):
        handle.detach()
    assert not outer.attached()


def test_a_handle_of_a_part_is_seen_from_the_whole(model, tmp_path):
    handle = attach(model.blocks[0], CASES["subspace"].method)  # without any wrapper
    randomize(handle)
    y = output(model, IDS)
    assert not model.handles and model.attached() == [handle]
    assert not same(y, output(CASES["lora"].model(), IDS))
    with pytest.raises(CheckpointError, match="this GPT has 'subspace' attached"):
        save_model(model, tmp_path / "m")
    handle.detach()
    assert same(output(model, IDS), output(CASES["lora"].model(), IDS))


def test_handles_of_parts_are_seen_by_age(model):
    upper = attach(model.blocks[1], LoRA(r=2))
    lower = attach(model.blocks[0], LoRA(r=2))
    assert model.attached() == [upper, lower]


def test_a_failed_attach_leaves_the_lists_of_parts_alone(model):
    handle = attach(model.blocks[0], LoRA(r=2))
    with pytest.raises(ValueError, match="matches no part"):
        attach(model, LoRA(r=2, targets="nothing"))
    handle.detach()
    assert not model.attached()


def twice(dtype=np.float64):
    """A model whose two blocks are one."""
    model = CASES["lora"].model()
    setattr(model.blocks, "1", model.blocks[0])
    return model


@pytest.mark.parametrize("method", [LoRA(r=2), Full(), BitFit(), Quantize(), Masked(), Subspace()])
def test_a_block_at_two_places_is_changed_once_at_both(method):
    model = twice()
    before, base = snapshot(model), output(model, IDS)
    handle = attach(model, method)
    if method == LoRA(r=2):
        assert handle.count() == 2 * 2 * 16 and list(handle.wrappers) == [
            "blocks.0.attn.q_proj", "blocks.0.attn.v_proj"]  # fmt: skip
    assert handle.total == sum(p.size for p in twice().parameters())
    assert len({path for path, _ in handle.trainable()}) == len(list(handle.trainable()))
    randomize(handle)
    y = output(model, IDS)
    assert not same(y, base)
    for path, part in model.named_modules():
        if path.startswith("blocks.1"):
            assert part is model.get(path.replace("blocks.1", "blocks.0"))
    handle.detach()
    assert_restored(model, before)
    assert same(output(model, IDS), base)
    again = attach(model, method)
    randomize(again)
    assert same(output(model, IDS), y)
    again.merge()
    assert abs(output(model, IDS) - y).max() < 1e-12 * abs(y).max()
    assert not any(part.wraps for _, part in model.named_modules())


def test_a_linear_at_two_places_of_one_part_is_wrapped_at_both(model):
    attn = model.blocks[0].attn
    attn.k_proj = attn.q_proj
    handle = attach(model, LoRA(r=2, targets=("q_proj", "k_proj")))
    assert attn.k_proj is attn.q_proj and attn.q_proj.wraps
    assert len(handle.wrappers) == 3
    handle.detach()
    assert attn.k_proj is attn.q_proj and not attn.q_proj.wraps


@pytest.mark.parametrize("first", [0, 1])
def test_a_shared_embedding_trains_again_when_the_last_model_lets_go(first):
    one, two = (CASES["lora"].model() for _ in range(2))
    two.emb.tok = one.emb.tok
    two.head.weight = one.emb.tok.weight
    shared = one.emb.tok.weight
    handles = [attach(one, LoRA(r=2)), attach(two, LoRA(r=2))]
    handles[first].detach()
    assert not shared.requires_grad
    (one, two)[1 - first](IDS).sum().backward()
    assert shared.grad is None
    handles[1 - first].detach()
    assert shared.requires_grad
    assert all(p.requires_grad for m in (one, two) for p in m.parameters())


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_three_models_let_go_of_what_they_share_one_after_the_other(order):
    models = [CASES["lora"].model() for _ in range(3)]
    for other in models[1:]:
        other.emb.tok, other.head.weight = models[0].emb.tok, models[0].emb.tok.weight
    shared = models[0].emb.tok.weight
    handles = [attach(m, LoRA(r=2)) for m in models]
    for i in order:
        assert not shared.requires_grad
        handles[i].detach()
    assert shared.requires_grad


def test_merging_in_one_model_leaves_what_another_froze(model):
    other = CASES["lora"].model()
    other.emb.tok, other.head.weight = model.emb.tok, model.emb.tok.weight
    first, second = attach(model, LoRA(r=2)), attach(other, LoRA(r=2))
    first.merge()
    assert not model.emb.tok.weight.requires_grad and model.emb.pos.weight.requires_grad
    second.detach()
    assert model.emb.tok.weight.requires_grad


def test_a_shared_part_runs_with_the_hooks_of_the_model_that_is_run():
    one, two = (CASES["subspace"].model() for _ in range(2))
    two.emb.tok, two.head.weight = one.emb.tok, one.emb.tok.weight
    base = output(one, IDS)
    second = attach(two, CASES["subspace"].method)  # the last that the shared part knows of
    randomize(second)
    assert same(output(one, IDS), base)
    first = attach(one, CASES["subspace"].method)
    randomize(first, seed=3)
    y = output(one, IDS), output(two, IDS)
    outer = Around(one, two)
    assert same(outer(IDS).data, 2 * y[0] + y[1])
    for handle in (first, second):
        handle.detach()
    assert same(output(one, IDS), base)


class Inside(Module):
    """A Module that calls the parts of a model, not the model."""

    def __init__(self, gpt):
        self.gpt = gpt

    def forward(self, ids):
        x = self.gpt.emb(ids, np.arange(ids.shape[1])[None])
        for block in self.gpt.blocks:
            x = block(x)
        return self.gpt.head(self.gpt.ln_f(x))


@pytest.mark.parametrize("name", ["lora", "subspace", "full"])
def test_parts_that_a_module_around_the_model_calls_have_their_hooks(name):
    model, _ = CASES[name].attached()
    assert same(Inside(model)(IDS).data, output(model, IDS))


# --- methods that train together ---------------------------------------------------------------


def test_two_methods_train_together_and_are_saved_one_by_one(model, tmp_path):
    lower = attach(model, LoRA(r=2, targets="q_proj"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is to be told: both are meant
        upper = attach(model, BitFit(), freeze=False)
    fit(model, Next(), steps=3, lr=0.05, batch=2, quiet=True)
    assert not lower.report().never_moved and not upper.report().never_moved
    y = output(model, IDS)
    lower.save(tmp_path / "a.safetensors")
    upper.save(tmp_path / "b.safetensors")
    upper.detach()
    assert all(p.requires_grad for _, p in lower.trainable())
    lower.detach()
    load_adapter(model, tmp_path / "a.safetensors")
    load_adapter(model, tmp_path / "b.safetensors")
    assert same(output(model, IDS), y)


def test_a_method_between_keeps_the_lowest_frozen(model):
    lowest = attach(model, LoRA(r=2, targets="q_proj"))
    middle = attach(model, LoRA(r=2, targets="v_proj"))
    top = attach(model, BitFit(), freeze=False)
    trains = [{p.requires_grad for _, p in h.trainable()} for h in (lowest, middle, top)]
    assert trains == [{False}, {True}, {True}]
    top.merge()
    middle.detach()
    assert {p.requires_grad for _, p in lowest.trainable()} == {True}


def test_a_single_wrapper_can_be_off(model):
    handle = attach(model, LoRA(r=2))
    randomize(handle)
    y, base = output(model, IDS), None
    with running(off=[handle]):
        base = output(model, IDS)
    wrappers = list(handle.wrappers.values())
    with running(off=wrappers):
        assert same(output(model, IDS), base)
    with running(off=wrappers[:1]):
        some = output(model, IDS)
    assert not same(some, y) and not same(some, base)
