"""All methods in one formula: rows read off their classes and files, counted, or tried.

`minipeft methods` prints them. A method changes a vector h of the frozen model by Δh, as in table 1
of He et al. 2022; the field `Unified` of its file says in four parts the form of Δh, its insertion,
which h it is and what takes its place, or "outside: " and why the formula does not reach it.

Lecture  15_unified
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

from minipeft.contract import Attached, Method, NotMergeable, attach
from minipeft.methods import METHODS
from minipeft.models import build, preset

HEADED: dict[str, Any] = {"head": "linear", "classes": 2}  # for what trains a new head alone
PARTS = ("form", "insertion", "representation", "composition")  # of the field Unified


def told(method: type[Method], field: str) -> str:
    """What a field of the docstring of a method's file says."""
    text = sys.modules[method.__module__].__doc__ or ""
    found = re.search(rf"^{field} +(.+?)(?=  +Homework|\n\w|\n\n|\Z)", text, re.M | re.S)
    if found is None:
        raise ValueError(f"{method.__module__} has no field {field} in its docstring")
    return " ".join(found[1].split())


def merges(at: Attached) -> str:
    """Whether what is attached becomes plain weights: tried."""
    for quantized, answer in (("refuse", "yes"), ("dequantize", "yes, as floats")):
        with suppress(NotMergeable):
            at.merge(quantized=quantized)
            return answer
    return "no"


def method_map() -> list[dict[str, Any]]:
    """A row for each method: its name, way to compose, parameters, the four parts, and the rest."""
    rows = []
    for name, kind in METHODS.items():
        at = attach(build(replace(preset("tiny-gpt"), **HEADED)), kind())
        parts = (told(kind, "Unified") + 3 * "; ").split("; ")  # empty ones of what stands outside
        row = {"method": name, "compose": kind.compose, "parameters": at.count()}
        row |= zip(PARTS, parts, strict=False)
        row |= {"merges": merges(at), "by_row": at.method.by_row}
        row |= {"lecture": told(kind, "Lecture"), "file": kind.__module__.replace(".", "/") + ".py"}
        rows.append(row)
    return rows
