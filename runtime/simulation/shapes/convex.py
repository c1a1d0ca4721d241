"""Point sets whose hulls stand for round bodies in the physics engine."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def sphere_directions(subdivisions: int = 1) -> np.ndarray:
    """(12, 42 or 162, 3) vertices of a divided icosahedron, scaled to enclose the volume of the unit ball."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=1.0)
    return np.asarray(sphere.vertices) * (4 / 3 * np.pi / sphere.volume) ** (1 / 3)


def hull_of_balls(centres: np.ndarray, radii: float | np.ndarray, subdivisions: int = 1) -> np.ndarray:
    """Points whose hull is that of balls, about: (k * vertices, 3) of (k, 3) centres and their radii."""
    radii = np.broadcast_to(np.asarray(radii, np.float64), len(centres))
    return (centres[:, None] + radii[:, None, None] * sphere_directions(subdivisions)).reshape(-1, 3)


def ring_angles(count: int) -> tuple[np.ndarray, float]:
    """Angles of a regular polygon's corners and the radius at which it encloses the area of the unit circle."""
    angle = 2 * np.pi / count
    return np.arange(count) * angle, float(np.sqrt(angle / np.sin(angle)))
