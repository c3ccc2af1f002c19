"""Generation and scoring against full forward passes, one prompt and one token at a time."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import no_grad
from minipeft.generation.beams import beam_search
from minipeft.generation.sampling import _pick, generate, generate_many
from minipeft.generation.scoring import score, score_many
from minipeft.methods import LoRA
from minipeft.nn.finite import NonFinite, check_logits
from tests.models.test_gpt import prompted
from tests.tiny import gpt, llama, tokenizer

PROMPTS = ["the cat", "a", "a hen sleeps. the owl", "the dog barks."]


def log_probs(model, ids):
    """log p of every token after each place, from one full forward pass.  -> (T, V)"""
    with no_grad():
        logits = model(np.array([ids])).data[0]
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def slowly(model, prompt, max_tokens):
    """Greedy ids by a full forward pass for each token."""
    ids, start = tokenizer().encode(prompt), len(tokenizer().encode(prompt))
    while len(ids) - start < max_tokens and len(ids) <= model.config.context:
        best = int(log_probs(model, ids)[-1].argmax())
        if best == tokenizer().end_id:
            break
        ids.append(best)
    return ids[start:]


def ended(seed, places):
    """A model that likes to end, so that rows of a batch stop at different times."""
    model = gpt(seed)
    weight = model.emb.tok.weight
    weight.data = weight.data * 1.0
    weight.data[tokenizer().end_id] = weight.data[places]
    weight.data[tokenizer().end_id] *= 1.001
    return model


@pytest.mark.parametrize("kind", [gpt, llama])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_greedy_is_the_argmax_of_full_forward_passes(seed, kind):
    model = kind(seed)
    for prompt in PROMPTS:
        wanted = slowly(model, prompt, 9)
        assert generate(model, prompt, max_tokens=9) == tokenizer().decode(wanted)
        assert len(wanted) > 2


@pytest.mark.parametrize("kind", [gpt, llama])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_padded_batch_equals_single_prompts(seed, kind):
    model = kind(seed, context=40)
    together = generate_many(model, PROMPTS, max_tokens=12)
    assert together == [generate(model, p, max_tokens=12) for p in PROMPTS]
    assert together == [tokenizer().decode(slowly(model, p, 12)) for p in PROMPTS]
    assert len(set(together)) == len(PROMPTS)


def test_prompts_behind_virtual_tokens_keep_their_positions():
    """The real tokens stand behind the virtual ones, at every step and however they are padded."""
    model = prompted(gpt(2, context=40), n=3, at_start=True)
    together = generate_many(model, PROMPTS, max_tokens=8)
    assert together == [generate(model, p, max_tokens=8) for p in PROMPTS]
    assert together != generate_many(gpt(2, context=40), PROMPTS, max_tokens=8)


def test_rows_that_end_early_leave_the_others_alone():
    model = gpt(3, context=40)
    free = [slowly(model, p, 10) for p in PROMPTS]
    model = ended(3, free[0][2])  # what the first prompt says third now ends a text
    wanted = [slowly(model, p, 10) for p in PROMPTS]
    lengths = {len(w) for w in wanted}
    assert len(lengths) > 1 and max(lengths) == 10
    assert generate_many(model, PROMPTS, max_tokens=10) == [tokenizer().decode(w) for w in wanted]


def test_batches_of_any_size_give_the_same_texts():
    model, prompts = gpt(4), PROMPTS * 2
    wanted = generate_many(model, prompts, batch=1, max_tokens=5)
    for size in (2, 3, 8):
        assert generate_many(model, prompts, batch=size, max_tokens=5) == wanted


def test_a_short_prompt_is_not_cut_because_a_long_one_fills_the_context():
    model = gpt(5, context=16)
    long = "the cat meows. a cat sleeps. the dog barks."
    assert len(tokenizer().encode(long)) == 13
    short = "the cat"
    both = generate_many(model, [short, long], max_tokens=12)
    assert both == [generate(model, p, max_tokens=12) for p in (short, long)]
    assert both == [tokenizer().decode(slowly(model, p, 12)) for p in (short, long)]


def test_the_context_is_filled_and_not_left():
    model = gpt(6, context=16)
    ids = slowly(model, "the cat", 99)
    assert len(ids) + len(tokenizer().encode("the cat")) == 17  # the last one is not fed
    assert generate(model, "the cat", max_tokens=99) == tokenizer().decode(ids)


@pytest.mark.parametrize("tokens", range(1, 12))
def test_prompts_about_the_length_that_may_be_padded(tokens):
    """Padding takes room: a prompt that would then be cut goes alone; an exact fit is used."""
    model, prompts = (
        gpt(5, context=12),
        ["a", "the cat", "the cat meows. a", "the cat meows. a hen"],
    )
    lengths = [len(tokenizer().encode(p)) for p in prompts]
    assert lengths == [1, 2, 5, 6]
    wanted = [tokenizer().decode(slowly(model, p, tokens)) for p in prompts]
    assert generate_many(model, prompts, max_tokens=tokens) == wanted


def test_a_prompt_may_leave_room_for_one_token_and_no_less():
    model = gpt(6, context=4)
    assert len(tokenizer().encode("a cat sleeps")) == 3
    ids = slowly(model, "a cat sleeps", 9)
    assert len(ids) == 2 and generate(model, "a cat sleeps", max_tokens=9) == tokenizer().decode(
        ids
    )
    with pytest.raises(ValueError, match="has 4 tokens; with 1 more it does not fit"):
        generate(model, "a cat sleeps.")


def test_scoring_fills_the_context_exactly():
    model = gpt(6, context=4)
    whole = by_hand(model, "a cat", " sleeps.")[0]
    assert score(model, "a cat", [" sleeps."]) == pytest.approx([whole], abs=1e-10)
    with pytest.raises(ValueError, match="has 3 tokens; with 2 more it does not fit"):
        score(model, "a cat sleeps", [" barks", " sleeps."])


def test_an_attached_adapter_takes_part():
    model = gpt(7)
    before = generate(model, "the cat", max_tokens=8)
    handle = attach(model, LoRA(r=2))
    assert generate(model, "the cat", max_tokens=8) == before  # B = 0
    for path, p in handle.trainable():
        p.data = Rng(1, path).normal(p.shape)
    after = generate(model, "the cat", max_tokens=8)
    assert after == tokenizer().decode(slowly(model, "the cat", 8)) != before


def test_stop_ends_the_text_and_is_left_out():
    model = gpt(0)
    text = generate(model, "the cat", max_tokens=9)
    stop = text[3:5]
    assert generate(model, "the cat", max_tokens=9, stop=stop) == text.split(stop)[0]
    assert generate(model, "the cat", max_tokens=9, stop="no such text") == text
    assert generate_many(model, PROMPTS, max_tokens=9, stop=stop)[0] == text.split(stop)[0]


def test_a_text_is_cut_before_the_first_stop_of_its_last_token():
    ids = slowly(gpt(5), "the owl", 9)
    text = tokenizer().decode(ids)
    assert "lee" in [tokenizer().decode([t]) for t in ids] and text.index("ee") == text.index("e")
    assert generate(gpt(5), "the owl", max_tokens=9, stop="e") == text.split("e")[0]


# -- sampling -------------------------------------------------------------------------------------

LOGITS = np.log(np.array([0.05, 0.4, 0.15, 0.3, 0.1]))


def drawn(n=4000, temperature=1.0, top_k=None, top_p=None, logits=LOGITS):
    """Shares of the tokens in n draws."""
    rng = Rng(0, "draws")
    picks = [_pick(logits, temperature, top_k, top_p, rng) for _ in range(n)]
    return np.bincount(picks, minlength=len(logits)) / n


def test_sampling_follows_the_distribution():
    assert np.allclose(drawn(), np.exp(LOGITS), atol=0.025)


def test_temperature_sharpens_and_flattens():
    for temperature in (0.5, 2.0):
        wanted = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
        assert np.allclose(drawn(temperature=temperature), wanted, atol=0.025)
    assert drawn(100, temperature=0.0)[1] == drawn(100, temperature=0.01)[1] == 1.0


def test_top_k_keeps_the_likeliest():
    assert np.allclose(drawn(top_k=2), [0, 4 / 7, 0, 3 / 7, 0], atol=0.025)
    assert drawn(100, top_k=1)[1] == 1.0
    assert np.allclose(drawn(top_k=99), np.exp(LOGITS), atol=0.025)


def test_top_p_keeps_the_smallest_set_that_holds_p():
    assert drawn(100, top_p=0.39)[1] == 1.0
    for p in (0.41, 0.69):
        assert np.allclose(drawn(top_p=p), [0, 4 / 7, 0, 3 / 7, 0], atol=0.025)
    assert (drawn(top_p=0.71) > 0).sum() == 3
    assert np.allclose(drawn(top_p=1.0), np.exp(LOGITS), atol=0.025)


def test_top_p_that_is_exactly_met_adds_no_more():
    even = np.zeros(4)  # a quarter each, in whole binary fractions
    for p, kept in ((0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4), (0.5 + 1e-12, 3), (0.5 - 1e-12, 2)):
        assert (drawn(400, top_p=p, logits=even) > 0).sum() == kept
    uneven = np.array([-np.inf, 0.0, -np.inf, 0.0])  # a half each; what has no chance is not drawn
    assert (drawn(400, top_p=0.5, logits=uneven) > 0).tolist() == [False, True, False, False]
    assert (drawn(400, top_p=1.0, logits=uneven) > 0).tolist() == [False, True, False, True]


def test_top_p_counts_what_temperature_has_made():
    # squared and normalized 0.4 has 0.56 of all; square roots leave it 0.29
    assert drawn(200, temperature=0.5, top_p=0.5)[1] == 1.0
    assert (drawn(400, temperature=2.0, top_p=0.5) > 0).tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_top_k_cuts_ties_at_its_edge_and_keeps_k():
    logits = np.array([0.0, 1.0, 1.0, 2.0, 1.0])
    for k, kept in ((1, [3]), (2, [1, 3]), (3, [1, 2, 3]), (4, [1, 2, 3, 4]), (5, [0, 1, 2, 3, 4])):
        assert np.flatnonzero(drawn(600, top_k=k, logits=logits)).tolist() == kept
    assert drawn(50, temperature=0.0, logits=np.array([1.0, 2.0, 2.0]))[1] == 1.0


def test_top_k_and_top_p_together():
    assert (drawn(top_k=3, top_p=0.99) > 0).tolist() == [False, True, True, True, False]
    # 0.4 / 0.7 of what top_k leaves is more than p
    assert drawn(100, top_k=2, top_p=0.5)[1] == 1.0


def test_equal_logits_are_cut_in_order():
    assert (drawn(200, top_k=2, logits=np.zeros(4)) > 0).tolist() == [True, True, False, False]


def test_seeds_decide_samples():
    model = gpt(0)
    settings = {"max_tokens": 8, "temperature": 1.5}
    texts = [generate(model, "the cat", seed=s, **settings) for s in range(4)]
    assert texts == [generate(model, "the cat", seed=s, **settings) for s in range(4)]
    assert len(set(texts)) > 1
    rows = generate_many(model, ["the cat"] * 3, seed=0, **settings)
    assert rows[0] == texts[0] and len(set(rows)) > 1  # each row draws for itself
    assert rows == generate_many(model, ["the cat"] * 3, seed=0, batch=1, **settings)
    assert generate(model, "the cat", max_tokens=8, temperature=2.0, top_k=1) == generate(
        model, "the cat", max_tokens=8
    )


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number >= 1, got 0"),
        ({"temperature": -1.0}, r"temperature must be a finite number >= 0 \(0 is greedy\)"),
        ({"temperature": float("nan")}, "temperature must be a finite number >= 0"),
        ({"top_k": 0}, "top_k must be a whole number >= 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        generate(gpt(), "the cat", **settings)


def test_prompts_that_cannot_be_continued_are_refused():
    model = gpt(context=8)
    for ask in (generate, lambda m, p: score(m, p, [" meows"])):
        with pytest.raises(ValueError, match="the prompt is empty"):
            ask(model, "")
        with pytest.raises(ValueError, match="does not fit into the context of 8"):
            ask(model, "the cat meows. a cat sleeps. the dog barks.")


def test_a_classifier_neither_generates_nor_scores():
    model = gpt(head="linear", classes=2)
    with pytest.raises(ValueError, match="generation needs a language model's head"):
        generate(model, "the cat")
    with pytest.raises(ValueError, match="scoring needs a language model's head"):
        score(model, "the cat", [" meows"])


# -- scores ---------------------------------------------------------------------------------------


def by_hand(model, prompt, continuation):
    """Sum of log p of the continuation's tokens, and how many there are."""
    head, tail = tokenizer().encode(prompt), tokenizer().encode(continuation)
    table = log_probs(model, head + tail)
    return sum(table[len(head) - 1 + i, t] for i, t in enumerate(tail)), len(tail)


