"""A table with objects on it, made from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes import Box, Capsule, Cylinder, RoundedBox, Shape, Sphere, Torus

if TYPE_CHECKING:
    import trimesh

# Linear RGB, muted: saturated primaries look like nothing on a kitchen table.
_COLOURS = (
    (0.58, 0.06, 0.05),
    (0.05, 0.20, 0.44),
    (0.72, 0.42, 0.04),
    (0.06, 0.28, 0.13),
    (0.66, 0.62, 0.54),
    (0.05, 0.30, 0.34),
    (0.62, 0.20, 0.04),
    (0.26, 0.09, 0.28),
    (0.10, 0.10, 0.11),
    (0.60, 0.28, 0.30),
)
PATTERNS = ("plain", "band", "stripes", "dots")
# Objects keep this distance from each other's bounding circles, mm.
_GAP_MM = 6.0


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene.

    Attributes:
        object_id: its value in the instance mask, from 1.
        pose: (4, 4), table <- object, mm; the table's top is z = 0, z up.
        colour: (3,) linear RGB albedo, 0..1.
        pattern: one of PATTERNS, painted in a lighter tone.
    """

    object_id: int
    shape: Shape
    pose: np.ndarray
    colour: np.ndarray
    pattern: str

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(n,) signed distance of (n, 3) points in the table's frame, mm."""
        return self.shape.distance((points - self.pose[:3, 3]) @ self.pose[:3, :3])

    def mesh(self) -> trimesh.Trimesh:
        """Closed mesh in the table's frame, mm."""
        mesh = self.shape.mesh()
        mesh.apply_transform(self.pose)
        return mesh


def make_scene(rng: np.random.Generator, count: int, radius: float) -> tuple[SceneObject, ...]:
    """`count` objects resting on the table around its origin, apart from each other.

    Objects are placed by rejection of their bounding circles; when they do not fit into the disc of that
    radius (mm), all are made smaller and placed again.
    """
    kinds, first_colour = rng.permutation(len(_KINDS)), int(rng.integers(len(_COLOURS)))
    scale = 1.0
    while True:
        shapes = [_KINDS[kinds[i % len(_KINDS)]](rng, scale) for i in range(count)]
        rotations = [_resting_rotation(rng, shape) for shape in shapes]
        footprints = [_footprint(shape, rotation) for shape, rotation in zip(shapes, rotations, strict=True)]
        centres = _place(rng, np.array([circle for circle, _ in footprints]), radius)
        if centres is not None:
            break
        scale *= 0.93
    objects = []
    for i, (shape, rotation, (_, height), centre) in enumerate(
        zip(shapes, rotations, footprints, centres, strict=True)
    ):
        pose = np.eye(4)
        pose[:3, :3] = rotation
        pose[:3, 3] = (*centre, height)
        colour = np.array(_COLOURS[(first_colour + 3 * i) % len(_COLOURS)])
        objects.append(SceneObject(i + 1, shape, pose, colour, str(rng.choice(PATTERNS))))
    return tuple(objects)


def _box(rng: np.random.Generator, scale: float) -> Shape:
    x, y, z = (float(v) for v in scale * rng.uniform((22, 14, 28), (42, 26, 55)))
    return Box((x, y, z))


def _rounded_box(rng: np.random.Generator, scale: float) -> Shape:
    x, y, z = (float(v) for v in scale * rng.uniform((20, 16, 24), (36, 28, 44)))
    return RoundedBox((x, y, z), 0.45 * min(x, y, z))


def _cylinder(rng: np.random.Generator, scale: float) -> Shape:
    return Cylinder(float(scale * rng.uniform(20, 34)), float(scale * rng.uniform(28, 52)))


def _sphere(rng: np.random.Generator, scale: float) -> Shape:
    return Sphere(float(scale * rng.uniform(22, 38)))


def _capsule(rng: np.random.Generator, scale: float) -> Shape:
    return Capsule(float(scale * rng.uniform(14, 22)), float(scale * rng.uniform(26, 44)))


def _torus(rng: np.random.Generator, scale: float) -> Shape:
    return Torus(float(scale * rng.uniform(32, 44)), float(scale * rng.uniform(9, 14)))


_KINDS = (_box, _cylinder, _sphere, _rounded_box, _capsule, _torus)


def _resting_rotation(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    rests = shape.rests()
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return turn @ rests[int(rng.integers(len(rests)))]


def _footprint(shape: Shape, rotation: np.ndarray) -> tuple[float, float]:
    """Radius of a circle around the object seen from above, and the height of its centre over the table."""
    corners = (
        np.stack(np.meshgrid(*[(-1, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * shape.half_extents
    )
    corners = corners @ rotation.T
    circle = min(float(np.hypot(corners[:, 0], corners[:, 1]).max()), shape.bounding_radius)
    return circle, float(corners[:, 2].max())


def _place(rng: np.random.Generator, circles: np.ndarray, radius: float) -> np.ndarray | None:
    """(n, 2) centres of circles that keep apart, the largest placed first; None when 200 tries fail."""
    if np.sum((circles + _GAP_MM / 2) ** 2) > 0.5 * radius**2:
        return None  # too dense for rejection to succeed
    centres = np.full((len(circles), 2), np.inf)
    for i in np.argsort(-circles, kind="stable"):
        angle, share = rng.uniform(0, 2 * np.pi, 200), rng.uniform(size=200)
        reach = np.sqrt(share) * max(radius - circles[i], 0)
        tries = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)
        gaps = np.linalg.norm(tries[:, None] - centres, axis=2) - circles - circles[i]
        free = np.flatnonzero((gaps >= _GAP_MM).all(axis=1))
        if len(free) == 0:
            return None
        centres[i] = tries[free[0]]
    return centres
