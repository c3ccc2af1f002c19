"""What a method is: a small dataclass that wraps parts of a model, or selects parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from minipeft.backend import Array, Rng, is_array, to_numpy, xp_of
from minipeft.checks import Plain
from minipeft.engine import Tensor, context, ops, running
from minipeft.nn import Embedding, Module, Parameter, Place

GONE = {  # hooks of before 0.2, which nobody calls -> what does their work now
    "reparam": "select with compute", "before_forward": "compute",
    "whole": "select (a new head always trains)",
}  # fmt: skip


class NotMergeable(ValueError):
    """Why a method, or a part of it, cannot become plain weights."""


@dataclass(frozen=True)
class Where:
    """What a method may know about the place that it changes."""

    rng: Rng  # this place's own random stream, named by the method's seed and the path
    layer: int | None  # number of the block, None outside the blocks
    layers: int  # how many blocks there are
    config: Any  # the model's sizes
    like: Array  # one of the model's arrays: new ones are of its kind
    shared: Callable[[str, Callable[[], Array]], Parameter]  # (name, make): one for many places


@dataclass(frozen=True)
class Method(Plain):
    """Hyperparameters, in the paper's letters, and the hooks that change a model.

    A subclass overrides `wrap` (for the parts that its `targets` name) or `select`, with `compute`
    where it does not train what it selects, and what else it needs. `at` is the handle that
    attach() made: it holds the wrappers. Fields are numbers, text, None, or tuples of such: a
    file keeps them, and NumPy's are made plain.
    """

    name: ClassVar[str]
    compose: ClassVar[str]  # "parameter", "function" or "input"
    gradient: ClassVar[str] = "exact"  # or "surrogate": not the derivative of the forward pass
    by_row: ClassVar[bool] = False  # may rows of one batch carry different adapters of its kind?
    skips: ClassVar[bool] = False  # may a step go without some of its parts? else fit refuses it
    identity: ClassVar[str] = ""  # why attaching changes the output; "" where it does not
    lr: ClassVar[float] = 1e-3  # the default of fit, chosen by a sweep on validation data

    def __init_subclass__(cls) -> None:
        for name in GONE.keys() & vars(cls).keys():
            raise TypeError(f"{cls.__name__}.{name} is no hook any more: it is {GONE[name]} now")

    def wrap(self, path: str, module: Module, where: Where) -> Wrapper | None:
        """The Wrapper to put around a part that `targets` names, or None."""
        return None

    def select(self, path: str, parameter: Parameter, where: Where) -> bool:
        """Whether one of the base's own parameters trains, or, with `compute`, is computed."""
        return False

    def compute(self, at: Any) -> dict[str, Tensor]:
        """The values of the selected parameters, by path, for the forward pass that begins.

        `at.computed` holds their frozen values. What wrappers need once in each pass is made here
        too: a wrapper holds a frozen Parameter, `prepare` puts it into `at.computed` under a path
        of its own, and what is returned for that path is used instead of it, in merging too.
        """
        return {}

    def settled(self) -> Method:
        """The method that a file names. Where a network makes the wrappers' Parameters in training,
        it is the one without the network, which trains these; `compute` must return all of them.
        """
        return self

    def prepare(self, at: Any) -> None:
        """Called by attach when all is wrapped and selected: what needs all of it, and refusals."""

    def extra_loss(self, at: Any) -> Tensor | None:
        """A penalty that fit adds to the loss."""
        return None

    def before_step(self, at: Any, step: int, total: int) -> None:
        """Called by fit before each optimizer step, when gradients are there: sensitivities."""

    def after_step(self, at: Any, step: int, total: int) -> None:
        """Called by fit after each optimizer step: schedules, re-masking."""

    def measure(self, at: Any, batches: Sequence[Any]) -> None:
        """Look at data first, for methods that need it: `handle.measure(batches)` before fit."""

    def state(self, at: Any) -> dict[str, np.ndarray]:
        """Arrays that are saved though they do not train: those that wrappers declare."""
        return {f"{path}.{name}": to_numpy(_array(getattr(w, name))).copy()
                for path, w in at.wrappers.items() for name in w.saved}  # fmt: skip

    def load_state(self, at: Any, state: dict[str, np.ndarray]) -> None:
        """Take back what `state` gave, all of it or nothing; shapes and kinds are checked."""
        for path, w in at.wrappers.items():
            for name in w.saved:
                old = getattr(w, name)
                new = xp_of(_array(old)).array(state[f"{path}.{name}"], dtype=old.dtype)
                if isinstance(old, Tensor):
                    old.data = new
                else:
                    setattr(w, name, new)

    def uses(self, hook: str) -> bool:
        """Whether the subclass defines a hook."""
        return getattr(type(self), hook) is not getattr(Method, hook)


