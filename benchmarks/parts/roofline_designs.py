"""What another design of the kernels would save, by the same count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from parts.roofline_count import Kernel, Stage

TAPS = 27


def _hidden_stays(kernel: Kernel) -> Kernel | None:
    """Both layers of `OctreeMlp` in one kernel: the hidden features stay in shared memory."""
    if not kernel.name.startswith("OctreeMlp") or kernel.tiles is None:
        return kernel
    hidden = kernel.tiles.cout if kernel.name.endswith("first") else kernel.tiles.cin
    return replace(kernel, features=kernel.features - kernel.tiles.rows * hidden)


def _no_tables(kernel: Kernel) -> Kernel | None:
    """Convolutions read the parents' 27 neighbours, one row for eight nodes, and expand them themselves."""
    if kernel.name.startswith("OctreeNeighbor"):
        return None
    tiles = kernel.tiles
    if tiles is None or tiles.count != TAPS or kernel.name.startswith("GridConv"):
        return kernel
    return replace(kernel, fixed=kernel.fixed - 4 * TAPS * tiles.rows * 7 // 8)


def _residual_in_one(kernel: Kernel) -> Kernel | None:
    """The last layer of `OctreeResidual` in the convolution's kernel: its features stay in shared memory."""
    tiles = kernel.tiles
    if tiles is None or not kernel.name.startswith("OctreeResidual") or kernel.name.endswith("first"):
        return kernel
    inner = tiles.rows * (tiles.cout if kernel.name.endswith("conv") else tiles.cin)
    return replace(kernel, features=kernel.features - inner)


DESIGNS: dict[str, Callable[[Kernel], Kernel | None]] = {
    "OctreeMlp in one kernel": _hidden_stays,
    "no expanded neighbour tables": _no_tables,
    "OctreeResidual's last layer in its convolution": _residual_in_one,
}


def redesign(stage: Stage, *changes: Callable[[Kernel], Kernel | None]) -> Stage:
    kernels = stage.kernels
    for change in changes:
        kernels = [k for k in map(change, kernels) if k is not None]
    return replace(stage, kernels=kernels)
