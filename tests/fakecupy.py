"""A strict stand-in for CuPy: NumPy inside, CuPy's refusals outside, and a count of transfers.

It proves that code does not lean on what CuPy lacks: implicit conversion to NumPy, lists and
NumPy arrays as inputs, keywords that CuPy's functions do not have (tests/cupy_names.txt), 0-d
results as scalars, an error for an index out of range. It proves nothing of numbers or speed
on a GPU.

    with device() as xp:            # xp is this module, as minipeft.backend finds it
        model.to("cuda")
        transfers.clear()
"""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from minipeft import backend
from tests.cupy_names import UFUNC, table

NAME = "fakecupy"
SCALARS = (bool, int, float, complex, np.generic)
SHAPES = ("reshape", "transpose", "broadcast_to", "zeros", "ones", "full", "empty", "split")
PROTOCOL = ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides")


class Transfers:
    """Bytes that went up and came down, one entry each."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.up, self.down = [], []


transfers = Transfers()


class ndarray:
    """A device array. Its numbers come to the host by get() and its kin alone."""

    __array_priority__ = 100.0
    __hash__ = None

    def __init__(self, a):
        self._a = a

    def __getattr__(self, name):
        if name in PROTOCOL:
            return getattr(self._a, name)
        if f"ndarray.{name}" not in table():
            raise AttributeError(f"cupy.ndarray has no attribute {name!r}")

        def method(*args, **kwargs):
            _check_keywords(f"ndarray.{name}", kwargs)
            _refuse_host(name, [*args, *kwargs.values()])
            return _wrap(getattr(self._a, name)(*map(_bare, args), **_bare(kwargs)))

        return method

    @property
    def T(self):
        return ndarray(self._a.T)

    @property
    def flags(self):
        return SimpleNamespace(c_contiguous=self._a.flags.c_contiguous)

    def get(self):
        transfers.down.append(self._a.nbytes)
        return self._a.copy()

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    __index__ = __int__

    def __array__(self, *args, **kwargs):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (ndarray(np.asarray(row)) for row in self._a)

    def __getitem__(self, index):
        return _wrap(self._a[_wrapped_round(self._a, index)])

    def __setitem__(self, index, value):
        _refuse_host("__setitem__", [value])
        self._a[_wrapped_round(self._a, index)] = _bare(value)


def _operator(name, reflected=False):
    ufunc = getattr(np, name)

    def apply(self, other):
        if not isinstance(other, (ndarray, *SCALARS)):
            if hasattr(type(other), "__array_ufunc__"):  # a Tensor, or a NumPy array
                if type(other).__array_ufunc__ is None:
                    return NotImplemented
            raise TypeError(f"Unsupported type {type(other)}")
        a, b = (_bare(other), self._a) if reflected else (self._a, _bare(other))
        return _wrap(ufunc(a, b))

    def in_place(self, other):
        _refuse_host(name, [other])
        ufunc(self._a, _bare(other), out=self._a, casting="same_kind")
        return self

    return apply, in_place


for _dunder, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
    "floordiv": "floor_divide", "mod": "remainder", "matmul": "matmul", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
}.items():  # fmt: skip
    _apply, _in_place = _operator(_name)
    setattr(ndarray, f"__{_dunder}__", _apply)
    setattr(ndarray, f"__r{_dunder}__", _operator(_name, reflected=True)[0])
    setattr(ndarray, f"__i{_dunder}__", _in_place)
for _dunder, _name in {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal",
                       "gt": "greater", "ge": "greater_equal"}.items():  # fmt: skip
    setattr(ndarray, f"__{_dunder}__", _operator(_name)[0])
for _dunder, _name in {"neg": "negative", "abs": "abs", "invert": "invert"}.items():
    setattr(ndarray, f"__{_dunder}__", lambda self, n=_name: _wrap(getattr(np, n)(self._a)))
ndarray.__module__ = NAME


class Function:
    """A function of CuPy's: NumPy's, with CuPy's keywords and refusals."""

    def __init__(self, name, function):
        self.name, self.function = name, function

    def __call__(self, *args, **kwargs):
        _check_keywords(self.name, kwargs)
        if self.name in ("asarray", "array"):
            return _upload(*args, **kwargs)
        _refuse_host(self.name, [*args, *kwargs.values()])
        return _wrap(self.function(*map(_bare, args), **_bare(kwargs)))

    def at(self, target, index, values):
        _refuse_host(f"{self.name}.at", [target, index, values])
        index = _wrapped_round(target._a, index)
        self.function.at(target._a, index, _bare(values))


