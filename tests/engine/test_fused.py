"""Fused operations against their composed twins: values, gradients, dtypes, edges."""

import math
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minipeft import backend as arrays
from minipeft.backend import Rng, to_numpy
from minipeft.engine import Tensor, fused, grad_check, variants

FOUND = vars(variants) | vars(fused)


class Case(NamedTuple):
    name: str  # of the function in fused.py or variants.py, then of the case
    inputs: tuple  # arrays; the floats are float64
    settings: dict = {}  # noqa: RUF012

    @property
    def fast(self):
        return FOUND[self.name.split()[0]]

    @property
    def slow(self):
        return FOUND[self.name.split()[0] + "_slow"]


def normal(name, *shape):
    return np.asarray(Rng(1, name, str(shape)).normal(shape))


def integers(name, high, *shape):
    return Rng(1, name).integers(0, high, shape)


def attention_case(name, B=2, T=3, S=3, C=4, width=None, **settings):
    """width is that of keys and values, C by default."""
    q, k, v = normal("q", B, T, C), *(normal(x, B, S, width or C) for x in "kv")
    return Case(f"attention {name}", (q, k, v), {"heads": 2, "causal": True, **settings})


PADDED = np.array([[False, True, True], [True, True, False]])  # left and right
UNSEEN = np.array([[False, False, True], [False, False, False]])  # some queries see nothing
KEEP = (normal("keep", 2, 2, 3, 3) > -0.5) / 0.7  # what dropout multiplies the weights with
PLACES = np.array([[0, 1, 2], [-1, 3, 41]])
W, B_ = 0.3 * normal("w", 5, 4), normal("b", 5)
IGNORING = np.array([[3, -100, 0], [-100, -100, 4]])


def decode(like):
    return arrays.xp_of(like).asarray(W, dtype=like.dtype)


