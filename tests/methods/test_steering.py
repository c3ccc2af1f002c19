"""Steering: what is added where, what is measured, and the bias that it becomes."""

import dataclasses

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import NotMergeable, attach
from minipeft.contract.watching import outputs
from minipeft.engine import no_grad, running
from minipeft.generation.sampling import generate
from minipeft.generation.scoring import score
from minipeft.methods import LoRA, Prompt, Steering, load_adapter
from minipeft.methods.probes import (
    auc,
    direction,
    fit_probe,
    folds,
    held_out,
    read_heads,
)
from minipeft.methods.steering import point
from minipeft.training.batches import Batch
from minipeft.training.probing import probe_batches
from tests.methods.contract import CLOSE, Case, randomize, run, same
from tests.tiny import bert, gpt, llama

PAIRS = [(f"the {a} barks. a {a}", f"the {b} meows. a {a}")
         for a, b in (("cat", "dog"), ("cow", "hen"), ("fox", "owl"), ("dog", "cat"),
                      ("hen", "fox"), ("owl", "cow"))]  # fmt: skip


def steered(model, alpha=4.0, positions="all", heads=((0, 1), (1, 0)), **fields):
    """A handle with two heads that lean."""
    D = model.blocks[0].attn.o_proj.d_in // model.config.heads
    handle = attach(model, Steering(k=len(heads), alpha=alpha, positions=positions, **fields))
    theta = Rng(3, "theta").normal((len(heads), D))
    point(handle, heads, theta / np.linalg.norm(theta, axis=1, keepdims=True), [0.4, 0.7])
    return handle


# -- what is added ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gpt, bert, llama])
def test_heads_move_by_alpha_sigma_theta_and_no_others_do(make):
    """By hand: the o_proj reads its heads side by side, plus alpha sigma theta in each chosen."""
    model = make()
    ids = Rng(0).integers(2, 60, (2, 6))
    handle = steered(model)
    found = handle.method.state(handle)
    assert found["heads"].tolist() == [[0, 1], [1, 0]]
    x = Rng(1).normal((2, 6, 16))
    for i, block in enumerate(model.blocks):
        o = block.attn.o_proj
        moved = x.reshape(2, 6, model.config.heads, -1).copy()
        for (part, h), t, s in zip(*found.values(), strict=True):
            moved[:, :, h] += (part == i) * 4.0 * s * t
        bias = 0.0 if o.base.bias is None else o.base.bias.data
        wanted = moved.reshape(x.shape) @ o.base.weight.data.T + bias
        np.testing.assert_allclose(o(x).data, wanted, rtol=1e-12, atol=1e-12)
    y = run(model, ids)
    with running(off=[handle]):
        assert abs(run(model, ids) - y).max() > 1e-3


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_alpha_zero_is_the_base_bit_for_bit(positions):
    model = gpt(dtype=np.float32)
    ids = Rng(0).integers(2, 60, (2, 6))
    before, asked = run(model, ids), score(model, "the cat", [" barks.", " meows."])
    with steered(model, 0.0, positions):
        assert same(run(model, ids), before)
        assert score(model, "the cat", [" barks.", " meows."]) == asked
    with steered(model, 1e-2, positions):
        assert score(model, "the cat", [" barks.", " meows."]) != asked


def by_hand(model, handle, prompt, rest):
    """Logits behind a prompt, of which the last token alone is steered, and the tokens after it."""
    ids = model.tokenizer.encode(prompt)
    with no_grad():
        with running(off=[handle]):
            _, past = model(np.array([ids[:-1]]), return_past=True)
        found = []
        for token in [ids[-1], *rest]:
            logits, past = model(np.array([[token]]), past=past, return_past=True)
            found.append(logits.data[0, -1])
    return np.array(found)


def log_probability(z, said):
    z = z - z.max(1, keepdims=True)
    return (z[np.arange(len(said)), said] - np.log(np.exp(z).sum(1))).sum()


def test_an_answer_is_steered_from_the_last_token_of_its_prompt_on():
    """In scoring, where all tokens of an answer stand in one row, and step by step by hand."""
    model = gpt()
    handle = steered(model, positions="answer")
    options = [" barks. a cat", " meows."]
    asked = [" ".join(["the cat"] * n) for n in (1, 2)]
    for prompt in asked:
        tokens = [model.tokenizer.encode(o) for o in options]
        wanted = [log_probability(by_hand(model, handle, prompt, t[:-1]), t) for t in tokens]
        np.testing.assert_allclose(score(model, prompt, options), wanted, rtol=1e-9)
    with running(off=[handle]):
        plain = score(model, asked[0], options)
    assert min(np.abs(np.subtract(score(model, asked[0], options), plain))) > 1e-4