ONE, MANY = [" barks", " meows", " moos"], [" meows. a cat sleeps.", " barks", " zq"]


@pytest.mark.parametrize("options", [ONE, MANY])
@pytest.mark.parametrize("kind", [gpt, llama])
def test_scores_are_log_probabilities(options, kind):
    model = kind(1, context=40)
    lengths = [len(tokenizer().encode(o)) for o in options]
    assert (max(lengths) == 1) == (options is ONE)
    for prompt in PROMPTS:
        wanted = [by_hand(model, prompt, o) for o in options]
        assert score(model, prompt, options) == pytest.approx([w for w, _ in wanted], abs=1e-10)
        assert score(model, prompt, options, normalize=True) == pytest.approx(
            [w / n for w, n in wanted], abs=1e-10
        )


def test_one_token_options_score_alike_beside_longer_ones():
    model = gpt(2, context=40)
    alone, beside = score(model, "the cat", ONE), score(model, "the cat", [*ONE, MANY[0]])
    assert beside[:3] == pytest.approx(alone, abs=1e-10)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_many_questions_score_as_each_alone(batch):
    model = gpt(3, context=40)
    questions = [(p, o) for p in PROMPTS for o in (ONE, MANY, ONE[:1])]
    together = score_many(model, questions, batch=batch)
    for (prompt, options), got in zip(questions, together, strict=True):
        assert got == pytest.approx(score(model, prompt, options), abs=1e-10)


