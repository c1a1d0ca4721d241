"""What training needs beyond inference: weight gradients, batch normalisation with its activation, row gathering.

The gradient of a convolution's input is a convolution too:
`octree_conv(dy, neighbours, PackedWeight.mirrored(weight))`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array
from zerograsp_edge.kernels.convolution import activation_code, check_rows, check_threads, grid_table
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.workspace import Workspace

__all__ = [
    "batch_statistics",
    "conv_weight_gradient",
    "gather_rows",
    "grid_weight_gradient",
    "normalise",
    "normalise_gradient",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def conv_weight_gradient(
    x: Floats,  # (M, cin)
    neighbours: Ints | None,  # (taps, N)
    dy: Floats,  # (N, cout)
    *,
    trusted: bool = False,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> Floats:
    """Gradient of the weight of `octree_conv`: dw[k] = sum over i of x[neighbours[k, i]]^T dy[i].

    Args:
        x: (M, cin) float32, the convolution's input.
        neighbours: (taps, N) int32, rows of x; -1 is a missing neighbour. None for a dense layer: one tap,
            row i of x beside row i of dy.
        dy: (N, cout) float32, gradient of its output.
        trusted: skip the check of the table's entries, which reads all of it.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (taps, cin, cout) float32.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape or an index out of range.
    """
    check_array("x", x, np.float32, ("M", "cin"))
    taps = 1
    if neighbours is None:
        check_array("dy", dy, np.float32, (len(x), "cout"))
    else:
        check_array("neighbours", neighbours, np.int32, ("taps", "N"))
        check_array("dy", dy, np.float32, (neighbours.shape[1], "cout"))
        if not trusted:
            check_rows("neighbours", neighbours, -1, len(x))
        taps = len(neighbours)
    check_threads(threads)
    dw = np.empty((taps, x.shape[1], dy.shape[1]), np.float32)
    core.conv_weight_gradient(x, neighbours, dy, dw, _scratch(workspace), threads)
    return dw


def grid_weight_gradient(
    x: Floats,  # (N, r, r, r, cin)
    dy: Floats,  # (N, r, r, r, cout)
    *,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> Floats:
    """Gradient of the weight of `grid_conv`, (27, cin, cout) float32.

    Args:
        x: (N, r, r, r, cin) float32, the convolution's input, r <= 32.
        dy: (N, r, r, r, cout) float32, gradient of its output.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype or shape.
    """
    check_array("x", x, np.float32, ("N", "r", "r", "r", "cin"))
    count, r, cin = x.shape[0], x.shape[1], x.shape[4]
    check_array("x", x, np.float32, ("N", r, r, r, cin))
    check_array("dy", dy, np.float32, (count, r, r, r, "cout"))
    check_threads(threads)
    dw = np.empty((27, cin, dy.shape[4]), np.float32)
    flat_x, flat_dy = x.reshape(count * r**3, cin), dy.reshape(count * r**3, dy.shape[4])
    core.grid_weight_gradient(flat_x, grid_table(r), flat_dy, dw, _scratch(workspace), threads)
    return dw


def batch_statistics(
    x: Floats,  # (N, C)
    *,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> tuple[Floats, Floats]:
    """Mean and biased variance of every column of x, (C,) float32 each.

    Args:
        x: (N, C) float32, N > 0.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Raises:
        TypeError, ValueError: x has the wrong type, dtype or shape, or no rows.
    """
    _check_matrix(x)
    check_threads(threads)
    mean, variance = np.empty((2, x.shape[1]), np.float32)
    core.batch_statistics(x, mean, variance, _scratch(workspace), threads)
    return mean, variance


def normalise(
    x: Floats,  # (N, C)
    mean: Floats,  # (C,)
    inverse_deviation: Floats,  # (C,)
    weight: Floats,  # (C,)
    bias: Floats,  # (C,)
    activation: str = "none",
    residual: Floats | None = None,  # (N, C)
    *,
    threads: int = 0,
) -> Floats:
    """activation((x - mean) * inverse_deviation * weight + bias + residual), (N, C) float32.

    Args:
        x: (N, C) float32, N > 0.
        mean, inverse_deviation: (C,) float32, for instance of `batch_statistics`: 1 / sqrt(variance + eps).
        weight, bias: (C,) float32.
        activation: none, gelu (exact), elu (alpha 1) or relu.
        residual: (N, C) float32, added before the activation.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype or shape.
    """
    _check_norm(x, mean, inverse_deviation, weight, bias, residual)
    check_threads(threads)
    y = np.empty_like(x)
    core.normalise(
        x, mean, inverse_deviation, weight, bias, activation_code(activation), residual, y, threads
    )
    return y


def normalise_gradient(
    dy: Floats,  # (N, C)
    x: Floats,  # (N, C)
    mean: Floats,  # (C,)
    inverse_deviation: Floats,  # (C,)
    weight: Floats,  # (C,)
    bias: Floats,  # (C,)
    activation: str = "none",
    residual: Floats | None = None,  # (N, C)
    *,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> tuple[Floats, Floats, Floats, Floats | None]:
    """Gradients of `normalise` where mean and inverse deviation are functions of x: a training step's.

    Args:
        dy: (N, C) float32, gradient of the output; the other arguments are those of `normalise`.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        Gradients of x (N, C), weight (C,), bias (C,) and residual (N, C), None without one.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype or shape.
    """
    _check_norm(x, mean, inverse_deviation, weight, bias, residual)
    check_array("dy", dy, np.float32, x.shape)
    check_threads(threads)
    dx = np.empty_like(x)
    dresidual = None if residual is None else np.empty_like(x)
    dweight, dbias = np.empty((2, x.shape[1]), np.float32)
    code = activation_code(activation)
    core.normalise_gradient(
        dy, x, mean, inverse_deviation, weight, bias, code, residual, dx, dweight, dbias, dresidual,
        _scratch(workspace), threads,
    )  # fmt: skip
    return dx, dweight, dbias, dresidual


def gather_rows(
    x: Floats,  # (M, C)
    index: Ints,  # (N,)
    base: Floats | None = None,  # (N, C)
    *,
    trusted: bool = False,
    threads: int = 0,
) -> Floats:
    """base[i] + x[index[i]], (N, C) float32; -1 adds nothing and no base counts as zeros.

    Args:
        x: (M, C) float32.
        index: (N,) int32, rows of x or -1.
        base: (N, C) float32.
        trusted: skip the check of the index's entries.
        threads: 0 takes all of OpenMP's.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape or an index out of range.
    """
    check_array("x", x, np.float32, ("M", "C"))
    check_array("index", index, np.int32, ("N",))
    if base is not None:
        check_array("base", base, np.float32, (len(index), x.shape[1]))
    if not trusted:
        check_rows("index", index, -1, len(x))
    check_threads(threads)
    y = np.empty((len(index), x.shape[1]), np.float32)
    core.gather_rows(x, index, base, y, threads)
    return y


def _scratch(workspace: Workspace | None) -> Any:
    return core.Workspace() if workspace is None else workspace.convolution


def _check_matrix(x: Floats) -> None:
    check_array("x", x, np.float32, ("N", "C"))
    if 0 in x.shape:
        raise ValueError(f"x: expected at least one row and one column, got shape {x.shape}")


def _check_norm(
    x: Floats, mean: Floats, inverse_deviation: Floats, weight: Floats, bias: Floats, residual: Floats | None
) -> None:
    _check_matrix(x)
    per_channel = (
        ("mean", mean), ("inverse_deviation", inverse_deviation), ("weight", weight), ("bias", bias)
    )  # fmt: skip
    for name, array in per_channel:
        check_array(name, array, np.float32, (x.shape[1],))
    if residual is not None:
        check_array("residual", residual, np.float32, x.shape)
