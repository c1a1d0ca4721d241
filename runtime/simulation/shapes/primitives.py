"""Solids with closed forms: box, rounded box, sphere, cylinder, capsule, torus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import ON_EDGE, ON_SIDE, UPRIGHT, Shape
from zerograsp_edge.runtime.simulation.shapes.convex import hull_of_balls

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True)
class Box(Shape):
    """A cuboid with edges 2 * half."""

    half: tuple[float, float, float]

    @property
    def half_extents(self) -> np.ndarray:
        return np.array(self.half)

    def distance(self, points: np.ndarray) -> np.ndarray:
        beyond = np.abs(points) - self.half
        return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE, ON_EDGE)

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Slab method."""
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (-self.half_extents - origins) / directions, (self.half_extents - origins) / directions
        near, far = np.fmin(a, b).max(axis=1), np.fmax(a, b).min(axis=1)
        return np.where((near <= far) & (near > 0), near, np.inf)

    def mesh(self) -> trimesh.Trimesh:
        import trimesh

        return trimesh.creation.box(extents=2 * self.half_extents)


@dataclass(frozen=True)
class Sphere(Shape):
    radius: float

    @property
    def half_extents(self) -> np.ndarray:
        return np.full(3, self.radius)

    @property
    def bounding_radius(self) -> float:
        return self.radius

    def distance(self, points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points, axis=1) - self.radius

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return _sphere_hit(origins, directions, self.radius)

    def mesh(self) -> trimesh.Trimesh:
        import trimesh

        return trimesh.creation.icosphere(subdivisions=4, radius=self.radius)

    def parts(self) -> list[np.ndarray]:
        return [hull_of_balls(np.zeros((1, 3)), self.radius, subdivisions=2)]


@dataclass(frozen=True)
class Cylinder(Shape):
    """Flat ends at z = +-half_height."""

    radius: float
    half_height: float

    @property
    def half_extents(self) -> np.ndarray:
        return np.array([self.radius, self.radius, self.half_height])

    @property
    def bounding_radius(self) -> float:
        return float(np.hypot(self.radius, self.half_height))

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE)

    def distance(self, points: np.ndarray) -> np.ndarray:
        radial = np.hypot(points[:, 0], points[:, 1]) - self.radius
        axial = np.abs(points[:, 2]) - self.half_height
        return np.hypot(np.maximum(radial, 0), np.maximum(axial, 0)) + np.minimum(
            np.maximum(radial, axial), 0
        )

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """The ray's interval inside the infinite cylinder, cut with that between the end planes."""
        enter, leave = _tube_interval(origins, directions, self.radius)
        oz, dz = np.broadcast_to(origins, directions.shape)[:, 2], directions[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (-self.half_height - oz) / dz, (self.half_height - oz) / dz
        near, far = np.fmax(enter, np.fmin(a, b)), np.fmin(leave, np.fmax(a, b))
        return np.where((near <= far) & (near > 0), near, np.inf)

    def mesh(self) -> trimesh.Trimesh:
        import trimesh

        return trimesh.creation.cylinder(radius=self.radius, height=2 * self.half_height, sections=96)


@dataclass(frozen=True)
class Capsule(Shape):
    """A cylinder of half_height with half spheres at its ends."""

    radius: float
    half_height: float

    @property
    def half_extents(self) -> np.ndarray:
        return np.array([self.radius, self.radius, self.half_height + self.radius])

    @property
    def bounding_radius(self) -> float:
        return self.half_height + self.radius

    def rests(self) -> tuple[np.ndarray, ...]:
        return (ON_SIDE,)

    def distance(self, points: np.ndarray) -> np.ndarray:
        axial = np.maximum(np.abs(points[:, 2]) - self.half_height, 0)
        return np.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2 + axial**2) - self.radius

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        enter, _ = _tube_interval(origins, directions, self.radius)
        origins = np.broadcast_to(origins, directions.shape)
        with np.errstate(invalid="ignore"):
            on_tube = np.abs(origins[:, 2] + enter * directions[:, 2]) <= self.half_height
        tube = np.where(on_tube & np.isfinite(enter) & (enter > 0), enter, np.inf)
        ends = [
            _sphere_hit(origins - [0, 0, z], directions, self.radius)
            for z in (-self.half_height, self.half_height)
        ]
        return np.minimum(tube, np.minimum(*ends))

    def mesh(self) -> trimesh.Trimesh:
        import trimesh

        # trimesh centres a capsule on the middle of its cylinder
        mesh = trimesh.creation.capsule(height=2 * self.half_height, radius=self.radius, count=[64, 64])
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
        return mesh

    def parts(self) -> list[np.ndarray]:
        ends = np.array([[0, 0, -self.half_height], [0, 0, self.half_height]])
        return [hull_of_balls(ends, self.radius, subdivisions=2)]


