"""What every solid can say about itself: extent, signed distance, mesh, convex parts, where a ray meets it.

All lengths are millimetres; every shape is centred in its own frame, with z as its axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import trimesh

UPRIGHT = np.eye(3)
ON_SIDE = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # the shape's z becomes x
ON_EDGE = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # the shape's y becomes -z


class Shape(ABC):
    """A solid in its own frame."""

    @property
    @abstractmethod
    def half_extents(self) -> np.ndarray:
        """(3,) half the edges of the bounding box."""

    @abstractmethod
    def distance(self, points: np.ndarray) -> np.ndarray:
        """(n,) exact signed distance of (n, 3) points, positive outside."""

    @abstractmethod
    def mesh(self) -> trimesh.Trimesh:
        """Closed mesh."""

    @property
    def bounding_radius(self) -> float:
        return float(np.linalg.norm(self.half_extents))

    def rests(self) -> tuple[np.ndarray, ...]:
        """(3, 3) rotations, table <- shape, in which the shape lies stably."""
        return (UPRIGHT,)

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """(n,) parameter t of the first point origin + t * direction in front of the origin, inf without one.

        Here by sphere tracing between the ends of the bounding sphere: exact distances never step too far.
        Shapes with a closed form override it.

        Args:
            origins: (3,) or (n, 3), outside the shape.
            directions: (n, 3), any length.
        """
        length = np.linalg.norm(directions, axis=1)
        origins = np.broadcast_to(origins, directions.shape)
        middle = -np.einsum("ni,ni->n", origins, directions) / length**2
        closest = np.linalg.norm(origins + middle[:, None] * directions, axis=1)
        reach = np.sqrt(np.maximum(self.bounding_radius**2 - closest**2, 0)) / length
        near, far = np.maximum(middle - reach, 0), middle + reach
        result = np.full(len(directions), np.inf)
        active = np.flatnonzero((closest < self.bounding_radius) & (far > 0))
        t = near[active]
        for _ in range(96):
            if len(active) == 0:
                break
            gap = self.distance(origins[active] + t[:, None] * directions[active])
            hit = gap < 0.01
            result[active[hit]] = t[hit]
            t = t + gap / length[active]
            going = ~hit & (t < far[active])
            active, t = active[going], t[going]
        return result

    def normals(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) outward unit normals at (n, 3) surface points: the gradient of the distance."""
        points = np.asarray(points, np.float64)
        step = 1e-3
        gradient = np.stack(
            [self.distance(points + e) - self.distance(points - e) for e in np.eye(3) * step], axis=1
        )
        return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)

    def parts(self) -> list[np.ndarray]:
        """Convex pieces that make up the solid, for the physics engine: per piece (k, 3) points whose hull it is.

        Here the hull of the mesh: right for convex solids. Others override it.
        """
        return [np.asarray(self.mesh().convex_hull.vertices, np.float64)]
