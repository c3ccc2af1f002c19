"""Masks: what is kept, what is saved of them, sparse storage, and who may not be pruned."""

from dataclasses import replace

import numpy as np
import pytest

from minipeft.backend import Rng, to_numpy
from minipeft.contract import NotMergeable, attach
from minipeft.engine import Tensor
from minipeft.methods import BitFit, Full, LoRA, Magnitude, Movement, Subspace, TopK
from minipeft.methods.masks import csr, csr_bytes, cubic, kept, top, top_of_all
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.nn import Linear, Module, Parameter
from minipeft.storage.checkpoint import CheckpointError, load_arrays, save_arrays
from tests.methods.contract import CASES, randomize, run, same

IDS = CASES["magnitude"].inputs()
PRUNING = [Magnitude(s=0.5), Movement()]
both = pytest.mark.parametrize("method", PRUNING, ids=lambda m: m.name)


class Two(Module):
    """Two Linears, the second without a bias."""

    def __init__(self, d_in=7, d=6, d_out=5):
        like, rng = np.zeros(2), Rng(0, "two")
        self.left = Linear(d_in, d, std=0.3, rng=rng, like=like)
        self.right = Linear(d, d_out, bias=False, std=0.3, rng=rng, like=like)

    def forward(self, x):
        return self.right(self.left(x))


# -- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 11, 12])
def test_top_keeps_exactly_k_of_the_largest(k, backend):
    scores = Rng(1).normal((3, 4))
    mask = to_numpy(top(backend.asarray(scores), k))
    assert mask.dtype == bool and mask.shape == (3, 4) and mask.sum() == k
    assert k == 12 or scores[mask].min() > scores[~mask].max()


