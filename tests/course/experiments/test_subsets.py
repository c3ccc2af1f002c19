"""The measures behind the lecture on subsets, on small models whose answer is known."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.rates.runs import best
from minipeft.course.experiments.subsets import runs as subsets
from minipeft.course.experiments.subsets.runs import (
    Blocks,
    Colleague,
    Norms,
    method_of,
    moved,
    rate_of,
)
from minipeft.engine import no_grad
from minipeft.engine.graph import kept, operations
from minipeft.methods import BitFit, Full, LoRA, TopK
from minipeft.models import BERT, GPT, BERTConfig, GPTConfig, preset
from minipeft.training.batches import task_batches
from minipeft.training.loop import fit
from minipeft.training.step import loss_of

CONFIG = GPTConfig(vocab=40, context=16, width=12, layers=3, heads=3)


@pytest.fixture
def model():
    return GPT(CONFIG, seed=1, dtype=np.float64)


def ids(seed=0, shape=(2, 8)):
    return Rng(seed, "ids").integers(0, CONFIG.vocab, shape)


def test_norms_take_every_layer_norm_and_nothing_else(model):
    with attach(model, Norms()) as at:
        parts = {path.split(".")[-2] for path in at.trained}
        assert parts == {"ln_1", "ln_2", "ln_f"}
        assert at.count() == (2 * 3 + 1) * 2 * 12


@pytest.mark.parametrize(("name", "count"), [("gpt2", 38_400), ("gpt2-medium", 100_352)])
def test_norms_of_published_sizes(name, count):
    with attach(GPT(preset(name), init="shape"), Norms()) as at:
        assert at.count() == count


def test_norms_of_a_bert_include_that_of_the_embedding():
    config = BERTConfig(vocab=40, context=16, width=12, layers=2, heads=3, head="linear", classes=2)
    with attach(BERT(config, init="shape"), Norms()) as at:
        assert "emb.ln.weight" in at.trained and at.count() == (2 * 2 + 1) * 2 * 12


def test_the_last_block_is_top_1(model):
    with attach(model, Blocks((2,))) as at:
        one = set(at.trained)
    with attach(model, TopK(k=1)) as at:
        assert one == set(at.trained)
    with attach(model, Blocks((0, 1))) as at:
        assert {path.split(".")[1] for path in at.trained} == {"0", "1"}


def test_blocks_refuse_a_number_that_is_not_there(model):
    with pytest.raises(ValueError, match="changes nothing"):
        attach(model, Blocks((7,)))


@pytest.mark.parametrize(
    ("name", "method"),
    [("full", Full()), ("top-3", TopK(k=3)), ("block-0", Blocks((0,))), ("bitfit", BitFit()),
     ("bitfit-qm", BitFit(terms="qm")), ("norms", Norms()), ("lora", LoRA(seed=4))],
)  # fmt: skip
def test_names_of_methods(name, method):
    assert method_of(name, seed=4) == method


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError):
        method_of("nonsense")


def test_rates_of_the_depths_between():
    assert rate_of("top-3") == rate_of("top-2") == TopK.lr
    assert rate_of("top-5") == rate_of("top-4") == subsets.RATES["top-4"]
    assert rate_of("full") == Full.lr and rate_of("bitfit-qm") == subsets.RATES["bitfit-qm"]
    assert rate_of("block-3") == subsets.RATES["top-1"]


def test_moved_is_the_distance_from_the_base(model):
    with attach(model, TopK(k=1)) as at:
        assert moved(at) == 0
        first, second = [p for _, p in at.trainable()][:2]
        first.data = first.data + 3 / np.sqrt(first.size)
        second.data = second.data - 4 / np.sqrt(second.size)
        assert moved(at) == pytest.approx(5)


def test_moved_counts_what_a_method_adds(model):
    with attach(model, LoRA(r=2)) as at:
        b = next(w for w in at.wrappers.values()).B
        b.data = np.full_like(b.data, 2 / np.sqrt(b.size))
        assert moved(at) == pytest.approx(2)


def test_a_colleague_trains_both_ends(model):
    with attach(model, TopK(k=1)):
        top = operations(model(ids()))
    with attach(model, Colleague(k=1)) as at:
        assert "emb.tok.weight" in at.trained
        assert len(operations(model(ids()))) > 2 * len(top)
        assert model.head.weight is model.emb.tok.weight  # the tie has held


def test_few_numbers_are_not_few_activations():
    """What the lecture stands on: biases keep more than blocks that have 17 times the numbers."""
    model, counts = GPT(CONFIG, seed=1), {}
    for name in ("top-1", "bitfit"):
        with attach(model, method_of(name)) as at:
            counts[name] = at.count(), sum(k.bytes for k in kept(model(ids())))
    assert counts["bitfit"][0] < counts["top-1"][0] / 2
    assert counts["bitfit"][1] > 1.5 * counts["top-1"][1]


def test_the_bar_does_not_change_the_gradients_above_it(model):
    found = []
    for method in (Full(), TopK(k=1)):
        with attach(model, method) as at:
            model(ids()).sum().backward()
            found.append({path: p.grad for path, p in at.trainable()})
    full, top = found
    assert all(np.array_equal(full[path], g) for path, g in top.items()) and len(top) == 16


def test_a_keys_bias_does_nothing(model):
    with no_grad():
        before = model(ids()).data
        for block in model.blocks:
            block.attn.k_proj.bias.data = Rng(3).normal(12)
        assert np.allclose(model(ids()).data, before, rtol=0, atol=1e-12)
        model.blocks[0].attn.q_proj.bias.data = Rng(4).normal(12)
        assert abs(model(ids()).data - before).max() > 1e-4


# -- the runs --------------------------------------------------------------------------------------


def test_a_probe_reads_what_is_there_and_nothing_from_noise(monkeypatch):
    """Two layers that stand in for a model's: one holds the label, one does not."""

    def states(model, prompts, targets, pool):
        texts = [int(p) for p in prompts]
        noise = Rng(len(texts), pool).normal((len(texts), 5))
        held = noise.copy()
        held[:, 0] = texts
        return {"emb": noise, "blocks.0": held}

    class Two:
        def load(self, split, n, seed):
            labels = Rng(seed, split).permutation(n) % 2
            return [type("E", (), {"prompt": str(y), "label": int(y)}) for y in labels]

    monkeypatch.setattr(subsets, "base", lambda name: None)
    monkeypatch.setattr(subsets, "get_task", lambda name: Two())
    monkeypatch.setattr(subsets, "activations", states)
    found = subsets.probe({"task": "two", "base": "none", "seed": 0, "n": 200})
    assert found["last"][1] == 100 and found["mean"][1] == 100
    assert abs(found["last"][0] - 50) < 10 and found["majority"] == 50
    assert abs(found["shuffled"][0] - 50) < 10 and found["shuffled"][1] < 90


