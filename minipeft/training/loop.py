"""fit: one loop for pretraining, full fine-tuning and every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from minipeft.backend import Rng
from minipeft.checks import moved, real, takes, whole
from minipeft.display.progress import Progress
from minipeft.engine import running
from minipeft.engine.blas import blas_threads, threads_for
from minipeft.nn import Module
from minipeft.nn.finite import NonFiniteLoss, where_it_began
from minipeft.training.batches import Batch, Source, task_batches
from minipeft.training.looks import Evaluation, History, Looks
from minipeft.training.malloc import trimmed, tune_malloc
from minipeft.training.optim import Schedule, clip_gradients
from minipeft.training.optimizers import get_optimizer
from minipeft.training.resume import Checkpoint, Guard, state_of
from minipeft.training.step import Loss, Workers, label_count, loss_of

WATCHED = 10  # first steps whose gradient norms an adapter's report shows


def trainable(model: Module) -> list[tuple[str, Any]]:
    """(path, Parameter) of everything that trains."""
    return [(path, p) for path, p in model.named_parameters() if p.requires_grad]


@moved(
    decline='schedule="cosine", or schedule=Schedule(decline, warmup)',
    warmup="schedule=Schedule(decline, warmup)",
    evaluate_every="evaluation=Evaluation(of, every=…)",
    keep="evaluation=Evaluation(of, keep=…)",
    patience="evaluation=Evaluation(of, keep=…, patience=…)",
    save_every="checkpoint=Checkpoint(path, every=…)",
    out="contextlib.redirect_stdout sends what fit prints elsewhere",
)
@takes(
    steps=whole(1), lr=real(0), batch=whole(1), seed=whole(0), n=whole(1), decay=real(0),
    clip=real(above=0, hint="None sets no limit"), accumulate=whole(1), smoothing=real(0, below=1),
    threads=whole(1), paged=whole(0),
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
    loss: Loss | None = None,
    smoothing: float = 0.0,
    recompute: bool = False,
    threads: int = 1,
    cached: bool = False,
    paged: int | None = None,
    evaluation: Callable[[Any], dict[str, float]] | Evaluation | None = None,
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
    loss        a function of the model and a Batch, instead of the cross-entropy of the labels. It
                returns a mean over the batch's labels: a part of a step's data, as of a thread,
                weighs as much as it has labels. What else it needs is in the source's
                Batch.more; training/tfew.py is an example
    smoothing   of the labels, for the cross-entropy
    recompute   keep no activations inside blocks; backward makes them again: less memory, more time
    threads     how many parts of a batch run at once; the last bits of results depend on it
    cached      run the frozen lower blocks once for each example, and keep their hidden states
    paged       keep the optimizer's state in a scratch file, with about so many bytes of it in
                memory at a time; the bits are the same, and checkpoints hold all of it
    evaluation  a function of the model that is called at the end; the numbers of the dict that it
                returns go to the history. Evaluation(of, every, keep, patience) calls it on the
                way too, ends with the best weights, and stops when nothing gets better
    watch       called with the number of steps done: before the first, and after each
    checkpoint  a file, or Checkpoint(path, every): the state is saved there now and then and when
                the run is stopped, and resumed from: the same call goes on to the same bits
    Stopped by Ctrl-C or an error, it leaves the last whole step, or the best weights if they
            are kept
    Raises  ValueError if nothing trains, or a setting is out of range; NonFiniteLoss that names
            the step, the batch, the first operation and the parameter that went bad
    """
    # the arguments in one form
    schedule = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
    if not isinstance(evaluation, Evaluation | None):
        evaluation = Evaluation(evaluation)
    if not isinstance(checkpoint, Checkpoint | None):
        checkpoint = Checkpoint(checkpoint)
    if watch is not None and not callable(watch):
        raise ValueError(f"watch= must be a function, got {watch!r:.60}")
    objective = _loss(loss, smoothing, cached)
    # what trains, on which batches, with which optimizer
    tune_malloc()
    handles = list(model.handles)
    lr = _default_rate(handles) if lr is None else lr
    source: Source = (
        task if hasattr(task, "batch") else task_batches(model, task, "train", n, pattern)
    )
    params = _trained(model)
    opt = get_optimizer(optimizer)(params, lr, decay=decay)
    if paged is not None:
        opt.page(paged)
    # the evaluations, and the state of an earlier run to go on from
    history = History()
    looks = Looks(model, steps, history, params, evaluation, watch)
    cores = 1 if threads > 1 else threads_for(model, batch)
    first, saved = 0, None
    if checkpoint:
        asked = {
            "steps": steps, "lr": lr, "batch": batch, "seed": seed, "optimizer": optimizer,
            "decay": decay, **vars(schedule), "clip": clip, "accumulate": accumulate,
            "smoothing": smoothing, "threads": threads, "keep": evaluation and evaluation.keep,
        }  # fmt: skip
        if loss:
            asked["loss"] = getattr(loss, "__qualname__", type(loss).__name__)
        data = source.batch(0, batch, seed)
        saved = state_of(checkpoint, asked, model, data, opt, looks)
        with blas_threads(cores):
            first = saved.resume()
    show = Progress("training", steps, quiet=quiet, start=first)
    with (
        blas_threads(cores),
        trimmed(),
        Guard(model, saved, looks.best, show) as guard,
        Workers(model, params, threads, recompute, cached, objective) as workers,
    ):
        looks.before(first)
        unreached, skips = {path for path, _ in params}, any(h.method.skips for h in handles)
        for step in range(first, steps):
            if looks.enough():
                break
            began = time.perf_counter()
            # forward and backward passes on the step's batches: gradients, and nothing else changes
            value = _gradients(workers, source, step, accumulate, batch, seed)
            # every parameter that trains must have got one
            if unreached and step - first < WATCHED:
                unreached &= {path for path, p in params if p.grad is None}
                _check_reached(unreached, skips and step < min(first + WATCHED, steps) - 1)
            with guard.step():  # from here on the step is done as a whole
                # note the first gradients' norms, for an adapter's report
                if step - first < WATCHED:
                    for handle in handles:
                        handle.observe()
                # scale all gradients so that their joint norm is at most `clip`
                if clip is not None:
                    clip_gradients(params, clip)
                # run the methods' hooks, the optimizer at this step's rate, the hooks after it
                for handle in handles:
                    handle.before_step(step, steps)
                rate = lr * schedule.at(step, steps)
                opt.step(rate)
                for handle in handles:
                    handle.after_step(step, steps)
                history.add(value, rate, time.perf_counter() - began)
            # evaluate, if that is due, and call `watch`
            looks.after(step + 1)
            # save the state, for a run that is stopped
            if saved:
                saved.after(step + 1)
            show.update(step + 1, f"loss {value:.3f}")
        if saved:
            saved.save()
    show.done(f"loss {history.loss[-1]:.3f}")
    return history


