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
    "octree_conv_int8",
    "octree_downsample",
    "octree_downsample_int8",
    "octree_linear",
    "octree_linear_int8",
    "octree_mlp",
    "octree_mlp_int8",
    "octree_residual",
    "octree_residual_int8",
    "octree_upsample",
    "octree_upsample_int8",
    "quantize",
    "quantize_weight",
]

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]
Bytes = NDArray[np.int8]

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


# ---- int8 ----
#
# Symmetric: a value is an int8 from -127 to 127 times a scale, one for an activation and one for every output channel
# of a weight. Weights have the inner dimension last: (cout, taps, cin). Products are summed exactly (in int32; here in
# int64, which is the same as long as 128 * 128 * taps * cin fits), then scaled, and quantised again where there is a
# `y_scale`.


def quantize(x: Floats, scale: float) -> Bytes:
    """int8: x / scale in float32, rounded half to even, held within +-127; NaN becomes 0."""
    quotient = np.rint(np.asarray(x, np.float32) / np.float32(scale))
    return np.nan_to_num(np.clip(quotient, -127, 127), nan=0).astype(np.int8)


def quantize_weight(weight: Floats) -> tuple[Bytes, NDArray[np.float32]]:
    """(taps, cin, cout) to (cout, taps, cin) int8 and scales (cout,): the largest weight of an output becomes 127."""
    by_output = np.ascontiguousarray(weight.transpose(2, 0, 1), np.float32)
    largest = np.abs(by_output).max(axis=(1, 2))
    scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    return np.clip(np.rint(by_output / scale[:, None, None]), -127, 127).astype(np.int8), scale


def octree_conv_int8(
    x: Bytes,  # (M, cin)
    x_scale: float,
    neighbours: Ints,  # (taps, N), -1 is missing
    weight: Bytes,  # (cout, taps, cin)
    weight_scale: Floats,  # (cout,)
    bias: Floats,
    activation: str = "none",
    y_scale: float | None = None,
) -> Doubles | Bytes:
    """float64, or int8 with a `y_scale`."""
    total = np.zeros((neighbours.shape[1], len(weight)), np.int64)
    for k, rows in enumerate(neighbours):
        there = rows >= 0
        total[there] += x[rows[there]].astype(np.int64) @ weight[:, k].astype(np.int64).T
    return _finished(total, x_scale, weight_scale, bias, activation, y_scale)


def octree_downsample_int8(
    x: Bytes,  # (8 S, cin)
    x_scale: float,
    children: Ints,  # (N,), -1 without children
    weight: Bytes,  # (cout, 8, cin)
    weight_scale: Floats,
    bias: Floats,
    activation: str = "none",
    y_scale: float | None = None,
) -> Doubles | Bytes:
    rows = np.where(children >= 0, 8 * children + np.arange(8)[:, None], -1)
    return octree_conv_int8(x, x_scale, rows, weight, weight_scale, bias, activation, y_scale)


def octree_upsample_int8(
    x: Bytes,  # (R, cin)
    x_scale: float,
    split_rows: Ints,  # (S,)
    weight: Bytes,  # (8, cout, cin)
    weight_scale: Floats,  # (cout,)
    bias: Floats,
    activation: str = "none",
    skip: Floats | None = None,  # (M, cout), not quantised
    skip_index: Ints | None = None,  # (8 S,)
    y_scale: float | None = None,
) -> Doubles | Bytes:
    parents = x[split_rows].astype(np.int64)
    total = np.stack([parents @ child.astype(np.int64).T for child in weight], axis=1).reshape(
        -1, weight.shape[1]
    )
    y = np.asarray(_finished(total, x_scale, weight_scale, bias, activation, None), np.float64)
    if skip is not None and skip_index is not None:
        there = skip_index >= 0
        y[there] += skip[skip_index[there]]
    return y if y_scale is None else quantize(y, y_scale)


def octree_linear_int8(
    x: Bytes,  # (N, cin)
    x_scale: float,
    weight: Bytes,  # (cout, 1, cin)
    weight_scale: Floats,
    bias: Floats,
    activation: str = "none",
    y_scale: float | None = None,
) -> Doubles | Bytes:
    total = x.astype(np.int64) @ weight[:, 0].astype(np.int64).T
    return _finished(total, x_scale, weight_scale, bias, activation, y_scale)


def octree_mlp_int8(
    x: Bytes, x_scale: float,
    w1: Bytes, w1_scale: Floats, b1: Floats, hidden_scale: float,
    w2: Bytes, w2_scale: Floats, b2: Floats, y_scale: float | None = None,
) -> Doubles | Bytes:  # fmt: skip
    hidden = octree_linear_int8(x, x_scale, w1, w1_scale, b1, "gelu", hidden_scale)
    return octree_linear_int8(np.asarray(hidden, np.int8), hidden_scale, w2, w2_scale, b2, "none", y_scale)


def octree_residual_int8(
    x: Bytes, x_scale: float, neighbours: Ints,
    wa: Bytes, wa_scale: Floats, ba: Floats, first_scale: float,
    w3: Bytes, w3_scale: Floats, b3: Floats, second_scale: float,
    wb: Bytes, wb_scale: Floats, bb: Floats,
    wc: Bytes | None = None, wc_scale: Floats | None = None, y_scale: float | None = None,
) -> Doubles | Bytes:  # fmt: skip
    """Both hidden values are int8; the shortcut is not rounded."""
    first = np.asarray(octree_linear_int8(x, x_scale, wa, wa_scale, ba, "gelu", first_scale), np.int8)
    second = np.asarray(
        octree_conv_int8(first, first_scale, neighbours, w3, w3_scale, b3, "gelu", second_scale), np.int8
    )
    if wc is None or wc_scale is None:
        shortcut = x * np.float64(x_scale)
    else:
        shortcut = np.asarray(
            octree_linear_int8(x, x_scale, wc, wc_scale, np.zeros(len(wc), np.float32)), np.float64
        )
    y = activate(shortcut + octree_linear_int8(second, second_scale, wb, wb_scale, bb), "elu")
    return y if y_scale is None else quantize(y, y_scale)


def _finished(
    total: NDArray[np.int64],
    x_scale: float,
    weight_scale: Floats,
    bias: Floats,
    activation: str,
    y_scale: float | None,
) -> Doubles | Bytes:
    y = activate(total * (np.float64(x_scale) * weight_scale.astype(np.float64)) + bias, activation)
    return y if y_scale is None else quantize(y, y_scale)
