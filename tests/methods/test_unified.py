"""The rows of the map are true: each method's h, Δh and composition, computed by hand."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, fused, no_grad, running
from minipeft.methods import (
    IA3,
    AdaLoRA,
    Adapter,
    BitFit,
    DoRA,
    LNTuning,
    LoRA,
    Parallel,
    PiSSA,
    Prefix,
    Prompt,
    VeRA,
)
from minipeft.methods.adapter import Bottleneck
from minipeft.methods.lora import LoRALinear
from minipeft.methods.parallel import Beside
from minipeft.nn import Linear, Parameter
from tests.tiny import gpt, tokenizer

IDS = Rng(0).integers(2, tokenizer().vocab_size, (2, 6))
D, D_OUT, R = 8, 6, 3


def drawn(name, *shape):
    return Rng(0, name).normal(shape)


def attached(method, path):
    """A model with the method and random trained values; the wrapper at a path, x, and base(x)."""
    model = gpt()
    at = attach(model, method)
    for name, p in at.trainable():
        p.data = p.data + 0.3 * Rng(1, name).normal(p.shape)
    w = at.wrappers[path]
    x = Tensor(drawn("x", 2, 5, 64 if path.endswith("fc_out") else 16))
    return w, x.data, w.base(x).data, w(x).data


def low_rank(x, A, B):
    return x @ A.T @ B.T


LINEAR = {  # method -> (Δh of the wrapper and x, the composition of h and Δh)
    LoRA(r=R): (lambda w, x: low_rank(x, w.A.data, w.B.data), lambda w, h, dh: h + w.scale * dh),
    VeRA(r=R): (
        lambda w, x: w.b.data * low_rank(w.d.data * (x @ w.A.data.T), np.eye(R), w.B.data),
        lambda w, h, dh: h + dh,
    ),
    PiSSA(r=R): (
        lambda w, x: low_rank(x, w.A.data, w.B.data) - low_rank(x, w.A0.data, w.B0.data),
        lambda w, h, dh: h + w.scale * dh,
    ),
    AdaLoRA(r=R): (
        lambda w, x: low_rank(x, np.diag(w.Lambda.data) @ w.Q.data, w.P.data),
        lambda w, h, dh: h + w.scale * dh,
    ),
    DoRA(r=R): (
        lambda w, x: low_rank(x, w.A.data, w.B.data),
        lambda w, h, dh: w.m.data * (h - w.base.bias.data + w.scale * dh)
        / np.linalg.norm(w.base.weight.data + w.scale * w.B.data @ w.A.data, axis=1)
        + w.base.bias.data,
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", LINEAR, ids=lambda m: m.name)
def test_a_linear_s_row(method):
    w, x, h, y = attached(method, "blocks.1.attn.v_proj")
    form, composition = LINEAR[method]
    np.testing.assert_allclose(y, composition(w, h, form(w, x)), rtol=0, atol=1e-12)
    assert abs(y - h).max() > 0.01


def test_ia3_s_row():
    w, _, h, y = attached(IA3(), "blocks.1.attn.k_proj")
    np.testing.assert_allclose(y, h + (w.l.data - 1) * h, rtol=0, atol=1e-12)
    w, x, _, y = attached(IA3(), "blocks.1.mlp.fc_out")  # there h is what the part reads
    np.testing.assert_allclose(y, w.base(Tensor(x + (w.l.data - 1) * x)).data, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "part"), [(BitFit(), "attn.v_proj"), (LNTuning(), "ln_1")])
def test_a_subset_s_row(method, part):
    """b - b0, and (w - w0) * z + b - b0, added to what the part gives out."""
    model, path = gpt(), f"blocks.1.{part}"
    parameters = dict(model.named_parameters())
    old = {name: p.data.copy() for name, p in parameters.items()}
    module = model.blocks[1].ln_1 if part == "ln_1" else model.blocks[1].attn.v_proj
    x = Tensor(drawn("x", 2, 5, 16))
    h = module(x).data
    at = attach(model, method)
    for name, p in at.trainable():
        p.data = p.data + 0.3 * Rng(1, name).normal(p.shape)
    new = dict(model.named_parameters())
    change = new[f"{path}.bias"].data - old[f"{path}.bias"]
    if part == "ln_1":
        z = (h - old[f"{path}.bias"]) / old[f"{path}.weight"]
        change = change + (new[f"{path}.weight"].data - old[f"{path}.weight"]) * z
    np.testing.assert_allclose(module(x).data, h + change, rtol=0, atol=1e-12)
    assert abs(change).max() > 0.1


@pytest.mark.parametrize("sublayer", ["mlp", "attn"])
def test_sequential_reads_h_and_parallel_reads_x(sublayer):
    model = gpt()
    for method, reads in ((Adapter(r=R), "h"), (Parallel(r=R, reads="ln", sublayer=sublayer), "x")):
        with attach(model, method) as at, no_grad():
            w = at.wrappers[f"blocks.0.{sublayer}"]
            for name, p in at.trainable():
                p.data = p.data + 0.3 * Rng(1, name).normal(p.shape)
            x = Tensor(drawn("x", 2, 5, 16))
            h = w.base(x)
            s = getattr(w, "s", 1.0)
            wanted = h.data + s * w.adapter(h if reads == "h" else x).data
            np.testing.assert_allclose(w(x).data, wanted, rtol=0, atol=1e-12)
            other = h.data + s * w.adapter(x if reads == "h" else h).data
            assert abs(w(x).data - other).max() > 0.01


def pair(act):
    """A scaled parallel adapter at a Linear, and the LoRA of the same matrices."""
    base = Linear.of(Parameter(drawn("W", D_OUT, D)), Parameter(drawn("b", D_OUT)))
    A, B = Parameter(drawn("A", R, D)), Parameter(drawn("B", D_OUT, R))
    none = [Parameter(np.zeros(n)) for n in (R, D_OUT)]
    inner = Bottleneck(Linear.of(A, none[0]), Linear.of(B, none[1]), act, None)
    x = Tensor(drawn("x", 5, D))
    return Beside(base, 0, inner, 2.5)(x).data, LoRALinear(base, A, B, 2.5, 0.0, "")(x).data


def test_without_its_activation_a_scaled_parallel_adapter_is_lora():
    beside, lora = pair(lambda x: x)
    np.testing.assert_allclose(beside, lora, rtol=0, atol=1e-12)
    beside, lora = pair(fused.gelu)
    assert abs(beside - lora).max() > 0.1


@pytest.mark.parametrize(("heads", "n"), [(1, 2), (2, 2), (4, 2), (4, 1)])
def test_per_head_a_prefix_has_heads_times_the_rank_of_an_adapter(heads, n):
    """2 d n parameters in both: g Δh of n positions for each head has rank heads * n, not n."""
    d, T = 16, 40
    q, Pk, Pv = drawn("q", heads, T, d // heads), *(drawn(k, heads, n, d // heads) for k in "kv")
    weights = np.exp(q @ Pk.swapaxes(1, 2) / math.sqrt(d / heads))
    text = np.exp(drawn("text", heads, T, 1))  # what a softmax over both gives to the text
    prefix = weights / (weights.sum(-1, keepdims=True) + text) @ Pv
    prefix = prefix.transpose(1, 0, 2).reshape(T, d)
    down, up = drawn("down", d, n), drawn("up", n, d)
    adapter = np.maximum(drawn("x", T, d) @ down, 0) @ up
    assert Pk.size + Pv.size == down.size + up.size == 2 * d * n
    assert np.linalg.matrix_rank(prefix) == heads * n and np.linalg.matrix_rank(adapter) == n


def test_a_prefix_counts_as_an_adapter_of_its_length():
    model, n = gpt(), 3
    d, L = model.config.width, model.config.layers
    with attach(model, Prefix(n=n)) as at:
        prefix = at.count()
    with attach(model, Parallel(r=n)) as at:
        assert at.count() - L * (n + d) == prefix == 2 * L * d * n  # but for the biases


def test_a_prompt_before_the_text_is_the_prefix_that_the_model_makes_of_it():
    """In a decoder the rows before a text do not see it: their keys and values are fixed."""
    model, words = gpt(), " meows barks"
    n = len(model.tokenizer.encode(words))
    with attach(model, Prompt(n=n, text=words)) as at, no_grad():
        prompt = model(IDS).data
        assert at.count() == n * 16
    with attach(model, Prefix(n=n, words=words)), no_grad():
        np.testing.assert_allclose(model(IDS).data, prompt, rtol=0, atol=1e-12)
    with no_grad():
        assert abs(model(IDS).data - prompt).max() > 0.01


def test_a_prefix_in_the_model_is_a_gate_on_each_head():
    """(1 - g) h + g Δh at head_out, h what the heads give out without the prefix."""
    model, n, layer = gpt(), 3, 0  # what enters the first block is the same with and without
    with attach(model, Prefix(n=n, std=0.5)) as at, no_grad():
        P = at.wrappers["start"].P.data  # (n, 2 L d)
        assert at.count() == P.size
        heads, d = model.config.heads, model.config.width
        attn = model.blocks[layer].attn
        x = Tensor(drawn("x", 1, 5, d))
        Pk, Pv = P[:, 2 * layer * d : (2 * layer + 1) * d], P[:, (2 * layer + 1) * d :][:, :d]
        both = attn(x, past=(Tensor(Pk[None]), Tensor(Pv[None])))
        with running(off=[at]):
            q, k, v = (part(x).data[0] for part in (attn.q_proj, attn.k_proj, attn.v_proj))
    split = lambda y: y.reshape(len(y), heads, -1).transpose(1, 0, 2)  # noqa: E731  (H, ., D)
    q, k, v, Pk, Pv = map(split, (q, k, v, Pk, Pv))
    text = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(d / heads)) * np.tri(5)
    mine = np.exp(q @ Pk.swapaxes(1, 2) / math.sqrt(d / heads))
    h, dh = text @ v / text.sum(-1, keepdims=True), mine @ Pv / mine.sum(-1, keepdims=True)
    g = mine.sum(-1, keepdims=True) / (mine.sum(-1, keepdims=True) + text.sum(-1, keepdims=True))
    mixed = ((1 - g) * h + g * dh).transpose(1, 0, 2).reshape(1, 5, d)
    np.testing.assert_allclose(both.data, attn.o_proj(Tensor(mixed)).data, rtol=0, atol=1e-12)
