"""The contract of methods: one list of checks, run over every method on every kind of model.

A check takes a Case. All but the first give every trained array random values of O(0.3), so that
nothing passes because B = 0, or because the same seed draws the same again. The base is random
too: its biases are not 0 and its norms' weights not 1.
"""

import ast
import dataclasses
import inspect
import re
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from minipeft.backend import Rng, to_numpy, xp_of
from minipeft.contract import NotMergeable, Wrapper, attach
from minipeft.engine import grad_check, no_grad, running
from minipeft.generation.sampling import generate
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    Adapter,
    BitFit,
    DoRA,
    FacT,
    Infix,
    LinearProbe,
    LNLoRA,
    LoftQ,
    LoRA,
    Magnitude,
    Movement,
    Parallel,
    PiSSA,
    Prefix,
    Prompt,
    PTuning,
    QLoRA,
    Quantize,
    Steering,
    Subspace,
    TopK,
    VeRA,
    load_adapter,
)
from minipeft.methods.steering import point
from minipeft.models import MODELS, BERTConfig, GPTConfig, LLaMAConfig, ViTConfig
from minipeft.nn import Parameter
from minipeft.storage.checkpoint import load_arrays
from minipeft.training.batches import Batch
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from tests.contract.throwaway import THROWAWAY
from tests.contract.throwaway import FacT as ThrowawayFacT
from tests.contract.throwaway import Steering as Shifts

CONFIG = GPTConfig(vocab=11, context=8, width=8, layers=2, heads=2)
CONFIGS = {
    "gpt": CONFIG,
    "bert": BERTConfig(vocab=11, context=8, width=16, layers=2, heads=2),  # 8 learns too little
    "vit": ViTConfig(image=6, patch=3, channels=2, width=8, layers=2, heads=2, classes=3),
    "llama": LLaMAConfig(vocab=11, context=8, width=24, layers=2, heads=6, kv_heads=2, mlp=32),
}
REFUSED = {  # kind -> methods that it refuses, and what it says
    "llama": {"bitfit": "changes nothing in this model.* are called weight$"},
    "vit": dict.fromkeys(
        ("prompt", "ptuning", "infix"), "and this model reads pictures: take Prefix$"
    ),
}
PRUNED = ("magnitude", "movement")
ONE = "(L - drop) * (2 * d * r + r + d) per model"  # adapter in a block
TWO = "2 * (L - drop) * (2 * d * r + r + d)"
NONLINEAR = "an adapter has an activation between its two matrices"
QKV = ("q_proj", "k_proj", "v_proj")
CLOSE = 1e-12  # of max |y|, in float64
LEARNT, TIED = 0.3, 0.03  # nats by which training must beat lr = 0, and shuffled labels


@dataclass(frozen=True)
class Case:
    """A method, a kind of model, the array library, and a count where not the docstring's holds.

    head       a method that trains nothing is checked on models with a new head, which trains
    quantized  how to merge what refuses unless it is told
    stuck      of a method that cannot be merged: what it says instead
    put        how many places it puts before or into a text, which is shorter by as many
    lr         at which it learns; what trains a few inputs wants a larger one
    """

    method: Any
    adds: str = ""
    xp: Any = np
    kind: str = "gpt"
    head: bool = False
    quantized: str = "refuse"
    stuck: str = ""
    put: int = 0
    lr: float = 0.03

    def model(self, dtype=np.float64, seed=0, head_seed=0, init="normal", **changes):
        """A base whose every parameter is random of O(0.3), or has a shape alone."""
        changes = (self.classifier if self.head else {}) | changes
        model = MODELS[self.kind][0](
            dataclasses.replace(CONFIGS[self.kind], **changes), dtype=dtype, init=init
        )
        for path, p in model.named_parameters() if init == "normal" else ():
            rng = Rng(head_seed if path.startswith("head") else seed, path)
            norm = re.search(r"\.ln(_\w+)?\.weight", f".{path}") is not None
            p.data = self.xp.asarray(0.3 * rng.normal(p.shape) + norm, dtype=dtype)
        return model

    def attached(self, dtype=np.float64, **changes):
        """A base, the handle on it, and random trained values."""
        model = self.model(dtype, **changes)
        handle = attach(model, self.method)
        randomize(handle)
        return model, handle

    def other(self):
        """The same settings with another seed, if the method has one."""
        return dataclasses.replace(self.method, seed=1) if hasattr(self.method, "seed") else None

    def inputs(self, seed=0, rows=2):
        """Ids, or images."""
        if self.kind == "vit":
            c = CONFIGS["vit"]
            shape = (rows, c.channels, c.image, c.image)
            return self.xp.asarray(Rng(seed, "images").normal(shape))
        shape = (rows, CONFIG.context - self.put)
        return self.xp.asarray(Rng(seed, "ids").integers(0, CONFIG.vocab, shape))

    def batches(self, shuffled=False, classes=None):
        """Something to learn, or to learn in vain."""
        classes = classes or (3 if self.head else None)
        length = CONFIG.context - self.put
        return Looks(shuffled) if self.kind == "vit" else Next(shuffled, classes, length)

    @property
    def steps(self):
        """How many it takes to move all that trains."""
        return 8 if self.method.skips else 3

    @property
    def classifier(self):
        """The changes of a config that give it a new head; a ViT always has one."""
        return {} if self.kind == "vit" else {"head": "linear", "classes": 3}


