"""Star-shaped solids given by a gauge: a function that is 1 on the surface and grows in proportion along each ray.

Superquadrics and crumpled ellipsoids. Their distance has no closed form. It is found from the nearest vertex of a
dense mesh, which is then slid along the surface towards the point: within 0.2 mm up to 5 mm off the surface, within
0.5 mm further out (tests hold that).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import ON_EDGE, ON_SIDE, UPRIGHT, Shape

if TYPE_CHECKING:
    import trimesh
    from scipy.spatial import cKDTree


class Radial(Shape):
    """A star-shaped solid. Subclasses give the half edges of the box its mesh is blown up from, and the gauge."""

    half: tuple[float, float, float]

    @property
    def star(self) -> np.ndarray:
        """(3,) the point all rays start from, mm. The gauge counts from it."""
        return np.zeros(3)

    @abstractmethod
    def gauge(self, rays: np.ndarray) -> np.ndarray:
        """(n,) of (n, 3) offsets from `star`: 0 there, 1 on the surface, homogeneous of degree 1."""

    @abstractmethod
    def gauge_gradient(self, rays: np.ndarray) -> np.ndarray:
        """(n, 3) direction (any length) of the gauge's gradient at (n, 3) offsets from `star`, none of them 0."""

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE, ON_EDGE)

    def distance(self, points: np.ndarray) -> np.ndarray:
        rays = np.asarray(points, np.float64) - self.star
        inside = self.gauge(rays) < 1
        gap, index = self._tree.query(rays)
        foot = self._surface[index]
        # the further away, the less half a vertex spacing to the side changes the distance
        for step, reach in ((1.0, 40.0), (0.7, 12.0), (0.7, 12.0)):
            near = np.flatnonzero(gap < reach)
            p, q, d = rays[near], foot[near], gap[near]
            n = _unit(self.gauge_gradient(q))
            offset = p - q
            slid = q + step * (offset - np.einsum("ij,ij->i", offset, n)[:, None] * n)
            slid /= self.gauge(slid)[:, None]
            length = np.linalg.norm(p - slid, axis=1)
            better = length < d
            foot[near[better]], gap[near[better]] = slid[better], length[better]
        return np.where(inside, -gap, gap)

    def normals(self, points: np.ndarray) -> np.ndarray:
        return _unit(self.gauge_gradient(np.asarray(points, np.float64) - self.star))

    def mesh(self) -> trimesh.Trimesh:
        """Every face of the box divided into squares of about a 50th of the longest extent, moved to the surface."""
        import trimesh

        box, faces = _box_grid(np.array(self.half), max(2 * max(self.half) / 50, 1.0))
        return trimesh.Trimesh(box / self.gauge(box)[:, None] + self.star, faces, process=False)

    @cached_property
    def _surface(self) -> np.ndarray:
        """Vertices of the mesh as offsets from `star`."""
        return np.asarray(self.mesh().vertices) - self.star

    @cached_property
    def _tree(self) -> cKDTree:
        try:
            from scipy.spatial import cKDTree
        except ImportError as error:
            raise ImportError(
                "distances of this shape need scipy: pip install 'zerograsp-edge[sim]'"
            ) from error
        return cKDTree(self._surface, leafsize=32)


@dataclass(frozen=True)
class Superquadric(Radial):
    """|x/a|^(2/e2) + |y/b|^(2/e2) to the power e2/e1, plus |z/c|^(2/e1), is 1 (Barr 1981).

    Attributes:
        half: (a, b, c), mm.
        e1: from boxy (0.2) over round (1) to pinched (1.8), seen from the side.
        e2: the same seen along z.
    """

    half: tuple[float, float, float]
    e1: float
    e2: float

    @property
    def half_extents(self) -> np.ndarray:
        return np.array(self.half)

    def gauge(self, rays: np.ndarray) -> np.ndarray:
        """((|x/a|^(2/e2) + |y/b|^(2/e2))^(e2/e1) + |z/c|^(2/e1))^(e1/2)."""
        q = np.abs(rays) / self.half
        flat = (q[:, 0] ** (2 / self.e2) + q[:, 1] ** (2 / self.e2)) ** (self.e2 / self.e1)
        return (flat + q[:, 2] ** (2 / self.e1)) ** (self.e1 / 2)

    def gauge_gradient(self, rays: np.ndarray) -> np.ndarray:
        # the common factor of all components is left out
        q = np.maximum(np.abs(rays) / self.half, 1e-9)
        x, y = q[:, 0] ** (2 / self.e2), q[:, 1] ** (2 / self.e2)
        flat = (x + y) ** (self.e2 / self.e1 - 1)
        size = np.stack([flat * x / q[:, 0], flat * y / q[:, 1], q[:, 2] ** (2 / self.e1 - 1)], axis=1)
        return np.copysign(size / self.half, rays)

    def parts(self) -> list[np.ndarray]:
        vertices, _ = _box_grid(np.array(self.half), max(self.half) / 6)
        return [vertices / self.gauge(vertices)[:, None]]


