"""Stored hidden states: the same run, without the lower blocks from the second epoch on."""

import numpy as np
import pytest

from minipeft.batches import TaskBatches, TokenBatches
from minipeft.masking import MaskedBatches
from minipeft.methods import BitFit, Full, LoRA, TopK, attach
from minipeft.train import fit
from tests.methods.throwaway import Subspace
from tests.tiny import Rows, Sounds, bert, gpt, tokenizer

UPPER = LoRA(r=2, targets="re:blocks\\.1\\..*_proj")


def run(method, cached, task=None, steps=8, **settings):
    """The losses of a run, and how often each block ran."""
    model, ran = gpt(), [0, 0]
    for i, block in enumerate(model.blocks):
        forward = block.forward

        def counting(*args, i=i, forward=forward, **kwargs):
            ran[i] += 1
            return forward(*args, **kwargs)

        block.forward = counting
    source = task or TaskBatches(Sounds().load("train"), model.tokenizer, "lm", 24)
    with attach(model, method):
        loss = fit(model, source, steps=steps, lr=0.02, batch=2, quiet=True, cached=cached,
                   **settings).loss  # fmt: skip
    return loss, ran


@pytest.mark.parametrize("method", [TopK(k=1), UPPER], ids=["topk", "lora above"])
def test_the_losses_are_the_same_and_the_lower_block_rests(method):
    """Six examples, two a step: the first three steps see them all."""
    plain, every = run(method, False)
    stored, ran = run(method, True)
    np.testing.assert_allclose(plain, stored, rtol=1e-10)
    assert every == [8, 8] and ran == [3, 8]


def test_padding_does_not_matter():
    """Rows of unlike length, which meet others in every epoch."""
    texts = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15]]
    source = TokenBatches.pack(texts, 3, tokenizer().end_id, tokenizer().pad_id)
    plain, stored = (run(TopK(k=1), cached, source, 9)[0] for cached in (False, True))
    np.testing.assert_allclose(plain, stored, rtol=1e-10)


def test_threads_share_the_states():
    plain, stored = (run(TopK(k=1), cached, threads=2)[0] for cached in (False, True))
    np.testing.assert_allclose(plain, stored, rtol=1e-10)


def test_bert_too():
    def losses(cached):
        model = bert()
        with attach(model, TopK(k=1)):
            return fit(model, Sounds(), steps=8, lr=0.02, batch=2, quiet=True, cached=cached).loss

    np.testing.assert_allclose(losses(False), losses(True), rtol=1e-10)


def test_where_the_lowest_block_trains_the_embeddings_are_stored():
    plain, stored = (run(BitFit(), cached) for cached in (False, True))
    np.testing.assert_allclose(plain[0], stored[0], rtol=1e-10)
    assert stored[1] == [8, 8]


@pytest.mark.parametrize("method", [Full(), Subspace(n=2)], ids=lambda m: m.name)
def test_what_changes_below_is_refused(method):
    with pytest.raises(ValueError, match="cached=True: "):
        run(method, True)


def test_dropout_and_unnumbered_batches_are_refused():
    model = gpt(dropout=0.1)
    with attach(model, TopK(k=1)), pytest.raises(ValueError, match="the model has dropout"):
        fit(model, Rows(tokenizer().vocab_size), steps=1, lr=0.1, quiet=True, cached=True)
    with pytest.raises(ValueError, match="number their examples"):
        run(TopK(k=1), True, Rows(tokenizer().vocab_size))
    texts = tokenizer().encode_many(["the cat meows. a dog barks. a cow sleeps."] * 9)
    packed = TokenBatches.pack(texts, 8, tokenizer().end_id, tokenizer().pad_id)
    masked = MaskedBatches(packed, tokenizer())
    with pytest.raises(ValueError, match="number their examples"):
        run(TopK(k=1), True, masked)
