"""Fifty greedy tokens are the same with and without the cache, whatever is attached."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.engine import no_grad
from minipeft.generation.sampling import generate
from tests.methods.contract import CASES, CONFIGS, Letters, run

TOKENS = 50
NAMES = sorted(name for name, case in CASES.items() if not case.head)


class Endless(Letters):
    """No token ends a text."""

    end_id = 999


@pytest.fixture(params=NAMES)
def model(request):
    return CASES[request.param].attached(context=TOKENS + 20)[0]


def test_the_cache_changes_no_token(model):
    model.tokenizer, ids = Endless(), Endless().encode("abc")
    for _ in range(TOKENS):
        ids.append(int(run(model, np.array([ids]))[0, -1].argmax()))
    assert generate(model, "abc", max_tokens=TOKENS) == Endless().decode(ids[3:])


def test_the_cache_changes_no_logit(model):
    """Where a model repeats itself, a token tells little."""
    ids = Rng(0).integers(0, CONFIGS["gpt"].vocab, (2, TOKENS))
    whole, past, parts = run(model, ids), None, []
    with no_grad():
        for t in range(TOKENS):
            y, past = model(ids[:, t : t + 1], past=past, return_past=True)
            parts.append(y.data)
    assert abs(np.concatenate(parts, axis=1) - whole).max() < 1e-10 * abs(whole).max()
