"""The output octree: the grid it starts from, and its growth by predicted occupancy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array, check_range, output
from zerograsp_edge.kernels.native import core
from zerograsp_edge.kernels.workspace import Workspace

__all__ = ["ActiveGrid", "Growth", "active_grid", "grow"]

MAX_DEPTH = 10


@dataclass(frozen=True)
class Growth:
    """What becomes of the nodes of one depth."""

    children: NDArray[np.int32]  # (N,) rank among the split nodes, or -1
    split_rows: NDArray[np.int32]  # (S,) row of each split node
    next_keys: NDArray[np.int64]  # (8 S,) keys of the depth below; empty for the last depth
    split_neighbours: NDArray[np.int32]  # (S, 27); empty for the last depth
    nan_count: int = 0  # nodes whose logits hold a NaN: a broken network, not an empty object

    @classmethod
    def allocate(cls, max_nodes: int, max_splits: int) -> Growth:
        """Buffers for `grow(out=...)`: at most `max_nodes` nodes of which `max_splits` split."""
        return cls(
            np.empty(max_nodes, np.int32),
            np.empty(max_splits, np.int32),
            np.empty(8 * max_splits, np.int64),
            np.empty((max_splits, 27), np.int32),
        )


def grow(
    logits: NDArray[np.float32] | None,  # (R, >= 2)
    rows: NDArray[np.int32] | None,  # (N,)
    keys: NDArray[np.int64],  # (N,)
    parents: NDArray[np.int32] | int | None,  # (N / 8, 27) or the full grid's depth
    *,
    forced: NDArray[np.bool_] | None = None,
    out: Growth | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> Growth:
    """Splits the nodes of a depth whose logits say so.

    A node splits when logits[:, 1] > logits[:, 0]; a tie leaves it empty and so does NaN, which is counted.
    If none splits, node 0 does (the published rule), but at the last depth, where a surface may be
    empty.

    Args:
        logits: (R, C >= 2) float32, of which the first two columns decide. None with `forced`.
        rows: (N,) int32 row of logits of every node; None when node i has row i.
        keys: (N,) int64 keys of the nodes.
        parents: what the neighbours of the split nodes follow from: `split_neighbours` (N / 8, 27) of the
            depth above, or the depth itself where every object's grid is full (N = B * 8^depth), or None at
            the last depth, which needs no keys and no neighbours below it.
        forced: (N,) bool splits to use in place of the logits', for verification against a recording.
        out: buffers from `Growth.allocate`; the arrays of the result are views of them.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result doesn't depend on it.

    Raises:
        CapacityError: more nodes split than `out` holds.
        ValueError: an entry of `rows` is outside [0, R), or an argument has the wrong dtype or shape.
    """
    check_array("keys", keys, np.int64, ("N",))
    nodes = len(keys)
    if nodes == 0:
        raise ValueError("keys: expected at least one node, got none")
    if logits is None and forced is None:
        raise ValueError("logits: expected an array, or None together with forced splits; got neither")
    if logits is not None:
        check_array("logits", logits, np.float32, ("R", "C"))
        if logits.shape[1] < 2:
            raise ValueError(f"logits: expected at least 2 columns (empty, split), got {logits.shape[1]}")
        if rows is None and len(logits) != nodes:
            raise ValueError(
                f"logits: expected one row for each of {nodes} nodes without `rows`, got {len(logits)}"
            )
    if rows is not None:
        check_array("rows", rows, np.int32, (nodes,))
    if forced is not None:
        check_array("forced", forced, np.bool_, (nodes,))
        forced = forced.view(np.uint8)
    if isinstance(parents, np.ndarray):
        check_array("parents", parents, np.int32, ("N / 8", 27))
        if 8 * len(parents) != nodes:
            raise ValueError(f"parents: expected {nodes} / 8 rows (one for eight keys), got {len(parents)}")
    elif parents is not None:
        check_range("parents (depth of the full grid)", parents, 0, MAX_DEPTH)
        if nodes % 8**parents:
            raise ValueError(
                f"keys: expected a multiple of 8^{parents} = {8**parents} nodes, a full grid, got {nodes}"
            )

    growth = (workspace or Workspace()).growth
    if not growth.decide(logits, rows, forced, nodes, parents is not None, threads):
        raise ValueError(
            f"rows: expected 0 to {len(logits) - 1 if logits is not None else 2**31 - 2} (rows of logits)"
        )
    splits = growth.split_count
    below = splits if parents is not None else 0
    children = output("nodes", out.children if out else None, np.int32, (nodes,))
    split_rows = output("split nodes", out.split_rows if out else None, np.int32, (splits,))
    next_keys = output("nodes of the next depth", out.next_keys if out else None, np.int64, (8 * below,))
    table = output("split nodes", out.split_neighbours if out else None, np.int32, (below, 27))
    growth.write(rows, keys, children, split_rows, None if parents is None else next_keys, threads)
    if isinstance(parents, np.ndarray):
        core.split_neighbours_from_parents(parents, children, table, threads)
    elif parents is not None:
        core.split_neighbours_of_grid(parents, children, table, threads)
    return Growth(children, split_rows, next_keys, table, growth.nan_count)


@dataclass(frozen=True)
class ActiveGrid:
    """The full grids of all objects, reduced to the rows that differ.

    Rows are first the active nodes, ordered by object and Morton key, then (2 radius + 1)^3 virtual nodes
    that stand for all others (none where the grid is too small for that).
    """

    rows: NDArray[np.int32]  # (B * 8^depth,) row of every node
    neighbours: NDArray[np.int32]  # (27, R) tap-major, -1 if missing
    source: NDArray[np.int32]  # (R,) index of the row's key in `keys`; M, the number of keys, if it has none
    num_active: int

    @classmethod
    def allocate(cls, num_objects: int, depth: int, max_rows: int) -> ActiveGrid:
        """Buffers for `active_grid(out=...)`: at most `max_rows` rows."""
        return cls(
            np.empty(num_objects << (3 * depth), np.int32),
            np.empty((27, max_rows), np.int32),
            np.empty(max_rows, np.int32),
            0,
        )


def active_grid(
    keys: NDArray[np.int64],  # (M,)
    num_objects: int,
    depth: int = 4,
    radius: int = 2,
    *,
    out: ActiveGrid | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> ActiveGrid:
    """The rows of the full 2^depth grids that `radius` 3x3x3 convolutions can tell apart.

    Only nodes within Chebyshev distance `radius` of a node in `keys` (those with features) can differ from
    empty space. What empty space becomes depends on the distance to the cube's sides alone, up to `radius`: a
    (2 radius + 1)^3 grid of virtual nodes without features holds every case. `radius` layers over these rows
    give every node of the full grid its exact value, through `rows`.

    Args:
        keys: (M,) int64, distinct, nodes with features.
        num_objects: B.
        depth: of the grid and of the keys.
        radius: number of 3x3x3 convolutions the rows go through.
        out: buffers from `ActiveGrid.allocate`; the arrays of the result are views of them.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result doesn't depend on it.

    Raises:
        CapacityError: more rows than `out` holds.
        ValueError: a key lies outside the grids, or an argument has the wrong dtype or shape.
    """
    check_array("keys", keys, np.int64, ("M",))
    check_range("num_objects", num_objects, 1, 32767)
    check_range("depth", depth, 1, 7)
    check_range("radius", radius, 0, 64)
    build = (workspace or Workspace()).active_grid
    outside = build.mark(keys, num_objects, depth, radius)
    if outside >= 0:
        key = int(keys[outside])
        raise ValueError(
            f"keys: expected nodes of depth {depth} of {num_objects} objects, got object {key >> 48}, "
            f"Morton key {key & (2**48 - 1)} at index {outside}"
        )
    rows = output("objects (full grids)", out.rows if out else None, np.int32, (num_objects << (3 * depth),))
    neighbours = output("rows", out.neighbours if out else None, np.int32, (27, build.rows), axis=1)
    source = output("rows", out.source if out else None, np.int32, (build.rows,))
    build.write(keys, rows, neighbours, source, threads)
    return ActiveGrid(rows, neighbours, source, build.active)
