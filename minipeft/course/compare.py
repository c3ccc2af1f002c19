"""The methods side by side on one task: score, speed of learning, size, time, memory, forgetting.

Every (method, seed) is a job of its own. Jobs run in worker processes with one BLAS thread
each, because two such processes do more than one process with two threads.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import statistics
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TextIO

from minipeft.contract import Method, attach
from minipeft.corpus.pretraining import RECIPES, rows
from minipeft.course.diagnosis import CORE_TYPE, blas, blas_advice, cores, cpu_flags
from minipeft.display.progress import Progress
from minipeft.display.table import Table
from minipeft.engine import no_grad
from minipeft.engine.blas import THREADS
from minipeft.generation.metrics import accuracy
from minipeft.generation.scoring import score_many
from minipeft.methods import get_method
from minipeft.storage.checkpoint import load_model
from minipeft.tasks import any_task
from minipeft.training.batches import TaskBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from minipeft.world.town import World

DEFAULT = (  # parameters, functions, inputs: each way to compose has its methods
    "full", "topk", "bitfit", "lora", "dora", "vera", "pissa", "qlora", "subspace",
    "adapter", "ia3", "ptuning",
)  # fmt: skip
HEADS_ALONE = ("quant", "linear_probe", "steering")  # they train a new head, and a text's has none
BASE = "base"  # the row of the frozen base model
HELD_OUT = (0.03, 128)  # megabytes of pretraining text, and the length of its rows
GENERATED = 100  # test examples of a task whose answers are generated
LEARNT, EVERY, JUDGED = 95.0, 10, 100  # percent right; looked at every so many steps, on so many
# validation examples: where all scores end near 100 it is the way there that tells methods apart

# where the default is far from the best: on remap-route it leaves one BitFit in three at 58 %
RATES = {("remap-route", "bitfit"): 1e-3}  # (task, method): see experiments/rates/runs.py

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What all jobs of a comparison share."""

    task: str = "remap-route"
    model: str = "tiny-gpt"
    path: str | None = None  # the folder of a task that reads files
    steps: int = 180  # the slowest, of seeds and methods, have learnt remap-route by then
    batch: int = 16
    n: int | None = None  # training examples; None is what the task gives
    test: int | None = None  # test examples; None is all that the task gives, or GENERATED


def compare(
    methods: Sequence[str] = DEFAULT,
    plan: Plan | None = None,
    *,
    seeds: int = 3,
    workers: int = 0,
    quiet: bool = False,
    out: TextIO | None = None,
) -> list[Row]:
    """Fine-tune the base on a task with every method and seed; one row each, the base first.

    workers  processes to share the work; 0 does it here. A script that asks for workers must
             call this under `if __name__ == "__main__":`, as multiprocessing demands
    Returns  rows of method, trainable, percent, score_mean, score_std (0-100, test split, over
             the seeds: each draws its own training examples), steps_to_95 (after so many steps
             the middle seed has 95 % of 100 validation examples right; None if it never has, and
             for the base and where texts are generated), each (scores and steps_to_95 seed by
             seed), step_seconds (the median of a run, the mean of the seeds), peak_bytes
             (tracemalloc's peak in one extra untimed step, weights included; of the base in a
             forward pass) and forgetting (what a token of held-out pretraining text costs more
             than before, in nats; None where the model is no language model)
    """
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    plan = plan or Plan()
    any_task(plan.task, plan.path)
    names = list(dict.fromkeys(methods))
    for name in names:
        get_method(name)
    jobs = [(BASE, 0), *[(name, seed) for seed in range(seeds) for name in names]]
    done: dict[tuple[str, int], Row] = {}
    show = Progress("comparing", len(jobs), out=out, quiet=quiet)
    for job, result in _results(plan, jobs, workers):
        done[job] = result
        show.update(len(done), f"{job[0]}, seed {job[1]}")
    show.done()
    base = done[BASE, 0]
    return [_row(BASE, [base], base)] + [
        _row(name, [done[name, seed] for seed in range(seeds)], base) for name in names
    ]


