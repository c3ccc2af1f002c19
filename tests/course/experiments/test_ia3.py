"""The measures behind the lecture on IA3, its claims, and what the student types there."""

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.course.experiments import EXPERIMENTS, results
from minipeft.course.experiments.ia3 import claims, runs, settings
from minipeft.course.solutions import ia3 as solutions
from minipeft.engine import Tensor, no_grad
from minipeft.ledger import predict
from minipeft.methods import IA3
from minipeft.models import GPT, GPTConfig
from minipeft.tasks import Example, get_task
from minipeft.training.tfew import OptionBatches, TFew
from tests.course.experiments.test_subsets import CONFIG

NAMES = [name for name in EXPERIMENTS if name.startswith("ia3_")]


def test_there_are_seven():
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_run_repeats_and_leaves_the_base(name):
    model = runs.base(EXPERIMENTS[name].bases[0])
    before = {path: p.data.copy() for path, p in model.named_parameters()}
    wanted = EXPERIMENTS[name].settings(True)[-1]
    found = EXPERIMENTS[name].run(wanted)
    runs.pretrained.cache_clear()
    assert found == EXPERIMENTS[name].run(wanted)
    assert all(np.array_equal(p.data, before[path]) for path, p in model.named_parameters())


def test_options_are_ranked_by_the_sum_and_per_token(monkeypatch):
    """By the sum the short option wins, per token the long one, which is right."""
    model = runs.base()
    short, long = " great", " great great great"
    tokens = [len(model.tokenizer.encode(o)) for o in (short, long)]
    assert tokens == [1, 3]
    monkeypatch.setattr(runs, "score_many", lambda m, asked: [[-2.0, -3.0] for _ in asked])
    found = runs.ranked(model, [Example("x", long, (short, long), 1)] * 2)
    assert (found["sum"], found["mean"], found["accuracy"]) == (0, 100, 100)
    assert (found["shorter"], found["shorter_mean"]) == (100, 0)


def test_the_examples_stand_before_the_question(monkeypatch):
    seen = []

    def score_many(model, asked):
        seen.extend(prompt for prompt, _ in asked)
        return [[0.0, 1.0] for _ in asked]

    monkeypatch.setattr(runs, "score_many", score_many)
    one, two = (Example(f"{n} is", f" {n}", (" a", " b"), 1) for n in "ab")
    runs.ranked(runs.base(), [two], [one])
    assert seen == ["a is a\nb is"]


class Known:
    """Results with one accuracy a rate."""

    def __init__(self, accuracy):
        self.accuracy = accuracy

    def mean(self, key, lr, **where):
        assert key == "accuracy"
        return self.accuracy[lr]


def test_the_smallest_rate_within_noise_is_taken():
    rates = (1e-3, 3e-3, 1e-2)
    assert runs.chosen(Known({1e-3: 80.0, 3e-3: 89.0, 1e-2: 90.0}), rates) == 3e-3
    assert runs.chosen(Known({1e-3: 80.0, 3e-3: 88.0, 1e-2: 90.0}), rates) == 1e-2


def test_rates_are_the_brackets_choice():
    kin = results("ia3_kin_rates")
    for name, rates in settings.KIN.items():
        assert runs.chosen(kin, rates, method=name) == settings.RATE_OF_KIN[name]
    for loss in settings.LOSSES:
        found = results("ia3_loss_rates")
        assert runs.chosen(found, settings.LOSS_RATES, loss=loss) == settings.BEST
    recipe = results("ia3_recipe_rates")
    assert runs.chosen(recipe, settings.RECIPE_RATES, arm=settings.ARMS[1]) == settings.RECIPE
    mixed = {lr: recipe.mean("accuracy", mixed_lr=lr) for lr in settings.MIXED_RATES}
    assert min(lr for lr in mixed if mixed[lr] > max(mixed.values()) - runs.DRAW) == settings.MIXED


def test_vectors_come_from_the_mixture_of_the_other_fold(monkeypatch):
    asked = []

    class Spy(OptionBatches):
        def __init__(self, model, task, *more, **named):
            asked.append(task.name)
            super().__init__(model, task, *more, **named)

    def ranked(model, test, before=()):
        at = model.attached()[-1]
        seen.append({path: p.data.copy() for path, p in at.trainable()})
        return {"accuracy": 0.0}

    seen = []
    monkeypatch.setattr(runs, "OptionBatches", Spy)
    monkeypatch.setattr(runs, "ranked", ranked)
    runs.pretrained.cache_clear()
    s = {"task": "acceptability", "arm": settings.ARMS[2], "lr": 1e-2, "seed": 0, "steps": 1,
         "mixed": 2, "mixed_lr": 1e-2, "split": "test", "test": 4}  # fmt: skip
    found = runs.few(s)
    assert asked == [*settings.FOLDS[1], "acceptability"] and set(found) == {"before", "accuracy"}
    vectors = runs.pretrained(1, 0, 2, 1e-2)
    assert max(abs(v - 1).max() for v in vectors.values()) > 1e-4
    assert all(np.array_equal(seen[0][path], v) for path, v in vectors.items())
    runs.pretrained.cache_clear()


def test_folds_share_no_task():
    assert not set(settings.FOLDS[0]) & set(settings.FOLDS[1]) and len(set(settings.TASKS)) == 8