def _array(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value


def _rows_of(value: Any, chosen: list[int], n: int) -> Any:
    """The chosen rows of an argument, if it has one for each of the n rows of the batch."""
    if isinstance(value, tuple):
        return tuple(_rows_of(v, chosen, n) for v in value)
    if len(chosen) == n or not (is_array(value) or isinstance(value, Tensor)):
        return value
    if value.shape[:1] != (n,):
        return value
    return value[xp_of(_array(value)).asarray(chosen)]


def _together(parts: Sequence[Any], order: list[int]) -> Any:
    """Rows that were computed apart, in the batch's order; tuples member by member."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tuple):
        return tuple(_together(members, order) for members in zip(*parts, strict=True))
    if parts[0] is None:
        return None
    xp = xp_of(_array(parts[0]))
    back = xp.argsort(xp.asarray(order))
    if isinstance(parts[0], Tensor):
        return ops.concatenate(list(parts), axis=0)[back]
    return xp.concatenate(parts, axis=0)[back]


class Wrapper(Module):
    """A part around a frozen one. Its path is that of the part it holds as `base`.

    What the wrapper lacks (weight, d_in, …) is looked up in the base.
    """

    wraps = True
    added = True
    saved: tuple[str, ...] = ()  # its arrays that are saved though they do not train
    replaces: tuple[str, ...] = ()  # Parameters of the base that it no longer reads
    handle: Any = None  # the one that put it there
    puts = 0  # of a wrapper of Start: how many positions it adds before or in a text
    quantized = "refuse"  # what merging does to a weight that is stored as codes
    before_merge = ""  # what to know before something above it can be merged

    def __init__(self, base: Module) -> None:
        self.base: Any = base

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ctx = context()
        if self.handle is not None:
            if self.handle in ctx.off or self in ctx.off:
                return self.base(*args, **kwargs)
            if ctx.rows is not None:
                return self._by_row(ctx.rows, *args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _by_row(self, rows: tuple[Any, ...], x: Any, *args: Any, **kwargs: Any) -> Any:
        """Rows of the batch that carry this adapter go through it, the others past it.

        Shapes  x (B, …), rows B handles or None; of the other arguments those with B rows, in
                tuples too, are cut in the same way, and what a `cache` takes is put together again
        """
        if len(rows) != x.shape[0]:
            raise ValueError(
                f"running(rows=...) names {len(rows)} rows, the batch has {x.shape[0]}"
            )
        mine = [i for i, handle in enumerate(rows) if handle is self.handle]
        others = [i for i, handle in enumerate(rows) if handle is not self.handle]
        cache = kwargs.pop("cache", None)
        parts: list[Any] = []
        caches: list[list[Any]] = []
        for chosen, part in ((mine, super().__call__), (others, self.base)):
            if chosen:
                cut = partial(_rows_of, chosen=chosen, n=len(rows))
                named = {name: cut(value) for name, value in kwargs.items()}
                if cache is not None:
                    caches.append([])
                    named["cache"] = caches[-1]
                with running(rows=[rows[i] for i in chosen]):  # for wrappers further in
                    parts.append(part(cut(x), *map(cut, args), **named))
        if cache is not None:
            cache.extend(_together(entries, mine + others) for entries in zip(*caches, strict=True))
        return getattr(self.base, "together", _together)(parts, mine + others)

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def stack(self) -> Iterator[Wrapper]:
        """This wrapper, and those right under it that the same handle put there."""
        part: Any = self
        while isinstance(part, Wrapper) and part.handle is self.handle:
            yield part
            part = part.base

    def own_places(self) -> Iterator[Place]:
        """The Places of the wrapper's own Parameters, without those of its base."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield Place(name, value, self, name, True)
            elif isinstance(value, Module) and name != "base":
                yield from value._places(name, True)

    def probe(self, rng: Rng) -> tuple[Any, ...]:
        """Random arguments of a call, on which merging compares the part and its merged form.

        By default ids for a table, and else rows as wide as the first Parameter's last axis, the
        part's own or, at a Tap, the wrapper's. What reads something else overrides it.
        Shapes  ids (1, 16), or x (1, 16, d)
        """
        *_, lowest = self.stack()
        if not self.parameters():
            raise NotMergeable(f"{type(self).__name__}.probe() must say what it reads")
        first = self.parameters()[0].data
        if isinstance(lowest.base, Embedding):
            return (xp_of(first).asarray(rng.integers(0, len(first), (1, 16))),)
        x = rng.normal((1, 16, first.shape[-1]))
        return (Tensor(xp_of(first).asarray(x, dtype=first.dtype)),)

    def merged(self) -> Module:
        """A plain module that computes the same."""
        raise NotMergeable(f"{type(self).__name__} has no dense equivalent")


class Shared(Module):
    """Parameters that a method keeps for the whole model, at its root."""

    added = True