def worker_settings() -> dict[str, str]:
    """The environment of a worker: one BLAS thread, and AVX-512 kernels that were overlooked."""
    settings = dict.fromkeys(THREADS, "1")
    if blas_advice(blas()["core"], cpu_flags()) and not os.environ.keys() & CORE_TYPE.keys():
        settings |= CORE_TYPE
    return settings


def default_workers() -> int:
    """Two, where there are two cores."""
    return min(2, cores())


def _results(
    plan: Plan, jobs: list[tuple[str, int]], workers: int
) -> Iterator[tuple[tuple[str, int], Row]]:
    """(job, its result), as they are ready."""
    if not workers:
        for job in jobs:
            yield job, run(plan, *job)
        return
    spawn = multiprocessing.get_context("spawn")  # a fresh process reads its settings anew
    with (
        _environment(worker_settings()),
        ProcessPoolExecutor(workers, spawn, initializer=_die_quietly) as pool,
    ):
        try:
            with _deaf():
                waiting = {pool.submit(run, plan, *job): job for job in jobs}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started inside hear no Ctrl-C while they load, until `_die_quietly`."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what is heard
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _die_quietly() -> None:
    """Let Ctrl-C end a worker without a traceback; the parent tells of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@lru_cache(maxsize=1)
def _bench(plan: Plan) -> tuple[Any, Any, Any]:
    """The model, the task and held-out text, or None: made once in each process."""
    task = any_task(plan.task, plan.path)
    model, recipe = _model(plan, task), RECIPES["tiny-gpt"]
    held = None
    if task.kind != "images" and model.config.head == "lm":  # forgetting is told of these alone
        held = rows(model.tokenizer, World(recipe.world), recipe.seed, "validation", *HELD_OUT)
    return model, task, held


def _model(plan: Plan, task: Any) -> Any:
    """The base; for pictures with a new head, which every method trains."""
    if task.kind != "images":
        return load_model(plan.model)
    return load_model(plan.model, head="linear", classes=len(task.classes))


def run(plan: Plan, name: str, seed: int) -> Row:
    """One job: fine-tune with a method, or measure the base as it is."""
    model, task, held = _bench(plan)
    source = TaskBatches.of(model, task.load("train", n=plan.n, seed=seed))
    if name == BASE:
        return _measure(plan, model, task, held) | {
            "trainable": 0, "total": model.num_parameters(), "step_seconds": 0.0,
            "peak_bytes": _peak(plan, None, task, source),
        }  # fmt: skip
    method = _method(name, seed)
    peak = _peak(plan, method, task, source) if seed == 0 else 0
    with attach(model, method) as at:
        history = fit(
            model, source, steps=plan.steps, lr=RATES.get((plan.task, name)), batch=plan.batch,
            seed=seed, quiet=True, evaluation=judge(task),
        )  # fmt: skip
        return _measure(plan, model, task, held) | {
            "trainable": at.count(), "step_seconds": statistics.median(history.seconds),
            "peak_bytes": peak, "steps_to_95": learnt(history.evaluations),
        }  # fmt: skip


def _method(name: str, seed: int) -> Method:
    """A method with its default settings; what it draws, it draws from the seed."""
    kind = get_method(name)
    seeded = any(field.name == "seed" for field in fields(kind))
    return kind.from_fields({"seed": seed} if seeded else {})


def judge(task: Any) -> Evaluation | None:
    """What tells during training how many validation examples are right; None for generation.

    It looks until enough are right, and tells from then on what it saw last.
    """
    if task.kind == "generation":
        return None
    if task.kind == "images":
        return Evaluation(lambda model: evaluate(model, task, n=JUDGED), every=EVERY)
    examples = task.load("validation", n=JUDGED)
    questions, labels = [(e.prompt, e.options) for e in examples], [e.label for e in examples]

    enough: list[float] = []

    def judge(model: Any) -> dict[str, float]:
        if not enough:
            scores = score_many(model, questions)
            right = accuracy([s.index(max(s)) for s in scores], labels)
            if right < LEARNT:
                return {"accuracy": right}
            enough.append(right)
        return {"accuracy": enough[0]}

    return Evaluation(judge, every=EVERY)


def learnt(evaluations: list[dict[str, float]]) -> int | None:
    """The first step at which LEARNT percent were right."""
    return next((int(e["step"]) for e in evaluations if e["accuracy"] >= LEARNT), None)


def _measure(plan: Plan, model: Any, task: Any, held: Any) -> Row:
    n = plan.test or (GENERATED if task.kind == "generation" else None)
    return {
        "score": evaluate(model, task, "test", n=n)[task.metric],
        "held_out": mean_loss(model, held, 32) if held else None,
    }


def _peak(plan: Plan, method: Method | None, task: Any, source: Any) -> int:
    """Peak bytes of one step, or of a forward pass where nothing trains; weights included."""
    gc.collect()
    tracemalloc.start()
    try:
        model = _model(plan, task)
        if method is not None:
            attach(model, method)
        gc.collect()
        tracemalloc.reset_peak()
        if method is None:
            with no_grad():
                loss_of(model, source.batch(0, plan.batch, 0))
        else:
            fit(model, source, steps=1, batch=plan.batch, quiet=True)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _row(name: str, results: list[Row], base: Row) -> Row:
    """What the seeds of a method gave, in one row."""
    scores = [r["score"] for r in results]
    reached = [r.get("steps_to_95") for r in results]
    middle = statistics.median(math.inf if n is None else n for n in reached)
    kept = base["held_out"]
    return {
        "method": name,
        "trainable": results[0]["trainable"],
        "percent": 100 * results[0]["trainable"] / base["total"],
        "score_mean": statistics.fmean(scores),
        "score_std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "steps_to_95": middle if math.isfinite(middle) else None,
        "each": {"scores": scores, "steps_to_95": reached},
        "step_seconds": statistics.fmean(r["step_seconds"] for r in results),
        "peak_bytes": results[0]["peak_bytes"],
        "forgetting": None
        if kept is None
        else statistics.fmean(r["held_out"] for r in results) - kept,
    }


def _share(percent: float) -> str:
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"


def headline(rows: Sequence[Row], plan: Plan) -> str:
    """What the rows say, in one sentence: the title of their figure."""
    trained = [row for row in rows if row["trainable"]]
    if any(row["steps_to_95"] is None for row in trained):
        best = max(trained, key=lambda row: row["score_mean"])
        start = f"{best['method']} does best on {plan.task}"
    else:
        best = min(trained, key=lambda row: row["trainable"])
        start = f"All {len(trained)} methods learn {plan.task}, {best['method']}"
        start = start if len(trained) > 1 else f"{best['method']} learns {plan.task}"
    return f"{start} with {_share(best['percent'])} % of the parameters"


def as_text(rows: Sequence[Row], metric: str = "score") -> str:
    """The rows as an aligned table of at most 80 columns; the base has dashes where it trains."""
    speed = any(row["steps_to_95"] is not None for row in rows)
    names = ("method", "trainable", "%", metric, *["to 95 %"] * speed, "s/step", "peak MB",
             "forgets")  # fmt: skip
    cells = []
    for row in rows:
        trained, steps = row["trainable"] > 0, row["steps_to_95"]
        learnt = "never" if steps is None else f"{steps:.0f}"
        deviation = f" ± {row['score_std']:4.1f}" if trained else " " * 7
        cells.append((
            row["method"],
            f"{row['trainable']:,}",
            f"{row['percent']:.2f}",
            f"{row['score_mean']:.1f}{deviation}",
            *[learnt if trained else "-"] * speed,
            f"{row['step_seconds']:.3f}" if trained else "-",
            f"{row['peak_bytes'] / 1e6:.1f}",
            "-" if not trained or row["forgetting"] is None else f"{row['forgetting']:+.3f}",
        ))  # fmt: skip
    return Table(names, cells, "lr").text()
