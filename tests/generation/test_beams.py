"""Beam search finds what an exhaustive search finds, and what greedy decoding misses."""

from itertools import product

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.engine import no_grad
from minipeft.generation.beams import beam_search
from minipeft.generation.sampling import generate
from minipeft.methods import LoRA
from tests.tiny import gpt, tokenizer

END = tokenizer().end_id


class FewTokens:
    """A model whose vocabulary is cut to a few tokens: the others get no probability.

    ends  added to the logit of the end token
    """

    def __init__(self, model, allowed, ends=0.0):
        self.model, self.allowed, self.barred, self.ends = model, allowed, -1e9, ends

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, ids, **kwargs):
        logits, past = self.model(ids, **kwargs)
        barred = np.full(logits.shape[-1], self.barred)
        barred[self.allowed] = 0.0
        barred[END] += self.ends
        return logits + barred, past


def few(seed=0, n=4, ends=0.0, context=40):
    return FewTokens(gpt(seed, context=context), [END, *range(40, 40 + n)], ends)


def logp(model, head, text):
    """log p of the tokens of a text after a prompt."""
    ids = [*head, *text[:-1]]
    with no_grad():
        logits, _ = model(np.array([ids]), return_past=True)
    rows = logits.data[0, len(head) - 1 :]
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


def plainly(model, prompt, beams, max_tokens, stop=None):
    """The search as it is described, every text from its beginning, to the last step.

    Of all ways to go on with an open text the likeliest first: one that ends or holds `stop` is
    closed, the others are kept open until there are `beams`.
    Returns  (text, log p, how many tokens count) of all that were closed, or cut short
    """
    decode, head = model.tokenizer.decode, model.tokenizer.encode(prompt)
    opened, closed = [((), 0.0)], []
    steps = min(max_tokens, model.config.context - len(head) + 1)
    for n in range(1, steps + 1):
        ways = [
            (logp(model, head, [*text, token]), (*text, token))
            for text, _ in opened for token in model.allowed
        ]  # fmt: skip
        opened = []
        for total, text in sorted(ways, key=lambda way: -way[0]):
            if len(opened) == beams:
                break
            if text[-1] == END or (stop and stop in decode(list(text))):
                shown = decode([t for t in text if t != END])
                closed.append((shown.split(stop)[0] if stop else shown, total, n))
            else:
                opened.append((text, total))
    return closed + [(decode(list(text)), total, steps) for text, total in opened]


def ranked(found, beams, penalty):
    """The best of what `plainly` returns, as beam_search gives them."""
    scored = sorted(((total / n**penalty, text) for text, total, n in found), reverse=True)
    return [(text, pytest.approx(score, rel=1e-9)) for score, text in scored[:beams]]


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_a_narrow_beam_finds_what_a_plain_search_finds(beams):
    ended = 0
    for seed, (ends, most) in enumerate([(0.0, 4), (1.0, 5), (2.0, 4), (3.5, 5), (-2.0, 3)]):
        model = few(seed, 3, ends)
        wanted = plainly(model, "the cat", beams, most)
        for penalty in (-1.0, 0.0, 0.7, 1.0, 2.0):
            settings = {"beams": beams, "max_tokens": most, "length_penalty": penalty}
            found = beam_search(model, "the cat", **settings)
            assert found == ranked(wanted, beams, penalty)
            ended += sum(len(tokenizer().encode(text)) < most for text, _ in found)
    assert ended > 5


@pytest.mark.parametrize("context", [4, 5, 6])
def test_a_narrow_beam_fills_the_context_as_a_plain_search_does(context):
    model = few(2, 3, -3.0, context)
    wanted = ranked(plainly(model, "the cat", 2, 50), 2, 1.0)
    assert beam_search(model, "the cat", beams=2, max_tokens=50) == wanted


def test_texts_with_stop_are_closed_where_it_comes():
    word = tokenizer().decode([41])
    stopped = 0
    for seed in range(4):
        model = few(seed, 3, 0.5)
        wanted = ranked(plainly(model, "the cat", 3, 4, word), 3, 1.0)
        found = beam_search(model, "the cat", beams=3, max_tokens=4, stop=word)
        free = beam_search(model, "the cat", beams=3, max_tokens=4)
        assert found == wanted and not any(word in text for text, _ in found)
        stopped += any(word in text for text, _ in free)
    assert stopped >= 2  # the search without it finds the word


def test_one_beam_is_greedy_where_texts_end():
    lengths = set()
    for seed in range(6):
        model = few(seed, 3, 2.0)
        found = beam_search(model, "a dog", beams=1, max_tokens=6, length_penalty=0)
        assert found[0][0] == generate(model, "a dog", max_tokens=6)
        lengths.add(len(tokenizer().encode(found[0][0])))
    assert len(lengths) > 1 and min(lengths) < 6


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


def test_the_context_is_not_overrun_and_an_adapter_counts():
    model = gpt(context=8)
    plain = beam_search(model, "the cat", beams=2, max_tokens=50)
    assert plain
    with attach(model, LoRA(r=2)) as at:
        for _, p in at.trainable():
            p.data = p.data + 0.5
        assert beam_search(model, "the cat", beams=2, max_tokens=50) != plain


def test_wrong_use_is_refused():
    most = gpt().config.vocab
    with pytest.raises(ValueError, match=f"beams must be at most {most}, as .* got 100000"):
        beam_search(gpt(), "the cat", beams=100_000)
    assert beam_search(gpt(), "the cat", beams=most, max_tokens=1)
    with pytest.raises(ValueError, match="the prompt is empty"):
        beam_search(gpt(), "")
    with pytest.raises(ValueError, match="beam search needs a language model's head"):
        beam_search(gpt(head="linear", classes=2), "the cat")