def _upload(a, dtype=None, **kwargs):
    """asarray: what comes from the host is counted."""
    if isinstance(a, ndarray):
        return ndarray(np.asarray(a._a, dtype=dtype))
    made = np.array(_bare(a), dtype=dtype)
    if not isinstance(a, SCALARS):
        transfers.up.append(made.nbytes)
    return ndarray(made)


def _check_keywords(name, kwargs):
    parameters = UFUNC if table()[name] is None else table()[name]
    unknown = set(kwargs) - {p.lstrip("*") for p in parameters}
    if unknown and "**kwargs" not in parameters:
        raise TypeError(f"cupy.{name}() got an unexpected keyword argument {unknown.pop()!r}")


def _refuse_host(name, values):
    """Lists of numbers and NumPy arrays are no inputs; shapes and lists of arrays are."""
    for value in values:
        if isinstance(value, np.ndarray):
            raise TypeError(f"cupy.{name}: Unsupported type {type(value)}")
        if isinstance(value, list):
            if name not in SHAPES and any(not isinstance(v, ndarray) for v in value):
                raise TypeError(f"cupy.{name}: Unsupported type {type(value)}")


def _wrapped_round(a, index):
    """An index as NumPy takes it. CuPy does not raise for integers out of range: it goes round."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, (np.ndarray, list)) for p in parts):
        raise TypeError("an index from the host would be an implicit transfer")
    axis, made = 0, []
    for p in parts:
        if p is Ellipsis:
            axis = a.ndim - sum(q is not None and q is not Ellipsis for q in parts) + axis
        elif isinstance(p, ndarray) and p.dtype == bool:
            p, axis = p._a, axis + p.ndim
        elif isinstance(p, ndarray):
            p, axis = p._a.astype(np.int64) % a.shape[axis], axis + 1
        elif p is not None:
            axis += 1
        made.append(p)
    return tuple(made) if isinstance(index, tuple) else made[0]


def _bare(x):
    """The NumPy array inside."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
        return type(x)(_bare(v) for v in x)
    return {k: _bare(v) for k, v in x.items()} if isinstance(x, dict) else x


def _wrap(y):
    """NumPy's results as device arrays; 0-d ones too."""
    if isinstance(y, (np.ndarray, np.generic)):
        return ndarray(np.asarray(y))
    return (
        [_wrap(v) for v in y]
        if isinstance(y, list)
        else (tuple(map(_wrap, y)) if isinstance(y, tuple) else y)
    )


class Module:
    """The namespace: what the table has, and types."""

    ndarray = ndarray
    __version__ = "stand-in"

    def __init__(self, lead=""):
        self._lead = lead
        if not lead:
            self.linalg = Module("linalg.")
            stream = SimpleNamespace(synchronize=lambda: None)
            self.cuda = SimpleNamespace(is_available=lambda: True,
                                        get_current_stream=lambda: stream)  # fmt: skip

    def __getattr__(self, name):
        ours = getattr(np.linalg if self._lead else np, name, None)
        if isinstance(ours, type) and issubclass(ours, np.generic):
            return ours
        if self._lead + name in table():
            return Function(self._lead + name, ours)
        if name in ("inf", "nan", "pi", "newaxis", "e"):
            return ours
        raise AttributeError(f"module 'cupy' has no attribute {self._lead + name!r}")


@contextmanager
def device():
    """Let `device="cuda"` and xp_of find the stand-in."""
    module, found = Module(), backend._cupy
    sys.modules[NAME] = module
    backend.DEVICE_LIBRARIES.add(NAME)
    backend._cupy = lambda: module
    transfers.clear()
    try:
        yield module
    finally:
        backend._cupy = found
        backend.DEVICE_LIBRARIES.discard(NAME)
        del sys.modules[NAME]
