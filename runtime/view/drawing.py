"""Arrays that the view shows, made of frames and results: metres, camera optical frame."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.overlay import gripper_wireframe, object_colour, score_colours
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction, Result

# Depth beyond this is the room, not the scene, mm.
_FARTHEST = 3000.0
# Points of a depth image that are shown; more are thinned out evenly.
_CLOUD = 60_000
# How dark a surface gets that faces away from the light.
_AMBIENT = 0.45


def cloud(frame: Frame, without: Collection[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) float32 points of the depth image, m, and their (n, 3) uint8 colours.

    Args:
        without: mask values of objects whose points are left out.
    """
    stride = max(1, round(float(np.sqrt(frame.width * frame.height / _CLOUD))))
    points = frame.point_image()[::stride, ::stride].reshape(-1, 3)
    colours = frame.rgb[::stride, ::stride].reshape(-1, 3)
    valid = (points[:, 2] > 0) & (points[:, 2] < _FARTHEST)
    if frame.mask is not None and without:
        valid &= ~np.isin(frame.mask[::stride, ::stride].ravel(), list(without))
    return points[valid] / np.float32(1000), colours[valid]


def surface(item: ObjectReconstruction) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) float32 surface points of an object, m, and (n, 3) uint8 colours, shaded by a light above the camera."""
    light = np.array([0.3, -0.75, -0.6], np.float32)
    light /= np.linalg.norm(light)
    shade = _AMBIENT + (1 - _AMBIENT) * np.clip(item.normals @ light, 0, 1)
    colours = shade[:, None] * np.array(object_colour(item.index), np.float32)
    return item.points / np.float32(1000), colours.astype(np.uint8)


def chosen_grasps(result: Result, min_score: float, per_object: int) -> Grasps:
    """The best grasps of every object, at most so many of each, none below the score."""
    best = [item.grasps.top(per_object) for item in result.objects]
    return Grasps.concatenate([grasps[grasps.score >= min_score] for grasps in best])


def grasp_lines(grasps: Grasps) -> tuple[np.ndarray, np.ndarray]:
    """Grippers as (4 G, 2, 3) float32 line segments, m, and their (4 G, 2, 3) uint8 linear colours, red to green."""
    fingers, handles = gripper_wireframe(grasps)
    lines = np.concatenate([np.stack([fingers[:, i : i + 2] for i in range(3)], axis=1), handles[:, None]], axis=1)
    # The browser takes colours of lines as linear, unlike those of points and meshes.
    linear = (score_colours(np.clip(grasps.score, 0, 1)) / 255.0) ** 2.2
    colours = np.repeat(np.rint(linear * 255).astype(np.uint8), 8, axis=0)
    return lines.reshape(-1, 2, 3).astype(np.float32), colours.reshape(-1, 2, 3)


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """Where the browser looks from, camera optical frame, m: (3,) each."""

    position: np.ndarray
    look_at: np.ndarray
    up: np.ndarray


def viewpoint(result: Result) -> Viewpoint | None:
    """Aside of the camera, near enough that the objects fill the picture; None without an object's surface."""
    parts = [item.points for item in result.objects if len(item.points)]
    if not parts:
        return None
    points = np.concatenate(parts).astype(np.float64) / 1000
    low, high = np.percentile(points, (2, 98), axis=0)
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    up = upward(result)
    aside = np.cross(up, -centre)  # right of the camera, as seen from the objects
    aside /= max(float(np.linalg.norm(aside)), 1e-9)
    towards = -centre / max(float(np.linalg.norm(centre)), 1e-9)
    direction = towards + 0.45 * aside - 0.25 * up
    direction /= np.linalg.norm(direction)
    return Viewpoint(centre + direction * max(2.2 * radius, 0.15), centre, up)


def upward(result: Result) -> np.ndarray:
    """(3,) unit: away from the support that was found, else up in the picture."""
    planes = () if result.segmentation is None else result.segmentation.planes
    carrying = [plane.normal for plane in planes if plane.carries]
    return carrying[0] if carrying else np.array([0.0, -1.0, 0.0])
