"""Octrees of the visible points of a frame's objects, their neighbour tables, and alignment by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import CapacityError, check_array, check_range, output
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.workspace import Workspace

__all__ = ["Octree", "align", "build_octree", "expand_neighbours", "split_neighbours"]

MAX_DEPTH = 10  # three times ten bits of a Morton key fit 32


@dataclass(frozen=True)
class Octree:
    """Octrees of B objects as one batch, in ocnn's merged order; kernels/README.md has the data contract.

    The per-depth tables start at `full_depth`, where every object has its full grid of 8^full_depth nodes;
    above it all nodes are split. An object without points has its full grid, nothing split in it, and no node
    below.
    """

    depth: int  # the finest
    full_depth: int
    num_objects: int
    keys: dict[int, NDArray[np.int64]]  # full_depth..depth -> (N_d,) ascending
    children: dict[int, NDArray[np.int32]]  # full_depth..depth -> (N_d,) rank among the split nodes, or -1
    split_neighbours: dict[int, NDArray[np.int32]]  # full_depth..depth-1 -> (S_d, 27)
    batch_nnum: NDArray[np.int64]  # (depth + 1, B) nodes
    batch_nnum_split: NDArray[np.int64]  # (depth + 1, B) of them split; at the finest depth: non-empty voxels
    voxel: NDArray[np.int32]  # (P,) rank of each point's finest voxel

    @property
    def nnum(self) -> NDArray[np.int64]:
        """(depth + 1,) nodes per depth, N_d."""
        return self.batch_nnum.sum(axis=1)

    @property
    def nnum_split(self) -> NDArray[np.int64]:
        """(depth + 1,) split nodes per depth, S_d."""
        return self.batch_nnum_split.sum(axis=1)

    @classmethod
    def allocate(
        cls, num_objects: int, depth: int, full_depth: int, max_nodes: Mapping[int, int], max_points: int
    ) -> Octree:
        """Buffers for `build_octree(out=...)`.

        Args:
            num_objects: most objects of a frame.
            depth: the finest depth.
            full_depth: where every object's grid is full.
            max_nodes: most nodes at each depth full_depth + 1 .. depth.
            max_points: most points of a frame.
        """
        nodes = {full_depth: num_objects << (3 * full_depth)}
        nodes.update({d: max_nodes[d] for d in range(full_depth + 1, depth + 1)})
        counts = np.zeros((depth + 1, num_objects), np.int64)
        return cls(
            depth,
            full_depth,
            num_objects,
            keys={d: np.empty(n, np.int64) for d, n in nodes.items()},
            children={d: np.empty(n, np.int32) for d, n in nodes.items()},
            split_neighbours={
                d: np.empty((nodes[d + 1] // 8, 27), np.int32) for d in range(full_depth, depth)
            },
            batch_nnum=counts,
            batch_nnum_split=counts.copy(),
            voxel=np.empty(max_points, np.int32),
        )


def build_octree(
    points: NDArray[np.float32],  # (P, 3) normalised
    counts: NDArray[np.int32],  # (B,)
    depth: int = 9,
    full_depth: int = 3,
    *,
    out: Octree | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> Octree:
    """Builds one octree per object and merges them into a batch, as ocnn does.

    Args:
        points: (P, 3) float32 in [-1, 1), grouped by object.
        counts: (B,) int32 points of each object; 0 is allowed.
        depth: the finest depth, at most 10.
        full_depth: the grid is full down to this depth.
        out: buffers from `Octree.allocate`; the arrays of the result are views of them.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result doesn't depend on it.

    Returns:
        The octree, with `voxel`: the rank of each point's finest voxel.

    Raises:
        CapacityError: the frame needs more nodes, points or objects than `out` holds.
        ValueError: a point lies outside the cube or is NaN, or an argument has the wrong dtype or shape.
    """
    check_array("points", points, np.float32, ("P", 3))
    check_array("counts", counts, np.int32, ("B",))
    check_range("depth", depth, 1, MAX_DEPTH)
    check_range("full_depth", full_depth, 0, depth)
    objects = len(counts)
    check_range("objects (length of counts)", objects, 1, 32767)
    if counts.min() < 0 or int(counts.sum()) != len(points):
        raise ValueError(
            f"counts: expected non-negative counts that sum to {len(points)} points, got {counts.tolist()}"
        )
    if out is not None:
        if (out.depth, out.full_depth) != (depth, full_depth):
            raise ValueError(
                f"out: expected buffers of depth {depth} and full_depth {full_depth}, "
                f"got {out.depth} and {out.full_depth}"
            )
        if out.num_objects < objects:
            raise CapacityError("objects", objects, out.num_objects)

    build = (workspace or Workspace()).octree
    outside = build.sort(points, counts, depth, full_depth, threads)
    if outside >= 0:
        raise ValueError(
            f"points: expected coordinates in [-1, 1), got {points[outside].tolist()} at index {outside}"
        )
    split = np.empty((depth + 1, objects), np.int64)
    build.split_counts(split)
    nodes = np.empty_like(split)
    nodes[0] = 1
    nodes[1:] = 8 * split[:-1]

    depths = range(full_depth, depth + 1)
    total, total_split = nodes.sum(axis=1), split.sum(axis=1)
    keys, children, split_neighbours = {}, {}, {}
    for d in depths:
        limit = f"nodes at depth {d}"
        keys[d] = output(limit, out.keys[d] if out else None, np.int64, (total[d],))
        children[d] = output(limit, out.children[d] if out else None, np.int32, (total[d],))
    for d in depths[:-1]:
        buffer = out.split_neighbours[d] if out else None
        split_neighbours[d] = output(f"split nodes at depth {d}", buffer, np.int32, (total_split[d], 27))
    voxel = output("points", out.voxel if out else None, np.int32, (len(points),))
    build.write(list(keys.values()), list(children.values()), list(split_neighbours.values()), voxel, threads)
    return Octree(depth, full_depth, objects, keys, children, split_neighbours, nodes, split, voxel)


def expand_neighbours(
    split_neighbours: NDArray[np.int32],  # (S, 27)
    rank: NDArray[np.int32] | None = None,  # (8 S,)
    *,
    out: NDArray[np.int32] | None = None,
    threads: int = 0,
) -> NDArray[np.int32]:
    """Neighbours of all nodes of a depth, from split_neighbours of the depth above (node `OctreeNeighbor`).

    Args:
        split_neighbours: (S, 27) int32, ranks of the neighbours of every split node, -1 if missing.
        rank: (8 S,) int32; neighbour i becomes rank[i] (for instance `children`, to address split nodes
            only).
        out: (27, capacity) int32 buffer with capacity >= 8 S; used as flat memory.
        threads: 0 takes all of OpenMP's.

    Returns:
        (27, 8 S) int32: tap-major; -1 where a neighbour is missing.

    Raises:
        CapacityError: `out` is too small.
        ValueError: an argument has the wrong dtype or shape.
    """
    check_array("split_neighbours", split_neighbours, np.int32, ("S", 27))
    nodes = 8 * len(split_neighbours)
    if rank is not None:
        check_array("rank", rank, np.int32, (nodes,))
    neighbours = output("nodes (neighbours)", out, np.int32, (27, nodes), axis=1)
    core.expand_neighbours(split_neighbours, rank, neighbours, threads)
    return neighbours


def split_neighbours(
    children: NDArray[np.int32],  # (N,)
    parents: NDArray[np.int32] | int,  # (N / 8, 27) or the full grid's depth
    *,
    threads: int = 0,
) -> NDArray[np.int32]:
    """Ranks of the 27 neighbours of every split node of a depth, for an octree of which `children` are known.

    Args:
        children: (N,) int32, rank of every node among the split nodes of its depth, -1 if it is not split;
            ranks ascend from 0.
        parents: `split_neighbours` of the depth above, or the depth itself where every object's grid is
            full (N = B * 8^depth).
        threads: 0 takes all of OpenMP's.

    Returns:
        (S, 27) int32, -1 where a neighbour is missing or not split.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype or shape.
    """
    check_array("children", children, np.int32, ("N",))
    ranks = children[children >= 0]
    split = len(ranks)
    if not np.array_equal(ranks, np.arange(split)):
        raise ValueError("children: expected -1 or ranks that ascend from 0 one by one")
    table = np.empty((split, 27), np.int32)
    if isinstance(parents, np.ndarray):
        check_array("parents", parents, np.int32, ("N / 8", 27))
        if 8 * len(parents) != len(children):
            raise ValueError(
                f"parents: expected {len(children)} / 8 rows (one for eight nodes), got {len(parents)}"
            )
        core.split_neighbours_from_parents(parents, children, table, threads)
    else:
        check_range("parents (depth of the full grid)", parents, 0, MAX_DEPTH)
        if len(children) % 8**parents:
            raise ValueError(
                f"children: expected a multiple of 8^{parents} = {8**parents} nodes, a full grid, got "
                f"{len(children)}"
            )
        core.split_neighbours_of_grid(parents, children, table, threads)
    return table


def align(
    source_keys: NDArray[np.int64],  # (M,)
    target_keys: NDArray[np.int64],  # (N,)
    *,
    out: NDArray[np.int32] | None = None,
    threads: int = 0,
) -> NDArray[np.int32]:
    """Row of every target key among the source keys, -1 if it is not there (node `OctreeAlign`).

    Args:
        source_keys: (M,) int64, strictly ascending (a depth's `keys`); not checked.
        target_keys: (N,) int64, strictly ascending; not checked.
        out: (capacity,) int32 buffer.
        threads: 0 takes all of OpenMP's.

    Returns:
        (N,) int32.

    Raises:
        CapacityError: `out` is too small.
        ValueError: an argument has the wrong dtype or shape.
    """
    check_array("source_keys", source_keys, np.int64, ("M",))
    check_array("target_keys", target_keys, np.int64, ("N",))
    rows = output("nodes (align)", out, np.int32, (len(target_keys),))
    core.align_keys(source_keys, target_keys, rows, threads)
    return rows
