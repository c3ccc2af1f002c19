"""fit: one loop for pretraining, full fine-tuning and every method."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from minipeft.backend import Array, Rng, is_whole
from minipeft.checks import moved, real, takes, whole
from minipeft.display.progress import Progress
from minipeft.engine import running
from minipeft.engine.blas import blas_threads, threads_for
from minipeft.nn import Module
from minipeft.nn.finite import NonFiniteLoss, where_it_began
from minipeft.storage.checkpoint import fingerprint
from minipeft.training.batches import Batch, Source, task_batches
from minipeft.training.malloc import trimmed, tune_malloc
from minipeft.training.optim import Schedule, clip_gradients, get_optimizer
from minipeft.training.resume import Best, Checkpoint, Guard, State
from minipeft.training.step import Workers, label_count, loss_of

WATCHED = 10  # first steps whose gradient norms an adapter's report shows


@dataclass
class History:
    """What a run did, as plain lists: one entry a step, and one an evaluation."""

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


def trainable(model: Module) -> list[tuple[str, Any]]:
    """(path, Parameter) of everything that trains."""
    return [(path, p) for path, p in model.named_parameters() if p.requires_grad]


@moved(
    decline='schedule="cosine", or schedule=Schedule(decline, warmup)',
    warmup="schedule=Schedule(decline, warmup)",
    save_every="checkpoint=Checkpoint(path, every=…)",
    out="contextlib.redirect_stdout sends what fit prints elsewhere",
)
@takes(
    steps=whole(1), lr=real(0), batch=whole(1), seed=whole(0), n=whole(1), decay=real(0),
    clip=real(above=0, hint="None sets no limit"), accumulate=whole(1), smoothing=real(0, below=1),
    threads=whole(1), paged=whole(0), evaluate_every=whole(1), patience=whole(1),
)  # fmt: skip
def fit(
    model: Any,
    task: Any,
    *,
    steps: int,
    lr: float | None = None,
    batch: int = 16,
    seed: int = 0,
    n: int | None = None,
    pattern: int = 0,
    optimizer: str = "adamw",
    decay: float = 0.0,
    schedule: str | Schedule = "linear",
    clip: float | None = 1.0,
    accumulate: int = 1,
    smoothing: float = 0.0,
    recompute: bool = False,
    threads: int = 1,
    cached: bool = False,
    paged: int | None = None,
    evaluate_every: int | None = None,
    evaluation: Callable[[Any], dict[str, float]] | None = None,
    keep: str | None = None,
    patience: int | None = None,
    watch: Callable[[int], None] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    quiet: bool = False,
) -> History:
    """Train what is trainable in a model, from clean gradients.

    task        a Task (its train split is used: the first n examples, in one pattern), your own
                data as `load_own` takes them (a list of (prompt, target), a CSV or JSONL file),
                or anything with batch(step, size, seed) -> Batch
    lr          the peak; None takes the default of the method that is attached last
    optimizer   "adamw", "sgd" or "muon" (for training whole models); decay is for matrices only
    schedule    how the rate falls: "linear", "cosine", "constant" or "trapezoid", or a Schedule
                with a warm-up of another length
    clip        the largest joint norm of the gradients, None for no limit
    accumulate  batches per step: the same as one of so many times the size, in less memory
    recompute   keep no activations inside blocks; backward makes them again: less memory, more time
    threads     parts of a batch that are worked on at once; results depend on it in their last bits
    cached      keep what the frozen lower blocks make of each example, and run them only once
    paged       keep the optimizer's state in a scratch file, with about so many bytes of it in
                memory at a time; the bits are the same, and checkpoints hold all of it
    evaluation  called every `evaluate_every` steps and at the end; the numbers of the dict that
                it returns go to the history
    keep        which of its numbers decides what weights the run ends with: the best ones. "loss"
                is best low, any other best high; None ends with the last
    patience    stop after so many evaluations in a row without a better one
    watch       called with the number of steps done: before the first, and after each
    checkpoint  a file, or Checkpoint(path, every): the state is saved there now and then and when
                the run is stopped, and resumed from: the same call goes on to the same bits
    Stopped by Ctrl-C or an error, it leaves the last whole step, or the best weights with `keep`
    Raises  ValueError if nothing trains, or a setting is out of range; NonFiniteLoss that names
            the step, the batch, the first operation and the parameter that went bad
    """
    if not isinstance(schedule, Schedule):
        schedule = Schedule(schedule)
    if not isinstance(checkpoint, Checkpoint | None):
        checkpoint = Checkpoint(checkpoint)
    _check_settings(keep, patience, evaluate_every, evaluation, watch)
    tune_malloc()
    handles = list(model.handles)
    if lr is None:
        if not handles:
            raise ValueError("fit needs lr=: no method is attached whose default could be taken")
        lr = handles[-1].method.lr
    source: Source = (
        task if hasattr(task, "batch") else task_batches(model, task, "train", n, pattern)
    )
    params = trainable(model)
    if not params:
        raise ValueError(
            "nothing in the model trains: attach a method first, e.g. attach(model, LoRA())"
        )
    opt = get_optimizer(optimizer)(params, lr, decay=decay)
    if paged is not None:
        opt.page(paged)
    cores = 1 if threads > 1 else threads_for(model, batch)
    history = History()
    best = Best(keep, params) if keep else None
    first = 0
    saved = None
    if checkpoint is not None:
        settings = {
            "steps": steps, "lr": lr, "batch": batch, "seed": seed, "optimizer": optimizer,
            "decay": decay, **vars(schedule), "clip": clip, "accumulate": accumulate,
            "smoothing": smoothing, "threads": threads, "keep": keep,
            "methods": [repr(handle.method) for handle in handles],
            "frozen": fingerprint(_frozen(model)),
            "data": fingerprint(_arrays(source.batch(0, batch, seed))),
        }  # fmt: skip
        saved = State(Path(checkpoint.path), settings, opt, handles, history, best)
        with blas_threads(cores):
            first = saved.resume()
    show = Progress("training", steps, quiet=quiet, start=first)

    def due(done: int) -> bool:
        """Whether the model is to be evaluated after so many steps, and was not yet."""
        if not evaluation or (history.evaluations and history.evaluations[-1]["step"] == done):
            return False
        return done == steps or bool(evaluate_every and done % evaluate_every == 0)

    def look(done: int) -> None:
        """What follows a step: its evaluation, and whoever watches."""
        if evaluation and due(done):
            found = _numbers(evaluation(model), done)
            if best:
                best.look(found)
            history.evaluations.append(found)
        if watch:
            watch(done)

    with (
        blas_threads(cores),
        trimmed(),
        Guard(model, saved, best, show) as guard,
        Workers(model, params, threads, smoothing, recompute, cached) as workers,
    ):
        if first == 0 and watch:
            watch(0)
        elif first and due(first):  # the run was stopped before this evaluation
            look(first)
        for step in range(first, steps):
            if patience and best and best.since >= patience:
                break
            began = time.perf_counter()
            rate = lr * schedule.at(step, steps)
            loss = _gradients(workers, source, step, accumulate, batch, seed)
            if step == first:
                _check_reached(params)
            with guard.step():
                if step - first < WATCHED:
                    for handle in handles:
                        handle.observe()
                if clip is not None:
                    clip_gradients(params, clip)
                for handle in handles:
                    handle.before_step(step, steps)
                opt.step(rate)
                for handle in handles:
                    handle.after_step(step, steps)
                history.loss.append(loss)
                history.lr.append(rate)
                history.seconds.append(time.perf_counter() - began)
            look(step + 1)
            if checkpoint and saved and (step + 1) % checkpoint.every == 0:
                saved.save()
            show.update(step + 1, f"loss {loss:.3f}")
        if saved:
            saved.save()
    show.done(f"loss {history.loss[-1]:.3f}")
    return history


def _check_settings(
    keep: str | None, patience: int | None, evaluate_every: int | None, evaluation: Any, watch: Any
) -> None:  # fmt: skip
    """Refuse what does not go together, before anything is done."""
    for name, called in (("evaluation", evaluation), ("watch", watch)):
        if called is not None and not callable(called):
            raise ValueError(f"{name}= must be a function, got {called!r:.60}")
    for name, given in (("keep", keep), ("patience", patience), ("evaluate_every", evaluate_every)):
        if given is not None and evaluation is None:
            raise ValueError(f"{name}= needs evaluation=, a function of the model")
    if keep is not None and not (isinstance(keep, str) and keep):
        raise ValueError(f"keep= must name a number of the evaluation, got {keep!r}")
    if patience and not keep:
        raise ValueError("patience= needs keep=: which number of the evaluation is to get better")


def _gradients(
    workers: Workers, source: Source, step: int, accumulate: int, batch: int, seed: int
) -> float:
    """Set `.grad` to the gradients of a step's loss, its mean over all labels of its batches.

    Returns  that loss, penalties included
    Raises   NonFiniteLoss
    """
    batches = [source.batch(step * accumulate + part, batch, seed) for part in range(accumulate)]
    counts = [label_count(data) for data in batches]
    if not sum(counts):
        raise ValueError(f"no label of step {step} counts: its batches have nothing to learn")
    for _, p in workers.params:
        p.grad = None  # an evaluation may have left some
    total, first = 0.0, True
    for part, data in enumerate(batches):
        if counts[part]:
            loss = workers.gradients(data, Rng(seed, "dropout", step, part), sum(counts), first)
            if not math.isfinite(loss):
                raise NonFiniteLoss(_diagnose(workers.model, data, seed, step, part))
            total, first = total + loss, False
    return total


def _numbers(found: Any, step: int) -> dict[str, float]:
    """What an evaluation returned, as Python's own numbers, and the step."""
    if not isinstance(found, Mapping):
        raise TypeError(f"evaluation= must return a dict of numbers, got {found!r:.60}")
    told: dict[str, float] = {"step": float(step)}
    for name, value in found.items():
        if name == "step":
            raise ValueError("evaluation= returns 'step', which the history has already")
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"evaluation= must return numbers, but {name!r} is {value!r:.60}")
        told[name] = int(value) if is_whole(value) else float(value)
    return told


def _check_reached(params: list[tuple[str, Any]]) -> None:
    """After the first backward every trainable parameter must have a gradient."""
    missed = [path for path, p in params if p.grad is None]
    if missed:
        raise RuntimeError(
            f"{len(missed)} trainable parameters got no gradient, so no forward pass reached them: "
            f"{', '.join(missed[:5])}. Are they part of what the loss uses?"
        )


def _diagnose(model: Any, batch: Batch, seed: int, step: int, part: int) -> str:
    """Run the batch again and find where the first non-finite number appears."""
    with running(rng=Rng(seed, "dropout", step, part)):
        began = where_it_began(model, partial(loss_of, model, batch))
    return (
        f"the loss is not finite at step {step} (seed {seed}, batch of {len(batch.ids)} rows, "
        f"first ids {batch.ids[0, :8].tolist()}). {began}. A smaller lr, or clip=1.0, is the usual "
        "cure"
    )


def _arrays(batch: Batch) -> dict[str, Array]:
    return {name: a for name, a in vars(batch).items() if a is not None and name != "rows"}


def _frozen(model: Module) -> dict[str, Array]:
    """The arrays that do not train: a state belongs to them."""
    return {path: p.data for path, p in model.named_parameters() if not p.requires_grad}
