"""attach, and the handle that it gives: what was changed, what trains, and the way back."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakSet

from minipeft.backend import Array, Rng, xp_of
from minipeft.contract import file as adapter_file
from minipeft.contract.merging import MergeReport, merge
from minipeft.contract.method import Method, Recompute, Shared, Where, Wrapper
from minipeft.contract.report import AdapterReport
from minipeft.contract.targets import layer_of, match
from minipeft.engine import Tensor, context, explain_grad
from minipeft.nn import Module, Parameter, Place, init
from minipeft.nn.module import original, standings

MISSING = object()
KEPT = "merged, with its base kept"
_NUMBERS = count()
_LIVE: WeakSet[Attached] = WeakSet()  # handles of all models, as two may share a part


def attach(model: Module, method: Method) -> Attached:
    """Freeze a model and put a method on it; `with attach(…) as a:` detaches at the end.

    Everything that trained before is frozen, an earlier method's parameters too, until this one
    is detached or merged. That the earlier ones stay is told by a warning, unless they train
    nothing, as codes do.
    Raises  TypeError for a path (load_adapter loads) or a class; ValueError if nothing matches,
            with the names that exist, or if the same method is attached already
    """
    if isinstance(method, (str, Path)):
        raise TypeError(f"attach takes a method, got {str(method)!r}; a saved adapter is attached "
                        "with load_adapter(model, path)")  # fmt: skip
    if not isinstance(method, Method):
        got = method.__name__ if isinstance(method, type) else type(method).__name__
        raise TypeError(f"attach takes a method such as LoRA(r=8), got {got}; "
                        "a class needs its brackets")  # fmt: skip
    if not isinstance(model, Module):
        raise TypeError(f"attach takes a model, got {type(model).__name__}")
    handle = Attached(model, method)
    stay = [repr(h.method.name) for h in handle.over() if h.count()]
    if stay:
        warnings.warn(
            f"{method.name!r} goes on top of {', '.join(stay)}: what was attached before stays on "
            "the model, frozen. Unless they are to act together, detach() it first; "
            "`with attach(…)` does so at its end",
            stacklevel=2,
        )
    return handle


@dataclass
class Change:
    """What a handle put at `owner.name`, and what stood there before."""

    owner: Module
    name: str
    old: Any
    new: Any

    def stands(self) -> Any:
        """What is there now."""
        return vars(self.owner).get(self.name, MISSING)

    def put(self, value: Any) -> None:
        """Set the attribute, or take it away."""
        if value is MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, value)


class Attached:
    """A method on a model. It prints what trains; it saves, loads, merges and detaches.

    wrappers   path -> the Wrapper that stands there
    clones     path -> the trainable copy of a selected parameter
    whole      path -> the same, of parts that are trained whole (a new head)
    reparams   (path, frozen Parameter, how it is computed)
    """

    def __init__(self, model: Module, method: Method) -> None:
        if any(h.method == method for h in model.attached()):
            raise ValueError(f"{method} is attached to this model already: detach() it first")
        self.model, self.method = model, method
        self.number = next(_NUMBERS)  # later handles have larger ones
        self.ended = ""  # why the handle can do no more
        self.flags = [(p, p.requires_grad) for p in model.parameters()]  # before it froze them
        base = [original(place.parameter) for place in model.places() if not place.added]
        self.total = sum({id(p): p.size for p in base}.values())  # of the base, ties once
        before = model.handles
        model.handles = handles = _one_list(model)
        try:
            self.build()
        except BaseException:
            self.release()
            model.handles = before
            raise
        handles.append(self)
        _LIVE.add(self)

    # -- building and undoing ---------------------------------------------------------------------

    def build(self) -> None:
        """Freeze everything, then wrap, select and recompute; all or nothing."""
        self.wrappers: dict[str, Wrapper] = {}
        self.clones: dict[str, Parameter] = {}
        self.whole: dict[str, Parameter] = {}
        self.reparams: list[tuple[str, Parameter, Recompute]] = []
        self.shared: dict[str, Parameter] = {}  # name -> one Parameter for many places
        self.root, self.slot = Shared(), ""  # where those stand that no wrapper holds
        self.changes: list[Change] = []
        for p, _ in self.flags:
            p.requires_grad = False
        try:
            self._wrap()
            self._choose()
            self.method.prepare(self)
            self._place_shared()
        except BaseException:
            self.undo()
            raise
        self._spread()
        self.trained = dict(self._trained())
        # where a clone began, its base remembers
        self.start = {n: init.copy(p.data) for n, p in self.trained.items() if p.base is None}
        self.gradients: dict[str, list[Any]] = {}  # path -> norms, as numbers or 0-d arrays

    def swap(self, owner: Module, name: str, new: Any) -> None:
        """Set an attribute and remember what stood there."""
        change = Change(owner, name, vars(owner).get(name, MISSING), new)
        self.changes.append(change)
        change.put(new)

    def undo(self) -> None:
        """Put back whatever was swapped, last first: the very objects, no arithmetic."""
        for change in reversed(self.changes):
            change.put(change.old)

    def release(self) -> None:
        """What trained before trains again; what another model's handle froze since, at its end."""
        later = sorted((h for h in _LIVE if h.number > self.number), key=lambda h: h.number)
        held = [{id(p) for p, _ in h.flags} for h in later]
        for p, trained in self.flags:
            heir = next((h for h, mine in zip(later, held, strict=True) if id(p) in mine), None)
            if heir is None:
                p.requires_grad = trained
            else:
                heir.flags = [(q, trained if q is p else flag) for q, flag in heir.flags]

    def redo(self) -> None:
        """Take an undo back."""
        for p, _ in self.flags:
            p.requires_grad = False
        for change in self.changes:
            change.put(change.new)

    def later(self) -> list[Attached]:
        """The handles that were attached after this one."""
        return [h for h in self.model.handles if h.number > self.number]

    def _spread(self) -> None:
        """Every part knows the handles, so that it may be called alone."""
        part: Module
        for _, part in self.model.named_modules():
            part.handles = self.model.handles
            while isinstance(part, Wrapper):
                part = part.base
                part.handles = self.model.handles

    def _wrap(self) -> None:
        if not self.method.uses("wrap"):
            return
        parts, places = dict(self.model.named_modules()), standings(self.model)
        seen: set[int] = set()
        for path in match(self.model, getattr(self.method, "targets", ())):
            part = parts[path]
            if id(part) in seen:  # it stands at two places, and is wrapped at both
                continue
            seen.add(id(part))
            wrapper = self.method.wrap(path, part, self._where(path))
            if wrapper is not None:
                for layer in list(wrapper.layers()):
                    layer.owner = self
                for owner, name in places[id(part)]:
                    self.swap(owner, name, wrapper)
                self.wrappers[path] = wrapper

    def _choose(self) -> None:
        """Clone what is selected or trained whole; note what is recomputed."""
        method, parts = self.method, dict(self.model.named_modules())
        ends: dict[int, list[Place]] = {}  # of ties
        for place in self.model.places():
            ends.setdefault(id(place.parameter), []).append(place)
        for places in ends.values():
            path, p, *_, added = places[0]
            if added:
                continue
            part = path.rpartition(".")[0]
            if part in parts and method.whole(part, parts[part]):
                self.whole[path] = self._clone(places)
            elif method.uses("select") and method.select(path, p, self._where(path)):
                self.clones[path] = self._clone(places)
            elif method.uses("reparam"):
                compute = method.reparam(path, p, self._where(path))
                if compute is not None:
                    self.reparams.append((path, p, compute))
        if not (self.wrappers or self.clones or self.reparams):
            raise ValueError(f"{method} changes nothing in this model: no part of it fits")
        self._check_used()

    def _check_used(self) -> None:
        """Refuse what would change a Parameter that an earlier handle's wrapper goes without."""
        unused = {
            id(getattr(layer.base, name)): h.method.name
            for h in self.model.handles
            if h is not self
            for w in h.wrappers.values()
            for layer in w.layers()
            for name in layer.replaces
        }
        changed = [(path, p) for path, c in self.clones.items() for p in (c, c.base)]
        for path, p in [*changed, *((path, p) for path, p, _ in self.reparams)]:
            if id(p) in unused:
                other = unused[id(p)]
                raise ValueError(f"{self.method.name!r} would change {path}, which {other!r} has "
                                 f"replaced: merge or detach {other!r} first")  # fmt: skip

    def _clone(self, places: list[Place]) -> Parameter:
        """Put one trainable copy at all the places of one Parameter."""
        path, p = places[0].path, places[0].parameter
        for h in self.model.handles:
            if any(p is computed for _, computed, _ in h.reparams):
                other = h.method.name
                raise ValueError(f"{self.method.name!r} would train {path}, which {other!r} "
                                 f"computes: merge or detach {other!r} first")  # fmt: skip
        clone = p.clone()
        for owner, name in {(id(q.owner), q.name): (q.owner, q.name) for q in places}.values():
            self.swap(owner, name, clone)
        return clone

    def _where(self, path: str) -> Where:
        config = getattr(self.model, "config", None)
        rng = Rng(getattr(self.method, "seed", 0), self.method.name, path)
        return Where(rng, layer_of(path), getattr(config, "layers", 0), config, self._share)

    def _share(self, name: str, make: Callable[[], Array]) -> Parameter:
        """The one Parameter of that name; made on the first call."""
        if name not in self.shared:
            self.shared[name] = Parameter(make())
        return self.shared[name]

    def _place_shared(self) -> None:
        """Shared parameters that stand in no wrapper get a place at the root."""
        placed = {id(own.parameter) for w in self.wrappers.values() for own in w.own_places()}
        self.shared = {name: p for name, p in self.shared.items() if id(p) not in placed}
        if self.shared:
            self.slot = self.method.name
            while hasattr(self.model, self.slot):
                self.slot += "_"
            for name, p in self.shared.items():
                setattr(self.root, name, p)
            self.swap(self.model, self.slot, self.root)

    def _trained(self) -> Iterator[tuple[str, Parameter]]:
        """(path, Parameter) of all that this handle trains, shared ones once."""
        seen: set[int] = set()
        for path, wrapper in self.wrappers.items():
            for place in wrapper.own_places():
                if place.parameter.requires_grad and id(place.parameter) not in seen:
                    seen.add(id(place.parameter))
                    yield f"{path}.{place.path}", place.parameter
        for name, p in self.shared.items():
            if p.requires_grad:
                yield f"{self.slot}.{name}", p
        yield from self.clones.items()
        yield from self.whole.items()

    # -- the forward pass and the step ------------------------------------------------------------

    def open_forward(self, values: dict[Any, Any]) -> None:
        """Say what stands for which Parameter in the pass that begins, by id(Parameter).

        Under `running(rng=…)` the handle's own key has a generator for its wrappers' dropout.
        """
        if context().rows is not None:
            self._check_rows(context().rows or ())
        if self in context().off:
            for clone in (*self.clones.values(), *self.whole.values()):
                assert clone.base is not None
                values[id(clone)] = clone.base
            return
        rng = context().rng
        if rng is not None:  # in each pass other masks, and other ones than another handle's
            values[self] = rng.spawn("adapter", int(rng.raw(1)[0]))
        self.method.before_forward(self)
        for _, p, compute in self.reparams:
            values[id(p)] = compute(values.get(id(p), p))

    def _check_rows(self, rows: tuple[Any, ...]) -> None:
        """Refuse running(rows=...) where the rows of a batch cannot carry different adapters."""
        for handle in rows:
            if handle is not None and handle not in self.model.handles:
                raise ValueError(
                    f"running(rows=...) names {handle!r:.60}, which is not attached to this model; "
                    "give what attach() or load_adapter() returned, or None for the base"
                )
        if not self.method.by_row and self not in context().off:
            raise ValueError(
                f"{self.method.name} changes parameters that all rows of a batch share, so "
                "running(rows=...) cannot take it in some rows only: detach() it, or run one "
                "batch per adapter"
            )

    def extra_loss(self) -> Tensor | None:
        """The method's penalty, or None."""
        return self.method.extra_loss(self)

    def observe(self) -> None:
        """Note the norms of the gradients; fit calls it before its first steps."""
        for path, p in self.trainable():
            if not p.requires_grad:  # a later method froze it
                continue
            g = p.grad  # the norm stays where it is: to read it would wait for the device
            norm = 0.0 if g is None else xp_of(g).linalg.norm(g.reshape(-1))
            self.gradients.setdefault(path, []).append(norm)

    def before_step(self, step: int, total: int) -> None:
        """Called by fit before each optimizer step, when the gradients are there."""
        self.method.before_step(self, step, total)

    def after_step(self, step: int, total: int) -> None:
        """Called by fit after each optimizer step."""
        self.method.after_step(self, step, total)

    # -- what trains ------------------------------------------------------------------------------

    def trainable(self) -> Iterator[tuple[str, Parameter]]:
        """(path, Parameter) of all that this handle trains and saves, shared ones once."""
        yield from self.trained.items()

    def count(self) -> int:
        """Trainable numbers, a freshly made head left out, as papers count."""
        return sum(p.size for path, p in self.trainable() if path not in self.whole)

    def count_head(self) -> int:
        """Trainable numbers of what is trained whole: a freshly made head."""
        return sum(p.size for p in self.whole.values())

    def over(self) -> list[Attached]:
        """The handles that were attached before this one, and still are."""
        return [h for h in self.model.handles if h.number < self.number]

    def explain_grad(self, loss: Tensor, path: str) -> str:
        """How the gradient of a loss comes down to a trained array, or where it ends.

        loss   a forward pass's, before backward()
        path   as the report shows it
        """
        named = dict(self.model.named_parameters()) | dict(self.trainable())
        if path not in named:
            near = difflib.get_close_matches(path, named, 1, 0)
            raise ValueError(f"there is no array {path!r}; nearest is {near[0]!r}")
        return explain_grad(loss, named[path], path)

    def report(self) -> AdapterReport:
        """Counts, and gradient and update norms of what trains, with the never-moved list."""
        return AdapterReport(self)

    # -- saving, merging, detaching ---------------------------------------------------------------

    def save(self, path: str | Path, card: dict[str, Any] | None = None) -> None:
        """Write what trains, the method's state and fields, and a fingerprint of the base.

        card  what the adapter is for, as plain values: it is kept in the file beside them
        """
        self._need_live("save")
        adapter_file.save(self, path, card)

    def load(self, path: str | Path) -> None:
        """Take over a saved adapter of the same method and base, or change nothing.

        Raises  CheckpointError for another method, other settings (the seed may differ), another
                base, missing, unexpected or misshapen arrays, NaN, or a damaged file
        """
        self._need_live("load")
        adapter_file.load(self, path)

    @contextmanager
    def rebuilt(self, method: Method) -> Iterator[None]:
        """Attach again with other fields: what is drawn and not saved is drawn anew.

        If the block raises, everything is as it was, down to the objects.
        """
        if self.later():
            raise RuntimeError(f"{self.method.name!r} cannot be drawn anew: detach what was "
                               "attached later first")  # fmt: skip
        before = dict(vars(self))
        self.undo()
        try:
            self.method = method
            self.build()
            try:
                yield
            except BaseException:
                self.undo()
                raise
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            self.redo()
            raise

    def merge(
        self, *, keep: bool = False, untie: bool = False, quantized: str = "refuse"
    ) -> MergeReport:
        """Turn the adapter into plain weights, all of it or nothing; the handle ends.

        keep    hold the base, so that detach() can still put it back
        untie   allow a merge at one end of a tie, which parts the two ends
        quantized  where the weight is stored as codes: "refuse"; "dequantize" keeps the sum as
                floats; "requantize" rounds it to the codes' values again, another function
        Returns per part, the error of W and of the output beside what rounding explains
        Raises  NotMergeable that says which part cannot and why; the model is as it was
        """
        self._need_live("merge")
        report = merge(self, untie, quantized)
        if not keep:
            self.changes = []
        self._end(KEPT if keep else "merged")
        return report

    def detach(self) -> None:
        """Put the base back, bit for bit; what was attached last goes first."""
        if self.ended != KEPT:
            self._need_live("detach")
        later = self.later()
        if later:
            raise RuntimeError(f"{self.method.name!r} was attached before "
                               f"{later[-1].method.name!r}: what was attached last is detached "
                               "first")  # fmt: skip
        for change in self.changes:
            if change.stands() is not change.new:
                raise RuntimeError(f"cannot detach {self.method.name!r}: {change.name!r} was set "
                                   "to something else since; a merge of a later adapter is "
                                   "undone first")  # fmt: skip
        self.undo()
        self.release()
        self._end("detached")

    def _need_live(self, verb: str) -> None:
        if self.ended:
            hint = (
                "; merge(keep=True) holds the base for a later detach()" if verb == "detach" else ""
            )
            raise RuntimeError(f"cannot {verb}: this adapter was {self.ended} before{hint}")

    def _end(self, why: str) -> None:
        self.ended = why
        _LIVE.discard(self)
        if self in self.model.handles:
            self.model.handles.remove(self)  # type: ignore[attr-defined]
        self._spread()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.ended:
            self.detach()

    def __repr__(self) -> str:
        head = f" + {self.count_head():,} of a new head" if self.whole else ""
        share = 100 * self.count() / self.total
        under = ", ".join(h.method.name for h in self.over())
        end = f", {self.ended}" if self.ended else f", over {under}" if under else ""
        return (f"Attached({self.method}: {self.count():,}{head} of {self.total:,} train, "
                f"{share:.3f} %{end})")  # fmt: skip


def _one_list(model: Module) -> list[Attached]:
    """The handles of a model and its parts in one list, which all of them are to share."""
    below = model.attached()
    lists = {id(part.handles): part.handles for _, part in model.named_modules()}
    own = [found for found in lists.values() if any(h in below for h in found)]
    return own[0] if len(own) == 1 and isinstance(own[0], list) else below
