"""Every operation's rule against the operation: what it makes, keeps, and gives back."""

import tracemalloc

import numpy as np
import pytest

from minipeft.backend import ERF_PART
from minipeft.engine import Tensor, fused, op, ops, variants
from minipeft.engine.graph import held
from minipeft.ledger.cost import RULES
from minipeft.ledger.meter import Blank, metered
from minipeft.methods import projection

A, B = (3, 4), (2, 3, 4)  # shapes


def index(*where):
    return {"index": where}


CASES = {  # operation -> lists of (shapes of its inputs, or arrays, and settings)
    **{name: [([B, A], {}), ([B, B], {})] for name in ("add", "sub", "mul", "div")},
    **{name: [([B, (4,)], {})] for name in ("maximum", "minimum")},
    **{name: [([B], {})] for name in ("neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu")},
    **{name: [([B], {})] for name in ("log1p", "expm1", "sin", "cos", "softplus")},
    **{name: [([B], {})] for name in ("erf", "abs", "softmax", "log_softmax", "gelu", "gelu_erf")},
    **{
        name: [([B], {}), ([B], {"axis": (0, -1)}), ([B], {"axis": 1, "keepdims": True})]
        for name in ("sum", "mean", "var", "max", "min", "norm", "prod", "logsumexp")
    },
    "pow": [([B, 2.0], {}), ([B, A], {})],
    "where": [([np.ones(A, bool), A, B], {})],
    "clip": [([B], {"low": 0.1})],
    "cumsum": [([B], {"axis": 1}), ([B], {}), ([()], {"axis": 0})],
    "roll": [([B], {"shift": 1}), ([B], {"shift": (1, -2), "axis": (0, 2)})],
    "_cast": [([B], {"dtype": np.dtype(np.float32)}), ([B], {"dtype": np.dtype(np.float64)})],
    "reshape": [([B], {"shape": (6, -1)})],
    "transpose": [([B], {}), ([B], {"axes": (1, 0, 2)})],
    "swapaxes": [([B], {"a": 0, "b": -1})],
    "squeeze": [([(3, 1)], {"axis": 1})],
    "expand_dims": [([A], {"axis": 0})],
    "broadcast_to": [([A], {"shape": B})],
    "pad": [([A], {"widths": ((1, 0), (2, 3))})],
    "getitem": [
        ([B], index(slice(None), 0)),
        ([B], index(np.array([1, 0, 1]))),
        ([B], index(np.array([1, 0]), np.array([2, 2]))),
        ([A], index(np.ones(3, bool))),
    ],
    "_concatenate": [([A, (5, 4)], {"axis": 0}), ([B, B], {"axis": -1})],
    "matmul": [([B, (4, 5)], {}), ([(4,), (4, 5)], {}), ([A, (4,)], {})],
    "linear": [([B, (5, 4), (5,)], {}), ([A, (5, 4)], {})],
    "linear_decoded": [
        ([B, (5,)], {"decode": lambda x: np.ones((5, 4)), "shape": (5, 4)}),
        ([A], {"decode": lambda x: np.ones((5, 4)), "shape": (5, 4)}),
    ],
    "add_low_rank": [([(2, 3, 5), B, (2, 4), (5, 2)], {"scale": 0.5})],
    "layer_norm": [([B, (4,), (4,)], {})],
    "rms_norm": [([B, (4,)], {})],
    "rotary": [
        ([B, np.arange(3)[None]], {"width": 2}),
        ([B, np.array([[0, 1, 2], [-1, 0, 1]])], {"width": 4, "theta": 9.0}),
    ],
    "swiglu": [([B, B], {})],
    "attention": [
        ([B, B, B], {"heads": 2, "causal": True}),
        ([B, (2, 5, 4), (2, 5, 4)], {"heads": 1, "causal": False, "mask": np.ones((2, 5), bool)}),
        ([B, B, B], {"heads": 1, "causal": False, "factors": np.ones((2, 1, 3, 3))}),
        ([(2, 3, 8), B, B], {"heads": 4, "causal": True}),
    ],
    "embedding": [([(7, 4), np.array([[1, 2, 3]])], {})],
    "cross_entropy": [
        ([A, np.array([0, 1, 2])], {}),
        ([B, np.array([[0, 1, -100], [3, -100, -100]])], {"smoothing": 0.1}),
    ],
    "hadamard": [([(2, 8)], {})],
    "fastfood": [([(3,), np.ones(3), np.arange(16)[::-1].copy(), np.ones(16)], {"size": 11})],
    "scatter_signs": [([(2,), np.array([[0, 4, 2], [1, 2, 3]]), np.ones((2, 3))], {"size": 5})],
}
FLAT = [(name, *case) for name, cases in CASES.items() for case in cases]
SLACK = 4 * 8  # layer norm keeps a row of 1/n


