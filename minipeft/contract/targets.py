"""Which parts of a model a pattern names, with help where it names none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from minipeft.checks import nearest
from minipeft.display.table import Table
from minipeft.nn import Linear, Module

Targets = str | Sequence[str]


def match(model: Module, targets: Targets) -> list[str]:
    """Paths of the parts that `targets` names, in the model's order.

    An entry is a whole path or the dotted end of one ("q_proj", "attn.q_proj"), where * stands
    for any one part; "all-linear" is every Linear but the head; "re:…" must match a path in full.
    Raises  ValueError for an entry that names nothing, with the names that exist
    """
    entries = [targets] if isinstance(targets, str) else list(targets)
    if not entries:
        raise ValueError("targets is empty: name at least one part, e.g. targets='q_proj'")
    parts = [(path, m) for path, m in model.named_modules() if path]
    hit: set[str] = set()
    for entry in entries:
        found = [path for path, m in parts if _fits(entry, path, m)]
        if not found:
            raise ValueError(_no_match(entry, parts))
        hit.update(found)
    return [path for path, _ in parts if path in hit]


def preview_targets(model: Module, targets: Targets) -> str:
    """The parts that `targets` names, one a line with its shape: look before you attach."""
    parts = dict(model.named_modules())
    rows = [(path, getattr(parts[path], "weight", None)) for path in match(model, targets)]
    shapes = [(path, "" if w is None else "x".join(map(str, w.shape))) for path, w in rows]
    return Table((), shapes).text()


def _fits(entry: str, path: str, module: Module) -> bool:
    if entry == "all-linear":
        return path.rpartition(".")[2] != "head" and is_linear(module)
    if entry.startswith("re:"):
        try:
            return re.fullmatch(entry[3:], path) is not None
        except (re.error, RecursionError) as error:
            raise ValueError(f"targets: {entry!r:.80} is no regular expression: {error}") from None
    wanted, names = entry.split("."), path.split(".")[-len(entry.split(".")) :]
    return len(wanted) == len(names) and all(
        w in ("*", n) for w, n in zip(wanted, names, strict=True)
    )


def is_linear(module: Module) -> bool:
    """Whether a part is a Linear, under whatever wraps it."""
    while module.wraps:
        module = vars(module)["base"]
    return isinstance(module, Linear)


def _no_match(entry: str, parts: list[tuple[str, Module]]) -> str:
    """An error that lists leaf names with their counts and shapes, and the nearest."""
    leaves: Counter[tuple[str, str]] = Counter()
    for path, m in parts:
        weight = getattr(m, "weight", None)
        if weight is not None:
            shape = "x".join(map(str, weight.shape))
            leaves[path.rpartition(".")[2], shape] += 1
    names = list(dict.fromkeys(name for name, _ in leaves))
    near = nearest(entry.rpartition(".")[2], names)
    hint = f" Did you mean {near!r}?" if near else ""
    rows = "\n".join(f"  {n:3d} x {name:10s} {shape}" for (name, shape), n in leaves.items())
    return (
        f"targets: {entry!r:.80} matches no part of the model.{hint} The parts with weights "
        f"are\n{rows}"
    )


def layer_of(path: str) -> int | None:
    """The number of the block that a path is in, or None."""
    found = re.match(r"blocks\.(\d+)(\.|$)", path)
    return int(found[1]) if found else None