def test_scores_of_all_tokens_are_a_distribution():
    model = gpt(4)
    every = [tokenizer().decode([i]) for i in range(2, tokenizer().vocab_size)]
    plain = [t for t in every if tokenizer().encode(t) and len(tokenizer().encode(t)) == 1]
    plain = sorted({tokenizer().encode(t)[0]: t for t in plain}.items())
    table = log_probs(model, tokenizer().encode("the cat"))[-1]
    got = score(model, "the cat", [t for _, t in plain])
    assert got == pytest.approx([table[i] for i, _ in plain], abs=1e-10)
    assert 0.2 < np.exp(got).sum() <= 1 + 1e-9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_says_nothing(value):
    model = gpt()
    model.blocks[0].ln_2.bias.data[3] = value
    for ask in (
        lambda: generate(model, "the cat"),
        lambda: generate(model, "the cat", temperature=1.0, top_k=3),
        lambda: score(model, "the cat", ONE),
        lambda: score(model, "the cat", MANY),
        lambda: beam_search(model, "the cat"),
    ):
        with pytest.raises(NonFinite, match="logits are not finite.*layer_norm.*blocks.0.ln_2"):
            ask()


def test_one_row_that_is_not_finite_is_enough():
    model = gpt()
    for value in (np.nan, np.inf):
        logits = np.zeros((3, 5))
        check_logits(model, logits, lambda: None)
        logits[1, 2] = value
        with pytest.raises(NonFinite, match="none in a second pass"):
            check_logits(model, logits, lambda: None)
    logits[1] = [-np.inf, 0, -np.inf, 1, 0]
    check_logits(model, logits, lambda: None)


def test_a_token_may_be_forbidden():
    model = gpt(1)
    plain = generate(model, "the cat", max_tokens=1)
    barred = np.zeros(model.config.vocab)
    barred[tokenizer().encode(plain)] = -np.inf
    forward = model.forward

    def without(*args, **kwargs):
        out = forward(*args, **kwargs)
        return (out[0] + barred, out[1]) if isinstance(out, tuple) else out + barred

    model.forward = without
    assert generate(model, "the cat", max_tokens=1) != plain
    assert score(model, "the cat", [plain, " barks"])[0] == -np.inf


def test_one_text_is_no_list_of_texts():
    with pytest.raises(TypeError, match="takes a list of prompts, got one str: 'the cat'"):
        generate_many(gpt(), "the cat")
    with pytest.raises(TypeError, match="needs a list of continuations, got one str: ' meows'"):
        score(gpt(), "the cat", " meows")


def test_no_continuation_is_refused():
    for options in ([], [""], [" meows", ""]):
        with pytest.raises(ValueError, match="continuations that are not empty"):
            score(gpt(), "the cat", options)
