"""Every method by name, and the way to put one, or a saved one, on a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minipeft.checks import nearest
from minipeft.contract import file as adapter_file
from minipeft.contract.attached import Attached
from minipeft.contract.method import Method
from minipeft.methods.adalora import AdaLoRA
from minipeft.methods.adapter import Adapter
from minipeft.methods.bitfit import BitFit
from minipeft.methods.dora import DoRA
from minipeft.methods.fact import FacT
from minipeft.methods.full import Full
from minipeft.methods.ia3 import IA3
from minipeft.methods.infix import Infix
from minipeft.methods.linear_probe import LinearProbe
from minipeft.methods.ln_tuning import LNTuning
from minipeft.methods.lnlora import LNLoRA
from minipeft.methods.loftq import LoftQ
from minipeft.methods.lora import LoRA
from minipeft.methods.magnitude import Magnitude
from minipeft.methods.movement import Movement
from minipeft.methods.parallel import Parallel
from minipeft.methods.pissa import PiSSA
from minipeft.methods.prefix import Prefix
from minipeft.methods.prompt import Prompt
from minipeft.methods.ptuning import PTuning
from minipeft.methods.qlora import QLoRA
from minipeft.methods.quant import Quantize
from minipeft.methods.steering import Steering
from minipeft.methods.subspace import Subspace
from minipeft.methods.topk import TopK
from minipeft.methods.vera import VeRA
from minipeft.nn import Module
from minipeft.storage.checkpoint import CheckpointError

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "topk": TopK,
    "bitfit": BitFit,
    "ln_tuning": LNTuning,
    "linear_probe": LinearProbe,
    "lora": LoRA,
    "quant": Quantize,
    "qlora": QLoRA,
    "subspace": Subspace,
    "dora": DoRA,
    "vera": VeRA,
    "pissa": PiSSA,
    "adalora": AdaLoRA,
    "loftq": LoftQ,
    "magnitude": Magnitude,
    "movement": Movement,
    "ia3": IA3,
    "prefix": Prefix,
    "adapter": Adapter,
    "parallel": Parallel,
    "prompt": Prompt,
    "ptuning": PTuning,
    "infix": Infix,
    "lnlora": LNLoRA,
    "fact": FacT,
    "steering": Steering,
}


def get_method(name: str) -> type[Method]:
    """The class of a method's name; an unknown one is an error that names the nearest."""
    if name not in METHODS:
        near = nearest(name, METHODS)
        raise ValueError(f"no method {name!r}; nearest is {near!r}, all: {', '.join(METHODS)}")
    return METHODS[name]


def load_adapter(
    model: Module, path: str | Path, methods: Mapping[str, type[Method]] = METHODS, *,
    beside: bool = False,
) -> Attached:  # fmt: skip
    """Attach what a file holds: its method with its fields, and its trained arrays.

    methods  where the file's method is looked up; give your own dict for your own methods
    beside   it was trained without the adapters that are attached, of which each is to act in
             rows of its own (`running(rows=…)`): only what all rows share must be as it was
    Raises   CheckpointError if the file is damaged, or was made for another base or method
    """
    arrays, metadata = adapter_file.read(path)
    name = metadata["method"]
    if name not in methods:
        raise CheckpointError(
            f"{path} holds a {name[:40]!r} adapter; known are {', '.join(methods)}"
        )
    method = adapter_file.method_of(path, methods[name], metadata["fields"])
    apart = [h for h in model.attached() if beside and h.method.by_row and h.count()]
    over = [h for h in model.attached() if h not in apart]
    adapter_file.check_base(model, method, over, path, metadata)
    adapter_file.check_sizes(model, method, path, arrays)
    try:
        handle = Attached(model, method)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be attached: {error!s:.800}") from error
    try:
        adapter_file.put(handle, adapter_file.checked(handle, path, arrays))
    except BaseException:
        handle.detach()
        raise
    return handle


CONTRACT = ("Method", "NotMergeable", "Where", "Wrapper", "attach", "preview_targets")


def __getattr__(name: str) -> Any:
    if name in CONTRACT:  # an AttributeError's text would be lost in `from … import`
        raise ImportError(f"{name} has moved: from minipeft.contract import {name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "METHODS", "AdaLoRA", "Adapter", "BitFit", "DoRA", "FacT", "Full", "IA3", "Infix", "LNLoRA",
    "LNTuning", "LinearProbe", "LoRA", "LoftQ", "Magnitude", "Movement", "Parallel", "QLoRA",
    "Quantize", "PiSSA", "Prefix", "PTuning", "Prompt", "Steering", "Subspace", "TopK", "VeRA",
    "get_method", "load_adapter",
]  # fmt: skip
