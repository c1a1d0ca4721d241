"""Solids joined together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import ON_EDGE, ON_SIDE, UPRIGHT, Shape
from zerograsp_edge.runtime.simulation.shapes.isosurface import mesh_of_distance
from zerograsp_edge.runtime.simulation.shapes.sweep import Sweep

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True, eq=False)
class Placed:
    """A shape at a place: rotation (3, 3) and translation (3,) mm, union <- shape."""

    shape: Shape
    translation: np.ndarray
    rotation: np.ndarray

    def local(self, points: np.ndarray) -> np.ndarray:
        return (points - self.translation) @ self.rotation

    def outward(self, points: np.ndarray) -> np.ndarray:
        return points @ self.rotation.T + self.translation

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high corner of the bounding box, union frame."""
        if isinstance(self.shape, Sweep):
            centres, radii = self.outward(self.shape.centres), self.shape.radii[:, None]
            return (centres - radii).min(axis=0), (centres + radii).max(axis=0)
        vertices = self.outward(np.asarray(self.shape.mesh().vertices))
        return vertices.min(axis=0), vertices.max(axis=0)


@dataclass(frozen=True, eq=False)
class Union(Shape):
    """The union of placed shapes; `of` centres it.

    Attributes:
        half: (3,) half the edges of the bounding box.
    """

    members: tuple[Placed, ...]
    half: np.ndarray

    @classmethod
    def of(cls, *members: tuple[Shape, np.ndarray] | tuple[Shape, np.ndarray, np.ndarray]) -> Union:
        """From (shape, translation) or (shape, translation, rotation), moved so that the bounding box is centred."""
        placed = [
            Placed(shape, np.asarray(translation, np.float64), rotation[0] if rotation else np.eye(3))
            for shape, translation, *rotation in members
        ]
        bounds = np.array([p.bounds() for p in placed])
        low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
        return cls(
            tuple(Placed(p.shape, p.translation - (low + high) / 2, p.rotation) for p in placed), (high - low) / 2
        )

    @property
    def half_extents(self) -> np.ndarray:
        return self.half

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE, ON_EDGE)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact outside; inside the overlap of members it is a bound: at least as deep as given."""
        return np.min([p.shape.distance(p.local(points)) for p in self.members], axis=0)

    def normals(self, points: np.ndarray) -> np.ndarray:
        owner = np.argmin([p.shape.distance(p.local(points)) for p in self.members], axis=0)
        result = np.empty((len(points), 3))
        for k, p in enumerate(self.members):
            mine = owner == k
            result[mine] = p.shape.normals(p.local(points[mine])) @ p.rotation.T
        return result

    def mesh(self) -> trimesh.Trimesh:
        return mesh_of_distance(self)

    def parts(self) -> list[np.ndarray]:
        return [p.outward(piece) for p in self.members for piece in p.shape.parts()]
