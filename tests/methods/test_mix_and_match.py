"""Mix-and-Match (He et al. 2022): a prefix in attention and a parallel adapter at the MLP."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import fused, grad_check, no_grad, running
from minipeft.methods import Parallel, Prefix, load_adapter
from minipeft.models import build, preset
from minipeft.training.loop import fit
from tests.tiny import Rows, bert, gpt, tokenizer

VOCAB = tokenizer().vocab_size
IDS = Rng(0).integers(2, VOCAB, (3, 6))


def mixed(model, seed=0):
    """The two handles, both of which train."""
    return attach(model, Prefix(n=3, seed=seed)), attach(
        model, Parallel(r=4, seed=seed), freeze=False
    )


def test_a_prefix_is_gated_attention():
    """Attention over both is (1 - λ) attention over the text + λ attention over the prefix."""
    D, n, T = 4, 3, 5
    q, k, v, Pk, Pv = (Rng(0, name).normal((1, m, D)) for name, m in
                       (("q", T), ("k", T), ("v", T), ("Pk", n), ("Pv", n)))  # fmt: skip
    settings = {"heads": 1, "causal": False}
    both = fused.attention(q, np.concatenate([Pk, k], axis=1), np.concatenate([Pv, v], axis=1),
                           **settings).data  # fmt: skip
    text, prefix = (fused.attention(q, *kv, **settings).data for kv in ((k, v), (Pk, Pv)))
    sums = [
        np.exp(q @ keys.swapaxes(1, 2) / math.sqrt(D)).sum(-1, keepdims=True) for keys in (Pk, k)
    ]
    gate = sums[0] / (sums[0] + sums[1])
    np.testing.assert_allclose(both, (1 - gate) * text + gate * prefix, rtol=0, atol=1e-14)
    assert 0.05 < gate.min() and gate.max() < 0.95


@pytest.mark.parametrize("kind", [gpt, bert])
def test_both_train_together(kind):
    model = kind()
    prefix, parallel = mixed(model)
    arrays = [*prefix.trainable(), *parallel.trainable()]
    for path, p in arrays:
        p.data = p.data + 0.3 * Rng(1, path).normal(p.shape)
    assert all(p.requires_grad for _, p in arrays)
    assert grad_check(lambda: model(IDS), params=[p for _, p in arrays]) < 1e-8
    before = {path: p.data.copy() for path, p in arrays}
    fit(model, Rows(VOCAB), steps=2, lr=0.01, batch=3, quiet=True)
    assert all(np.abs(p.data - before[path]).max() > 1e-4 for path, p in arrays)


def test_each_goes_to_its_file_and_both_come_back(tmp_path):
    model = gpt()
    for i, handle in enumerate(mixed(model)):
        for path, p in handle.trainable():
            p.data = p.data + 0.3 * Rng(i, path).normal(p.shape)
        handle.save(tmp_path / f"{i}")
    fresh = gpt()
    again = [load_adapter(fresh, tmp_path / f"{i}") for i in range(2)]
    with no_grad():
        wanted = model(IDS).data
        assert np.array_equal(fresh(IDS).data, wanted)
        for handle in again:  # neither is the whole of it
            with running(off=[handle]):
                assert np.abs(fresh(IDS).data - wanted).max() > 1e-3


def test_the_count_is_that_of_the_adapters_library():
    """On BERT-base, of a prefix whose network is 800 wide, and r = d / 2: 22 493 984."""
    model = build(preset("bert-base"), init="shape")
    counts = [attach(model, method, freeze=False).count()
              for method in (Prefix(n=30, mlp=800), Parallel(r=384))]  # fmt: skip
    assert counts == [15_402_272, 7_091_712] and sum(counts) == 22_493_984
