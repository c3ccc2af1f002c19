"""Infix tuning: a prefix that stands inside the text."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.generation.beams import beam_search
from minipeft.generation.sampling import generate
from minipeft.methods import Infix, Prefix
from minipeft.training.loop import fit
from tests.methods.contract import randomize, run
from tests.tiny import Rows, bert, gpt, llama, tokenizer

VOCAB = tokenizer().vocab_size
IDS = Rng(0).integers(2, VOCAB, (2, 6))
IDS[:, 2] = tokenizer().encode(" hen")


def near(a, b):
    assert a.shape == b.shape and np.abs(a - b).max() < 1e-12 * np.abs(b).max()


@pytest.mark.parametrize("kind", [gpt, bert])
def test_before_the_text_it_is_a_prefix(kind):
    model, other = kind(), kind()
    P = attach(model, Infix(n=3))
    randomize(P)
    flat = [w.P.data for path, w in P.wrappers.items() if path.startswith("blocks")]
    assert len(flat) == 4
    attach(other, Prefix(n=3)).wrappers["start"].P.data = np.concatenate(flat, axis=1)
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]) > 0
    near(run(model, IDS), run(other, IDS))
    near(run(model, IDS, mask=mask)[mask], run(other, IDS, mask=mask)[mask])


@pytest.mark.parametrize("kind", [gpt, llama])
def test_a_decoder_sees_it_from_there_on(kind):
    """What is said before it is as ever; what is said behind reads the keys and values."""
    model, plain = kind(), run(kind(), IDS)
    handle = attach(model, Infix(2, "... hen{}"))
    randomize(handle)
    y = run(model, IDS)
    near(y[:, :2], plain[:, :2])
    assert np.abs(y[:, 2:] - plain[:, 2:]).max(axis=(0, 2)).min() > 1e-3
    table = handle.wrappers["emb.tok"].P
    table.data = table.data + 1.0  # which the text does not see
    near(run(model, IDS)[:, 3:], y[:, 3:])


@pytest.mark.parametrize("kind", [gpt, llama])
def test_prefix_and_infix_train_together(kind):
    model = kind()
    prefix = attach(model, Prefix(n=2))
    infix = attach(model, Infix(2, "... hen{}"), freeze=False)
    rows = Rows(VOCAB)
    start = {path: p.data.copy() for h in (prefix, infix) for path, p in h.trainable()}

    class WithHen:
        def batch(self, step, size, seed):
            found = rows.batch(step, size, seed)
            found.ids[:, 2] = IDS[0, 2]
            return found

    fit(model, WithHen(), steps=3, lr=0.1, batch=2, quiet=True)
    moved = {path: p.data for h in (prefix, infix) for path, p in h.trainable()}
    assert start.keys() == moved.keys() and len(start) == 5
    assert all(not np.array_equal(start[path], moved[path]) for path in start)
    one = beam_search(model, "the hen", beams=1, max_tokens=5)
    assert one[0][0] == generate(model, "the hen", max_tokens=5)
