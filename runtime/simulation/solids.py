"""A shape's mesh and convex parts, made once: physics, rendering and checks ask for them again and again."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.simulation.shapes import Shape

if TYPE_CHECKING:
    import trimesh


class SolidError(ZeroGraspError, ValueError):
    """A shape whose mesh does not enclose a volume."""


@dataclass(frozen=True, eq=False)
class Solid:
    """Geometry of a shape in its own frame, mm; shared, not to be changed.

    Attributes:
        mesh: closed, with outward faces.
        parts: per convex part its (k, 3) points.
    """

    mesh: trimesh.Trimesh
    parts: tuple[np.ndarray, ...]


# By the shape's identity: shapes hold arrays, which have no hash. An entry goes with its shape.
_SOLIDS: dict[int, Solid] = {}


def solid_of(shape: Shape) -> Solid:
    """The shape's geometry, kept as long as the shape lives.

    Raises:
        SolidError: the mesh is not closed, or inside out.
    """
    key = id(shape)
    if key not in _SOLIDS:
        mesh = shape.mesh()
        if not mesh.is_watertight or mesh.volume <= 0:
            raise SolidError(
                f"{type(shape).__name__}: expected a closed mesh with outward faces, got "
                f"{'a closed' if mesh.is_watertight else 'an open'} one of volume {mesh.volume:.0f} mm^3; "
                "fix the shape's mesh()"
            )
        _SOLIDS[key] = Solid(mesh, tuple(np.asarray(points, np.float64) for points in shape.parts()))
        weakref.finalize(shape, _SOLIDS.pop, key, None)
    return _SOLIDS[key]