def operations():
    parts = (ops, fused, variants, projection)
    found = [f for part in parts for f in vars(part).values() if hasattr(f, "__wrapped__")]
    found = [f for f in found if not hasattr(f, "cache_info")]
    names = {f.__name__.rstrip("_"): f for f in found if not f.__name__.endswith("_slow")}
    return {name: f for name, f in names.items() if name != "std"}  # of other operations


def inputs(given):
    draw = np.random.default_rng(0).uniform
    return [
        Tensor(draw(0.3, 1.0, x), requires_grad=True) if isinstance(x, tuple) else x for x in given
    ]


def grads(tensors):
    return [t.grad.shape for t in tensors if isinstance(t, Tensor)]


def test_every_operation_has_a_rule_and_a_case():
    assert set(RULES) == set(operations()) == set(CASES)


@pytest.mark.parametrize(("name", "given", "settings"), FLAT)
def test_a_rule_makes_keeps_and_returns_what_its_operation_does(name, given, settings):
    fn, real = operations()[name], inputs(given)
    y = fn(*real, **settings)
    with metered([]) as meter:
        shapes = [
            Tensor(meter.new(t.shape, t.data), requires_grad=True) if isinstance(t, Tensor) else t
            for t in real
        ]
        z = fn(*shapes, **settings)
        assert (z.shape, z.dtype) == (y.shape, y.dtype)
        assert abs(held(y._node) - held(z._node)) <= SLACK
        z.backward(meter.new(z.shape, z.data))
        assert all(isinstance(x.grad, Blank) for x in shapes if isinstance(x, Tensor))
    y.backward(np.ones_like(y.data))
    assert grads(shapes) == grads(real)