CASES = [
    Case("linear", (normal("x", 3, 4), W, B_)),
    Case("linear without bias", (normal("x", 3, 4), W)),
    Case("linear b=None", (normal("x", 3, 4), W, None)),
    Case("linear of a vector", (normal("x", 4), W, B_)),
    Case("linear of a batch", (normal("x", 2, 3, 4), W, B_)),
    Case("linear of a strided batch", (normal("x", 3, 2, 4).swapaxes(0, 1), W, B_)),
    Case("linear of one", (normal("x", 1, 1), normal("w", 1, 1), normal("b", 1))),
    *[Case(f"linear_decoded {shape} {b}", (normal("x", *shape, 4), *b),
           {"decode": decode, "shape": (5, 4)})
      for shape in ((), (3,), (2, 3)) for b in ((B_,), (None,), ())],
    *[Case(f"add_low_rank {shape}", (normal("y", *shape, 5), normal("x", *shape, 4),
           normal("a", 2, 4), normal("b", 5, 2)), {"scale": 1.5})
      for shape in ((), (1,), (3,), (2, 3))],
    Case("layer_norm", (normal("x", 3, 4), normal("w", 4), normal("b", 4))),
    Case("layer_norm of a vector", (normal("x", 5), normal("w", 5), normal("b", 5))),
    Case("layer_norm of a batch", (normal("x", 2, 1, 4), normal("w", 4), normal("b", 4)),
         {"eps": 0.1}),
    Case("layer_norm of width 1", (normal("x", 3, 1), normal("w", 1), normal("b", 1))),
    Case("rms_norm", (normal("x", 3, 4), normal("w", 4))),
    Case("rms_norm of a vector", (normal("x", 5), normal("w", 5))),
    Case("rms_norm of a strided batch", (normal("x", 3, 2, 4).swapaxes(0, 1), normal("w", 4)),
         {"eps": 0.1}),
    Case("rms_norm of width 1", (normal("x", 3, 1), normal("w", 1))),
    Case("rotary", (normal("x", 2, 3, 4), PLACES), {"width": 4}),
    Case("rotary with heads and places that rows share", (normal("x", 2, 3, 8), PLACES[:1]),
         {"width": 4, "theta": 50.0}),
    Case("rotary of one pair", (normal("x", 1, 1, 2), PLACES[1:, :1]), {"width": 2}),
    Case("rotary of a strided batch", (normal("x", 3, 2, 12).swapaxes(0, 1), PLACES),
         {"width": 6, "theta": 3.0}),
    Case("rotary of no place", (normal("x", 2, 0, 4), PLACES[:, :0]), {"width": 2}),
    *[Case(f"swiglu {shape}", (np.asarray(2 * normal("a", *shape)), normal("b", *shape)))
      for shape in ((), (1,), (2, 3), (2, 1, 3))],
    *[Case(f"{f} {shape}", (np.asarray(2 * normal(f, *shape)),))
      for f in ("gelu", "gelu_erf") for shape in ((), (1,), (2, 3), (2, 1, 3))],
    *[Case(f"{f} {shape} {axis}", (normal(f, *shape),), {"axis": axis})
      for f in ("softmax", "log_softmax")
      for shape, axis in (((4,), -1), ((2, 3), -1), ((2, 3), 0), ((2, 3, 2), 1), ((2, 1), 1))],
    attention_case("causal"),
    attention_case("bidirectional", causal=False),
    attention_case("one query", T=1),
    attention_case("one key", T=1, S=1),
    attention_case("past", T=2, S=5),
    attention_case("past with padding", T=2, S=3, mask=PADDED),
    attention_case("across", T=4, S=3, causal=False),
    attention_case("padding", mask=PADDED),
    attention_case("padding, bidirectional", causal=False, mask=PADDED),
    attention_case("mask of integers", mask=PADDED.astype(np.int64)),
    attention_case("unseen", mask=UNSEEN),
    attention_case("unseen, bidirectional", causal=False, mask=UNSEEN),
    attention_case("dropout", factors=KEEP),
    attention_case("dropout and padding", factors=KEEP, mask=PADDED, causal=False),
    attention_case("one head", heads=1),
    attention_case("as many heads as width", heads=4),
    attention_case("grouped", C=8, heads=4, width=4),
    attention_case("one key head for all", C=6, heads=3, width=2, causal=False),
    attention_case("grouped after a past, padded", T=2, S=3, C=8, heads=4, width=4, mask=PADDED),
    attention_case("grouped, one query", T=1, S=4, C=12, heads=6, width=6),
    attention_case("grouped with dropout", C=4, width=2, factors=KEEP, mask=PADDED),
    Case("embedding", (normal("w", 5, 3), np.array([0, 4, 2]))),
    Case("embedding repeated", (normal("w", 5, 3), np.array([[1, 1, 4], [1, 0, 1]]))),
    Case("embedding one id", (normal("w", 5, 3), np.array(2))),
    Case("embedding no id", (normal("w", 5, 3), np.zeros((2, 0), np.int64))),
    Case("cross_entropy", (normal("logits", 4, 5), np.array([0, 4, 2, 2]))),
    Case("cross_entropy of a row", (normal("logits", 5), np.array(3))),
    Case("cross_entropy smoothed", (normal("logits", 4, 5), np.array([0, 4, 2, 2])),
         {"smoothing": 0.1}),
    Case("cross_entropy ignoring", (normal("logits", 2, 3, 5), IGNORING)),
    Case("cross_entropy ignoring, smoothed", (normal("logits", 2, 3, 5), IGNORING),
         {"smoothing": 0.3}),
    Case("cross_entropy ignoring 0", (normal("logits", 4, 5), np.array([0, 4, 0, 2])),
         {"ignore": 0}),
    Case("cross_entropy of one class", (normal("logits", 2, 1), np.array([0, 0]))),
]  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def trains(x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def tensors(case, dtype=np.float64, frozen=()):
    return [
        Tensor(x.astype(dtype), requires_grad=i not in frozen) if trains(x) else x
        for i, x in enumerate(case.inputs)
    ]


def cotangent(y):
    return normal("g", *y.shape).astype(y.dtype)


def with_settings(case, f):
    return lambda *inputs: f(*inputs, **case.settings)


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_agrees_with_its_twin(case, dtype, tolerance):
    fast, slow = tensors(case, dtype), tensors(case, dtype)
    settings = dict(case.settings)
    if settings.get("factors") is not None:
        settings["factors"] = settings["factors"].astype(dtype)
    y, z = case.fast(*fast, **settings), case.slow(*slow, **settings)
    assert y.shape == z.shape and y.dtype == dtype and z.dtype == dtype

    def agree(a, b):
        assert np.abs(a - b).max(initial=0) <= tolerance * (1 + np.abs(b).max(initial=0))

    agree(y.data, z.data)
    g = cotangent(y)
    pulled = y._node.pull(g)  # before the walk casts
    assert {np.asarray(p).dtype for p in pulled if p is not None} == {np.dtype(dtype)}
    y.backward(g)
    z.backward(g)
    for a, b in zip(fast, slow, strict=True):
        if isinstance(a, Tensor):
            assert a.grad.dtype == dtype
            agree(a.grad, b.grad)


@every_case
def test_gradient(case):
    if all(0 not in x.shape for x in case.inputs if x is not None):
        grad_check(with_settings(case, case.fast), *case.inputs)
        grad_check(with_settings(case, case.slow), *case.inputs)


@every_case
def test_two_backwards_are_bit_equal_and_write_nothing(case):
    inputs = tensors(case)
    leaves = [t for t in inputs if isinstance(t, Tensor)]
    for t in leaves:
        t.data.flags.writeable = False
    y = case.fast(*inputs, **case.settings)
    y.data.flags.writeable = False
    g = cotangent(y)
    g.flags.writeable = False
    y.backward(g, retain=True)
    first = [t.grad for t in leaves]
    kept = [*[t.data for t in leaves], y.data, g]
    for i, t in enumerate(leaves):
        assert not any(np.shares_memory(t.grad, other) for other in kept + first[:i])
        t.grad = None
    y.backward(g)
    for t, one in zip(leaves, first, strict=True):
        assert (t.grad == one).all()


@every_case
def test_freezing_inputs_does_not_change_the_other_gradients(case):
    free = [i for i, x in enumerate(case.inputs) if trains(x)]
    every = tensors(case)
    y = case.fast(*every, **case.settings)
    g = cotangent(y)
    y.backward(g)
    for choice in product((True, False), repeat=len(free)):
        frozen = [i for i, cold in zip(free, choice, strict=True) if cold]
        if len(frozen) == len(free):
            continue
        inputs = tensors(case, frozen=frozen)
        y = case.fast(*inputs, **case.settings)
        pulled = y._node.pull(g)
        y.backward(g)
        for i in free:
            if i in frozen:
                assert inputs[i].grad is None and pulled[i] is None
            else:
                assert (inputs[i].grad == every[i].grad).all()


def test_every_fused_op_has_a_twin_and_cases():
    names = {fused.__name__, variants.__name__}
    fast = {name for name, f in FOUND.items()
            if hasattr(f, "__wrapped__") and f.__module__ in names
            and not name.endswith("_slow")}  # fmt: skip
    assert len(fast) == 14
    for name in fast:
        assert f"{name}_slow" in FOUND
        assert sum(case.name.split()[0] == name for case in CASES) >= 4


def test_runs_on_every_backend(backend):
    for case in CASES:
        inputs = [
            Tensor(backend.asarray(x), requires_grad=True) if trains(x)
            else x if x is None else backend.asarray(x)
            for x in case.inputs
        ]  # fmt: skip
        settings = {k: backend.asarray(v) if k in ("mask", "factors") else v
                    for k, v in case.settings.items()}  # fmt: skip
        y = case.fast(*inputs, **settings)
        z = case.fast(*tensors(case), **case.settings)
        assert arrays.xp_of(y.data) is backend
        assert np.allclose(to_numpy(y.data), z.data, rtol=1e-12, atol=1e-13)
        y.backward(backend.ones_like(y.data))
        assert all(arrays.xp_of(t.grad) is backend for t in inputs if isinstance(t, Tensor))


drawn = settings(max_examples=25, derandomize=True, deadline=None, database=None)


@drawn
@given(st.data())
def test_attention_on_drawn_shapes(data):
    B, T, heads, D, past = (
        data.draw(st.integers(a, b)) for a, b in ((1, 2), (1, 4), (1, 3), (1, 3), (0, 3))
    )
    causal, masked = data.draw(st.booleans()), data.draw(st.booleans())
    case = attention_case(
        "drawn", B, T, T + past, heads * D, heads=heads, causal=causal,
        mask=normal("mask", B, T + past) > -0.5 if masked else None,
    )  # fmt: skip
    y = case.fast(*tensors(case), **case.settings)
    z = case.slow(*tensors(case), **case.settings)
    assert np.abs(y.data - z.data).max() <= 1e-12
    grad_check(with_settings(case, case.fast), *case.inputs)


@drawn
@given(st.data())
def test_cross_entropy_on_drawn_shapes(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3)))
    V, smoothing = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([0.0, 0.2]))
    labels = np.asarray(integers("labels", V, *shape))
    if labels.size > 1 and data.draw(st.booleans()):
        labels.reshape(-1)[data.draw(st.integers(0, labels.size - 1))] = -100
    case = Case("cross_entropy", (normal("l", *shape, V), labels), {"smoothing": smoothing})
    y = case.fast(*tensors(case), **case.settings)
    z = case.slow(*tensors(case), **case.settings)
    assert y.shape == () and np.abs(y.data - z.data) <= 1e-12
    grad_check(with_settings(case, case.fast), *case.inputs)


