"""Merging: an adapter becomes plain weights, with the rounding it costs, part by part."""

from __future__ import annotations

import copy
import html
from typing import TYPE_CHECKING, Any

import numpy as np

from minipeft.backend import Rng, xp_of
from minipeft.engine import Tensor, no_grad
from minipeft.methods.base import NotMergeable, Wrapper
from minipeft.nn import Linear, Module, Parameter

if TYPE_CHECKING:
    from minipeft.methods.attached import Attached

ROWS = 16  # of random inputs on which merged and unmerged parts are compared


def merge(at: Attached, untie: bool) -> MergeReport:
    """Put plain parts in place of an adapter's wrappers, clones and computed parameters."""
    if at.method.compose == "input":
        raise NotMergeable(f"{at.method.name!r} changes the input, not the weights: there is nothing "
                           "to merge it into")  # fmt: skip
    new = {path: _plain(at, path, wrapper, untie) for path, wrapper in at.wrappers.items()}
    report = MergeReport([_compare(path, at.wrappers[path], part) for path, part in new.items()])
    alone = list(at.model.handles) == [at]
    trained = {id(p): flag for p, flag in at.flags}
    for path, part in new.items():
        old = at.wrappers[path]
        for p in part.parameters():
            p.requires_grad = alone
        owner, name = at.model.locate(path)
        while vars(owner)[name] is not old:  # a later method's wrapper stands around it
            owner, name = vars(owner)[name], "base"
        at.swap(owner, name, part)
    for clone in (*at.clones.values(), *at.whole.values()):
        assert clone.base is not None
        clone.requires_grad = alone and trained[id(clone.base)]
        fixed = Parameter(clone.data, clone.requires_grad)
        _swap_everywhere(at, clone, fixed)
    with no_grad():
        computed = [(p, compute(p)) for _, p, compute in at.reparams]
    for p, value in computed:
        _swap_everywhere(at, p, Parameter(value.data.copy(), alone and trained[id(p)]))
    if at.slot:
        delattr(at.model, at.slot)
        at.changes.append((at.model, at.slot, at.shared))
    if alone:
        for p, flag in at.flags:
            p.requires_grad = flag
    return report


def _swap_everywhere(at: Attached, old: Parameter, new: Parameter) -> None:
    for place in list(at.model.places()):
        if place.parameter is old:
            at.swap(place.owner, place.name, new)


def _plain(at: Attached, path: str, wrapper: Wrapper, untie: bool) -> Module:
    """The merged part, or an error that names the path."""
    if isinstance(vars(wrapper)["base"], Wrapper):
        under = vars(wrapper)["base"].owner.method.name
        raise NotMergeable(f"{path} has {under!r} under {at.method.name!r}: merge {under!r} first")
    tied = _tied_with(at.model, path, wrapper)
    if tied and not untie:
        raise NotMergeable(f"{path} shares its weight with {tied}: merging one end parts the two. "
                           "merge(untie=True) allows it")  # fmt: skip
    try:
        part = wrapper.merged()
    except NotMergeable as error:
        raise NotMergeable(f"{path}: {error}") from None
    for p in part.parameters():
        if not bool(xp_of(p.data).isfinite(p.data).all()):
            raise NotMergeable(f"{path}: the merged weight has NaN or infinite values")
    return part


def _tied_with(model: Module, path: str, wrapper: Wrapper) -> str:
    """The path of another place of one of the wrapped part's Parameters, or ""."""
    own = {id(p) for p in vars(wrapper)["base"].parameters()}
    for place in model.places():
        if id(place.parameter) in own and place.path.rpartition(".")[0] != path:
            return place.path
    return ""


def _compare(path: str, wrapper: Wrapper, part: Module) -> dict[str, Any]:
    """Errors of the merged weight and of its output, and what rounding explains of them."""
    row: dict[str, Any] = {"path": path}
    if not isinstance(part, Linear):
        return row
    exact = _in_float64(wrapper).merged().weight.data
    weight = part.weight.data
    eps = float(np.finfo(weight.dtype).eps)
    largest = float(abs(exact).max())
    row["weight_error"] = float(abs(weight - exact).max())
    row["weight_rounding"] = eps * largest
    xp = xp_of(weight)
    x = xp.asarray(Rng(0, "merge", path).normal((ROWS, part.d_in)), dtype=weight.dtype)
    with no_grad():
        before, after = wrapper(Tensor(x)).data, part(Tensor(x)).data
    row["output"] = float(abs(before).max())
    row["output_error"] = float(abs(before - after).max())
    row["output_rounding"] = eps * part.d_in**0.5 * row["output"]
    row["change"] = float(abs(exact - wrapper.weight.data.astype(exact.dtype)).max())
    return row


def _in_float64(module: Any) -> Any:
    """A copy of a part whose Parameters are float64; nothing is shared with the original."""
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, Parameter):
            setattr(twin, name, Parameter(value.data.astype(np.float64), value.requires_grad))
        elif isinstance(value, Module):
            setattr(twin, name, _in_float64(value))
    return twin


class MergeReport:
    """Rows (a dict per part) that print as text and as HTML; `worst` is the largest output error."""

    columns = (
        ("path", "part"),
        ("change", "largest |ΔW|"),
        ("weight_error", "error of W"),
        ("weight_rounding", "rounding of W"),
        ("output_error", "error of y"),
        ("output_rounding", "rounding of y"),
    )

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    @property
    def worst(self) -> float:
        return max((r.get("output_error", 0.0) for r in self.rows), default=0.0)

    def _cells(self) -> list[list[str]]:
        def text(value: Any) -> str:
            return value if isinstance(value, str) else "" if value is None else f"{value:.2e}"

        return [[text(row.get(key)) for key, _ in self.columns] for row in self.rows]

    def __str__(self) -> str:
        if not self.rows:
            return "merged: the trained parameters are the model's own now; nothing was rounded"
        rows = [[title for _, title in self.columns], *self._cells()]
        widths = [max(len(r[i]) for r in rows) for i in range(len(self.columns))]
        return "\n".join(
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                      for i, (c, w) in enumerate(zip(r, widths, strict=True)))
            for r in rows
        )  # fmt: skip

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        if not self.rows:
            return f"<p>{self}</p>"
        body = "".join(row(c, "td") for c in self._cells())
        return f"<table>{row([title for _, title in self.columns], 'th')}{body}</table>"
