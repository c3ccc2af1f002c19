"""Optimizers, clipping and schedules against values counted by hand."""

import math

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.nn import Parameter
from minipeft.training.optim import CHUNK, SCHEDULES, SGD, AdamW, Schedule, clip_gradients
from minipeft.training.optimizers import Muon, orthogonal


def named(**arrays):
    """(path, Parameter) pairs, in float64."""
    return [(name, Parameter(np.array(a, dtype=np.float64))) for name, a in arrays.items()]


def take(opt, grads, lr=None):
    """One step with these gradients."""
    for (_, p), g in zip(opt.params, grads, strict=True):
        p.grad = None if g is None else np.broadcast_to(np.float64(g), p.shape).copy()
    opt.step(lr)


def adamw(w, grads, lr, b1, b2, eps, decay):
    """Loshchilov & Hutter's algorithm 2 on one number, the averages as sums."""
    for t in range(1, len(grads) + 1):
        m = sum((1 - b1) * b1 ** (t - i) * grads[i - 1] for i in range(1, t + 1))
        v = sum((1 - b2) * b2 ** (t - i) * grads[i - 1] ** 2 for i in range(1, t + 1))
        step = m / (1 - b1**t) / (math.sqrt(v / (1 - b2**t)) + eps)
        w = w - lr * decay * w - lr * step
    return w


def test_adamw_for_three_steps():
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "decay": 0.2}
    opt = AdamW(named(w=[[1.0, -2.0]]), **settings)
    grads = [[0.5, -1.0], [0.25, 3.0], [-2.0, 0.1]]
    for done, g in enumerate(grads, 1):
        take(opt, [np.array([g])])
        for column, start in enumerate((1.0, -2.0)):
            wanted = adamw(start, [x[column] for x in grads[:done]], 0.1, 0.8, 0.95, 1e-3, 0.2)
            assert opt.params[0][1].data[0, column] == pytest.approx(wanted, abs=1e-14)
    assert opt.steps == 3


def test_the_first_step_of_adamw_is_the_learning_rate():
    opt = AdamW(named(w=np.zeros((2, 2))), lr=0.1, decay=0.0)
    take(opt, [-7.0])
    assert np.allclose(opt.params[0][1].data, 0.1, atol=1e-9)


def test_sgd_with_momentum_and_decay():
    opt = SGD(named(w=[[2.0]]), lr=0.1, momentum=0.5, decay=0.2)
    take(opt, [1.0])  # u = 1 + 0.2 * 2 = 1.4
    assert opt.params[0][1].data.item() == pytest.approx(2 - 0.14)
    take(opt, [1.0])  # u = 0.7 + 1 + 0.2 * 1.86
    assert opt.params[0][1].data.item() == pytest.approx(1.86 - 0.1 * (0.7 + 1 + 0.372))


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_decay_touches_matrices_only(optimizer):
    opt = optimizer(named(w=[[1.0]], b=[1.0], gate=1.0), lr=0.1, decay=0.5)
    take(opt, [0.0, 0.0, 0.0])
    assert [p.data.item() for _, p in opt.params] == pytest.approx([0.95, 1.0, 1.0])


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_a_step_takes_its_own_rate_and_forgets_the_gradients(optimizer):
    opt = optimizer(named(w=[[1.0]], still=[[1.0]]), lr=0.1, decay=0.0)
    versions = [p.version for _, p in opt.params]
    take(opt, [1.0, None], lr=0.0)
    assert [p.data.item() for _, p in opt.params] == [1.0, 1.0]
    assert all(p.grad is None for _, p in opt.params)
    assert [p.version for _, p in opt.params] == [versions[0] + 1, versions[1]]


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4), (1, 5)])
def test_orthogonal_keeps_the_directions_and_evens_their_lengths(shape):
    x = Rng(0).normal(shape)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    y = orthogonal(x)
    lengths = np.diag(u.T @ y @ v.T)
    assert np.allclose(y, (u * lengths) @ v, atol=1e-12)  # the same singular vectors
    assert 0.65 < lengths.min() and lengths.max() < 1.25
    assert np.allclose(orthogonal(1000 * x), y, atol=1e-6)


