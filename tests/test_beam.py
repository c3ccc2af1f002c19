"""Beam search finds what an exhaustive search finds, and what greedy decoding misses."""

from itertools import product

import numpy as np
import pytest

from minipeft.beam import beam_search
from minipeft.engine import no_grad
from minipeft.generate import generate
from minipeft.methods import LoRA, attach
from tests.tiny import gpt, tokenizer

END = tokenizer().end_id


class FewTokens:
    """A model whose vocabulary is cut to a few tokens: the others get no probability."""

    def __init__(self, model, allowed):
        self.model, self.allowed, self.barred = model, allowed, -1e9

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, ids, **kwargs):
        logits, past = self.model(ids, **kwargs)
        barred = np.full(logits.shape[-1], self.barred)
        barred[self.allowed] = 0.0
        return logits + barred, past


def few(seed=0, n=4):
    return FewTokens(gpt(seed, context=40), [END, *range(40, 40 + n)])


def logp(model, head, text):
    """log p of the tokens of a text after a prompt."""
    ids = [*head, *text]
    with no_grad():
        logits, _ = model(np.array([ids]), return_past=True)
    rows = logits.data[0, len(head) - 1 : -1]
    rows = rows - np.log(np.exp(rows - rows.max()).sum(1, keepdims=True)) - rows.max()
    return float(sum(row[token] for row, token in zip(rows, text, strict=True)))


def exhaustive(model, prompt, longest, penalty):
    """Every text of up to `longest` tokens that ends, or does not, with its score."""
    head, found = model.tokenizer.encode(prompt), {}
    tokens = [t for t in model.allowed if t != END]
    for length in range(longest + 1):
        for text in product(tokens, repeat=length):
            whole = [*text, END] if length < longest else list(text)
            score = logp(model, head, whole) / len(whole) ** penalty
            found[model.tokenizer.decode(list(text))] = score
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_the_best_of_all_texts(seed, penalty):
    model = few(seed)
    found = beam_search(model, "the cat", beams=80, max_tokens=3, length_penalty=penalty)
    best = exhaustive(model, "the cat", 3, penalty)
    for (text, score), (other, wanted) in zip(found[:8], best, strict=False):
        assert text == other and score == pytest.approx(wanted, rel=1e-9)


def test_one_beam_is_greedy_and_more_find_likelier_texts():
    better = 0
    for seed in range(8):
        model = few(seed)
        greedy = beam_search(model, "a dog", beams=1, max_tokens=5, length_penalty=0)[0]
        wide = beam_search(model, "a dog", beams=6, max_tokens=5, length_penalty=0)[0]
        assert greedy[0] == generate(model, "a dog", max_tokens=5)
        better += wide[1] > greedy[1] + 1e-6
    assert better >= 2


def test_texts_come_best_first_and_are_different():
    found = beam_search(few(1), "the cow", beams=5, max_tokens=4)
    assert len(found) == len({text for text, _ in found}) == 5
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)


def test_no_run_of_tokens_comes_twice():
    def pairs(text):
        tokens = tokenizer().encode(text)
        return list(zip(tokens, tokens[1:], strict=False))

    model = FewTokens(gpt(2, context=40), [40, 41])  # it never ends
    free = [pairs(text) for text, _ in beam_search(model, "the", beams=3, max_tokens=12)]
    assert any(len(set(p)) < len(p) for p in free)
    model.barred = -np.inf
    kept = [pairs(text) for text, _ in beam_search(model, "the", beams=3, no_repeat=2)]
    assert len(kept) == 3
    assert all(len(set(p)) == len(p) for p in kept)


def test_a_text_is_cut_before_stop():
    word = tokenizer().decode([41])
    for text, _ in beam_search(few(0), "the cat", beams=4, max_tokens=6, stop=word):
        assert word not in text


def test_the_context_is_not_overrun_and_an_adapter_counts():
    model = gpt(context=8)
    plain = beam_search(model, "the cat", beams=2, max_tokens=50)
    assert plain
    with attach(model, LoRA(r=2)) as at:
        for _, p in at.trainable():
            p.data = p.data + 0.5
        assert beam_search(model, "the cat", beams=2, max_tokens=50) != plain


@pytest.mark.parametrize("name", ["beams", "max_tokens"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_counts_must_be_whole(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1"):
        beam_search(gpt(), "the cat", **{name: value})


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="no_repeat must be a whole number >= 0"):
        beam_search(gpt(), "the cat", no_repeat=-1)
    with pytest.raises(ValueError, match="the prompt is empty"):
        beam_search(gpt(), "")
    with pytest.raises(ValueError, match="beam search needs a language model's head"):
        beam_search(gpt(head="linear", classes=2), "the cat")
