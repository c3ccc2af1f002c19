"""One training step, run on shapes alone and then for real, with every array written down."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minipeft.backend import Array, Rng
from minipeft.engine import Tensor, fused, running
from minipeft.engine.graph import held
from minipeft.engine.tensor import Node, topological
from minipeft.ledger.meter import metered
from minipeft.ledger.table import Bytes, Ledger, size
from minipeft.nn import Module, Parameter
from minipeft.nn.module import original
from minipeft.storage.paged import is_paged
from minipeft.training.optim import CHUNK, clip_gradients
from minipeft.training.optimizers import get_optimizer

ROOM = 0.7  # of the machine's memory that a measured step may take
MASKED = 0.15  # share of the places whose word a masked language model predicts


def predict(
    model: Any,
    *,
    batch: int,
    length: int | None = None,
    optimizer: str = "adamw",
    recompute: bool = False,
) -> Ledger:
    """What a training step of a model holds and computes, with whatever is attached to it.

    model      shape-only or with values; its values are not read
    length     tokens in a row, min(128, context) by default; None for images
    optimizer  "adamw", "sgd" or "muon"
    recompute  keep no activations inside blocks
    Raises     ValueError if nothing trains, or the batch does not fit the model
    """
    slots = get_optimizer(optimizer).slots
    parameters = _parameters(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing in the model trains: attach a method first")
    added = [p for h in model.handles for _, p in h.trainable() if p.base is None]
    sample = example(model, batch, length)
    grads = [(p, p.grad) for p in trained]
    arrays = list({id(a): a for _, _, a in model.arrays()}.values())  # masks, quantized weights
    try:
        for p in trained:
            p.grad = None
        with metered([p.data for p in parameters] + arrays + list(_inputs(sample))) as meter:
            loss = _loss(model, sample, recompute, meter.rng())
            activations, by_op = meter.live, _by_operation(loss)
            forward, calls = dict(meter.forward), dict(meter.calls)
            loss.backward()
    finally:
        for p, g in grads:
            p.grad = g
    gradients = sum(_bytes(p) for p in trained)
    weights = sum(map(_bytes, parameters)) + sum(int(a.nbytes) for a in arrays)
    weights += sum(map(_bytes, added))  # where they began, for reports
    state = gradients * len(slots)
    back = {  # with the forward passes that recomputing repeats there
        name: meter.back.get(name, 0) + meter.forward.get(name, 0) - forward.get(name, 0)
        for name in calls
    }
    step = max(meter.peak, gradients + _work(optimizer, trained))
    return Ledger(
        " with ".join([type(model).__name__, *(h.method.name for h in model.handles)]),
        {"batch": batch, "length": _length(model, length), "optimizer": optimizer,
         "dtype": str(trained[0].dtype), "recompute": recompute},
        {"total": sum(p.size for p in {id(o): o for o in map(original, _base(model))}.values()),
         "trainable": sum(p.size for p in trained), "added": sum(p.size for p in added)},
        _account(weights, state, gradients, activations, weights + state + step),
        {"forward": sum(forward.values()), "backward": sum(back.values())},
        [
            {"operation": name, "calls": n, "kept": by_op.get(name, 0),
             "forward": forward.get(name, 0), "backward": back[name]}
            for name, n in calls.items()
        ],
    )  # fmt: skip


def measure(
    build: Callable[[], Any],
    *,
    batch: int,
    length: int | None = None,
    optimizer: str = "adamw",
    recompute: bool = False,
) -> tuple[Bytes, Bytes]:
    """The bytes of one real step, as tracemalloc sees them, and what each operation kept.

    build  makes the model and attaches the method: the weights are measured too
    """
    sample = example(build(), batch, length)
    tracemalloc.start()
    try:
        model = build()
        gc.collect()
        weights, _ = _traced()
        params = [(path, p) for path, p in model.named_parameters() if p.requires_grad]
        opt = get_optimizer(optimizer)(params, 1e-3)
        state = _traced()[0] - weights
        loss = _loss(model, sample, recompute, Rng(0))
        at_loss, high = _traced()
        by_op = _by_operation(loss)
        loss.backward()
        after, peak = _traced()
        high = max(high, peak)
        clip_gradients(params, 1.0)
        opt.step()
        high = max(high, _traced()[1])
    finally:
        tracemalloc.stop()
    static = weights + state
    return _account(weights, state, after - static, at_loss - static, high), by_op


def check_fits(peak: int) -> None:
    """Raise RuntimeError if a step that needs `peak` bytes would fill this machine."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return  # a system that does not tell
    if peak > ROOM * there:
        raise RuntimeError(
            f"a step needs about {size(peak)} and this machine has {size(there)}: "
            "make the batch or the length smaller, or leave the measuring out"
        )


