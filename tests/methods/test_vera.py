"""VeRA: what is shared, drawn again and checked, and what little is saved."""

import dataclasses
from hashlib import sha256

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import Tensor
from minipeft.methods import VeRA, load_adapter
from minipeft.models import GPT
from minipeft.models.presets import preset
from minipeft.storage.checkpoint import CheckpointError, load_arrays
from tests.methods.contract import CASES, QKV, randomize, run, same

IDS = CASES["vera"].inputs()


@pytest.mark.parametrize(
    ("name", "count"), [("gpt2", 30_720), ("gpt2-medium", 79_872), ("gpt2-large", 147_456)]
)
def test_counts(name, count):
    handle = attach(GPT(preset(name), init="shape"), VeRA(r=256, targets=QKV, fused=QKV))
    assert handle.count() == count


def attached(**settings):
    model = CASES["vera"].model()
    return model, attach(model, VeRA(**{"r": 5, "targets": "all-linear", **settings}))


def test_modules_of_a_width_share_their_matrices():
    _, handle = attached()
    w = {path.split(".", 2)[2]: w for path, w in handle.wrappers.items()}
    assert w["attn.q_proj"].A is w["attn.o_proj"].A is w["mlp.fc_in"].A
    assert w["attn.q_proj"].B is w["mlp.fc_out"].B is not w["mlp.fc_in"].B
    assert w["attn.q_proj"].d is not w["attn.v_proj"].d
    assert handle.wrappers["blocks.0.attn.q_proj"].A is handle.wrappers["blocks.1.attn.q_proj"].A


def test_a_narrow_module_reads_a_part_of_what_a_wide_one_reads():
    _, handle = attached()
    narrow, wide = (handle.wrappers[f"blocks.0.mlp.{x}"] for x in ("fc_in", "fc_out"))
    np.testing.assert_allclose(narrow.A.data, 2 * wide.A.data[:, :8], rtol=1e-12)  # sqrt(32 / 8)
    assert same(wide.B.data, narrow.B.data[:8])


def test_fused_parts_read_neighbouring_rows():
    _, handle = attached(targets=QKV, fused=QKV)
    q, k, v, q1, *_ = handle.wrappers.values()
    assert q.d is k.d is v.d is not q1.d and q.B is q1.B
    table = VeRA(r=5)._drawn("B", 24, q.B.data, 5)
    assert same(np.concatenate([q.B.data, k.B.data, v.B.data]), table)


def test_fused_parts_of_unequal_widths_begin_at_multiples_of_their_own():
    """Two heads of keys and values for six of queries: rows 0-23, 8-15 and 16-23."""
    model = dataclasses.replace(CASES["vera"], kind="llama").model()
    q, k, v, *_ = attach(model, VeRA(r=5, targets=QKV, fused=QKV)).wrappers.values()
    table = VeRA(r=5)._drawn("B", 24, q.B.data, 5)
    assert same(q.B.data, table) and same(k.B.data, table[8:16])
    assert same(v.B.data, table[16:]) and q.d is k.d is v.d


def test_the_start_of_a_and_b():
    model = GPT(preset("gpt2"), init="shape")
    like = np.zeros(2, np.float32)
    A = VeRA(r=64)._drawn("A", 300, like, 300)
    assert abs(A).max() <= (6 / 300) ** 0.5 and A.std() == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert A.dtype == np.float32 and not same(A, VeRA(r=64, seed=1)._drawn("A", 300, like, 300))
    handle = attach(model, VeRA(r=2000))  # above the rank of every weight
    assert handle.wrappers["blocks.0.attn.q_proj"].A.data.strides == (0, 0)


def test_d_starts_as_d_initial_and_b_as_zero():
    _, handle = attached(d_initial=0.7)
    for w in handle.wrappers.values():
        assert w.d.data.tolist() == [0.7] * 5 and not w.b.data.any()


def test_the_update_is_the_formula():
    _, handle = attached()
    randomize(handle)
    w = handle.wrappers["blocks.1.mlp.fc_in"]
    A, B, b, d = (getattr(w, name).data for name in "ABbd")
    W = w.base.weight.data + np.diag(b) @ B @ np.diag(d) @ A
    x = Rng(0).normal((3, 8))
    np.testing.assert_allclose(w(Tensor(x)).data, x @ W.T + w.base.bias.data, rtol=0, atol=1e-12)
    np.testing.assert_allclose(w.merged().weight.data, W, rtol=0, atol=1e-13)


def test_a_file_holds_the_vectors_and_a_digest(tmp_path):
    model, handle = attached()
    randomize(handle)
    handle.save(tmp_path / "a")
    arrays, _ = load_arrays(tmp_path / "a")
    assert {name.rpartition(".")[2] for name in arrays} == {"b", "d", "state:digest"}
    assert sum(a.size for a in arrays.values()) == handle.count() + 32


def test_the_digest_is_that_of_every_machine():
    _, handle = attached()
    digest = handle.method.state(handle)["digest"]
    assert bytes(digest).hex()[:16] == "e3e64af3b5001807"


def test_the_digest_of_fused_parts_covers_the_rows_of_all_of_them():
    _, handle = attached(targets=QKV, fused=QKV)
    tables = (handle.method._rng(x).raw(n * 5).astype("<u8") for x, n in (("A", 8), ("B", 24)))
    wanted = sha256(b"".join(table.tobytes() for table in tables)).digest()
    assert handle.method.state(handle)["digest"].tobytes() == wanted


@pytest.mark.parametrize("name", ["A", "B"])
def test_the_digest_covers_both_matrices_in_full(name, monkeypatch):
    """One other integer of either, the last as the first, makes another digest."""
    _, handle = attached()
    whole = handle.method.state(handle)["digest"].tobytes()
    usual, drawn = VeRA._rng, {}

    class One:
        def __init__(self, rng, table, at):
            self.rng, self.table, self.at = rng, table, at

        def raw(self, n):
            found = self.rng.raw(n).copy()
            drawn[self.table] = n
            if self.table == name:
                found[self.at] ^= np.uint64(1)
            return found

    for at in (0, -1):
        monkeypatch.setattr(
            VeRA, "_rng", lambda self, table, at=at: One(usual(self, table), table, at)
        )
        assert handle.method.state(handle)["digest"].tobytes() != whole
    sizes = {"A": max(w.A.size for w in handle.wrappers.values()),
             "B": max(w.B.size for w in handle.wrappers.values())}  # fmt: skip
    assert drawn == sizes


def test_other_random_matrices_are_refused(tmp_path, monkeypatch):
    model, handle = attached()
    randomize(handle)
    handle.save(tmp_path / "a")
    handle.detach()
    with load_adapter(model, tmp_path / "a"):
        pass
    monkeypatch.setattr(VeRA, "_rng", lambda self, name: Rng(self.seed, "another", name))
    y = run(model, IDS)
    with pytest.raises(CheckpointError, match="A and B as this version draws them from seed 0"):
        load_adapter(model, tmp_path / "a")
    assert same(run(model, IDS), y) and not model.handles


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "VeRA: r must be a whole number"),
        ({"d_initial": 0.0}, "VeRA: d_initial must be finite and not 0"),
        ({"d_initial": float("nan")}, "VeRA: d_initial must be finite"),
        ({"fused": "q_proj"}, "VeRA: fused must be tuple"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        VeRA(**changes)