def test_muon_for_two_steps():
    start = {"blocks.0.w": np.ones((4, 2)), "emb": np.ones((3, 2)), "blocks.0.b": [1.0]}
    opt = Muon(named(**start), lr=0.1, momentum=0.9, decay=0.5)
    g1, g2 = Rng(0).normal((2, 4, 2))
    take(opt, [g1, 2.0, 2.0])
    u = 0.1 * g1
    w = 0.95 * np.ones((4, 2)) - 0.1 * math.sqrt(2) * orthogonal(0.9 * u + 0.1 * g1)
    got = [p.data for _, p in opt.params]
    assert np.allclose(got[0], w, atol=1e-12)
    assert np.allclose(got[1], 1 - 0.015 * 0.5 - 0.015) and np.allclose(got[2], 1 - 0.015)
    take(opt, [g2, 2.0, 2.0], lr=0.2)
    u = 0.9 * u + 0.1 * g2
    w = 0.9 * w - 0.2 * math.sqrt(2) * orthogonal(0.9 * u + 0.1 * g2)
    assert np.allclose(opt.params[0][1].data, w, atol=1e-12)
    assert opt.steps == 2 and all(p.grad is None for _, p in opt.params)


@pytest.mark.parametrize("optimizer", [AdamW, SGD, Muon])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,)])
def test_parameters_of_no_axis_and_of_no_element(optimizer, shape):
    """They move as one of one element does, and stay arrays; state and clipping take them too."""
    start = {"blocks.0.w": np.full(shape, 2.0), "blocks.0.b": np.full(1, 2.0)}
    opt = optimizer(named(**start), lr=0.1)
    for _ in range(3):
        for _, p in opt.params:
            p.grad = p.data * 0 + 5.0  # of no axis this is a NumPy scalar
        norm = clip_gradients(opt.params, 1.0)
        count = 1 + math.prod(shape)
        assert norm == pytest.approx(5 * math.sqrt(count))
        assert all(np.allclose(p.grad, 1 / math.sqrt(count)) for _, p in opt.params)
        opt.step()
        opt.load_arrays(opt.arrays(), opt.steps)
    (_, p), (_, one) = opt.params
    assert isinstance(p.data, np.ndarray) and p.shape == shape and one.data != 2.0
    assert (p.data == one.data).all()


def test_large_and_strided_parameters_are_updated_whole():
    big = np.arange(2 * CHUNK + 6.0).reshape(2, -1)
    pairs = named(big=big) + [("strided", Parameter(big.T))]
    opt = AdamW(pairs, lr=0.5, decay=0.0)
    take(opt, [2.0, 2.0])
    assert np.allclose(pairs[0][1].data, big - 0.5) and np.allclose(pairs[1][1].data, big.T - 0.5)


def test_updates_keep_single_precision():
    p = Parameter(np.ones((2, 2), np.float32))
    opt = AdamW([("w", p)], lr=np.float64(0.1))
    p.grad = np.ones((2, 2), np.float32)
    clip_gradients(opt.params, 0.5)
    opt.step(np.float64(0.1))
    assert p.dtype == opt.state[0]["m"].dtype == opt.state[0]["v"].dtype == np.float32


def test_a_saved_state_goes_on_as_if_nothing_was():
    def run(opt, steps):
        for i in steps:
            take(opt, [np.array([[i - 1.5, 2.0 * i]])])

    straight = AdamW(named(w=[[1.0, 2.0]]), lr=0.1)
    run(straight, range(4))
    first = AdamW(named(w=[[1.0, 2.0]]), lr=0.1)
    run(first, range(2))
    second = AdamW(named(w=first.params[0][1].data), lr=0.1)
    second.load_arrays({name: a.copy() for name, a in first.arrays().items()}, first.steps)
    run(second, range(2, 4))
    assert set(first.arrays()) == {"m:w", "v:w"}
    assert (second.params[0][1].data == straight.params[0][1].data).all()