def put_in(n, method, adds="", lr=0.1):
    """The case of a method that puts n places into a text."""
    stuck = f"'{method.name}' changes the input, not the weights: there is nothing to merge it into"
    return Case(method, adds, stuck=stuck, put=n, lr=lr)


SETTINGS = {  # what suits the tiny model; a method without an entry is checked with its defaults
    "topk": {"": Case(TopK(k=1)), "ln_f": Case(TopK(k=1, ln_f=True))},
    "bitfit": {"": Case(BitFit()), "qm": Case(BitFit(terms="qm"), "5 * d * L per model")},
    "linear_probe": {"": Case(LinearProbe(), head=True)},
    "ia3": {
        "": Case(IA3()),
        "peft-gpt2": Case(IA3((*QKV, "fc_out")), "(d + 2 * kv + F) * L per model"),
        "peft-bert": Case(
            IA3(("k_proj", "v_proj", "o_proj", "fc_out"), ("o_proj", "fc_out")),
            "(2 * kv + d + F) * L per model",
        ),
    },
    "lora": {
        "": Case(LoRA(r=2, alpha=3.0)),
        "all-linear": Case(LoRA(r=3, alpha=1.0, targets="all-linear", rslora=True, init="peft")),
        "fused": Case(
            LoRA(r=2, alpha=3.0, targets=QKV, fused=QKV, init="gaussian"),
            "r * 2 * (d + kv) * L per model",
        ),
        "dropout": Case(LoRA(r=2, alpha=3.0, targets=("fc_in", "o_proj"), dropout=0.2)),
    },
    "quant": {
        "": Case(Quantize(), head=True),
        "fp4": Case(Quantize("fp4", 5, double=False, targets=("q_proj", "fc_in")), head=True),
        "int3": Case(Quantize("int3", 0, bf16=True), head=True),
    },
    "qlora": {
        "": Case(QLoRA(r=2, alpha=3.0), quantized="dequantize"),
        "fused": Case(
            QLoRA(r=2, alpha=3.0, targets=QKV, fused=QKV, code="fp4", block=5, double=False),
            "r * 2 * (d + kv) * L per model",
            quantized="dequantize",
        ),
    },
    "subspace": {
        "": Case(Subspace(d=200)),
        "said": Case(Subspace(d=200, said="layer", projection="sparse")),
        "per-tensor": Case(Subspace(d=150, said="tensor", per_tensor=True)),
        "dense": Case(Subspace(d=100, projection="dense")),
    },
    "magnitude": {
        "": Case(Magnitude(s=0.6, n=4)),
        "at-once": Case(Magnitude(s=0.4, scope="global", targets="all-linear", bias=False)),
    },
    "movement": {
        "": Case(Movement(v=0.3)),
        "global": Case(Movement(v=0.5, scope="global", bias=False, targets=("o_proj", "fc_in"))),
        "soft": Case(Movement(mode="soft", tau=0.4, c=2.0)),
    },
    "dora": {
        "": Case(DoRA(r=2, alpha=3.0)),
        "by_input": Case(DoRA(r=2, alpha=3.0, targets=("fc_in", "fc_out"), by_input=True)),
        "exact": Case(DoRA(r=3, targets="all-linear", exact=True, rslora=True)),
        "fused": Case(
            DoRA(r=2, targets=QKV, fused=QKV), "(r * 2 * (d + kv) + d + 2 * kv) * L per model"
        ),
    },
    "vera": {
        "": Case(VeRA(r=6, d_initial=1.0, targets="all-linear")),
        "fused": Case(VeRA(r=16, targets=QKV, fused=QKV), "(r + d + 2 * kv) * L per model"),
    },
    "pissa": {
        "": Case(PiSSA(r=2)),
        "all-linear": Case(PiSSA(r=3, alpha=1.0, targets="all-linear", dropout=0.2)),
    },
    "loftq": {
        "": Case(LoftQ(r=2, alpha=3.0), quantized="dequantize"),
        "fp4": Case(
            LoftQ(r=3, T=2, code="fp4", block=0, double=False, targets=("q_proj", "fc_in")),
            quantized="dequantize",
        ),
    },
    "adalora": {
        "": Case(AdaLoRA(r=4, target=2, t_f=0.0)),
        "fused": Case(
            AdaLoRA(r=3, target=2, alpha=8.0, targets=QKV, fused=QKV, squared=True, gamma=0.1),
            "(2 * (d + kv) * r + r) * L per model",
        ),
    },
    "prefix": {
        "": put_in(2, Prefix(n=2)),
        "mlp": put_in(
            2, Prefix(n=2, mlp=3), "n * d + (d + 1) * mlp + 2 * L * kv * (mlp + 1) per model"
        ),
        "layer": put_in(2, Prefix(n=2, layers=(0,)), "2 * kv * n per model", lr=1.0),
    },
    "prompt": {
        "": put_in(2, Prompt(n=2), lr=1.0),
        "deep": put_in(2, Prompt(n=2, init="vocab", deep=True)),
    },
    "infix": {"": put_in(2, Infix(n=2), lr=1.0)},
    "ptuning": {
        "": put_in(2, PTuning(n=2, h=3)),
        "lstm": put_in(
            2,
            PTuning(n=2, h=5, encoder="lstm", seed=7),
            "n * d + 8 * h * (d + h + 2) + 8 * h * (3 * h + 2) + 4 * h * h + 2 * h * (d + 1) + d "
            "per model",
            lr=1.0,
        ),
        "embedding": put_in(2, PTuning(n=2, encoder="embedding"), "n * d per model", lr=1.0),
    },
    "adapter": {
        "": Case(Adapter(r=4), stuck=f"blocks.0.attn: {NONLINEAR}"),
        "norms": Case(Adapter(r=4, norms=True, init="houlsby", act="swish"), stuck=NONLINEAR),
        "pfeiffer": Case(Adapter(r=4, place="pfeiffer", init="normal"), ONE, stuck=NONLINEAR),
        "lin": Case(
            Adapter(r=4, place="lin", drop=1),
            "(L - drop) * (2 * d * r + r + 3 * d) per model",
            stuck=f"blocks.1: {NONLINEAR}",
        ),
        "drop": Case(Adapter(r=4, place="pfeiffer", drop_most=1), ONE, stuck=NONLINEAR),
    },
    "parallel": {
        "": Case(Parallel(r=4), stuck=NONLINEAR),
        "ln": Case(Parallel(r=4, reads="ln", s=1.0, act="gelu"), stuck=f"mlp: {NONLINEAR}"),
        "attn": Case(Parallel(r=4, sublayer="attn"), stuck=NONLINEAR),
    },
    "lnlora": {
        "": Case(LNLoRA(r=2, alpha=3.0), stuck="norm divides by the deviation of each input"),
        "few": Case(LNLoRA(r=3, targets=("q_proj", "fc_out")), stuck="no one matrix"),
    },
    "fact": {
        "": Case(FacT(r=3)),
        "tk": Case(
            FacT(r=3, form="tk", s=2.0, targets=(*QKV, "o_proj")),
            "2 * d * r + 4 * L * r + r ** 3 per model",
        ),
    },
    "steering": {
        "": Case(Steering(k=2, positions="all"), head=True),
        "answer": Case(Steering(k=3, alpha=-1.0), head=True, stuck="bias acts at all positions"),
    },
    "throwaway_steering": {
        "": Case(Shifts()),
        "tap": Case(Shifts("head_out"), stuck="head_out: a Tap holds no bias: shift what o_pr"),
    },
}
CASES = {
    f"{name}-{setting}".rstrip("-"): case
    for name, method in {**METHODS, **THROWAWAY}.items()
    for setting, case in SETTINGS.get(name, {"": Case(method())}).items()
}


