"""Whether an object is gone from its place, told from a new depth image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.runtime.frame import MIN_DEPTH_MM, Frame
from zerograsp_edge.runtime.loop.config import VerifyConfig
from zerograsp_edge.runtime.result import ObjectReconstruction

# Reconstruction and measurement of the visible side agree to about this, mm.
_VISIBLE_MM = 10.0
_MAX_POINTS = 2000


@dataclass(frozen=True)
class Absence:
    """Shares of an object's formerly visible surface, in a new picture.

    Attributes:
        gone: something deeper is measured there now.
        there: the old surface is still measured.
        unknown: outside the picture, no depth, or something stands before it.
    """

    gone: float
    there: float
    unknown: float

    def verdict(self, config: VerifyConfig) -> bool | None:
        """Whether the object is gone; None when the view is not conclusive."""
        seen = self.gone + self.there
        if seen < config.min_seen:
            return None
        return self.gone >= config.min_gone * seen


def visible_surface(item: ObjectReconstruction, frame: Frame, base_from_camera: np.ndarray) -> np.ndarray:
    """(n, 3) float64, m, base frame: measured points on an object, as the camera saw them.

    Those pixels count that a reconstructed surface point falls on, where the measured depth agrees with it; so it does
    not matter who segmented the frame.
    """
    points = item.points.astype(np.float64)
    if len(points) == 0:
        return np.empty((0, 3))
    depth, inside = sample_depth(points, frame)
    visible = inside & (depth > MIN_DEPTH_MM) & (np.abs(depth - points[:, 2]) <= _VISIBLE_MM)
    rays = points[visible] * (depth[visible] / points[visible, 2])[:, None]
    rays = rays[:: max(1, -(-len(rays) // _MAX_POINTS))] / 1000
    return rays @ base_from_camera[:3, :3].T + base_from_camera[:3, 3]


def absence(surface: np.ndarray, frame: Frame, base_from_camera: np.ndarray, tolerance: float) -> Absence:
    """How much of a formerly visible surface is gone.

    Args:
        surface: (n, 3) m, base frame: `visible_surface` of an earlier frame.
        frame: the new one, from the same or another place.
        base_from_camera: (4, 4) its pose, m.
        tolerance: m.
    """
    if len(surface) == 0:
        return Absence(0.0, 0.0, 1.0)
    points = (surface - base_from_camera[:3, 3]) @ base_from_camera[:3, :3] * 1000
    depth, inside = sample_depth(points, frame)
    measured = inside & (depth > MIN_DEPTH_MM)
    beyond = depth - points[:, 2]
    gone = float(np.mean(measured & (beyond > tolerance * 1000)))
    there = float(np.mean(measured & (np.abs(beyond) <= tolerance * 1000)))
    return Absence(gone, there, 1.0 - gone - there)


def sample_depth(points: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Measured depth, mm, at the pixels that (n, 3) camera-frame points, mm, fall on; and whether they fall on any."""
    before = points[:, 2] > MIN_DEPTH_MM
    z = np.where(before, points[:, 2], 1.0)
    k = frame.intrinsics
    column = np.rint(k[0, 0] * points[:, 0] / z + k[0, 2]).astype(np.int64)
    row = np.rint(k[1, 1] * points[:, 1] / z + k[1, 2]).astype(np.int64)
    inside = before & (column >= 0) & (column < frame.width) & (row >= 0) & (row < frame.height)
    depth = np.zeros(len(points))
    depth[inside] = frame.depth[row[inside], column[inside]]
    return depth, inside
