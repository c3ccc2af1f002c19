"""Batches: what is learnt, what is padding, and that an epoch holds every example once."""

import numpy as np
import pytest

from minipeft.models.inputs import pad
from minipeft.tasks.base import Example
from minipeft.training.batches import (
    IGNORE,
    ImageBatches,
    Mixture,
    TaskBatches,
    TokenBatches,
    in_turn,
)
from tests.tiny import Sounds, bert, gpt, tokenizer


def batches(head="lm", examples=None, context=24, classes=5):
    make = bert if head == "mlm" else gpt
    settings = {"head": head, "classes": classes} if head == "linear" else {}
    model = make(context=context, **settings)
    return TaskBatches(model, examples or Sounds().load("train"))


def test_pad():
    assert pad([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [4, 9, 9]]


def test_the_loss_is_on_the_target_and_the_end():
    t = tokenizer()
    source = batches(
        examples=[Example("the cat", " meows"), Example("a very small hen", " clucks")]
    )
    data = source.collate([0, 1])
    for row, (prompt, target) in enumerate(
        (("the cat", " meows"), ("a very small hen", " clucks"))
    ):
        wanted = [*t.encode(target), t.end_id]
        at = np.flatnonzero(data.labels[row] != IGNORE)
        assert data.labels[row, at].tolist() == wanted
        assert at[0] == len(t.encode(prompt)) - 1  # the prompt's last token foretells the first
        length = int(data.mask[row].sum())
        text = [*t.encode(prompt), *wanted]
        assert data.ids[row, :length].tolist() == text[:-1]
        assert data.labels[row, :length].tolist()[at[0] :] == text[at[0] + 1 :]
        assert (data.ids[row, length:] == t.pad_id).all() and not data.mask[row, length:].any()
        assert (data.labels[row, length:] == IGNORE).all()
    assert data.ids.shape == data.labels.shape == data.mask.shape
    assert data.mask[1].all() and not data.mask[0].all()


def test_a_linear_head_gets_the_prompt_and_the_class():
    examples = Sounds().load("train")
    data = batches("linear").collate([2, 0])
    assert data.labels.tolist() == [examples[2].label, examples[0].label]
    assert data.ids[1, data.mask[1]].tolist() == tokenizer().encode(examples[0].prompt)
    with pytest.raises(ValueError, match="head='linear' needs a label"):
        batches("linear", Sounds("generation").load("train"))


@pytest.mark.parametrize("size", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("kind", ["task", "tokens"])
def test_every_example_comes_once_an_epoch(size, kind):
    n = 6
    if kind == "task":
        source = batches()
        first = [ids for ids, _ in source.rows]
        find = [i for i in range(n) for j in range(i) if first[i] == first[j]]
        assert not find  # every row differs, so a row tells its example

        def number(row, mask):
            return first.index(row[mask].tolist())
    else:
        source = TokenBatches(np.arange(7 * n).reshape(n, 7), fill=-1)

        def number(row, mask):
            return int(row[0]) // 7

    steps = 3 * n  # enough for whole epochs
    data = [source.batch(step, size, seed=5) for step in range(steps)]
    seen = [number(r, m) for d in data for r, m in zip(d.ids, d.mask, strict=True)]
    epochs = [seen[i : i + n] for i in range(0, len(seen) - n + 1, n)]
    assert all(sorted(e) == list(range(n)) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1  # in a new order


def test_a_batch_depends_on_seed_and_step_alone():
    one, other = batches(), batches()
    other.batch(7, 4, seed=1)
    a, b = one.batch(3, 4, seed=1), other.batch(3, 4, seed=1)
    assert (a.ids == b.ids).all() and (a.labels == b.labels).all()
    assert (a.ids != one.batch(3, 4, seed=2).ids).any()


def test_examples_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"has \d+ tokens, the context holds 5: 'the cat"):
        batches(examples=[Example("the cat and the dog and the hen", " sleep")], context=5)
    with pytest.raises(ValueError, match="empty prompt"):
        batches(examples=[Example("", " meows")], context=24)
    with pytest.raises(ValueError, match="no example"):
        TaskBatches(gpt(), [])


@pytest.mark.parametrize(
    ("head", "needed"), [("lm", 2 + 1 + 1), ("mlm", 1 + 2 + 2 + 1), ("linear", 2)]
)
def test_an_example_may_fill_the_context_exactly(head, needed):
    """Prompt, target and end; two masks for the longest option between end tokens; the prompt."""
    prompt, options = "the cat", (" meows", " sleeps.")
    assert [len(tokenizer().encode(t)) for t in (prompt, *options)] == [2, 1, 2]
    one = [Example(prompt, options[0], options, 0)]
    assert len(batches(head, one, context=needed)) == 1
    with pytest.raises(ValueError, match=f"has {needed} tokens, the context holds {needed - 1}"):
        batches(head, one, context=needed - 1)


def test_packing_at_the_edges_of_a_row():
    def packed(*lengths):
        texts = [[10 * i + j for j in range(1, n + 1)] for i, n in enumerate(lengths, 1)]
        return TokenBatches.pack(texts, 4, end=0, fill=99).rows.tolist()

    assert packed(3) == [[11, 12, 13, 0, 99]]  # one place free
    assert packed(4) == [[11, 12, 13, 14, 0]]  # full: no second row of padding
    assert packed(5) == [[11, 12, 13, 14, 15]]  # its end token is cut off
    assert packed(3, 1) == [[11, 12, 13, 0, 21]]  # the next text fills the place and is cut
    assert packed(3, 1, 2) == [[11, 12, 13, 0, 21], [31, 32, 0, 99, 99]]
    assert packed(1, 1, 1) == [[11, 0, 21, 0, 31]]


def test_an_epoch_that_ends_inside_a_batch_goes_on_in_the_next_order():
    for n, size in ((5, 3), (3, 5), (4, 4), (1, 3)):
        seen = [i for step in range(4 * n) for i in in_turn(n, step, size, seed=7)]
        assert len(seen) == 4 * n * size
        epochs = [seen[i : i + n] for i in range(0, len(seen), n)]
        assert all(sorted(e) == list(range(n)) for e in epochs)
    orders = {tuple(in_turn(6, step, 6, seed)) for step in range(3) for seed in range(3)}
    assert len(orders) == 9  # anew in each epoch, and for each seed


@pytest.mark.parametrize(
    ("head", "example", "message"),
    [
        ("lm", Example("q", " a", (" a", " b"), 5), "label 5 names none of its 2 options"),
        ("lm", Example("q", " a", (" a", " b"), 2), "label 2 names none of its 2 options"),
        ("mlm", Example("q", " a", (" a", " b"), 2), "label 2 names none of its 2 options"),
        ("lm", Example("q", " a", (" a", " b"), -1), "label must be a whole number >= 0, got -1"),
        ("lm", Example("q", " a", (" a", " b"), True), "label must be a whole number >= 0"),
        ("lm", Example("q", " a", (" a", " b"), 0.0), "label must be a whole number >= 0, got 0.0"),
        ("lm", Example("q", " a", (" a", " b"), 1), "label 1 stands for the option ' b', but the "
         "target is ' a'"),
        ("linear", Example("q", " a", (" a", " b"), 1), "but the target is ' a'"),
        ("linear", Example("q", " a", (), 3), "label 3 is none of the head's 3 classes"),
        ("mlm", Example("q", " a", (), 0), "head='mlm' needs options"),
    ],
)  # fmt: skip
def test_a_label_that_contradicts_its_example_is_named(head, example, message):
    good = Example("the cat", " a", (" a", " b"), np.int64(0))
    with pytest.raises(ValueError, match=f"example 1, 'q' …: .*{message}"):
        batches(head, [good, example], classes=3)
    batches("lm", [good, good])


def test_what_is_no_text_is_named():
    for example, name in ((Example(None, " a"), "prompt"), (Example("q", 3), "target")):
        with pytest.raises(ValueError, match=f"example 0: {name} must be a text, got"):
            batches(examples=[example])


def test_labels_of_a_task_are_held_against_the_models_classes():
    with pytest.raises(ValueError, match="label 3 is none of the head's 3 classes"):
        TaskBatches.of(gpt(head="linear", classes=3), Sounds().load("train"))


def test_labels_of_pictures_are_checked():
    pixels = np.zeros((3, 1, 2, 2))
    for labels, message in (
        ([0, 1], r"3 pictures need as many whole numbers as labels, got int64 of shape \(2,\)"),
        ([0.0, 1.0, 1.0], "got float64 of shape"),
        ([0, 1, 2], "picture 2: label 2 is none of the 2 classes"),
        ([0, -1, 1], "picture 1: label -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageBatches(pixels, np.array(labels), 2)
    with pytest.raises(ValueError, match="picture 0: label -1"):
        ImageBatches(pixels, np.array([-1, 0, 99]))
    assert len(ImageBatches(pixels, np.array([5, 0, 99]))) == 3


def test_packed_rows_begin_where_a_text_begins():
    source = TokenBatches.pack([[1, 2], [3], [4, 5, 6, 7, 8, 9], [10]], 5, end=0, fill=99)
    assert source.rows.tolist() == [[1, 2, 0, 3, 0, 4], [10, 0, 99, 99, 99, 99]]
    data = source.collate([0, 1])
    assert data.ids.tolist() == [[1, 2, 0, 3, 0], [10, 0, 99, 99, 99]]
    assert data.labels.tolist() == [[2, 0, 3, 0, 4], [0, *[IGNORE] * 4]]
    assert data.mask[1].tolist() == [True, True, False, False, False]


def test_a_text_that_just_fits_fills_a_row():
    source = TokenBatches.pack([[1, 2, 3, 4, 5], [6, 7]], 5, end=0, fill=99)
    assert source.rows.tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 0, 99, 99, 99]]


def test_packing_nothing_is_refused():
    with pytest.raises(ValueError, match="no text"):
        TokenBatches.pack([], 5, end=0, fill=99)


def test_texts_apart_have_a_row_each():
    rows = TokenBatches.apart([[5, 6], [1, 2, 3, 4, 5]], 3, end=9, fill=0).rows
    assert rows.tolist() == [[5, 6, 9, 0], [1, 2, 3, 4]]
    with pytest.raises(ValueError, match="no text"):
        TokenBatches.apart([], 3, end=9, fill=0)


def counting(first, n):
    """Pictures whose first pixel says which they are."""
    pixels = np.zeros((n, 1, 2, 2)) + np.arange(first, first + n)[:, None, None, None]
    return ImageBatches(pixels, np.zeros(n, int))


def test_a_mixture_takes_a_batch_of_every_source_in_each_round():
    mixed = Mixture([counting(0, 40), counting(100, 3), counting(200, 10)])
    rounds = [[int(mixed.batch(3 * r + i, 2, seed=5).ids.max()) // 100 for i in range(3)]
              for r in range(8)]  # fmt: skip
    assert all(sorted(r) == [0, 1, 2] for r in rounds)
    assert len(set(map(tuple, rounds))) > 1, "the order is drawn anew"


def test_a_mixture_gives_what_its_sources_give_with_rows_of_its_own():
    sources = [counting(0, 6), counting(100, 3)]
    mixed, seen = Mixture(sources), {}
    assert len(mixed) == 9
    for step in range(12):
        data = mixed.batch(step, 2, seed=1)
        again = mixed.batch(step, 2, seed=1)
        assert np.array_equal(data.ids, again.ids) and np.array_equal(data.rows, again.rows)
        first = data.ids[:, 0, 0, 0].astype(int).tolist()
        source = sources[first[0] // 100].batch(step // 2, 2, seed=1)
        assert np.array_equal(data.ids, source.ids)
        for row, picture in zip(data.rows.tolist(), first, strict=True):
            assert seen.setdefault(row, picture) == picture
    assert sorted(seen) == list(range(9)), "an index is of one example, and all have their turn"


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one source, got none"):
        Mixture([])
