"""Prisms: an outline in the xy plane, given thickness along z, edges rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes import polygon as plane
from zerograsp_edge.runtime.simulation.shapes.base import ON_EDGE, ON_SIDE, UPRIGHT, Shape
from zerograsp_edge.runtime.simulation.shapes.convex import hull_of_balls

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True, eq=False)
class Extrusion(Shape):
    """The points within `radius` of a prism: |z| <= core_half over the polygon `core`.

    Attributes:
        core: (m, 2) simple counterclockwise polygon, its bounding box about the origin.
        core_half: half the height of the core.
        radius: of the rounded edges, added all around; 0 for sharp ones.
    """

    core: np.ndarray
    core_half: float
    radius: float = 0.0

    @property
    def half_extents(self) -> np.ndarray:
        return np.array([*self.core.max(axis=0), self.core_half]) + self.radius

    @property
    def bounding_radius(self) -> float:
        return float(np.hypot(np.linalg.norm(self.core, axis=1).max(), self.core_half)) + self.radius

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE, ON_EDGE)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact outside; inside exact up to `radius` near rounded reflex corners."""
        across = plane.nearest(self.core, points[:, :2]).distance
        above = np.abs(points[:, 2]) - self.core_half
        outside = np.hypot(np.maximum(across, 0), np.maximum(above, 0))
        return outside + np.minimum(np.maximum(across, above), 0) - self.radius

    def mesh(self) -> trimesh.Trimesh:
        import trimesh

        vertex, reach = self._outline()
        steps = max(int(np.ceil(self.radius / 0.7)), 3) if self.radius else 0
        angle = np.linspace(-np.pi / 2, 0, steps + 1) if steps else np.zeros(1)
        layers = [(np.cos(a), -self.core_half + self.radius * np.sin(a)) for a in angle]
        layers += [(c, -z) for c, z in layers[::-1]]
        count = len(vertex)
        vertices = np.concatenate([np.insert(self.core[vertex] + c * reach, 2, z, axis=1) for c, z in layers])
        i = np.arange(count)
        j = (i + 1) % count
        low = np.arange(len(layers) - 1)[:, None] * count
        a, b, c, d = low + i, low + j, low + j + count, low + i + count
        # the first and last layer are the core itself: one copy of each of its vertices carries the cap
        _, carrier = np.unique(vertex, return_index=True)
        if self.radius:
            cap = carrier[plane.triangulate(self.core)]
        else:
            cap = plane.triangulate(self.core)
        faces = np.concatenate(
            [
                np.stack([a, b, c], axis=-1).reshape(-1, 3),
                np.stack([a, c, d], axis=-1).reshape(-1, 3),
                cap[:, ::-1],
                cap + count * (len(layers) - 1),
            ]
        )
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        mesh.merge_vertices(digits_vertex=7)
        mesh.update_faces(mesh.nondegenerate_faces(height=1e-9))
        return mesh

    def parts(self) -> list[np.ndarray]:
        """The outline's convex pieces, each as thick as the solid."""
        return [
            hull_of_balls(
                np.concatenate([np.insert(piece, 2, z, axis=1) for z in (-self.core_half, self.core_half)]),
                self.radius,
            )
            if self.radius
            else np.concatenate([np.insert(piece, 2, z, axis=1) for z in (-self.core_half, self.core_half)])
            for piece in plane.convex_pieces(self.core, 0.3)
        ]

    def _outline(self) -> tuple[np.ndarray, np.ndarray]:
        """The rounded outline: per point the core's vertex it belongs to and its offset from it.

        Convex corners become arcs, reflex ones move along their bisector.
        """
        if not self.radius:
            return np.arange(len(self.core)), np.zeros_like(self.core)
        after = plane.edge_normals(self.core)
        before = np.roll(after, 1, axis=0)
        vertex, reach = [], []
        for k, (a, b) in enumerate(zip(before, after, strict=True)):
            turn = np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b)
            if turn <= np.radians(1):
                offsets = ((a + b) / (1 + a @ b))[None]
            else:
                t = np.linspace(0, turn, int(np.ceil(turn / np.radians(12))) + 1)[:, None]
                offsets = (a * np.sin(turn - t) + b * np.sin(t)) / np.sin(turn)
            vertex += [k] * len(offsets)
            reach.append(offsets * self.radius)
        return np.array(vertex), np.concatenate(reach)