def test_generation_steers_the_newest_token():
    model = gpt()
    handle = steered(model, alpha=12.0, positions="answer")
    asked, said = "the cat meows. a", []
    while len(said) < 4:
        said.append(int(by_hand(model, handle, asked, said)[-1].argmax()))
    assert model.tokenizer.end_id not in said
    assert generate(model, asked, max_tokens=4) == model.tokenizer.decode(said)
    with running(off=[handle]):
        assert generate(model, asked, max_tokens=4) != model.tokenizer.decode(said)


def test_where_every_position_is_read_all_are_steered():
    model, ids = gpt(), Rng(0).integers(2, 60, (2, 6))
    with steered(model, positions="answer"):
        y = run(model, ids)
    with steered(model, positions="all"):
        assert same(run(model, ids), y)


def test_a_prompt_of_vectors_in_front_moves_nothing():
    """Positions are counted from the end."""
    model = gpt()
    with attach(model, Prompt(n=3)), steered(model, positions="answer") as handle:
        rows, columns = np.array([0, 0]), np.array([3, 4])
        ids = Rng(0).integers(2, 60, (1, 5))
        with no_grad():
            y = model(ids, at=(rows, columns)).data
            with running(off=[handle]):
                before = model(ids).data
                _, past = model(ids[:, :3], return_past=True)
            assert abs(before[0, 3:] - y).max() > 1e-3
            one, past = model(ids[:, 3:4], past=past, return_past=True)
            two, _ = model(ids[:, 4:], past=past, return_past=True)
        np.testing.assert_allclose(y, [one.data[0, 0], two.data[0, 0]], rtol=1e-9)


def test_rows_may_be_steered_apart_only_at_all_positions():
    model, ids = gpt(), Rng(0).integers(2, 60, (2, 5))
    handle = steered(model, positions="all")
    with running(rows=[handle, None]):
        y = run(model, ids)
    assert abs(y[0] - run(model, ids)[0]).max() < 1e-12
    with running(off=[handle]):
        assert abs(y[1] - run(model, ids)[1]).max() < 1e-12
    handle.detach()
    handle = steered(model, positions="answer")
    with running(rows=[handle, None]), pytest.raises(ValueError, match="'steering' changes"):
        run(model, ids)


# -- the bias that it becomes -------------------------------------------------------------------


@pytest.mark.parametrize("make", [gpt, bert, llama])
def test_a_bias_steers_at_all_positions(make):
    model, ids = make(), Rng(0).integers(2, 60, (2, 6))
    handle = steered(model)
    y, W, v = run(model, ids), {}, {}
    for path, w in handle.wrappers.items():
        W[path], v[path] = w.base.weight.data, w.shift()
    b = {path: w.base.bias for path, w in handle.wrappers.items()}
    handle.merge()
    assert abs(run(model, ids) - y).max() <= CLOSE * abs(y).max()
    for path in W:
        old = 0.0 if b[path] is None else b[path].data
        np.testing.assert_allclose(model.get(path).bias.data, old + W[path] @ v[path], rtol=1e-12)
        assert same(model.get(path).weight.data, W[path])


def test_the_shift_itself_as_a_bias_is_another_function():
    """The known fault: alpha sigma theta put into the bias without W."""
    model, ids = gpt(), Rng(0).integers(2, 60, (2, 6))
    handle = steered(model)
    y = run(model, ids)
    shifts = {path: w.shift() for path, w in handle.wrappers.items()}
    handle.detach()
    before = run(model, ids)
    for path, v in shifts.items():
        part = model.get(path)
        part.bias.data = part.bias.data + v
    assert abs(run(model, ids) - y).max() > 0.1 * abs(y - before).max()


def test_what_begins_at_the_answer_is_no_bias():
    handle = steered(gpt(), positions="answer")
    with pytest.raises(NotMergeable, match=r"blocks.0.attn.o_proj: .*Steering\(positions='all'\)"):
        handle.merge()


