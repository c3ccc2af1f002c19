"""Module: a tree of named parts, with their Parameters, state and summary.

Children and Parameters are plain attributes, in the order in which they were set. A path
(`blocks.3.attn.q_proj`) names a part. A wrapper, which a PEFT method puts around a part, adds
no component to the path: the part keeps its name, attached or not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minipeft.backend import Array, is_array, to_device, to_numpy, xp_of
from minipeft.engine.tensor import Tensor, changed, context
from minipeft.nn import init
from minipeft.nn.tree import Summary, tree


class Parameter(Tensor):
    """A leaf Tensor that a Module owns. `version` counts the times its data was set."""

    __slots__ = ("base", "frozen_by")
    owned = True

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)
        self.base: Parameter | None = None  # the frozen original, if this is a clone that trains
        self.frozen_by: dict[int, bool] = {}  # number of a handle -> did it train before?

    def freeze(self, number: int) -> None:
        """Freeze it for a handle."""
        self.frozen_by[number] = self.requires_grad
        self.requires_grad = False

    def unfreeze(self, number: int) -> None:
        """Let it train again if it did; where a later handle froze it too, when that one ends."""
        trained = self.frozen_by.pop(number, None)
        if trained is not None:
            later = min((n for n in self.frozen_by if n > number), default=None)
            if later is None:
                self.requires_grad = trained
            else:
                self.frozen_by[later] = trained

    def clone(self) -> Parameter:
        """A trainable copy that remembers its original."""
        new = Parameter(init.copy(self._data))
        new.base = self
        return new


class Place(NamedTuple):
    """Where a Parameter is in the tree: it is the attribute `owner.name`."""

    path: str  # dotted, wrappers left out
    parameter: Parameter
    owner: Module
    name: str
    added: bool  # by a wrapper, not part of the base model


class Module:
    """A part of a model. Subclasses set Parameters and Modules and define `forward`."""

    wraps = False  # True for a wrapper, whose `base` keeps the path
    added = False  # True for a part that a method added to the base model
    numbered = False  # True for a list of parts
    handles: Sequence[Any] = ()  # what is attached; attach() gives every part of a model one list

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ctx = context()
        if ctx.inside is not None and (
            not self.handles or self.handles in ctx.opened or not _entered(self, ctx)
        ):
            return self.forward(*args, **kwargs)
        with _forward_scope(self):
            return self.forward(*args, **kwargs)

    # -- the tree --------------------------------------------------------------------------------

    def children(self) -> Iterator[tuple[str, Module]]:
        """Direct parts by name; of a wrapper, its own and those of what it wraps."""
        for name, value in vars(self).items():
            if self.wraps and name == "base":
                yield from value.children()
            elif isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, part) for every part below, this one first."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def places(self) -> Iterator[Place]:
        """Every Place of the tree; a tied Parameter is yielded once per place."""
        yield from self._places("", False)

    def _places(self, prefix: str, added: bool) -> Iterator[Place]:
        lead = f"{prefix}." if prefix else ""
        added = added or self.added
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield Place(lead + name, value, self, name, added)
            elif self.wraps and name == "base":
                yield from value._places(prefix, False)
            elif isinstance(value, Module):
                yield from value._places(lead + name, added)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(path, Parameter), a shared one once, under its first path."""
        seen: set[int] = set()
        times: dict[str, int] = {}
        for place in self.places():
            if id(place.parameter) in seen:
                continue
            seen.add(id(place.parameter))
            n = times[place.path] = times.get(place.path, 0) + 1
            yield (place.path if n == 1 else f"{place.path}#{n}"), place.parameter

    def parameters(self) -> list[Parameter]:
        """All Parameters, shared ones once."""
        return [p for _, p in self.named_parameters()]

    def arrays(self) -> Iterator[tuple[Module, str, Array]]:
        """(owner, name, array) of arrays that are no Parameters: masks, codes of weights.

        The arrays themselves, no copies, as those of Parameters are.
        """
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from value.arrays()
            elif is_array(value):
                yield self, name, value

    def num_parameters(self) -> int:
        """How many parameters, shared ones once."""
        return sum(p.size for p in self.parameters())

    def get(self, path: str) -> Module:
        """The part at a path."""
        part = self
        for name in path.split(".") if path else []:
            found = dict(part.children()).get(name)
            if found is None:
                names = ", ".join(n for n, _ in part.children()) or "no parts"
                raise KeyError(f"no part {path!r}: {type(part).__name__} has {names}, not {name!r}")
            part = found
        return part

    def locate(self, path: str) -> tuple[Module, str]:
        """(owner, name of its attribute) of the part at a path, under any wrapper of the owner."""
        if not path:
            raise ValueError("the whole model is not a part of another: a path is needed")
        parent, _, name = path.rpartition(".")
        self.get(path)
        owner: Any = self.get(parent)
        while owner.wraps and name not in vars(owner):
            owner = owner.base
        return owner, name

    def set(self, path: str, module: Module) -> None:
        """Put another part at a path."""
        owner, name = self.locate(path)
        setattr(owner, name, module)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the base model's arrays by path, shared ones once.

        What a method attached is left out. So with something attached they are not what the model
        computes with, and a warning says so.
        """
        names = dict.fromkeys(h.method.name for h in self.attached())
        if names:
            warnings.warn(
                f"state_dict() holds the base alone, without {', '.join(map(repr, names))}, which "
                f"is attached to this {type(self).__name__}: merge() it first, or keep it with the "
                "adapter's save(). base_arrays() gives the same without a warning",
                stacklevel=2,
            )
        return {path: array.copy() for path, array in self.base_arrays().items()}

    def base_arrays(self) -> dict[str, np.ndarray]:
        """The base model's own arrays by path, shared ones once, whatever is attached.

        No copies: they change as the model trains.
        """
        state: dict[str, np.ndarray] = {}
        seen: set[int] = set()
        for place in self.places():
            base = original(place.parameter)
            if place.added or id(base) in seen:
                continue
            seen.add(id(base))
            if init.is_shape_only(base.data):
                raise RuntimeError(f"{place.path} has a shape but no values: nothing to save")
            state[place.path] = to_numpy(base.data)
        return state

    def attached(self) -> list[Any]:
        """The handles of this part, of those below it and of what it is part of, oldest first."""
        parts = {id(part): part for _, part in self.named_modules()}
        found = {h.number: h for part in parts.values() for h in part.handles}
        return [  # a part that two models share may have those of the other
            h
            for _, h in sorted(found.items())
            if id(h.model) in parts or any(part is self for _, part in h.model.named_modules())
        ]

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy arrays into the Parameters of the same paths, all or none.

        Raises  ValueError with a table of missing, unexpected and misshapen names, and of those
                that hold no real numbers; strict=False allows missing and unexpected ones
        """
        for name, p in self.fitting(state, strict).items():
            p.data = xp_of(p.data).array(state[name], dtype=p.dtype, order="C")

    def adopt_state_dict(self, state: dict[str, Any]) -> None:
        """`load_state_dict` for arrays that nobody else holds, as those just read from a file.

        They leave `state` one by one and become the Parameters' own, uncopied where dtype and
        order are right.
        """
        for name, p in self.fitting(state, True).items():
            p.data = xp_of(p.data).asarray(state.pop(name), dtype=p.dtype, order="C")

    def fitting(self, state: Mapping[str, Any], strict: bool = True) -> dict[str, Parameter]:
        """The Parameters that a state has arrays for, when all of these have been checked."""
        if self.attached():
            raise RuntimeError("load_state_dict on a model with a method attached: detach it first")
        own = dict(self.named_parameters())
        trouble = []
        for n in [n for n in own if n in state]:
            if own[n].shape != tuple(state[n].shape):
                trouble.append(f"  wrong shape  {n}: wanted {own[n].shape}, got {state[n].shape}")
            elif state[n].dtype.kind not in "fiu":
                trouble.append(f"  wrong type   {n}: wanted real numbers, got {state[n].dtype}")
        if strict:
            trouble += [f"  missing      {n}" for n in own if n not in state]
            trouble += [f"  unexpected   {n}" for n in state if n not in own]
        if trouble:
            shown = trouble[:12] + ([f"  … {len(trouble) - 12} more"] if len(trouble) > 12 else [])
            raise ValueError("the state does not fit the model:\n" + "\n".join(shown))
        return {name: p for name, p in own.items() if name in state}

    def to(self, device: str) -> None:
        """Move all arrays to "cpu" or "cuda"; "auto" takes a GPU where there is one."""
        for owner, name, array in list(self.arrays()):
            setattr(owner, name, to_device(array, device))
        for place in self.places():
            p: Parameter | None = place.parameter
            while p is not None:
                moved = to_device(p.data, device)
                if moved is not p.data:
                    p.data = moved
                p = p.base

    def summary(self) -> Summary:
        """A table of the parameters: path, shape, how many, whether they train, bytes."""
        return Summary(
            [
                (path, p.shape, p.size, p.requires_grad, p.size * p.dtype.itemsize)
                for path, p in self.named_parameters()
            ]
        )

    def __repr__(self) -> str:
        return tree(self)

    def __format__(self, spec: str) -> str:
        """Inside a sentence a model is one line: its class and its size."""
        return format(f"{type(self).__name__}({self.num_parameters():,} parameters)", spec)


