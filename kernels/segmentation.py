"""Geometric segmentation: reduced depth, superpixels that are planes, their graph, its contraction, labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array, check_range, output
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.workspace import Workspace

__all__ = [
    "PieceGraph",
    "contract_graph",
    "expand_labels",
    "planar_superpixels",
    "reduce_depth",
    "superpixel_graph",
]

MOST_STRIDE = 8
LARGEST_CELL = 64
SUPERPIXEL_COLUMNS = 10
EDGE_COLUMNS = 7


@dataclass(frozen=True, eq=False)
class PieceGraph:
    """Connected pieces of superpixels, and which of them touch.

    Attributes:
        pieces: (h, w) int32 piece of each pixel, numbered in raster order of their first pixels; -1 = not measured.
        statistics: (P, 10) float64, as of `planar_superpixels`.
        edges: (E, 2) int32 touching pieces, the smaller first, ascending.
        edge_statistics: (E, 7) float64: number of pixel pairs; mean signed and mean absolute step from the
            second plane to
            the first one between the pixels; mean absolute step of the measured values; mean column and row;
            mean number
            of unmeasured pixels in between.
    """

    pieces: NDArray[np.int32]
    statistics: NDArray[np.float64]
    edges: NDArray[np.int32]
    edge_statistics: NDArray[np.float64]

    def touching(self, chosen: NDArray[np.bool_]) -> PieceGraph:
        """The graph with only the edges of which an end, or both, is among the (P,) bool chosen pieces."""
        return self.with_edges(np.asarray(chosen[self.edges].any(axis=1)))

    def with_edges(self, keep: NDArray[np.bool_]) -> PieceGraph:
        """The graph with only the (E,) bool edges to keep; all pieces keep their numbers."""
        return PieceGraph(self.pieces, self.statistics, self.edges[keep], self.edge_statistics[keep])


def reduce_depth(
    depth: NDArray[np.float32],
    stride: int,
    min_depth: float,
    max_depth: float,
    tolerance: float = 0.03,
    *,
    threads: int = 0,
) -> NDArray[np.float32]:
    """Inverse depth at a lower resolution, without mixing near and far.

    Of every block of stride x stride pixels the mean of the measured values that lie near their median (of an even
    number the nearer one).

    Args:
        depth: (H, W) float32, mm; measured where min_depth < depth < max_depth.
        stride: 1 to 8. Rows and columns beyond the last whole block are left out.
        min_depth, max_depth: mm.
        tolerance: how near, relative to the median.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (H // stride, W // stride) float32, 1/m; 0 where less than half of the block is measured.

    Raises:
        ValueError: an argument has the wrong dtype, shape or range.
    """
    check_array("depth", depth, np.float32, ("H", "W"))
    check_range("stride", stride, 1, MOST_STRIDE)
    if not (0 < min_depth < max_depth < math.inf):
        raise ValueError(f"min_depth, max_depth: expected 0 < min < max, got {min_depth:g}, {max_depth:g}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: expected 0 to 1, got {tolerance:g}")
    out = np.empty((depth.shape[0] // stride, depth.shape[1] // stride), np.float32)
    core.reduce_depth(depth, stride, min_depth, max_depth, tolerance, out, threads)
    return out


def planar_superpixels(
    inverse_depth: NDArray[np.float32],
    colour: NDArray[np.uint8],
    cell: int,
    iterations: int,
    noise: float,
    *,
    spatial_weight: float = 4.0,
    colour_weight: float = 0.02,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Over-segmentation into small surfaces, each nearly a plane of nearly one colour.

    k-means as in SLIC (Achanta et al., PAMI 2012), with the distance from the cluster's own plane in the place of a
    difference of intensities: a pixel (u, v) of inverse depth w and colour c is at

        ((w - plane(u, v)) / noise)^2 + spatial_weight |(u, v) - centre|^2 / cell^2 + colour_weight |c - mean colour|^2

    from a cluster. Seeds are cells of cell x cell pixels, a pixel may belong to those of the nine cells around it. The
    inverse depth of a plane is affine in the pixel.

    Args:
        inverse_depth: (h, w) float32, 1/m, finite; 0 = not measured.
        colour: (h, w, 3) uint8, in a space where distances mean something, such as Lab.
        cell: 2 to 64 pixels.
        iterations: at least 1.
        noise: 1/m.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (h, w) int32 label, -1 where not measured; (cells, 10) float64 per label: pixels, mean column, row and inverse
        depth, slopes of the plane along columns and rows, root mean square distance from it, mean colour. Labels
        without pixels have zeros.

    Raises:
        ValueError: an argument has the wrong dtype, shape or range.
    """
    check_array("inverse_depth", inverse_depth, np.float32, ("h", "w"))
    height, width = inverse_depth.shape
    check_array("colour", colour, np.uint8, (height, width, 3))
    check_range("cell", cell, 2, LARGEST_CELL)
    check_range("iterations", iterations, 1, 100)
    if not (0 < noise < math.inf):
        raise ValueError(f"noise: expected a positive inverse depth, got {noise:g}")
    labels = np.empty((height, width), np.int32)
    statistics = np.zeros((-(-height // cell) * -(-width // cell), SUPERPIXEL_COLUMNS))
    kernel = (workspace or Workspace()).superpixels
    kernel.run(
        inverse_depth, colour, cell, iterations, noise, spatial_weight, colour_weight, labels, statistics,
        threads,
    )  # fmt: skip
    return labels, statistics


def superpixel_graph(
    inverse_depth: NDArray[np.float32],
    colour: NDArray[np.uint8],
    labels: NDArray[np.int32],
    statistics: NDArray[np.float64],
    *,
    fewest: int = 12,
    reach: int = 4,
    workspace: Workspace | None = None,
) -> PieceGraph:
    """Connected pieces of superpixels and the pairs that touch, also across a few unmeasured pixels of a row or column.

    Args:
        inverse_depth, colour: as given to `planar_superpixels`.
        labels, statistics: what it returned.
        fewest: pieces with fewer pixels keep the slopes of their superpixel's plane.
        reach: pixels from one to the next measured one, at least 1.
        workspace: scratch memory to reuse.

    Raises:
        ValueError: an argument has the wrong dtype, shape or range.
    """
    check_array("inverse_depth", inverse_depth, np.float32, ("h", "w"))
    height, width = inverse_depth.shape
    check_array("colour", colour, np.uint8, (height, width, 3))
    check_array("labels", labels, np.int32, (height, width))
    check_array("statistics", statistics, np.float64, ("cells", SUPERPIXEL_COLUMNS))
    if labels.size and (labels.min() < -1 or labels.max() >= len(statistics)):
        raise ValueError(
            f"labels: expected -1 to {len(statistics) - 1}, got {labels.min()} to {labels.max()}"
        )
    check_range("reach", reach, 1, 1000)
    kernel = (workspace or Workspace()).piece_graph
    return PieceGraph(*kernel.run(inverse_depth, colour, labels, statistics, fewest, reach))


def contract_graph(
    nodes: int,
    edges: NDArray[np.int32],
    weights: NDArray[np.float64],
    *,
    workspace: Workspace | None = None,
) -> NDArray[np.int32]:
    """Regions of a graph whose edges attract (positive weight) or repel (negative): greedy additive edge contraction.

    While the heaviest edge is positive its two ends become one node; parallel edges add up. (Keuper et al., Efficient
    decomposition of image and mesh graphs by lifted multicuts, ICCV 2015.) Of equal edges the one with the
    smallest ends
    comes first.

    Args:
        nodes: their number.
        edges: (E, 2) int32, different ends, no pair twice.
        weights: (E,) float64, finite.
        workspace: scratch memory to reuse.

    Returns:
        (nodes,) int32 region, numbered by their first node.

    Raises:
        ValueError: an argument has the wrong dtype, shape or range.
    """
    check_array("edges", edges, np.int32, ("E", 2))
    check_array("weights", weights, np.float64, (len(edges),))
    if len(edges) and not (edges.min() >= 0 and edges.max() < nodes):
        raise ValueError(
            f"edges: expected nodes 0 to {nodes - 1}, got {int(edges.min())} to {int(edges.max())}"
        )
    if (edges[:, 0] == edges[:, 1]).any():
        raise ValueError("edges: expected different ends, got an edge from a node to itself")
    if not np.isfinite(weights).all():
        raise ValueError("weights: expected finite values, got NaN or infinity")
    regions = np.empty(nodes, np.int32)
    (workspace or Workspace()).contraction.run(nodes, edges, weights, regions)
    return regions


def expand_labels(
    depth: NDArray[np.float32],
    stride: int,
    inverse_depth: NDArray[np.float32],
    labels: NDArray[np.int32],
    min_depth: float,
    max_depth: float,
    *,
    fill: int = 0,
    out: NDArray[np.int32] | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> NDArray[np.int32]:
    """Labels of a reduced image at full resolution.

    A measured pixel takes the label of that one of the nine reduced pixels around it whose inverse depth is nearest to
    its own (its own block first). A run of up to `fill` unmeasured pixels of a row, between two labelled ones,
    takes the
    label of the farther one: what a stereo camera cannot see beside an edge belongs to what lies behind.

    Args:
        depth: (H, W) float32, mm.
        stride, inverse_depth, min_depth, max_depth: of `reduce_depth`.
        labels: (H // stride, W // stride) int32, -1 = none.
        out: (H, W) int32 buffer.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result does not depend on it.

    Returns:
        (H, W) int32, -1 = none.

    Raises:
        ValueError: an argument has the wrong dtype, shape or range.
    """
    check_array("depth", depth, np.float32, ("H", "W"))
    check_range("stride", stride, 1, MOST_STRIDE)
    reduced = (depth.shape[0] // stride, depth.shape[1] // stride)
    if 0 in reduced:
        raise ValueError(f"depth: expected at least {stride} x {stride} pixels, got {depth.shape}")
    check_array("inverse_depth", inverse_depth, np.float32, reduced)
    check_array("labels", labels, np.int32, reduced)
    out = output("out", out, np.int32, depth.shape, axis=None)
    kernel = (workspace or Workspace()).expansion
    kernel.run(depth, stride, inverse_depth, labels, min_depth, max_depth, fill, out, threads)
    return out
