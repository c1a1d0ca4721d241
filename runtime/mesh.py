"""Watertight mesh of one object by marching cubes over the predicted signed distances.

The network gives a distance only at the nodes the surface passes. Around them it is continued along the
normals by one voxel (a plane per node); farther away only the sign matters, and is decided by flooding from
outside the bounding box.
Whatever the nodes are, the result is closed: the volume's border is outside, and every cell of marching
cubes is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.extras import require

if TYPE_CHECKING:
    import trimesh

# Empty voxels around the nodes' bounding box: one for the continuation, one that is outside for certain.
_PADDING = 2
# Smallest distance kept, in voxels: vertices then stay apart by more than an exporter's merge tolerance, so
# that a closed mesh is still closed when it is read back. At 2.5 mm voxels it moves the surface by at most
# 0.025 mm.
_MIN_DISTANCE = 0.01


def extract_mesh(
    nodes: np.ndarray, sdf: np.ndarray, normals: np.ndarray, origin: np.ndarray, voxel_size: float
) -> trimesh.Trimesh:
    """Closed, outward-oriented mesh of one object.

    Args:
        nodes: (n, 3) int, distinct voxel indices.
        sdf: (n,) float, signed distance of the voxel centres, mm, positive outside.
        normals: (n, 3) float, unit, outward.
        origin: (3,) corner of voxel (0, 0, 0), mm.
        voxel_size: mm.

    Returns:
        Mesh in mm, in the frame of `origin`; cavities without a way out are filled. Empty when no node is
        inside.

    Raises:
        MissingExtra: scikit-image or trimesh is not installed.
        ValueError: shapes do not fit, or there is no node.
    """
    measure = require("skimage.measure", "mesh", "extract a mesh")
    trimesh = require("trimesh", "mesh", "extract a mesh")

    if len(nodes) == 0:
        raise ValueError("cannot mesh an object without nodes")
    if nodes.shape != (len(sdf), 3) or normals.shape != nodes.shape or sdf.ndim != 1:
        raise ValueError(
            "expected nodes (n, 3), sdf (n,), normals (n, 3), "
            f"got {nodes.shape}, {sdf.shape}, {normals.shape}"
        )
    corner = nodes.min(axis=0) - _PADDING
    volume = _distance_volume(nodes - corner, sdf / voxel_size, normals)
    outside = measure.label(volume > 0, connectivity=1)
    outside = outside == outside[0, 0, 0]
    magnitude = np.maximum(np.abs(volume), np.float32(_MIN_DISTANCE))
    volume = np.where(outside, magnitude, -magnitude)
    while (volume < 0).any():
        vertices, faces, _, _ = measure.marching_cubes(
            volume.astype(np.float32), 0.0, gradient_direction="descent"
        )
        pinched = _pinched_edges(faces)
        if len(pinched) == 0:
            centres = origin + (corner + 0.5 + vertices) * voxel_size
            return trimesh.Trimesh(centres, faces, process=False)
        _erode(volume, np.floor(vertices[pinched].mean(axis=1)).astype(int))
    return trimesh.Trimesh()


def _pinched_edges(faces: np.ndarray) -> np.ndarray:
    """(e, 2) vertex pairs whose edge is not shared by exactly two faces.

    Marching cubes is closed, but where two of its tunnels meet at a face, four triangles may share an edge.
    """
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    codes, count = np.unique(edges[:, 0] << 32 | edges[:, 1], return_counts=True)
    codes = codes[count != 2]
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def _erode(volume: np.ndarray, cells: np.ndarray) -> None:
    """In each (c, 3) cell, turn the inside corner nearest to the surface outside. Insides run out."""
    for cell in np.unique(cells, axis=0):
        corners = volume[tuple(slice(at, at + 2) for at in cell)]
        inside = np.where(corners < 0, corners, -np.inf)
        corners[np.unravel_index(inside.argmax(), inside.shape)] = _MIN_DISTANCE


def _distance_volume(nodes: np.ndarray, sdf: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Dense volume of distances in voxels; +1 where nothing is known.

    Args:
        nodes: (n, 3) int, at least `_PADDING` away from 0.
        sdf: (n,) in voxels.
        normals: (n, 3).
    """
    shape = tuple(nodes.max(axis=0) + _PADDING + 1)
    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    flat = nodes @ strides
    target = (flat[:, None] + steps @ strides).ravel()
    continued = (sdf[:, None] + normals @ steps.T).ravel()
    near = np.tile(1.0 / np.maximum((steps * steps).sum(axis=1), 1), len(nodes))
    # Only voxels that something is known about are gathered: the box is mostly empty.
    known, place = np.unique(target, return_inverse=True)
    volume = np.ones(int(np.prod(shape)), np.float32)
    volume[known] = np.bincount(place, near * continued) / np.bincount(place, near)
    volume[flat] = sdf
    return np.clip(volume, -1, 1).reshape(shape)