@dataclass(frozen=True)
class Torus(Shape):
    """A ring in the xy plane."""

    major: float
    minor: float

    @property
    def half_extents(self) -> np.ndarray:
        return np.array([self.major + self.minor, self.major + self.minor, self.minor])

    @property
    def bounding_radius(self) -> float:
        return self.major + self.minor

    def distance(self, points: np.ndarray) -> np.ndarray:
        return np.hypot(np.hypot(points[:, 0], points[:, 1]) - self.major, points[:, 2]) - self.minor

    def mesh(self) -> trimesh.Trimesh:
        import trimesh

        return trimesh.creation.torus(self.major, self.minor, major_sections=96, minor_sections=48)

    def parts(self) -> list[np.ndarray]:
        """Twenty sectors, each between two 12-sided cross-sections.

        Sections and ring are stretched half way from the inscribed to the circumscribed polygon.
        """
        half = np.pi / 20
        turn = np.arange(12) * (np.pi / 6)
        minor = self.minor * 2 / (1 + np.cos(np.pi / 12))
        r, z = (self.major + minor * np.cos(turn)) * 2 / (1 + np.cos(half)), minor * np.sin(turn)
        return [
            np.concatenate(
                [np.stack([r * np.cos(a), r * np.sin(a), z], axis=1) for a in (middle - half, middle + half)]
            )
            for middle in np.arange(20) * 2 * half
        ]


@dataclass(frozen=True)
class RoundedBox(Shape):
    """A cuboid with edges 2 * half whose edges and corners are rounded by radius."""

    half: tuple[float, float, float]
    radius: float

    @property
    def half_extents(self) -> np.ndarray:
        return np.array(self.half)

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE, ON_EDGE)

    def distance(self, points: np.ndarray) -> np.ndarray:
        beyond = np.abs(points) - (self.half_extents - self.radius)
        return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0) - self.radius

    def mesh(self) -> trimesh.Trimesh:
        """The finely divided faces of the sharp box, each vertex moved to the nearest rounded point."""
        import trimesh

        mesh = trimesh.creation.box(extents=2 * self.half_extents)
        for _ in range(5):
            mesh = mesh.subdivide()
        core = np.clip(mesh.vertices, self.radius - self.half_extents, self.half_extents - self.radius)
        outward = mesh.vertices - core
        mesh.vertices = core + outward * (self.radius / np.linalg.norm(outward, axis=1, keepdims=True))
        return mesh

    def parts(self) -> list[np.ndarray]:
        corners = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(-1, 3)
        return [hull_of_balls(corners * (self.half_extents - self.radius), self.radius)]


def _sphere_hit(origins: np.ndarray, directions: np.ndarray, radius: float) -> np.ndarray:
    origins = np.broadcast_to(origins, directions.shape)
    a = np.einsum("ni,ni->n", directions, directions)
    b = np.einsum("ni,ni->n", origins, directions)
    root = b**2 - a * (np.einsum("ni,ni->n", origins, origins) - radius**2)
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root >= 0) & (t > 0), t, np.inf)


def _tube_interval(
    origins: np.ndarray, directions: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave the infinite cylinder about z.

    (inf, -inf) for rays that miss it, (-inf, inf) for parallel ones inside.
    """
    origins = np.broadcast_to(origins, directions.shape)
    a = directions[:, 0] ** 2 + directions[:, 1] ** 2
    b = origins[:, 0] * directions[:, 0] + origins[:, 1] * directions[:, 1]
    c = origins[:, 0] ** 2 + origins[:, 1] ** 2 - radius**2
    root = b**2 - a * c
    parallel = a < 1e-18
    safe, spread = np.where(parallel, 1, a), np.sqrt(np.maximum(root, 0))
    miss = np.where(parallel, c > 0, root < 0)
    enter = np.where(miss, np.inf, np.where(parallel, -np.inf, (-b - spread) / safe))
    leave = np.where(miss, -np.inf, np.where(parallel, np.inf, (-b + spread) / safe))
    return enter, leave
