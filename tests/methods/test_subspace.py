"""The subspace: its projections, what moves, what is drawn again, and the search for d90."""

import math
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor, no_grad, ops
from minipeft.engine.explain import watching
from minipeft.ledger import predict
from minipeft.methods import Full, LoRA, Subspace
from minipeft.methods.subspace import (
    Dense,
    Fastfood,
    Space,
    compression_bound,
    cut,
    d90,
    search_d90,
)
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.nn import Linear, Module, Parameter
from minipeft.storage.checkpoint import CheckpointError, load_arrays, save_arrays
from minipeft.training.loop import fit
from tests.methods.contract import CASES, Next, randomize, run, same

KINDS = ("fastfood", "dense", "sparse")
IDS = CASES["subspace"].inputs()


class MLP(Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths, dtype=np.float64):
        like, rng = np.zeros(2, dtype), Rng(0, "mlp")
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            setattr(self, f"fc{i}", Linear(a, b, std=math.sqrt(2 / a), rng=rng, like=like))
        self.depth = len(widths) - 1

    def forward(self, x):
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
            x = ops.relu(x) if i < self.depth - 1 else x
        return x


def flat(model):
    """All parameters as one vector."""
    return np.concatenate([p.data.reshape(-1) for p in model.parameters()])


def moved(method, z, *widths):
    """theta - theta0 of a merged MLP whose z (and factors) were set."""
    model = MLP(*(widths or (4, 5, 3)))
    before = flat(model)
    handle = attach(model, method)
    for (_, p), value in zip(handle.trainable(), z, strict=True):
        p.data = np.asarray(value, dtype=p.dtype)
    handle.merge()
    return flat(model) - before


def matrix(method, *widths):
    """P, column by column."""
    return np.stack([moved(method, [e], *widths) for e in np.eye(method.d)], axis=1)


def test_the_net_of_the_paper():
    model = MLP(784, 200, 200, 10, dtype=np.float32)
    handle = attach(model, Subspace(d=750))
    assert handle.total == model.num_parameters() - 750 == 199_210
    assert handle.count() == 750
    dense = 199_210 * 750 * 4
    arrays = [a for a in vars(vars(handle.root)["space"].projections[0]).values()
              if isinstance(a, np.ndarray)]  # fmt: skip
    assert dense == 597_630_000  # bytes; Fastfood's are those of 2^18 numbers and places
    assert sum(a.nbytes for a in arrays) == 750 * 4 + 262_144 * 8 < dense / 200


# -- projections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_columns_have_length_one_and_are_nearly_orthogonal(kind):
    P = matrix(Subspace(d=6, projection=kind), 40, 20, 10)
    norms = np.linalg.norm(P, axis=0)
    assert P.shape == (1030, 6)
    assert abs(norms - 1).max() < (0.1 if kind == "fastfood" else 1e-12)
    others = P.T @ P - np.diag(norms * norms)
    assert abs(others).max() < 5 / math.sqrt(1030)


@pytest.mark.parametrize("kind", KINDS)
def test_what_moves_is_linear_in_z(kind):
    method, z = Subspace(d=5, projection=kind), Rng(5).normal((5,))
    expected = matrix(method) @ z
    assert abs(moved(method, [z]) - expected).max() < 1e-14


