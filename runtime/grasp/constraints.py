"""Where a hand may be: workspace box, approach cone and support plane, in the robot's world frame, in metres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zerograsp_edge.kernels.hand import Hand
from zerograsp_edge.runtime.result import Grasps

Vector = tuple[float, float, float]


def _check_vector(name: str, vector: Sequence[float]) -> None:
    if len(vector) != 3 or not all(math.isfinite(v) for v in vector):
        raise ValueError(f"{name}: expected 3 finite numbers, got {tuple(vector)}")


def _unit(name: str, vector: Sequence[float]) -> np.ndarray:
    _check_vector(name, vector)
    length = math.sqrt(sum(v * v for v in vector))
    if length < 1e-9:
        raise ValueError(f"{name}: expected a direction, got {tuple(vector)}")
    return np.array(vector) / length


@dataclass(frozen=True)
class Workspace:
    """A box that must contain every grasp point.

    Attributes:
        low, high: opposite corners, m.
    """

    low: Vector
    high: Vector

    def __post_init__(self) -> None:
        _check_vector("workspace.low", self.low)
        _check_vector("workspace.high", self.high)
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"workspace: expected low <= high in every axis, got {self.low} and {self.high}")

    def allows(self, grasps: Grasps) -> np.ndarray:
        """(G,) bool."""
        inside = (grasps.translation >= self.low) & (grasps.translation <= self.high)
        return np.all(inside, axis=1)


@dataclass(frozen=True)
class ApproachCone:
    """Directions in which the hand may come.

    Attributes:
        axis: any length; straight down by default.
        angle: largest angle between the approach and the axis, degrees, 0 to 180.
    """

    axis: Vector = (0.0, 0.0, -1.0)
    angle: float = 60.0

    def __post_init__(self) -> None:
        _unit("approach.axis", self.axis)
        if not 0 <= self.angle <= 180:
            raise ValueError(f"approach.angle: expected 0 to 180 degrees, got {self.angle}")

    def allows(self, grasps: Grasps) -> np.ndarray:
        """(G,) bool."""
        cosine = grasps.rotation[:, :, 0] @ _unit("approach.axis", self.axis)
        return cosine >= math.cos(math.radians(self.angle)) - 1e-6


@dataclass(frozen=True)
class Support:
    """The plane that carries the objects: points p with normal . p = offset. No part of the hand may go below it.

    Attributes:
        normal: away from the support, any length; up by default.
        offset: along the unit normal, m.
        clearance: the hand stays this far above the plane, m.
        thickness: visible points up to this far above the plane are the support's own, measured with noise: they do
            not count as obstacles, the plane does, m.
    """

    normal: Vector = (0.0, 0.0, 1.0)
    offset: float = 0.0
    clearance: float = 0.0
    thickness: float = 0.0

    def __post_init__(self) -> None:
        _unit("support.normal", self.normal)
        for name in ("offset", "clearance", "thickness"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"support.{name}: expected a finite length in m, got {getattr(self, name)}")

    def height(self, grasps: Grasps, hand: Hand, sweep: float = 0.0) -> np.ndarray:
        """(G,) float32, m: lowest point of the hand above the plane, in place and from `sweep` m before that."""
        normal = _unit("support.normal", self.normal).astype(np.float32)
        along, across, up = np.einsum("gij,i->jg", grasps.rotation, normal)
        tied_to_tips = hand.finger_length > 0
        base = (
            grasps.depth - np.float32(hand.finger_length)
            if tied_to_tips
            else np.full_like(grasps.depth, -hand.finger_base)
        )
        outer = grasps.width / 2 + np.float32(hand.finger_thickness)
        palm_side = np.full_like(outer, hand.palm_width / 2) if hand.palm_width > 0 else outer
        back = base - np.float32(hand.palm_thickness)

        def lowest(x0: np.ndarray, x1: np.ndarray, half_y: np.ndarray, half_z: float) -> np.ndarray:
            ends = np.minimum(along * (x0 - np.float32(sweep)), along * x1)
            return ends - np.abs(across) * half_y - np.abs(up) * np.float32(half_z)

        fingers = lowest(base, grasps.depth, outer, hand.finger_height / 2)
        palm = lowest(back, base, palm_side, hand.palm_height / 2)
        return grasps.translation @ normal - np.float32(self.offset) + np.minimum(fingers, palm)

    def beyond(self, points: np.ndarray, world_from_camera: np.ndarray | None = None) -> np.ndarray:
        """(n,) bool: (n, 3) points, m, in the camera's frame, that are more than `thickness` above the plane."""
        along, level = self.level(world_from_camera)
        return points @ along > level

    def level(self, world_from_camera: np.ndarray | None = None) -> tuple[np.ndarray, np.float32]:
        """In the camera's frame: (3,) float32 away from the support, and how far along it, m, `thickness` ends."""
        world = np.eye(4) if world_from_camera is None else np.asarray(world_from_camera, np.float64)
        normal = _unit("support.normal", self.normal)
        along = (world[:3, :3].T @ normal).astype(np.float32)
        return along, np.float32(self.offset + self.thickness - float(normal @ world[:3, 3]))

    def allows(self, grasps: Grasps, hand: Hand, sweep: float = 0.0) -> np.ndarray:
        """(G,) bool."""
        return self.height(grasps, hand, sweep) >= self.clearance
