"""The comparison: what its rows say, that they are measured, and that workers change nothing."""

import math
import os
import shutil
import statistics
import tracemalloc

import numpy as np
import pytest

from minipeft import METHODS, attach, evaluate, fit, load_model, no_grad
from minipeft.corpus.pretraining import RECIPES
from minipeft.corpus.pretraining import rows as pretraining_rows
from minipeft.course.compare import (
    BASE,
    DEFAULT,
    EVERY,
    HELD_OUT,
    JUDGED,
    Plan,
    _bench,
    _environment,
    _row,
    as_text,
    compare,
    headline,
    judge,
    learnt,
    run,
    worker_settings,
)
from minipeft.methods import Full, TopK
from minipeft.models import GPT, GPTConfig, ViT, ViTConfig
from minipeft.storage.checkpoint import save_model
from minipeft.storage.files import data_dir
from minipeft.tasks import get_task
from minipeft.training.batches import TaskBatches
from minipeft.training.evaluation import mean_loss
from minipeft.training.looks import History
from minipeft.training.step import loss_of
from minipeft.world.town import World

KEYS = {"method", "trainable", "percent", "score_mean", "score_std", "steps_to_95", "each",
        "step_seconds", "peak_bytes", "forgetting"}  # fmt: skip
SMALL = Plan(steps=2, batch=4, n=16, test=40)


@pytest.fixture(scope="module", autouse=True)
def small_base(tmp_path_factory):
    """A tiny untrained model in the place of the shipped one."""
    folder, shipped = tmp_path_factory.mktemp("data"), data_dir()
    (folder / "models").mkdir()
    shutil.copy(shipped / "tokenizer.json", folder)
    config = GPTConfig(vocab=2000, context=160, width=8, layers=2, heads=2)
    save_model(GPT(config), folder / "models" / "tiny-gpt.safetensors")
    patch = pytest.MonkeyPatch()
    patch.setenv("MINIPEFT_DATA", str(folder))
    _bench.cache_clear()
    yield folder
    patch.undo()
    _bench.cache_clear()


@pytest.fixture(scope="module")
def rows(small_base):
    return compare(["full", "lora"], SMALL, seeds=2, quiet=True)


def test_rows_hold_what_is_promised(rows):
    assert [r["method"] for r in rows] == [BASE, "full", "lora"]
    assert all(set(r) == KEYS for r in rows)
    base, full, lora = rows
    model = load_model("tiny-gpt")
    assert (base["trainable"], base["forgetting"], base["score_std"]) == (0, 0.0, 0.0)
    assert full["trainable"] == model.num_parameters() and full["percent"] == 100.0
    with attach(model, METHODS["lora"]()) as at:
        assert lora["trainable"] == at.count()
        assert lora["percent"] == 100 * at.count() / full["trainable"]
    assert base["step_seconds"] == 0


def test_scores_are_those_of_the_test_split_over_the_seeds(rows):
    scores, losses = [], []
    held = _bench(SMALL)[2]
    for seed in range(2):
        model, task = load_model("tiny-gpt"), get_task("remap-route")
        attach(model, METHODS["lora"](seed=seed))
        examples = task.load("train", n=16, seed=seed)
        source = TaskBatches(model, examples)
        fit(model, source, steps=2, batch=4, seed=seed, quiet=True)
        scores.append(evaluate(model, task, "test", n=40)["accuracy"])
        losses.append(mean_loss(model, held, 32))
    assert rows[2]["each"]["scores"] == pytest.approx(scores)
    assert rows[2]["score_mean"] == pytest.approx(statistics.mean(scores))
    assert rows[2]["score_std"] == pytest.approx(statistics.stdev(scores))
    base = mean_loss(load_model("tiny-gpt"), held, 32)
    assert rows[2]["forgetting"] == pytest.approx(statistics.mean(losses) - base, abs=1e-9)


def test_a_row_holds_the_statistics_of_its_seeds():
    """Three seeds that share nothing: the mean, the sample deviation, and what belongs to one."""
    results = [
        {"score": score, "held_out": held, "trainable": 50, "step_seconds": seconds,
         "peak_bytes": peak}
        for score, held, seconds, peak in ((60.0, 2.0, 1.0, 700), (50.0, 2.5, 2.0, 0),
                                           (100.0, 4.5, 6.0, 0))
    ]  # fmt: skip
    row = _row("lora", results, {"total": 400, "held_out": 2.75})
    assert row["score_mean"] == pytest.approx(70)  # the median is 60
    assert row["score_std"] == pytest.approx(math.sqrt((10**2 + 20**2 + 30**2) / 2))  # of n - 1
    assert row["forgetting"] == pytest.approx(3.0 - 2.75)
    assert (row["trainable"], row["percent"]) == (50, 12.5)
    assert row["peak_bytes"] == 700  # of the seed that measured it
    assert row["step_seconds"] == pytest.approx(3.0)