# -- what the formulas say -------------------------------------------------------------------------


def test_layer_norm_has_mean_b_and_deviation_w():
    x = Tensor(5 + 3 * normal("x", 4, 200))
    y = fused.layer_norm(x, Tensor(np.full(200, 2.0)), Tensor(np.full(200, 7.0)), eps=1e-12)
    assert np.allclose(y.data.mean(axis=1), 7) and np.allclose(y.data.std(axis=1), 2)


def test_gelu_values():
    x = np.array([-2.0, 0.0, 0.5, 3.0])
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    assert np.abs(fused.gelu_erf(x).data - exact).max() <= 1e-15
    assert np.abs(fused.gelu(x).data - exact).max() <= 1e-3  # the tanh form is an approximation
    assert abs(fused.gelu(np.array([1.0])).item() - 0.8411919906082768) <= 1e-15


def test_softmax_is_a_distribution_and_does_not_overflow():
    x = Tensor(np.array([[1000.0, 0.0, -1000.0], [-1e30, -1e30, -1e30]]), requires_grad=True)
    assert np.allclose(fused.softmax(x).data, [[1, 0, 0], [1 / 3] * 3])
    assert np.allclose(fused.log_softmax(x).data[0], [0, -1000, -2000])
    for f in (fused.softmax, fused.log_softmax):
        f(x).backward(np.ones((2, 3)))
    assert np.isfinite(x.grad).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("attention")])
