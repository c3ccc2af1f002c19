"""Paged optimizer state: the same bits, little of it in memory, and checkpoints that are whole."""

import gc
import mmap
import weakref

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.methods import LoRA
from minipeft.models import GPT, GPTConfig
from minipeft.nn import Parameter
from minipeft.storage.checkpoint import load_arrays
from minipeft.storage.paged import Scratch, is_paged
from minipeft.training.batches import Batch
from minipeft.training.loop import fit
from minipeft.training.optim import AdamW
from minipeft.training.optimizers import OPTIMIZERS
from minipeft.training.resume import Checkpoint
from tests import fakecupy

CONFIG = GPTConfig(vocab=11, context=8, width=16, layers=2, heads=2)


class Rows:
    def batch(self, step, size, seed):
        ids = Rng(seed, step).integers(0, 11, (size, 8))
        return Batch(ids, ids % 3, np.ones(ids.shape, bool))


def params(dtype=np.float32):
    shapes = {"blocks.0.w": (70, 1000), "blocks.0.b": (1000,), "x": (300, 3)}
    return [
        (path, Parameter(np.asarray(Rng(0, path).normal(s), dtype))) for path, s in shapes.items()
    ]


def stepped(optimizer, budget=None, steps=3):
    """Parameters and the optimizer after some steps."""
    own = params()
    opt = OPTIMIZERS[optimizer](own, 0.01, decay=0.1)
    if budget is not None:
        opt.page(budget)
    for i in range(steps):
        for path, p in own:
            p.grad = np.asarray(Rng(i, path).normal(p.shape), np.float32)
        opt.step()
    return own, opt


# -- the scratch file -----------------------------------------------------------------------------


