"""Prefixes and virtual tokens: by row, in a text, behind padding, in a cache, in generation."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import NotMergeable, attach
from minipeft.engine import grad_check, no_grad, running
from minipeft.generation.beams import beam_search
from minipeft.generation.sampling import generate, generate_many
from minipeft.generation.scoring import score
from minipeft.methods import IA3, Infix, LoRA, Prefix, Prompt, PTuning
from minipeft.models import ViT, ViTConfig
from minipeft.models.layout import added_positions
from minipeft.tasks.base import Example
from minipeft.training.batches import TaskBatches
from tests.tiny import Rows, bert, gpt, llama, tokenizer

VOCAB = tokenizer().vocab_size
(HEN,) = tokenizer().encode(" hen")
METHODS = [Prefix(n=4), Prefix(n=4, layers=(0,)), Prompt(n=4), Prompt(n=4, deep=True)]
METHODS += [PTuning(n=4, h=3)]
PROMPTS = ["the cat", "the dog barks. a dog", "a hen sleeps. the", "the"]


def vit():
    model = ViT(ViTConfig(image=6, patch=3, channels=2, width=16, layers=2, heads=2, classes=3),
                dtype=np.float64)  # fmt: skip
    for path, p in model.named_parameters():
        p.data = p.data + 0.3 * Rng(0, path).normal(p.shape)
    model.head.new = False  # trained before, as a base's is
    return model


def many(model, vit=False):
    """Handles of all kinds of inputs, of a LoRA and of IA3, moved, each for some rows."""
    methods = [Prefix(n=2), LoRA(r=2)]
    if not vit:
        methods += [Prompt(n=3, seed=1), Prompt(n=1, seed=2), Prompt(4, "{}... hen{3}", seed=3)]
        methods += [Prompt(n=2, deep=True)]
    methods += [Prefix(n=3, layers=(1,))]
    if not vit:
        methods += [PTuning(n=2, h=3, encoder="lstm"), Infix(2, "{1}... hen{}")]
    methods += [IA3()]
    handles = [attach(model, m) for m in methods]
    for i, handle in enumerate(handles):
        for path, p in handle.trainable():
            p.data = p.data + 0.3 * Rng(i, path).normal(p.shape)
    return handles


def alone(model, handle, handles, *inputs, **settings):
    """The model's output where one of the handles acts, or none."""
    with no_grad(), running(off=[h for h in handles if h is not handle]):
        return model(*inputs, **settings).data


