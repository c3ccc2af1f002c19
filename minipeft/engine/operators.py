"""What one writes with a Tensor: `x + y`, `x[0]`, `x.sum(axis=1)`; the operations are in ops.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from minipeft.backend import is_whole

ops: Any = None  # the module ops.py, which is built on Tensor, puts itself here

LOST = (
    "does not turn into an array by itself, because its gradient would be lost in silence. "
    "Use t.data (the array) or t.numpy() (on the host)"
)


class Operators:
    """The operators and methods of a Tensor."""

    __slots__ = ()
    __array_ufunc__ = None  # so that ndarray @ Tensor calls Tensor.__rmatmul__
    if TYPE_CHECKING:
        data: Any

    # -- numbers --------------------------------------------------------------------------------

    def item(self) -> float:
        """The one number of a one-element tensor."""
        if self.data.size != 1:
            raise ValueError(f"item() needs one element, got shape {self.data.shape}")
        return self.data.item()

    def __len__(self) -> int:
        if not self.data.shape:
            raise TypeError("a scalar Tensor has no length")
        return self.data.shape[0]

    def __float__(self) -> float:
        return float(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __round__(self, digits: int | None = None) -> float:
        return round(self.item(), digits)

    def __format__(self, spec: str) -> str:
        """f"{loss:.2f}" for one element; without a format what print shows."""
        return format(self.item(), spec) if spec else str(self)

    # -- NumPy's functions ------------------------------------------------------------------------

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"a Tensor {LOST}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = function.__name__
        if name in ("shape", "ndim", "size"):
            return function(args[0].data, *args[1:], **kwargs)
        ours = next((o for o, kind in (("t", type(self)), ("ops", ops)) if hasattr(kind, name)), "")
        use = f". {ours}.{name}(…) keeps it" if ours else ""
        raise TypeError(f"np.{name} of a Tensor: it {LOST}{use}")

    # -- what has no gradient: plain arrays ----------------------------------------------------

    __hash__ = object.__hash__  # by identity, though == compares elements

    def __eq__(self, other: Any) -> Any:
        return self.data == _raw(other)

    def __ne__(self, other: Any) -> Any:
        return self.data != _raw(other)

    def __lt__(self, other: Any) -> Any:
        return self.data < _raw(other)

    def __le__(self, other: Any) -> Any:
        return self.data <= _raw(other)

    def __gt__(self, other: Any) -> Any:
        return self.data > _raw(other)

    def __ge__(self, other: Any) -> Any:
        return self.data >= _raw(other)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Any:
        return self.data.argmax(axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Any:
        return self.data.argmin(axis=axis, keepdims=keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Any:
        return self.data.any(axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Any:
        return self.data.all(axis=axis, keepdims=keepdims)

    # -- arithmetic -------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Self:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Self:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Self:
        return ops.sub(self, other)

    def __rsub__(self, other: Any) -> Self:
        return ops.sub(other, self)

    def __mul__(self, other: Any) -> Self:
        return ops.mul(self, other)

    def __rmul__(self, other: Any) -> Self:
        return ops.mul(other, self)

    def __truediv__(self, other: Any) -> Self:
        return ops.div(self, other)

    def __rtruediv__(self, other: Any) -> Self:
        return ops.div(other, self)

    def __pow__(self, other: Any) -> Self:
        return ops.pow(self, other)

    def __rpow__(self, other: Any) -> Self:
        return ops.pow(other, self)

    def __matmul__(self, other: Any) -> Self:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Self:
        return ops.matmul(other, self)

    def __pos__(self) -> Self:
        return self

    def __neg__(self) -> Self:
        return ops.neg(self)

    def __abs__(self) -> Self:
        return ops.abs(self)

    def __getitem__(self, index: Any) -> Self:
        return ops.getitem(self, index=index)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    # -- elementwise ------------------------------------------------------------------------------

    def exp(self) -> Self:
        return ops.exp(self)

    def log(self) -> Self:
        return ops.log(self)

    def sqrt(self) -> Self:
        return ops.sqrt(self)

    def tanh(self) -> Self:
        return ops.tanh(self)

    def sigmoid(self) -> Self:
        return ops.sigmoid(self)

    def relu(self) -> Self:
        return ops.relu(self)

    def abs(self) -> Self:
        return ops.abs(self)

    def clip(self, low: float | None = None, high: float | None = None) -> Self:
        return ops.clip(self, low=low, high=high)

    def astype(self, dtype: Any) -> Self:
        return ops.astype(self, dtype=dtype)

    # -- reductions -------------------------------------------------------------------------------

    def sum(self, axis: Any = None, keepdims: bool = False) -> Self:
        return ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Self:
        return ops.mean(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Self:
        return ops.var(self, axis=axis, keepdims=keepdims, ddof=ddof)

    def max(self, axis: Any = None, keepdims: bool = False) -> Self:
        return ops.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Self:
        return ops.min(self, axis=axis, keepdims=keepdims)

    # -- shapes -----------------------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Self:
        return ops.reshape(self, shape=shape[0] if len(shape) == 1 else shape)

    def flatten(self) -> Self:
        return ops.reshape(self, shape=-1)

    ravel = flatten

    def transpose(self, *axes: Any) -> Self:
        given = axes[0] if len(axes) == 1 and not is_whole(axes[0]) else axes
        return ops.transpose(self, axes=given or None)

    @property
    def T(self) -> Self:
        return self.transpose()

    def swapaxes(self, a: int, b: int) -> Self:
        return ops.swapaxes(self, a=a, b=b)

    def expand_dims(self, axis: Any) -> Self:
        return ops.expand_dims(self, axis=axis)


def _raw(x: Any) -> Any:
    return x.data if isinstance(x, Operators) else x
