"""The PEFT contract: what a method is, how it is put on a model, saved, merged and taken off."""

from minipeft.contract.attached import Attached, attach
from minipeft.contract.method import Method, NotMergeable, Where, Wrapper
from minipeft.contract.targets import preview_targets

__all__ = [
    "Attached", "Method", "NotMergeable", "Where", "Wrapper", "attach", "preview_targets",
]  # fmt: skip