def test_among_equals_the_first_are_kept(backend):
    scores = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    for k, wanted in ((1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (6, range(6))):
        mask = to_numpy(top(backend.asarray(scores), k))
        assert np.flatnonzero(mask).tolist() == sorted(wanted)
    assert np.flatnonzero(top(np.zeros(9), 4)).tolist() == [0, 1, 2, 3]


def test_signs_count():
    assert top(np.array([-9.0, -1.0, 0.5]), 1).tolist() == [False, False, True]


def test_several_are_chosen_from_together():
    masks = top_of_all([np.array([[1.0, 9.0], [2.0, 0.0]]), np.array([3.0, 8.0, 7.0])], 3)
    assert [m.tolist() for m in masks] == [[[False, True], [False, False]], [False, True, True]]


def test_the_cubic_schedule():
    assert [cubic(0.1, 0.9, t) for t in (-1, 0, 1, 2)] == pytest.approx([0.1, 0.1, 0.9, 0.9])
    assert cubic(0.0, 0.8, 0.5) == pytest.approx(0.8 - 0.8 / 8)
    slopes = np.diff([cubic(0.0, 0.8, t / 10) for t in range(11)])
    assert (slopes > 0).all() and (np.diff(slopes) < 0).all()  # fast first, then ever slower


# -- sparse storage -------------------------------------------------------------------------------


def test_csr_holds_the_matrix():
    w = Rng(1).normal((6, 9)).astype(np.float32) * (Rng(2).uniform((6, 9)) < 0.3)
    w[2] = 0
    values, columns, starts = csr(w)
    again = np.zeros_like(w)
    for row in range(6):
        part = slice(starts[row], starts[row + 1])
        again[row, columns[part]] = values[part]
    assert (again == w).all() and len(values) == starts[-1] == np.count_nonzero(w)
    with pytest.raises(ValueError, match=r"csr: wanted a matrix, got shape \(4,\)"):
        csr(np.zeros(4))


def test_sparse_bytes_of_a_merged_model():
    model = replace(CASES["magnitude"]).model(np.float32, width=32)
    attach(model, Magnitude(s=0.9)).merge()
    found = csr_bytes(model)
    assert len(found) == 12
    for path, (dense, sparse) in found.items():
        d_out, d_in = model.get(path).weight.shape
        k = round(0.1 * d_out * d_in)
        assert dense == 4 * d_out * d_in and sparse == 8 * k + 4 * (d_out + 1)
        assert sparse < 0.4 * dense
    half = csr_bytes(CASES["magnitude"].model(np.float32))
    assert all(sparse > 2 * dense for dense, sparse in half.values())  # where nothing is 0


@both
def test_merged_weights_have_the_zeros(method):
    model, handle = replace(CASES["magnitude"], method=method).attached()
    shares = kept(handle)
    handle.merge()
    for path, share in shares.items():
        w = model.get(path).weight.data
        assert share == np.count_nonzero(w) / w.size < 1
        assert np.count_nonzero(model.get(path).bias.data)  # biases stay whole


# -- files ----------------------------------------------------------------------------------------


@both
def test_masks_are_saved_as_bits(method, tmp_path):
    case = replace(CASES["magnitude"], method=method)
    model, handle = case.attached()
    y = run(model, IDS)
    handle.save(tmp_path / "a")
    arrays, metadata = load_arrays(tmp_path / "a")
    for path, w in handle.wrappers.items():
        bits = arrays[f"state:{path}"]
        assert bits.dtype == np.uint8 and bits.nbytes == -(-w.W.size // 8)
        assert same(np.unpackbits(bits)[: w.W.size].reshape(w.W.shape).astype(bool), w.mask)
    fresh_model = case.model()
    fresh = attach(fresh_model, case.method)
    fresh.load(tmp_path / "a")
    assert same(run(fresh_model, IDS), y)
    assert kept(fresh) == kept(handle)
    assert [w.left for w in fresh.wrappers.values()] == [w.left for w in handle.wrappers.values()]
    path = "blocks.0.attn.q_proj"
    save_arrays(tmp_path / "b", arrays | {f"state:{path}": np.zeros(8, np.uint8)}, metadata)
    with pytest.raises(CheckpointError, match=rf"the mask of {path} is damaged"):
        attach(case.model(), case.method).load(tmp_path / "b")


def test_a_bit_past_the_end_is_refused():
    handle = attach(Two(), Magnitude(s=0.5, targets=("left", "right")))
    state = handle.method.state(handle)
    assert state["left"].shape == (6,) and state["right"].shape == (4,)  # 42 and 30 bits
    handle.method.load_state(handle, state)
    state["right"] = state["right"] | np.uint8(1)
    masks = [w.mask for w in handle.wrappers.values()]
    with pytest.raises(CheckpointError, match="the mask of right is damaged"):
        handle.method.load_state(handle, state)
    assert all(w.mask is m for w, m in zip(handle.wrappers.values(), masks, strict=True))


@pytest.mark.parametrize("method", [Magnitude(s=0.5, bias=False), Movement(bias=False)])
def test_a_model_without_values_takes_no_memory(method):
    model = GPT(preset("gpt3-175b"), init="shape")
    handle = attach(model, method)
    times = 2 if method.name == "movement" else 1
    assert handle.count() == times * 96 * 12 * 12288**2
    assert all(w.mask.strides == (0, 0) for w in handle.wrappers.values())


# -- who may not be pruned ------------------------------------------------------------------------


@both
def test_a_tied_head_is_refused(method):
    model = CASES["magnitude"].model()
    with pytest.raises(ValueError, match="head shares its weight with emb.tok.weight, where zeros"):
        attach(model, replace(method, targets=("fc_in", "head")))
    assert not model.handles and type(model.head) is Linear


@both
def test_a_new_head_is_refused(method):
    model = CASES["magnitude"].model(head="linear", classes=3)
    with pytest.raises(ValueError, match="head is a new head, which trains whole; leave it out"):
        attach(model, replace(method, targets=("head",)))


@both
def test_what_is_no_linear_is_refused(method):
    with pytest.raises(ValueError, match=r"emb.tok is a Embedding; it must be a Linear"):
        attach(CASES["magnitude"].model(), replace(method, targets=("tok",)))
    two = Two()
    two.left.weight = Parameter(np.zeros((6, 7), np.int8), requires_grad=False)
    with pytest.raises(ValueError, match="left holds int8; only floats can be pruned"):
        attach(two, replace(method, targets=("left",)))


@both
def test_what_an_earlier_method_holds_is_refused(method):
    model = CASES["magnitude"].model()
    for earlier, message in (
        (LoRA(r=2), "q_proj is wrapped by 'lora', which goes on using the weight: merge or det"),
        (Movement(v=0.9), "q_proj is wrapped by 'movement'"),
        (Subspace(d=9), "q_proj is computed by 'subspace': merge or detach 'subspace' first"),
    ):
        with attach(model, earlier), pytest.raises(ValueError, match=message):
            attach(model, method)
    with attach(model, LoRA(r=2, targets="fc_in")):
        attach(model, replace(method, targets=("q_proj",))).detach()
    assert not model.handles


@both
def test_what_was_replaced_is_not_trained_unseen(method):
    model = CASES["magnitude"].model()
    attach(model, method)
    for later in (Full(), TopK(k=1), BitFit(), Subspace(d=9)):
        name = later.name
        with pytest.raises(ValueError, match=rf"'{name}' would change .*which '{method.name}' rep"):
            attach(model, later)
    assert [h.method for h in model.handles] == [method]
    model.handles[0].detach()
    attach(model, replace(method, bias=False))
    biases = attach(model, BitFit())  # which the masked parts go on using
    before = run(model, IDS)
    randomize(biases)
    assert abs(run(model, IDS) - before).max() > 1e-3


@both
def test_lora_stands_on_pruned_weights_and_waits_for_their_merge(method):
    model, handle = replace(CASES["magnitude"], method=method).attached()
    y = run(model, IDS)
    lora = attach(model, LoRA(r=2))
    assert same(run(model, IDS), y)
    randomize(lora)
    y = run(model, IDS)
    with pytest.raises(NotMergeable, match=rf"'{method.name}' under 'lora': merge '{method.name}'"):
        lora.merge()
    handle.merge()
    assert abs(run(model, IDS) - y).max() < 1e-12 * abs(y).max()
    lora.merge()
    assert abs(run(model, IDS) - y).max() < 1e-12 * abs(y).max()


@both
def test_a_part_without_bias(method):
    two = Two()
    handle = attach(two, replace(method, targets=("left", "right")))
    times = 2 if method.name == "movement" else 1
    assert handle.count() == times * (42 + 30) + 6
    randomize(handle)
    x = Tensor(Rng(3).normal((4, 7)))
    y = two(x).data
    handle.merge()
    assert abs(two(x).data - y).max() < 1e-12 and two.right.bias is None


@pytest.mark.parametrize("kind", [Magnitude, Movement])
def test_a_wrong_scope_is_named(kind):
    with pytest.raises(
        ValueError, match=f"{kind.__name__}: scope must be 'layer' or 'global', got"
    ):
        kind(scope="all")
