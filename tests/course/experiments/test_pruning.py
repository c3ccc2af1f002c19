"""The measures behind the pruning lecture, and the net of digits, on cases with a known answer."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, trials
from minipeft.course.experiments.pruning import runs as pruning
from minipeft.course.experiments.rates.runs import best
from minipeft.course.experiments.runner import Results, perform, results
from minipeft.course.experiments.subspaces import digit_net
from minipeft.course.experiments.subspaces.digit_net import DigitNet, accuracy, enlarged, pictures
from minipeft.methods import Magnitude, Movement
from minipeft.methods.masks import kept, parts
from minipeft.training.batches import ImageBatches
from tests.tiny import Sounds, clouds, gpt


@pytest.fixture
def small(monkeypatch):
    """The experiments on a tiny GPT and a tiny task."""
    model = gpt(dtype=np.float32, spread=0.1)
    monkeypatch.setattr(pruning, "base", lambda name: model)
    monkeypatch.setattr(pruning, "get_task", lambda name: Sounds())
    return model


def test_the_ways_to_prune_share_a_schedule():
    assert pruning.chosen("at once", 0.2) == Magnitude(s=0.8, t0=0.2, t1=0.7)
    size, move = pruning.chosen("magnitude", 0.2), pruning.chosen("movement", 0.2)
    assert isinstance(size, Magnitude) and isinstance(move, Movement)
    for t in (0.0, 0.2, 0.45, 0.7, 1.0):  # where a pruning of 20 is due
        assert 1 - move.pruned(t) * (1 - move.v) == pytest.approx(1 - size.sparsity(t))


def test_soft_takes_a_penalty_in_place_of_a_share():
    soft = pruning.chosen("soft", lam=7.0)
    assert isinstance(soft, Movement) and (soft.mode, soft.lam, soft.c) == ("soft", 7.0, 200.0)
    assert pruning.MIDDLE in pruning.PENALTIES
    counts = [sum(s["lam"] == lam for s in pruning._soft(False)) for lam in pruning.PENALTIES]
    assert counts == [3, 5, 3]


def test_shared_counts_what_stays_large():
    before = np.array([[4.0, -3.0, 2.0, 1.0]])
    assert pruning._shared(before, before, 0.5) == 1
    assert pruning._shared(before, -before, 0.5) == 1  # the sign does not matter
    assert pruning._shared(before, np.array([[4.0, 0.1, 0.2, 3.0]]), 0.5) == 0.5
    assert pruning._shared(before, before[:, ::-1], 0.5) == 0


@pytest.mark.parametrize("way", pruning.WAYS)
def test_each_way_keeps_the_share_asked_for(small, way):
    outcome = pruning.share_kept({"way": way, "kept": 0.3, "seed": 0, "steps": 5})
    assert outcome["kept"] == pytest.approx(0.3, abs=0.002)
    assert outcome["least"] == pytest.approx(outcome["most"], abs=0.002)
    assert (outcome["as_large"] == 1) == (way == "at once")
    assert not small.handles


def test_a_random_mask_is_as_large_by_chance(small):
    shares = [
        pruning.share_kept({"way": "random", "kept": 0.3, "seed": seed, "steps": 1})["as_large"]
        for seed in range(3)
    ]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.03)


def test_moves_add_up_and_nothing_moves_without_a_rate(small, monkeypatch):
    found = pruning.moves({"seed": 0, "steps": 3})
    assert sum(found["counts"]) == pytest.approx(1) and 0 < found["tenth"] < 1
    assert len(found["same"]) == len(pruning.KEPT) and 0 < min(found["same"]) <= 1
    monkeypatch.setattr(pruning, "WHOLE_RATE", 0.0)
    still = pruning.moves({"seed": 0, "steps": 2})
    assert still["counts"][0] == 1 and still["same"] == [1.0] * len(pruning.KEPT)
    assert still["signs"] == still["tenth"] == still["norm"] == 0


def test_soft_keeps_fewer_under_a_larger_penalty(small, monkeypatch):
    monkeypatch.setattr(pruning, "SOFT_RATE", 3e-3)
    few, many = (pruning.soft({"lam": lam, "seed": 0, "steps": 20})["kept"] for lam in (1e4, 1e-2))
    assert few < 0.5 < many


def test_the_ticket_is_rewound_and_its_controls_are_not(monkeypatch):
    monkeypatch.setattr(pruning, "ROUNDS", 2)
    monkeypatch.setattr(pruning, "CONTROLS", (1, 2))
    monkeypatch.setattr(pruning, "LENET", (16, 12, 10))
    monkeypatch.setattr(pruning, "LAST", "layers.1")
    monkeypatch.setattr(pruning, "pictures", lambda n: ("digits", clouds(100, side=4)))
    starts, fit = [], pruning.fit

    def watched(net, *args, **settings):
        starts.append([w.W.data.copy() for w in parts(net.handles[-1]).values()])
        return fit(net, *args, **settings)

    monkeypatch.setattr(pruning, "fit", watched)
    out = pruning.tickets({"seed": 0, "steps": 20, "n": 100})
    whole, again, anything, ticket = starts[:4]
    assert out["left"][0] == 1 and out["left"][1] == pytest.approx(
        0.64 + 0.18 * 120 / 312, abs=0.01
    )
    assert len(out["ticket"]) == 3 and len(out["again"]) == len(out["random_steps"]) == 2
    for w0, a, r, t in zip(whole, again, anything, ticket, strict=True):
        assert np.array_equal(t, w0 * (t != 0)) and np.array_equal(r, w0 * (r != 0))
        assert ((a != 0) == (t != 0)).all() and not np.array_equal(a, t)
        assert (r != 0).sum() == (t != 0).sum() and ((r != 0) != (t != 0)).any()


def test_the_rate_with_the_best_score_is_taken(tmp_path, small):
    fewer = [
        {"way": "magnitude", "kept": 0.3, "lr": lr, "seed": 0, "steps": 8} for lr in (0.0, 1e-2)
    ]
    rates = pruning.EXPERIMENTS[0]
    short = type(rates)("rates", "which?", lambda fast: fewer, rates.run, ())
    found = Results(perform(short, tmp_path))
    assert best(found, (0.0, 1e-2), way="magnitude") == 1e-2


def test_rates_are_the_sweeps_choice():
    found = results("pruning_rates")
    swept = {
        way: {share: best(found, pruning.RATES, way=way, kept=share) for share in shares}
        for way, shares in pruning.WAYS.items()
    }
    assert swept == pruning.RATE


def test_the_colleagues_masks_are_blocks_of_rows(small):
    with attach(small, Movement(v=0.5, warm=0.0, cool=0.0)) as at:
        pruning.colleague(at)
        pruning.fit(small, Sounds(), steps=3, quiet=True)
        assert kept(at)["blocks.0.mlp.fc_in"] == 0.5
        mask = at.wrappers["blocks.0.mlp.fc_in"].mask
        half = len(mask) // 2
        assert mask[:half].all() and not mask[half:].any()
        assert at.report().never_moved == [f"blocks.{i}.mlp.fc_in.S" for i in (0, 1)]


# -- the net of digits -----------------------------------------------------------------------------


def test_the_papers_nets_have_their_sizes():
    assert DigitNet(784, 200, 200, 10).num_parameters() == 199_210
    assert DigitNet(*pruning.LENET).num_parameters() == 266_610
    spread = DigitNet(784, 200, 10, seed=1).layers[0].weight.data.std()
    assert spread == pytest.approx((2 / 784) ** 0.5, rel=0.01)


def test_accuracy_counts_right_answers():
    net = DigitNet(4, 3)
    net.layers[0].weight.data = np.eye(3, 4, dtype=np.float32)
    pixels = np.eye(4, dtype=np.float32)[:3].reshape(3, 1, 2, 2)
    assert accuracy(net, ImageBatches(pixels, np.array([0, 1, 0])), size=2) == pytest.approx(
        200 / 3
    )


def test_enlarging_keeps_what_is_level_and_what_is_linear():
    flat = np.full((1, 1, 8, 8), 0.5, np.float32)
    assert np.allclose(enlarged(flat, 28), 0.5)
    slope = np.tile(np.arange(8, dtype=np.float32), (8, 1))[None, None]
    found = enlarged(slope, 28)[0, 0]
    assert np.allclose(found, found[:1]) and np.allclose(np.diff(found[0])[3:-3], 2 / 7)
    same = Rng(0).uniform((2, 1, 5, 5)).astype(np.float32)
    assert np.array_equal(enlarged(same, 5), same)


def test_without_files_the_bundled_digits_stand_in(digits_at_hand, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path))
    digit_net.pictures.cache_clear()
    name, (train, validation, test) = pictures(50)
    digit_net.pictures.cache_clear()
    assert name == "digits" and [len(p) for p in (train, validation, test)] == [50, 200, 797]
    assert train.pixels.shape == (50, 1, 28, 28) and train.pixels.dtype == np.float32


def test_the_reader_is_pruned_by_both_rules_and_not_at_all(monkeypatch):
    asked, seen = pruning._reader(False), []
    assert {(s["way"], s["kept"]) for s in asked} == {
        ("magnitude", 1.0), *((w, k) for w in ("magnitude", "movement") for k in pruning.KEPT)
    }  # fmt: skip
    model = gpt(dtype=np.float32, spread=0.1)
    monkeypatch.setattr(pruning, "base", lambda name: seen.append(name) or model)
    monkeypatch.setattr(pruning, "get_task", lambda name: Sounds())
    monkeypatch.setattr(trials, "fit", lambda *a, lr, **k: seen.append(lr) or _NoHistory())
    pruning.share_kept(asked[0] | {"steps": 1})
    pruning.share_kept({"way": "magnitude", "kept": 1.0, "seed": 0, "steps": 1})
    pruning.share_kept({"way": "magnitude", "kept": 0.5, "seed": 0, "steps": 1})
    pruning.share_kept({"way": "random", "kept": 0.03, "seed": 0, "steps": 1})
    assert seen == [pruning.READER, pruning.READER_RATE, pruning.MODEL, pruning.WHOLE_RATE,
                    pruning.MODEL, pruning.RATE["magnitude"][0.5],
                    pruning.MODEL, pruning.RATE["random"][0.03]]  # fmt: skip


class _NoHistory:
    loss = (0.0,)


def test_they_are_registered():
    assert {e.name for e in pruning.EXPERIMENTS} <= set(EXPERIMENTS)