def test_a_method_that_is_named_twice_is_run_once(monkeypatch):
    asked = []

    def results(plan, jobs, workers):
        asked.extend(jobs)
        row = {"score": 1.0, "held_out": 2.0, "trainable": 3, "total": 6, "step_seconds": 0.5,
               "peak_bytes": 7}  # fmt: skip
        return ((job, row) for job in jobs)

    monkeypatch.setattr("minipeft.course.compare._results", results)
    got = compare(["lora", "full", "lora"], SMALL, seeds=2, quiet=True)
    assert [row["method"] for row in got] == [BASE, "lora", "full"]
    assert asked == [(BASE, 0), ("lora", 0), ("full", 0), ("lora", 1), ("full", 1)]


def test_forgetting_is_measured_on_text_that_pretraining_never_saw():
    model, _, held = _bench(SMALL)
    recipe = RECIPES["tiny-gpt"]
    world = World(recipe.world)
    wanted, seen = (
        pretraining_rows(model.tokenizer, world, recipe.seed, split, *HELD_OUT).rows.tolist()
        for split in ("validation", "train")
    )
    assert held.rows.tolist() == wanted and not any(row in seen for row in wanted)


def test_a_step_s_time_is_the_median(monkeypatch):
    told = History([1.0] * 3, [0.1] * 3, [0.5, 9.0, 0.25])
    monkeypatch.setattr("minipeft.course.compare.fit", lambda *_, **__: told)
    assert run(SMALL, "lora", 1)["step_seconds"] == 0.5


def test_what_isjudged_on_the_way_is_a_part_of_the_validation_split():
    model, task = load_model("tiny-gpt"), get_task("remap-route")
    whole = evaluate(model, task, "validation", n=JUDGED)["accuracy"]
    assert judge(task).of(model) == {"accuracy": whole}
    assert judge(get_task("unscramble")) is None  # texts would have to be generated


def test_a_task_of_generation_is_compared_without_looks_on_the_way():
    row = run(Plan(task="unscramble", steps=2, batch=2, n=8, test=2), "lora", 1)
    assert row["steps_to_95"] is None and row["trainable"] > 0


def test_once_enough_are_right_nobody_looks_again(monkeypatch):
    rights = iter([40.0, 96.0])
    monkeypatch.setattr("minipeft.course.compare.accuracy", lambda *_: next(rights))
    ask = judge(get_task("remap-route")).of
    model = load_model("tiny-gpt")
    assert [ask(model)["accuracy"] for _ in range(4)] == [40.0, 96.0, 96.0, 96.0]


def testlearnt_is_the_first_step_at_which_95_percent_are_right():
    seen = [{"step": 10.0, "accuracy": 94.0}, {"step": 20.0, "accuracy": 95.0},
            {"step": 30.0, "accuracy": 90.0}, {"step": 40.0, "accuracy": 100.0}]  # fmt: skip
    assert learnt(seen) == 20 and learnt(seen[:1]) is None and learnt([]) is None


@pytest.mark.parametrize(
    ("reached", "middle"),
    [([30, None, 50], 50), ([30, 20, 90], 30), ([None, None, 10], None), ([40, 60], 50),
     ([40, None], None), ([None], None)],
)  # fmt: skip
def test_the_steps_of_a_row_are_those_of_the_middle_seed(reached, middle):
    one = {"trainable": 1, "score": 50.0, "step_seconds": 1.0, "peak_bytes": 1, "held_out": 1.0}
    row = _row("lora", [one | {"steps_to_95": n} for n in reached], one | {"total": 10})
    assert row["steps_to_95"] == middle and row["each"]["steps_to_95"] == reached


def test_a_task_that_islearnt_at_once_islearnt_at_the_first_look(monkeypatch):
    monkeypatch.setattr("minipeft.course.compare.LEARNT", 0.0)
    plan = Plan(steps=EVERY + 2, batch=2, n=16, test=10)
    base, lora = compare(["lora"], plan, seeds=1, quiet=True)
    assert lora["steps_to_95"] == EVERY and base["steps_to_95"] is None
    assert "to 95 %" in as_text([base, lora]).splitlines()[0]


def test_pictures_are_compared_with_a_new_head():
    config = ViTConfig(image=16, patch=4, channels=1, width=8, layers=2, heads=2, classes=3)
    save_model(ViT(config), data_dir() / "models" / "small-vit.safetensors")
    plan = Plan("textures", "small-vit", steps=EVERY, batch=4, n=16, test=20)
    base, lora = compare(["lora"], plan, seeds=1, quiet=True)
    assert base["forgetting"] is None and lora["forgetting"] is None  # it reads no text
    assert lora["each"]["scores"][0] in range(0, 101, 5)
    table = as_text([base, lora]).splitlines()
    assert table[-1].endswith(" -") and len(set(map(len, table))) == 1


