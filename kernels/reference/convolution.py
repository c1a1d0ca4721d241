"""Octree convolutions in NumPy: one matrix product per tap, in float64; the truth for the native kernels.

Weights are plain arrays, (taps, cin, cout) with a bias of (cout,). Results are float64, unrounded.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "activate",
    "grid_conv",
    "octree_conv",
    "octree_downsample",
    "octree_linear",
    "octree_mlp",
    "octree_residual",
    "octree_upsample",
]

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def activate(x: Floats, activation: str) -> Doubles:
    """`gelu` is x * Phi(x) with the normal distribution function, `elu` has alpha 1."""
    values: Doubles = np.asarray(x, np.float64)
    if activation == "none":
        return values
    if activation == "gelu":
        return 0.5 * values * _erfc(-values / math.sqrt(2))
    if activation == "elu":
        return np.where(values > 0, values, np.expm1(np.minimum(values, 0)))
    if activation == "relu":
        return np.maximum(values, 0)
    raise ValueError(f"activation: expected none, gelu, elu or relu, got {activation!r}")


def octree_conv(
    x: Floats,  # (M, cin)
    neighbours: Ints,  # (taps, N), -1 is missing
    weight: Floats,
    bias: Floats,
    activation: str = "none",
) -> Doubles:
    y = np.tile(bias.astype(np.float64), (neighbours.shape[1], 1))
    for rows, tap in zip(neighbours, weight.astype(np.float64), strict=True):
        there = rows >= 0
        y[there] += x[rows[there]] @ tap
    return activate(y, activation)


def octree_downsample(
    x: Floats,  # (8 S, cin)
    children: Ints,  # (N,), -1 without children
    weight: Floats,  # (8, cin, cout)
    bias: Floats,
    activation: str = "none",
) -> Doubles:
    rows = np.where(children >= 0, 8 * children + np.arange(8)[:, None], -1)
    return octree_conv(x, rows, weight, bias, activation)


def octree_upsample(
    x: Floats,  # (R, cin)
    split_rows: Ints,  # (S,)
    weight: Floats,  # (8, cin, cout)
    bias: Floats,
    activation: str = "none",
    skip: Floats | None = None,  # (M, cout)
    skip_index: Ints | None = None,  # (8 S,)
) -> Doubles:
    parents = x[split_rows].astype(np.float64)
    y = np.stack([parents @ child for child in weight.astype(np.float64)], axis=1)
    y = activate(y.reshape(-1, weight.shape[2]) + bias, activation)
    if skip is not None and skip_index is not None:
        there = skip_index >= 0
        y[there] += skip[skip_index[there]]
    return y


def octree_residual(
    x: Floats,  # (N, C)
    neighbours: Ints,  # (taps, N)
    wa: Floats,  # (1, C, H)
    ba: Floats,
    w3: Floats,  # (taps, H, H)
    b3: Floats,
    wb: Floats,  # (1, H, Co)
    bb: Floats,
    wc: Floats | None = None,  # (1, C, Co)
) -> Doubles:
    inner = activate(x.astype(np.float64) @ wa[0] + ba, "gelu")
    inner = octree_conv(inner, neighbours, w3, b3, "gelu")
    shortcut = x.astype(np.float64) if wc is None else x.astype(np.float64) @ wc[0]
    return activate(shortcut + inner @ wb[0] + bb, "elu")


def octree_linear(x: Floats, weight: Floats, bias: Floats, activation: str = "none") -> Doubles:
    return activate(x.astype(np.float64) @ weight[0] + bias, activation)


def octree_mlp(x: Floats, w1: Floats, b1: Floats, w2: Floats, b2: Floats) -> Doubles:
    return activate(x.astype(np.float64) @ w1[0] + b1, "gelu") @ w2[0] + b2


def grid_conv(
    x: Floats,  # (N, r, r, r, cin)
    weight: Floats,  # (27, cin, cout)
    bias: Floats,
    activation: str = "none",
    residual: Floats | None = None,  # (N, r, r, r, cout)
) -> Doubles:
    r = x.shape[1]
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((*x.shape[:4], weight.shape[2])) + bias
    for tap, (dx, dy, dz) in zip(weight, np.ndindex(3, 3, 3), strict=True):
        y += padded[:, dx : dx + r, dy : dy + r, dz : dz + r] @ tap
    if residual is not None:
        y += residual
    return activate(y, activation)
