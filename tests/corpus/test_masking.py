"""Masked words: how many, which, what stands in their place, and that a BERT learns from them."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.corpus.masking import MaskedBatches, edges
from minipeft.storage.text import Tokenizer
from minipeft.training.batches import IGNORE, TokenBatches
from minipeft.training.evaluation import mean_loss
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from tests.tiny import ANIMALS, SOUNDS, bert, tokenizer

TEXT = "An unmeowable cat, 12 hens.\nThe end (of it)"


def source(rate=0.15, texts=None, length=20):
    t = tokenizer()
    texts = texts or ["unmeowable foxhounds bark."] + [
        f"the {a}{s}. a {a} sleeps." for a, s in zip(ANIMALS, SOUNDS, strict=True)
    ]
    packed = TokenBatches.pack(t.encode_many(texts * 20), length, t.end_id, t.pad_id)
    return MaskedBatches(packed, t, rate)


def test_the_mask_is_the_first_id_after_the_file_s_own():
    assert tokenizer().mask_id == tokenizer().vocab_size
    inner = Tokenizer.train(["a cat and a cat"], 260)
    inner._inner.add_special_tokens(["<|mask|>"])
    assert inner.mask_id == inner.vocab_size - 1


def test_a_word_is_where_letters_meet():
    t = tokenizer()
    ids = t.encode(TEXT)
    assert len(ids) > 20  # the words are cut into parts
    rows = np.array([[t.end_id, *ids, t.end_id]])
    numbers = source().words(rows)[0]
    found = [t.decode(rows[0, numbers == n].tolist()) for n in range(int(numbers.max()) + 1)]
    assert found == ["", "An", " unmeowable", " cat", ",", " 12", " hens", ".", "\n", "The",
                     " end", " ", "(", "of", " it", ")", ""]  # fmt: skip


def test_a_letter_of_several_bytes_is_one_word():
    t = tokenizer()
    ids = t.encode("naïve œuf")
    assert len(ids) > 8
    numbers = source().words(np.array([ids]))[0]
    assert t.decode(np.array(ids)[numbers == 0].tolist()) == "naïve" and numbers.max() == 1
    opens, closes = edges(t)
    assert len(opens) == len(closes) == t.vocab_size and not opens[t.end_id]


def test_what_is_hidden():
    data, s, t = source(), source(), tokenizer()
    hidden = masked = kept = other = words = longest = 0
    for step in range(40):
        batch = data.batch(step, 16, seed=3)
        rows = np.where(batch.labels == IGNORE, batch.ids, batch.labels)
        assert batch.ids.shape == batch.labels.shape == batch.mask.shape
        assert (rows[:, 0] == t.end_id).all() and batch.mask.dtype == bool
        assert ((rows == t.pad_id) == ~batch.mask).all()
        hit = batch.labels != IGNORE
        assert not np.isin(rows[hit], [t.end_id, t.pad_id]).any()
        numbers = s.words(rows)
        for row in range(16):  # whole words
            for n in np.unique(numbers[row]):
                word = hit[row, numbers[row] == n]
                assert len(set(word.tolist())) == 1
                longest = max(longest, len(word))
        hidden += int(hit.sum())
        words += int((batch.mask & (rows != t.end_id)).sum())
        masked += int((batch.ids[hit] == t.mask_id).sum())
        kept += int((batch.ids[hit] == rows[hit]).sum())
        other += int(((batch.ids[hit] != t.mask_id) & (batch.ids[hit] != rows[hit])).sum())
        assert not np.isin(batch.ids[hit], [t.end_id, t.pad_id]).any()
    assert longest > 3 and hidden / words == pytest.approx(0.15, abs=0.015)
    assert masked / hidden == pytest.approx(0.8, abs=0.03)
    assert kept / hidden == pytest.approx(0.1, abs=0.03)
    assert other / hidden == pytest.approx(0.1, abs=0.03)


def test_a_batch_depends_on_step_size_and_seed_alone():
    one, two = source(), source()
    two.batch(7, 4, seed=1)
    a, b = one.batch(3, 4, seed=1), two.batch(3, 4, seed=1)
    assert all(
        np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )
    for step, seed in ((4, 1), (3, 2)):
        assert not np.array_equal(one.batch(step, 4, seed).labels, a.labels)
    assert np.array_equal(one.collate([2, 5]).ids, two.collate(range(2, 8, 3)).ids)


def test_the_words_of_a_kept_batch_are_hidden_by_its_rows():
    data = source()
    data.rows = np.repeat(data.rows[:1], 12, axis=0)  # one text: only the numbers differ
    hidden = {tuple(np.flatnonzero(data.collate([i]).labels[0] != IGNORE)) for i in range(12)}
    assert len(hidden) > 4
    first, again = data.collate([3, 7]).labels, data.collate([3, 7]).labels
    assert np.array_equal(first, again)


def test_an_epoch_holds_every_row_once_with_other_words_hidden_in_the_next():
    data = source()
    data.rows = data.rows[:6]
    first, second = (data.batch(step, 6, seed=0) for step in (0, 1))
    rows = [np.where(b.labels == IGNORE, b.ids, b.labels) for b in (first, second)]
    assert all(sorted(r[:, 1:].tolist()) == sorted(data.rows.tolist()) for r in rows)
    assert sorted(first.ids.tolist()) != sorted(second.ids.tolist())


def test_at_least_one_word_is_hidden_and_every_rate_is_kept():
    few = source(rate=1e-9)
    assert all((few.collate([i]).labels != IGNORE).any() for i in range(8))
    batch = source(rate=1.0).collate(range(8))
    rows = np.where(batch.labels == IGNORE, batch.ids, batch.labels)
    special = np.isin(rows, [tokenizer().end_id, tokenizer().pad_id])
    assert ((batch.labels == IGNORE) == special).all()
    for rate in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match=r"rate must be in \(0, 1\]"):
            source(rate)


def test_the_last_word_of_a_line_is_found_behind_its_signs():
    t = tokenizer()
    text = "An unmeowable cat, 12 hens.\nThe end (of it)\n\nIs it so? no\n..."
    ids = t.encode(text)
    rows = np.array([[t.end_id, *ids, t.end_id, *t.encode("a cat | yes"), t.pad_id]])
    at = source().line_ends(rows)[0]
    numbers = source().words(rows)[0]
    found = [t.decode(rows[0, numbers == n].tolist()) for n in np.unique(numbers[at])]
    assert found == [" hens", " it", " no", " yes"]
    assert set(numbers[at]).isdisjoint(numbers[~at])  # whole words


def test_lines_ends_are_hidden_at_their_own_rate():
    texts = [
        f"a {a} and a cat | {s}\na cat and a {a} | {s}\n"
        for a, s in zip(ANIMALS, SOUNDS, strict=True)
    ]
    plain, data = source(texts=texts, length=30), source(texts=texts, length=30)
    data.last = 0.6
    ends, others, before = [], [], []
    for step in range(60):
        batch = data.batch(step, 16, seed=3)
        hit = batch.labels != IGNORE
        rows = np.where(hit, batch.labels, batch.ids)
        at = data.line_ends(rows)
        ends.append(hit[at].mean())
        others.append(hit[~at & ~np.isin(rows, data.special)].mean())
        there = plain.batch(step, 16, seed=3).labels != IGNORE
        before.append((hit == there)[~at].all())  # the others are hidden as they were
    assert np.mean(ends) == pytest.approx(0.6, abs=0.03)
    assert np.mean(others) == pytest.approx(0.15, abs=0.02) and all(before)
    for last in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"last must be in \[0, 1\]"):
            MaskedBatches(TokenBatches(data.rows, data.fill), tokenizer(), last=last)


def test_rows_without_a_word_are_refused():
    t = tokenizer()
    empty = MaskedBatches(TokenBatches(np.full((2, 5), t.end_id), t.pad_id), t)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] hold no word that could be hidden"):
        empty.collate([0, 1])


def test_a_bert_learns_from_masked_words():
    data = source(rate=0.3)
    model = bert(dtype=np.float32, spread=0.02)
    held = mean_loss(model, data)
    history = fit(model, data, steps=60, lr=0.01, batch=16, quiet=True)
    assert history.loss[-1] < 0.6 * history.loss[0] and mean_loss(model, data) < 0.6 * held
    batch = data.batch(0, 8, seed=0)
    whole = model(batch.ids, mask=batch.mask).data[batch.labels != IGNORE].astype(np.float64)
    picked = whole[np.arange(len(whole)), batch.labels[batch.labels != IGNORE]]
    nats = (np.log(np.exp(whole).sum(1)) - picked).mean()
    assert loss_of(model, batch).item() == pytest.approx(nats, rel=1e-4)


def test_a_run_s_batches_do_not_depend_on_where_it_began():
    data, rng = source(), Rng(0)
    order = rng.permutation(12).tolist()
    late = {step: data.batch(step, 5, seed=9).ids for step in order}
    assert all(np.array_equal(source().batch(s, 5, seed=9).ids, ids) for s, ids in late.items())
