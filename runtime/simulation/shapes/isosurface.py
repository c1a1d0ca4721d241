"""Closed mesh of a solid that is known only by its signed distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import Shape

if TYPE_CHECKING:
    import trimesh

_BLOCK = 4  # edge of the blocks that are skipped or sampled as a whole, in voxels


def mesh_of_distance(shape: Shape, voxel_mm: float | None = None) -> trimesh.Trimesh:
    """Marching cubes on the distance sampled near the surface, its vertices moved onto the surface.

    Edges sharper than a voxel are cut off by a fraction of it between vertices; vertices themselves are exact.

    Args:
        voxel_mm: default a 60th of the longest extent, 1..2.5 mm.

    Raises:
        ImportError: scikit-image is missing.
    """
    import trimesh

    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise ImportError(
            "meshes of compound shapes need scikit-image: pip install 'zerograsp-edge[mesh]'"
        ) from error
    voxel = float(np.clip(shape.half_extents.max() / 30, 1.0, 2.5)) if voxel_mm is None else voxel_mm
    origin = -shape.half_extents - 2 * voxel
    blocks = np.ceil((2 * shape.half_extents / voxel + 4) / _BLOCK).astype(int)
    values = sample_near_surface(shape, origin, voxel, blocks)
    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
    vertices = onto_surface(shape, vertices.astype(np.float64) * voxel + origin, rounds=3)
    return trimesh.Trimesh(vertices, faces, process=False)


def sample_near_surface(shape: Shape, origin: np.ndarray, voxel: float, blocks: np.ndarray) -> np.ndarray:
    """Signed distance on a lattice of 4 * blocks + 1 nodes, float32.

    Exact within a voxel of the surface and beyond; further off interpolated between exact nodes four voxels apart.
    """
    coarse = [np.arange(n + 1) * _BLOCK * voxel + o for n, o in zip(blocks, origin, strict=True)]
    corner = shape.distance(np.stack(np.meshgrid(*coarse, indexing="ij"), axis=-1).reshape(-1, 3))
    corner = corner.reshape(blocks + 1)
    values = corner
    for axis in range(3):
        values = _interpolated(values, axis)
    # A block meets the surface only if a corner of it is nearer than its diagonal.
    nearest = np.abs(corner)
    for axis in range(3):
        low = np.take(nearest, range(blocks[axis]), axis=axis)
        nearest = np.minimum(low, np.take(nearest, range(1, blocks[axis] + 1), axis=axis))
    active = np.argwhere(nearest <= _BLOCK * voxel * np.sqrt(3) / 2 + voxel)
    offsets = np.stack(np.meshgrid(*[np.arange(_BLOCK + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    wanted = np.zeros(values.shape, bool)
    nodes = (active[:, None] * _BLOCK + offsets).reshape(-1, 3)
    wanted[tuple(nodes.T)] = True
    nodes = np.argwhere(wanted)
    values[wanted] = shape.distance(nodes * voxel + origin)
    return values.astype(np.float32)


def onto_surface(shape: Shape, points: np.ndarray, rounds: int) -> np.ndarray:
    """(n, 3) points near the surface moved along the distance's gradient onto it."""
    for _ in range(rounds):
        gap = shape.distance(points)
        off = np.abs(gap) > 1e-4
        if not off.any():
            break
        moved = points[off] - gap[off, None] * shape.normals(points[off])
        points = points.copy()
        points[off] = moved
    return points


def _interpolated(values: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation to _BLOCK times the resolution along one axis."""
    values = np.moveaxis(values, axis, 0)
    fine = np.empty((_BLOCK * (len(values) - 1) + 1, *values.shape[1:]))
    fine[::_BLOCK] = values
    for k in range(1, _BLOCK):
        fine[k::_BLOCK] = values[:-1] * (1 - k / _BLOCK) + values[1:] * (k / _BLOCK)
    return np.moveaxis(fine, 0, axis)