def test_attention_in_parts_is_the_whole(case, monkeypatch):
    def run():
        inputs = tensors(case)
        y = case.fast(*inputs, **case.settings)
        y.backward(cotangent(y))
        return [y.data, *[t.grad for t in inputs]]

    whole = run()
    monkeypatch.setattr(fused, "SCORES", 1)  # one row of the batch at a time
    for a, b in zip(run(), whole, strict=True):
        assert np.abs(a - b).max() <= 1e-14


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("kind", ["plain", "causal", "padding", "dropout", "all three"])
def test_the_last_part_of_attention_may_be_short(kind, at_a_time, monkeypatch):
    """Five rows, each with a mask, padding and dropout of its own, so many at a time."""
    chosen = {"causal": kind in ("causal", "all three")}
    if kind in ("padding", "all three"):
        chosen["mask"] = np.arange(4) >= np.array([[0], [1], [2], [3], [1]])
    if kind in ("dropout", "all three"):
        chosen["factors"] = (normal("keep", 5, 2, 3, 4) > -0.3) / 0.6
    case = attention_case(kind, 5, 3, 4, **chosen)

    def run(f):
        inputs = tensors(case)
        y = f(*inputs, **case.settings)
        y.backward(cotangent(y))
        return [y.data, *[t.grad for t in inputs]]

    monkeypatch.setattr(fused, "SCORES", at_a_time * 2 * 3 * 4)
    for a, b in zip(run(case.fast), run(case.slow), strict=True):
        assert np.abs(a - b).max() <= 1e-13


def test_attention_sees_no_later_key():
    q, k, v = (normal(name, 1, 4, 4) for name in "qkv")
    before = fused.attention(q, k, v, heads=2, causal=True).data
    k[:, 2:], v[:, 2:] = 9.0, -9.0
    after = fused.attention(q, k, v, heads=2, causal=True).data
    assert (before[:, :2] == after[:, :2]).all() and (before[:, 2:] != after[:, 2:]).all()


def test_attention_weights_sum_to_one():
    """All values the same: whatever the weights, the output is that value."""
    q, k, v = normal("q", 2, 3, 4), normal("k", 2, 3, 4), np.ones((2, 3, 4))
    for causal in (True, False):
        y = fused.attention(q, k, v, heads=2, causal=causal, mask=np.ones((2, 3), bool))
        assert np.allclose(y.data, 1, atol=1e-15)


def test_attention_over_a_past_is_the_end_of_the_whole():
    q, k, v = (normal(name, 2, 5, 4) for name in "qkv")
    mask = np.array([[False, False, True, True, True], [True] * 5])
    for m in (None, mask):
        whole = fused.attention(q, k, v, heads=2, causal=True, mask=m).data
        for T in (1, 2, 3):
            end = fused.attention(q[:, -T:], k, v, heads=2, causal=True, mask=m).data
            assert np.abs(end - whole[:, -T:]).max() <= 1e-14


def test_padding_changes_nothing_for_the_real_tokens():
    q, k, v = (normal(name, 1, 3, 4) for name in "qkv")
    alone = fused.attention(q, k, v, heads=2, causal=True).data

    def padded(x):
        return np.concatenate([np.full((1, 2, 4), 50.0), x], axis=1)

    mask = np.array([[False, False, True, True, True]])
    y = fused.attention(padded(q), padded(k), padded(v), heads=2, causal=True, mask=mask).data
    assert np.abs(y[:, 2:] - alone).max() <= 1e-14


