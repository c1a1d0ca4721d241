"""A ball of varying radius moved along a path: bananas, handles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import Shape
from zerograsp_edge.runtime.simulation.shapes.convex import hull_of_balls
from zerograsp_edge.runtime.simulation.shapes.isosurface import mesh_of_distance

if TYPE_CHECKING:
    import trimesh

_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Sweep(Shape):
    """Hulls of consecutive balls, joined.

    Attributes:
        centres: (k, 3) path, k >= 2, mm, the bounding box of the sweep about the origin.
        radii: (k,), mm. No ball contains the next one.
    """

    centres: np.ndarray
    radii: np.ndarray

    @classmethod
    def placed(cls, centres: np.ndarray, radii: np.ndarray) -> tuple[Sweep, np.ndarray]:
        """The sweep along a path given in any frame, and where its centre lies in that frame.

        Raises:
            ValueError: a ball contains its neighbour.
        """
        length = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        if (np.abs(np.diff(radii)) >= length).any():
            raise ValueError(
                "a ball of the sweep contains its neighbour: take fewer centres or a flatter taper"
            )
        low, high = (centres - radii[:, None]).min(axis=0), (centres + radii[:, None]).max(axis=0)
        middle = (low + high) / 2
        return cls(centres - middle, radii), middle

    @property
    def half_extents(self) -> np.ndarray:
        return (np.abs(self.centres) + self.radii[:, None]).max(axis=0)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact outside; inside it is a bound where two stretches overlap in a bend."""
        return self._nearest(points)[0]

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Away from the centre of the ball that touches the point."""
        _, centre = self._nearest(points)
        outward = points - centre
        return outward / np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-12)

    def mesh(self) -> trimesh.Trimesh:
        return mesh_of_distance(self)

    def parts(self) -> list[np.ndarray]:
        """Stretches within which centres and radii leave a straight taper by at most 0.8 mm."""
        parts, first = [], 0
        for last in range(2, len(self.centres) + 1):
            if last == len(self.centres) or not self._is_straight(first, last):
                parts.append(hull_of_balls(self.centres[first:last], self.radii[first:last]))
                first = last - 1
        return parts

    def _is_straight(self, first: int, last: int) -> bool:
        a, b = self.centres[first], self.centres[last]
        inner = self.centres[first : last + 1]
        t = (inner - a) @ (b - a) / ((b - a) @ (b - a))
        off = np.linalg.norm(inner - a - t[:, None] * (b - a), axis=1)
        taper = self.radii[first] + t * (self.radii[last] - self.radii[first])
        return bool(off.max() <= 0.8 and np.abs(self.radii[first : last + 1] - taper).max() <= 0.8)

    def _nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance and the centre of the ball that gives it.

        Between balls a and b the radius falls by s per unit of length. The ball that comes nearest to a point at
        axial coordinate y and radial coordinate x is at y - x s / sqrt(1 - s^2), where the derivative of
        hypot(x, t - y) - r(t) vanishes; the function is convex, so clamping to the stretch is exact.
        """
        a, b = self.centres[:-1], self.centres[1:]
        length = np.linalg.norm(b - a, axis=1)
        axis = (b - a) / length[:, None]
        s = (self.radii[:-1] - self.radii[1:]) / length
        lean = s / np.sqrt(1 - s**2)
        offset, a2 = np.einsum("ij,ij->i", a, axis), np.einsum("ij,ij->i", a, a)
        distance, centre = np.empty(len(points)), np.empty((len(points), 3))
        step = max(_CHUNK // len(a), 1)
        for begin in range(0, len(points), step):
            p = np.asarray(points[begin : begin + step], np.float64)
            y = p @ axis.T - offset
            squared = np.einsum("ij,ij->i", p, p)[:, None] - 2 * (p @ a.T) + a2
            x = np.sqrt(np.maximum(squared - y * y, 0))
            t = np.clip(y - x * lean, 0, length)
            d = np.hypot(x, t - y) - self.radii[:-1] + s * t
            best = d.argmin(axis=1)
            row = np.arange(len(p))
            distance[begin : begin + step] = d[row, best]
            centre[begin : begin + step] = a[best] + t[row, best, None] * axis[best]
        return distance, centre
