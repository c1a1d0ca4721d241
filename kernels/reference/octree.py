"""NumPy twins of the octree kernels: slow, readable, the truth in tests.

Same arguments and results as `kernels.octree` and `kernels.output_octree`, without buffers and threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OBJECT_SHIFT = 48
MORTON_MASK = (1 << OBJECT_SHIFT) - 1

# The 27 directions (dx, dy, dz), z fastest, and the offsets (x, y, z) of the 8 children, z in the lowest bit.
DIRECTIONS = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(27, 3)
CHILDREN = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(8, 3)
# Neighbour of child c in direction t: the child CHILD[c, t] of the parent in direction PARENT[c, t].
_NEIGHBOUR = CHILDREN[:, None] + DIRECTIONS  # (8, 27, 3) in -1..2
PARENT = (_NEIGHBOUR // 2 + 1) @ np.array([9, 3, 1])  # (8, 27)
CHILD = (_NEIGHBOUR % 2) @ np.array([4, 2, 1])  # (8, 27)


def morton_encode(xyz: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """(..., 3) integer coordinates in [0, 2^depth) -> (...) Morton keys, x in the highest bit of each
    triple."""
    key = np.zeros(xyz.shape[:-1], np.int64)
    for bit in range(depth):
        for axis in range(3):
            key |= ((xyz[..., axis].astype(np.int64) >> bit) & 1) << (3 * bit + 2 - axis)
    return key


def morton_decode(key: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """(...) keys, with or without object bits -> (..., 3) integer coordinates."""
    xyz = np.zeros((*np.shape(key), 3), np.int64)
    for bit in range(depth):
        for axis in range(3):
            xyz[..., axis] |= ((key >> (3 * bit + 2 - axis)) & 1) << bit
    return xyz


def child_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S,) keys -> (8 S,) keys of their children."""
    return ((keys & ~MORTON_MASK)[:, None] | ((keys & MORTON_MASK) << 3)[:, None] | np.arange(8)).reshape(-1)


def neighbours_by_search(keys: NDArray[np.int64], depth: int) -> NDArray[np.int32]:
    """(N, 27) row of each neighbour, found by its key; -1 outside the cube or where there is no such node."""
    xyz = morton_decode(keys, depth)[:, None] + DIRECTIONS
    inside = ((xyz >= 0) & (xyz < 1 << depth)).all(-1)
    query = morton_encode(np.clip(xyz, 0, (1 << depth) - 1), depth) | (keys & ~MORTON_MASK)[:, None]
    rows = align(keys, query.reshape(-1)).reshape(-1, 27)
    return np.where(inside, rows, -1).astype(np.int32)


def split_neighbours_by_search(
    keys: NDArray[np.int64], children: NDArray[np.int32], depth: int
) -> NDArray[np.int32]:
    """(S, 27) ranks of the split nodes' neighbours."""
    rows = neighbours_by_search(keys, depth)[children >= 0]
    return np.where(rows >= 0, children[rows], -1).astype(np.int32)


@dataclass(frozen=True)
class Octree:
    """See `zerograsp_edge.kernels.octree.Octree`."""

    depth: int
    full_depth: int
    num_objects: int
    keys: dict[int, NDArray[np.int64]]
    children: dict[int, NDArray[np.int32]]
    split_neighbours: dict[int, NDArray[np.int32]]
    batch_nnum: NDArray[np.int64]
    batch_nnum_split: NDArray[np.int64]
    voxel: NDArray[np.int32]


def build_octree(
    points: NDArray[np.float32], counts: NDArray[np.int32], depth: int = 9, full_depth: int = 3
) -> Octree:
    objects = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    cells = (points + np.float32(1)) * np.float32(2 ** (depth - 1))
    if not ((cells >= 0) & (cells < 2**depth)).all():
        raise ValueError("points: expected coordinates in [-1, 1)")
    point_keys = morton_encode(cells.astype(np.int64), depth) | (objects << OBJECT_SHIFT)
    split_keys, voxel = np.unique(point_keys, return_inverse=True)
    nonempty = {depth: split_keys}
    for d in range(depth - 1, full_depth - 1, -1):
        above = nonempty[d + 1]
        nonempty[d] = np.unique((above & ~MORTON_MASK) | ((above & MORTON_MASK) >> 3))

    grid = np.arange(8**full_depth) | (np.arange(len(counts))[:, None] << OBJECT_SHIFT)
    keys = {full_depth: grid.reshape(-1)}
    keys.update({d: child_keys(nonempty[d - 1]) for d in range(full_depth + 1, depth + 1)})
    children, split_neighbours = {}, {}
    batch_nnum = np.zeros((depth + 1, len(counts)), np.int64)
    batch_split = np.zeros_like(batch_nnum)
    for d in range(depth + 1):
        if d < full_depth:
            batch_nnum[d] = batch_split[d] = 8**d
            continue
        children[d] = align(nonempty[d], keys[d])
        batch_nnum[d] = np.bincount(keys[d] >> OBJECT_SHIFT, minlength=len(counts))
        batch_split[d] = np.bincount(nonempty[d] >> OBJECT_SHIFT, minlength=len(counts))
        if d < depth:
            split_neighbours[d] = split_neighbours_by_search(keys[d], children[d], d)
    return Octree(
        depth,
        full_depth,
        len(counts),
        keys,
        children,
        split_neighbours,
        batch_nnum,
        batch_split,
        voxel.reshape(-1).astype(np.int32),
    )


