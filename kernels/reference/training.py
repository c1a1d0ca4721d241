"""The training operations in NumPy, in float64: the truth for the native kernels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.reference.convolution import Doubles, Floats, Ints, activate

__all__ = [
    "batch_statistics",
    "conv_weight_gradient",
    "gather_rows",
    "grid_weight_gradient",
    "normalise",
    "normalise_gradient",
]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def slope(z: Doubles, activation: str) -> Doubles:
    """Derivative of `activate` at z; the kink of `relu` has slope 0."""
    if activation == "gelu":
        density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return 0.5 * _erfc(-z / math.sqrt(2)) + z * density
    if activation == "elu":
        return np.where(z > 0, 1.0, np.exp(np.minimum(z, 0)))
    if activation == "relu":
        return np.where(z > 0, 1.0, 0.0)
    return np.ones_like(z)


def conv_weight_gradient(
    x: Floats,  # (M, cin)
    neighbours: Ints | None,  # (taps, N), -1 is missing; None: one tap, row by row
    dy: Floats,  # (N, cout)
) -> Doubles:
    table = np.arange(len(dy))[None] if neighbours is None else neighbours
    dw = np.zeros((len(table), x.shape[1], dy.shape[1]))
    for tap, rows in zip(dw, table, strict=True):
        there = rows >= 0
        tap += x[rows[there]].astype(np.float64).T @ dy[there]
    return dw


def grid_weight_gradient(
    x: Floats,  # (N, r, r, r, cin)
    dy: Floats,  # (N, r, r, r, cout)
) -> Doubles:
    r = x.shape[1]
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    shifted = (padded[:, i : i + r, j : j + r, k : k + r] for i, j, k in np.ndindex(3, 3, 3))
    return np.stack([np.einsum("nxyzi,nxyzo->io", part, dy) for part in shifted])


def batch_statistics(x: Floats) -> tuple[Doubles, Doubles]:
    values = x.astype(np.float64)
    return values.mean(axis=0), values.var(axis=0)


def normalise(
    x: Floats,  # (N, C)
    mean: Floats,
    inverse_deviation: Floats,
    weight: Floats,
    bias: Floats,
    activation: str = "none",
    residual: Floats | None = None,
) -> Doubles:
    z = (x.astype(np.float64) - mean) * inverse_deviation * weight + bias
    return activate(z if residual is None else z + residual, activation)


def normalise_gradient(
    dy: Floats,
    x: Floats,
    mean: Floats,
    inverse_deviation: Floats,
    weight: Floats,
    bias: Floats,
    activation: str = "none",
    residual: Floats | None = None,
) -> tuple[Doubles, Doubles, Doubles, Doubles | None]:
    xhat = (x.astype(np.float64) - mean) * inverse_deviation
    z = xhat * weight + bias + (0 if residual is None else residual)
    g: NDArray[np.float64] = dy * slope(z, activation)
    centred = g - g.mean(axis=0) - xhat * (g * xhat).mean(axis=0)
    dx = weight.astype(np.float64) * inverse_deviation * centred
    return dx, (g * xhat).sum(axis=0), g.sum(axis=0), None if residual is None else g


def gather_rows(x: Floats, index: Ints, base: Floats | None = None) -> Doubles:
    y = np.zeros((len(index), x.shape[1])) if base is None else base.astype(np.float64)
    there = index >= 0
    y[there] += x[index[there]]
    return y