def test_an_optimizer_of_nothing_or_of_frozen_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing trains"):
        AdamW([], lr=0.1)
    with pytest.raises(ValueError, match="frozen parameters: blocks.0.w"):
        SGD([("blocks.0.w", Parameter(np.ones(2), requires_grad=False))], lr=0.1)
    for wrong in ({"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}, {"lr": 0.1, "decay": -0.1}):
        with pytest.raises(ValueError, match="must be a finite number >= 0"):
            AdamW(named(w=[1.0]), **wrong)


def test_clipping_scales_the_joint_norm():
    pairs = named(a=[3.0], b=[[4.0]], none=[1.0])
    for _, p in pairs[:2]:
        p.grad = p.data.copy()
    assert clip_gradients(pairs, 1.0) == pytest.approx(5.0)
    assert pairs[0][1].grad.item() == pytest.approx(0.6)
    assert pairs[1][1].grad.item() == pytest.approx(0.8)
    assert clip_gradients(pairs, 1.5) == pytest.approx(1.0)  # small enough: left alone
    assert pairs[1][1].grad.item() == pytest.approx(0.8)
    assert pairs[2][1].grad is None
    with pytest.raises(ValueError, match="max_norm must be > 0, got 0"):
        clip_gradients(pairs, 0)


def test_a_norm_that_is_just_allowed_is_left_alone():
    pairs = named(a=[3.0, 0.0], b=[[4.0]])
    for _, p in pairs:
        p.grad = p.data.copy()
    assert clip_gradients(pairs, 5.0) == 5.0
    assert pairs[0][1].grad.tolist() == [3.0, 0.0] and pairs[1][1].grad.item() == 4.0
    clip_gradients(pairs, 5.0 - 1e-9)
    assert pairs[1][1].grad.item() < 4.0
    for norm in (0.5, 0.1):  # small ones too
        assert clip_gradients(pairs, norm) > norm
        assert clip_gradients(pairs, 1.0) == pytest.approx(norm)


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_every_element_is_updated_once_whatever_the_last_part(kind, size):
    opt = kind([("w", Parameter(np.zeros((1, size), np.float32)))], lr=0.5)
    grad = np.resize(np.float32([1.0, -2.0, 3.0]), (1, size))
    for _ in range(2):
        opt.params[0][1].grad = grad.copy()
        opt.step()
    one = kind([("w", Parameter(np.zeros((1, 3), np.float32)))], lr=0.5)
    for _ in range(2):
        one.params[0][1].grad = grad[:, :1].repeat(3, 1) * np.float32([1.0, -2.0, 3.0])
        one.step()
    assert (opt.params[0][1].data == np.resize(one.params[0][1].data, (1, size))).all()


def test_clipping_without_gradients_does_nothing():
    assert clip_gradients(named(a=[3.0]), 1.0) == 0.0


WARM = [0.5, 1.0]  # the first two of ten steps, with warmup 0.2
FALL = [i / 8 for i in range(8)]  # how far the rest has come


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("constant", [1.0] * 8),
        ("linear", [1 - x for x in FALL]),
        ("cosine", [math.cos(math.pi * x / 2) ** 2 for x in FALL]),
        ("trapezoid", [1.0] * 7 + [0.625]),
    ],
)
def test_schedules(name, rest):
    got = [Schedule(name, 0.2).at(step, 10) for step in range(10)]
    assert got == pytest.approx(WARM + rest)


@pytest.mark.parametrize(
    ("total", "warmup", "rise"),
    [(30, 0.06, 2), (20, 0.06, 1), (25, 0.06, 2), (10, 0.06, 1), (8, 0.06, 0), (150, 0.06, 9),
     (10, 1.0, 10), (10, 0.0, 0), (3, 0.5, 2)],
)  # fmt: skip
def test_warm_up_is_the_nearest_whole_number_of_steps(total, warmup, rise):
    got = [Schedule("constant", warmup).at(step, total) for step in range(total)]
    assert got == pytest.approx([(i + 1) / rise for i in range(rise)] + [1.0] * (total - rise))
    line = [Schedule("linear", warmup).at(step, total) for step in range(total)]
    if rise < total:  # the fall begins at the peak, on the step after the rise
        assert line[rise] == 1.0 and line[-1] == pytest.approx(1 / (total - rise))


def test_the_trapezoid_falls_over_its_last_fifth():
    got = [Schedule("trapezoid", 0.0).at(step, 10) for step in range(10)]
    assert got == pytest.approx([1.0] * 9 + [0.5])
    got = [Schedule("trapezoid", 0.0).at(step, 20) for step in range(20)]
    assert got == pytest.approx([1.0] * 17 + [0.75, 0.5, 0.25])


def test_one_step_alone_has_the_whole_rate():
    for name in SCHEDULES:
        assert Schedule(name, 0.0).at(0, 1) == Schedule(name, 1.0).at(0, 1) == 1.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_of_a_schedule_moves(name):
    for total in (1, 2, 3, 50):
        rates = [Schedule(name).at(step, total) for step in range(total)]
        assert all(0 < r <= 1 for r in rates) and max(rates) == 1.0


def test_an_unknown_schedule_names_the_known():
    with pytest.raises(ValueError, match="or 'trapezoid', got 'linaer'; did you mean 'linear'"):
        Schedule("linaer")