def expand_neighbours(
    split_neighbours: NDArray[np.int32], rank: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    parents = split_neighbours[:, PARENT]  # (S, 8, 27)
    nodes = np.where(parents >= 0, 8 * parents + CHILD, -1).reshape(-1, 27)
    if rank is not None:
        nodes = np.where(nodes >= 0, rank[nodes], -1)
    return np.ascontiguousarray(nodes.T, dtype=np.int32)


def align(source_keys: NDArray[np.int64], target_keys: NDArray[np.int64]) -> NDArray[np.int32]:
    if len(source_keys) == 0:
        return np.full(len(target_keys), -1, np.int32)
    rows = np.minimum(np.searchsorted(source_keys, target_keys), len(source_keys) - 1)
    return np.where(source_keys[rows] == target_keys, rows, -1).astype(np.int32)


@dataclass(frozen=True)
class Growth:
    """See `zerograsp_edge.kernels.output_octree.Growth`."""

    children: NDArray[np.int32]
    split_rows: NDArray[np.int32]
    next_keys: NDArray[np.int64]
    split_neighbours: NDArray[np.int32]
    nan_count: int


def grow(
    logits: NDArray[np.float32] | None,
    rows: NDArray[np.int32] | None,
    keys: NDArray[np.int64],
    parents: NDArray[np.int32] | int | None,
    *,
    forced: NDArray[np.bool_] | None = None,
) -> Growth:
    rows = np.arange(len(keys), dtype=np.int32) if rows is None else rows
    nan_count = 0
    split = np.zeros(len(keys), bool)
    if logits is not None:
        pairs = logits[rows, :2]
        nan_count = int(np.isnan(pairs).any(1).sum())
        split = pairs[:, 1] > pairs[:, 0]
    if forced is not None:
        split = forced.copy()
    if not split.any() and parents is not None:
        split[0] = True
    children = np.where(split, np.cumsum(split) - 1, -1).astype(np.int32)
    if parents is None:
        return Growth(children, rows[split], np.empty(0, np.int64), np.empty((0, 27), np.int32), nan_count)
    if isinstance(parents, np.ndarray):
        neighbours = expand_neighbours(parents).T
    else:
        neighbours = neighbours_by_search(keys, parents)
    neighbours = neighbours[split]
    table = np.where(neighbours >= 0, children[neighbours], -1).astype(np.int32)
    return Growth(children, rows[split], child_keys(keys[split]), table, nan_count)


@dataclass(frozen=True)
class ActiveGrid:
    """See `zerograsp_edge.kernels.output_octree.ActiveGrid`."""

    rows: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    source: NDArray[np.int32]
    num_active: int


def active_grid(keys: NDArray[np.int64], num_objects: int, depth: int = 4, radius: int = 2) -> ActiveGrid:
    n, width = 1 << depth, 2 * radius + 1
    cell = morton_decode(np.arange(n**3), depth)  # (n^3, 3)
    near = np.zeros((num_objects, n**3), bool)
    for key in keys:
        near[key >> OBJECT_SHIFT] |= np.abs(cell - morton_decode(key, depth)).max(-1) <= radius
    if n <= 2 * radius:
        near[:] = True
    active = int(near.sum())

    virtual = np.where(cell < n // 2, np.minimum(cell, radius), 2 * radius - np.minimum(n - 1 - cell, radius))
    virtual_row = active + virtual @ np.array([width * width, width, 1])
    is_row = near.reshape(-1)
    rows = np.where(is_row, np.cumsum(is_row) - 1, np.tile(virtual_row, num_objects)).astype(np.int32)

    all_keys = (np.arange(n**3) | (np.arange(num_objects)[:, None] << OBJECT_SHIFT)).reshape(-1)
    nodes = neighbours_by_search(all_keys, depth)[is_row]
    neighbours: NDArray[np.int64] = np.where(nodes >= 0, rows[nodes], -1)
    if n > 2 * radius:
        virtual_cell = np.stack(np.unravel_index(np.arange(width**3), (width,) * 3), -1)[:, None] + DIRECTIONS
        inside = ((virtual_cell >= 0) & (virtual_cell < width)).all(-1)
        to = active + virtual_cell @ np.array([width * width, width, 1])
        neighbours = np.concatenate([neighbours, np.where(inside, to, -1)])
    source = np.full(len(neighbours), len(keys), np.int32)
    source[rows[align(all_keys, keys)]] = np.arange(len(keys))
    return ActiveGrid(rows, np.ascontiguousarray(neighbours.T, dtype=np.int32), source, active)
