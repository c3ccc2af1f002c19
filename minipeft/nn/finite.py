"""NaN and infinity: noticed where a model's answer is read, and traced to where they began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minipeft.backend import Array, xp_of
from minipeft.engine.explain import watching
from minipeft.engine.tensor import no_grad


class NonFinite(FloatingPointError):
    """A model gave NaN or infinity; the message says where it began."""


def is_finite(array: Array) -> bool:
    """Whether no element is NaN or infinite."""
    return bool(xp_of(array).isfinite(array).all())


def check_logits(model: Any, logits: np.ndarray, again: Callable[[], object]) -> None:
    """Refuse rows of logits that have no largest one: NaN is in them, or infinity.

    A token may be forbidden by a logit of -infinity.
    logits  (..., V)
    again   runs the forward pass once more, for the message
    Raises  NonFinite
    """
    if not np.isfinite(logits.max(axis=-1)).all():
        raise NonFinite(f"the model's logits are not finite. {where_it_began(model, again)}")


def where_it_began(model: Any, again: Callable[[], object]) -> str:
    """Run a forward pass again: which operation went bad first, and which parameters are bad."""
    names = {id(p): path for path, p in model.named_parameters()}
    bad = [path for path, p in model.named_parameters() if not is_finite(p.data)]
    found: list[str] = []

    def watch(name: str, y: Array, args: tuple[Any, ...]) -> None:
        if not found and not is_finite(y):
            of = [names[id(a)] for a in args if id(a) in names]
            found.append(f"{name}({', '.join(of) or 'activations'}) of shape {y.shape}")

    with no_grad(), watching(watch), np.errstate(all="ignore"):
        again()
    return (
        f"First operation that went bad: {found[0] if found else 'none in a second pass'}. "
        f"Parameters with NaN or infinity: {', '.join(bad[:4]) or 'none'}"
    )


class NonFiniteLoss(NonFinite):
    """The loss became NaN or infinite; the message says where it began."""
