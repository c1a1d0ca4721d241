"""Solids joined together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import ON_EDGE, ON_SIDE, UPRIGHT, Shape
from zerograsp_edge.runtime.simulation.shapes.isosurface import mesh_of_distance

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True, eq=False)
class Placed:
    """A shape whose centre is moved to `at`, (3,) mm."""

    shape: Shape
    at: np.ndarray


@dataclass(frozen=True, eq=False)
class Union(Shape):
    """The union of placed shapes; `of` centres it.

    Attributes:
        half: (3,) half the edges of the bounding box.
    """

    members: tuple[Placed, ...]
    half: np.ndarray

    @classmethod
    def of(cls, *members: tuple[Shape, np.ndarray]) -> Union:
        """Of shapes and the places of their centres, moved so that the common bounding box is centred."""
        low = np.min([at - shape.half_extents for shape, at in members], axis=0)
        high = np.max([at + shape.half_extents for shape, at in members], axis=0)
        middle = (low + high) / 2
        return cls(tuple(Placed(shape, at - middle) for shape, at in members), (high - low) / 2)

    @property
    def half_extents(self) -> np.ndarray:
        return self.half

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE, ON_EDGE)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact outside; inside the overlap of members it is a bound: at least as deep as given."""
        return self._nearest(points)[0]

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Those of the nearest member."""
        _, owner = self._nearest(points)
        result = np.empty((len(points), 3))
        for k, member in enumerate(self.members):
            mine = owner == k
            result[mine] = member.shape.normals(points[mine] - member.at)
        return result

    def mesh(self) -> trimesh.Trimesh:
        return mesh_of_distance(self)

    def parts(self) -> list[np.ndarray]:
        return [piece + member.at for member in self.members for piece in member.shape.parts()]

    def _nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance and the member that gives it."""
        points = np.asarray(points, np.float64)
        first = self.members[0]
        distance, owner = first.shape.distance(points - first.at), np.zeros(len(points), np.int64)
        for k, member in enumerate(self.members[1:], 1):
            # no point of a member is nearer than its bounding box
            beyond = np.maximum(np.abs(points - member.at) - member.shape.half_extents, 0)
            box = np.sqrt(np.einsum("ij,ij->i", beyond, beyond))
            ask = np.flatnonzero((box == 0) | (box < distance))
            other = member.shape.distance(points[ask] - member.at)
            nearer = other < distance[ask]
            distance[ask[nearer]], owner[ask[nearer]] = other[nearer], k
        return distance, owner
