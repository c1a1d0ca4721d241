"""A settled scene: objects and the support that carries them, with their geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.runtime.simulation.shapes import Shape

SUPPORT_KINDS = ("table", "bin", "shelf")


@dataclass(frozen=True, eq=False)
class WorldObject:
    """One object at rest.

    Attributes:
        object_id: its value in instance masks, from 1.
        family: name of the shape family it was drawn from, such as `mug`.
        pose: (4, 4) world <- object, mm, z up.
        density: kg/m^3.
        friction: sliding friction coefficient.
        colour: (3,) linear RGB albedo, 0..1.
        pattern: how it is painted; the renderer knows the names.
    """

    object_id: int
    family: str
    shape: Shape
    pose: np.ndarray
    density: float = 400.0
    friction: float = 0.8
    colour: tuple[float, float, float] = (0.6, 0.6, 0.6)
    pattern: str = "plain"

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(n,) signed distance of (n, 3) world points, mm, positive outside."""
        return self.shape.distance((points - self.pose[:3, 3]) @ self.pose[:3, :3])


@dataclass(frozen=True, eq=False)
class SupportBox:
    """One fixed cuboid of a support.

    Attributes:
        centre: (3,) mm, world.
        half: (3,) half edges, mm.
        rotation: (3, 3) world <- box.
    """

    centre: np.ndarray
    half: np.ndarray
    rotation: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(n,) signed distance of (n, 3) world points, mm."""
        beyond = np.abs((points - self.centre) @ self.rotation) - self.half
        return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)


@dataclass(frozen=True, eq=False)
class World:
    """Objects at rest on a support.

    Attributes:
        support_kind: one of SUPPORT_KINDS. The surface that carries the objects is z = 0.
        support: fixed cuboids: table top; bin floor and walls; shelf boards, back and sides.
        objects: in the order of their ids.
        seed: what it was made from.
    """

    support_kind: str
    support: tuple[SupportBox, ...]
    objects: tuple[WorldObject, ...]
    seed: int

    def support_distance(self, points: np.ndarray) -> np.ndarray:
        """(n,) signed distance of (n, 3) world points to the nearest support box, mm."""
        return np.min([box.distance(points) for box in self.support], axis=0)