def test_forgetting_is_measured_against_the_base(monkeypatch):
    monkeypatch.setattr(Full, "lr", 0.3)
    monkeypatch.setattr(TopK, "lr", 0.0)
    base, broken, still = compare(["full", "topk"], SMALL, seeds=1, quiet=True)
    assert broken["forgetting"] > 0.05
    assert still["forgetting"] == 0.0 and still["score_mean"] == base["score_mean"]


def test_the_peak_counts_weights_gradients_and_optimizer(rows):
    base, full, lora = (r["peak_bytes"] for r in rows)
    model, task, _ = _bench(SMALL)
    weights = 4 * model.num_parameters()
    source = TaskBatches(model, task.load("train", n=16))
    tracemalloc.start()
    with no_grad():
        loss_of(model, source.batch(0, 4, 0))
    forward = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert forward + weights < base < lora < full
    assert full - lora > 3 * weights  # gradients and two moments; LoRA has almost none


def test_workers_give_the_same_rows(rows):
    again = compare(["full", "lora"], SMALL, seeds=2, workers=2, quiet=True)
    for a, b in zip(rows, again, strict=True):
        assert a["trainable"] == b["trainable"]
        np.testing.assert_allclose(a["forgetting"], b["forgetting"], atol=1e-4)
        np.testing.assert_allclose(a["score_mean"], b["score_mean"], atol=3)  # one example: 2.5


def test_a_job_that_fails_ends_the_comparison():
    plan = Plan(steps=1, n=20_000)  # more examples than the task has
    with pytest.raises(ValueError, match="n must be an integer from 1 to 10000"):
        compare(["full"], plan, workers=1, quiet=True)


def test_wrong_names_are_told_before_any_work():
    with pytest.raises(ValueError, match="no method 'lroa'; nearest is 'lora'"):
        compare(["lroa"], SMALL)
    with pytest.raises(ValueError, match="no task"):
        compare(["lora"], Plan(task="sentimant"))
    with pytest.raises(ValueError, match="seeds must be >= 1"):
        compare(["lora"], SMALL, seeds=0)


def test_workers_have_one_thread_and_a_users_choice_of_kernels_stands(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    settings = worker_settings()
    assert settings["OPENBLAS_NUM_THREADS"] == "1" and "OPENBLAS_CORETYPE" not in settings


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("MINIPEFT_A", "old")
    with _environment({"MINIPEFT_A": "new", "MINIPEFT_B": "new"}):
        assert os.environ["MINIPEFT_A"] == os.environ["MINIPEFT_B"] == "new"
    assert os.environ["MINIPEFT_A"] == "old" and "MINIPEFT_B" not in os.environ


def test_the_table_is_aligned_and_fits_a_terminal(rows):
    longest = max(METHODS, key=len)
    wide = rows[1] | {"method": longest, "score_mean": 100.0, "score_std": 10.0,
                      "steps_to_95": 150, "peak_bytes": 10**9, "step_seconds": 12.345,
                      "forgetting": -10.0}  # fmt: skip
    lines = as_text([*rows, wide], "accuracy").splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 80
    kept = as_text([rows[0], wide | {"forgetting": 0.25}])
    assert " -10.000" in lines[-1] and " +0.250" in kept  # a sign, whichever it is
    assert "100.0 ± 10.0      150" in lines[-1] and " -  " in lines[1]
    assert "never" in lines[2]  # two steps are not enough


def test_without_steps_the_table_has_no_column_for_them(rows):
    assert "95" not in as_text(rows).splitlines()[0]


def test_the_headline_tells_what_the_rows_say():
    def row(method, trainable, score, steps):
        return {"method": method, "trainable": trainable, "percent": trainable / 10,
                "score_mean": score, "steps_to_95": steps}  # fmt: skip

    base = row("base", 0, 1.0, None)
    full, lora = row("full", 1000, 99.0, 40), row("lora", 20, 98.0, 60)
    assert headline([base, full, lora], Plan()) == (
        "All 2 methods learn remap-route, lora with 2 % of the parameters"
    )
    assert headline([base, full], Plan()) == "full learns remap-route with 100 % of the parameters"
    late = lora | {"steps_to_95": None}
    assert headline([base, full, late], Plan(task="nli")).startswith("full does best on nli with")


def test_the_default_set_is_about_ten_methods():
    assert set(DEFAULT) <= set(METHODS) and 10 <= len(DEFAULT) <= 12
    ways = {method.compose for method in METHODS.values()}
    assert {METHODS[name].compose for name in DEFAULT} == ways == {"parameter", "function", "input"}