def test_a_sparse_column_has_the_square_root_of_d_signs():
    P = matrix(Subspace(d=4, projection="sparse"), 40, 20, 10)
    m = round(math.sqrt(1030))
    assert ((P != 0).sum(axis=0) == m).all()
    assert abs(abs(P[P != 0]) - 1 / math.sqrt(m)).max() < 1e-12
    assert 0.2 < (P > 0).sum() / (4 * m) < 0.8
    assert len({tuple(np.flatnonzero(c)) for c in P.T}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_the_same_again_and_another_another(kind):
    first = matrix(Subspace(d=3, projection=kind))
    assert same(first, matrix(Subspace(d=3, projection=kind)))
    assert abs(first - matrix(Subspace(d=3, projection=kind, seed=1))).max() > 0.01


@pytest.mark.parametrize("kind", ["fastfood", "dense"])  # a sparse one may miss an entry altogether
def test_all_of_the_space_can_be_reached_when_d_is_its_size(kind):
    model = MLP(2, 2)
    P = matrix(Subspace(d=model.num_parameters(), projection=kind), 2, 2)
    assert np.linalg.matrix_rank(P) == 6


@pytest.mark.parametrize(("D", "d", "n"), [(64, 3, 64), (65, 3, 128), (63, 3, 64), (16, 32, 32)])
def test_a_transform_is_as_long_as_the_next_power_of_two(D, d, n):
    part = Fastfood(D, d, np.zeros(1), Rng(0))
    assert part.order.shape == part.scales.shape == (n,) and part.streams["order"] == n


def test_a_projection_for_each_tensor():
    P = matrix(Subspace(d=6, per_tensor=True, projection="dense"))
    ends = np.cumsum([20, 5, 15, 3])
    for part in np.split(P, ends[:-1]):
        assert abs(np.linalg.norm(part, axis=0) - 1).max() < 1e-12
    for said, m in (("layer", 1), ("tensor", 4)):  # factors, of d
        model = MLP(4, 5, 3)
        handle = attach(model, Subspace(6 + m, "dense", said, per_tensor=True))
        drawn = vars(handle.root)["space"].projections
        assert [part.P.shape for part in drawn] == [(n, 6) for n in (20, 5, 15, 3)]
    fast = matrix(Subspace(d=6, per_tensor=True))  # a bias of 3 numbers from z of 6
    assert np.isfinite(fast).all() and abs(fast).sum(axis=0).min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_all_parameters_times_p(kind):
    method, x = Subspace(d=7, projection=kind), Rng(1).normal((3, 4))
    full = MLP(4, 5, 3)
    attach(full, Full())
    full(Tensor(x)).sum().backward()
    whole = np.concatenate([p.grad.reshape(-1) for p in full.parameters()])
    model = MLP(4, 5, 3)
    handle = attach(model, method)
    model(Tensor(x)).sum().backward()
    ((_, z),) = handle.trainable()
    expected = matrix(method).T @ whole
    assert abs(z.grad - expected).max() < 1e-12 * abs(whole).max()


def test_one_projection_a_pass():
    calls = []
    for method in (Subspace(d=50), Subspace(d=50, said="layer", projection="sparse")):
        model, _ = replace(CASES["subspace"], method=method).attached()
        with watching(lambda name, y, args: calls.append(name)):
            model(IDS)
    assert calls.count("fastfood") == calls.count("scatter_signs") == 1


def test_nothing_of_a_pass_stays():
    model, handle = CASES["subspace"].attached()
    before = {id(part): dict(vars(part)) for _, part in handle.root.named_modules()}
    model(IDS)
    assert {id(part): vars(part) for _, part in handle.root.named_modules()} == before


def test_cut_gives_the_parts_and_their_gradients():
    sizes = [3, 1, 4, 1, 5]
    v = Tensor(Rng(1).normal((14,)), requires_grad=True)
    parts = cut(v, sizes)
    assert np.concatenate([p.data for p in parts]).tobytes() == v.data.tobytes()
    assert [p.size for p in parts] == sizes
    sum((i + 1) * p.sum() for i, p in enumerate(parts)).backward()
    assert (v.grad == np.repeat(np.arange(1, 6), sizes)).all()


# -- factors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "m"), [("layer", 3), ("tensor", 36)])
def test_factors_count_in_d(said, m):
    model, handle = replace(CASES["subspace"], method=Subspace(d=60, said=said)).attached()
    shapes = {path.rpartition(".")[2]: p.shape for path, p in handle.trainable()}
    assert shapes == {"z": (60 - m,), "factors": (m,)} and handle.count() == 60
    assert m == (CASES["subspace"].model().config.layers + 1 if said == "layer" else
                 len(CASES["subspace"].model().parameters()))  # fmt: skip


def test_a_factor_scales_its_layer():
    method = Subspace(d=9, said="tensor")
    z, factors = Rng(2).normal((5,)), np.array([2.0, -1.0, 0.0, 1.0])
    plain = moved(method, [z, np.ones(4)])
    got = moved(method, [z, factors])
    assert abs(got - plain * np.repeat(factors, [20, 5, 15, 3])).max() < 1e-15
    assert abs(plain - moved(Subspace(d=5), [z])).max() < 1e-15  # P is the one of DID


def test_the_factor_of_a_layer_is_that_of_all_its_tensors():
    found = []
    for factors in (np.ones(3), np.array([2.0, -1.0, 0.5])):
        model = CASES["subspace"].model()
        before = {path: p.data.copy() for path, p in model.named_parameters()}
        handle = attach(model, Subspace(d=20, said="layer"))
        for (_, p), value in zip(handle.trainable(), (Rng(2).normal((17,)), factors), strict=True):
            p.data = value
        handle.merge()
        found.append({path: p.data - before[path] for path, p in model.named_parameters()})
    plain, scaled = found
    for path in plain:  # outside the blocks, and in each of them
        factor = -1 if path.startswith("blocks.0.") else 0.5 if path.startswith("blocks.1.") else 2
        np.testing.assert_allclose(scaled[path], factor * plain[path], atol=1e-14)


# -- files, threads, other methods ----------------------------------------------------------------

DIGESTS = {  # their first bytes, as hexadecimal digits
    "fastfood": "6604fdb4e63dfc83",
    "dense": "4bcfe150f4d2a24f",
    "sparse": "8570afd1b626cd0c",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_a_digest_of_the_draw_and_not_the_draw(kind, tmp_path):
    case = replace(CASES["subspace"], method=Subspace(d=50, projection=kind))
    _, handle = case.attached()
    handle.save(tmp_path / "a")
    arrays, metadata = load_arrays(tmp_path / "a")
    assert {name: a.shape for name, a in arrays.items()} == {
        "subspace.z": (50,), "state:digest": (32,)
    }  # fmt: skip
    arrays["state:digest"] = arrays["state:digest"] ^ np.uint8(1)
    save_arrays(tmp_path / "b", arrays, metadata)
    fresh = attach(case.model(), case.method)
    before = [p.data.tobytes() for _, p in fresh.trainable()]
    with pytest.raises(CheckpointError, match="the projection drawn here from seed 0 is not the"):
        fresh.load(tmp_path / "b")
    assert before == [p.data.tobytes() for _, p in fresh.trainable()]
    fresh.load(tmp_path / "a")


def test_the_raw_integers_are_the_same_on_every_machine():
    for kind, start in DIGESTS.items():
        handle = attach(MLP(4, 5, 3), Subspace(d=5, projection=kind))
        digest = handle.method.state(handle)["digest"]
        assert digest.tobytes().hex()[:16] == start, kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_covers_every_projection_and_every_stream(kind):
    method = Subspace(d=5, projection=kind, per_tensor=True)
    handle = attach(MLP(4, 5, 3), method)
    space = vars(handle.root)["space"]
    whole = handle.method.state(handle)["digest"].tobytes()
    assert len(list(space.projections)) == 4
    for part in space.projections:
        rng = part.rng
        for name in part.streams:
            part.rng = Swapped(rng, name)
            assert handle.method.state(handle)["digest"].tobytes() != whole, name
        part.rng = rng
        streams = part.streams
        for name in streams:  # nor is it that of fewer numbers
            part.streams = streams | {name: streams[name] - 1}
            assert handle.method.state(handle)["digest"].tobytes() != whole, name
        part.streams = streams
    assert handle.method.state(handle)["digest"].tobytes() == whole


class Swapped:
    """A generator of which one stream is another."""

    def __init__(self, rng, name):
        self.rng, self.name = rng, name

    def spawn(self, name):
        return Rng(99, "another") if name == self.name else self.rng.spawn(name)


def test_the_digest_covers_a_long_stream_to_its_end():
    n = (1 << 20) + 2  # above what is hashed at a time
    part = Dense(n, 1, np.broadcast_to(np.zeros(()), (2,)), Rng(0))
    space = Space(Parameter(np.zeros(1)), None, [part], [n], [])
    wanted = sha256(Rng(0).spawn("normal").raw(n).astype("<u8").tobytes()).digest()
    assert space.digest().tobytes() == wanted


def test_threads_project_for_themselves():
    found = []
    for threads in (1, 2):
        model = CASES["subspace"].model(np.float64)
        handle = attach(model, Subspace(d=100))
        fit(model, Next(), steps=4, lr=0.05, batch=4, threads=threads, quiet=True)
        found.append([p.data for _, p in handle.trainable()])
    for a, b in zip(*found, strict=True):
        assert abs(a - b).max() < 1e-9 and np.any(a)


def test_it_moves_what_another_method_trained_and_another_can_stand_on_it():
    model = CASES["subspace"].model()
    randomize(attach(model, LoRA(r=2)))
    y = run(model, IDS)
    handle = attach(model, Subspace(d=20))
    assert same(run(model, IDS), y)
    randomize(handle)
    assert abs(run(model, IDS) - y).max() > 1e-3
    count = CASES["subspace"].model().num_parameters()
    assert sum(p.size for p in handle.computed.values()) == count  # LoRA's own are left alone
    y = run(model, IDS)
    over = attach(model, LoRA(r=1, seed=4))
    assert same(run(model, IDS), y)
    over.detach()
    handle.detach()


def test_what_trains_already_cannot_be_computed_too():
    model = CASES["subspace"].model()
    attach(model, Subspace(d=20))
    with pytest.raises(ValueError, match="'full' would change emb.tok.weight, which 'subspace'"):
        attach(model, Full())


def test_a_model_without_values_is_counted_and_foretold_not_saved(tmp_path):
    model = GPT(preset("gpt3-175b"), init="shape")
    handle = attach(model, Subspace(d=200, said="layer"))
    assert handle.count() == 200 and all(p.data.strides == (0,) for _, p in handle.trainable())
    ledger = predict(model, batch=1, length=8)
    assert ledger.flops["forward"] > 38 * 2**38  # a transform of 2^38 numbers alone
    with pytest.raises(RuntimeError, match="a shape but no values"):
        handle.save(tmp_path / "a")


# -- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d": 0}, "d must be a whole number >= 1, got 0"),
        ({"d": True}, "d must be int, got True"),
        ({"projection": "sprase"}, "projection must be 'fastfood', 'dense' or 'sparse', got 'spr"),
        ({"said": "block"}, "said must be '', 'layer' or 'tensor', got 'block'"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Subspace(**fields)


def test_d_above_the_parameters_is_refused():
    model = MLP(4, 5, 3)
    attach(model, Subspace(d=43)).detach()
    with pytest.raises(ValueError, match=r"d = 44 is more than the 43 parameters .* at most 43"):
        attach(model, Subspace(d=44))
    with pytest.raises(ValueError, match=r"d = 4 leaves no direction beside the 4 .* at least 5"):
        attach(model, Subspace(d=4, said="tensor"))
    assert not model.handles and all(p.requires_grad for p in model.parameters())


def test_only_floats_move():
    model = MLP(4, 5, 3)
    model.fc0.weight = Parameter(np.zeros((5, 4), np.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"fc0.weight holds int8; only floats can be moved"):
        attach(model, Subspace(d=5))


# -- what the dimension says ----------------------------------------------------------------------


def test_d90_is_the_smallest_that_reaches_nine_tenths():
    scores = {10: 0.16, 500: 0.839, 750: 0.877, 1000: 0.8835}
    assert d90(scores, 0.956) == 750 and d90(scores, 0.956, share=0.1) == 10
    assert d90(scores, 1.0) is None and d90({}, 1.0) is None
    assert d90({5: 0.9}, 1.0) == 5  # exactly nine tenths is enough


@pytest.mark.parametrize("threshold", [1, 2, 3, 17, 750, 4000])
def test_the_search_brackets_d90(threshold):
    tried = []

    def score(d):
        tried.append(d)
        return 1.0 if d >= threshold else 0.2

    found = search_d90(score, full=1.0, high=4096, ratio=1.1)
    assert tried == list(found) and len(tried) <= 13 + 4
    best = d90(found, 1.0)
    below = max((d for d in found if d < threshold), default=0)
    assert threshold <= best <= max(below + 1, 1.1 * below)


def test_the_search_ends_where_the_gap_is_the_ratio():
    assert list(search_d90(lambda d: float(d >= 4), full=1.0, high=64, ratio=2.0)) == [1, 2, 4]


def test_the_search_says_when_nothing_reaches_it():
    found = search_d90(lambda d: 0.5, full=1.0, high=100)
    assert list(found) == [1, 2, 4, 8, 16, 32, 64, 100] and d90(found, 1.0) is None
    with pytest.raises(ValueError, match="high must be >= 1 and ratio > 1, got 0 and 2"):
        search_d90(lambda d: 1.0, full=1.0, high=0, ratio=2)


def test_the_compression_bound():
    bound = compression_bound(0.1, d=200, m=392_702)
    assert bound == pytest.approx(0.1 + math.sqrt((200 * math.log(256) + math.log(20)) / 785_404))
    assert compression_bound(0.1, d=800, m=4 * 392_702) < bound  # δ alone does not grow with d
    assert compression_bound(0.0, d=199_210, m=60_000) > 1  # of all parameters it says nothing
    with pytest.raises(ValueError, match="needs error in"):
        compression_bound(1.1, 1, 1)


def test_no_grad_projects_too():
    model, handle = CASES["subspace"].attached()
    with no_grad():
        y = model(IDS)
    assert not y.requires_grad and same(y.data, model(IDS).data)
    handle.detach()
