"""The methods side by side on one task: score, size, time, memory and forgetting.

Every (method, seed) is a job of its own. Jobs run in worker processes with one BLAS thread
each, because two such processes do more than one process with two threads.
"""

from __future__ import annotations

import gc
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

from minipeft.batches import TaskBatches
from minipeft.blas import THREADS
from minipeft.checkpoint import load_model
from minipeft.doctor import CORE_TYPE, blas, blas_advice, cores, cpu_flags
from minipeft.engine import no_grad
from minipeft.methods import Method, attach, get_method
from minipeft.pretrain import RECIPES, rows
from minipeft.progress import Progress
from minipeft.tasks import get_task
from minipeft.tasks.world import World
from minipeft.train import evaluate, fit, loss_of, mean_loss

DEFAULT = (
    "full", "topk", "bitfit", "lora", "dora", "vera", "pissa", "adalora", "qlora", "subspace",
)  # fmt: skip
BASE = "base"  # the row of the frozen base model
HELD_OUT = (0.03, 128)  # megabytes of pretraining text, and the length of its rows
GENERATED = 100  # test examples of a task whose answers are generated

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What all jobs of a comparison share."""

    task: str = "sentiment"
    model: str = "tiny-gpt"
    path: str | None = None  # the folder of a task that reads files
    steps: int = 150
    batch: int = 16
    n: int | None = 1000  # training examples
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
             the seeds: each draws its own training examples), step_seconds (median),
             peak_bytes (tracemalloc's peak in one extra untimed step, weights included; of the
             base in a forward pass) and forgetting (what a token of held-out pretraining text
             costs more than before, in nats)
    """
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    plan = plan or Plan()
    get_task(plan.task, plan.path)
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
    """The model, the task and the held-out text: made once in each process."""
    model = load_model(plan.model)
    recipe = RECIPES["tiny-gpt"]
    held = rows(model.tokenizer, World(recipe.world), recipe.seed, "validation", *HELD_OUT)
    return model, get_task(plan.task, plan.path), held


def run(plan: Plan, name: str, seed: int) -> Row:
    """One job: fine-tune with a method, or measure the base as it is."""
    model, task, held = _bench(plan)
    examples = task.load("train", n=plan.n, seed=seed)
    source = TaskBatches.of(model, examples)
    if name == BASE:
        return _measure(plan, model, task, held) | {
            "trainable": 0, "total": model.num_parameters(), "step_seconds": 0.0,
            "peak_bytes": _peak(plan, None, source),
        }  # fmt: skip
    method = _method(name, seed)
    peak = _peak(plan, method, source) if seed == 0 else 0
    with attach(model, method) as at:
        history = fit(model, source, steps=plan.steps, batch=plan.batch, seed=seed, quiet=True)
        return _measure(plan, model, task, held) | {
            "trainable": at.count(), "step_seconds": statistics.median(history.seconds),
            "peak_bytes": peak,
        }  # fmt: skip


def _method(name: str, seed: int) -> Method:
    """A method with its default settings; what it draws, it draws from the seed."""
    kind = get_method(name)
    seeded = any(field.name == "seed" for field in fields(kind))
    return kind.from_fields({"seed": seed} if seeded else {})


def _measure(plan: Plan, model: Any, task: Any, held: Any) -> Row:
    n = plan.test or (GENERATED if task.kind == "generation" else None)
    return {
        "score": evaluate(model, task, "test", n=n)[task.metric],
        "held_out": mean_loss(model, held, 32),
    }


def _peak(plan: Plan, method: Method | None, source: TaskBatches) -> int:
    """Peak bytes of one step, or of a forward pass where nothing trains; weights included."""
    gc.collect()
    tracemalloc.start()
    try:
        model = load_model(plan.model)
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
    return {
        "method": name,
        "trainable": results[0]["trainable"],
        "percent": 100 * results[0]["trainable"] / base["total"],
        "score_mean": statistics.fmean(scores),
        "score_std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "step_seconds": statistics.fmean(r["step_seconds"] for r in results),
        "peak_bytes": results[0]["peak_bytes"],
        "forgetting": statistics.fmean(r["held_out"] for r in results) - base["held_out"],
    }


def as_text(rows: Sequence[Row], metric: str = "score") -> str:
    """The rows as an aligned table of at most 80 columns."""
    head = ("method", "trainable", "%", metric, "s/step", "peak MB", "forgetting")
    lines = [head]
    for row in rows:
        trained = row["trainable"] > 0
        deviation = f" ± {row['score_std']:4.1f}" if trained else " " * 7
        lines.append((
            row["method"],
            f"{row['trainable']:,}",
            f"{row['percent']:.2f}",
            f"{row['score_mean']:.1f}{deviation}",
            f"{row['step_seconds']:.3f}" if trained else "-",
            f"{row['peak_bytes'] / 1e6:.1f}",
            f"{row['forgetting']:+.3f}" if trained else "-",
        ))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
