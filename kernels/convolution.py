"""Octree convolutions and their relatives: gather, matrix product, bias and activation in one pass.

Features are row-major float32 without padding, one row per octree node. Weights are packed once, into
`PackedWeight` or `ResidualWeights`. Every index is checked before a kernel runs; the nodes of the ONNX
domain, whose tables come from other nodes of the graph, don't check. NaN in, NaN out, with every activation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array, check_range, output
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.workspace import Workspace

__all__ = [
    "PackedWeight",
    "ResidualWeights",
    "grid_conv",
    "octree_conv",
    "octree_downsample",
    "octree_linear",
    "octree_mlp",
    "octree_residual",
    "octree_upsample",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

ACTIVATIONS = {"none": 0, "gelu": 1, "elu": 2, "relu": 3}  # as `enum class Activation` of core/activation.h
MAX_OUTPUTS = 3072  # kMaxOutputs of core/convolution.h
MAX_GRID_RESOLUTION = 32


class PackedWeight:
    """A weight and its bias in the order in which the kernels read them. Immutable; any thread may use it."""

    def __init__(self, weight: Floats, bias: Floats | None = None) -> None:
        """
        Args:
            weight: (taps, cin, cout) float32, tap k multiplies the neighbours in row k of the table;
                cout <= 3072.
            bias: (cout,) float32; None for zeros.

        Raises:
            TypeError: an argument is no array.
            ValueError: an argument has the wrong dtype or shape.
        """
        _check_weight("weight", weight, ("taps", "cin", "cout"))
        if bias is not None:
            check_array("bias", bias, np.float32, (weight.shape[2],))
        self._packed = core.PackedWeight(weight, bias)

    @classmethod
    def of_siblings(cls, weight: Floats, bias: Floats | None = None) -> PackedWeight:
        """For `octree_downsample`: (8, cin, cout) as one tap of 8 cin inputs, as siblings are adjacent."""
        _check_weight("weight", weight, (8, "cin", "cout"))
        return cls(weight.reshape(1, -1, weight.shape[2]), bias)

    @classmethod
    def mirrored(cls, weight: Floats) -> PackedWeight:
        """For the gradient of the input of `octree_conv` or `grid_conv` with this weight (taps, cin, cout).

        The convolution of dy (N, cout) with it, by the same table, is dx (N, cin). That needs a symmetric
        table, as that of an octree depth is: j is i's neighbour at tap k if i is j's at tap taps - 1 - k.

        Raises:
            TypeError, ValueError: the weight has the wrong type, dtype or shape.
        """
        _check_weight("weight", weight, ("taps", "cin", "cout"))
        check_range("weight's inputs", weight.shape[1], 1, MAX_OUTPUTS)
        mirrored = cls.__new__(cls)
        mirrored._packed = core.PackedWeight.mirrored(weight)
        return mirrored

    @property
    def taps(self) -> int:
        return int(self._packed.taps)

    @property
    def cin(self) -> int:
        return int(self._packed.cin)

    @property
    def cout(self) -> int:
        return int(self._packed.cout)

    def __repr__(self) -> str:
        return f"PackedWeight(taps={self.taps}, cin={self.cin}, cout={self.cout})"


class ResidualWeights:
    """The weights of one `octree_residual` block. Immutable; any thread may use it."""

    def __init__(
        self, wa: Floats, ba: Floats, w3: Floats, b3: Floats, wb: Floats, bb: Floats, wc: Floats | None = None
    ) -> None:
        """
        Args:
            wa, ba: (1, C, H), (H,) float32, into the bottleneck.
            w3, b3: (taps, H, H), (H,) float32, the convolution over neighbours.
            wb, bb: (1, H, Co), (Co,) float32, out of the bottleneck.
            wc: (1, C, Co) float32, the shortcut's projection (its bias belongs into `bb`); None for the
                identity, with Co = C.

        Raises:
            TypeError: an argument is no array.
            ValueError: an argument has the wrong dtype or shape.
        """
        _check_weight("wa", wa, (1, "C", "H"))
        channels, hidden = wa.shape[1:]
        _check_weight("w3", w3, ("taps", hidden, hidden))
        _check_weight("wb", wb, (1, hidden, channels if wc is None else "Co"))
        outputs = wb.shape[2]
        for name, bias, count in (("ba", ba, hidden), ("b3", b3, hidden), ("bb", bb, outputs)):
            check_array(name, bias, np.float32, (count,))
        if wc is not None:
            _check_weight("wc", wc, (1, channels, outputs))
        self.taps, self.cin, self.cout = w3.shape[0], channels, outputs
        self._packed = core.ResidualWeights(wa, ba, w3, b3, wb, bb, wc)

    def __repr__(self) -> str:
        return f"ResidualWeights(taps={self.taps}, cin={self.cin}, cout={self.cout})"


def octree_conv(
    x: Floats,  # (M, cin)
    neighbours: Ints,  # (taps, N)
    weight: PackedWeight,
    activation: str = "none",
    *,
    out: Floats | None = None,
    trusted: bool = False,
    threads: int = 0,
) -> Floats:
    """y[i] = activation(sum over k of x[neighbours[k, i]] @ W[k] + bias), without the missing neighbours.

    Args:
        x: (M, cin) float32.
        neighbours: (taps, N) int32, rows of x; -1 is a missing neighbour.
        weight: packed (taps, cin, cout).
        activation: none, gelu (exact), elu (alpha 1) or relu.
        out: (capacity, cout) float32 buffer with capacity >= N that shares no memory with x.
        trusted: skip the check of the table's entries, which reads all of it; for tables of this package.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (N, cout) float32.

    Raises:
        CapacityError: `out` is too small.
        TypeError, ValueError: an argument has the wrong type, dtype, shape or an index out of range.
    """
    _check_packed("weight", weight)
    check_array("x", x, np.float32, ("M", weight.cin))
    check_array("neighbours", neighbours, np.int32, (weight.taps, "N"))
    check_threads(threads)
    if not trusted:
        check_rows("neighbours", neighbours, -1, len(x))
    y = _output(out, (neighbours.shape[1], weight.cout), x=x)
    core.octree_conv(x, neighbours, weight._packed, activation_code(activation), y, threads)
    return y


def octree_downsample(
    x: Floats,  # (8 S, cin)
    children: Ints,  # (N,)
    weight: PackedWeight,
    activation: str = "none",
    *,
    out: Floats | None = None,
    threads: int = 0,
) -> Floats:
    """Features of nodes from their children: y[i] = activation(sum over k of x[8 c_i + k] @ W[k] + bias).

    Args:
        x: (8 S, cin) float32, all children of the depth's split nodes.
        children: (N,) int32, c above: the node's rank among the split ones, -1 if it has no children; such a
            node gets activation(bias).
        weight: (8, cin, cout), packed by `PackedWeight.of_siblings`.
        activation: none, gelu (exact), elu (alpha 1) or relu.
        out: (capacity, cout) float32 buffer with capacity >= N that shares no memory with x.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (N, cout) float32.

    Raises:
        CapacityError: `out` is too small.
        TypeError, ValueError: an argument has the wrong type, dtype, shape or an index out of range.
    """
    _check_packed("weight", weight, taps=1)
    if weight.cin % 8 != 0:
        raise ValueError(f"weight: expected one made by PackedWeight.of_siblings, got {weight!r}")
    check_array("x", x, np.float32, ("8 S", weight.cin // 8))
    if len(x) % 8 != 0:
        raise ValueError(f"x: expected all eight children of every split node, got {len(x)} rows")
    check_array("children", children, np.int32, ("N",))
    check_threads(threads)
    check_rows("children", children, -1, len(x) // 8)
    y = _output(out, (len(children), weight.cout), x=x)
    core.octree_downsample(x, children, weight._packed, activation_code(activation), y, threads)
    return y


def octree_upsample(
    x: Floats,  # (R, cin)
    split_rows: Ints,  # (S,)
    weight: PackedWeight,
    activation: str = "none",
    *,
    skip: Floats | None = None,  # (M, cout)
    skip_index: Ints | None = None,  # (8 S,)
    out: Floats | None = None,
    threads: int = 0,
) -> Floats:
    """Children's features from parents': y[8 i + k] = activation(x[split_rows[i]] @ W[k] + bias) + skip.

    Args:
        x: (R, cin) float32.
        split_rows: (S,) int32, the row of x of every split node.
        weight: packed (8, cin, cout), one tap per child.
        activation: none, gelu (exact), elu (alpha 1) or relu; before the skip features are added.
        skip: (M, cout) float32, features of another octree's nodes; together with `skip_index`.
        skip_index: (8 S,) int32, for every child the row of `skip` to add, -1 for none (see `align`).
        out: (capacity, cout) float32 buffer with capacity >= 8 S that shares no memory with x and skip.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (8 S, cout) float32.

    Raises:
        CapacityError: `out` is too small.
        TypeError, ValueError: an argument has the wrong type, dtype, shape or an index out of range.
    """
    _check_packed("weight", weight, taps=8)
    check_array("x", x, np.float32, ("R", weight.cin))
    check_array("split_rows", split_rows, np.int32, ("S",))
    check_threads(threads)
    check_rows("split_rows", split_rows, 0, len(x))
    if (skip is None) != (skip_index is None):
        raise ValueError("skip, skip_index: expected both or neither")
    if skip is not None and skip_index is not None:
        check_array("skip", skip, np.float32, ("M", weight.cout))
        check_array("skip_index", skip_index, np.int32, (8 * len(split_rows),))
        check_rows("skip_index", skip_index, -1, len(skip))
    y = _output(out, (8 * len(split_rows), weight.cout), x=x, skip=skip)
    core.octree_upsample(
        x, split_rows, weight._packed, activation_code(activation), skip, skip_index, y, threads
    )
    return y


def octree_residual(
    x: Floats,  # (N, C)
    neighbours: Ints,  # (taps, N)
    weights: ResidualWeights,
    *,
    out: Floats | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> Floats:
    """A residual block with a bottleneck: ELU(shortcut + GELU(conv(GELU(x wa + ba)) + b3) wb + bb).

    Args:
        x: (N, C) float32.
        neighbours: (taps, N) int32, rows of x; -1 is a missing neighbour.
        weights: packed; with `wc` the shortcut is x wc, else x.
        out: (capacity, Co) float32 buffer with capacity >= N that shares no memory with x.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (N, Co) float32.

    Raises:
        CapacityError: `out` is too small.
        TypeError, ValueError: an argument has the wrong type, dtype, shape or an index out of range.
    """
    if not isinstance(weights, ResidualWeights):
        raise TypeError(f"weights: expected ResidualWeights, got {type(weights).__name__}")
    check_array("x", x, np.float32, ("N", weights.cin))
    check_array("neighbours", neighbours, np.int32, (weights.taps, len(x)))
    check_threads(threads)
    check_rows("neighbours", neighbours, -1, len(x))
    y = _output(out, (len(x), weights.cout), x=x)
    scratch = (workspace or Workspace()).convolution
    core.octree_residual(x, neighbours, weights._packed, y, scratch, threads)
    return y


def octree_linear(
    x: Floats,  # (N, cin)
    weight: PackedWeight,
    activation: str = "none",
    *,
    out: Floats | None = None,
    threads: int = 0,
) -> Floats:
    """activation(x W + bias) on every row.

    Args:
        x: (N, cin) float32.
        weight: packed (1, cin, cout).
        activation: none, gelu (exact), elu (alpha 1) or relu.
        out: (capacity, cout) float32 buffer with capacity >= N that shares no memory with x.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (N, cout) float32.

    Raises:
        CapacityError: `out` is too small.
        TypeError, ValueError: an argument has the wrong type, dtype or shape.
    """
    _check_packed("weight", weight, taps=1)
    check_array("x", x, np.float32, ("N", weight.cin))
    check_threads(threads)
    y = _output(out, (len(x), weight.cout), x=x)
    core.octree_linear(x, weight._packed, activation_code(activation), y, threads)
    return y


def octree_mlp(
    x: Floats,  # (N, C)
    w1: PackedWeight,
    w2: PackedWeight,
    *,
    out: Floats | None = None,
    threads: int = 0,
) -> Floats:
    """A two-layer perceptron on every row: GELU(x w1 + b1) w2 + b2.

    Args:
        x: (N, C) float32.
        w1: packed (1, C, H).
        w2: packed (1, H, O).
        out: (capacity, O) float32 buffer with capacity >= N that shares no memory with x.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (N, O) float32.

    Raises:
        CapacityError: `out` is too small.
        TypeError, ValueError: an argument has the wrong type, dtype or shape.
    """
    _check_packed("w1", w1, taps=1)
    _check_packed("w2", w2, taps=1)
    if w2.cin != w1.cout:
        raise ValueError(f"w2: expected {w1.cout} inputs, as many as w1 has outputs, got {w2.cin}")
    check_array("x", x, np.float32, ("N", w1.cin))
    check_threads(threads)
    y = _output(out, (len(x), w2.cout), x=x)
    core.octree_mlp(x, w1._packed, w2._packed, y, threads)
    return y


def grid_conv(
    x: Floats,  # (N, r, r, r, cin)
    weight: PackedWeight,
    activation: str = "none",
    *,
    residual: Floats | None = None,  # (N, r, r, r, cout)
    out: Floats | None = None,
    threads: int = 0,
) -> Floats:
    """3x3x3 convolution of N separate dense grids with zero padding: activation(conv(x) + bias + residual).

    Args:
        x: (N, r, r, r, cin) float32, r <= 32; sub-voxels along x, y and z, channels last.
        weight: packed (27, cin, cout); tap 9 (dx + 1) + 3 (dy + 1) + (dz + 1) multiplies the sub-voxel at
            (x + dx, y + dy, z + dz).
        activation: none, gelu (exact), elu (alpha 1) or relu.
        residual: (N, r, r, r, cout) float32, added before the activation.
        out: (capacity, r, r, r, cout) float32 buffer with capacity >= N that shares no memory with x; it may
            be `residual` itself.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (N, r, r, r, cout) float32.

    Raises:
        CapacityError: `out` is too small.
        TypeError, ValueError: an argument has the wrong type, dtype or shape.
    """
    _check_packed("weight", weight, taps=27)
    check_array("x", x, np.float32, ("N", "r", "r", "r", weight.cin))
    count, r = x.shape[:2]
    check_array("x", x, np.float32, ("N", r, r, r, weight.cin))
    check_range("r (edge of the grids of x)", r, 1, MAX_GRID_RESOLUTION)
    shape = (count, r, r, r, weight.cout)
    if residual is not None:
        check_array("residual", residual, np.float32, shape)
    check_threads(threads)
    y = _output(out, shape, x=x)
    if residual is not None and np.may_share_memory(y, residual) and y.ctypes.data != residual.ctypes.data:
        raise ValueError("out: expected memory apart from residual, or residual itself, got an overlap")
    core.grid_conv(x, grid_table(r), weight._packed, activation_code(activation), residual, y, threads)
    return y


@cache
def grid_table(resolution: int) -> Any:
    return core.GridTable(resolution)


def activation_code(name: str) -> int:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def check_threads(threads: int) -> None:
    if threads < 0:
        raise ValueError(f"threads: expected 0 (all) or a positive number, got {threads}")


def _check_packed(name: str, weight: PackedWeight, taps: int | None = None) -> None:
    if not isinstance(weight, PackedWeight):
        raise TypeError(f"{name}: expected a PackedWeight, got {type(weight).__name__}")
    if taps is not None and weight.taps != taps:
        raise ValueError(f"{name}: expected {taps} tap{'s' * (taps > 1)}, got {weight.taps}")


def _check_weight(name: str, weight: Floats, shape: tuple[int | str, ...]) -> None:
    check_array(name, weight, np.float32, shape)
    if 0 in weight.shape:
        raise ValueError(f"{name}: expected at least one tap, input and output, got shape {weight.shape}")
    check_range(f"{name}'s outputs", weight.shape[2], 1, MAX_OUTPUTS)


def check_rows(name: str, indices: Ints, low: int, rows: int) -> None:
    if indices.size == 0:
        return
    least, greatest = int(indices.min()), int(indices.max())  # a few percent of a narrow convolution's time
    if least < low or greatest >= rows:
        wrong = least if least < low else greatest
        missing = ", or -1 where there is none" if low < 0 else ""
        raise ValueError(f"{name}: expected rows below {rows}{missing}, got {wrong}")


def _output(out: Floats | None, shape: tuple[int, ...], **apart: Floats | None) -> Floats:
    y = output("out", out, np.float32, shape)
    for name, array in apart.items():
        if out is not None and array is not None and np.may_share_memory(y, array):
            raise ValueError(f"out: expected memory apart from {name}, got an overlap")
    return y