def original(parameter: Parameter) -> Parameter:
    """The base model's own Parameter behind any clones."""
    while parameter.base is not None:
        parameter = parameter.base
    return parameter


def owners(module: Module) -> dict[int, list[tuple[Module, str]]]:
    """id of a part or a Parameter -> every (owner, name) whose attribute it is, in wrappers too."""
    found: dict[int, list[tuple[Module, str]]] = {}
    seen: set[int] = set()  # a part may be at two places: what is in it is not there twice

    def look(part: Module) -> None:
        seen.add(id(part))
        for name, value in vars(part).items():
            if isinstance(value, (Parameter, Module)):
                found.setdefault(id(value), []).append((part, name))
            if isinstance(value, Module) and id(value) not in seen:
                look(value)

    look(module)
    return found


def owners_of(module: Module, thing: Module | Parameter) -> list[tuple[Module, str]]:
    """Every (owner, name) whose attribute a part or a Parameter is."""
    return owners(module).get(id(thing), [])


def _entered(module: Module, ctx: Any) -> bool:
    """Whether a call inside another begins a pass of a model to which something is attached.

    It does for that model, and for a part of it that a Module around the model calls. It does not
    for a part that is shared with another model, where that one is being run.
    """
    models = [h.model for h in module.handles]
    if any(model is module for model in models):
        return True
    running = [h.model for handles in ctx.opened for h in handles]
    if any(part is module for model in running for _, part in model.named_modules()):
        return False
    outermost = {id(part) for _, part in ctx.inside.named_modules()}
    return any(id(model) in outermost for model in models)


@contextmanager
def _forward_scope(module: Module) -> Iterator[None]:
    """A pass begins: the outermost call, or, inside one, that of a model with methods attached.

    The methods compute what is used instead of Parameters in this pass.
    """
    first = next((p.parameter for p in module.places()), None)
    if first is not None and init.is_shape_only(first.data) and context().around is None:
        raise RuntimeError(
            f"{type(module).__name__} has shapes but no values (init='shape'): it can be counted, "
            "not run. Build it with init='normal' or load weights"
        )
    values = dict(context().values or {})  # recompute() of a whole model sets some
    opened = (*context().opened, module.handles)
    outer = context().inside
    with changed(inside=module if outer is None else outer, values=values, opened=opened):
        for handle in module.handles:
            handle.open_forward(values)
        yield


class ModuleList(Module):
    """Modules by number."""

    numbered = True

    def __init__(self, modules: list[Module]) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, i: int) -> Any:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"module {i} of {n}")
        return getattr(self, str(i % n))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))
