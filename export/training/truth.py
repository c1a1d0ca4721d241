"""The truth about a view of a scene: complete surfaces, how much of each object shows, which objects count."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .metrics import Surface
from .sample import SceneSample, View

# An object of which less is visible is asked of no method; who judges says how many there were.
MIN_VISIBLE = 0.05
MIN_MASK_PIXELS = 50


def true_surfaces(sample: SceneSample, view: View) -> dict[int, Surface]:
    """Complete surfaces of all objects in the view's camera frame, by mask value."""
    to_camera = np.linalg.inv(view.camera_pose)
    return {o.object_id: Surface(o.points, o.normals).moved(to_camera @ o.pose) for o in sample.objects}


def visible_shares(sample: SceneSample, view: View, truth: Mapping[int, Surface]) -> dict[int, float]:
    """How much of each object shows, 0..1: what nothing stands before, times what lies within the picture."""
    return {
        item.object_id: float(fraction)
        * share_in_picture(truth[item.object_id].points, view.intrinsics, view.mask.shape)
        for item, fraction in zip(sample.objects, view.visible_fraction, strict=True)
    }


def share_in_picture(points: np.ndarray, intrinsics: np.ndarray, shape: tuple[int, ...]) -> float:
    """Share of a surface's points (n, 3), camera frame, that lie within a picture of `shape` (H, W), 0..1.

    A `visible_fraction` counts the picture's pixels only: an object that the border cuts in half would pass for a
    wholly visible one.
    """
    height, width = shape
    pixels = points[:, :2] / points[:, 2:] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    inside = (points[:, 2] > 0) & ((pixels >= -0.5) & (pixels < (width - 0.5, height - 0.5))).all(axis=1)
    return float(inside.mean())


def asked_objects(mask: np.ndarray, shares: Mapping[int, float]) -> tuple[list[int], dict[int, str]]:
    """Mask values of the objects every method is asked for; why the others are not."""
    pixels = np.bincount(mask.ravel(), minlength=1 + max(shares, default=0))
    asked, others = [], {}
    for i, share in shares.items():
        if share < MIN_VISIBLE:
            others[i] = f"under {100 * MIN_VISIBLE:.0f} % visible"
        elif pixels[i] < MIN_MASK_PIXELS:
            others[i] = f"under {MIN_MASK_PIXELS} pixels in the mask"
        else:
            asked.append(i)
    return asked, others
