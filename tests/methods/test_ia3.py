"""IA3: what is scaled where, and that a gated MLP, biases and weight decay are seen to."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused, ops, running
from minipeft.ledger.papers import shapes
from minipeft.methods import IA3
from minipeft.models import GPT
from minipeft.training.loop import fit
from tests.methods.contract import CASES, CLOSE, CONFIG, Case, Next, on, randomize, run, same

PLACES = ("k_proj", "v_proj", "fc_out")


def test_vectors_are_ones_at_the_papers_places():
    handle = attach(GPT(CONFIG), IA3())
    got = {path: p.shape for path, p in handle.trainable()}
    sizes = {"attn.k_proj": 8, "attn.v_proj": 8, "mlp.fc_out": 32}
    assert got == {f"blocks.{i}.{name}.l": (n,) for i in (0, 1) for name, n in sizes.items()}
    assert all((p.data == 1).all() for _, p in handle.trainable())


def test_a_block_is_the_papers_formula():
    """softmax(q (l_k k)^T / sqrt(D)) (l_v v), and W2 (l_ff gelu(W1 x)), with biases."""
    case = CASES["ia3"]
    model, handle = case.attached()
    l = {path: p.data for path, p in handle.trainable()}  # noqa: E741
    x = Rng(1).normal((2, 5, CONFIG.width))
    block, name = model.blocks[1], "blocks.1."
    with handle:
        got = block.attn(x).data, block.mlp(x).data
    q, k, v = (getattr(block.attn, f"{x}_proj") for x in "qkv")
    heads = fused.attention(
        q(x), k(x) * l[name + "attn.k_proj.l"], v(x) * l[name + "attn.v_proj.l"],
        heads=CONFIG.heads, causal=True,
    )  # fmt: skip
    inner = fused.gelu(block.mlp.fc_in(x)) * l[name + "mlp.fc_out.l"]
    for y, wanted in zip(got, (block.attn.o_proj(heads), block.mlp.fc_out(inner)), strict=True):
        np.testing.assert_allclose(y, wanted.data, rtol=1e-13, atol=1e-14)


def test_a_gated_mlp_is_scaled_behind_its_gate():
    """What fc_out reads is silu(gate) * up: scaling up, as T-Few's code does, is the same."""
    case = on("llama", "ia3")
    model = case.model()
    at_out, at_up = IA3("fc_out"), IA3("fc_in", ())
    x, l = case.inputs(), Rng(3).normal((2, 32))  # noqa: E741
    found = []
    for method in (at_out, at_up):
        with attach(model, method) as handle:
            for (_, p), row in zip(handle.trainable(), l, strict=True):
                p.data = row
            found.append(run(model, x))
    assert abs(found[0] - found[1]).max() < CLOSE * abs(found[0]).max()
    assert abs(found[0] - run(model, x)).max() > 1e-3


@pytest.mark.parametrize("inputs", [(), ("q_proj", "fc_out")])
def test_gradients_have_their_closed_form(inputs):
    """dl = sum of dy * (W x + b) for an output, of (dy W) * x for an input."""
    case = Case(IA3(("q_proj", "fc_out"), inputs))
    model, handle = case.attached()
    for path, w in handle.wrappers.items():
        x = Rng(5, path).normal((3, 4, w.d_in))
        dy = Rng(6, path).normal((3, 4, w.d_out))
        ops.sum(w(x) * dy).backward()
        wanted = (dy @ w.weight.data) * x if inputs else dy * (x @ w.weight.data.T + w.bias.data)
        np.testing.assert_allclose(w.l.grad, wanted.sum((0, 1)), rtol=1e-12, atol=1e-12)


def test_merging_scales_the_bias_of_an_output_and_not_of_an_input():
    model, handle = CASES["ia3"].attached()
    old = {path: w.base for path, w in handle.wrappers.items()}
    l = {path: w.l.data for path, w in handle.wrappers.items()}  # noqa: E741
    handle.merge()
    for path, base in old.items():
        new, reads = model.get(path), path.endswith("fc_out")
        assert np.abs(base.bias.data).max() > 0.1
        assert same(new.bias.data, base.bias.data * (1 if reads else l[path]))
        assert same(new.weight.data, base.weight.data * (l[path] if reads else l[path][:, None]))


@pytest.mark.parametrize("kind", ["gpt", "bert", "vit", "llama"])
def test_rows_of_a_batch_have_vectors_of_their_own(kind):
    case = on(kind, "ia3")
    model, x = case.model(), case.inputs(rows=4)
    model.head.new = False  # a ViT's, which the rows share
    one, two = (attach(model, IA3(seed=seed)) for seed in (1, 2))
    for seed, handle in enumerate((one, two)):
        randomize(handle, seed)
    rows = [two, None, one, two]
    with running(rows=rows):
        mixed = run(model, x)
    for i, mine in enumerate(rows):
        with running(off=[h for h in (one, two) if h is not mine]):
            alone = run(model, x[i : i + 1])[0]
        np.testing.assert_allclose(mixed[i], alone, rtol=0, atol=1e-10 * np.abs(alone).max())
        with running(off=[one, two]):
            base = run(model, x[i : i + 1])[0]
        assert (mine is None) == np.allclose(mixed[i], base, atol=1e-9)


def test_decay_does_not_pull_the_vectors_to_zero():
    model = CASES["ia3"].model()
    plain, decayed = [], []
    for found, decay in ((plain, 0.0), (decayed, 10.0)):
        with attach(model, IA3()) as handle:
            fit(model, Next(), steps=3, lr=0.01, batch=4, decay=decay, quiet=True)
            found += [p.data for _, p in handle.trainable()]
    assert all(map(same, plain, decayed))


def test_other_parts_are_refused():
    with pytest.raises(ValueError, match="ln_1 is a LayerNorm; it must be a Linear"):
        attach(GPT(CONFIG), IA3(targets="ln_1"))
    model = GPT(CONFIG)
    with pytest.raises(ValueError, match="inputs: 'fc_uot' .* no part of the model; nearest is 'f"):
        attach(model, IA3(inputs=("fc_uot",)))
    assert not model.handles


@pytest.mark.parametrize(("name", "count"), [("t0-3b", 540_672), ("t0-11b", 1_081_344)])
def test_the_counts_of_t0(name, count):
    """L (d_k + d_v + d_ff) of the encoder, L (2 d_k + 2 d_v + d_ff) of the decoder."""
    model = shapes(name)
    c = model.config
    d, L, F = c.width, c.layers, c.mlp
    assert L * (d + d + F) + L * (2 * d + 2 * d + F) == count
    with attach(model, IA3()) as handle:
        assert handle.count() == count


def test_the_published_vectors_have_the_shapes_that_are_predicted(real_data):
    file = real_data("ia3_t03b") / "t03b_ia3_finish.npz"
    with np.load(file) as arrays:
        real = {name: arrays[name].shape[0] for name in arrays.files}
        assert all((a := arrays[name]).ndim == 2 and a.shape[1] == 1 for name in arrays.files)
    with attach(shapes("t0-3b"), IA3()) as handle:
        ours = {path: p.size for path, p in handle.trainable()}
        assert handle.count() == sum(real.values()) == 540_672
    attention = {"SelfAttention": "attn", "EncDecAttention": "cross"}
    mapped = {}
    for name, size in real.items():
        side, _, layer, _, _, part, which, _ = name.split(".")
        inner = f"{attention[part]}.{which}_proj" if part in attention else "mlp.fc_out"
        mapped[f"{side}.blocks.{layer}.{inner}.l"] = size
    assert mapped == ours