@pytest.mark.parametrize("causal", [True, False])
def test_a_query_that_sees_nothing_gives_zero_and_no_gradient(causal):
    q, k, v = (Tensor(normal(name, 2, 3, 4), requires_grad=True) for name in "qkv")
    y = fused.attention(q, k, v, heads=2, causal=causal, mask=UNSEEN)
    assert (y.data[1] == 0).all()
    y.backward(np.ones((2, 3, 4)))
    for t in (q, k, v):
        assert (t.grad[1] == 0).all() and np.isfinite(t.grad).all()
    for t in (k, v):  # hidden keys get nothing
        assert (t.grad[0, :2] == 0).all()
    if causal:  # the first two queries see the first two keys at most, which are hidden
        assert (y.data[0, :2] == 0).all() and (q.grad[0, :2] == 0).all()
    assert (y.data[0, 2] != 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_key_head_serves_the_queries_that_follow_each_other(causal):
    q, k, v = normal("q", 2, 3, 12), normal("k", 2, 5, 4), normal("v", 2, 5, 4)

    def six(x):  # the first of two heads three times, then the second
        return np.concatenate([x[:, :, h // 3 * 2 :][:, :, :2] for h in range(6)], axis=2)

    grouped = [Tensor(x, requires_grad=True) for x in (q, k, v)]
    alone = [Tensor(x, requires_grad=True) for x in (q, six(k), six(v))]
    y = fused.attention(*grouped, heads=6, causal=causal)
    z = fused.attention(*alone, heads=6, causal=causal)
    assert np.abs(y.data - z.data).max() <= 1e-14
    y.backward(cotangent(y))
    z.backward(cotangent(y))
    assert np.abs(grouped[0].grad - alone[0].grad).max() <= 1e-14
    for a, b in zip(grouped[1:], alone[1:], strict=True):  # added up over the three
        summed = b.grad.reshape(2, 5, 2, 3, 2).sum(axis=3).reshape(2, 5, 4)
        assert np.abs(a.grad - summed).max() <= 1e-14


def test_rms_norm_scales_and_does_not_centre():
    x = 5 + 3 * normal("x", 4, 200)
    y = variants.rms_norm(x, np.full(200, 2.0), eps=1e-12).data
    assert np.allclose((y * y).mean(axis=1), 4) and (y.mean(axis=1) > 1).all()
    assert np.allclose(y / x, (y / x)[:, :1])


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e38), (np.float64, 1e200)])
def test_rms_norm_of_numbers_whose_squares_overflow(dtype, size):
    x, w, g = normal("far", 3, 8), normal("w", 8), normal("g", 3, 8)
    scales = np.array([[1.0], [0.25 * size], [1.0]])  # one row of three
    t, near = Tensor((x * scales).astype(dtype), requires_grad=True), Tensor(x, requires_grad=True)
    with np.errstate(over="ignore"):
        y = variants.rms_norm(t, w.astype(dtype))
    z = variants.rms_norm(near, w, eps=0.0)
    y.backward(g.astype(dtype))
    z.backward(g)
    assert np.allclose(y.data, z.data, atol=1e-4)
    assert np.allclose(t.grad * scales, near.grad, atol=1e-4)


def test_rotary_products_depend_on_how_far_apart_two_stand():
    q, k = normal("q", 1, 1, 6), normal("k", 1, 1, 6)

    def product(i, j):
        a, b = (variants.rotary(x, np.array([[at]]), width=6).data for x, at in ((q, i), (k, j)))
        return (a * b).sum()

    assert abs(product(7, 3) - product(104, 100)) <= 1e-12
    assert abs(product(7, 3) - product(7, 4)) > 1e-3
    assert abs(product(3, 3) - (q * k).sum()) <= 1e-13


def test_rotary_turns_the_halves_of_a_head_by_powers_of_theta():
    x = np.array([[[1.0, 2.0, 0.0, 0.0]]])  # pairs (1, 0) and (2, 0)
    y = variants.rotary(x, np.array([[3]]), width=4, theta=100.0).data[0, 0]
    slow = 3 / 10  # the second pair's angle is divided by theta^(2/4)
    wanted = [math.cos(3), 2 * math.cos(slow), math.sin(3), 2 * math.sin(slow)]
    assert np.abs(y - wanted).max() <= 1e-15
    far = variants.rotary(np.float32(x), np.array([[100_000]]), width=4).data[0, 0]
    assert abs(far[0] - math.cos(100_000)) <= 1e-7  # angles are float64 whatever x is


@pytest.mark.parametrize("f", [variants.swiglu, variants.swiglu_slow])
def test_swiglu_of_far_gates_is_open_or_shut(f):
    assert abs(f(np.array([1.0]), np.array([2.0])).item() - 2 / (1 + math.exp(-1))) <= 1e-15
    for dtype, most in ((np.float16, 60000), (np.float32, 1e38), (np.float64, 1e300)):
        a, b = (Tensor(np.array(x, dtype), requires_grad=True) for x in ([most, -most], [2, 2]))
        with np.errstate(over="raise", invalid="raise", under="ignore"):
            y = f(a, b * np.array([0.25, 0.25], dtype))
            y.backward(np.ones(2, dtype))
        assert np.allclose(y.data, np.array([0.5 * most, 0], dtype), rtol=1e-3)
        assert np.allclose(a.grad, [0.5, 0]) and np.isfinite(b.grad).all()
    low = f(np.float32([-60]), np.float32([1])).item()  # its tail is not rounded off
    assert low == pytest.approx(-60 * math.exp(-60), rel=1e-5)


def test_repeated_ids_add_up():
    w = Tensor(np.zeros((4, 2)), requires_grad=True)
    fused.embedding(w, np.array([[3, 1], [3, 3]])).backward(np.ones((2, 2, 2)))
    assert (w.grad == [[0, 0], [1, 1], [0, 0], [3, 3]]).all()


def test_ids_may_be_lists_and_unsigned():
    w = Tensor(normal("w", 4, 2))
    for ids in ([1, 3], np.uint8([1, 3]), Tensor(np.array([1, 3]))):
        assert (fused.embedding(w, ids).data == w.data[[1, 3]]).all()
    assert (fused.embedding(w, np.int64(2)).data == w.data[2]).all()


def test_cross_entropy_is_the_mean_surprise():
    p = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    logits = np.log(p) + 13.0  # a shift of all logits changes nothing
    loss = fused.cross_entropy(logits, np.array([0, 2])).item()
    assert abs(loss + (math.log(0.7) + math.log(0.5)) / 2) <= 1e-14
    smooth = fused.cross_entropy(logits, np.array([0, 2]), smoothing=0.3).item()
    uniform = -np.log(p).mean()
    assert abs(smooth - (0.7 * loss + 0.3 * uniform)) <= 1e-14
    for labels, ignore in (([0, -100], -100), ([0, 2], 2), ([0, 7], 7)):
        only = fused.cross_entropy(logits, np.array(labels), ignore=ignore).item()
        assert abs(only + math.log(0.7)) <= 1e-14


def test_ignored_places_get_no_gradient():
    logits = Tensor(normal("logits", 2, 3, 5), requires_grad=True)
    fused.cross_entropy(logits, IGNORING, smoothing=0.1).backward()
    ignored = IGNORING == -100
    assert (logits.grad[ignored] == 0).all() and (logits.grad[~ignored] != 0).all()
    assert np.abs(logits.grad.sum(axis=-1)).max() <= 1e-15  # a shift changes nothing


def test_cross_entropy_of_far_logits_is_finite():
    logits = Tensor(np.float32([[1e4, -1e4], [1e4, -1e4]]), requires_grad=True)
    loss = fused.cross_entropy(logits, np.array([0, 1]))
    loss.backward()
    assert loss.item() == 1e4 and np.isfinite(logits.grad).all()


# -- half precision, and numbers whose squares overflow --------------------------------------------


def in_half(case, f):
    """The value and gradients of a function of float16 inputs."""
    inputs = tensors(case, np.float16)
    settings = dict(case.settings)
    if settings.get("factors") is not None:
        settings["factors"] = settings["factors"].astype(np.float16)
    y = f(*inputs, **settings)
    y.backward(cotangent(y))
    found = [y.data, *[t.grad for t in inputs if isinstance(t, Tensor)]]
    assert {a.dtype for a in found} == {np.dtype(np.float16)}
    return found


@every_case
def test_half_precision_agrees_with_the_twin_and_with_single(case):
    if case.name.startswith("linear_decoded"):  # its weight has the dtype of x
        return
    found = in_half(case, case.fast)
    inputs = [t if not isinstance(t, Tensor) else Tensor(t.data.astype(np.float32), True)
              for t in tensors(case, np.float16)]  # fmt: skip
    y = case.slow(*inputs, **case.settings)
    y.backward(cotangent(y).astype(np.float16).astype(np.float32))
    wanted = [y.data, *[t.grad for t in inputs if isinstance(t, Tensor)]]
    for other in (in_half(case, case.slow), wanted):
        for a, b in zip(found, other, strict=True):
            assert np.isfinite(a).all()
            assert np.abs(a - b.astype(float)).max(initial=0) <= 4e-3 * (
                1 + np.abs(b).max(initial=0)
            )


@pytest.mark.parametrize("f", [fused.attention, fused.attention_slow])
def test_a_query_that_sees_nothing_gives_zero_in_half_precision_too(f):
    q, k, v = (
        Tensor(normal(name, 2, 3, 4).astype(np.float16), requires_grad=True) for name in "qkv"
    )
    for causal in (True, False):
        y = f(q, k, v, heads=2, causal=causal, mask=UNSEEN)
        y.backward(np.ones((2, 3, 4), np.float16))
        assert y.dtype == np.float16 and (y.data[1] == 0).all() and np.isfinite(y.data).all()
        for t in (q, k, v):
            assert np.isfinite(t.grad).all() and (t.grad[1] == 0).all()


def test_half_and_single_precision_together_are_single():
    w, b = Tensor(np.ones(4, np.float32), requires_grad=True), Tensor(np.zeros(4, np.float32))
    x = Tensor(np.float16([[300, -300, 300, -300]]), requires_grad=True)
    for f in (fused.layer_norm, fused.layer_norm_slow):
        y = f(x, w, b)
        y.sum().backward()
        assert y.dtype == w.grad.dtype == np.float32 and x.grad.dtype == np.float16
        assert np.allclose(y.data, [[1, -1, 1, -1]])


@pytest.mark.parametrize("f", [fused.layer_norm, fused.layer_norm_slow])
def test_layer_norm_of_far_numbers_in_half_precision(f):
    for size in (300, 20000):
        x = np.float16([[1, -1, 1, -1], [1, 1, 1, -3]]) * np.float16(size)
        t = Tensor(x, requires_grad=True)
        y = f(t, Tensor(np.ones(4, np.float16)), Tensor(np.zeros(4, np.float16)))
        wide = (x / np.float32(size)) / np.array([[1], [math.sqrt(3)]])
        assert y.dtype == np.float16 and np.allclose(y.data, wide, rtol=2e-3)
        y.backward(np.float16([[1000, 0, 0, 0], [0, 0, 0, 0]]))
        assert (t.grad[0] != 0).any() and np.isfinite(t.grad).all()


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float32, 1e25), (np.float32, 1e38), (np.float64, 1e200)]
)
def test_layer_norm_of_numbers_whose_squares_overflow(dtype, size):
    x = normal("far", 3, 8)
    w, b, g = normal("w", 8), normal("b", 8), normal("g", 3, 8)
    scales = np.array([[1.0], [0.25 * size], [1.0]])  # one row of three
    t = Tensor((x * scales).astype(dtype), requires_grad=True)
    with np.errstate(over="ignore"):
        y = fused.layer_norm(t, *(Tensor(a.astype(dtype)) for a in (w, b)))
    y.backward(g.astype(dtype))
    near = Tensor(x, requires_grad=True)
    z = fused.layer_norm(near, Tensor(w), Tensor(b), eps=0.0)
    z.backward(g)
    assert np.allclose(y.data, z.data, atol=1e-4)
    assert np.allclose(t.grad * scales, near.grad, atol=1e-4)


