"""Merging: ties, what cannot be merged, the report, a kept base, and methods on top of methods."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import Method, NotMergeable, Wrapper, attach
from minipeft.contract.vectors import delta
from minipeft.engine import running
from minipeft.methods import BitFit, Full, LoRA, TopK
from minipeft.methods.quant import codes_of
from minipeft.models import GPT
from minipeft.models.gpt import Embeddings
from minipeft.nn import Linear, Module, Parameter, Tap
from minipeft.nn.module import owners_of
from minipeft.storage.checkpoint import CheckpointError, load_arrays, load_model, save_model
from tests.contract.throwaway import Masked, Subspace
from tests.methods.contract import (
    CASES,
    CLOSE,
    CONFIG,
    assert_restored,
    randomize,
    run,
    same,
    snapshot,
)

IDS = CASES["lora"].inputs()


@pytest.fixture
def model():
    return CASES["lora"].model()


def attached(model, *methods):
    handles = []
    for method in methods:
        handles.append(attach(model, method))
        randomize(handles[-1])
    return handles


# --- ties --------------------------------------------------------------------------------------


def test_one_end_of_a_tie_is_merged_on_request_only(model, tmp_path):
    (handle,) = attached(model, LoRA(r=2, targets="head"))
    before, y = snapshot(model), run(model, IDS)
    with pytest.raises(
        NotMergeable, match=r"head shares its weight with emb.tok.weight.*untie=True"
    ):
        handle.merge()
    assert_restored(model, before)
    table = model.emb.tok.weight.data
    handle.merge(untie=True)
    assert model.head.weight is not model.emb.tok.weight and model.emb.tok.weight.data is table
    assert abs(run(model, IDS) - y).max() <= CLOSE * abs(y).max()
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors", dtype="float64")
    assert abs(run(again, IDS) - y).max() <= CLOSE * abs(y).max()


def test_an_untied_base_comes_back(model):
    before = snapshot(model)
    (handle,) = attached(model, LoRA(r=2, targets="head"))
    handle.merge(keep=True, untie=True)
    handle.detach()
    assert_restored(model, before)


# --- what cannot be merged ---------------------------------------------------------------------


@dataclass(frozen=True)
class Half(Method):
    """Wraps parts that merge, and one that does not."""

    name: ClassVar[str] = "half"
    compose: ClassVar[str] = "function"
    targets: str | tuple[str, ...] = ("q_proj", "fc_in")

    def wrap(self, path, module, where):
        kind = Stuck if path == "blocks.1.mlp.fc_in" else Loose
        return kind(module)


class Loose(Wrapper):
    def forward(self, x):
        return self.base(x)

    def merged(self):
        return self.base


class Stuck(Wrapper):
    def forward(self, x):
        return self.base(x)


def test_all_parts_are_merged_or_none(model):
    handle = attach(model, Half())
    before = snapshot(model)
    with pytest.raises(NotMergeable, match="blocks.1.mlp.fc_in: Stuck has no dense equivalent"):
        handle.merge()
    assert_restored(model, before)
    assert not handle.ended and model.handles == [handle]
    handle.detach()


def test_an_input_method_has_nothing_to_merge(model):
    class Prompt(Half):
        name, compose = "prompt", "input"

    handle = attach(model, Prompt())
    with pytest.raises(NotMergeable, match="'prompt' changes the input, not the weights"):
        handle.merge()


@pytest.mark.parametrize("name", ["lora", "bitfit", "throwaway_subspace", "throwaway_masked"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_is_not_merged(model, name):
    handle = attach(model, CASES[name].method)
    _, p = next(handle.trainable())
    p.data[0] = np.inf
    before = snapshot(model)
    with pytest.raises(NotMergeable, match=r"blocks\.\d.*: the merged weight has NaN or infinite"):
        handle.merge()
    assert_restored(model, before)


def test_half_precision_is_refused(model):
    handle = attach(model, LoRA(r=2))
    for wrapper in handle.wrappers.values():
        wrapper.base.weight.data = wrapper.base.weight.data.astype(np.float16)
    with pytest.raises(NotMergeable, match="a weight stored as float16 would round the cha"):
        handle.merge()


# --- the report --------------------------------------------------------------------------------


def test_the_report_sets_the_error_beside_the_rounding():
    model, handle = CASES["lora"].attached(np.float32)
    pairs = {path: (w.A.data, w.B.data) for path, w in handle.wrappers.items()}
    report = handle.merge()
    assert [row["path"] for row in report.rows] == list(pairs) and len(pairs) == 4
    for row in report.rows:
        A, B = pairs[row["path"]]
        assert row["change"] == pytest.approx(abs(1.5 * B.astype(float) @ A).max(), rel=1e-6)
        size, eps = abs(model.get(row["path"]).weight.data).max(), np.finfo(np.float32).eps
        assert row["weight_rounding"] == pytest.approx(eps * size, rel=1e-5)
        assert row["output_rounding"] == pytest.approx(eps * 8**0.5 * row["output"])
        assert 0 < row["weight_error"] <= 2 * row["weight_rounding"] < 1e-6
        assert 0 < row["output_error"] <= 4 * row["output_rounding"] < 1e-4
    assert report.worst == max(row["output_error"] for row in report.rows)
    text, page = str(report), report._repr_html_()
    assert text.splitlines()[0].split("  ")[0] == "part" and len(text.splitlines()) == 5
    assert all(line[0] != " " != line[-1] for line in text.splitlines())
    assert f"{report.worst:.2e}" in text and page.count("<tr>") == 5


def test_a_wrong_merge_is_refused(monkeypatch):
    from minipeft.methods.lora import LoRALinear

    model, handle = CASES["lora"].attached(np.float32)
    right = LoRALinear.merged

    def forgets_the_scale(self):
        part = right(self)
        part.weight.data = self.base.weight.data + self.B.data @ self.A.data
        return part

    monkeypatch.setattr(LoRALinear, "merged", forgets_the_scale)
    before = snapshot(model)
    with pytest.raises(NotMergeable, match=r"blocks.0.attn.q_proj: what LoRALinear.merged\(\) "
                       r"makes is .*off by .*e-01, rounding explains .*e-06"):  # fmt: skip
        handle.merge()
    with pytest.raises(NotMergeable, match="is another function"):
        delta(handle)
    assert_restored(model, before)
    monkeypatch.setattr(LoRALinear, "merged", right)
    handle.merge()


@dataclass(frozen=True)
class Factor(Method):
    """What parts of any kind give out, times v."""

    name: ClassVar[str] = "factor"
    compose: ClassVar[str] = "function"

    targets: str | tuple[str, ...] = "mlp"

    def wrap(self, path, module, where):
        return Factored(module, Parameter(np.ones(where.config.width)))


class Factored(Wrapper):
    """y = base(…) v.  Shapes  v (C,)"""

    def __init__(self, base, v):
        super().__init__(base)
        self.v = v

    def forward(self, *args, **kwargs):
        return self.base(*args, **kwargs) * self.v

    def probe(self, rng):
        if isinstance(self.base, Embeddings):  # which reads positions too
            return rng.integers(0, 11, (1, 8)), np.arange(8)[None]
        return super().probe(rng)

    @property
    def ends(self):
        """The parts that give out what the part gives out."""
        return {"MLP": ["fc_out"], "Attention": ["o_proj"], "Embeddings": ["tok", "pos"]}.get(
            type(self.base).__name__, []
        )

    def merged(self):
        if isinstance(self.base, Tap):
            return Times(self.v.data)
        if not self.ends:
            return times(self.base, self.v.data)
        part = copy.copy(self.base)
        for name in self.ends:
            setattr(part, name, times(getattr(part, name), self.v.data))
        return part


class Times(Module):
    """y = x v: what a merged Tap is."""

    def __init__(self, v):
        self.v = Parameter(v)

    def forward(self, x):
        return x * self.v


def times(part, v):
    """A Linear, a table or a norm whose output is that of another, times v."""
    part = copy.copy(part)
    for name, p in list(part.named_parameters()):
        rows = isinstance(part, Linear) and name == "weight"
        setattr(part, name, Parameter(p.data * (v[:, None] if rows else v)))
    return part


PARTS = ("head_out", "ln_2", "mlp", "attn", "emb.tok", "emb", "o_proj")


@pytest.mark.parametrize("targets", PARTS)
def test_the_merge_of_any_part_is_judged(model, targets, monkeypatch):
    (handle,) = attached(model, Factor(targets))
    before, y, right = snapshot(model), run(model, IDS), Factored.merged
    last = list(handle.wrappers)[-1]

    def wrong_at_the_end(self):
        part = right(self)
        if self is handle.wrappers[last]:
            p = part.parameters()[-1]  # a bias, where there is one
            ((owner, name),) = owners_of(part, p)
            setattr(owner, name, Parameter(p.data * 1.001))
        return part

    monkeypatch.setattr(Factored, "merged", wrong_at_the_end)
    with pytest.raises(NotMergeable, match=f"{last}: what Factored.merged.. makes is another"):
        handle.merge(untie=True)
    assert_restored(model, before)
    monkeypatch.setattr(Factored, "merged", right)
    report = handle.merge(untie=True)
    assert abs(run(model, IDS) - y).max() <= CLOSE * abs(y).max()
    assert [row["path"] for row in report.rows] == list(handle.wrappers)
    for row in report.rows:
        assert 0 < row["output_rounding"] < 1e-12 and row["output"] > 0.1
        assert row["output_error"] <= 4 * row["output_rounding"]
        assert ("weight_error" in row) == (targets == "o_proj")
    assert len(str(report).splitlines()) == 1 + len(report.rows)


def test_a_merge_inside_a_context_is_compared_outside_of_it(model):
    handle = attach(model, CASES["lora-dropout"].method)
    randomize(handle)
    y = run(model, IDS)
    with running(off=[handle], rng=Rng(0)):
        handle.merge()
    assert abs(run(model, IDS) - y).max() <= CLOSE * abs(y).max()


def test_what_reads_nothing_known_must_say_what_it_reads(model):
    handle = attach(model, Half("head_out"))
    with pytest.raises(NotMergeable, match="Loose.probe.. must say what it reads"):
        handle.merge()


def test_what_only_trained_has_no_rounding(model):
    (handle,) = attached(model, BitFit())
    report = handle.merge()
    assert report.rows == [] and report.worst == 0.0
    assert str(report).endswith("; nothing was rounded") and "part" not in str(report)
    assert report._repr_html_() == f"<p>{report}</p>"


# --- merged, with its base kept ----------------------------------------------------------------


def test_a_later_merge_is_undone_before_an_earlier_one(model):
    before = snapshot(model)
    (first,) = attached(model, LoRA(r=2))
    first.merge(keep=True)
    (second,) = attached(model, LoRA(r=2, seed=1))
    with pytest.raises(RuntimeError, match="'lora' was attached before 'lora'"):
        first.detach()
    second.merge(keep=True)
    with pytest.raises(RuntimeError, match="a merge of a later adapter is undone first"):
        first.detach()
    second.detach()
    first.detach()
    assert_restored(model, before)
    with pytest.raises(RuntimeError, match="this adapter was detached before"):
        first.detach()


def test_the_base_of_a_merge_for_good_is_gone(model):
    (handle,) = attached(model, LoRA(r=2))
    handle.merge()
    assert not handle.swaps
    for p in model.parameters():
        p.requires_grad = False
    with pytest.raises(RuntimeError, match=r"cannot detach: this adapter was merged before; "
                                           r"merge\(keep=True\) holds the base"):  # fmt: skip
        handle.detach()
    assert repr(handle).endswith("merged)") and not any(p.requires_grad for p in model.parameters())


# --- methods on top of methods -----------------------------------------------------------------

STACKS = {
    "LoRA on LoRA": (LoRA(r=2), LoRA(r=2, seed=1)),
    "LoRA on other parts": (LoRA(r=2), LoRA(r=2, targets="fc_in")),
    "mask on LoRA": (LoRA(r=2, targets="fc_in"), Masked()),
    "biases on LoRA": (LoRA(r=2), BitFit()),
    "LoRA on biases": (BitFit(), LoRA(r=2)),
    "all on biases": (BitFit(), Full()),
    "biases on all": (Full(), BitFit()),
    "subspace on LoRA": (LoRA(r=2), Subspace(n=3)),
    "LoRA on subspace": (Subspace(n=3), LoRA(r=2)),
    "subspace on biases": (BitFit(), Subspace(n=3)),
    "subspace on subspace": (Subspace(n=3), Subspace(n=4)),
    "three": (TopK(k=1), LoRA(r=2), LoRA(r=3)),
}
UPPER_FIRST = ("biases on LoRA", "subspace on LoRA")  # the wrapper would copy what another changes


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_merged_in_its_order(model, name):
    handles = attached(model, *STACKS[name])
    y = run(model, IDS)
    order = handles[::-1] if name in UPPER_FIRST else handles
    for handle in order:
        handle.merge()
        assert abs(run(model, IDS) - y).max() <= CLOSE * abs(y).max(), handle
    assert not any(isinstance(part, Wrapper) for _, part in model.named_modules())
    assert not any(x.added or x.parameter.base is not None for x in model.places())
    assert all(p.requires_grad for p in model.parameters())
    plain = GPT(CONFIG, dtype=np.float64)
    plain.load_state_dict(model.state_dict())
    assert same(run(plain, IDS), run(model, IDS))


@pytest.mark.parametrize("name", [n for n in STACKS if n != "LoRA on other parts"])
def test_a_stack_is_not_merged_against_its_order(model, name):
    handles = attached(model, *STACKS[name])
    before = snapshot(model)
    last = handles[0] if name in UPPER_FIRST else handles[-1]
    with pytest.raises(NotMergeable, match="merge '.*' first"):
        last.merge()
    assert_restored(model, before)
    for handle in reversed(handles):
        handle.detach()
    assert same(run(model, IDS), run(CASES["lora"].model(), IDS))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", [n for n in STACKS if n not in (*UPPER_FIRST, "three")])
def test_the_lower_is_merged_and_the_upper_detached(model, name, keep):
    before = snapshot(model)
    alone = CASES["lora"].model()
    (only,) = attached(alone, STACKS[name][0])
    expected = run(alone, IDS)
    only.merge()
    lower, upper = attached(model, *STACKS[name])
    lower.merge(keep=keep)
    assert [p for _, p in upper.trainable()] and upper.over() == []
    assert {id(p) for p in model.parameters() if p.requires_grad} == {
        id(p) for _, p in upper.trainable()
    }
    upper.detach()
    assert abs(run(model, IDS) - expected).max() <= CLOSE * abs(expected).max()
    assert not any(isinstance(part, Wrapper) for _, part in model.named_modules())
    assert not any(x.added or x.parameter.base is not None for x in model.places())
    assert all(p.requires_grad for p in model.parameters())
    assert all(same(a, alone.state_dict()[path]) for path, a in model.state_dict().items())
    if keep:
        lower.detach()
        assert_restored(model, before)


@pytest.mark.parametrize("name", UPPER_FIRST)
def test_the_upper_is_merged_and_the_lower_detached(model, name):
    lower, upper = attached(model, *STACKS[name])
    with_upper = CASES["lora"].model()
    attached(with_upper, STACKS[name][1])
    upper.merge()
    assert all(p.requires_grad for _, p in lower.trainable())
    lower.detach()
    expected = run(with_upper, IDS)
    assert abs(run(model, IDS) - expected).max() <= CLOSE * abs(expected).max()
    assert all(p.requires_grad for p in model.parameters())


# --- of the second order -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["biases on all", "all on biases"])
def test_what_is_merged_below_a_later_clone_is_its_base_from_then_on(model, name):
    lower, upper = attached(model, *STACKS[name])
    randomize(upper, seed=5)
    with running(off=[upper]):
        under = run(model, IDS)
    y = run(model, IDS)
    assert not same(under, y)
    lower.merge()
    assert same(run(model, IDS), y)
    with running(off=[upper]):
        assert same(run(model, IDS), under)
    assert all(p.base.base is None for _, p in upper.trainable())
    moved = {row["path"]: row["update"] for row in upper.report().rows}
    for path, p in upper.trainable():
        assert moved[path] == pytest.approx(np.linalg.norm(p.data - p.base.data))
    upper.detach()
    assert same(run(model, IDS), under)


def test_what_a_reload_replaced_is_detached_to_the_base(model, tmp_path):
    before = snapshot(model)
    (handle,) = attached(CASES["lora"].model(), Subspace(n=4, seed=9))
    handle.save(tmp_path / "a")
    first = attach(model, LoRA(r=2))
    middle = snapshot(model)
    second = attach(model, Subspace(n=4))
    old = dict(second.trainable())
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    with pytest.raises(CheckpointError, match="trained over the methods"):
        second.load(tmp_path / "b")
    assert dict(second.trainable()) == old
    second.detach()
    assert_restored(model, middle)
    first.detach()
    third = attach(model, Subspace(n=4))
    third.load(tmp_path / "a")  # of another seed: all was drawn anew
    assert third.method.seed == 9 and same(run(model, IDS), run(handle.model, IDS))
    third.load(tmp_path / "a")
    third.detach()
    assert_restored(model, before)
    assert not model.attached() and all(p.requires_grad for p in model.parameters())


def test_codes_after_a_load_are_those_of_the_file(tmp_path):
    """Detached, merged and saved again, what was loaded is what was saved."""
    case = CASES["loftq"]
    model, handle = case.attached()
    wanted = run(model, case.inputs())
    handle.save(tmp_path / "a")
    fresh = case.model()
    again = attach(fresh, case.method)
    for w in again.wrappers.values():
        w.A0.data = w.A0.data + 0.3  # as another machine's singular vectors may be
    again.load(tmp_path / "a")
    assert same(run(fresh, case.inputs()), wanted)
    mine, theirs = codes_of(again), codes_of(handle)
    assert all(same(mine[path].packed, w.packed) for path, w in theirs.items())
    assert all(w.handle is again and w.base is not theirs[p].base for p, w in mine.items())
    with running(off=[again]):
        assert same(run(fresh, case.inputs()), run(case.model(), case.inputs()))
    again.save(tmp_path / "b")
    assert load_arrays(tmp_path / "b")[0].keys() == load_arrays(tmp_path / "a")[0].keys()
    again.merge(keep=True, quantized="dequantize")
    assert abs(run(fresh, case.inputs()) - wanted).max() <= CLOSE * abs(wanted).max()
    again.detach()
    assert same(run(fresh, case.inputs()), run(case.model(), case.inputs()))


def test_the_base_of_a_clone_moves_with_it(model, monkeypatch):
    """Two handles deep; a report still tells how far the clones have moved."""
    _, upper = attached(model, Full(), BitFit())
    randomize(upper, seed=5)
    chains = []
    for p in model.parameters():
        while p is not None:
            chains.append(p)
            p = p.base
    assert len({id(p) for p in chains}) > 2 * len(model.base_arrays())
    before = {id(p): p.data for p in chains}
    monkeypatch.setattr("minipeft.nn.module.to_device", lambda array, device: array.copy())
    model.to("cuda")
    for p in chains:
        assert p.data is not before[id(p)] and same(p.data, before[id(p)])
    for handle in model.handles:
        assert all(row["update"] > 0 for row in handle.report().rows)


def test_a_state_that_was_asked_for_does_not_change_later():
    for name in ("pissa", "loftq", "adalora", "magnitude"):
        model, handle = CASES[name].attached()
        state = handle.method.state(handle)
        kept = {key: array.copy() for key, array in state.items()}
        for owner, attribute, array in list(handle.model.arrays()):
            setattr(owner, attribute, array)
            if array.dtype != bool and array.flags.writeable:
                array += 1
        for w in handle.wrappers.values():
            for p in w.own_places():
                if p.parameter.data.flags.writeable:
                    p.parameter.data[...] = 7
        assert all(same(state[key], kept[key]) for key in kept), name
        handle.method.load_state(handle, state)
        for array in state.values():
            array[...] = 1
        assert all(same(a, kept[k]) for k, a in handle.method.state(handle).items()), name