ON = {  # kind -> case -> the method there, where its own targets do not fit
    "llama": {"throwaway_fact": ThrowawayFacT(targets=("q_proj", "o_proj"))},
}


def on(kind, name):
    """A case on a kind of model."""
    case = CASES[name]
    return dataclasses.replace(case, kind=kind, method=ON.get(kind, {}).get(name, case.method))


def randomize(handle, seed=7):
    """Random values of O(0.3) in all that trains, and a state that a step has changed.

    What is measured instead of trained is random too.
    """
    if isinstance(handle.method, Steering):
        found = handle.method.state(handle)
        heads = [(i % 2, 0 if i < 2 else 1) for i in range(handle.method.k)]
        theta, sigma = (0.3 * Rng(seed, n).normal(found[n].shape) for n in ("theta", "sigma"))
        point(handle, heads, theta, sigma)
    for path, p in handle.trainable():
        x = 0.3 * Rng(seed, path).normal(p.shape)
        p.data = xp_of(p.data).asarray(x, dtype=p.dtype)
        p.grad = xp_of(p.data).asarray(Rng(seed, path, "g").normal(p.shape), dtype=p.dtype)
    handle.before_step(0, 2)
    for _, p in handle.trainable():
        p.grad = None
    handle.after_step(0, 2)


