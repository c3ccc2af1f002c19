"""Stored hidden states: the same run, without the lower blocks from the second epoch on."""

from dataclasses import replace

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.corpus.masking import MaskedBatches
from minipeft.engine import running
from minipeft.methods import Adapter, BitFit, Full, LoRA, TopK
from minipeft.models import GPT, ViT, ViTConfig
from minipeft.models.inputs import pad
from minipeft.training.batches import IGNORE, Batch, TaskBatches, TokenBatches, in_turn
from minipeft.training.hidden import HiddenStates
from minipeft.training.loop import fit
from tests.contract.throwaway import Subspace
from tests.tiny import Rows, Sounds, bert, clouds, gpt, llama, tokenizer

DROPPED = Adapter(r=2, place="pfeiffer", drop=1)
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
    source = task or TaskBatches(model, Sounds().load("train"))
    with attach(model, method):
        loss = fit(model, source, steps=steps, lr=0.02, batch=2, quiet=True, cached=cached,
                   **settings).loss  # fmt: skip
    return loss, ran


@pytest.mark.parametrize("method", [TopK(k=1), UPPER, DROPPED], ids=lambda m: m.name)
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


class Padded:
    """Rows of 1 … 9 tokens, two a batch in turn; every token is to be found again."""

    def __init__(self):
        sizes, top = (9, 1, 4, 7, 2, 5), tokenizer().vocab_size
        self.texts = [Rng(7, i).integers(4, top, (n,)) for i, n in enumerate(sizes)]

    def batch(self, step, size, seed):
        chosen = np.array(in_turn(len(self.texts), step, size, seed))
        ids = pad([self.texts[i] for i in chosen], tokenizer().pad_id)
        mask = pad([[1] * len(self.texts[i]) for i in chosen], 0) > 0
        return Batch(ids, np.where(mask, ids, IGNORE), mask, chosen)


@pytest.mark.parametrize("settings", [{}, {"threads": 2}, {"accumulate": 2}], ids=str)
@pytest.mark.parametrize("make", [gpt, bert, llama], ids=["gpt", "bert", "llama"])
def test_padded_rows_meet_rows_of_other_lengths(make, settings):
    """What is stored of a row is its own positions; the blocks above still mask the padding."""

    def losses(cached):
        model = make()
        with attach(model, TopK(k=1)):
            return fit(model, Padded(), steps=12, lr=0.02, batch=2, quiet=True, cached=cached,
                       **settings).loss  # fmt: skip

    np.testing.assert_allclose(losses(False), losses(True), rtol=1e-10)


def test_a_batch_with_one_new_row_is_computed_and_changes_no_stored_state():
    """Its rows get padding and company of their own; what is stored stays the same numbers."""
    model = bert()
    attach(model, TopK(k=1))
    store, source = HiddenStates(model), Padded()
    first = source.batch(0, 2, 0)
    other = [i for i in range(6) if i not in first.rows]

    def states(chosen):
        ids = pad([source.texts[i] for i in chosen], tokenizer().pad_id)
        mask = pad([[1] * len(source.texts[i]) for i in chosen], 0) > 0
        view = store.of(Batch(ids, ids, mask, np.array(chosen)))
        with running(hidden=view):
            model(ids, mask=mask)
        return {n: store.states[n].copy() for n in chosen}

    before = states(first.rows.tolist())
    mixed = states([int(first.rows[0]), other[0]])
    assert mixed.keys() == {int(first.rows[0]), other[0]} and len(store.states) == 3
    n = int(first.rows[0])
    np.testing.assert_allclose(mixed[n], before[n], rtol=1e-10, atol=1e-12)
    assert [len(store.states[n]) for n in mixed] == [len(source.texts[n]) for n in mixed]
    assert all(state.base is None for state in store.states.values())  # no view of a batch


def test_pictures_are_stored_whole():
    def losses(cached):
        config = ViTConfig(image=6, patch=3, channels=1, width=16, layers=2, heads=2, classes=10)
        model = ViT(config, dtype=np.float64)
        for path, p in model.named_parameters():
            p.data = p.data + 0.3 * Rng(0, path).normal(p.shape)
        attach(model, TopK(k=1))
        return fit(model, clouds(10, 6)[0], steps=8, lr=0.02, batch=5, quiet=True,
                   cached=cached).loss  # fmt: skip

    np.testing.assert_allclose(losses(False), losses(True), rtol=1e-10)


@pytest.mark.parametrize(
    ("method", "below"),
    [
        (TopK(k=1), 2),
        (TopK(k=2), 1),
        (TopK(k=3), 0),
        (UPPER, 1),
        (LoRA(r=2, targets="blocks.1.mlp.fc_in"), 1),
        (LoRA(r=2, targets=("blocks.2.attn.q_proj", "blocks.0.mlp.fc_out")), 0),
    ],
    ids=str,
)
def test_the_cut_lies_below_the_lowest_block_that_changes(method, below):
    model = GPT(replace(gpt().config, layers=3))
    attach(model, method)
    assert HiddenStates(model).below == below
    attach(model, LoRA(r=2, targets="blocks.2.mlp.fc_in"))  # the first is frozen, and stays there
    lowest = below if isinstance(method, LoRA) else 2
    assert HiddenStates(model).below == lowest


def test_a_head_alone_needs_no_block():
    model = GPT(replace(gpt().config, head="linear", classes=5))
    for path, p in model.named_parameters():
        p.requires_grad = path.startswith("head")
    assert HiddenStates(model).below == 2


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
