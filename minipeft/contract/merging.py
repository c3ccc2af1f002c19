"""Merging: an adapter becomes plain weights, with the rounding it costs, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minipeft.backend import Rng, xp_of
from minipeft.contract.handle import Handle
from minipeft.contract.method import NotMergeable, Wrapper
from minipeft.display.table import Table
from minipeft.engine import no_grad, running
from minipeft.nn import Linear, Module, Parameter
from minipeft.nn.copies import in_float64
from minipeft.nn.module import original, owners_of

POLICIES = ("refuse", "dequantize", "requantize")  # where a weight is stored as codes
BEYOND = 100  # times what rounding explains: an output that is off by more is wrong


def merge(at: Handle, untie: bool, quantized: str) -> MergeReport:
    """Put plain parts in place of an adapter's wrappers, clones and computed parameters."""
    parts, plain, computed, rows = plain_parts(at, untie, quantized)
    pairs = list(_pairs(at, parts))  # (new Parameter, old one); nothing is refused from here on
    for path, part in parts.items():
        _replace(at, at.wrappers[path], part)
    for path, clone in at.clones.items():
        pairs.append((plain[path], clone))
        _replace(at, clone, plain[path])
    for path, fixed in computed.items():
        p = at.computed[path]
        pairs.append((fixed, p))
        for owner, name in owners_of(at.model, p):
            at.swap(owner, name, fixed)
        _replace_below(at, p, fixed)
    if at.slot:
        at.swaps = [s for s in at.swaps if s.new is not at.root]
        delattr(at.model, at.slot)
    _pass_on(at, pairs)
    return MergeReport(rows)


def plain_parts(
    at: Handle, untie: bool, quantized: str
) -> tuple[dict[str, Module], dict[str, Parameter], dict[str, Parameter], list[dict[str, Any]]]:
    """By path, what will replace an adapter's wrappers, clones and computed parameters.

    The model is not changed yet. Raises as `Attached.merge` says
    Returns  the three, and the rows of a report
    """
    if quantized not in POLICIES:
        raise ValueError(f"merge: quantized must be one of {', '.join(POLICIES)}, "
                         f"got {quantized!r}")  # fmt: skip
    for wrapper in at.wrappers.values():
        wrapper.quantized = quantized
    if at.method.compose == "input":
        raise NotMergeable(f"{at.method.name!r} changes the input, not the weights: there is "
                           "nothing to merge it into")  # fmt: skip
    _check_order(at)
    with no_grad():
        made = dict(at.method.compute(at))
    own = {id(place.parameter) for w in at.wrappers.values() for place in w.own_places()}
    for path, p in at.computed.items():
        if id(p) in own:  # what a wrapper holds is merged with it
            p.data = made.pop(path, p).data
    parts = {path: _plain(at, path, wrapper, untie) for path, wrapper in at.wrappers.items()}
    plain = {path: Parameter(clone.data) for path, clone in at.clones.items()}
    computed = {path: Parameter(xp_of(t.data).array(t.data)) for path, t in made.items()}
    inside = [(path, p) for path, part in parts.items() for p in part.parameters()]
    for path, p in [*inside, *plain.items(), *computed.items()]:
        if not bool(xp_of(p.data).isfinite(p.data).all()):
            raise NotMergeable(f"{path}: the merged weight has NaN or infinite values")
    rows = [_compare(path, at.wrappers[path], part) for path, part in parts.items()]
    return parts, plain, computed, rows


def _check_order(at: Handle) -> None:
    """Where two methods touch the same thing, one of them must be merged first."""
    for path, wrapper in at.wrappers.items():
        *_, lowest = wrapper.stack()
        below = lowest.base
        if isinstance(below, Wrapper):
            under = below.handle.method.name
            raise NotMergeable(f"{path} has {under!r} under {at.method.name!r}: merge {under!r} "
                               f"first{below.before_merge}")  # fmt: skip
    mine = {id(p): path for path, w in at.wrappers.items() for p in w.base.parameters()}
    lower = {id(c.base): path for path, c in at.clones.items()}
    lower |= {id(p): path for path, p in at.computed.items()}
    for h in [h for h in at.model.handles if h is not at]:
        met = mine | lower if h.number < at.number else mine
        for p in [*h.clones.values(), *h.computed.values()]:
            if id(p) in met:
                raise NotMergeable(f"{met[id(p)]} is changed by {h.method.name!r} too: merge "
                                   f"{h.method.name!r} first")  # fmt: skip


def _replace(at: Handle, old: Any, new: Any) -> None:
    """Put `new` wherever `old` is, and wherever a later handle would put it back."""
    for owner, name in owners_of(at.model, old):
        setattr(owner, name, new)
    for h in [at, *at.later()]:
        for swap in h.swaps:
            swap.old = new if swap.old is old else swap.old
            swap.new = new if swap.new is old else swap.new
    if isinstance(old, Parameter):
        _replace_below(at, old, new)


