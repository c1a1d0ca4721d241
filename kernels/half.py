"""Half precision, the element type of features and weights on a device: conversions at the speed of memory.

Kernels compute in float32 and round once, where they store: to the nearest, ties to even, beyond 65504 infinite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array
from zerograsp_edge.kernels.convolution import check_threads
from zerograsp_edge.kernels.native import core

__all__ = ["round_to_half", "widen_half"]


def round_to_half(x: NDArray[np.float32], *, threads: int = 0) -> NDArray[np.float16]:
    """`x.astype(np.float16)` for a C-contiguous float32 array of any shape."""
    check_array("x", x, np.float32, [None] * np.ndim(x))
    check_threads(threads)
    half = np.empty(x.shape, np.float16)
    core.round_to_half(x.reshape(-1), half.reshape(-1), threads)
    return half


def widen_half(x: NDArray[np.float16], *, threads: int = 0) -> NDArray[np.float32]:
    """`x.astype(np.float32)` for a C-contiguous float16 array of any shape; exact."""
    check_array("x", x, np.float16, [None] * np.ndim(x))
    check_threads(threads)
    wide = np.empty(x.shape, np.float32)
    core.widen_half(x.reshape(-1), wide.reshape(-1), threads)
    return wide