@pytest.mark.parametrize("name", ["erf", "gelu_erf"])
@pytest.mark.parametrize("n", [ERF_PART // 2, 20 * ERF_PART])
def test_what_erf_holds_while_it_runs_is_foretold(name, n):
    fn, x = operations()[name], np.linspace(-5.0, 5.0, n, dtype=np.float32)
    with metered([x]) as meter:
        fn(Tensor(x, requires_grad=True))
    tracemalloc.start()
    y = fn(Tensor(x, requires_grad=True))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert y.shape == x.shape and meter.peak == pytest.approx(peak, rel=0.1)


HEADS, WIDE, LONG = (8, 40, 64), (60, 8, 128), (64, 40, 32)  # each array hundreds of kB
LARGE = [  # operations that models spend their memory on
    ("linear", [(60, 40, 128), (50, 128), (50,)], {}),
    ("linear", [(60, 4, 128), (500, 128)], {}),
    ("linear_decoded", [(4, 4, 128)], {"decode": lambda x: np.ones((500, 128)),
                                       "shape": (500, 128)}),
    ("layer_norm", [WIDE, (128,), (128,)], {}),
    ("rms_norm", [WIDE, (128,)], {}),
    ("rotary", [WIDE, np.arange(8)[None]], {"width": 32}),
    ("rotary", [WIDE, np.arange(480).reshape(60, 8)], {"width": 32}),
    ("swiglu", [WIDE, WIDE], {}),
    ("gelu", [WIDE], {}),
    ("gelu_erf", [WIDE], {}),
    ("log_softmax", [WIDE], {}),
    *((name, [WIDE, WIDE], {}) for name in ("mul", "div", "sub", "pow")),
    *((name, [WIDE], {}) for name in ("exp", "tanh", "sigmoid", "abs", "softmax", "sin", "cos")),
    *((name, [WIDE], {"axis": -1}) for name in ("mean", "var", "logsumexp")),
    ("attention", [HEADS] * 3, {"heads": 2, "causal": True}),
    ("attention", [HEADS] * 3, {"heads": 4, "causal": False, "mask": np.ones((8, 40), bool)}),
    ("attention", [HEADS] * 3, {"heads": 4, "causal": True, "mask": np.ones((8, 40), bool)}),
    ("attention", [HEADS] * 3, {"heads": 4, "causal": True, "factors": np.ones((8, 4, 40, 40))}),
    ("attention", [LONG] * 3, {"heads": 8, "causal": True}),  # in parts of the batch
    ("attention", [LONG] * 3, {"heads": 8, "causal": True, "factors": np.ones((64, 8, 40, 40))}),
    ("attention", [(1, 300, 8)] * 3, {"heads": 1, "causal": True}),  # what is hidden counts
    ("attention", [(8, 40, 512), *[(8, 40, 64)] * 2], {"heads": 8, "causal": True}),  # grouped
    ("embedding", [(700, 64), np.zeros((30, 40), int)], {}),
    ("cross_entropy", [(600, 200), np.zeros(600, int)], {}),
    ("cross_entropy", [(600, 200), np.where(np.arange(600) % 3, 0, -100)], {}),
    ("cross_entropy", [(600, 200), np.zeros(600, int)], {"smoothing": 0.1}),
    ("hadamard", [(60, 1024)], {}),
    ("fastfood", [(3000,), np.ones(3000), np.arange(1 << 16)[::-1].copy(), np.ones(1 << 16)],
     {"size": 60_000}),
    ("scatter_signs", [(200,), np.zeros((200, 500), int), np.ones((200, 500))], {"size": 70_000}),
]  # fmt: skip
ROW = 8 * 128 + SLACK  # that layer norm keeps
BUFFERS = 150_000  # bytes that NumPy's loops and the interpreter take; no array is as small


def peaks(fn, given, settings):
    """Bytes of a real call: peaks of (forward, backward) without inputs and g; g; what it keeps."""
    real = inputs(given)
    g = np.ones_like(fn(*real, **settings).data)
    tracemalloc.start()
    y = fn(*real, **settings)
    forward, kept = tracemalloc.get_traced_memory()[1], held(y._node)
    tracemalloc.reset_peak()
    y.backward(g)
    backward = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (forward, backward), g, kept


@pytest.mark.parametrize(("name", "given", "settings"), LARGE)
def test_what_an_operation_holds_while_it_runs_is_foretold(name, given, settings):
    fn, real = operations()[name], inputs(given)
    measured, g, kept = peaks(fn, given, settings)
    arrays = [x.data if isinstance(x, Tensor) else x for x in real]
    known = [a for a in (*arrays, *settings.values(), g) if isinstance(a, np.ndarray)]
    with metered(known) as meter:
        z = fn(*real, **settings)
        assert held(z._node) == pytest.approx(kept, abs=ROW)
        forward, meter.peak = meter.peak, meter.live
        z.backward(g)
        assert forward == pytest.approx(measured[0], abs=BUFFERS)
        assert meter.peak == pytest.approx(measured[1], abs=BUFFERS)


def counted(name, given, settings, trains):
    """(forward, backward) FLOPs of an operation of which some inputs train."""
    fn, tensors = operations()[name], inputs(given)
    parts = [t for t in tensors if isinstance(t, Tensor)]
    for i, t in enumerate(parts):
        t.requires_grad = i in trains
    with metered([]) as meter:
        z = fn(*tensors, **settings)
        z.backward(meter.new(z.shape, z.data))
        return meter.forward.get(name, 0), meter.back.get(name, 0)


@pytest.mark.parametrize(
    ("trains", "products"),
    [({0}, 2), ({1}, 2), ({2}, 1), ({0, 1}, 3), ({0, 2}, 3), ({1, 2}, 3), ({0, 1, 2}, 4)],
    ids=str,
)
def test_flops_of_attention_by_what_trains(trains, products):
    """q and k share the gradient of p, which v gives none of: dp, dq, dk, dv."""
    B, T, S, C = 2, 3, 5, 4
    one = 2 * B * T * S * C  # of q kᵀ, or p v
    given, settings = [(B, T, C), (B, S, C), (B, S, C)], {"heads": 2, "causal": False}
    assert counted("attention", given, settings, trains) == (2 * one, products * one)


@pytest.mark.parametrize(
    ("trains", "down", "up"),
    [({0}, 0, 0), ({1}, 1, 1), ({2}, 1, 1), ({3}, 0, 1), ({1, 2}, 2, 1), ({1, 2, 3}, 2, 2),
     ({2, 3}, 1, 2)],
    ids=str,
)  # fmt: skip
def test_flops_of_a_low_rank_branch_by_what_trains(trains, down, up):
    """In of x, a and r; out of r, b and y. gb needs one product, ga and gx share one more."""
    n, r, n_in, n_out = 6, 2, 4, 5
    into, out = 2 * n * n_in * r, 2 * n * n_out * r
    given = [(2, 3, n_out), (2, 3, n_in), (r, n_in), (n_out, r)]
    forward, back = counted("add_low_rank", given, {"scale": 0.5}, trains)
    assert (forward, back) == (into + out, down * into + up * out)


def test_flops_of_products_and_transforms():
    n = 2 * 6 * 4 * 5
    assert counted("matmul", [B, (4, 5)], {}, {0}) == (n, n)
    assert counted("linear", [B, (5, 4), (5,)], {}, {0, 1, 2}) == (n, 2 * n)
    decoded = {"decode": lambda x: np.ones((5, 4)), "shape": (5, 4)}
    assert counted("linear_decoded", [B, (5,)], decoded, {0, 1}) == (n, n)
    assert counted("hadamard", [(3, 8)], {}, {0}) == (3 * 8 * 3, 3 * 8 * 3)  # n log2 n
    arrays = [(3,), np.ones(3), np.arange(16), np.ones(16)]
    both = 4 * 2 + 16 * 4  # a transform of 4, the next power of two, and one of 16
    assert counted("fastfood", arrays, {"size": 11}, {0}) == (both, both)


@pytest.mark.parametrize("trains", [0, 1, 2])
def test_what_is_frozen_is_pruned_on_shapes_too(trains):
    x, w, b = inputs([B, (5, 4), (5,)])
    for i, t in enumerate((x, w, b)):
        t.requires_grad = i == trains
    with metered([x.data, w.data, b.data]) as meter:
        h = fused.linear(ops.exp(x), w, b)
        del x
        assert meter.live == [h.data.nbytes + 8 * 24, h.data.nbytes + 8 * 24, h.data.nbytes][trains]
        h.backward(meter.new(h.shape, h.data))
        product = 2 * 2 * 3 * 4 * 5
        assert meter.forward["linear"] == product
        assert meter.back.get("linear", 0) == (product if trains < 2 else 0)


def test_blanks_are_counted_while_they_live():
    with metered([]) as meter:
        a = meter.new((10, 10), np.zeros(1))
        view = a.reshape(100)[5:]
        del a
        assert meter.live == meter.peak == 800
        del view
        assert meter.live == 0 and meter.peak == 800


def test_a_cast_to_the_same_dtype_makes_nothing():
    with metered([]) as meter:
        x = Tensor(meter.new(B, dtype=np.dtype(np.float64)), requires_grad=True)
        y = ops.astype(x, dtype=np.float64)
        assert meter.live == 8 * 24
        z = ops.astype(x, dtype=np.float32)
        assert meter.live == 12 * 24 and (y.dtype, z.dtype) == (np.float64, np.float32)


def test_a_view_keeps_all_that_it_shows_a_part_of():
    whole = np.ones((100, 8))
    with metered([]) as meter:
        ops.exp(Tensor(whole[:10]))
        assert meter.live == whole.nbytes  # what came out of exp is gone
    with metered([whole]) as meter:
        ops.exp(Tensor(whole[:10]))
        assert meter.live == 0


def test_the_walk_adds_gradients_without_values():
    w = Tensor(np.ones(A), requires_grad=True)
    with metered([w.data]) as meter:
        y = ops.sum(ops.exp(w) + ops.exp(w) + w)
        y.backward()
        del y
        assert w.grad.shape == A and meter.live == 8 * 12


def test_an_operation_without_a_rule_is_named():
    @op
    def cube(x):
        return x * x * x, (lambda g: 3 * g * x * x,)

    with metered([]), pytest.raises(NotImplementedError, match="'cube' has no rule in"):
        cube(np.ones(3))
