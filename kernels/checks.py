"""Argument checks of the kernels: the error names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class CapacityError(ValueError):
    """A frame needs more room than a buffer that was allocated beforehand has."""

    def __init__(self, limit: str, needed: int, capacity: int) -> None:
        super().__init__(f"{limit}: {needed} needed, but the buffer holds {capacity}; raise this limit")
        self.limit, self.needed, self.capacity = limit, needed, capacity


def _spell(shape: Sequence[int | str | None]) -> str:
    return (
        "(" + ", ".join("*" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
    )


def check_array(name: str, array: Any, dtype: DTypeLike, shape: Sequence[int | str | None]) -> None:
    """Raises unless `array` is a C-contiguous array of `dtype` whose shape fits: None or a letter fits any
    extent."""

    def wanted() -> str:
        return f"a C-contiguous {np.dtype(dtype).name} array of shape {_spell(shape)}"

    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected {wanted()}, got {type(array).__name__}")
    fits = array.ndim == len(shape) and all(
        not isinstance(n, int) or n == have for n, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits or not array.flags.c_contiguous:
        layout = "C-contiguous" if array.flags.c_contiguous else "non-contiguous"
        raise ValueError(
            f"{name}: expected {wanted()}, got {layout} {array.dtype.name} {_spell(array.shape)}"
        )


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raises unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")


def output(
    name: str, buffer: NDArray[Any] | None, dtype: DTypeLike, shape: Sequence[int], axis: int | None = 0
) -> NDArray[Any]:
    """A C-contiguous array of `shape` to write to: the start of `buffer`, or a new one without a buffer.

    `axis` is the one whose length depends on the data; the buffer may be longer there. With axis 1 the buffer
    is used as flat memory, so that a (27, capacity) buffer gives contiguous (27, n).
    """
    if buffer is None:
        return np.empty(tuple(shape), dtype)
    if axis is None:
        check_array(name, buffer, dtype, shape)
    else:
        check_array(name, buffer, dtype, [None if i == axis else n for i, n in enumerate(shape)])
        if buffer.shape[axis] < shape[axis]:
            raise CapacityError(name, int(shape[axis]), int(buffer.shape[axis]))
    if not buffer.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    if axis == 0:
        return buffer[: shape[0]]
    return buffer.reshape(-1)[: int(np.prod(shape))].reshape(shape)