def assert_near(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", [gpt, bert, llama, vit])
def test_each_row_of_a_mixed_batch_is_as_if_alone(kind):
    model = kind()
    handles = many(model, vit=kind is vit)
    chosen = (0, -1, 1, 2, 3) if kind is vit else (0, -1, 1, 2, 4, 3, 0, 2, 6, 5, 7, 9, 8)
    rows = [handles[i] if i >= 0 else None for i in chosen]
    if kind is vit:
        x = Rng(1).normal((len(rows), 2, 6, 6))
    else:
        x = Rows(VOCAB).batch(0, len(rows), 0).ids
        x[:, 3] = HEN
    with no_grad(), running(rows=rows):
        mixed = model(x).data
    for i, handle in enumerate(rows):
        assert_near(mixed[i], alone(model, handle, handles, x[i : i + 1])[0])
    assert np.abs(mixed[0] - alone(model, None, handles, x[:1])[0]).max() > 1e-3


@pytest.mark.parametrize("kind", [gpt, bert, llama])
def test_rows_of_unequal_lengths_padded_on_the_left_are_as_if_alone(kind):
    model = kind()
    handles = many(model)
    rows = [handles[2], None, handles[0], handles[4], handles[1], handles[3], *handles[5:]]
    lengths = [7, 3, 5, 6, 1, 7, 4, 2, 5, 3, 6]
    ids = Rng(0).integers(2, VOCAB, (11, 7))
    ids[:, 4] = HEN
    mask = np.arange(7) >= 7 - np.array(lengths)[:, None]
    with no_grad(), running(rows=rows):
        mixed = model(ids, mask=mask).data
    for i, (handle, n) in enumerate(zip(rows, lengths, strict=True)):
        assert_near(mixed[i, 7 - n :], alone(model, handle, handles, ids[i : i + 1, 7 - n :])[0])


@pytest.mark.parametrize("kind", [gpt, llama])
def test_rows_go_on_from_a_cache_whose_hidden_places_stay_hidden(kind):
    model = kind()
    handles = many(model)
    rows = [handles[2], None, handles[0], handles[4], handles[6], handles[5], handles[8]]
    ids = Rng(0).integers(2, VOCAB, (7, 8))
    ids[ids == HEN] = 2
    ids[:, 2] = HEN
    with no_grad(), running(rows=rows):
        whole = model(ids).data
        first, past = model(ids[:, :3], return_past=True)  # up to the hen, and what is behind it
        second, past = model(ids[:, 3:6], past=past, return_past=True)
        third = model(ids[:, 6:], past=past)
    assert_near(np.concatenate([first.data, second.data, third.data], axis=1), whole)


@pytest.mark.parametrize("kind", [gpt, bert, llama])
@pytest.mark.parametrize("head", [{}, {"head": "linear", "classes": 3}], ids=["words", "linear"])
def test_a_head_reads_the_text_s_places_in_a_mixed_batch(kind, head):
    model = kind(**head)
    model.head.new = False
    handles = many(model)
    rows = [handles[4], None, handles[2], handles[0], handles[5]]
    ids = Rng(0).integers(2, VOCAB, (5, 6))
    ids[:, 2] = HEN
    settings = {} if head else {"at": (np.array([0, 0, 1, 2, 3, 4]), np.array([5, 1, 0, 3, 2, 4]))}
    with no_grad(), running(rows=rows):
        found = model(ids, **settings).data
    for i, handle in enumerate(rows):
        wanted = alone(model, handle, handles, ids[i : i + 1])[0]
        if head:
            assert_near(found[i], wanted)
        else:
            mine = settings["at"][0] == i
            assert_near(found[mine], wanted[settings["at"][1][mine]])


@pytest.mark.parametrize("kind", [gpt, llama])
def test_gradients_of_a_mixed_batch_are_right(kind):
    model = kind()
    handles = many(model)
    rows = [handles[0], None, handles[4], handles[5], handles[7]]
    params = [p for i in (0, 4, 5, 7) for _, p in handles[i].trainable()]
    for p in params:
        p.requires_grad = True
    ids = Rng(0).integers(2, VOCAB, (5, 5))
    ids[:, 1] = HEN

    def run():
        with running(rows=rows):
            return model(ids)

    assert grad_check(run, params=params) < 1e-8


@pytest.mark.parametrize("kind", [gpt, llama])
def test_an_infix_stands_where_it_was_put(kind):
    """The text's places are left, and `at` counts them alone; keep_virtual shows all."""
    model = kind()
    handle = attach(model, Prompt(3, "{}... hen{2}"))
    ids = Rng(0).integers(2, VOCAB, (2, 5))
    ids[:, 1] = HEN
    by_hand = np.array([[VOCAB, a, b, VOCAB + 1, VOCAB + 2, *rest] for a, b, *rest in ids.tolist()])
    with no_grad():
        seen = model(ids).data
        kept = model(ids, keep_virtual=True).data
        with running(off=[handle.wrappers["start"]]):
            assert np.array_equal(model(by_hand, keep_virtual=True).data, kept)
    assert_near(kept[:, [1, 4, 5, 6, 7]], seen)  # what follows the hen is said behind the infix
    at = np.array([0, 1, 1]), np.array([4, 0, 2])
    with no_grad():
        assert_near(model(ids, at=at).data, seen[at])
        end = model(ids[:, :2]).data[:, 1]  # where the prompt ends with the hen
        assert_near(end, model(ids[:, :2], keep_virtual=True).data[:, -1])
    with pytest.raises(NotMergeable, match="changes the input"):
        handle.merge()


@pytest.mark.parametrize("kind", [gpt, llama])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_generation_has_room_for_what_is_put_in(method, kind):
    """12 tokens hold 4 virtual ones, a prompt of p and 12 - 4 - p + 1 new ones."""
    model = kind(2, context=12)
    attach(model, method)
    assert added_positions(model) == 4
    single = [generate(model, p, max_tokens=20) for p in PROMPTS[:3]]
    assert generate_many(model, PROMPTS[:3], max_tokens=20) == single
    tokens = tokenizer().encode(PROMPTS[0])
    for _ in range(12 - 4 - len(tokens) + 1):
        with no_grad():
            last = int(model(np.array([tokens])).data[0, -1].argmax())
        if last == tokenizer().end_id:
            break
        tokens.append(last)
    assert PROMPTS[0] + single[0] == tokenizer().decode(tokens)
    long = "the cat meows. a cat sleeps."
    assert len(tokenizer().encode(long)) == 8
    for ask in (generate, beam_search):
        with pytest.raises(ValueError, match="8 tokens; with 5 more it does not fit"):
            ask(model, long)
    with pytest.raises(ValueError, match="8 tokens; with 5 more it does not fit"):
        score(model, long, [" barks"])
    with pytest.raises(ValueError, match="the context holds 8"):
        TaskBatches.of(model, [Example(long, " barks")])
    with pytest.raises(ValueError, match=r"13 tokens do not fit .* \(4 of them before or around"):
        model(np.ones((1, 9), int))


@pytest.mark.parametrize("kind", [gpt, llama])
def test_mixed_prompts_generate_what_each_does_alone(kind):
    model = kind(1, context=30)
    handles = many(model)
    rows = [handles[2], None, handles[4], handles[0], handles[1]]
    prompts = [*PROMPTS, "a fox"]
    together = generate_many(model, prompts, max_tokens=9, rows=rows)
    for prompt, handle, text in zip(prompts, rows, together, strict=True):
        with running(off=[h for h in handles if h is not handle]):
            assert generate(model, prompt, max_tokens=9) == text
    assert len(set(together)) == len(together)


@pytest.mark.parametrize("kind", [gpt, llama])
@pytest.mark.parametrize(
    "method", [Prefix(n=2), Prompt(4, "{}... hen{2}"), Prompt(n=2, deep=True)], ids=str
)
def test_a_search_with_beams_goes_on_from_what_was_put_in(method, kind):
    model = kind(3, context=30)
    plain = beam_search(model, "the hen", beams=3, max_tokens=5)
    with attach(model, method) as at:
        for path, p in at.trainable():
            p.data = p.data + Rng(0, path).normal(p.shape)
        found = beam_search(model, "the hen", beams=3, max_tokens=5)
        one = beam_search(model, "the hen", beams=1, max_tokens=5)
        assert one[0][0] == generate(model, "the hen", max_tokens=5)
    assert found != plain


def test_rows_cannot_have_heads_of_their_own():
    """A new head trains whole, so the rows of another adapter would get the wrong one."""
    model = gpt(head="linear", classes=3)
    a, b = attach(model, LoRA(r=2)), attach(model, LoRA(r=3))
    ids = np.ones((2, 4), int)
    for rows in ([a, b], [b, None], [a, a]):
        with running(rows=rows), pytest.raises(ValueError, match="'lora' has a new head, which"):
            model(ids)
    with running(rows=[b, b], off=[a]):
        model(ids)