def test_arrays_come_back_after_they_were_let_go():
    given = [np.arange(5000.0), np.ones((3, 2), np.float32), np.zeros((0, 4)), np.asarray(7)]
    scratch = Scratch(given)
    scratch.arrays[0][17] = -1
    scratch.release()
    for a, b in zip(given, scratch.arrays, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and b.flags.writeable
        assert is_paged(b) or not b.size
        assert not is_paged(a)
    assert scratch.arrays[0][17] == -1 and scratch.arrays[0][18] == 18
    assert is_paged(scratch.arrays[0][3:].reshape(-1)) and not is_paged(scratch.arrays[0] + 1)
    assert not is_paged(None) and Scratch([]).arrays == []


def test_the_file_goes_with_its_arrays(tmp_path):
    scratch = Scratch([np.ones(1000)], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []  # it never had a name
    gone = weakref.ref(scratch)
    kept = scratch.arrays[0][:10]
    del scratch
    gc.collect()
    assert gone() is None and kept.sum() == 10


def test_it_lets_go_when_the_budget_is_used(monkeypatch):
    scratch = Scratch([np.ones(10_000), np.ones(10_000)], budget=100_000)
    let_go = []
    monkeypatch.setattr(scratch, "release", lambda: let_go.append(scratch.loaded))
    scratch.loaded = 0
    scratch.touched(scratch.arrays[0])
    assert let_go == []
    scratch.touched(*scratch.arrays)
    assert let_go == [240_000]
    ample = Scratch([np.ones(10_000)], budget=1 << 20)
    monkeypatch.setattr(ample, "release", lambda: let_go.append("never"))
    for _ in range(100):
        ample.touched(*ample.arrays)
    assert let_go == [240_000]


def test_a_budget_that_is_met_exactly_is_not_passed(monkeypatch):
    """So is one that holds everything: pages included, nothing need be let go."""
    scratch, let_go = Scratch([np.ones(10_000), np.ones(10_000)], budget=160_000), []
    monkeypatch.setattr(scratch, "release", lambda: let_go.append(scratch.loaded))
    scratch.loaded = 0
    scratch.touched(*scratch.arrays)
    assert let_go == []
    scratch.touched(scratch.arrays[0][:1])
    assert let_go == [160_008]
    whole = Scratch([np.ones(10_000)], budget=scratch.size // 2)
    monkeypatch.setattr(whole, "release", lambda: let_go.append("never"))
    for _ in range(3):
        whole.touched(*whole.arrays)
    assert whole.size == whole.budget and let_go == [160_008]


def test_wrong_use_is_refused():
    for budget in (-1, 0.5, True, "1"):
        with pytest.raises(ValueError, match="budget must be a whole number of bytes >= 0, got"):
            Scratch([np.ones(3)], budget)
    with pytest.raises(TypeError, match="only arrays of the CPU are paged, got list"):
        Scratch([[1.0]])
    with fakecupy.device() as xp:
        opt = AdamW([("w", Parameter(xp.asarray(np.ones(3, np.float32))))], 0.1)
        with pytest.raises(ValueError, match="paged optimizer state is for the CPU"):
            opt.page(0)


# -- the optimizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("budget", [0, 100_000, 1 << 30])
def test_paged_steps_are_the_same_bits(optimizer, budget):
    plain, opt = stepped(optimizer)
    paged, other = stepped(optimizer, budget)
    for (path, a), (_, b) in zip(plain, paged, strict=True):
        assert a.data.tobytes() == b.data.tobytes(), path
    assert all(is_paged(a) for state in other.state for a in state.values())
    for name, array in opt.arrays().items():
        assert array.tobytes() == other.arrays()[name].tobytes(), name


def resident():
    """Bytes of mapped files that this process holds in memory."""
    try:
        with open("/proc/self/status") as lines:
            facts = dict(line.split(":") for line in lines if line.startswith("Rss"))
    except OSError:
        pytest.skip("posix: there is no /proc here")
    return sum(int(facts[k].split()[0]) * 1024 for k in ("RssFile", "RssShmem"))


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="posix: mmap has no madvise")
def test_no_more_than_the_budget_is_in_memory():
    own = [("w", Parameter(np.zeros(3 << 20, np.float32)))]  # 24 MB of state
    opt = AdamW(own, 0.01)
    before = resident()
    opt.page(2 << 20)
    most = resident()
    update = opt._update

    def watched(*args):
        nonlocal most
        update(*args)
        most = max(most, resident())

    opt._update = watched
    own[0][1].grad = np.ones(3 << 20, np.float32)
    opt.step()
    assert 0 < most - before < 6 << 20
    opt.scratch.budget = 1 << 30  # and without one, all of it is
    own[0][1].grad = np.ones(3 << 20, np.float32)
    opt.step()
    assert most - before > 20 << 20


# -- in a run -------------------------------------------------------------------------------------


def run(path=None, steps=6, **settings):
    model = GPT(CONFIG)
    at = attach(model, LoRA(r=2))
    kept = {"checkpoint": Checkpoint(path, every=3)} if path else {}
    fit(model, Rows(), steps=steps, lr=0.01, batch=4, quiet=True, **kept, **settings)
    return {name: p.data.tobytes() for name, p in at.trainable()}


def test_a_run_is_the_same_and_its_checkpoint_whole(tmp_path):
    plain = run(tmp_path / "a")
    paged = run(tmp_path / "b", paged=0)
    assert plain == paged
    (one, _), (two, _) = load_arrays(tmp_path / "a"), load_arrays(tmp_path / "b")
    assert one.keys() == two.keys() and any(k.startswith("v:") for k in one)
    assert all(one[k].tobytes() == two[k].tobytes() for k in one)


def test_a_run_goes_on_paged_or_not(tmp_path):
    whole, file = run(), tmp_path / "state"

    class Stop(Exception):
        pass

    def stop(step):
        if step == 4:
            raise Stop

    for first, second in ((None, 0), (0, None)):
        with pytest.raises(Stop):
            run(file, paged=first, watch=stop)
        assert run(file, paged=second) == whole
        file.unlink()