@pytest.mark.parametrize("f", [fused.gelu, fused.gelu_slow, fused.gelu_erf, fused.gelu_erf_slow])
def test_gelu_of_far_numbers_is_relu(f):
    far = {np.float64: 1.7e308, np.float32: 3e38, np.float16: 65504}
    for dtype, most in far.items():
        for size in (40, 1e3, 1e13, 1e20, most):
            x = Tensor(np.array([size, -size]).clip(-most, most).astype(dtype), requires_grad=True)
            with np.errstate(over="ignore", invalid="raise"):
                y = f(x)
                y.backward(np.ones(2, dtype))
            assert y.dtype == dtype and (y.data == [x.data[0], 0]).all()
            assert (x.grad == [1, 0]).all()
    for case in (np.nan, np.inf):  # what is no number stays none
        with np.errstate(invalid="ignore", over="ignore"):
            assert f(Tensor(np.float32([case]))).data.tolist()[0] == pytest.approx(
                case, nan_ok=True
            )


def test_softmax_of_the_largest_numbers():
    for dtype in (np.float16, np.float32, np.float64):
        most = np.finfo(dtype).max
        for f, want in ((fused.softmax, [1, 0, 0]), (fused.softmax_slow, [1, 0, 0]),
                        (fused.log_softmax, [0, -np.inf, -most]),
                        (fused.log_softmax_slow, [0, -np.inf, -most])):  # fmt: skip
            x = Tensor(np.array([most, -most, 0], dtype), requires_grad=True)
            with np.errstate(over="ignore"):
                y = f(x)
                y.backward(np.array([1, 0, 0], dtype))
            assert (y.data == want).all() and (x.grad == 0).all()