def _account(weights: int, state: int, gradients: int, activations: int, peak: int) -> Bytes:
    return {
        "weights": weights,
        "optimizer": state,
        "gradients": gradients,
        "activations": activations,
        "temporary": peak - weights - state - max(gradients, activations),
        "peak": peak,
    }


def _traced() -> tuple[int, int]:
    """Bytes of arrays that live now, and the peak of everything since the last call."""
    peak = tracemalloc.get_traced_memory()[1]
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    traces = tracemalloc.take_snapshot().filter_traces([arrays]).traces
    live = sum(trace.size for trace in traces)
    del traces
    tracemalloc.reset_peak()
    return live, peak


# -- the step -------------------------------------------------------------------------------------


def example(model: Any, batch: int, length: int | None = None) -> tuple[Array, dict, Array]:
    """A batch for a model, all zeros: ids or images, settings of the call, labels.

    A language model learns every token, a masked one 15 % of the places.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch must be a whole number >= 1, got {batch!r}")
    c, T = model.config, _length(model, length)
    if hasattr(c, "image"):
        images = np.zeros((batch, c.channels, c.image, c.image), model.parameters()[0].dtype)
        return images, {}, np.zeros(batch, int)
    ids = np.zeros((batch, T), int)
    if c.head == "linear":
        return ids, {"mask": np.ones((batch, T), bool)}, np.zeros(batch, int)
    if model.causal:
        return ids, {}, np.zeros((batch, T), int)
    n = max(1, round(MASKED * T))
    rows, columns = np.repeat(np.arange(batch), n), np.tile(np.arange(n), batch)
    settings = {"mask": np.ones((batch, T), bool), "at": (rows, columns)}
    return ids, settings, np.zeros(batch * n, int)


def _length(model: Any, length: int | None) -> int:
    """Places in a row that the model sees."""
    c = model.config
    if hasattr(c, "image"):
        if length not in (None, c.patches + 1):
            raise ValueError(f"length: an image is always {c.patches} patches and one place more, "
                             f"got {length}; leave it out")  # fmt: skip
        return c.patches + 1
    if length is None:
        return min(128, c.context)
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= c.context:
        raise ValueError(f"length must be in 1 … {c.context}, the context, got {length!r}")
    return length


def _inputs(sample: tuple[Array, dict, Array]) -> Iterator[Array]:
    first, settings, labels = sample
    yield from (first, labels, *(a for v in settings.values()
                                 for a in (v if isinstance(v, tuple) else (v,))))  # fmt: skip


def _loss(model: Any, sample: tuple[Array, dict, Array], recompute: bool, rng: Rng) -> Tensor:
    first, settings, labels = sample
    with running(rng=rng, recompute=recompute):
        loss = fused.cross_entropy(model(first, **settings), labels)
        for handle in model.handles:
            extra = handle.extra_loss()
            loss = loss if extra is None else loss + extra
    return loss


def _by_operation(loss: Tensor) -> Bytes:
    """Bytes that the tape keeps, by operation."""
    found: Bytes = {}
    seen: set[int] = set()
    for node in reversed(topological(loss._node)):
        if isinstance(node, Node):
            found[node.name] = found.get(node.name, 0) + held(node, seen)
    return found


# -- what a model stores --------------------------------------------------------------------------


def _parameters(model: Module) -> list[Parameter]:
    """Every Parameter, and the frozen originals behind those that a method copied."""
    found: dict[int, Parameter] = {}
    for place in model.places():
        p: Parameter | None = place.parameter
        while p is not None:
            found[id(p)] = p
            p = p.base
    return list(found.values())


def _base(model: Module) -> list[Parameter]:
    return [place.parameter for place in model.places() if not place.added]


def _bytes(p: Parameter) -> int:
    return 0 if is_paged(p.data) else int(p.size * p.dtype.itemsize)


def _work(optimizer: str, trained: Sequence[Parameter]) -> int:
    """Bytes that an update holds while it runs."""
    parts = 1 if optimizer == "sgd" else 2  # arrays that an update makes of each CHUNK
    work = parts * max(min(p.size, CHUNK) * p.dtype.itemsize for p in trained)
    matrices = [p for p in trained if p.ndim == 2 and optimizer == "muon"]
    needs = (4 * _bytes(p) + 3 * min(p.shape) ** 2 * p.dtype.itemsize for p in matrices)
    return max([work, *needs])