def test_with_all_elements_at_one_again_it_is_the_base(monkeypatch):
    monkeypatch.setattr(runs, "SHARES", (1.0,))
    found = runs.vectors({"task": "remap-route", "lr": 0.3, "seed": 0, "steps": 5, "test": 20})
    assert found["largest"] == found["smallest"] == found["random"] == [found["base"]]
    assert all(len(v) == 6 and min(v) > 0 for v in found["apart"].values())


def test_the_largest_are_the_farthest_from_one(monkeypatch):
    """With one element far away, setting back the share that holds it gives the base again."""
    monkeypatch.setattr(runs, "SHARES", (1 / 3456,))
    seen = []

    def score(model, test, before=()):
        vectors = [p.data for path, p in model.named_parameters() if path.endswith(".l")]
        seen.append(np.concatenate(vectors) if vectors else np.ones(1))
        return {"accuracy": 0.0}

    monkeypatch.setattr(runs, "ranked", score)
    monkeypatch.setattr(runs, "DRAWS", 1)
    runs.vectors({"task": "remap-route", "lr": 0.1, "seed": 0, "steps": 3, "test": 4})
    whole, largest, smallest = (abs(v - 1) for v in seen[1:4])
    assert largest[whole.argmax()] == 0 and (largest != whole).sum() == 1
    assert smallest[whole.argmax()] > 0
    k_proj = seen[5]
    assert (k_proj == 1).sum() >= 6 * 96


def test_flops_grow_with_the_examples_in_the_prompt():
    asked, trained = claims.flops("sentiment", steps=10, batch=4)
    costs = list(asked.values())
    assert list(asked) == list(settings.SHOTS) and sorted(set(costs)) == costs
    assert 1.5 < trained / (40 * asked[0]) < 3
    assert claims.flops("sentiment", steps=20, batch=4)[1] == 2 * trained


@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_the_law_of_flops_is_the_ledgers(kind):
    with attach(runs.base(), IA3()):
        for length in (9, 100):
            wanted = predict(runs.base(), batch=1, length=length).flops[kind]
            assert np.polyval(claims.law(kind), length) == pytest.approx(wanted, rel=1e-9)


def test_a_colleagues_vectors_begin_at_zero():
    with attach(GPT(CONFIG, seed=1), runs.Colleague()) as at:
        assert all((p.data == 0).all() for _, p in at.trainable())


def test_the_claims_can_be_measured():
    found = {claim.text: claim.decision(claim.measure()) for claim in claims.CLAIMS}
    assert len(found) == len(claims.CLAIMS)
    assert sum(v == "cannot be shown" for v in found.values()) == len(claims.RAFT) - 1


# -- what the student types ------------------------------------------------------------------------


def test_the_solution_of_attention_is_the_librarys():
    model = GPT(GPTConfig(vocab=40, context=16, width=12, layers=1, heads=3), seed=1,
                dtype=np.float64)  # fmt: skip
    x = Rng(0).normal((1, 5, 12))

    def split(a):
        return a.reshape(-1, 3, 4).transpose(1, 0, 2)

    with attach(model, IA3()) as at, no_grad():
        for i, (_, p) in enumerate(at.trainable()):
            p.data = Rng(1, i).normal(p.shape)
        attn = model.blocks[0].attn
        parts = (attn.q_proj, attn.k_proj.base, attn.v_proj.base)
        q, k, v = (split(part(Tensor(x)).data[0]) for part in parts)
        l_k, l_v = split(attn.k_proj.l.data), split(attn.v_proj.l.data)
        heads = solutions.ia3_attention(q, k, v, l_k, l_v)
        y = attn.o_proj(Tensor(heads.transpose(1, 0, 2).reshape(1, 5, 12))).data
        np.testing.assert_allclose(y, attn(Tensor(x)).data, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("path", "reads"), [("attn.v_proj", False), ("mlp.fc_out", True)])
def test_the_solution_of_the_merge_is_the_librarys(path, reads):
    model = GPT(CONFIG, seed=1, dtype=np.float64)
    at = attach(model, IA3())
    for i, (_, p) in enumerate(at.trainable()):
        p.data = Rng(1, i).normal(p.shape)
    wrapped = model.blocks[1].get(path)
    wrapped.base.bias.data = Rng(2).normal(wrapped.base.bias.shape)
    mine = solutions.ia3_merge(
        wrapped.base.weight.data, wrapped.base.bias.data, wrapped.l.data, reads
    )
    at.merge()
    plain = model.blocks[1].get(path)
    np.testing.assert_allclose(mine[0], plain.weight.data, rtol=1e-12)
    np.testing.assert_allclose(mine[1], plain.bias.data, rtol=1e-12)


def test_the_solution_of_the_losses_is_the_librarys():
    model = runs.base(runs.SMALL)
    example = get_task("choice").load("train", 1)[0]
    source = OptionBatches(model, get_task("choice"), n=1)
    batch = source.collate([0])
    said = []
    with no_grad():
        logits = [model(np.array([ids])).data[0].astype(np.float64) for ids, _ in source.rows[0]]
        for row, (_, labels) in zip(logits, source.rows[0], strict=True):
            at = [t for t, y in enumerate(labels) if y >= 0]
            row = row - np.log(np.exp(row).sum(-1, keepdims=True))
            said.append(np.array([row[t, labels[t]] for t in at]))
        lm, ul, ln = solutions.tfew_losses(said, example.label)
        for loss, mine in ((TFew(0, 0), lm), (TFew(1, 0), lm + ul), (TFew(0, 1), lm + ln)):
            assert loss(model, batch).item() == pytest.approx(mine, rel=1e-5)