@pytest.mark.parametrize("f", [fused.cross_entropy, fused.cross_entropy_slow])
def test_cross_entropy_in_half_precision_neither_overflows_nor_sticks(f):
    n = 9000
    x = Tensor(np.tile(np.float16([8, -8, 0]), (n, 1)), requires_grad=True)
    loss = f(x, np.ones(n, int))
    assert loss.dtype == np.float16 and loss.item() == 16  # the sum is 144 000
    loss.backward(np.float16(n))
    assert np.allclose(x.grad, np.tile([1, -1, 0.0003], (n, 1)), atol=2e-3)
    x = Tensor(np.zeros((2, 70000), np.float16))
    assert f(x, np.array([0, 1])).item() == pytest.approx(math.log(70000), rel=1e-3)


def test_the_gradient_of_a_row_that_is_often_used_does_not_stick():
    w = Tensor(np.zeros((2, 3), np.float16), requires_grad=True)
    fused.embedding(w, np.ones(5000, int)).backward(np.ones((5000, 3), np.float16))
    assert (w.grad == [[0] * 3, [5000] * 3]).all() and w.grad.dtype == np.float16


# -- errors ----------------------------------------------------------------------------------------

Q = np.zeros((2, 3, 4))
ERRORS = {
    "linear: x .* in must match": lambda: fused.linear(np.zeros((2, 3)), np.zeros((5, 4))),
    r"linear: x has shape \(\)": lambda: fused.linear(np.array(1.0), np.zeros((5, 1))),
    r"layer_norm: x \(2, 3\) needs w, b \(3,\); got \(4,\), \(3,\)": lambda: fused.layer_norm(
        np.zeros((2, 3)), np.ones(4), np.ones(3)
    ),
    r"layer_norm: x \(2, 0\)": lambda: fused.layer_norm(np.ones((2, 0)), np.ones(0), np.ones(0)),
    r"softmax over axis -1 of shape \(2, 0\)": lambda: fused.softmax(np.zeros((2, 0))),
    r"softmax over axis 0 of shape \(0, 2\)": lambda: fused.softmax(np.zeros((0, 2)), axis=0),
    r"log_softmax over axis -1 of shape \(2, 0\)": lambda: fused.log_softmax(np.zeros((2, 0))),
    r"log_softmax over axis -1 of shape \(\)": lambda: fused.log_softmax(np.array(1.0)),
    "axis 2 is out of range": lambda: fused.softmax(np.zeros((2, 3)), axis=2),
    "one axis is needed": lambda: fused.log_softmax(np.zeros((2, 3)), axis=(0, 1)),
    r"rms_norm: x \(2, 3\) needs w \(3,\), got \(4,\)": lambda: variants.rms_norm(
        np.ones((2, 3)), np.ones(4)
    ),
    r"rms_norm: x \(2, 0\)": lambda: variants.rms_norm(np.ones((2, 0)), np.ones(0)),
    "into heads of 3": lambda: variants.rotary(Q, np.array([[0, 1, 2]]), width=3),
    "into heads of 1, or these": lambda: variants.rotary(Q, np.array([[0, 1, 2]]), width=1),
    r"needs positions \(2, 3\) or \(1, 3\), got \(2, 2\)": lambda: variants.rotary(
        Q, np.zeros((2, 2), int), width=4
    ),
    r"swiglu: a \(2, 3\) and b \(3,\)": lambda: variants.swiglu(np.ones((2, 3)), np.ones(3)),
    r"\(2, S, 4\), or fewer heads than 2, each for as many of q; got \(2, 3, 3\)": lambda: (
        fused.attention(Q, Q[:, :, :3], Q[:, :, :3], heads=2, causal=True)
    ),
    r"fewer heads than 2.*got \(2, 3, 1\)": lambda: fused.attention(
        Q, Q[:, :, :1], Q[:, :, :1], heads=2, causal=True
    ),
    r"fewer heads than 2.*got \(2, 3, 0\)": lambda: fused.attention(
        Q, Q[:, :, :0], Q[:, :, :0], heads=2, causal=True
    ),
    r"needs k, v \(2, S, 4\)": lambda: fused.attention(Q, Q[:1], Q[:1], heads=2, causal=True),
    "width 4 does not divide into 3 heads": lambda: fused.attention(Q, Q, Q, heads=3, causal=True),
    "3 queries need at least 3 keys; got 2": lambda: fused.attention(
        Q, Q[:, :2], Q[:, :2], heads=2, causal=True
    ),
    "3 queries need at least 1 keys; got 0": lambda: fused.attention(
        Q, Q[:, :0], Q[:, :0], heads=2, causal=False
    ),
    r"mask must be \(B, S\) = \(2, 3\), got \(3, 2\)": lambda: fused.attention(
        Q, Q, Q, heads=2, causal=True, mask=np.ones((3, 2))
    ),
    "id 5 is outside the table of 5 rows": lambda: fused.embedding(np.ones((5, 2)), np.array([5])),
    "id -1 is outside": lambda: fused.embedding(np.ones((5, 2)), np.array([0, -1])),
    r"logits \(2, 5\) need labels \(2,\), got \(3,\)": lambda: fused.cross_entropy(
        np.zeros((2, 5)), np.zeros(3, int)
    ),
    "all 2 labels are -100": lambda: fused.cross_entropy(np.zeros((2, 5)), np.array([-100, -100])),
    "all 0 labels": lambda: fused.cross_entropy(np.zeros((0, 5)), np.zeros(0, int)),
    "label 5 is outside the 5 classes": lambda: fused.cross_entropy(
        np.zeros((2, 5)), np.array([0, 5])
    ),
    "label -1 is outside": lambda: fused.cross_entropy(np.zeros((1, 5)), np.array([-1])),
    "outside the 0 classes": lambda: fused.cross_entropy(np.zeros((1, 0)), np.array([0])),
}