def _replace_below(at: Handle, old: Parameter, new: Parameter) -> None:
    """Later handles that clone a Parameter, or compute from it, go on from the new one."""
    for h in at.later():
        h.computed = {path: new if p is old else p for path, p in h.computed.items()}
        for clone in h.clones.values():
            clone.base = new if clone.base is old else clone.base


def _pairs(at: Handle, parts: dict[str, Module]) -> Iterator[tuple[Parameter, Parameter]]:
    """Each Parameter of the merged parts, with the one whose place it takes."""
    for path, part in parts.items():
        old = dict(at.wrappers[path].base.named_parameters())
        other = next(iter(old.values()), at.frozen[0])  # a Tap has none
        yield from ((p, old.get(name, other)) for name, p in part.named_parameters())


def _pass_on(at: Handle, pairs: list[tuple[Parameter, Parameter]]) -> None:
    """What trained before a method was attached trains after it, in its merged form."""
    for new, old in pairs:
        before, new.requires_grad = original(old).frozen_by, False
        for h in at.model.handles:  # later ones hold it until their own end
            new.frozen_by[h.number] = h.number <= at.number and before.get(h.number, False)
            h.frozen.append(new)
    at.release()


def _plain(at: Handle, path: str, wrapper: Wrapper, untie: bool) -> Module:
    """The merged part, or an error that names the path."""
    tied = tied_with(at.model, path, wrapper)
    if tied and not untie:
        raise NotMergeable(f"{path} shares its weight with {tied}: merging one end parts the two. "
                           "merge(untie=True) allows it")  # fmt: skip
    try:
        return wrapper.merged()
    except NotMergeable as error:
        raise NotMergeable(f"{path}: {error}") from None


def tied_with(model: Module, path: str, wrapper: Wrapper) -> str:
    """The path of another place of one of the wrapped part's Parameters, or "".

    Where the part itself is at two places, its wrapper is at both: that is no tie.
    """
    own = {id(p) for p in wrapper.base.parameters()}
    inside: set[int] = set()
    part: Module = wrapper
    while isinstance(part, Wrapper):
        part = part.base
        inside |= {id(below) for _, below in part.named_modules()}
    for place in model.places():
        if id(place.parameter) in own and id(place.owner) not in inside:
            return place.path
    return ""


def _compare(path: str, wrapper: Wrapper, part: Module) -> dict[str, Any]:
    """Errors of a part's merged output, and of a Linear's weight, and what rounding explains.

    Raises  NotMergeable for an output that is wrong, unless it was told to round to codes
    """
    inputs = wrapper.probe(Rng(0, "merge", path))
    with no_grad(), running(rng=None, off=(), rows=None):
        before, after = wrapper(*inputs).data, part(*inputs).data
    eps = float(np.finfo(before.dtype).eps)
    size, error = float(abs(before).max()), float(abs(before - after).max())
    rounding = eps * inputs[0].shape[-1] ** 0.5 * size
    if not error <= BEYOND * rounding and wrapper.quantized != "requantize":
        raise NotMergeable(
            f"{path}: what {type(wrapper).__name__}.merged() makes is another function: its output "
            f"is off by {error:.1e}, rounding explains {rounding:.1e}"
        )
    row = {"path": path, "output": size, "output_error": error, "output_rounding": rounding}
    if isinstance(part, Linear):
        exact = in_float64(wrapper).merged().weight.data
        row["weight_error"] = float(abs(part.weight.data - exact).max())
        row["weight_rounding"] = eps * float(abs(exact).max())
        row["change"] = float(abs(exact - wrapper.weight.data.astype(exact.dtype)).max())
    return row


class MergeReport(Table):
    """Rows (a dict per part) that print as text and as HTML; `worst` is the largest error of y."""

    columns = (
        ("change", "largest |ΔW|"),
        ("weight_error", "error of W"),
        ("weight_rounding", "rounding of W"),
        ("output_error", "error of y"),
        ("output_rounding", "rounding of y"),
    )
    nothing = "merged: the trained parameters are the model's own now; nothing was rounded"

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.worst = max((r.get("output_error", 0.0) for r in rows), default=0.0)
        cells = [
            [r["path"], *(f"{r[key]:.2e}" if key in r else "" for key, _ in self.columns)]
            for r in rows
        ]
        super().__init__(["part", *(name for _, name in self.columns)], cells, "lr")

    def text(self) -> str:
        return super().text() if self.rows else self.nothing

    def html(self) -> str:
        return super().html() if self.rows else f"<p>{self.nothing}</p>"