# -- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gpt, bert, llama])
def test_measuring_finds_the_mean_shift_where_the_answer_begins(make):
    model = make()
    batches = probe_batches(model, PAIRS, size=5)
    x, kind, question = read_heads(model, batches)
    H, D = model.config.heads, 16 // model.config.heads
    assert x.shape == (12, 2, H, D) and kind.tolist() == [1, 0] * 6
    assert question.tolist() == np.repeat(range(6), 2).tolist()
    # one document alone, without padding
    ids, read = batches[1].ids[0, : batches[1].mask[0].sum()], batches[1].more["at"][0]
    alone = Batch(ids[None], ids[None], np.ones((1, len(ids)), bool))
    (_, seen), *_ = outputs(model, [alone], "head_out")
    np.testing.assert_allclose(x[5].reshape(2, -1), [y[0, read] for y in seen.values()], atol=1e-12)
    if model.causal:
        assert read == len(ids) - 1
    else:
        assert ids[read] == model.tokenizer.mask_id
    handle = attach(model, Steering(k=2, folds=3))
    handle.measure(batches)
    for (i, h), t, s in zip(*handle.method.state(handle).values(), strict=True):
        one = x[:, i, h]
        shift = one[kind == 1].mean(0) - one[kind == 0].mean(0)
        np.testing.assert_allclose(t, shift / np.linalg.norm(shift), rtol=1e-10)
        np.testing.assert_allclose(s, (one @ t).std(), rtol=1e-10)
    before = handle.method.state(handle)
    handle.measure(batches)  # what it added itself is not measured
    assert all(
        np.allclose(a, before[n], rtol=1e-12) for n, a in handle.method.state(handle).items()
    )


def test_a_file_is_small_and_holds_heads_theta_sigma_and_alpha(tmp_path):
    model = gpt()
    handle = attach(model, Steering(k=3, alpha=-2.5, folds=2, theta="probe"))
    handle.measure(probe_batches(model, PAIRS))
    handle.save(tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 2000
    fresh = gpt()
    other = load_adapter(fresh, tmp_path / "a")
    assert other.method == handle.method and other.method.alpha == -2.5
    state = handle.method.state(handle)
    assert all(same(a, state[name]) for name, a in other.method.state(other).items())
    asked = ("the cat", [" barks.", " meows."])
    assert score(fresh, *asked) == score(model, *asked)


def test_random_directions_differ_by_seed_and_have_sigmas_of_their_own():
    model = gpt()
    batches, found = probe_batches(model, PAIRS), []
    x, *_ = read_heads(model, batches)
    for seed in (0, 1):
        with attach(model, Steering(theta="random", seed=seed, folds=2)) as handle:
            handle.measure(batches)
            state = handle.method.state(handle)
        (i, h), theta = state["heads"][0], state["theta"][0]
        np.testing.assert_allclose(np.linalg.norm(theta), 1.0)
        np.testing.assert_allclose(state["sigma"][0], (x[:, i, h] @ theta).std(), rtol=1e-10)
        found.append(theta)
    assert not np.allclose(*found)


def test_what_does_not_fit_is_refused():
    model = gpt()
    with pytest.raises(ValueError, match="k = 5 is more than the 4 heads"):
        attach(model, Steering(k=5))
    with pytest.raises(ValueError, match="ln_1 is a LayerNorm; it must be the Linear"):
        attach(model, Steering(targets="ln_1"))
    assert not model.handles and "forward" not in vars(model)
    handle = attach(model, Steering(k=2))
    with pytest.raises(ValueError, match=r"more= kind, question and at: .*probe_batches"):
        handle.measure([dataclasses.replace(probe_batches(model, PAIRS)[0], more=None)])
    for heads, theta, message in (
        ([(0, 0)], np.ones((1, 8)), "wanted k = 2 heads"),
        ([(0, 0), (0, 1)], np.ones((2, 7)), r"theta \(2, 8\)"),
        ([(0, 0), (0, 0)], np.ones((2, 8)), "wanted 2 of 2 blocks with 2 heads"),
        ([(0, 0), (0, 2)], np.ones((2, 8)), "wanted 2 of 2 blocks with 2 heads"),
    ):
        with pytest.raises(ValueError, match=message):
            point(handle, heads, theta, np.ones(len(heads)))
    handle.detach()
    assert "forward" not in vars(model)


def test_another_adapter_trains_under_what_steers():
    case = Case(Steering(k=2, positions="all"))
    model = case.model()
    with attach(model, LoRA(r=2)) as lora:
        handle = attach(model, case.method, freeze=False)
        randomize(handle)
        model(case.inputs()).sum().backward()
        assert all(p.grad is not None for _, p in lora.trainable())
        handle.detach()


# -- probes -------------------------------------------------------------------------------------


def two_kinds(n=200, D=5, seed=0):
    """Rows whose kinds differ along the first axis by three deviations."""
    x, y = Rng(seed, "x").normal((n, D)) * np.arange(1, D + 1), np.arange(n) % 2
    x[:, 0] += 3 * y
    return x, y


def test_a_probe_is_the_minimum_of_its_loss():
    """Its gradient, written again, is zero; l2 does not hold the offset."""
    x, y = two_kinds()
    p = fit_probe(x, y, l2=2.0)
    np.testing.assert_allclose((p.mean, p.width), (x.mean(0), x.std(0)))
    z = (x - x.mean(0)) / x.std(0)
    error = 1 / (1 + np.exp(-(z @ p.w + p.b))) - y
    np.testing.assert_allclose(z.T @ error + 2.0 * p.w, 0, atol=1e-8)
    np.testing.assert_allclose(error.sum(), 0, atol=1e-8)
    np.testing.assert_allclose(p.logits(x), z @ p.w + p.b)
    shifted = fit_probe(7.0 * x + 5.0, y, l2=2.0)  # standardized: no unit, no origin
    np.testing.assert_allclose(shifted.w, p.w, atol=1e-8)


def test_a_coordinate_that_never_varies_does_no_harm():
    x, y = two_kinds()
    x[:, 3] = 4.0
    p = fit_probe(x, y)
    assert abs(p.w[3]) < 1e-9 and np.isfinite(p.logits(x)).all()


def test_auc_counts_pairs_and_halves_of_ties():
    assert auc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([1, 0, 1, 0])) == 1.0
    assert auc(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1, 0, 1, 0])) == 0.25
    assert auc(np.array([1.0, 1.0, 1.0]), np.array([1, 0, 1])) == 0.5
    with pytest.raises(ValueError, match="both kinds, got 2 of one and 0"):
        auc(np.ones(2), np.ones(2))