def _loss(loss: Loss | None, smoothing: float, cached: bool) -> Loss:
    """The loss asked for, or the cross-entropy."""
    if loss is None:
        return partial(loss_of, smoothing=smoothing)
    if not callable(loss):
        raise ValueError(f"loss= must be a function of the model and a batch, got {loss!r:.60}")
    if smoothing:
        raise ValueError("smoothing= is for the cross-entropy: loss= takes its place")
    if cached:  # it may run the model on other ids than the batch's
        raise ValueError("cached=True holds hidden states for the cross-entropy alone: leave it "
                         "out with loss=")  # fmt: skip
    return loss


def _default_rate(handles: list[Any]) -> float:
    """The default learning rate of the method attached last."""
    if not handles:
        raise ValueError("fit needs lr=: no method is attached whose default could be taken")
    return float(handles[-1].method.lr)


def _trained(model: Module) -> list[tuple[str, Any]]:
    """(path, Parameter) of what trains, of which there must be some."""
    params = trainable(model)
    if not params:
        raise ValueError(
            "nothing in the model trains: attach a method first, e.g. attach(model, LoRA())"
        )
    return params


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
                raise NonFiniteLoss(_diagnose(workers, data, seed, step, part))
            total, first = total + loss, False
    return total


def _check_reached(unreached: set[str], later: bool) -> None:
    """After the first backward every trainable parameter must have a gradient.

    later  whether a method skips parts of the model now and then, so that there is time yet
    """
    if unreached and not later:
        raise RuntimeError(
            f"{len(unreached)} trainable parameters got no gradient, so no forward pass reached "
            f"them: {', '.join(sorted(unreached)[:5])}. Are they part of what the loss uses?"
        )


def _diagnose(workers: Workers, batch: Batch, seed: int, step: int, part: int) -> str:
    """Run the batch again and find where the first non-finite number appears."""
    with running(rng=Rng(seed, "dropout", step, part)):
        began = where_it_began(workers.model, partial(workers.loss, workers.model, batch))
    return (
        f"the loss is not finite at step {step} (seed {seed}, batch of {len(batch.ids)} rows, "
        f"first ids {batch.ids[0, :8].tolist()}). {began}. A smaller lr, or clip=1.0, is the usual "
        "cure"
    )
