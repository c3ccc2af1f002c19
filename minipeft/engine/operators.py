"""What one writes with a Tensor: `x + y`, `x[0]`, `x.sum(axis=1)`; the operations are in ops.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minipeft.engine.tensor import Tensor


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

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "a Tensor does not turn into an array by itself, because its gradient would be lost "
            "in silence. Use t.data (the array) or t.numpy() (on the host)"
        )

    # -- comparison: plain arrays, no gradient ----------------------------------------------------

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

    # -- arithmetic -------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return ops.sub(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return ops.sub(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return ops.mul(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return ops.mul(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return ops.div(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return ops.div(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return ops.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return ops.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def __neg__(self) -> Tensor:
        return ops.neg(self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index=index)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def exp(self) -> Tensor:
        return ops.exp(self)

    def log(self) -> Tensor:
        return ops.log(self)

    def sqrt(self) -> Tensor:
        return ops.sqrt(self)

    def tanh(self) -> Tensor:
        return ops.tanh(self)

    def sigmoid(self) -> Tensor:
        return ops.sigmoid(self)

    def relu(self) -> Tensor:
        return ops.relu(self)

    def abs(self) -> Tensor:
        return ops.abs(self)

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        return ops.clip(self, low=low, high=high)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.mean(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        return ops.var(self, axis=axis, keepdims=keepdims, ddof=ddof)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.min(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int) -> Tensor:
        return ops.cumsum(self, axis=axis)

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape=shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return ops.transpose(self, axes=given or None)

    @property
    def T(self) -> Tensor:
        return self.transpose()

    def swapaxes(self, a: int, b: int) -> Tensor:
        return ops.swapaxes(self, a=a, b=b)

    def squeeze(self, axis: Any = None) -> Tensor:
        return ops.squeeze(self, axis=axis)

    def expand_dims(self, axis: int) -> Tensor:
        return ops.expand_dims(self, axis=axis)


def _raw(x: Any) -> Any:
    return x.data if isinstance(x, Operators) else x


from minipeft.engine import ops  # noqa: E402  (ops builds on Tensor, which builds on this file)