def test_folds_part_questions_and_not_pairs():
    question = np.repeat(np.arange(7), [2, 4, 2, 2, 6, 2, 2])
    masks = folds(question, 3, seed=1)
    assert (sum(m.astype(int) for m in masks) == 1).all()  # each row is held out once
    for m in masks:
        assert m.any() and not set(question[m]) & set(question[~m])
    assert not all(map(np.array_equal, masks, folds(question, 3, seed=2)))
    with pytest.raises(ValueError, match="8 folds need as many questions, got 7"):
        folds(question, 8)


@pytest.mark.parametrize("kind", ["probe", "mean"])
def test_a_leak_over_pairs_would_be_seen(kind):
    """Each question has a direction of its own: nothing carries over to another question."""
    rng, n = Rng(0), 40
    own = rng.normal((n, 6))
    x = np.stack([own, -own], axis=1).reshape(2 * n, 1, 6)
    y, question = np.tile([1, 0], n), np.repeat(np.arange(n), 2)
    held = held_out(x, y, question, kind)
    assert 0.3 < held.auc[0] < 0.7
    x[:, 0, 2] += 4 * y
    better = held_out(x, y, question, kind)
    assert better.auc[0] > 0.95 and better.best(1) == [0]
    assert (better.accuracy[0] > 90) == (kind == "probe")


def test_heads_are_ranked_by_auc_then_nats():
    x, y = two_kinds(80)
    noise = Rng(1).normal((80, 5))
    heads = np.stack([noise, x, noise[:, ::-1]], axis=1)
    held = held_out(heads, y, np.arange(80) // 2)
    assert held.best(1) == [1] and len(held.best(3)) == 3
    tied = held._replace(auc=np.ones(3), nats=np.array([0.3, 0.1, 0.2]))
    assert tied.best(3) == [1, 2, 0]


@pytest.mark.parametrize("kind", ["mean", "probe", "random"])
def test_a_direction_has_length_one_and_its_deviation(kind):
    x, y = two_kinds()
    theta, sigma = direction(x, y, kind, Rng(5))
    np.testing.assert_allclose([np.linalg.norm(theta), sigma], [1, (x @ theta).std()])
    if kind != "random":  # it points to the rows with y = 1
        assert (x @ theta)[y == 1].mean() > (x @ theta)[y == 0].mean() + 1
        turned, same_sigma = direction(x, 1 - y, kind)
        np.testing.assert_allclose(turned, -theta, atol=1e-9)
        np.testing.assert_allclose(same_sigma, sigma)


def test_directions_of_nothing_are_refused():
    x, y = two_kinds()
    with pytest.raises(ValueError, match="the same mean here: no direction"):
        direction(np.repeat(x[::2], 2, axis=0), y)
    with pytest.raises(ValueError, match="of 0 and 1, both there"):
        direction(x, np.ones(len(x)))
    with pytest.raises(ValueError, match="no pair of documents"):
        probe_batches(gpt(), [])
    with pytest.raises(ValueError, match="this model's head is 'linear': load it"):
        probe_batches(gpt(head="linear", classes=2), PAIRS)