@dataclass(frozen=True, eq=False)
class Crumpled(Radial):
    """An ellipsoid whose radius is multiplied by 1 + sum_k a_k sin(w_k . u + phase_k), u the direction in unit space.

    Attributes:
        half: half axes of the ellipsoid, mm.
        centre: (3,) of the ellipsoid, mm, such that the bounding box is centred.
        extents: (3,) half the edges of the bounding box.
        waves: (k, 3) w_k, radians; smooth for lengths up to about 6.
        phases: (k,).
        amplitudes: (k,), their sum below 0.5.
    """

    half: tuple[float, float, float]
    centre: np.ndarray
    extents: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray

    @classmethod
    def of(
        cls, axes: np.ndarray, waves: np.ndarray, phases: np.ndarray, amplitudes: np.ndarray, size: float
    ) -> Crumpled:
        """Scaled so that its longest extent is `size`, and centred.

        Raises:
            ValueError: the amplitudes could cut to the middle.
        """
        if np.abs(amplitudes).sum() >= 0.5:
            raise ValueError(f"amplitudes add up to {np.abs(amplitudes).sum():.2f}; expected less than 0.5")
        half = axes * (size / 2 / axes.max())
        trial = cls(tuple(half), np.zeros(3), half, waves, phases, amplitudes)
        low, high = trial.mesh().bounds
        scale = size / (high - low).max()
        middle, extents = scale * (low + high) / 2, scale * (high - low) / 2
        return cls(tuple(half * scale), -middle, extents, waves, phases, amplitudes)

    @property
    def half_extents(self) -> np.ndarray:
        return self.extents

    @property
    def star(self) -> np.ndarray:
        return self.centre

    def gauge(self, rays: np.ndarray) -> np.ndarray:
        q = rays / self.half
        length = np.linalg.norm(q, axis=1)
        u = q / np.maximum(length, 1e-12)[:, None]
        return length / (1 + np.sin(u @ self.waves.T + self.phases) @ self.amplitudes)

    def gauge_gradient(self, rays: np.ndarray) -> np.ndarray:
        q = rays / self.half
        u = _unit(q)
        angle = u @ self.waves.T + self.phases
        scale = (1 + np.sin(angle) @ self.amplitudes)[:, None]
        bend = (np.cos(angle) * self.amplitudes) @ self.waves
        bend -= np.einsum("ij,ij->i", bend, u)[:, None] * u
        return (u - bend / scale) / self.half

    def parts(self) -> list[np.ndarray]:
        """Twenty cones from the centre, over the faces of an icosahedron."""
        import trimesh

        i, j = np.mgrid[0:5, 0:5]
        i, j = i[i + j <= 4], j[i + j <= 4]
        weights = np.stack([i, j, 4 - i - j], axis=1) / 4
        cones = []
        for corners in trimesh.creation.icosahedron().triangles:
            rays = (weights @ corners) * self.half
            cones.append(np.concatenate([rays / self.gauge(rays)[:, None], np.zeros((1, 3))]) + self.star)
        return cones


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)


def _box_grid(half: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Closed mesh of a box whose faces are grids: vertices (n, 3), outward faces (m, 3)."""
    counts = 2 * np.maximum(np.ceil(half / spacing), 2).astype(
        int
    )  # even: ridges of pinched shapes lie at zero
    vertices, faces, number = [], [], 0
    for axis in range(3):
        b, c = (axis + 1) % 3, (axis + 2) % 3
        for side in (-1, 1):
            i, j = np.mgrid[0 : counts[b] + 1, 0 : counts[c] + 1]
            lattice = np.empty((i.size, 3), np.int64)  # integers, so that shared vertices are equal
            lattice[:, axis] = 0 if side < 0 else counts[axis]
            lattice[:, b], lattice[:, c] = i.ravel(), j.ravel()
            vertices.append(lattice)
            at = (number + i * (counts[c] + 1) + j)[:-1, :-1].reshape(-1, 1)
            quad = at + np.array([0, counts[c] + 1, counts[c] + 2, 1])
            if side < 0:
                quad = quad[:, ::-1]
            faces += [quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]
            number += i.size
    unique, index = np.unique(np.concatenate(vertices), axis=0, return_inverse=True)
    return (2 * unique / counts - 1) * half, index.reshape(-1)[np.concatenate(faces)]