def test_forgetting_looks_at_the_marks_and_leaves_the_base():
    model = subsets.base()
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    wanted = EXPERIMENTS["subset_forgetting"].settings(True)[0]
    found = subsets.forgetting(wanted)
    assert found["steps"] == [0, 10] and all(len(v) == 2 for v in found.values())
    assert found["moved"][0] == 0 < found["moved"][1]
    assert all(np.array_equal(p.data, before[path]) for path, p in model.named_parameters())


def test_a_step_with_remembered_states_is_timed_only_where_there_are_any():
    source = task_batches(subsets.base(), subsets.get_task("sentiment"), "train", 32, 0)
    assert subsets.step_time("full", source, 2, cached=True) is None
    quick, slow = (subsets.step_time("top-1", source, 5, cached=c) for c in (True, False))
    assert 0 < quick < slow


def test_costs_grow_with_depth():
    one, two = (subsets.cost({"method": f"top-{k}", "epochs": 2}) for k in (1, 2))
    assert two["trainable"] == 2 * one["trainable"]
    assert two["kept"] > one["kept"] and two["tape"] - one["tape"] == 12


def test_a_run_repeats_and_leaves_the_base():
    model = subsets.base()
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    wanted = EXPERIMENTS["subset_where"].settings(True)[-1]
    found = subsets.adapt(wanted)
    assert found == subsets.adapt(wanted) and found["moved"] > 0
    assert all(np.array_equal(p.data, before[path]) for path, p in model.named_parameters())


def test_rates_are_the_sweeps_choice():
    found = results("subset_rates")
    assert {n: best(found, subsets.TRIED, method=n) for n in subsets.RATES} == subsets.RATES


def test_training_a_block_lowers_the_loss():
    model = subsets.base()
    source = task_batches(model, subsets.get_task("sentiment"), "train", 16, 0)
    with attach(model, Blocks((2,))):
        first = loss_of(model, source.batch(0, 16, 0)).item()
        fit(model, source, steps=6, quiet=True)
        assert loss_of(model, source.batch(0, 16, 0)).item() < 0.7 * first
