"""How much space two reconstructed objects both claim."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from zerograsp_edge.export.training.metrics import Surface

VOXEL_MM = 2.5
# Votes on whether a voxel lies inside; one wrong normal decides nothing.
NEIGHBOURS = 5


def penetration_volume(surfaces: Sequence[Surface], voxel_size: float = VOXEL_MM) -> float:
    """Volume that lies inside two or more objects, cm^3; a voxel counts once, however many claim it.

    Args:
        surfaces: complete surfaces with outward normals, mm, one frame. An open surface has no inside: everything
            behind it would count. Empty ones claim nothing.
        voxel_size: edge of the voxels that are counted, mm.

    Raises:
        ValueError: a surface has no normals.
    """
    for surface in surfaces:
        if surface.normals is None:
            raise ValueError("penetration needs outward normals, a surface has none")
    shared: list[np.ndarray] = []
    for a, b in itertools.combinations([s for s in surfaces if len(s)], 2):
        low = np.maximum(a.points.min(axis=0), b.points.min(axis=0))
        high = np.minimum(a.points.max(axis=0), b.points.max(axis=0))
        if (low >= high).any():
            continue
        # All pairs share one lattice, so that a voxel has one index.
        first, last = np.floor(low / voxel_size).astype(int), np.ceil(high / voxel_size).astype(int)
        axes = [np.arange(i, j) for i, j in zip(first, last, strict=True)]
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        for surface in (a, b):
            voxels = voxels[is_inside((voxels + 0.5) * voxel_size, surface)]
        shared.append(voxels)
    if not shared:
        return 0.0
    return len(np.unique(np.concatenate(shared), axis=0)) * voxel_size**3 / 1000


def is_inside(points: np.ndarray, surface: Surface) -> np.ndarray:
    """(n,) bool: (n, 3) points lie behind most of the surface points nearest to them, nearer ones counting more."""
    if len(points) == 0 or len(surface) == 0:
        return np.zeros(len(points), bool)
    assert surface.normals is not None
    count = min(NEIGHBOURS, len(surface))
    distance, rows = surface.tree.query(points, count)
    distance, rows = distance.reshape(-1, count), rows.reshape(-1, count)
    offset = points[:, None] - surface.points[rows]
    behind = np.sign(np.einsum("nki,nki->nk", offset, surface.normals[rows]))
    return (behind / np.maximum(distance, 1e-3)).sum(axis=1) < 0