@pytest.mark.parametrize("message", ERRORS)
def test_wrong_calls_raise_named_errors(message):
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()


def test_an_axis_is_an_integer():
    x = normal("x", 2, 3)
    for f in (fused.softmax, fused.log_softmax):
        assert (f(x, axis=np.int64(0)).data == f(x, axis=-2).data).all()
        with pytest.raises(TypeError, match="an axis is an integer, got True"):
            f(x, axis=np.True_)


def test_ids_and_labels_must_be_integers():
    for ids in (np.array([0.0]), np.array([True]), [0.5]):
        with pytest.raises(TypeError, match="embedding: ids must be integers, got"):
            fused.embedding(np.ones((5, 2)), ids)
    with pytest.raises(TypeError, match="rotary: positions must be integers, got float64"):
        variants.rotary(Q, np.zeros((2, 3)), width=4)
    for labels in (np.array([0.0]), np.array([True])):
        with pytest.raises(TypeError, match="cross_entropy: labels must be integers, got"):
            fused.cross_entropy(np.ones((1, 2)), labels)


def test_an_empty_batch_goes_through():
    empty = np.zeros((0, 4))
    assert fused.linear(empty, W).shape == (0, 5)
    assert fused.layer_norm(empty, np.ones(4), np.ones(4)).shape == (0, 4)
    assert variants.rms_norm(empty, np.ones(4)).shape == (0, 4)
    assert variants.swiglu(empty, empty).shape == (0, 4)
    assert variants.rotary(Q[:0], np.arange(3)[None], width=2).shape == (0, 3, 4)
    assert fused.gelu(empty).shape == fused.softmax(empty).shape == (0, 4)
    assert fused.attention(Q[:0], Q[:0], Q[:0], heads=2, causal=True).shape == (0, 3, 4)
    assert fused.attention(Q[:, :0], Q, Q, heads=2, causal=True).shape == (2, 0, 4)
