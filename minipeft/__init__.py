"""minipeft: parameter-efficient fine-tuning to read and to learn from.

The public names below are imported when they are first used, so `import minipeft` needs
NumPy alone and takes no time.
"""

import difflib
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

PUBLIC = {  # name -> the module it lives in
    "Tensor": "minipeft.engine",
    "no_grad": "minipeft.engine",
    "grad_check": "minipeft.engine",
    "load_model": "minipeft.checkpoint",
    "attach": "minipeft.methods",
    "load_adapter": "minipeft.methods",
    "METHODS": "minipeft.methods",
    "Full": "minipeft.methods.full",
    "TopK": "minipeft.methods.topk",
    "BitFit": "minipeft.methods.bitfit",
    "LoRA": "minipeft.methods.lora",
    "fit": "minipeft.train",
    "evaluate": "minipeft.train",
    "generate": "minipeft.generate",
    "doctor": "minipeft.doctor",
}

__all__ = [*PUBLIC, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)
    small = {public.lower(): public for public in PUBLIC}
    near = difflib.get_close_matches(name.lower(), small, 1)
    hint = f"did you mean {small[near[0]]!r}?" if near else f"it has {', '.join(PUBLIC)}"
    raise AttributeError(f"module 'minipeft' has no attribute {name!r}; {hint}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `minipeft.generate` the function, though a module of that name gets imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in PUBLIC or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