@contextmanager
def norms_held(handle):
    """DoRA's norms as constants, as its gradient takes them unless it is `exact`."""
    held = [] if handle.method.exact else list(handle.wrappers.values())
    for w in held:
        with no_grad():
            n = w.norm()
        w.norm = lambda n=n: n
    yield
    for w in held:
        del w.norm


@contextmanager
def masks_held(handle):
    """Movement's masks as they are, without the scores that they follow."""
    for w in handle.wrappers.values():
        w.masked = lambda w=w, mask=w.mask: w.W * mask
    yield
    for w in handle.wrappers.values():
        del w.masked


# of a surrogate gradient: what stands still, so that it is exact
HELD = {"dora": norms_held, "movement": masks_held}


def run(model, ids, **settings):
    """The output's array, with nothing recorded."""
    with no_grad():
        return to_numpy(model(ids, **settings).data)


def same(a, b):
    """Equal bit for bit."""
    a, b = to_numpy(a), to_numpy(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def snapshot(model):
    """What detach must bring back: every part and Parameter, the same objects, flags and bytes."""
    parts = [(path, part) for path, part in model.named_modules()]
    flags = [(x, x.parameter.requires_grad) for x in model.places()]
    arrays = [(x.parameter.data, to_numpy(x.parameter.data).tobytes()) for x in model.places()]
    return parts, flags, arrays


def assert_restored(model, before):
    parts, flags, arrays = before
    for (path, old), (_, new) in zip(parts, model.named_modules(), strict=True):
        assert new is old, path
    for (old, flag), new, (array, raw) in zip(flags, model.places(), arrays, strict=True):
        assert new.parameter is old.parameter and new.owner is old.owner, old.path
        assert new.path == old.path and new.parameter.requires_grad == flag, old.path
        assert new.parameter.data is array and to_numpy(array).tobytes() == raw, old.path


class Next:
    """Batches to learn from: what follows a token is a function of it; `shuffled` cuts the tie."""

    def __init__(self, shuffled=False, classes=None, length=CONFIG.context):
        self.shuffled, self.classes, self.length = shuffled, classes, length

    def batch(self, step, size, seed):
        ids = Rng(seed, "next", step).integers(0, CONFIG.vocab, (size, self.length))
        if self.classes is None:
            labels = ids % 3
        else:
            ids[:, 0] = ids[:, -1]  # a head looks at the first token or the last
            labels = ids[:, -1] % self.classes
        if self.shuffled:
            order = Rng(seed, "order", step).permutation(labels.size)
            labels = labels.reshape(-1)[order].reshape(labels.shape)
        return Batch(ids, labels, np.ones(ids.shape, bool))


class Looks:
    """Images to tell apart: one pattern for each class, under noise."""

    def __init__(self, shuffled=False):
        self.shuffled = shuffled

    def batch(self, step, size, seed):
        c, rng = CONFIGS["vit"], Rng(seed, "looks", step)
        shape = (c.channels, c.image, c.image)
        labels = rng.integers(0, c.classes, size)
        images = Rng(0, "patterns").normal((c.classes, *shape))[labels] + rng.normal((size, *shape))
        if self.shuffled:
            labels = labels[rng.permutation(size)]
        return Batch(images, labels, np.ones((size, 1 + c.patches), bool))


class Letters:
    """A tokenizer of single letters."""

    pad_id, end_id = 0, CONFIG.vocab - 1

    def encode(self, text):
        return [ord(c) - ord("a") for c in text]

    def decode(self, ids):
        return "".join(chr(ord("a") + i) for i in ids)


# --- the checks --------------------------------------------------------------------------------


def starts_as_the_identity(case, _):
    for dtype in (np.float32, np.float64):
        model = case.model(dtype)
        before = run(model, case.inputs())
        attach(model, case.method)
        after = run(model, case.inputs())
        assert after.dtype == dtype
        assert same(after, before) == (not case.method.identity)


def only_what_trains_gets_gradients(case, _):
    model = case.model()
    base = [x.parameter for x in model.places()]
    handle = attach(model, case.method)
    randomize(handle)
    model(case.inputs()).sum().backward()
    trained = {id(p) for _, p in handle.trainable()}
    assert trained and not trained & {id(p) for p in base}
    for place in model.places():
        p = place.parameter
        assert p.requires_grad == (id(p) in trained), place.path
        assert (p.grad is not None) == (id(p) in trained), place.path
    assert all(p.grad is None for p in base)
    assert {id(p) for p in model.parameters()} >= trained


def every_trained_array_matters(case, _):
    model, handle = case.attached()
    y = run(model, case.inputs())
    for path, p in handle.trainable():
        kept = p.data
        p.data = kept + case.xp.asarray(0.1 * Rng(1, path).normal(p.shape))
        change = abs(run(model, case.inputs()) - y).max()
        p.data = kept
        bias = "b" if case.method.name in PRUNED else "ln.bias"  # its name in a pruned part
        turned = case.kind == "llama"  # each key by its place
        if path.endswith(("k_proj.bias", f"k_proj.{bias}")) and not turned:  # softmax is blind
            assert change < CLOSE * abs(y).max(), path
        else:
            assert change > 1e-6, path
    assert same(run(model, case.inputs()), y)


def training_leaves_the_base_alone(case, _):
    model = case.model(np.float32)
    before, state = snapshot(model), model.state_dict()
    handle = attach(model, case.method)
    randomize(handle)
    start = {path: to_numpy(p.data).copy() for path, p in handle.trainable()}
    settings = {"steps": case.steps, "lr": 0.01, "batch": 4, "decay": 0.1, "quiet": True}
    fit(model, case.batches(), **settings)
    fit(model, case.batches(), optimizer="sgd", **settings)
    assert all(not same(p.data, start[path]) for path, p in handle.trainable())
    assert all(to_numpy(array).tobytes() == raw for array, raw in before[2])
    assert model.base_arrays().keys() == state.keys()
    assert all(same(a, state[path]) for path, a in model.base_arrays().items())


def gradients_are_right(case, _):
    model, handle = case.attached()
    params = [p for _, p in handle.trainable()]
    assert case.method.gradient == "exact" or case.method.name in HELD
    with HELD.get(case.method.name, nullcontext)(handle):
        assert grad_check(lambda: model(case.inputs()), params=params) < 1e-8
    if handle.extra_loss() is not None:
        assert grad_check(handle.extra_loss, params=params) < 1e-8


def the_loss_falls(case, _):
    held = case.batches().batch(0, 64, seed=99)

    def after(lr, shuffled):
        model = case.model(np.float32)
        attach(model, case.method)
        fit(model, case.batches(shuffled), steps=60, lr=lr, batch=8, quiet=True)
        with no_grad():
            return loss_of(model, held).item()

    trained = after(case.lr, False)
    assert trained < after(0.0, False) - LEARNT
    assert trained < after(case.lr, True) - TIED


def the_count_is_the_docstring_s(case, _):
    for model in (case.model(), case.model(init="shape")):
        handle = attach(model, case.method)
        assert handle.count() == stated_count(handle, case.adds)
        trained = sum(p.size for _, p in handle.trainable())
        assert handle.count() + handle.count_head() == trained
        assert f"{handle.count():,}" in repr(handle)


def a_file_holds_all(case, tmp_path):
    file = tmp_path / "adapter.safetensors"
    model, handle = case.attached()
    y = run(model, case.inputs())
    handle.save(file)
    fresh = case.model()
    second = attach(fresh, case.other() or case.method)
    assert not same(run(fresh, case.inputs()), y)
    second.load(file)
    assert same(run(fresh, case.inputs()), y) and second.method == case.method.settled()
    alone = case.model()
    third = load_adapter(alone, file, {**METHODS, **THROWAWAY})
    assert same(run(alone, case.inputs()), y) and third.method == second.method
    names = {path for path, _ in third.trainable()}
    third.detach()
    assert same(run(alone, case.inputs()), run(case.model(), case.inputs()))
    arrays, _ = load_arrays(file)
    state = {f"state:{name}" for name in handle.method.state(handle)}
    assert set(arrays) == names | state


def merged_weights_do_the_same(case, _):
    if case.stuck:
        return it_says_why_it_stays(case)
    for dtype, close in ((np.float64, CLOSE), (np.float32, 2e-5)):
        model, handle = case.attached(dtype)
        base = run(case.model(dtype), case.inputs())
        y = run(model, case.inputs())
        report = handle.merge(quantized=case.quantized)
        merged = run(model, case.inputs())
        assert abs(merged - y).max() <= close * abs(y).max()
        assert abs(merged - base).max() > 1e-3 * abs(y).max()
        assert not any(isinstance(part, Wrapper) for _, part in model.named_modules())
        assert not any(x.added or x.parameter.base is not None for x in model.places())
        assert not model.handles and all(p.requires_grad for p in model.parameters())
        assert {r["path"] for r in report.rows} == set(handle.wrappers)
        plain = case.model(dtype)
        for place in model.places():  # a part without a bias may have got one
            part = plain.get(place.path.rpartition(".")[0])
            if getattr(part, place.name) is None:
                setattr(part, place.name, Parameter(np.zeros_like(place.parameter.data)))
        plain.load_state_dict(model.state_dict())
        assert same(run(plain, case.inputs()), merged)
        with pytest.raises(RuntimeError, match=r"merged before; merge\(keep=True\)"):
            handle.detach()


def it_says_why_it_stays(case):
    """Merging is refused, in words, and nothing has changed."""
    model, handle = case.attached()
    before, y = snapshot(model), run(model, case.inputs())
    for keep in (False, True):
        with pytest.raises(NotMergeable, match=case.stuck):
            handle.merge(keep=keep, quantized=case.quantized)
        assert_restored(model, before)
        assert same(run(model, case.inputs()), y) and not handle.ended
    handle.detach()
    assert same(run(model, case.inputs()), run(case.model(), case.inputs()))


def a_kept_base_comes_back(case, _):
    if case.stuck:
        return
    model = case.model()
    before = snapshot(model)
    handle = attach(model, case.method)
    randomize(handle)
    y = run(model, case.inputs())
    handle.merge(keep=True, quantized=case.quantized)
    held = [array for array, _ in before[2]]
    new = [p for p in model.parameters() if not any(p is x.parameter for x, _ in before[1])]
    assert new and not any(case.xp.shares_memory(p.data, a) for p in new for a in held)
    assert abs(run(model, case.inputs()) - y).max() <= CLOSE * abs(y).max()
    handle.detach()
    assert_restored(model, before)


def detach_restores_the_base(case, _):
    model = case.model(np.float32)
    before, y = snapshot(model), run(model, case.inputs())
    for _ in range(2):
        with attach(model, case.method) as handle:
            randomize(handle)
            assert not same(run(model, case.inputs()), y)
            fit(model, case.batches(), steps=case.steps, lr=0.1, batch=2, quiet=True)
        assert_restored(model, before)
        assert same(run(model, case.inputs()), y)


def a_wrong_target_is_refused(case, _):
    model = case.model()
    before = snapshot(model)
    if "targets" not in {f.name for f in dataclasses.fields(case.method)}:
        return  # it has none, or names them by a setting
    with pytest.raises(ValueError, match="'q_porj' matches no part.*Did you mean 'q_proj'"):
        attach(model, dataclasses.replace(case.method, targets=("fc_in", "q_porj")))
    assert_restored(model, before)
    attach(model, case.method)


def generation_and_no_grad_see_the_method(case, _):
    model, handle = case.attached()
    ids = case.inputs()
    y = model(ids)
    assert y.requires_grad and same(run(model, ids), y.data)
    assert not same(run(model, ids), run(case.model(), ids))
    randomize(handle, seed=8)
    assert not same(run(model, ids), y.data)
    everywhere = getattr(case.method, "positions", "all") == "all"  # not where logits are read
    if case.kind in ("gpt", "llama") and case.method.name != "linear_probe" and everywhere:
        words, _ = dataclasses.replace(case, head=False).attached()
        generation_sees_the_method(case, words, ids)


def generation_sees_the_method(case, model, ids):
    y = model(ids)
    with no_grad():
        _, past = model(ids[:, :5], return_past=True)
        rest = to_numpy(model(ids[:, 5:], past=past).data)
    assert abs(rest - to_numpy(y.data)[:, 5:]).max() < 1e-10 * abs(y.data).max()
    model.tokenizer = Letters()
    text = generate(model, "abc", max_tokens=4)
    expected = "abc"
    while len(expected) < 7:
        row = case.xp.asarray([Letters().encode(expected)])
        last = int(run(model, row)[0, -1].argmax())
        if last == Letters.end_id:
            break
        expected += Letters().decode([last])
    assert "abc" + text == expected


def a_new_head_trains_beside(case, tmp_path):
    shape = case.classifier
    model, handle = case.attached(**shape)
    size = sum(p.size for p in model.head.parameters())
    assert handle.count_head() == size and handle.count() == stated_count(handle, case.adds)
    start = to_numpy(model.head.weight.data).copy()
    fit(model, case.batches(classes=3), steps=case.steps, lr=0.01, batch=4, quiet=True)
    assert not same(model.head.weight.data, start)
    y = run(model, case.inputs())
    handle.save(tmp_path / "a")
    assert "head.weight" in load_arrays(tmp_path / "a")[0]
    other = case.model(head_seed=1, **shape)  # a new head is no part of the base
    load_adapter(other, tmp_path / "a", {**METHODS, **THROWAWAY})
    assert same(run(other, case.inputs()), y)
    if case.stuck:
        return
    handle.merge(quantized=case.quantized)
    assert abs(run(model, case.inputs()) - y).max() <= CLOSE * abs(y).max()


def it_can_be_turned_off(case, _):
    for shape in ({}, case.classifier):
        model, handle = case.attached(**shape)
        with running(off=[handle]):
            assert same(run(model, case.inputs()), run(case.model(**shape), case.inputs()))
        assert not same(run(model, case.inputs()), run(case.model(**shape), case.inputs()))


def a_report_tells_what_moved(case, _):
    model = case.model(np.float32)
    handle = attach(model, case.method)
    assert set(handle.report().never_moved) == {path for path, _ in handle.trainable()}
    assert "No step was watched" in str(handle.report())
    fit(model, case.batches(), steps=case.steps, lr=0.01, batch=4, quiet=True)
    report = handle.report()
    assert not report.never_moved and report.steps == case.steps and report.count == handle.count()
    assert all(row["gradient"] is not None for row in report.rows)
    assert "Everything that trains has moved" in report._repr_html_()


CHECKS = [
    starts_as_the_identity,
    only_what_trains_gets_gradients,
    every_trained_array_matters,
    training_leaves_the_base_alone,
    gradients_are_right,
    the_loss_falls,
    the_count_is_the_docstring_s,
    a_file_holds_all,
    merged_weights_do_the_same,
    a_kept_base_comes_back,
    detach_restores_the_base,
    a_wrong_target_is_refused,
    generation_and_no_grad_see_the_method,
    a_new_head_trains_beside,
    it_can_be_turned_off,
    a_report_tells_what_moved,
]


# --- what a docstring says that a method adds --------------------------------------------------


FIELDS = "Paper Kind Unified Touches Adds Merges Saves Differs Lecture Homework".split()
FIELD = re.compile(rf"(?:^|  )({'|'.join(FIELDS)}) +", re.MULTILINE)


def fields_of(kind):
    """What a docstring says under the names of the ten fields, in the order they stand in."""
    _, *parts = FIELD.split(inspect.getdoc(kind) or "")
    return {
        name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


ADDS = {  # where a docstring counts a GPT: m = 1 with a head for masked words, P inputs of a patch,
    # kv the width of keys and values, F of the MLP, untied = 1 where the head is not the embedding
    "bert": {
        "full": "V * d + T * d + 4 * d + L * (12 * d * d + 13 * d) + d * d + d + m * (2 * d + V) "
        "per model",
        "topk": "k * (12 * d * d + 13 * d) per model",
        "bitfit": "11 * d * L + 2 * d + m * (d + V) per model",
        "ln_tuning": "(2 * L + 1) * 2 * d + m * 2 * d per model",
        "adapter": f"{TWO} + norms * (2 * L + 1 + m) * 2 * d per model",
    },
    "vit": {
        "full": "P * d + 2 * d + T * d + L * (12 * d * d + 13 * d) + 2 * d per model",
        "bitfit": "11 * d * L + 2 * d per model",
    },
    "llama": {
        "full": "(1 + untied) * V * d + L * (2 * d * (d + kv) + 3 * d * F + 2 * d) + d per model",
        "topk": "k * (2 * d * (d + kv) + 3 * d * F + 2 * d) + ln_f * d per model",
        "magnitude": "d_in * d_out per module",
        "movement": "2 * d_in * d_out per module",
        "ln_tuning": "(2 * L + 1) * d per model",
        "ia3": "(2 * kv + F) * L per model",
        "fact": "2 * d * r + 8 * L * r * r per model",  # F = 32 takes two pieces, k and v one
        "prefix": "2 * L * kv * n per model",
        "infix": "2 * L * kv * n per model",
        "adapter": f"{TWO} + norms * (2 * L + 1) * d per model",
        "throwaway_produced": "L * k + k * h + h + F * (h + 1) per model",
    },
}


def stated_count(handle, adds=""):
    """What stands before `per` in a method's Adds, with this model's sizes and its own fields."""
    method, config = handle.method, handle.model.config
    module = sys.modules[type(method).__module__]
    stated = fields_of(type(method) if type(method) in THROWAWAY.values() else module)["Adds"]
    kind = type(handle.model).__name__.lower()
    formula, _, rest = (adds or ADDS.get(kind, {}).get(method.name, stated)).partition(" per ")
    names = {"d": config.width, "L": config.layers, "kv": config.width}
    names["F"] = config.mlp or 4 * config.width
    if kind == "vit":
        names |= {"T": 1 + config.patches, "P": config.channels * config.patch**2}
    else:
        names |= {"V": config.vocab, "T": config.context, "m": config.head == "mlm"}
    if kind == "llama":
        names["kv"] = handle.model.blocks[0].attn.k_proj.d_out
        names["untied"] = config.head == "lm" and not config.tied
    names |= {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    if rest.startswith("model"):
        return evaluated(formula, names)
    assert rest.startswith("module"), adds
    shapes = [w.weight.shape for w in handle.wrappers.values()]
    return sum(evaluated(formula, names | {"d_in": n, "d_out": m}) for m, n in shapes)


def evaluated(formula, names):
    """The value of + - * and ** over names and whole numbers."""
    signs = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Pow: "__pow__"}

    def value(node):
        if isinstance(node, ast.BinOp):
            return getattr(value(node.left), signs[type(node.op)])(value(node.right))
        if isinstance(node, ast.Name):
            return int(names[node.id])
        assert isinstance(node, ast.Constant) and type(node.value) is int, ast.dump(node)
        return node.value

    return value(ast.parse(formula.strip(), mode="eval").body)
