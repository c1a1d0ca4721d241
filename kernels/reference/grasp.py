"""Grasp refinement and suppression in NumPy: every grasp against every point, no index.

Float32 throughout, every operation in the order of the native kernel, so that both decide alike even at exact ties.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.hand import Fit, Hand, RefinedGrasps

__all__ = ["refine_grasps", "suppress_grasps"]

Float = NDArray[np.float32]

HALF, TWO = np.float32(0.5), np.float32(2)


def refine_grasps(
    rotation: Float,  # (G, 3, 3)
    translation: Float,  # (G, 3) m
    width: Float,  # (G,) m
    depth: Float,  # (G,) m
    points: Float,  # (N, 3) m
    hand: Hand,
) -> RefinedGrasps:
    """The result of `zerograsp_edge.kernels.refine_grasps`, which documents the arguments."""
    count = len(width)
    out = RefinedGrasps(width.copy(), depth.copy(), np.zeros(count, np.int32), np.zeros(count, np.uint8))
    for i in range(count):
        refined = _refine_one(_in_grasp_frame(points, rotation[i], translation[i]), width[i], depth[i], hand)
        out.width[i], out.depth[i], out.inner_points[i], out.fit[i] = refined
    return out


def _in_grasp_frame(points: Float, rotation: Float, translation: Float) -> tuple[Float, Float, Float]:
    dx, dy, dz = (points - translation).T
    x, y, z = (dx * rotation[0, k] + dy * rotation[1, k] + dz * rotation[2, k] for k in range(3))
    return x, y, z


def _refine_one(
    local: tuple[Float, Float, Float], width: np.float32, depth: np.float32, hand: Hand
) -> tuple[np.float32, np.float32, int, Fit]:
    x, y, z = local
    opening, nearest, farthest = np.array(
        [hand.max_opening, hand.min_clearance, hand.max_clearance], np.float32
    )
    half_width = HALF * width
    inner = np.abs(z) < HALF * np.float32(hand.finger_height)
    inner &= (x > _base(hand, depth)) & (x < depth) & (np.abs(y) <= half_width)
    count = int(inner.sum())
    new_width, new_depth, too_wide = width, np.maximum(depth, np.float32(0)), False
    if len(x):
        # Every other point counts as one in the middle; of equal distances the first point is the contact.
        beside = np.where(inner, y, np.float32(0))
        left, right = (half_width + beside).argmin(), (half_width - beside).argmin()
        contact = np.minimum((half_width + beside)[left], (half_width - beside)[right])
        clearance = np.minimum(np.maximum(contact, nearest), farthest)
        new_width = width + TWO * (clearance - contact)
        tips = np.maximum(x[left], x[right]) + np.float32(hand.tip_margin)
        new_depth = np.maximum(np.minimum(tips, depth), np.float32(0))
        if new_width > opening:
            too_wide = bool(new_width - TWO * (clearance - nearest) > opening)
            new_width = opening
    if count < hand.min_inner_points:
        return new_width, new_depth, count, Fit.EMPTY
    if too_wide:
        return new_width, new_depth, count, Fit.TOO_WIDE
    fit = _touches(local, np.minimum(width, opening), new_depth, hand, 0.0)
    if fit == Fit.FITS and hand.sweep >= 0 and _touches(local, new_width, new_depth, hand, hand.sweep):
        fit = Fit.SWEEP
    return new_width, new_depth, count, fit


def _base(hand: Hand, depth: np.float32) -> np.float32:
    """Where the fingers begin, along x."""
    return depth - np.float32(hand.finger_length) if hand.finger_length > 0 else -np.float32(hand.finger_base)


def _touches(
    local: tuple[Float, Float, Float], width: np.float32, depth: np.float32, hand: Hand, approach: float
) -> Fit:
    """FINGER, PALM or FITS, of the hand on its way from `approach` behind its final place to that place."""
    x, y, z = local[0], np.abs(local[1]), np.abs(local[2])
    half_width, base = HALF * width, _base(hand, depth)
    outer = half_width + np.float32(hand.finger_thickness)
    palm_side = HALF * np.float32(hand.palm_width) if hand.palm_width > 0 else outer
    back = base - np.float32(hand.palm_thickness) - np.float32(approach)
    finger = (z < HALF * np.float32(hand.finger_height)) & (y > half_width) & (y < outer)
    if (finger & (x > base - np.float32(approach)) & (x < depth)).any():
        return Fit.FINGER
    palm = (z < HALF * np.float32(hand.palm_height)) & (y < palm_side) & (x > back) & (x <= base)
    return Fit.PALM if palm.any() else Fit.FITS


def suppress_grasps(
    rotation: Float,  # (G, 3, 3)
    translation: Float,  # (G, 3) m
    group: NDArray[np.int32],  # (G,)
    distance: float,
    angle: float,
) -> NDArray[np.bool_]:
    """The result of `zerograsp_edge.kernels.suppress_grasps`, which documents the arguments."""
    reach, cosine = np.float32(distance), np.float32(np.cos(np.radians(angle)))
    kept = np.zeros(len(group), bool)
    for i in range(len(group)):
        others = np.flatnonzero(kept & (group == group[i]))
        d = translation[i] - translation[others]
        near = d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1] + d[:, 2] * d[:, 2] < reach * reach
        p, q = rotation[i], rotation[others]
        approach, closing, height = (
            p[0, k] * q[:, 0, k] + p[1, k] * q[:, 1, k] + p[2, k] * q[:, 2, k] for k in range(3)
        )
        turned = HALF * (approach + np.abs(closing + height) - np.float32(1))
        kept[i] = not (near & (turned > cosine)).any()
    return kept
