"""The handle of a method on a model: what was changed, what trains, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from minipeft.backend import Array, Rng, xp_of
from minipeft.checks import nearest
from minipeft.contract.method import Method, Shared, Where, Wrapper
from minipeft.contract.targets import layer_of, match
from minipeft.engine import Tensor, context, explain_grad
from minipeft.nn import Module, Parameter, Place, init
from minipeft.nn.module import original, owners

MISSING = object()
KEPT = "merged, with its base kept"
_NUMBERS = count()


@dataclass
class Swap:
    """What a handle put at `owner.name`, and what was there before."""

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


class Handle:
    """A method on a model: what it changed, what trains, and the way back.

    wrappers   path -> the Wrapper there
    clones     path -> the trainable copy of a selected parameter
    head       those of their paths that belong to a freshly made head, which trains whole
    computed   path -> the frozen Parameter, of the base or of a wrapper, for which the method
               computes something else
    """

    def __init__(self, model: Module, method: Method, freeze: bool = True) -> None:
        if any(h.method == method for h in model.attached()):
            raise ValueError(f"{method} is attached to this model already: detach() it first")
        self.model, self.method = model, method
        self.number = next(_NUMBERS)  # later handles have larger ones
        self.ended = ""  # why the handle can do no more
        base = [original(place.parameter) for place in model.places() if not place.added]
        self.total = sum({id(p): p.size for p in base}.values())  # of the base, ties once
        # one list of handles for the model and its parts
        before = model.handles
        model.handles = handles = _one_list(model)
        # freeze everything, or all but what earlier methods train
        go_on = set() if freeze else {id(p) for h in self.over() for p in h.trained.values()}
        self.frozen = [p for p in model.parameters() if id(p) not in go_on]  # what it froze
        for p in self.frozen:
            p.freeze(self.number)
        # put the method on; where that fails, the model is as it was
        try:
            self.build()
        except BaseException:
            self.release()
            model.handles = before
            raise
        handles.append(self)

    # -- building and undoing ---------------------------------------------------------------------

    def build(self) -> None:
        """Wrap, clone and compute what the method asks for; all or nothing."""
        self.wrappers: dict[str, Wrapper] = {}
        self.clones: dict[str, Parameter] = {}
        self.head: set[str] = set()
        self.computed: dict[str, Parameter] = {}
        self.shared: dict[str, Parameter] = {}  # name -> one Parameter for many places
        self.root, self.slot = Shared(), ""  # what holds the others, and its name in the model
        self.swaps: list[Swap] = []
        try:
            # wrap what the targets name; clone or compute what is selected, and a new head
            self._wrap()
            self._choose()
            # let the method look at all of it; what many parts share gets a place in the tree
            self.method.prepare(self)
            self._place_shared()
        except BaseException:
            self.undo()
            raise
        # every part knows the handle; the handle knows what trains
        self._spread()
        self.trained = dict(self._trained())
        # what trained values began as; a clone's base remembers that
        self.start = {n: init.copy(p.data) for n, p in self.trained.items() if p.base is None}
        self.gradients: dict[str, list[Any]] = {}  # path -> norms, as numbers or 0-d arrays

    def swap(self, owner: Module, name: str, new: Any) -> None:
        """Set an attribute and remember what was there."""
        swap = Swap(owner, name, vars(owner).get(name, MISSING), new)
        self.swaps.append(swap)
        swap.put(new)

    def undo(self) -> None:
        """Put back whatever was swapped, last first: the very objects, no arithmetic."""
        for swap in reversed(self.swaps):
            swap.put(swap.old)

    def release(self) -> None:
        """Let train again what trained before."""
        for p in self.frozen:
            p.unfreeze(self.number)

    def redo(self) -> None:
        """Take an undo back."""
        for swap in self.swaps:
            swap.put(swap.new)

    def later(self) -> list[Handle]:
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
        parts, found = dict(self.model.named_modules()), owners(self.model)
        seen: set[int] = set()
        for path in match(self.model, getattr(self.method, "targets", ())):
            part = parts[path]
            if id(part) in seen:  # it is at two places, and is wrapped at both
                continue
            seen.add(id(part))
            wrapper = self.method.wrap(path, part, self.where(path))
            if wrapper is not None:
                for layer in list(wrapper.stack()):
                    layer.handle = self
                for owner, name in found[id(part)]:
                    self.swap(owner, name, wrapper)
                self.wrappers[path] = wrapper

    def _choose(self) -> None:
        """Clone what is selected, and a new head; or note what is computed."""
        method, parts = self.method, dict(self.model.named_modules())
        ends: dict[int, list[Place]] = {}  # of ties
        for place in self.model.places():
            ends.setdefault(id(place.parameter), []).append(place)
        for places in ends.values():
            path, p, *_, added = places[0]
            if added:
                continue
            part = path.rpartition(".")[0]
            if part in parts and getattr(parts[part], "new", False):  # a fresh head
                self.head.add(path)
                self.clones[path] = self._clone(places)
            elif method.uses("select") and method.select(path, p, self.where(path)):
                if method.uses("compute"):
                    self.computed[path] = p
                else:
                    self.clones[path] = self._clone(places)
        probes = not (method.uses("wrap") or method.uses("select"))  # a new head is all it wants
        if probes and not self.head:
            raise ValueError(f"{method} trains a new head alone, and this model has none: "
                             "load_model(…, head='linear'), or --head linear")  # fmt: skip
        if not (probes or self.wrappers or self.clones.keys() - self.head or self.computed):
            names = sorted({place.path.rpartition(".")[2] for place in self.model.places()})
            raise ValueError(f"{method} changes nothing in this model: no part of it fits. The "
                             f"model's parameters are called {', '.join(names)}")  # fmt: skip
        self._check_free()

    def _check_free(self) -> None:
        """Refuse to change a Parameter that an earlier handle computes, or no longer reads."""
        others = [h for h in self.model.handles if h is not self]
        layers = [(h, layer) for h in others for w in h.wrappers.values() for layer in w.stack()]
        replaced = {id(getattr(x.base, name)): h for h, x in layers for name in x.replaces}
        taken = replaced | {id(p): h for h in others for p in h.computed.values()}
        wanted = [(path, p, taken) for path, c in self.clones.items() for p in (c, c.base)]
        wanted += [(path, p, replaced) for path, p in self.computed.items()]
        for path, p, by in wanted:
            if id(p) in by:
                other = by[id(p)].method.name
                raise ValueError(f"{self.method.name!r} would change {path}, which {other!r} "
                                 f"replaces: merge or detach {other!r} first")  # fmt: skip

    def _clone(self, places: list[Place]) -> Parameter:
        """Put one trainable copy at all the places of one Parameter."""
        clone = places[0].parameter.clone()
        for owner, name in {(id(q.owner), q.name): (q.owner, q.name) for q in places}.values():
            self.swap(owner, name, clone)
        return clone

    def where(self, path: str) -> Where:
        """What the method may know about a place."""
        config, like = getattr(self.model, "config", None), self.frozen[0].data
        rng = Rng(getattr(self.method, "seed", 0), self.method.name, path)
        return Where(rng, layer_of(path), getattr(config, "layers", 0), config, like, self._share)

    def _share(self, name: str, make: Callable[[], Array]) -> Parameter:
        """The one Parameter of that name; made on the first call."""
        if name not in self.shared:
            self.shared[name] = Parameter(make())
        return self.shared[name]

    def _place_shared(self) -> None:
        """Give shared parameters that no wrapper holds a place at the root."""
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
        yield from sorted(self.clones.items(), key=lambda clone: clone[0] in self.head)

    # -- the forward pass and the step ------------------------------------------------------------

    def open_forward(self, values: dict[Any, Any]) -> None:
        """Put into `values` what is used instead of Parameters in the pass that begins, by id.

        Under `running(rng=…)` the key `self` has a generator for the wrappers' dropout.
        """
        if context().rows is not None:
            self._check_rows(context().rows or ())
        if self in context().off:
            for clone in self.clones.values():
                assert clone.base is not None
                values[id(clone)] = clone.base
            return
        rng = context().rng
        if rng is not None:  # each pass and each handle has masks of its own
            values[self] = rng.spawn("adapter", int(rng.raw(1)[0]))
        made = self.method.compute(self)
        values |= {id(self.computed[path]): t for path, t in made.items()}

    def _check_rows(self, rows: tuple[Any, ...]) -> None:
        """Refuse running(rows=...) where the rows of a batch cannot carry different adapters."""
        for handle in rows:
            if handle is not None and handle not in self.model.handles:
                raise ValueError(
                    f"running(rows=...) names {handle!r:.60}, which is not attached to this model; "
                    "give what attach() or load_adapter() returned, or None for the base"
                )
        why = "" if self.method.by_row else "changes parameters that all rows of a batch share"
        if self.head and any(handle is not self for handle in rows):
            why = "has a new head, which all rows of a batch share"
        if why and self not in context().off:
            raise ValueError(
                f"{self.method.name!r} {why}, so running(rows=...) cannot take it in some rows "
                "only: detach() it, or run one batch per adapter"
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
        """How many parameters train, without a freshly made head, as papers count."""
        return sum(p.size for path, p in self.trainable() if path not in self.head)

    def count_head(self) -> int:
        """How many parameters a freshly made head has, all of which train."""
        return sum(self.clones[path].size for path in self.head)

    def over(self) -> list[Handle]:
        """The handles that were attached before this one, and still are."""
        return [h for h in self.model.handles if h.number < self.number]

    def explain_grad(self, loss: Tensor, path: str) -> str:
        """How the gradient of a loss reaches a trained array, or where it ends.

        loss   a forward pass's, before backward()
        path   as the report shows it
        """
        named = dict(self.model.named_parameters()) | dict(self.trainable())
        if path not in named:
            raise ValueError(f"there is no array {path!r}; nearest is {nearest(path, named)!r}")
        return explain_grad(loss, named[path], path)

    # -- detaching ---------------------------------------------------------------

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

    def detach(self) -> None:
        """Put the base back, bit for bit; what was attached last goes first."""
        if self.ended != KEPT:
            self.need_live("detach")
        later = self.later()
        if later:
            raise RuntimeError(f"{self.method.name!r} was attached before "
                               f"{later[-1].method.name!r}: what was attached last is detached "
                               "first")  # fmt: skip
        for swap in self.swaps:
            if swap.stands() is not swap.new:
                raise RuntimeError(f"cannot detach {self.method.name!r}: {swap.name!r} was set "
                                   "to something else since; a merge of a later adapter is "
                                   "undone first")  # fmt: skip
        self.undo()
        self.release()
        self.end("detached")

    def need_live(self, verb: str) -> None:
        """Raises  RuntimeError if the handle was merged or detached before"""
        if self.ended:
            hint = (
                "; merge(keep=True) holds the base for a later detach()" if verb == "detach" else ""
            )
            raise RuntimeError(f"cannot {verb}: this adapter was {self.ended} before{hint}")

    def end(self, why: str) -> None:
        """The handle can do no more."""
        self.ended = why
        if self in self.model.handles:
            self.model.handles.remove(self)  # type: ignore[attr-defined]
        self._spread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.ended:
            self.detach()

    def __repr__(self) -> str:
        head = f" + {self.count_head():,} of a new head" if self.head else ""
        share = 100 * self.count() / self.total
        under = ", ".join(h.method.name for h in self.over())
        end = f", {self.ended}" if self.ended else f", over {under}" if under else ""
        return (f"Attached({self.method}: {self.count():,}{head} of {self.total:,} train, "
                f"{share:.3f} %{end})")  # fmt: skip


def _one_list(model: Module) -> list[Handle]:
    """The handles of a model and its parts in one list, which all of them are to share."""
    below = model.attached()
    lists = {id(part.handles): part.handles for _, part in model.named_modules()}
    own = [found for found in lists.values() if any(h in below for h in found)]
    return own[0] if len(own) == 1 and isinstance(own[0], list) else below
