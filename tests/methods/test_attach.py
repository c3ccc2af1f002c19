"""attach and its handle: what is refused, how methods stack, and when the hooks are called."""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import no_grad, running
from minipeft.methods import METHODS, BitFit, Full, LoRA, Method, TopK, attach
from minipeft.models import GPT
from minipeft.nn import Linear, Module
from minipeft.train import fit, loss_of
from tests.methods.contract import CASES, CONFIG, Next, assert_restored, randomize, same, snapshot
from tests.methods.contract import run as output
from tests.methods.throwaway import Masked, Subspace

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
        ValueError, match="'bitfit' would train blocks.0.* 'throwaway_subspace' com"
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

    def reparam(self, path, parameter, where):
        if not path.endswith("weight") or where.layer is None:
            return None
        v = where.shared("v", lambda: np.zeros(1))

        def compute(theta):
            self.calls[path] += 1
            return theta + v

        return compute

    def before_forward(self, at):
        self.calls["before_forward"] += 1

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
    assert len(handle.reparams) == 16 and set(calls.values()) == {1}
    with no_grad():
        model(IDS)
    assert set(calls.values()) == {2} and "before_forward" in calls
    model.blocks[1](model.emb(IDS, np.arange(8)[None]))  # two calls from outside, of parts
    assert set(calls.values()) == {4}
    with running(off=[handle]):
        model(IDS)
    assert set(calls.values()) == {4}
    calls.clear()
    history = fit(model, Next(), steps=3, lr=0.0, batch=2, accumulate=2, quiet=True)
    assert calls["before_forward"] == 6  # once a batch
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

        def before_forward(self, at):
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
    assert "throwaway_subspace.v" not in model.state_dict()
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


# --- a model too large for this machine --------------------------------------------------------


def test_all_methods_attach_to_gpt3_in_little_memory():
    code = """
import tracemalloc
tracemalloc.start()  # the system's own peak would count what the parent process holds
from minipeft.methods import METHODS, attach
from minipeft.models import GPT
from minipeft.models.presets import preset
model = GPT(preset("gpt3-175b"), init="shape")
for name, method in METHODS.items():
    with attach(model, method()) as handle:
        assert handle.count() >= (name != "quant") and handle.total == 174_604_259_328
        print(name)
print(tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *names, peak = done.stdout.split()
    assert names == list(METHODS)
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
        ({"alpha": "nan"}, "alpha must be finite"),
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
