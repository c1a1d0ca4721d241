"""Octree convolution with int8 weights and activations, summed in int32; other layers exist as ONNX nodes `...Int8`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array
from zerograsp_edge.kernels.convolution import activation_code, check_rows, check_threads
from zerograsp_edge.kernels.native import core

__all__ = ["PackedInt8", "octree_conv_int8"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.int8]

MOST_TERMS = (2**31 - 1) // 127**2


class PackedInt8:
    """An int8 weight and its bias in the order the kernel reads them; made once.

    Args:
        weight: (cout, taps, cin) int8.
        scale: (cout,) float32, what an output's weights are multiplied by.
        bias: (cout,) float32.
        x_scale: the activations' scale: x is quantised to round(x / x_scale), from -127 to 127.

    Raises:
        ValueError: a dtype or shape is wrong, a scale is not positive, or sums could leave int32.
    """

    def __init__(self, weight: Bytes, scale: Floats, bias: Floats, x_scale: float) -> None:
        check_array("weight", weight, np.int8, ("cout", "taps", "cin"))
        self.cout, self.taps, self.cin = weight.shape
        check_array("scale", scale, np.float32, (self.cout,))
        check_array("bias", bias, np.float32, (self.cout,))
        if not 0 < x_scale < np.inf:
            raise ValueError(f"x_scale: expected a positive, finite number, got {x_scale}")
        if self.taps * self.cin > MOST_TERMS:
            raise ValueError(f"weight: expected taps * cin up to {MOST_TERMS}, got {self.taps * self.cin}")
        self.native = core.PackedInt8(weight, scale, bias, x_scale, False)
        self.workspace = core.Int8Workspace()


def octree_conv_int8(
    x: Floats,  # (M, cin)
    neighbours: NDArray[np.int32],  # (taps, N), -1 is missing
    weight: PackedInt8,
    activation: str = "none",
    *,
    trusted: bool = False,
    threads: int = 0,
) -> Floats:
    """(N, cout) = activation(sum over taps of quantised x[neighbours[k]] @ W[k] + bias).

    Args:
        trusted: indices are not checked.

    Raises:
        ValueError: a dtype or shape is wrong, or an index is out of range.
    """
    check_array("x", x, np.float32, ("M", weight.cin))
    check_array("neighbours", neighbours, np.int32, (weight.taps, "N"))
    if not trusted:
        check_rows("neighbours", neighbours, -1, len(x))
    check_threads(threads)
    y = np.empty((neighbours.shape[1], weight.cout), np.float32)
    core.octree_conv_int8(
        x, neighbours, weight.native, activation_code(activation), y, weight.workspace, threads
    )
    return y
