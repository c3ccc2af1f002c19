"""What CuPy has: its functions, methods and their keywords, as tests/cupy_names.txt lists them.

`python -m tests.cupy_names` prints the table anew where CuPy is installed; no GPU is needed.
A line is a name and its parameters; "ufunc" stands for x1, x2, out, dtype, casting.
"""

import inspect
import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("cupy_names.txt")
UFUNC = ("out", "dtype", "casting")


@cache
def table():
    """name -> parameter names, or None for a ufunc; methods as "ndarray.sum"."""
    found = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, *parameters = line.split()
            found[name] = None if parameters == ["ufunc"] else tuple(parameters)
    return found


def describe(thing):
    """The parameters of a function or a method as the table has them; None if it has none."""
    if type(thing).__name__ == "ufunc":
        return ["ufunc"]
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):
        text = (thing.__doc__ or "").strip().split("\n")[0].partition("(")[2]
        if not text:
            return None
    names = []
    for part in re.sub(r"\[[^]]*\]|'[^']*'|<[^>]*>", "", text).strip("()").split(","):
        name = part.split("->")[0].split("=")[0].split(":")[0].strip(" )(").split(" ")[-1]
        if name and name not in ("self", "/", "*"):
            names.append(name)
    return names


def lines():
    """The table of the installed CuPy."""
    import cupy
    import numpy

    parts = [("", cupy, numpy), ("linalg.", cupy.linalg, numpy.linalg),
             ("ndarray.", cupy.ndarray, numpy.ndarray)]  # fmt: skip
    for lead, ours, theirs in parts:
        for name in sorted(dir(ours)):
            thing = getattr(ours, name)
            if name.startswith("_") or isinstance(thing, type) or not callable(thing):
                continue
            parameters = describe(thing) if hasattr(theirs, name) or lead == "ndarray." else None
            if parameters is not None:
                yield " ".join([lead + name, *parameters])


if __name__ == "__main__":
    import cupy

    print(f"# CuPy {cupy.__version__}: its functions that NumPy has too, and the array's methods")
    print("\n".join(lines()))
