"""Evenly spread points of a solid's true surface, with normals."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import Shape
from zerograsp_edge.runtime.simulation.shapes.isosurface import onto_surface

_CANDIDATES = 5  # per square of the spacing


def surface_samples(
    shape: Shape, spacing_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points about `spacing_mm` apart over the whole surface, inner walls of hollows included.

    Area-uniform candidates on the mesh are thinned to the one nearest the middle of each cube of the spacing, then
    moved onto the exact surface. Normals are the distance's gradient there; next to a sharp edge, that of the face.

    Args:
        spacing_mm: edge of the thinning cubes, mm.
        rng: decides the candidates.

    Returns:
        points: (n, 3) float32, mm.
        normals: (n, 3) float32, outward, unit length.

    Raises:
        ValueError: spacing_mm is not positive.
    """
    if not spacing_mm > 0:
        raise ValueError(f"spacing_mm is {spacing_mm}; expected a positive length in mm")
    mesh = shape.mesh()
    corners = np.asarray(mesh.triangles)
    total = np.cumsum(
        np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    )
    count = int(np.ceil(_CANDIDATES * total[-1] / 2 / spacing_mm**2))
    # one candidate per equal share of the area: more even than independent draws
    face = np.searchsorted(total, (np.arange(count) + rng.random(count)) * (total[-1] / count))
    face = np.minimum(face, len(corners) - 1)
    u, v = rng.random(count), rng.random(count)
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    a, b, c = corners[face, 0], corners[face, 1], corners[face, 2]
    points = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    points = onto_surface(shape, points[_thinned(points, spacing_mm)], rounds=2)
    return points.astype(np.float32), shape.normals(points).astype(np.float32)


def _thinned(points: np.ndarray, spacing: float) -> np.ndarray:
    """Indices of the point nearest the middle of each occupied cube, ascending."""
    cube = np.floor(points / spacing)
    off = np.sum((points / spacing - cube - 0.5) ** 2, axis=1)
    cube -= cube.min(axis=0)
    nx, ny, _ = cube.max(axis=0) + 1
    key = (cube[:, 0] + nx * (cube[:, 1] + ny * cube[:, 2])).astype(np.int64)
    order = np.lexsort((off, key))
    first = np.concatenate([[True], np.diff(key[order]) > 0])
    return np.sort(order[first])
